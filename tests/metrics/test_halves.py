import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.signal.windows import tukey

from cryoden.errors import CryodenError
from cryoden.metrics import Estimate, Halves, fourier_shell_correlation, half_scores, resolution_at
from cryoden.simulation import TiltSeriesDegradation

Array = NDArray[np.float32]

SHAPE = (48, 192, 64)
VOXEL_SIZE = 10.0


def frequencies(shape: tuple[int, ...] = SHAPE) -> tuple[NDArray[np.float64], ...]:
    z, y, x = np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2])
    return z[:, None, None], y[:, None], x


def measured(shape: tuple[int, ...] = SHAPE) -> NDArray[np.bool_]:
    """Tilts of ±60°: (D, 1, W // 2 + 1)."""
    z, _, x = frequencies(shape)
    return np.abs(z) <= math.tan(math.radians(60)) * x + 1e-9


def through(volume: Array, transfer: NDArray[np.float64] | NDArray[np.bool_]) -> Array:
    return np.fft.irfftn(np.fft.rfftn(volume) * transfer, SHAPE, axes=(0, 1, 2)).astype(np.float32)


@cache
def tomogram(snr: float, seed: int = 0) -> tuple[Array, Array, Array]:
    """Blobs, and two halves with noise of their own, all without what is in the missing wedge."""
    rng = np.random.default_rng(seed)
    blobs = gaussian_filter(rng.normal(size=SHAPE) ** 3, 1.2)
    signal = through(blobs / blobs.std(), measured())
    first, second = (
        signal + through(rng.normal(size=SHAPE).astype(np.float32), measured()) / math.sqrt(snr) for _ in range(2)
    )
    return signal, first, second


def ghost() -> Array:
    """What a network might always draw, whatever it is shown."""
    drawn = gaussian_filter(np.random.default_rng(99).normal(size=SHAPE), 2.0)
    return through(drawn / drawn.std(), measured())


METHODS: dict[str, Callable[[Array], Array]] = {
    "input": lambda half: half,
    "Gaussian": lambda half: gaussian_filter(half, 1.5),
    "threshold": lambda half: np.maximum(gaussian_filter(half, 1.0), 0),
    "a ghost": lambda half: gaussian_filter(half, 1.5) + 0.5 * ghost(),
    "a ghost alone": lambda half: ghost() + 0.02 * half,
}


def shells(values: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    z, y, x = frequencies(shape)
    radius = np.sqrt(z**2 + y**2 + x**2)
    weight = np.where((x == 0) | (x == 0.5), 1, 2) * measured(shape) * (radius <= 0.5)
    return np.bincount(np.round(radius * min(shape)).astype(int).ravel(), (values * weight).ravel())[
        : min(shape) // 2 + 1
    ]


def truth(answer: Array, signal: Array) -> tuple[NDArray[np.float64], ...]:
    """Over shells of blocks that fade out: cross power of answer and signal, and the power of each."""
    sums = []
    for start in range(0, SHAPE[1], 48):
        blocks = [each[:, start : start + 48] for each in (answer, signal)]
        fade = [tukey(2 * size + 1, 0.25)[1::2] for size in blocks[0].shape]
        spectra = [np.fft.rfftn((each - each.mean()) * np.einsum("z,y,x->zyx", *fade)) for each in blocks]
        one, other = spectra
        products = (one * other.conj()).real, np.abs(one) ** 2, np.abs(other) ** 2
        sums.append([shells(each, blocks[0].shape) for each in products])
    return tuple(np.sum(sums, axis=0))


def errors(answer: Array, signal: Array, judged: NDArray[np.bool_]) -> tuple[float, float, float]:
    """What is missed of the signal after a gain for each shell, and after one; and the mean correlation of shells."""
    cross, power, whole = truth(answer, signal)
    one_gain = 1 - cross[judged].sum() ** 2 / power[1:].sum() / whole[judged].sum()
    each_gain = 1 - (cross**2 / power)[judged].sum() / whole[judged].sum()
    return math.sqrt(each_gain), math.sqrt(one_gain), float((cross / np.sqrt(power * whole))[judged].mean())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("snr", [1.0, 0.1])
def test_halves_tell_what_the_truth_tells(snr, method):
    signal, first, second = tomogram(snr)
    answers = METHODS[method](first), METHODS[method](second)
    score = half_scores(first, second, {"it": answers}, VOXEL_SIZE)["it"]
    judged = ~score.fsc.isnan().numpy()
    assert 6 <= judged.sum() < 25
    each_gain, one_gain, area = errors((answers[0] + answers[1]) / 2, signal, judged)
    assert score.nrmse.value == pytest.approx(each_gain, abs=0.02)
    assert score.nrmse_one_gain.value == pytest.approx(one_gain, abs=0.02)
    assert score.fsc_area.value == pytest.approx(area, abs=0.02)


def test_what_is_always_drawn_agrees_with_itself_and_not_with_the_halves():
    _, first, second = tomogram(0.1)
    answers = {name: (METHODS[name](first), METHODS[name](second)) for name in ("Gaussian", "a ghost")}
    scores = half_scores(first, second, answers, VOXEL_SIZE)
    without, haunted = scores["Gaussian"], scores["a ghost"]
    assert haunted.agreement[1:6].mean() > without.agreement[1:6].mean() + 0.05
    assert haunted.fsc_area.value < without.fsc_area.value - 0.05
    assert haunted.nrmse.value > without.nrmse.value + 0.1


def test_the_best_gaussian_stands_beside_it_and_after_a_gain_for_each_shell_it_is_the_input():
    signal, first, second = tomogram(0.1)
    halves = Halves.of(first, second, VOXEL_SIZE)
    score, sigma = halves.gaussian()
    mean, judged = (first + second) / 2, halves.judged.numpy()
    found = {width: errors(gaussian_filter(mean, width), signal, judged)[1] for width in np.arange(0.5, 2.5, 0.1)}
    best = min(found, key=lambda width: found[width])
    assert sigma == pytest.approx(best, abs=0.15)
    assert score.nrmse_one_gain.value == pytest.approx(found[best], abs=0.02)
    unfiltered = half_scores(first, second, {}, VOXEL_SIZE)["input"]
    assert score.nrmse.value == pytest.approx(unfiltered.nrmse.value)
    assert score.nrmse_one_gain.value < unfiltered.nrmse_one_gain.value - 0.2


@pytest.mark.parametrize("unit", [0.2, 1.1, 1000.0])
def test_halves_may_come_in_two_units(unit: float):
    signal, first, second = tomogram(0.3)
    method = METHODS["threshold"]
    scores = []
    for factor in (1.0, unit):
        answers = {"it": (method(first), factor * method(second)), "truth": (signal, factor * signal)}
        scores.append(half_scores(first, factor * second, answers, VOXEL_SIZE))
    assert scores[1]["truth"].nrmse.value < 0.06  # by chance alone
    for name in ("truth", "it", "input", "Gaussian filter"):
        same, other = (each[name] for each in scores)
        for measure in ("nrmse", "nrmse_one_gain", "fsc_area"):
            assert getattr(other, measure).value == pytest.approx(getattr(same, measure).value, rel=1e-3)


def test_a_half_with_more_noise_is_in_the_same_unit():
    """As that of fewer frames, where frames are an odd number."""
    signal, first, second = tomogram(1.0)
    truth = Halves.of(first, second + 0.5 * (second - signal), VOXEL_SIZE).score(signal, signal)
    assert truth.nrmse.value < 0.1
    assert truth.fsc_area.value == pytest.approx(1, abs=0.01)


def test_neither_grey_scale_nor_contrast_transfer_is_an_error():
    """A network that answers density, free of contrast transfer, is judged as if it answered the tomogram."""
    _, first, second = tomogram(0.3)
    z, y, x = frequencies()
    transfer = 1.5 + np.cos(5 * np.sqrt(z**2 + y**2 + x**2))
    halves = Halves.of(first, second, VOXEL_SIZE)
    plain = halves.score(gaussian_filter(first, 1), gaussian_filter(second, 1))
    other = halves.score(*(7 + 1e-3 * through(gaussian_filter(each, 1), transfer) for each in (first, second)))
    assert other.nrmse.value == pytest.approx(plain.nrmse.value, abs=0.005)
    assert other.fsc_area.value == pytest.approx(plain.fsc_area.value, abs=0.005)
    assert other.nrmse_one_gain.value > plain.nrmse_one_gain.value + 0.01


def test_what_is_put_into_the_missing_wedge_is_not_judged():
    _, first, second = tomogram(0.3)
    noise = np.random.default_rng(5).normal(size=SHAPE).astype(np.float32)
    invented, elsewhere = through(noise, ~measured()), through(noise, measured())
    halves = Halves.of(first, second, VOXEL_SIZE)
    plain, filled = halves.score(first, second), halves.score(first + invented, second + invented)
    assert filled.nrmse.value == pytest.approx(plain.nrmse.value, abs=0.01)
    assert halves.score(first + elsewhere, second + elsewhere).nrmse.value > plain.nrmse.value + 0.05


def test_coarse_and_fine_waves_are_judged_apart_up_to_where_the_halves_agree():
    _, first, second = tomogram(1.0)
    halves = Halves.of(first, second, VOXEL_SIZE)
    shells = halves.judged.nonzero().flatten() / 48
    assert halves.resolution == pytest.approx(VOXEL_SIZE / shells[-1].item())
    assert shells[0] < 0.25 < shells[-1]
    z, y, x = frequencies()
    coarse = z**2 + y**2 + x**2 < 0.25**2
    plain, smooth = halves.input(), halves.score(through(first, coarse), through(second, coarse))
    assert smooth.nrmse_low.value == pytest.approx(plain.nrmse_low.value, abs=0.05)
    assert plain.nrmse_high.value < 0.8
    assert smooth.nrmse_high.value > 0.95


def test_the_error_is_as_large_as_the_scatter():
    found = [half_scores(*tomogram(0.1, seed)[1:], {}, VOXEL_SIZE)["input"].nrmse for seed in range(8)]
    scatter = np.std([each.value for each in found], ddof=1)
    assert scatter / 2 < np.mean([each.error for each in found]) < 2 * scatter


def test_a_difference_is_surer_than_what_it_is_between():
    one, other = Estimate(0.5, (0.4, 0.6)), Estimate(0.4, (0.3, 0.5))
    assert one.error == pytest.approx(0.1)
    assert (one - other).value == pytest.approx(0.1)
    assert (one - other).error == pytest.approx(0)
    assert str(one) == "0.500 ± 0.100"
    assert str(Estimate(0.5, (0.5,))) == "0.500"
    assert str(Estimate(math.nan, (math.nan,))) == "–"


def test_only_what_is_in_the_mask_counts_and_margins_do_not():
    _, first, second = tomogram(0.3)
    clean = half_scores(first, second, {}, VOXEL_SIZE, mask := np.ones(SHAPE, np.uint8))["input"]
    mask[:, 96:] = 0
    spoilt = [half.copy() for half in (first, second)]
    for seed, half in enumerate(spoilt):
        half[:, 96:] += 5 * through(np.random.default_rng(seed).normal(size=SHAPE), measured())[:, 96:]
    assert half_scores(*spoilt, {}, VOXEL_SIZE)["input"].nrmse.value > clean.nrmse.value + 0.05
    assert half_scores(*spoilt, {}, VOXEL_SIZE, mask)["input"].nrmse.value == pytest.approx(clean.nrmse.value, abs=0.03)
    for half in spoilt:
        half[:, 96:] = 40.0
    assert half_scores(*spoilt, {}, VOXEL_SIZE)["input"].nrmse.value == pytest.approx(clean.nrmse.value, abs=0.03)


def test_halves_of_any_kind_of_number_are_left_as_they_are():
    _, first, second = tomogram(1.0)
    whole = [np.round(100 * each).astype(">i2") for each in (first, second)]
    before = [each.copy() for each in whole]
    assert half_scores(*whole, {}, VOXEL_SIZE)["input"].nrmse.value == pytest.approx(
        half_scores(first, second, {}, VOXEL_SIZE)["input"].nrmse.value, abs=0.001
    )
    for one, other in zip(whole, before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_halves_that_prove_nothing_are_refused():
    signal, first, second = tomogram(0.1)
    noise = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)
    with pytest.raises(CryodenError, match="hold the same voxels"):
        half_scores(first, 2 * first + 5, {}, VOXEL_SIZE)
    for share in (0.05, 0.3):
        common = math.sqrt(share / 0.1) * through(noise, measured())
        mixed = [signal + math.sqrt(1 - share) * (each - signal) + common for each in (first, second)]
        with pytest.raises(CryodenError, match=rf"agree by {share:.1g}\d? or more at all frequencies, so that noise"):
            half_scores(*mixed, {}, VOXEL_SIZE)
    with pytest.raises(CryodenError, match=r"agree by 0\.\d+ or more at all frequencies"):
        half_scores((first + second) / 2, second, {}, VOXEL_SIZE)
    with pytest.raises(CryodenError, match="agree at no frequency"):
        half_scores(first, through(noise, measured()), {}, VOXEL_SIZE)
    with pytest.raises(CryodenError, match=r"second half: got shape \(48, 192, 63\); .* \(48, 192, 64\)"):
        half_scores(first, second[..., 1:], {}, VOXEL_SIZE)
    with pytest.raises(CryodenError, match=r"an answer has shape \(47, 192, 64\)"):
        half_scores(first, second, {"it": (first, second[1:])}, VOXEL_SIZE)


def test_halves_of_frames_share_their_signal_and_halves_of_tilts_do_not():
    blobs = torch.from_numpy(gaussian_filter(np.random.default_rng(0).normal(size=(48, 96, 128)) ** 3, 1.5)).float()
    step = TiltSeriesDegradation(VOXEL_SIZE)
    made = step.tomograms(blobs / blobs.max(), step.sample(torch.Generator().manual_seed(0)))
    frames = Halves.of(made.first.numpy(), made.second.numpy(), VOXEL_SIZE)
    assert frames.flaw == ""
    mean = (made.first + made.second) / 2
    batch = [each[None, None] for each in (mean, made.noise_free)]
    true = resolution_at(fourier_shell_correlation(*batch), 0.5, VOXEL_SIZE, (48, 96, 128))
    assert frames.input().resolution_half == pytest.approx(float(true), rel=0.1)
    tilts = Halves.of(made.even.numpy(), made.odd.numpy(), VOXEL_SIZE)
    assert "different tilts" in tilts.flaw
    with pytest.raises(CryodenError, match="make halves of even and odd frames"):
        tilts.score(made.even.numpy(), made.odd.numpy())
