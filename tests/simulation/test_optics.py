import math

import pytest
import torch

from cryoden.simulation.optics import (
    aberration,
    contrast_transfer,
    damage,
    deconvolution,
    interaction_constant,
    mean_free_path,
    wavelength,
)

K = torch.linspace(0, 0.25, 200, dtype=torch.float64)


@pytest.mark.parametrize(("voltage", "expected"), [(100, 0.0370), (200, 0.0251), (300, 0.0197)])
def test_wavelength_as_published(voltage: float, expected: float) -> None:
    assert wavelength(voltage) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("voltage", "expected"), [(100, 0.00924), (200, 0.00729), (300, 0.00653)])
def test_interaction_constant_as_published(voltage: float, expected: float) -> None:
    assert interaction_constant(voltage) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("voltage", "speed"), [(100, 0.548), (200, 0.695), (300, 0.776)])
def test_electrons_go_as_far_as_was_measured_and_by_the_square_of_their_speed(voltage: float, speed: float) -> None:
    assert mean_free_path(voltage) == pytest.approx(395 * (speed / 0.776) ** 2, rel=3e-3)


def test_deconvolution_is_wieners_filter_of_a_signal_that_falls_with_the_frequency() -> None:
    k = torch.tensor([0.0, math.log(1000) / 200, 0.1], dtype=torch.float64)  # signal over noise: 1000, 1 and 2e-6
    for transfer in (1.0, -0.5):
        weak = transfer / (transfer**2 + 1)
        expected = torch.tensor([transfer / (transfer**2 + 1e-3), weak, transfer * 2.06e-6], dtype=torch.float64)
        torch.testing.assert_close(deconvolution(k, torch.tensor(transfer)), expected, rtol=2e-3, atol=0)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_contrast_transfer_is_zero_where_it_should_be(n: int) -> None:
    defocus, cs, length = 3.0, 2.7, wavelength(300)
    # π λ Δz k² - π/2 Cs λ³ k⁴ = n π: a quadratic equation for k²
    a, b = cs * 1e7 * length**3 / 2, length * defocus * 1e4
    zero = math.sqrt((b - math.sqrt(b**2 - 4 * a * n)) / (2 * a))
    around = torch.tensor([zero - 1e-4, zero, zero + 1e-4], dtype=torch.float64)
    values = contrast_transfer(aberration(around, torch.tensor(defocus), 300, cs), 0.0)
    assert values[1].abs() < 1e-5
    assert values[0] * values[2] < 0


def test_contrast_transfer_starts_at_the_amplitude_contrast() -> None:
    values = contrast_transfer(aberration(K, torch.tensor(2.5), 300, 2.7), 0.07)
    assert values[0].item() == pytest.approx(0.07)
    assert values[1] > values[0]  # under focus adds to it
    assert contrast_transfer(aberration(K, torch.tensor(-2.5), 300, 2.7), 0.07)[20] < 0
    assert values.abs().max() <= 1


def test_contrast_transfer_is_torch_ctfs() -> None:
    library = pytest.importorskip("torch_ctf")
    theirs = library.calculate_ctf_1d(
        defocus=2.5, voltage=300, spherical_aberration=2.7, amplitude_contrast=0.1, phase_shift=0, pixel_size=2.0,
        n_samples=200, oversampling_factor=1,
    )  # fmt: skip
    ours = contrast_transfer(aberration(K, torch.tensor(2.5), 300, 2.7), 0.1)
    torch.testing.assert_close(ours.float(), theirs, atol=2e-3, rtol=0)


def test_damage_is_the_published_curve() -> None:
    # Grant and Grigorieff 2015: critical exposures of 300 kV electrons, from 0.245 k^-1.665 + 2.81
    resolution = torch.tensor([40.0, 10.0, 3.0], dtype=torch.float64)
    critical = torch.tensor([0.245 * 40**1.665 + 2.81, 0.245 * 46.238 + 2.81, 0.245 * 6.2288 + 2.81])
    left = damage(1 / resolution, 2 * critical, 300)
    torch.testing.assert_close(left, torch.full((3,), math.exp(-1), dtype=torch.float64), rtol=1e-3, atol=0)
    dose = torch.tensor(20.0)
    torch.testing.assert_close(damage(K, 0.8 * dose, 200), damage(K, dose, 300))
    assert damage(torch.tensor(0.0), torch.tensor(500.0), 300).item() == pytest.approx(1)
    assert (damage(K, dose, 300).diff() <= 0).all()


def test_damage_is_torch_fourier_filters() -> None:
    library = pytest.importorskip("torch_fourier_filter.dose_weight")
    theirs = torch.exp(-20 / (2 * library.critical_exposure(K[1:])))
    torch.testing.assert_close(damage(K[1:], torch.tensor(20.0), 300), theirs)
