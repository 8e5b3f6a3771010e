import pytest
import torch

from cryoden.scaling import Scale, offset_of, restore, standardize


def volumes(offset: float = 0.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 2, 9, 8, 7, generator=torch.Generator().manual_seed(seed)) + offset


def test_standardized_volumes_have_mean_0_and_std_1_each():
    x = volumes() * torch.tensor([1e-6, 1.0, 1e6]).view(3, 1, 1, 1, 1) + 3
    flat = standardize(x[1:], Scale.of(x[1:])).flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(flat.std(1, correction=0), torch.ones(2), atol=1e-6, rtol=0)
    assert Scale.of(x).mean.shape == Scale.of(x).std.shape == (3, 1, 1, 1, 1)


@pytest.mark.parametrize("offset", [5000.0, -1e6])
def test_statistics_of_a_large_offset(offset):
    x = volumes(offset)
    scale = Scale.of(x)
    expected = x.double()
    torch.testing.assert_close(scale.mean.flatten(), expected.mean(dim=(1, 2, 3, 4)), rtol=1e-12, atol=0)
    torch.testing.assert_close(scale.std.flatten(), expected.flatten(1).std(1, correction=0), rtol=1e-9, atol=0)


def test_standardize_loses_nothing_of_a_large_offset():
    x = volumes(5000.0)
    exact = x.double()
    exact = (exact - exact.mean(dim=(1, 2, 3, 4), keepdim=True)) / exact.flatten(1).std(1, correction=0).view(
        3, 1, 1, 1, 1
    )
    torch.testing.assert_close(standardize(x, Scale.of(x)), exact.float(), atol=1e-6, rtol=0)


def test_restore_undoes_standardize():
    x = volumes(2.0) * 7
    scale = Scale.of(x)
    torch.testing.assert_close(restore(standardize(x, scale), scale), x, atol=1e-5, rtol=0)


def test_restore_gives_the_mean_of_the_input_whatever_the_density():
    x = volumes(5000.0)
    density = torch.nn.functional.softplus(volumes(seed=1))
    restored = restore(density, Scale.of(x)).double()
    torch.testing.assert_close(restored.mean(dim=(1, 2, 3, 4)), x.double().mean(dim=(1, 2, 3, 4)), atol=5e-4, rtol=0)


@pytest.mark.parametrize(("a", "b"), [(1.0, 5000.0), (1e-4, 0.0), (300.0, -7.0), (1e5, 1e6)])
def test_any_function_between_follows_the_grey_scale(a, b):
    def f(x: torch.Tensor) -> torch.Tensor:
        scale = Scale.of(x)
        return restore(torch.nn.functional.softplus(standardize(x, scale)).roll(1, -1), scale)

    x = (volumes() * 64).round() / 64  # so that a x + b loses no bits to rounding where a = 1
    resolution = 2**-23 * (abs(b) + 5 * a)
    torch.testing.assert_close(f(a * x + b), a * f(x) + b, atol=4 * resolution, rtol=0)


@pytest.mark.parametrize("value", [0.0, 1.0, 5000.1, -1e20])
def test_constant_volume_becomes_zeros(value):
    x = torch.full((1, 1, 4, 4, 4), value)
    assert standardize(x, Scale.of(x)).abs().max() < 1e-5
    torch.testing.assert_close(restore(torch.zeros_like(x), Scale.of(x)), x)


def test_gradient_flows_through_the_density_only():
    x, density = volumes().requires_grad_(), volumes(seed=1).requires_grad_()
    restore(density, Scale.of(x)).square().sum().backward()
    assert x.grad is None
    assert density.grad is not None
    assert density.grad.isfinite().all()


@pytest.mark.parametrize("gain", [1.0, 40.0])
def test_the_mean_of_noise_is_found_whatever_the_unit(gain):
    """Salt in a twentieth of the voxels raises the mean of an empty volume by 0.05, and its deviation is 0.218."""
    clean = torch.zeros(4, 1, 32, 32, 32)
    chance = torch.rand(clean.shape, generator=torch.Generator().manual_seed(0))
    degraded = torch.where(chance < 0.05, 1.0, clean)
    offset = offset_of(gain * degraded + 7, gain * clean + 7)
    assert float(offset) == pytest.approx(-0.05 / (0.05 * 0.95) ** 0.5, rel=0.02)
    scale = Scale.of(degraded)
    torch.testing.assert_close(restore(clean, scale, float(offset)), clean, atol=2e-3, rtol=0)
