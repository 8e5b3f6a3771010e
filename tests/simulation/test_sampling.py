"""Fine samples and points become voxels that hold no wave beyond their Nyquist frequency."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryoden.simulation.sampling import Points, cut, fine_step, sample_points
from tests.simulation.cutting import cut_in_fourier_space, difference


def noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("box", [12, 20])
def test_a_cut_is_a_cut_in_fourier_space(box: int) -> None:
    fine = noise(2 * box, 2 * box, 2 * box)  # white: most of it lies beyond
    ours, theirs = cut(fine, 3.0, box, 6.0), cut_in_fourier_space(fine, 2)
    waves = np.r_[: box // 2, 1 - box // 2 : 0]  # below Nyquist, where all conventions agree
    inner = np.ix_(waves, waves, waves)
    np.testing.assert_allclose(np.fft.fftn(ours)[inner], np.fft.fftn(theirs)[inner], atol=1e-3)


@pytest.mark.parametrize("box", [14, 15])
def test_a_wave_that_voxels_can_hold_keeps_its_place_and_height(box: int) -> None:
    def wave(n: int, step: float) -> NDArray[np.float32]:
        z, y, x = (np.indices((n, n, n)) - n // 2) * step
        return np.cos(2 * np.pi * (2 * x + 3 * y - z) / (box * 8.0) + 0.3).astype(np.float32)

    size = 2 * box  # all around the box
    np.testing.assert_allclose(cut(wave(size, 4.0), 4.0, box, 8.0), wave(box, 8.0), atol=1e-5)


def test_what_a_cut_leaves_beside_an_object_comes_in_again_or_runs_on() -> None:
    fine = np.zeros((21, 21, 21), np.float32)
    fine[10, 10, 20] = 1  # at the right border
    step = fine_step(10.0)
    periodic, endless = (cut(fine, step, 16, 10.0, endless=e) for e in (False, True))
    wider = cut(fine, step, 48, 10.0, endless=True)[16:32, 16:32, 16:32]
    assert difference(endless, wider) < 0.02
    assert difference(periodic, wider) > 0.1


def test_a_point_is_a_blurless_wave_packet_wherever_it_is() -> None:
    """The sum of waves up to Nyquist, by hand, with each wave as high as the point is heavy."""
    box, voxel_size = 16, 5.0
    place = np.array([[3.7], [-11.2], [0.4]], np.float32)  # x, y, z
    rotation = Rotation.random(random_state=0).as_matrix()
    points = Points(place, np.array([2.5], np.float32), finest=1.0, radius=float(np.linalg.norm(place)))
    volume = sample_points(points, rotation, box, voxel_size)
    k = np.fft.fftfreq(box, voxel_size)
    x, y, z = (rotation @ place)[:, 0]
    phase = np.exp(-2j * np.pi * (k[:, None, None] * z + k[:, None] * y + k * x))
    inner = np.abs(k) < 0.499 / voxel_size  # at Nyquist itself a wave has only its cosine
    inside = np.ix_(inner, inner, inner)
    spectrum = np.fft.fftn(np.fft.ifftshift(volume)) * voxel_size**3
    # what the spline leaves at the fine samples' own frequency, by which they are too coarse for a lone point
    assert np.abs(spectrum[inside] / (2.5 * phase[inside]) - 1).max() < 0.2
    low = np.ix_(*[np.abs(k) < 0.3 / voxel_size] * 3)
    assert np.abs(spectrum[low] / (2.5 * phase[low]) - 1).max() < 0.02


def test_points_that_carry_no_fine_waves_are_sampled_on_a_coarser_grid() -> None:
    assert fine_step(6.0) == pytest.approx(4.0)
    assert fine_step(6.0, finest=0.25) == pytest.approx(4.0)
    assert fine_step(2.0, finest=0.1) == pytest.approx(10 / 3)
