"""The picture beside a denoised tomogram."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure

from cryoden.inference import preview
from cryoden.volume import Volume

VOXEL = 10.0


def figure(before: np.ndarray, after: np.ndarray) -> Figure:
    return preview._figure(Volume(before, VOXEL), Volume(after, VOXEL), "by a model")


@pytest.fixture(scope="module")
def tomogram() -> np.ndarray:
    """(D, H, W) noise as tilts within ±60° about y show it."""
    noise = np.random.default_rng(0).normal(size=(32, 64, 80))
    kz, kx = np.fft.fftfreq(32)[:, None, None], np.fft.fftfreq(80)[None, None]
    measured = abs(kz) <= abs(kx) * np.tan(np.radians(60))
    return np.fft.ifftn(np.fft.fftn(noise) * measured).real.astype(np.float32)


def panels(made: Figure) -> np.ndarray:
    return np.array(made.axes).reshape(4, 3)


def test_before_and_after_share_a_grey_scale_and_the_difference_its_width(tomogram) -> None:
    slices = panels(figure(tomogram, tomogram / 3))[:3]
    limits = np.array([[axis.images[0].get_clim() for axis in row] for row in slices])
    assert (limits[:, 0] == limits[0, 0]).all()
    assert (limits[:, 1] == limits[0, 0]).all()
    low, high = limits[0, 0]
    np.testing.assert_allclose(limits[:, 2], [[-(high - low) / 2, (high - low) / 2]] * 3)


def test_the_title_states_how_thick_the_slices_are_and_they_are_that_mean(tomogram) -> None:
    made = figure(tomogram, tomogram / 3)
    assert made.get_suptitle().startswith("by a model\nslices through the middle, the mean of 5 sections, 5 nm")
    xy, xz, yz = (axis.images[0].get_array() for axis in panels(made)[:3, 0])
    np.testing.assert_allclose(xy, tomogram[13:18].mean(0), atol=1e-6)
    np.testing.assert_allclose(xz, tomogram[:, 29:34].mean(1), atol=1e-6)
    np.testing.assert_allclose(yz, tomogram[:, :, 37:42].mean(2), atol=1e-6)


def test_the_power_spectrum_shows_a_wedge_that_was_not_measured_and_what_was_drawn_into_it(tomogram) -> None:
    drawn = np.random.default_rng(1).normal(size=tomogram.shape).astype(np.float32) / 10
    before, after, _ = (axis.images[0].get_array() for axis in panels(figure(tomogram, drawn))[3])
    wedge, measured = (slice(24, 30), slice(38, 43)), (slice(14, 19), slice(60, 72))
    assert before[wedge].mean() < before[measured].mean() - 2
    assert abs(after[wedge].mean() - after[measured].mean()) < 0.2
    assert panels(figure(tomogram, drawn))[3, 1].images[0].get_clim()[1] == before.max()


@pytest.mark.parametrize("shape", [(16, 64, 64), (40, 40, 40), (16, 96, 48)])
def test_a_picture_of_any_shape_is_filled(shape) -> None:
    made = figure(*np.random.default_rng(0).normal(size=(2, *shape)))
    made.savefig(io.BytesIO(), format="png")
    filled = sum(axis.get_window_extent().width * axis.get_window_extent().height for axis in made.axes)
    assert filled > 0.75 * made.bbox.width * made.bbox.height


def test_a_volume_thinner_than_the_slice_is_shown_whole() -> None:
    thin = np.random.default_rng(0).normal(size=(3, 32, 32))
    np.testing.assert_allclose(figure(thin, thin).axes[0].images[0].get_array(), thin.mean(0))
