"""The grey scale of volumes: the specimen's, whatever else they hold."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from cryoden.scaling import Scale, filled, sampled_rows, without_hot


def volumes(offset: float = 0.0, seed: int = 0, shape: tuple[int, int, int] = (12, 20, 24)) -> Tensor:
    return torch.randn(3, 1, *shape, generator=torch.Generator().manual_seed(seed)) + offset


def standardized(x: Tensor) -> Tensor:
    scale = Scale.of(x)
    return scale.standardize(x, scale.left_out(x))


def agreement(a: Tensor, b: Tensor) -> float:
    return float(np.corrcoef(a.flatten(), b.flatten())[0, 1])


def test_noise_is_brought_to_background_0_and_spread_1_each():
    x = volumes(shape=(24, 40, 40)) * torch.tensor([1e-6, 1.0, 1e6]).view(3, 1, 1, 1, 1) + torch.tensor(
        [0.0, 3.0, -1e7]
    ).view(3, 1, 1, 1, 1)
    flat = standardized(x).flatten(1)
    torch.testing.assert_close(flat.median(1).values, torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(flat.std(1), torch.ones(3), atol=0.02, rtol=0)
    scale = Scale.of(x)
    assert scale.level.shape == scale.spread.shape == scale.masked.shape == (3, 1, 1, 1, 1)


def test_numpy_agrees_on_the_quartiles():
    x = volumes(7.0)
    scale = Scale.of(x)
    lower, level, upper = np.quantile(x.double().flatten(1), (0.25, 0.5, 0.75), axis=1)
    np.testing.assert_allclose(scale.level.flatten(), level, atol=1e-3)
    np.testing.assert_allclose(scale.spread.flatten(), (upper - lower) / 1.349, atol=2e-3)


@pytest.mark.parametrize(("a", "b"), [(1.0, 5000.0), (1e-4, 0.0), (300.0, -7.0), (1e5, 1e6), (1e-20, 0.0)])
def test_any_function_between_follows_the_grey_scale(a, b):
    def f(x: Tensor) -> Tensor:
        scale = Scale.of(x)
        shown = scale.standardize(x, scale.left_out(x))
        return scale.restore(torch.nn.functional.softplus(shown).roll(1, -1))

    x = (volumes() * 64).round() / 64  # so that a x + b loses no bits to rounding where a = 1
    resolution = 2**-23 * (abs(b) + 5 * a)
    torch.testing.assert_close(f(a * x + b), a * f(x) + b, atol=4 * resolution, rtol=0)


@pytest.mark.parametrize("offset", [5000.0, -1e6])
def test_nothing_is_lost_of_a_large_offset(offset):
    x = volumes(offset)
    exact = x.double()
    lower, level, upper = np.quantile(exact.flatten(1), (0.25, 0.5, 0.75), axis=1)
    level, spread = (torch.from_numpy(each).view(3, 1, 1, 1, 1) for each in (level, (upper - lower) / 1.349))
    torch.testing.assert_close(standardized(x), ((exact - level) / spread).float(), atol=2e-3, rtol=2e-3)
    scale = Scale.of(x)
    torch.testing.assert_close(scale.standardize(x, scale.left_out(x)), ((exact - scale.level) / scale.spread).float())


def test_restore_undoes_standardize():
    x = volumes(2.0) * 7
    torch.testing.assert_close(Scale.of(x).restore(standardized(x)), x, atol=1e-5, rtol=0)


def test_an_empty_answer_is_the_background():
    x = volumes(5000.0)
    restored = Scale.of(x).restore(torch.zeros_like(x))
    torch.testing.assert_close(restored.flatten(1).mean(1), x.flatten(1).median(1).values, atol=0.02, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 40), (40, 1, 1), (4, 4, 4), (3, 4, 8)])
@pytest.mark.parametrize("value", [0.0, 1.0, 5000.1, -1e20])
def test_constant_volumes_become_zeros(value, shape):
    x = torch.full((1, 1, *shape), value)
    assert standardized(x).abs().max() < 1e-5
    torch.testing.assert_close(Scale.of(x).restore(torch.zeros_like(x)), x)


@pytest.mark.parametrize("shape", [(1, 1, 2), (2, 1, 1), (1, 30, 1), (1, 2, 3)])
def test_small_volumes_have_a_scale(shape):
    x = volumes(shape=shape)
    shown = standardized(x)
    assert shown.isfinite().all()
    assert shown.abs().max() > 0.1
    assert not Scale.of(x).left_out(x).any()


def test_gradient_flows_through_the_density_only():
    x, density = volumes().requires_grad_(), volumes(seed=1).requires_grad_()
    Scale.of(x).restore(density).square().sum().backward()
    assert x.grad is None
    assert density.grad is not None
    assert density.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.float16, torch.float64])
@pytest.mark.parametrize("spread", [3.0, 20.0])
def test_other_types_of_voxel_have_the_scale_of_their_values(dtype, spread):
    x = (volumes(shape=(24, 40, 40)) * spread + 100).round().clamp(0, 255)
    found, expected = standardized(x.to(dtype)), (x - 100) / spread
    assert found.dtype == torch.float32
    assert all(agreement(a, b) > 0.99999 for a, b in zip(found, expected, strict=True))
    torch.testing.assert_close(found, expected, atol=1 / spread, rtol=0.15)


@pytest.mark.parametrize("shape", [(8, 8, 8), (40, 64, 64), (70, 300, 301), (3, 2000, 1)])
def test_the_rows_sampled_are_enough_and_each_is_named_once(shape):
    rows = sampled_rows(shape)
    depth, height, width = shape
    assert len(rows) * width >= min(2**16, depth * height * width)
    assert len(rows) * width < 2**16 + width
    assert (np.diff(rows) > 0).all()
    assert rows[0] >= 0
    assert rows[-1] < depth * height


def test_some_rows_tell_the_scale_of_a_large_volume():
    x = volumes(shape=(40, 100, 100))
    scale = Scale.of(x)
    lower, level, upper = np.quantile(x.flatten(1), (0.25, 0.5, 0.75), axis=1)
    np.testing.assert_allclose(scale.level.flatten(), level, atol=0.02)
    np.testing.assert_allclose(scale.spread.flatten(), (upper - lower) / 1.349, atol=0.02)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize(("length", "told"), [(7, False), (8, True), (9, True), (30, True)])
@pytest.mark.parametrize("place", [0, 5, -1])
def test_a_line_of_eight_equal_voxels_is_filled(length, told, place, axis):
    x = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(2, 64, 64, dtype=torch.bool)
    start = place if place >= 0 else 64 - length
    x[1].movedim(axis, 0)[start : start + length, 3] = 0.5
    expected[1].movedim(axis, 0)[start : start + length, 3] = told
    assert torch.equal(filled(x), expected)


def test_what_is_smaller_than_eight_voxels_is_never_filled():
    assert not filled(torch.zeros(40, 7, 7)).any()


def margin(x: Tensor) -> None:
    x[..., :3, :] = x[..., -3:, :] = x[..., :4] = x[..., -4:] = x.min() - 1000


def sections(x: Tensor) -> None:
    x[..., :3, :, :] = 0


def vacuum(x: Tensor) -> None:
    """Above and below a lamella a reconstruction program fills with the mean."""
    x[..., :5, :, :] = x[..., -5:, :, :] = x.mean()


@pytest.mark.parametrize("spoil", [margin, sections, vacuum])
def test_what_is_filled_with_one_value_counts_in_no_statistic(spoil: Callable[[Tensor], None]):
    x = volumes(100.0, shape=(24, 40, 40))
    spoilt = x.clone()
    spoil(spoilt)
    scale, expected = Scale.of(spoilt), Scale.of(x)
    changed = spoilt != x
    assert torch.equal(scale.left_out(spoilt), changed)
    torch.testing.assert_close(scale.level, expected.level, atol=0.02, rtol=0)
    torch.testing.assert_close(scale.spread, expected.spread, atol=0.02, rtol=0)
    shown = standardized(spoilt)
    assert (shown[changed] == 0).all()
    torch.testing.assert_close(shown[~changed], standardized(x)[~changed], atol=0.1, rtol=0)


def test_the_empty_background_of_a_simulation_is_no_margin():
    """A clean volume is one value nearly everywhere, and what is left must not be its scale."""
    x = torch.zeros(1, 1, 32, 32, 32)
    x[..., 12:18, 12:18, 12:18] = torch.rand(6, 6, 6, generator=torch.Generator().manual_seed(0)) + 0.5
    scale = Scale.of(x)
    assert float(scale.level) == 0
    assert not scale.left_out(x).any()


@pytest.mark.parametrize("share", [1e-6, 1e-3, 0.02])
def test_gold_moves_the_scale_by_little(share):
    """Beads of 9 voxels across and 60 deviations high."""
    x = volumes(shape=(40, 64, 64))[:1]
    spoilt = x.clone()
    z, y, across = np.indices((9, 9, 9)) - 4
    bead = torch.from_numpy(z**2 + y**2 + across**2 <= 16)
    rng = np.random.default_rng(0)
    while float((spoilt > 20).float().mean()) < share:
        start = [int(rng.integers(size - 9)) for size in x.shape[2:]]
        box = spoilt[0, 0, start[0] : start[0] + 9, start[1] : start[1] + 9, start[2] : start[2] + 9]
        box[bead] = 60.0 + torch.rand(int(bead.sum()), generator=torch.Generator().manual_seed(0))
    ice = spoilt == x
    scale, expected = Scale.of(spoilt), Scale.of(x)
    torch.testing.assert_close(scale.level, expected.level, atol=0.04, rtol=0)
    torch.testing.assert_close(scale.spread, expected.spread, atol=0.04, rtol=0)
    torch.testing.assert_close(standardized(spoilt)[ice], standardized(x)[ice], atol=0.2, rtol=0)


@pytest.mark.parametrize("height", [-8.0, -30.0, 8.0])
def test_vacuum_does_not_move_the_scale_of_the_ice(height):
    """In a third of the sections, as noisy as the ice."""
    x = volumes(100.0, shape=(24, 40, 40))
    spoilt = x.clone()
    spoilt[:, :, :4] += height
    spoilt[:, :, -4:] += height
    scale, expected = Scale.of(spoilt), Scale.of(x)
    torch.testing.assert_close(scale.level, expected.level, atol=0.03, rtol=0)
    torch.testing.assert_close(scale.spread, expected.spread, atol=0.05, rtol=0)


@pytest.mark.parametrize("value", [1000.0, -1000.0])
@pytest.mark.parametrize("share", [None, 1e-3])
def test_hot_and_dead_voxels_become_like_a_neighbour(value, share):
    x = volumes(100.0, shape=(24, 40, 40))
    spoilt = x.clone()
    if share is None:
        spoilt[:, :, 12, 20, 20] = value
    else:
        spoilt[torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < share] = value
    hot = spoilt != x
    shown, expected = standardized(spoilt), standardized(x)
    torch.testing.assert_close(shown[~hot], expected[~hot], atol=0.02, rtol=0)
    assert shown[hot].abs().max() < 6


def test_a_hot_voxel_takes_the_nearest_of_the_four_around_it():
    x = volumes(shape=(3, 5, 5))[0, 0]
    for z, y, across in ((1, 2, 2), (0, 0, 0), (2, 4, 1)):
        spoilt = x.clone()
        spoilt[z, y, across] = 50
        calm, which = without_hot(spoilt)
        around = [(y - 1, across), (y + 1, across), (y, across - 1), (y, across + 1)]
        brightest = max(float(x[z, i, j]) for i, j in around if 0 <= i < 5 and 0 <= j < 5)
        assert float(calm[z, y, across]) == brightest
        assert which.nonzero().tolist() == [[z, y, across]]
        spoilt[z, y, across] = -50
        assert float(without_hot(spoilt)[0][z, y, across]) == min(
            float(x[z, i, j]) for i, j in around if 0 <= i < 5 and 0 <= j < 5
        )


def test_noise_and_what_is_wider_than_a_voxel_stay():
    x = volumes()[0, 0]
    x[4:7, 4:7, 4:7] = 40.0
    calm, which = without_hot(x)
    assert torch.equal(calm, x)
    assert not which.any()


def test_a_voxel_is_hot_from_16_spreads_above_its_neighbours_on() -> None:
    x = torch.zeros(3, 5, 5)
    x[1, 2, 2], x[2, 1, 3] = 15.9, 16.1
    calm, which = without_hot(x)
    assert which.nonzero().tolist() == [[2, 1, 3]]
    assert calm.max() == x[1, 2, 2]


def test_nothing_of_a_specimen_is_further_than_64_spreads_from_the_background() -> None:
    x = volumes(shape=(24, 40, 40))
    x[:, :, 4:8, 4:8, 4:8] = 500.0
    x[:, :, 14:18, 4:8, 4:8] = -500.0
    shown = standardized(x)
    assert (shown.amin().item(), shown.amax().item()) == (-64, 64)


def test_where_there_is_no_noise_the_spread_is_a_32nd_of_what_the_specimen_spans() -> None:
    x = torch.zeros(1, 1, 32, 32, 32)
    x[..., 10:21, 10:21, 10:21] = 3.2  # of 4 % of the voxels
    assert Scale.of(x).spread.item() == pytest.approx(0.1)


@pytest.mark.parametrize(("specimen", "told"), [(4, True), (1, False)])
def test_a_margin_is_left_out_if_a_twentieth_of_the_volume_is_specimen(specimen: int, told: bool) -> None:
    x = torch.zeros(1, 1, 8, 40, 40)
    x[..., :specimen] = volumes(shape=(8, 40, specimen))[:1]
    assert bool(Scale.of(x).left_out(x).any()) is told
