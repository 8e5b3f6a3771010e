from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import cryoden
from cryoden.errors import CryodenError
from cryoden.simulation.degradation import MissingWedge, sample_all
from cryoden.simulation.ice import vacuum
from cryoden.simulation.optics import aberration, contrast_transfer, damage
from cryoden.simulation.tilt_series import (
    Detector,
    Exposure,
    Misalignment,
    Optics,
    TiltScheme,
    TiltSeriesDegradation,
    _frequency,
    _without_vacuum,
)
from cryoden.simulation.units import GOLD, VACUUM

SCHEME = TiltScheme((-60.0, 60.0), 6.0)
# nothing but projections, contrast of one sign, and noise
PLAIN = TiltSeriesDegradation(
    voxel_size=10.0,
    scheme=SCHEME,
    optics=Optics(defocus=0.0, spherical_aberration=0.0, amplitude_contrast=1.0),
    exposure=Exposure(radiation_damage=0.0, thickness=0.0),
    detector=Detector(dqe=1.0, binning=1e6),
    potential=1.0,
)


def blob(size: int = 24, sigma: float = 2.5, shift: int = 2) -> Tensor:
    axis = torch.arange(size) - size // 2
    z, y, x = axis[:, None, None], axis[:, None] - shift, axis + shift
    return torch.exp(-(z.square() + y.square() + x.square()) / (2 * sigma**2))


def parameters(step: TiltSeriesDegradation, n: int = 1) -> list[dict[str, float]]:
    generator = torch.Generator().manual_seed(5)
    return [step.sample(generator) for _ in range(n)]


def correlation(a: Tensor, b: Tensor) -> float:
    return float(np.corrcoef(a.flatten(), b.flatten())[0, 1])


def test_dose_symmetric_order_is_hagens() -> None:
    assert TiltScheme((-12, 12), 3).recorded == [0, 3, -3, -6, 6, 9, -9, -12, 12]
    assert TiltScheme((-3, 12), 3).recorded == [0, 3, -3, 6, 9, 12]
    assert TiltScheme((-9, 9), 3, "bidirectional").recorded == [0, 3, 6, 9, -3, -6, -9]
    assert TiltScheme((-9, 9), 3, "ascending").recorded == [-9, -6, -3, 0, 3, 6, 9]
    assert len(TiltScheme().angles) == 41
    for order in ("dose_symmetric", "bidirectional", "ascending"):
        scheme = TiltScheme((-50, 60), 1.7, order)
        assert sorted(scheme.recorded) == scheme.angles


def test_the_dose_follows_the_order() -> None:
    series = PLAIN.record(blob(), parameters(PLAIN)[0])
    by_angle = dict(zip(series.angles, series.exposures, strict=True))
    assert [by_angle[a] for a in (0, 6, -6, -12)] == pytest.approx([n * 120 / 21 for n in range(4)])


def test_counts_are_poissons() -> None:
    step = replace(PLAIN, exposure=replace(PLAIN.exposure, dose=21 * 0.4))
    series = step.record(torch.zeros(32, 64, 64), parameters(step)[0])
    assert series.blank.flatten().tolist() == pytest.approx([40] * 21)  # electrons per Å² times the area of a pixel
    assert torch.equal(series.counts, series.counts.round())
    assert series.counts.mean().item() == pytest.approx(40, rel=0.005)
    assert series.counts.var().item() == pytest.approx(40, rel=0.02)
    # no pixel knows of its neighbours
    noise = series.counts - 40
    assert abs(correlation(noise[..., 1:], noise[..., :-1])) < 0.01


def test_ice_stops_more_electrons_at_high_tilt() -> None:
    step = replace(PLAIN, exposure=Exposure(thickness=200.0, mean_free_path=400.0))
    blank = step.record(blob(), parameters(step)[0]).blank.flatten()
    expected = 120 / 21 * 100 * np.exp([-1, -0.5])  # twice the way at 60°
    assert blank[[0, 10]].tolist() == pytest.approx(expected)


def test_a_camera_counts_the_share_of_electrons_that_its_efficiency_says() -> None:
    step = replace(PLAIN, detector=Detector(dqe=0.6))
    assert step.record(blob(), parameters(step)[0]).blank.flatten().tolist() == pytest.approx(
        [0.6 * 120 / 21 * 100] * 21
    )


def test_a_phase_shift_becomes_the_contrast_that_theory_gives() -> None:
    series = PLAIN.record(blob(shift=0), parameters(PLAIN)[0])
    # 1 V over the blob's height of sqrt(2π) sigma = 6.27 nm; 0.00653 rad / (V nm); twice, for an intensity, which an
    # object of nothing but amplitude contrast takes away as an absorber does
    middle = series.expected[10, 12, 12] / series.blank[10, 0, 0]
    assert middle.item() == pytest.approx(np.exp(-2 * 0.00653 * 6.267), abs=1e-4)


def test_gold_bends_electrons_and_makes_none() -> None:
    """A strong phase object sends electrons elsewhere: no pixel has less than none, and their sum stays."""
    bead = GOLD * (blob(64, 3.0, 0) > 0.5).float()
    optics = Optics(defocus=3.0, amplitude_contrast=0.0)
    step = replace(PLAIN, optics=optics, potential=None)
    series = step.record(bead, parameters(step)[0])
    image = (series.expected / series.blank)[10]
    assert step._contrast(parameters(step)[0]) / 2 * bead.sum(0).max() > 0.8  # rad
    assert image.min() >= 0
    assert image.max() > 1.2
    assert image.mean().item() == pytest.approx(1, abs=1e-3)


def test_what_a_strong_object_lacks_of_the_contrast_of_a_weak_one_grows_with_its_strength() -> None:
    def deepest(potential: float) -> float:
        step = replace(PLAIN, optics=Optics(defocus=2.0), potential=potential)
        series = step.record(blob(32), parameters(step)[0])
        return float((1 - series.expected / series.blank).max()) / potential

    weak = deepest(0.05)
    lacking = [1 - deepest(potential) / weak for potential in (1.7, 3.4)]
    assert lacking[0] > 0.005
    assert lacking[1] == pytest.approx(2 * lacking[0], rel=0.1)


@pytest.mark.parametrize("radiation_damage", [1.0, 0.4])
def test_images_are_transferred_as_the_parts_say(radiation_damage: float) -> None:
    optics = Optics(defocus=3.0, b_factor=200.0)
    exposure = Exposure(thickness=0.0, radiation_damage=radiation_damage)
    step = replace(PLAIN, optics=optics, exposure=exposure, detector=Detector(dqe=1.0, binning=2.0))
    delta = torch.zeros(16, 16, 16)
    delta[8, 8, 8] = 1
    drawn = parameters(step)[0]
    series = step.record(delta, drawn)
    image = (1 - series.expected / series.blank) / step._contrast(drawn)
    transferred = torch.fft.rfft2(torch.fft.ifftshift(image, dim=(-2, -1))).real
    tilt, ky, kx = 13, 3, 5  # +18°, where the sixth or so image is taken
    k = torch.tensor(((ky / 160) ** 2 + (kx / 160) ** 2) ** 0.5)
    dose = torch.tensor(series.exposures[tilt] + 120 / 21 / 2)
    expected = contrast_transfer(aberration(k, torch.tensor(3.0), 300, 2.7), 0.07) * torch.exp(-200 * k**2 / 4)
    expected = expected * damage(k, radiation_damage * dose, 300) * np.sinc(ky / 32) * np.sinc(kx / 32)
    # the projection of a delta is the sinc of where it falls: 1 at all frequencies, as it lies on the axis
    assert transferred[tilt, ky, kx].item() == pytest.approx(expected.item(), abs=2e-3)


def test_grey_values_are_those_of_the_clean_volume() -> None:
    volume = blob(32, 1.5)[None, None]
    step = replace(PLAIN, exposure=replace(PLAIN.exposure, dose=1e10), potential=0.1)  # weak: images are linear
    measured = MissingWedge().apply(volume, sample_all([MissingWedge()], torch.Generator())[:1])
    out = step.apply(volume, parameters(step))
    assert correlation(out, measured) > 0.97
    slope = (out * measured).sum() / measured.square().sum()
    assert slope.item() == pytest.approx(1, abs=0.02)
    assert out.mean().item() == pytest.approx(volume.mean().item(), abs=0.005)


@pytest.mark.parametrize("correction", ["none", "phase_flip", "deconvolution"])
def test_the_signal_is_as_strong_whatever_the_microscope(correction) -> None:
    step = TiltSeriesDegradation(voxel_size=10.0, scheme=SCHEME, correction=correction)
    volume = blob(sigma=1.5)
    drawn = parameters(step)[0]
    noise_free = -step.tomograms(volume, drawn).noise_free
    measured = MissingWedge().apply(volume[None, None], [{"tilt_min": -60, "tilt_max": 60}])
    assert noise_free.std().item() == pytest.approx(measured.std().item(), rel=0.25)
    assert correlation(noise_free, measured) > (0.4 if correction == "none" else 0.7)


@pytest.mark.parametrize("roll_off", [None, (0.2, 0.05)])
@pytest.mark.parametrize("thickness", [50.0, 300.0])
@pytest.mark.parametrize("weighting", ["ramp", "exact"])
def test_the_signal_is_as_strong_whatever_the_filter(weighting, thickness, roll_off) -> None:
    """In thick ice the exact filter leaves far less than the ramp of all but the lowest frequencies."""
    step = replace(PLAIN, weighting=weighting, exposure=replace(PLAIN.exposure, thickness=thickness), roll_off=roll_off)
    volume = blob(48, sigma=1.5)
    noise_free = -step.tomograms(volume, parameters(step)[0]).noise_free
    measured = MissingWedge().apply(volume[None, None], [{"tilt_min": -60, "tilt_max": 60}])
    assert noise_free.std().item() == pytest.approx(measured.std().item(), rel=0.15)


def test_flipping_phases_brings_the_tomogram_closer_to_the_truth() -> None:
    volume = blob(sigma=1.2)
    step = TiltSeriesDegradation(voxel_size=6.0, scheme=SCHEME, optics=Optics(defocus=4.0))
    plain = -step.tomograms(volume, parameters(step)[0]).noise_free
    flipped = -replace(step, correction="phase_flip").tomograms(volume, parameters(step)[0]).noise_free
    assert correlation(flipped, volume) > correlation(plain, volume) + 0.05


def test_without_noise_it_is_the_limit_of_a_high_dose() -> None:
    volume, generator = blob(), torch.Generator().manual_seed(0)
    far = []
    for dose in (1e3, 1e5, 1e7):
        step = replace(PLAIN, exposure=replace(PLAIN.exposure, dose=dose))
        made = step.tomograms(volume, step.sample(generator))
        far.append((made.full - made.noise_free).std().item())
    assert far == pytest.approx([far[0], far[0] / 10, far[0] / 100], rel=0.1)
    assert far[-1] < 0.03 * made.noise_free.std().item()


def test_halves_share_the_signal_and_not_the_noise() -> None:
    volume = blob()
    drawn = parameters(PLAIN)[0]
    made = PLAIN.tomograms(volume, drawn)
    quiet = replace(PLAIN, exposure=replace(PLAIN.exposure, dose=1e9)).tomograms(volume, {**drawn, "dose": 1e9})
    even, odd = made.even - quiet.even, made.odd - quiet.odd
    assert abs(correlation(even, odd)) < 0.03
    assert correlation(even, made.full - quiet.full) > 0.5
    assert correlation(quiet.even, quiet.odd) > 0.9
    torch.testing.assert_close((made.even + made.odd) / 2, made.full, atol=0.03 * made.full.std().item(), rtol=0)
    # for training they are bright
    bright = PLAIN.halves(volume[None, None], [drawn])
    assert all(half.shape == (1, 1, 24, 24, 24) and correlation(half[0, 0], volume) > 0 for half in bright)
    assert made.full[12, 14, 10] < -0.2
    assert made.series.counts.shape == (21, 24, 24)


@pytest.mark.parametrize(
    "step",
    [
        TiltSeriesDegradation(scheme=SCHEME),
        TiltSeriesDegradation(
            scheme=replace(SCHEME, jitter=0.5),
            optics=Optics(defocus_gradient=True),
            misalignment=Misalignment(3.0, 0.5),
            correction="phase_flip",
            weighting="exact",
            sirt_like=10,
            roll_off=(0.35, 0.05),
            dose_weighting=True,
            colour=0.3,
        ),
    ],
    ids=["default", "everything"],
)
def test_damage_does_not_depend_on_the_batch(step: TiltSeriesDegradation) -> None:
    clean, drawn = torch.stack([blob()[None], blob(sigma=1)[None], torch.zeros(1, 24, 24, 24)]), parameters(step, 3)
    together = step.apply(clean, drawn)
    assert together.isfinite().all()
    assert torch.equal(step.apply(clean.flip(0), drawn[::-1]).flip(0), together)
    assert torch.equal(step.apply(clean[1:2], drawn[1:2]), together[1:2])
    assert not torch.equal(step.apply(clean[:1], drawn[1:2]), together[:1])
    assert all(isinstance(value, int | float) for value in drawn[0].values())


def test_noise_is_the_same_throughout_the_box() -> None:
    out = PLAIN.apply(torch.zeros(1, 1, 32, 32, 32), parameters(PLAIN))[0, 0]
    corners = torch.stack([out[:8, :, :8], out[-8:, :, -8:], out[:8, :, -8:]])
    assert (corners.std() / out[12:20, :, 12:20].std()).item() == pytest.approx(1, abs=0.08)


def test_measured_is_the_wedge_of_the_tilts() -> None:
    volumes = torch.zeros(2, 1, 16, 16, 16)
    step = TiltSeriesDegradation(scheme=TiltScheme((-60.0, 45.0), 7.0))  # the last tilt is 45
    wedge = MissingWedge((-60.0, 45.0))
    k = torch.hypot(torch.fft.fftfreq(16)[:, None, None], torch.fft.rfftfreq(16))
    # an image of the same pixels holds nothing beyond their Nyquist
    expected = wedge.measured(volumes, [wedge.sample(torch.Generator())] * 2) & (k <= 0.5)
    assert torch.equal(step.measured(volumes, parameters(step, 2)), expected)


def test_a_shift_moves_images_by_what_was_asked() -> None:
    (drawn,) = parameters(replace(PLAIN, misalignment=Misalignment(shift=10.0)))
    still, moved = (PLAIN.record(blob(32, shift=0), p).expected for p in ({**drawn, "shift": 0.0}, drawn))

    def centres(images: Tensor) -> Tensor:
        weight = images.amax(dim=(1, 2), keepdim=True) - images
        axis = torch.arange(32.0)
        whole = weight.sum((1, 2))
        return torch.stack([(weight.sum(2) @ axis) / whole, (weight.sum(1) @ axis) / whole])

    off = (centres(moved) - centres(still)).flatten()
    assert off.std().item() == pytest.approx(1, rel=0.35)  # 42 draws
    still, turned = (
        PLAIN.record(blob(32, shift=6), {**drawn, "shift": 0.0, "rotation": rotation}).expected for rotation in (0, 2.0)
    )
    off = (centres(turned) - centres(still))[:, 10]  # untilted
    assert 0 < off.norm().item() < 6 * 2**0.5 * np.radians(2.0) * 3


def test_images_turn_about_their_middle_by_what_was_drawn_whatever_their_shape() -> None:
    """And then move, by angstroms."""
    axis = [torch.arange(size, dtype=torch.float64) - (size - 1) / 2 for size in (48, 96)]
    y, x = 6.0, 25.0
    image = torch.exp(-((axis[0][:, None] - y).square() + (axis[1] - x).square()) / (2 * 2.5**2))
    drawn = torch.randn(3, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    asked = {"rotation": 4.0, "shift": 20.0, "voxel_size": 10.0}
    moved = PLAIN._misplace(image.expand(7, -1, -1), asked, torch.Generator().manual_seed(3))
    whole = moved.sum((1, 2))
    centres = torch.stack([moved.sum(2) @ axis[0], moved.sum(1) @ axis[1]]) / whole - 2 * drawn[1:]
    distance, angle = torch.hypot(*centres), torch.atan2(*centres).rad2deg() - np.degrees(np.arctan2(y, x))
    torch.testing.assert_close(distance, torch.full((7,), (y**2 + x**2) ** 0.5, dtype=torch.float64), atol=0.1, rtol=0)
    torch.testing.assert_close(angle.abs(), 4 * drawn[0].abs(), atol=0.3, rtol=0)


def test_a_stage_that_misses_its_angles_is_not_known_of() -> None:
    step = replace(PLAIN, scheme=TiltScheme((-30.0, 30.0), 2.0, jitter=1.0))
    bead = torch.zeros(48, 8, 48)
    bead[24:48] = blob(48, 2.0, 0)[12:36, 20:28]  # 12 sections above the middle, across which it moves with the tilt
    series = step.record(bead, parameters(step)[0])
    assert series.angles == step.scheme.angles
    weight = (1 - series.expected / series.blank).sum(1)
    place = (weight @ (torch.arange(48.0) - 24)) / weight.sum(1)
    missed = (place / 12).asin().rad2deg() - torch.tensor(series.angles)
    assert missed.std().item() == pytest.approx(1, rel=0.35)  # 31 draws


def test_defocus_scatters_from_tilt_to_tilt_and_its_estimate_knows() -> None:
    optics = Optics(defocus=2.0, defocus_scatter=0.2, spherical_aberration=0.0, amplitude_contrast=0.0)
    step = replace(PLAIN, optics=optics)
    series = step.record(blob(shift=0), parameters(step)[0])
    k = 1 / 240
    found = series.transfer[0, :, 0, 1].asin() / (np.pi * 0.0197 * 1e4 * k**2)
    assert found.mean().item() == pytest.approx(2, abs=0.15)
    assert found.std().item() == pytest.approx(0.2, rel=0.4)  # 21 draws


@pytest.mark.parametrize("correction", ["none", "phase_flip"])
def test_each_side_of_a_tilted_image_has_the_defocus_of_its_height(correction) -> None:
    """Both in the images and in their correction: 100 voxels of 3 Å from the axis, 245 Å lie between them."""
    optics = Optics(defocus=0.5, defocus_gradient=True)
    step = replace(PLAIN, voxel_size=3.0, scheme=TiltScheme((50.0, 60.0), 10.0), optics=optics, correction=correction)
    point = torch.zeros(8, 24, 256)
    point[4, 12, 228] = 1
    drawn = parameters(step)[0]

    def seen(step: TiltSeriesDegradation, defocus: float) -> Tensor:
        noise_free = step.tomograms(point, drawn | {"defocus": defocus}).noise_free
        return noise_free[..., 212:244] / noise_free[..., 212:244].norm()

    plain = replace(step, optics=replace(optics, defocus_gradient=False))
    ours, right, wrong = seen(step, 0.5), seen(plain, 0.5245), seen(plain, 0.4755)
    assert (ours - right).norm() < 0.1
    assert (wrong - right).norm() > 0.4


def test_the_defocus_gradient_runs_across_the_tilted_plane() -> None:
    step = replace(PLAIN, optics=Optics(defocus=2.0, defocus_gradient=True))
    drawn, defocus = parameters(step)[0], torch.full((21,), 2.0, dtype=torch.float64)
    transfer = contrast_transfer(step._aberration((16, 64), SCHEME.angles, defocus, drawn), 0.07)
    assert transfer.shape == (3, 21, 16, 33)
    without = replace(step, optics=Optics(defocus=2.0))
    flat = contrast_transfer(without._aberration((16, 64), SCHEME.angles, defocus, drawn), 0.07)
    torch.testing.assert_close(transfer[1], flat[0])  # the middle
    torch.testing.assert_close(transfer[0, 10], flat[0, 10])  # no tilt
    # the left edge at +60°: u = -320 Å, which has risen by 554 Å and is less under focus
    k = _frequency((16, 64), 10.0)
    expected = contrast_transfer(aberration(k, torch.tensor(2.0 - 0.0554), 300, 2.7), 0.07)
    torch.testing.assert_close(transfer[0, 20], expected, atol=1e-3, rtol=0)
    # in a wide image the strips are so many that what lies between two of them is known from both
    wide = contrast_transfer(step._aberration((16, 512), SCHEME.angles, defocus, drawn), 0.07)
    between, middle = (wide[:-2:2] + wide[2::2]) / 2, wide[1:-1:2]
    assert len(wide) > 4
    assert (between - middle).abs().median() < 0.02
    assert (between - middle)[..., :9, 0].abs().max() < 0.15


@pytest.mark.gpu
def test_a_gpu_makes_the_same_but_for_the_noise() -> None:
    step = TiltSeriesDegradation(
        scheme=SCHEME, misalignment=Misalignment(3.0, 0.5), optics=Optics(defocus_gradient=True)
    )
    volume, drawn = blob(), parameters(step)[0]
    here, there = step.tomograms(volume, drawn), step.tomograms(volume.cuda(), drawn)
    assert there.full.is_cuda
    torch.testing.assert_close(there.noise_free.cpu(), here.noise_free, atol=1e-4, rtol=1e-3)
    assert (there.full - there.noise_free).std().item() == pytest.approx(
        (here.full - here.noise_free).std().item(), rel=0.05
    )
    batch = volume[None, None].cuda()
    assert torch.equal(step.apply(torch.cat([batch, batch]), [drawn, drawn])[1:], step.apply(batch, [drawn]))


def test_volts_are_those_of_the_unit_unless_they_are_given() -> None:
    """Of bulk protein, 3.42 V above ice, a slab of 100 nm shifts the phase by 2.23 rad at 300 kV."""
    step = TiltSeriesDegradation(voxel_size=10.0)
    (drawn,) = parameters(step)
    assert step._contrast(drawn) / 2 * 100 == pytest.approx(0.006526 * 3.42 * 100, rel=1e-3)
    assert replace(step, potential=6.84)._contrast(drawn) == pytest.approx(2 * step._contrast(drawn), rel=1e-3)
    assert step._contrast(drawn | {"contrast": 0.3}) == pytest.approx(0.3 * step._contrast(drawn))


def test_density_without_a_unit_is_refused_where_its_volts_are_not_given() -> None:
    step = TiltSeriesDegradation(voxel_size=10.0)
    step.check_volumes(10.0)
    replace(step, potential=4.8).check_volumes(10.0, "thesis")
    with pytest.raises(
        CryodenError, match="potential: got null for sampling 'thesis', whose density has no unit; give"
    ):
        step.check_volumes(10.0, "thesis")


@pytest.mark.parametrize("voxel_size", [8.9, 11.1])
def test_voxels_beyond_the_range_are_refused(voxel_size: float) -> None:
    step = TiltSeriesDegradation(voxel_size=(9.0, 11.0))
    step.check_volumes(9.0)
    step.check_volumes(11.0)
    with pytest.raises(CryodenError, match=f"voxel_size: got 9 to 11 Å for data of {voxel_size} Å; give both the same"):
        step.check_volumes(voxel_size)


def test_it_has_a_public_name() -> None:
    assert cryoden.TiltSeriesDegradation is TiltSeriesDegradation


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TiltScheme((-90, 60)), r"tilt_range: got \(-90, 60\); allowed are two angles between -80 and 80"),
        (lambda: TiltScheme((60, -60)), "the first below the second"),
        (lambda: TiltScheme(step=0), "step: got 0; allowed is a number of degrees above 0, up to 120"),
        (lambda: TiltScheme(step=200), "step: got 200"),
        (lambda: TiltScheme(order="random"), "order: got 'random'; allowed are 'dose_symmetric'"),
        (lambda: TiltScheme(jitter=-1), "jitter: got -1"),
        (lambda: Optics(defocus=-2), "defocus: got -2; allowed is a number between 0 and 20 µm under focus"),
        (lambda: Optics(voltage=3e5), "voltage: got 300000.0; allowed is a number between 80 and 400 kV"),
        (lambda: Optics(amplitude_contrast=7), "amplitude_contrast: got 7"),
        (lambda: Exposure(dose=0), "dose: got 0; allowed is a number of electrons per Å² above 0"),
        (lambda: Exposure(dose=(100, 50)), r"dose: got \(100, 50\)"),
        (lambda: Exposure(thickness=-1), "thickness: got -1; allowed is a number between 0 and 2000 nm"),
        (lambda: Detector(dqe=0), "dqe: got 0; allowed is a number above 0, up to 1"),
        (lambda: Detector(binning=0.5), "binning: got 0.5"),
        (lambda: Misalignment(shift=-1), "shift: got -1"),
        (lambda: TiltSeriesDegradation(voxel_size=0), "voxel_size: got 0; allowed is a number of Å from 0.01 to 10000"),
        (lambda: TiltSeriesDegradation(potential=0), "potential: got 0"),
        (lambda: TiltSeriesDegradation(weighting="sirt"), "weighting: got 'sirt'; allowed are 'ramp' and 'exact', or"),
        (lambda: TiltSeriesDegradation(correction="flip"), "correction: got 'flip'; allowed are 'none', 'phase_flip'"),
        (lambda: TiltSeriesDegradation(correction=()), r"correction: got \(\)"),
        (lambda: TiltSeriesDegradation(roll_off=(0.0, 0.1)), "roll_off: got 0.0; allowed is a number from 0.05 to 1"),
        (lambda: TiltSeriesDegradation(roll_off=(0.3, 0.0)), "roll_off: got 0.0; allowed is a number of cycles per"),
        (lambda: TiltSeriesDegradation(contrast=0), "contrast: got 0; allowed is a number above 0, up to 2"),
        (lambda: TiltSeriesDegradation(colour=-1), "colour: got -1"),
        (lambda: TiltSeriesDegradation(radial_gain=(1.0,)), r"radial_gain: got \(1.0,\); allowed are at least two"),
        (lambda: TiltScheme(((-66, -40), (-50, 60))), "the first below the second"),
        (lambda: TiltScheme(dropped=40), "dropped: got 40 of 41 images; at least 2 must be left: drop fewer"),
        (lambda: Optics(defocus_scatter=-1), "defocus_scatter: got -1"),
        (lambda: Exposure(radiation_damage=3), "radiation_damage: got 3"),
        (lambda: Detector(binned_by="max"), "binned_by: got 'max'; allowed are 'cropping' and 'averaging'"),
        (lambda: TiltSeriesDegradation(sirt_like=-1), "sirt_like: got -1"),
    ],
)
def test_bad_arguments(make, message: str) -> None:
    with pytest.raises(CryodenError, match=message):
        make()


@pytest.mark.parametrize("other", [GOLD, VACUUM], ids=["gold", "vacuum"])
def test_gold_and_vacuum_do_not_change_the_scale_of_protein(other: float) -> None:
    """At a true defocus, their low and high frequencies are transferred unlike those of protein."""
    step = TiltSeriesDegradation(voxel_size=10.0, scheme=SCHEME)
    protein = blob(32)
    beside = protein.clone()
    beside[:3] = other
    drawn = parameters(step)[0]
    alone, both = (step.record(volume, drawn).gain for volume in (protein, beside))
    torch.testing.assert_close(both, alone, rtol=0.02, atol=0)


def test_vacuum_around_the_ice_makes_no_edges() -> None:
    """The slab goes on beyond the volume, so that its sides are not to be seen in the tomogram."""
    protein = blob(32)
    slab = protein.clone()
    slab += torch.from_numpy(vacuum(np.array(-100.0), np.array(100.0), 32, 10.0, 20.0))[:, None, None]
    (drawn,) = parameters(PLAIN)
    alone, within = (-PLAIN.tomograms(volume, drawn).noise_free for volume in (protein, slab))
    torch.testing.assert_close(within, alone, atol=1e-3 * float(alone.abs().max()) + 1e-4, rtol=0)


def test_ripples_around_a_particle_are_no_vacuum() -> None:
    """What the cut at Nyquist leaves is below ice in places, and must not lift whole sections."""
    protein = blob(32)
    rippled = protein - 0.2 * blob(32, sigma=4.0)
    assert rippled.min() < -0.01
    assert torch.equal(_without_vacuum(rippled), rippled)


def of_crop(step: TiltSeriesDegradation, scene: Tensor, part: tuple[slice, ...], margin: tuple[int, int, int]) -> float:
    """How far a crop imaged with its margin is from the crop of the scene imaged whole: noise-free, relative."""
    drawn = {**parameters(step)[0], "dose": 1e10, "radiation_damage": 0.0}
    whole = step.apply(scene[None, None], [drawn])[0, 0][part]
    wide = tuple(slice(cut.start - m, cut.stop + m) for cut, m in zip(part, margin, strict=True))
    alone = step.apply_within(scene[wide][None, None], [drawn], margin)[0, 0]
    assert alone.shape == whole.shape
    whole, alone = whole - whole.mean(), alone - alone.mean()
    gain = (whole * alone).sum() / alone.square().sum()
    return float((gain * alone - whole).norm() / whole.norm())


def test_a_crop_in_its_surroundings_is_nearer_to_the_crop_of_the_whole() -> None:
    step = TiltSeriesDegradation(voxel_size=10.0, scheme=TiltScheme(step=6.0), correction="phase_flip")
    assert step.context == (16, 4, 32)
    scene = torch.zeros(64, 64, 112)
    generator = torch.Generator().manual_seed(0)
    for z, y, x in (torch.rand(60, 3, generator=generator) * torch.tensor([48, 48, 96])).int().tolist():
        scene[z : z + 16, y : y + 16, x : x + 16] += blob(16, 2.0, 0)
    middle = slice(24, 40), slice(24, 40), slice(48, 64)
    alone, within = (of_crop(step, scene, middle, margin) for margin in ((0, 0, 0), step.context))
    assert alone > 0.3
    assert within < 0.5 * alone


def test_beside_the_volume_the_camera_sees_more_of_the_same() -> None:
    """Of an endless slab that is cut, nothing is to be seen but its surfaces: no edge lights up at high tilt."""
    slab = torch.zeros(32, 24, 48)
    slab[12:20] = torch.rand(8, 24, 48, generator=torch.Generator().manual_seed(0))
    (drawn,) = parameters(PLAIN)
    image = (1 - PLAIN.record(slab, drawn).expected / PLAIN.record(slab, drawn).blank)[0]  # at -60°
    edge, middle = image[:, :6], image[:, 18:30]
    assert edge.mean().item() == pytest.approx(middle.mean().item(), rel=0.1)


def test_contrast_transfer_does_not_wrap_around() -> None:
    """What lies at one end of y is not seen at the other."""
    volume = torch.zeros(24, 48, 24)
    volume[:, :16] = blob(24)[:, 4:20]
    step = TiltSeriesDegradation(voxel_size=10.0, scheme=SCHEME, optics=Optics(defocus=5.0))
    (drawn,) = parameters(step)
    series = step.record(volume, drawn)
    image = (1 - series.expected / series.blank).abs()
    assert image[:, 36:].max() < 0.02 * image.max()


def test_noise_is_the_same_in_a_box_and_in_a_slab() -> None:
    """The filter goes by the thickness of the specimen, not of what is reconstructed."""

    def lag_and_spread(depth: int) -> tuple[float, float]:
        step = replace(PLAIN, weighting="exact", exposure=replace(PLAIN.exposure, thickness=150.0))
        noise = step.apply(torch.zeros(1, 1, depth, 32, 64), parameters(step))[0, 0]
        noise = noise[depth // 2 - 8 : depth // 2 + 8, :, 16:48]
        return correlation(noise[..., 1:], noise[..., :-1]), float(noise.std())

    (box, box_spread), (slab, slab_spread) = lag_and_spread(24), lag_and_spread(120)
    assert box == pytest.approx(slab, abs=0.05)
    assert box_spread == pytest.approx(slab_spread, rel=0.1)


def test_a_roll_off_takes_fine_noise_and_leaves_coarse_signal() -> None:
    volume, (drawn,) = blob(sigma=3.0), parameters(PLAIN)
    rolled = replace(PLAIN, roll_off=(0.2, 0.035))
    drawn = {**drawn, "roll_off": 0.2}
    plain, soft = (step.tomograms(volume, drawn) for step in (PLAIN, rolled))
    assert (soft.full - soft.noise_free).std() < 0.7 * (plain.full - plain.noise_free).std()
    assert correlation(soft.noise_free, plain.noise_free) > 0.95


def test_sirt_takes_fine_noise_and_leaves_coarse_signal() -> None:
    volume, (drawn,) = blob(sigma=3.0), parameters(PLAIN)
    plain, soft = (replace(PLAIN, sirt_like=n).tomograms(volume, drawn | {"sirt_like": n}) for n in (0, 10))
    assert (soft.full - soft.noise_free).std() < 0.5 * (plain.full - plain.noise_free).std()
    assert correlation(soft.noise_free, plain.noise_free) > 0.85


def test_dose_weighting_takes_as_much_of_each_image_as_radiation_has_taken_from_it() -> None:
    step = replace(PLAIN, dose_weighting=True)
    drawn, exposures = parameters(step)[0], [0.0, 60.0, 114.0]
    factor = step._corrected((16, 16), torch.ones(1, 3, 16, 9), exposures, 6.0, drawn)
    k = _frequency((16, 16), 10.0)
    expected = torch.stack([damage(k, torch.tensor(dose + 3.0), 300) for dose in exposures])
    torch.testing.assert_close(factor[0], expected)
    assert expected[2, 8, 8] < 0.5 * expected[0, 8, 8]


def test_frame_halves_have_the_same_signal_and_independent_noise() -> None:
    volume, (drawn,) = blob(), parameters(PLAIN)
    made = PLAIN.tomograms(volume, drawn)
    first, second = (half - made.noise_free for half in (made.first, made.second))
    assert abs(correlation(first, second)) < 0.03
    assert first.std().item() == pytest.approx(2**0.5 * (made.full - made.noise_free).std().item(), rel=0.05)
    torch.testing.assert_close((made.first + made.second) / 2, made.full)
    one, other = PLAIN.halves(volume[None, None], [{**drawn, "dose": 1e6}], "frames")
    assert correlation(one[0, 0], volume) > 0.7
    assert not torch.equal(one, other)


def test_dropped_tilts_are_not_in_the_stack_and_their_dose_was_spent() -> None:
    step = replace(PLAIN, scheme=replace(SCHEME, dropped=5))
    (drawn,) = parameters(step)
    series = step.record(blob(), drawn)
    assert series.angles == step.angles(drawn) == sorted(series.angles)
    assert len(series.angles) == len(series.counts) == 16
    all_of_them = PLAIN.record(blob(), {**drawn, "dropped": 0})
    spent = dict(zip(all_of_them.angles, all_of_them.exposures, strict=True))
    assert series.exposures == [spent[angle] for angle in series.angles]


def test_everything_is_drawn_within_its_range_and_told() -> None:
    step = TiltSeriesDegradation(
        voxel_size=(9.0, 11.0),
        scheme=TiltScheme(((-66.0, -40.0), (40.0, 66.0)), (2.0, 4.0), dropped=(0, 8)),
        optics=Optics(defocus=(1.5, 8.0), defocus_scatter=(0.0, 0.3), b_factor=(0.0, 300.0)),
        exposure=Exposure(dose=(20.0, 160.0), radiation_damage=(0.3, 1.0), thickness=(80.0, 350.0)),
        detector=Detector(binned_by=("cropping", "averaging")),
        misalignment=Misalignment((0.0, 6.0), (0.0, 0.3)),
        contrast=(0.5, 1.0),
        correction=("none", "phase_flip", "deconvolution"),
        dose_weighting=(True, False),
        weighting=("ramp", "exact"),
        roll_off=((0.3, 0.6), 0.05),
        sirt_like=(0, 10, 30),
        colour=(0.0, 0.3),
    )
    step.check_volumes(10.0)
    drawn = parameters(step, 12)
    made = [step.drawn(each) for each in drawn]
    assert {each.correction for each in made} == {"none", "phase_flip", "deconvolution"}
    assert {each.detector.binned_by for each in made} == {"cropping", "averaging"}
    assert {each.dose_weighting for each in made} == {True, False}
    assert all(9 <= each.voxel_size <= 11 and 20 <= each.exposure.dose <= 160 for each in made)
    assert len({each.scheme.tilt_range for each in made}) == 12
    for each, values in zip(made[:4], drawn, strict=False):
        assert each.drawn(values | {"correction": 0, "dose_weighting": 0, "weighting": 0, "binned_by": 0}) == each
        out = step.apply(blob()[None, None], [values])
        assert out.isfinite().all()
    wedges = step.measured(torch.zeros(12, 1, 16, 16, 16), drawn).flatten(1).sum(1)
    assert len(set(wedges.tolist())) > 3


def test_colour_changes_the_spectrum_and_not_the_phases() -> None:
    volume, (drawn,) = blob(), parameters(PLAIN)
    plain = PLAIN.tomograms(volume, drawn).full
    given = replace(PLAIN, radial_gain=(1.0, 2.0, 0.5)).tomograms(volume, drawn).full
    gain = torch.fft.rfftn(given) / torch.fft.rfftn(plain)
    assert gain.imag.abs().median() < 1e-3
    assert gain.real[0, 0, [0, 6, 12]].tolist() == pytest.approx([1.0, 2.0, 0.5], rel=0.01)
    drawn_gain = replace(PLAIN, colour=0.3).tomograms(volume, {**drawn, "colour": 0.3}).full
    assert not torch.equal(drawn_gain, plain)
    assert correlation(drawn_gain, plain) > 0.8
    delta = torch.zeros(20, 20, 20)
    delta[0, 0, 0] = 1
    for seed in range(3):  # whichever gain it is, it makes nothing louder or fainter
        coloured = PLAIN._coloured(delta, {**drawn, "colour": 0.3, "seed": seed})
        at_nodes = torch.fft.rfftn(coloured).real[0, 0, ::2]
        assert at_nodes.log().mean().item() == pytest.approx(0, abs=1e-3)
        assert at_nodes.std() > 0.05


def test_pixels_that_are_averaged_lose_more_than_those_that_are_cropped() -> None:
    delta = torch.zeros(16, 16, 16)
    delta[8, 8, 8] = 1
    at_nyquist = []
    for kind in ("cropping", "averaging"):
        step = replace(PLAIN, detector=Detector(dqe=1.0, binning=4.0, binned_by=kind))
        (drawn,) = parameters(step)
        series = step.record(delta, drawn)
        image = (1 - series.expected / series.blank)[10]
        at_nyquist.append(torch.fft.fft2(image)[8, 0].abs().item() / torch.fft.fft2(image)[0, 0].abs().item())
    assert at_nyquist == pytest.approx([0.97, 0.64], abs=0.02)  # sinc(1/8), sinc(1/2)
