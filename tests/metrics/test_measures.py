import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from cryoden.evaluation.baselines import gaussian_filter
from cryoden.metrics import CURVES, MEASURES, measure, percentiles
from cryoden.simulation.degradation import MissingWedge

WEDGE = MissingWedge((-50, 50))


@pytest.fixture(scope="module")
def clean() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    volumes = gaussian_filter((torch.rand(2, 1, 24, 24, 24, generator=generator) > 0.99).float(), 1.2)
    return volumes / volumes.amax((1, 2, 3, 4), keepdim=True)


def wedge_of(volumes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a tilt series leaves of volumes, and where it looked."""
    parameters = [WEDGE.sample(torch.Generator())] * len(volumes)
    return WEDGE.apply(volumes, parameters), WEDGE.measured(volumes, parameters)


def test_the_truth_scores_best(clean: torch.Tensor) -> None:
    values, curves = measure(clean, clean, wedge_of(clean)[1], 10.0)
    assert list(values) == list(MEASURES)
    assert list(curves) == list(CURVES)
    best = {"nrmse": 0, "masked_nrmse": 0, "mse": 0, "psnr": math.inf, "ssim": 1, "masked_ssim": 1, "fsc_area": 1}
    best |= {"resolution_0.5": 20, "resolution_0.143": 20, "fsc_measured": 1, "fsc_wedge": 1, "wedge_power": 1}
    for name, expected in {**best, "invented": 0, "sharpness": 1}.items():
        assert values[name].tolist() == pytest.approx([expected] * 2, abs=1e-5), name


def test_what_is_blurred_is_not_sharp_and_noise_is_too_sharp(clean: torch.Tensor) -> None:
    blurred = torch.nn.functional.avg_pool3d(clean, 3, stride=1, padding=1)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    coarse = torch.ones_like(clean) * clean.mean()  # no detail was changed
    for volumes, low, high in ((blurred, 0.0, 0.5), (noisy, 1.5, math.inf), (clean + coarse, 1 - 1e-4, 1 + 1e-4)):
        values, _ = measure(volumes, clean, wedge_of(clean)[1], 10.0)
        assert (values["sharpness"] > low).all()
        assert (values["sharpness"] < high).all()


def test_the_wedge_tells_what_was_filled_in_from_what_was_invented(clean: torch.Tensor) -> None:
    left, measured = wedge_of(clean)
    lost = clean - left
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    invented = noise - wedge_of(noise)[0]
    invented *= lost.square().mean().sqrt() / invented.square().mean().sqrt()
    nothing, _ = measure(left, clean, measured, 10.0)
    truth, _ = measure(left + 0.5 * lost, clean, measured, 10.0)
    false, _ = measure(left + invented, clean, measured, 10.0)
    wrong, _ = measure(left - 0.5 * lost, clean, measured, 10.0)
    assert nothing["wedge_power"].max() < 1e-6
    assert nothing["invented"].isnan().all()
    assert nothing["fsc_wedge"].tolist() == [0, 0]
    torch.testing.assert_close(truth["wedge_power"], torch.full((2,), 0.25))
    assert truth["invented"].max() < 1e-4
    assert false["invented"].min() > 0.95
    assert wrong["invented"].tolist() == [1, 1]  # density of the wrong sign is none of the truth
    half, _ = measure(left + lost + invented, clean, measured, 10.0)
    powers = [volumes.square().mean((1, 2, 3, 4)) for volumes in (lost, invented)]
    torch.testing.assert_close(half["invented"], powers[1] / (powers[0] + powers[1]), atol=0.05, rtol=0)
    for found in (nothing, truth, false):  # what was measured is the same in all
        torch.testing.assert_close(found["fsc_measured"], torch.ones(2), atol=1e-4, rtol=0)
    assert truth["fsc_wedge"].min() > 0.99
    assert false["fsc_wedge"].abs().max() < 0.3


def test_the_mean_of_a_volume_is_no_part_of_what_its_fsc_tells(clean: torch.Tensor) -> None:
    other = clean - 2 * clean.mean((2, 3, 4), keepdim=True)
    values, curves = measure(other, clean, wedge_of(clean)[1], 10.0)
    assert curves["fsc"][:, 0].tolist() == pytest.approx([-1, -1])
    for name in ("fsc_area", "fsc_measured", "fsc_wedge"):
        assert values[name].tolist() == pytest.approx([1, 1]), name


def test_each_resolution_is_read_off_at_its_own_threshold() -> None:
    """Beyond a half of Nyquist, 40 Å, what is denoised is like the truth by 0.3."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 1, 1, 32, 32, 32, generator=generator, dtype=torch.float64)
    frequency = torch.fft.fftfreq(32)
    far = frequency[:, None, None].square() + frequency[:, None].square() + torch.fft.rfftfreq(32).square() > 0.25**2
    truth, other = (torch.fft.rfftn(each[0, 0]) for each in (clean, noise))
    denoised = torch.fft.irfftn(torch.where(far, 0.3 * truth + (1 - 0.3**2) ** 0.5 * other, truth))[None, None]
    values, _ = measure(denoised, clean, torch.ones(1, 1, 1, 1, dtype=torch.bool), 10.0)
    assert values["resolution_0.5"].item() == pytest.approx(40, rel=0.1)
    assert values["resolution_0.143"].item() == pytest.approx(20)


def test_what_is_wrong_far_from_the_particle_is_no_error_in_its_mask() -> None:
    """The mask is where density is above 5 % of the maximum, and two voxels around."""
    clean = torch.zeros(1, 1, 28, 28, 28)
    clean[..., 10:16, 10:16, 10:16] = 1 - 0.2 * torch.rand(6, 6, 6, generator=torch.Generator().manual_seed(0))
    clean[..., 13, 13, 16], clean[..., 13, 13, 17] = 0.06, 0.04
    everywhere = torch.ones(1, 1, 1, 1, dtype=torch.bool)

    def wrong(x: int) -> dict[str, float]:
        denoised = clean.clone()
        denoised[..., 13, 13, x] += 0.5
        return {name: value.item() for name, value in measure(denoised, clean, everywhere, 10.0)[0].items()}

    assert wrong(18)["masked_nrmse"] == pytest.approx(wrong(18)["nrmse"]) != 0
    assert wrong(19)["masked_nrmse"] == 0 < wrong(19)["nrmse"]
    assert wrong(23)["masked_ssim"] == 1 > wrong(23)["ssim"]


def test_an_empty_volume_resolves_nothing_and_a_volume_without_wedge_has_none(clean: torch.Tensor) -> None:
    everywhere = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    values, _ = measure(torch.zeros_like(clean), clean, everywhere, 10.0)
    assert values["nrmse"].tolist() == values["masked_nrmse"].tolist() == [1, 1]
    assert values["resolution_0.5"].tolist() == [math.inf] * 2
    assert {name for name, value in values.items() if value.isnan().all()} == {"fsc_wedge", "wedge_power", "invented"}


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("resolution_0.5", math.inf, "–"),
        ("invented", math.nan, "–"),
        ("mse", 0.0012345, "1.234"),
        ("mse", 0.0123456, "12.35"),  # four digits count: a column of a terminal is no wider
        ("mse", 123.0, "123000"),
        ("psnr", 34.567, "34.57"),
        ("psnr", -3.0, "-3.00"),
        ("resolution_0.5", 20.0, "20.0"),
    ],
)
def test_values_are_shown_in_their_unit(name: str, value: float, text: str) -> None:
    assert MEASURES[name].show(value) == text


def test_a_measure_alone_is_what_it_is_among_all(clean: torch.Tensor) -> None:
    denoised = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    measured = wedge_of(clean)[1]
    together, _ = measure(denoised, clean, measured, 10.0)
    for name, each in MEASURES.items():
        torch.testing.assert_close(each(denoised, clean, measured, 10.0), together[name], rtol=0, atol=0)
    assert MEASURES["resolution_0.5"](denoised, clean, measured).isnan().all()  # in Å, of voxels of an unknown size
    assert all(each.about and each.heading for each in MEASURES.values())


def test_each_volume_is_measured_for_itself(clean: torch.Tensor) -> None:
    denoised = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    measured = wedge_of(clean)[1]
    together, _ = measure(denoised, clean, measured, 10.0)
    alone, _ = measure(denoised[1:], clean[1:], measured[1:], 10.0)
    for name, value in alone.items():
        torch.testing.assert_close(together[name][1:], value)


@pytest.mark.parametrize("n", [1, 2, 13])
def test_percentiles_equal_numpy_and_stand_infinities(n: int) -> None:
    values = np.random.default_rng(n).random(n)
    assert percentiles(values) == pytest.approx(list(np.percentile(values, (5, 50, 95))))
    assert percentiles([*values, math.nan]) == percentiles(values)
    assert percentiles([math.inf, 20.0, math.inf]) == [20.0, math.inf, math.inf]
    assert all(math.isnan(v) for v in percentiles([math.nan]))


def test_measuring_needs_neither_lightning_nor_torchmetrics() -> None:
    code = "import sys, cryoden.metrics, cryoden.losses; print({'lightning', 'torchmetrics'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
