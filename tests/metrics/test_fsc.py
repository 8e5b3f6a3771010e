import math

import numpy as np
import pytest
import torch

from cryoden.errors import CryodenError
from cryoden.metrics.fsc import Spectra, fourier_shell_correlation, resolution_at, shell_frequencies
from cryoden.simulation.degradation import MissingWedge


def pair(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(2, 1, *shape, generator=generator)
    return clean + torch.randn(2, 1, *shape, generator=generator), clean


def direct(a: np.ndarray, b: np.ndarray) -> list[float]:
    """The definition, over the whole complex Fourier transform."""
    n = min(a.shape)
    frequencies = np.meshgrid(*(np.fft.fftfreq(size) for size in a.shape), indexing="ij")
    shell = np.rint(np.sqrt(sum(f.astype(np.float32) ** 2 for f in frequencies)) * n)
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    found = []
    for s in range(n // 2 + 1):
        inside = shell == s
        cross = (fa[inside] * fb[inside].conj()).sum().real
        found.append(cross / np.sqrt((np.abs(fa[inside]) ** 2).sum() * (np.abs(fb[inside]) ** 2).sum()))
    return found


@pytest.mark.parametrize("shape", [(16, 16, 16), (15, 15, 15), (8, 12, 17), (12, 20, 16)])
def test_equals_the_definition(shape: tuple[int, int, int]) -> None:
    denoised, clean = pair(*shape)
    correlation = fourier_shell_correlation(denoised, clean)
    assert correlation.shape == (2, len(shell_frequencies(shape)))
    for found, a, b in zip(correlation, denoised, clean, strict=True):
        np.testing.assert_allclose(found, direct(a[0].double().numpy(), b[0].double().numpy()), atol=2e-5)


def test_what_does_not_matter_and_what_does() -> None:
    denoised, clean = pair(16, 16, 16)
    correlation = fourier_shell_correlation(denoised, clean)
    torch.testing.assert_close(fourier_shell_correlation(3 * denoised, 0.1 * clean), correlation)
    torch.testing.assert_close(fourier_shell_correlation(clean, clean), torch.ones(2, 9))
    torch.testing.assert_close(fourier_shell_correlation(-clean, clean), -torch.ones(2, 9))
    assert fourier_shell_correlation(torch.zeros_like(clean), clean).eq(0).all()
    with pytest.raises(CryodenError, match="two batches of shape"):
        fourier_shell_correlation(clean[0], clean[0])


def test_a_region_looks_nowhere_else() -> None:
    denoised, clean = pair(16, 16, 16)
    step = MissingWedge((-40, 40))
    measured = step.measured(clean, [step.sample(torch.Generator())] * 2)
    filled = step.apply(denoised, [step.sample(torch.Generator())] * 2) + clean
    filled = filled - step.apply(clean, [step.sample(torch.Generator())] * 2)  # the truth in the wedge, not elsewhere
    inside = fourier_shell_correlation(filled, clean, ~measured)
    assert inside[:, 0].isnan().all()  # the mean is always measured
    torch.testing.assert_close(inside[:, 2:], torch.ones(2, 7))
    torch.testing.assert_close(
        fourier_shell_correlation(filled, clean, measured), fourier_shell_correlation(denoised, clean, measured)
    )
    torch.testing.assert_close(Spectra.of(filled, clean).correlation(~measured), torch.ones(2))
    torch.testing.assert_close(Spectra.of(filled, clean).power_ratio(~measured), torch.ones(2))


@pytest.mark.parametrize("axis", ["x", "y"])
def test_power_in_the_wedge_is_the_mean_square_of_what_the_wedge_takes_away(axis: str) -> None:
    step = MissingWedge((-60, 50), axis)
    denoised, clean = pair(16, 12, 18)
    parameters = [step.sample(torch.Generator())] * 2
    measured = step.measured(clean, parameters)
    lost = [(volumes - step.apply(volumes, parameters)).square().mean((1, 2, 3, 4)) for volumes in (denoised, clean)]
    torch.testing.assert_close(Spectra.of(denoised, clean).power_ratio(~measured), lost[0] / lost[1])
    left = step.apply(clean, parameters)
    torch.testing.assert_close(Spectra.of(left, clean).power_ratio(~measured), torch.zeros(2), atol=1e-9, rtol=0)
    assert Spectra.of(clean, left).power_ratio(torch.zeros_like(measured)).isnan().all()


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([1.0, 1.0, 0.8, 0.2, 0.0], 10 / (2.5 / 8)),
        ([1.0, 1.0, 1.0, 1.0, 0.9], 20.0),  # never below: Nyquist
        ([1.0, 0.1, 0.9, 0.9, 0.9], math.inf),
        ([math.nan, 1.0, 0.5, 0.4, 0.0], 10 / (2 / 8)),
        ([1.0, 1.0, 0.9, math.nan, 0.0], 10 / ((2 + 0.4 / 1.9) / 8)),
    ],
)
def test_resolution_is_read_off_between_shells(curve: list[float], expected: float) -> None:
    found = resolution_at(torch.tensor([curve]), 0.5, voxel_size=10.0, shape=(8, 8, 8))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_low_pass_filter_shows_at_its_cut_off() -> None:
    _, clean = pair(32, 32, 32)
    spectrum = torch.fft.fftn(clean, dim=(-3, -2, -1))
    z, y, x = torch.meshgrid(*[torch.fft.fftfreq(32)] * 3, indexing="ij")
    spectrum[..., (z**2 + y**2 + x**2).sqrt() > 0.25 + 1e-6] = 0
    filtered = torch.fft.ifftn(spectrum, dim=(-3, -2, -1)).real
    found = resolution_at(fourier_shell_correlation(filtered, clean), 0.5, voxel_size=6.0, shape=(32, 32, 32))
    torch.testing.assert_close(found, torch.full((2,), 6 / 0.25), rtol=0.1, atol=0)


def test_gradients_are_those_of_finite_differences() -> None:
    denoised, clean = (volumes.double()[:1] for volumes in pair(6, 6, 6))
    torch.autograd.gradcheck(lambda v: fourier_shell_correlation(v, clean), denoised.requires_grad_())
    zeros = torch.zeros_like(clean, requires_grad=True)
    fourier_shell_correlation(zeros, clean).sum().backward()
    assert zeros.grad is not None
    assert zeros.grad.isfinite().all()
