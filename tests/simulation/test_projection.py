import math

import pytest
import torch
from torch import Tensor

from cryoden.errors import CryodenError
from cryoden.metrics.fsc import fourier_shell_correlation
from cryoden.simulation import projection
from cryoden.simulation.projection import back_project, project, sirt_like, weights
from cryoden.wedge import wedge_mask

FULL = [-90 + 3.0 * i for i in range(60)]


def radius(size: int, centre: tuple[float, float, float] = (0, 0, 0)) -> Tensor:
    z, y, x = (torch.arange(size, dtype=torch.float64) - size // 2 - c for c in centre)
    return (z[:, None, None].square() + y[:, None].square() + x.square()).sqrt()


@pytest.mark.parametrize("angle", [-60.0, -17.0, 0.0, 45.0, 88.0])
def test_a_gaussian_projects_to_its_gaussian_where_it_belongs(angle: float) -> None:
    sigma, z, y, x = 2.0, 4.0, -3.0, 5.0
    volume = torch.exp(-radius(32, (z, y, x)).square() / (2 * sigma**2)).float()
    image = project(volume, [angle], 48)[0]
    tilt = math.radians(angle)
    across = torch.arange(48) - 24 - (x * math.cos(tilt) + z * math.sin(tilt))
    along = torch.arange(32) - 16 - y
    expected = torch.exp(-(across.square() + along[:, None].square()) / (2 * sigma**2)) * sigma * (2 * torch.pi) ** 0.5
    torch.testing.assert_close(image, expected.float(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("angle", [0.0, 30.0, -60.0])
def test_a_sphere_projects_to_the_lengths_of_its_chords(angle: float) -> None:
    size, r = 40, 12.0
    # its edge a voxel wide, or it would hold frequencies that voxels cannot
    sphere = (0.5 + r - radius(size)).clamp(0, 1).float()
    image = project(sphere, [angle])[0]
    rho = radius(size)[size // 2]
    chords = 2 * (r**2 - rho.square()).clamp(min=0).sqrt()
    inside = rho < r - 2
    torch.testing.assert_close(image[inside], chords[inside].float(), atol=0.25, rtol=0)
    assert image[rho > r + 3].abs().max() < 0.25
    assert image.sum().item() == pytest.approx(sphere.sum().item(), rel=1e-3)


def test_each_volume_is_projected_alone_and_slabs_need_no_cube() -> None:
    volumes = torch.rand(2, 3, 10, 12, 24, generator=torch.Generator().manual_seed(0))
    images = project(volumes, FULL[::10])
    assert images.shape == (2, 3, 6, 12, 24)
    assert torch.equal(project(volumes[1, 2], FULL[::10]), images[1, 2])
    back = back_project(images, FULL[::10], (10, 24))
    assert back.shape == volumes.shape
    assert torch.equal(back_project(images[1, 2], FULL[::10], (10, 24)), back[1, 2])


def test_sections_of_a_tall_volume_are_projected_each_alone() -> None:
    volume = torch.rand(6, 150, 10, generator=torch.Generator().manual_seed(0))
    angles = [-70.0, 0.0, 30.0]
    image = project(volume, angles)
    torch.testing.assert_close(image, torch.cat([project(part, angles) for part in volume.split(30, 1)], 1))
    parts = [back_project(part, angles, (6, 10)) for part in image.split(30, 1)]
    torch.testing.assert_close(back_project(image, angles, (6, 10)), torch.cat(parts, 1))


def test_a_mirrored_specimen_is_seen_as_if_its_mirror_images_were_there() -> None:
    z, x = torch.arange(16.0)[:, None, None], torch.arange(20.0)
    # one of the blobs is cut by the side
    volume = sum(torch.exp(-((z - u).square() + (x - v).square()) / 8) for u, v in ((8, 4), (6, 11), (10, 19)))
    # an image of 24 pixels sees 24 / cos 70° + 16 tan 70° = 114 voxels along x
    beside = torch.cat([volume.flip(-1) if n % 2 else volume for n in range(-5, 6)], dim=-1)
    angles = [-70.0, -20.0, 0.0, 45.0, 65.0]
    seen, expected = project(volume, angles, 24, mirrored=True), project(beside, angles, 24)
    assert (seen - expected).norm() < 0.01 * expected.norm()
    assert (project(volume, angles, 24) - expected).norm() > 0.3 * expected.norm()


def test_back_projection_is_the_adjoint_of_projection_whatever_the_filter() -> None:
    """So that what a voxel gives to a pixel, the pixel gives back to the voxel, beyond 45° too."""
    generator = torch.Generator().manual_seed(0)
    volume = torch.randn(14, 2, 21, generator=generator, dtype=torch.float64)
    images = torch.randn(5, 2, 26, generator=generator, dtype=torch.float64)
    angles = [-80.0, -50.0, 0.0, 30.0, 60.0]
    unfiltered = projection._spread(images, angles, (14, 21))
    there, back = (project(volume, angles, 26) * images).sum(), (volume * unfiltered).sum()
    assert there.item() == pytest.approx(back.item(), rel=1e-6)


@pytest.mark.parametrize("weighting", ["ramp", "exact"])
def test_back_projection_undoes_projection_up_to_nyquist(weighting) -> None:
    noise = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0)) * (radius(32) < 12)
    back = back_project(project(noise, FULL, 48), FULL, (32, 32), weighting)
    correlation = fourier_shell_correlation(back[None, None], noise[None, None])[0]
    assert correlation[:-1].min() > 0.99  # half of the last shell lies beyond the frequencies of the images
    assert correlation[-1] > 0.9


@pytest.mark.parametrize("weighting", ["ramp", "exact"])
def test_a_sphere_reconstructs_at_its_place_and_its_density(weighting) -> None:
    centre = (3.0, -2.0, 4.0)
    sphere = (0.5 + 7 - radius(32, centre)).clamp(0, 1).float()
    back = back_project(project(sphere, FULL, 48), FULL, (32, 32), weighting)
    inside, outside = radius(32, centre) < 5, radius(32, centre) > 10
    assert back[inside].mean().item() == pytest.approx(1, abs=0.03)
    assert back[outside].mean().item() == pytest.approx(0, abs=0.001 if weighting == "ramp" else 0.02)
    assert back[outside].abs().max() < 0.1


def test_a_delta_reconstructs_where_it_is() -> None:
    delta = torch.zeros(24, 24, 24)
    delta[15, 7, 18] = 1
    back = back_project(project(delta, FULL, 40), FULL, (24, 24))
    assert back.flatten().argmax() == delta.flatten().argmax()
    # what a disc of radius 1/2 of Fourier space holds of it: π/4 of the square
    assert back.max().item() == pytest.approx(math.pi / 4, abs=0.01)
    half = [a for a in FULL if abs(a) <= 60]
    wedged = back_project(project(delta, half, 40), half, (24, 24))
    assert wedged.flatten().argmax() == delta.flatten().argmax()
    assert wedged.max().item() == pytest.approx(math.pi / 4 * 2 / 3, rel=0.03)


@pytest.mark.parametrize("tilt_range", [(-60, 60), (-60, 30), (0, 60)])
def test_the_wedge_lies_where_the_convention_says(tilt_range) -> None:
    angles = [float(a) for a in range(tilt_range[0], tilt_range[1] + 1, 2)]
    sphere = torch.exp(-radius(48).square() / (2 * 1.2**2)).float()
    back = back_project(project(sphere, angles, 72), angles, (48, 48))
    power = torch.fft.rfft2(back[:, 24]).abs().square()
    kz, kx = torch.fft.fftfreq(48)[:, None], torch.fft.rfftfreq(48)
    # not near the origin, where the box blurs all lines into one, nor beyond the frequencies of the images
    seen = ((kz.square() + kx.square()).sqrt() > 0.1) & ((kz.square() + kx.square()).sqrt() < 0.35)
    original = torch.fft.rfft2(sphere[:, 24]).abs().square()
    kept = power / original
    widened = wedge_mask((48, 48), (tilt_range[0] - 6, tilt_range[1] + 6))
    narrowed = wedge_mask((48, 48), (tilt_range[0] + 6, tilt_range[1] - 6))
    assert kept[seen & ~widened].median() < 5e-3
    assert (kept[seen & narrowed] - 1).abs().mean() < 0.1


def test_the_exact_filter_weighs_angles_by_their_neighbours() -> None:
    even = projection._exact([-4.0, -2.0, 0.0, 2.0, 4.0], 64, 20)
    crowded = projection._exact([-4.0, -2.0, 0.0, 0.5, 1.0], 64, 20)
    assert (crowded[3, 5:] < crowded[0, 5:]).all()
    assert even[2, 0].item() == pytest.approx(1 / (20 * 5))  # all five share the origin
    assert even[2, -1].item() > crowded[3, -1].item()
    # where the sheets of neighbours overlap it is the ramp: |s| times the angle between them
    many = [0.5 * i for i in range(-60, 61)]
    ramp, exact = projection._ramp(many, 64)[0], projection._exact(many, 64, 30)[60]
    torch.testing.assert_close(exact[4:20], ramp[4:20], rtol=0.05, atol=0)


def test_the_sirt_like_filter_spares_low_frequencies() -> None:
    frequency = torch.tensor([0.0, 0.001, 0.1, 0.5])
    torch.testing.assert_close(sirt_like(frequency, 1)[:2], torch.ones(2))
    torch.testing.assert_close(sirt_like(frequency, 10)[2], torch.tensor(1 - 0.9805**10.3))
    # what an audit of IMOD's numbers found at 0.1 cycles
    assert [float(sirt_like(frequency, n)[2]) for n in (30, 50, 100)] == pytest.approx([0.42, 0.54, 0.75], abs=0.006)


def test_a_roll_off_leaves_weights_up_to_its_cut_off_and_falls_beyond_by_a_gaussian() -> None:
    angles, frequency = [-4.0, 0.0, 4.0], torch.fft.rfftfreq(64, dtype=torch.float64)
    ramp = weights(angles, 64, thickness=10)[0]
    rolled = weights(angles, 64, thickness=10, roll_off=(0.25, 0.1))[0]
    torch.testing.assert_close(rolled[:17], ramp[:17])
    torch.testing.assert_close(rolled[16:], ramp[16] * torch.exp(-50 * (frequency[16:] - 0.25).square()))


def test_bad_arguments() -> None:
    images = torch.zeros(3, 4, 8)
    with pytest.raises(CryodenError, match="got 3 images and 2 different angles"):
        back_project(images, [0.0, 1.0, 1.0], (4, 8))
    with pytest.raises(CryodenError, match="weighting: got 'hann'; allowed are 'ramp' and 'exact'"):
        back_project(images, [0.0, 1.0, 2.0], (4, 8), "hann")  # type: ignore[arg-type]
