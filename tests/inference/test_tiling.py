from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cryoden.errors import CryodenError
from cryoden.inference.tiling import Tile, TileGrid, fit_tile, tiled, window


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def uniform(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@st.composite
def tilings(draw: st.DrawFn) -> tuple[tuple[int, int, int], tuple[int, int, int], int]:
    shape = draw(st.tuples(*[st.integers(1, 23)] * 3))
    tile = draw(st.tuples(*[st.integers(1, 16)] * 3))
    overlap = draw(st.integers(0, min(tile) - 1))
    assume(len(TileGrid(shape, tile, overlap)) <= 400)
    return shape, tile, overlap


@given(tilings(), st.integers(1, 5))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_identity_gives_the_volume_back(tiling, batch_size):
    shape, tile, overlap = tiling
    volume = uniform(*shape)
    result = tiled(lambda tiles: tiles, volume, tile=tile, overlap=overlap, batch_size=batch_size)
    np.testing.assert_allclose(result, volume, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("shape", "tile", "overlap"),
    [
        ((97, 64, 31), (64, 64, 64), 16),
        ((36, 206, 94), (72, 128, 126), 32),
        ((1, 5, 70), (64, 64, 64), 63),
        ((8, 8, 8), (64, 8, 16), 0),
    ],
)
def test_identity_at_real_tiles(shape, tile, overlap):
    volume = uniform(*shape)
    np.testing.assert_allclose(tiled(lambda x: x, volume, tile=tile, overlap=overlap), volume, atol=1e-6, rtol=0)


@given(tilings())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_every_voxel_lies_half_an_overlap_inside_a_tile(tiling):
    shape, tile, overlap = tiling
    grid = TileGrid(shape, tile, overlap)
    for axis, size in enumerate(shape):
        starts = sorted({each.start[axis] for each in grid})
        assert all(b - a == tile[axis] - overlap for a, b in pairwise(starts))
        assert starts[0] <= -(overlap // 2)
        assert starts[-1] + tile[axis] >= size + overlap // 2
        assert all(-tile[axis] < start < size for start in starts)


@given(st.tuples(*[st.integers(1, 400)] * 3), st.integers(2, 12), st.integers(0, 24), st.sampled_from([1, 4, 8, 16]))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_fitted_tile_covers_in_as_many_tiles_and_is_no_larger_than_it_must_be(shape, steps, overlap, multiple):
    largest = overlap // multiple * multiple + steps * multiple
    tile = fit_tile(shape, largest, overlap, multiple)
    assert max(tile) <= largest
    assert not any(edge % multiple for edge in tile)
    assert len(TileGrid(shape, tile, overlap)) == len(TileGrid(shape, (largest,) * 3, overlap))
    for axis in range(3):
        smaller = [*tile]
        smaller[axis] -= multiple
        if smaller[axis] > overlap:
            assert len(TileGrid(shape, tuple(smaller), overlap)) > len(TileGrid(shape, tile, overlap))


def test_padding_mirrors_as_often_as_needed():
    grid = TileGrid((1, 2, 3), tile=(10, 10, 10), overlap=0)
    volume = np.arange(6).reshape(1, 2, 3)
    cube = grid.cut(volume, Tile((0, 0, 0), (-4, -4, -4)))
    assert cube[0, 4].tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0, 1]
    assert cube[0, :, 4].tolist() == [0, 3] * 5
    assert (cube == cube[:1]).all()


@pytest.mark.parametrize(("tile", "overlap"), [(64, 16), (64, 32), (17, 5), (8, 7), (5, 0), (1, 0)])
def test_window_is_positive_symmetric_and_smooth(tile, overlap):
    weights = window(tile, overlap)
    assert weights.shape == (tile,)
    assert (weights > 0).all()
    assert (weights <= 1).all()
    np.testing.assert_allclose(weights, weights[::-1])
    if overlap:
        assert np.abs(np.diff(weights)).max() <= np.pi / overlap


class Smoother(nn.Module):
    """A random network that sees `radius` voxels around each."""

    def __init__(self, radius: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for i in range(radius):
            layers += [nn.Conv3d(1 if i == 0 else 4, 4, 3, padding=1), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*layers, nn.Conv3d(4, 1, 1))

    def forward(self, volumes: Tensor) -> Tensor:
        denoised: Tensor = self.layers(volumes)
        return denoised


@pytest.mark.parametrize(
    ("radius", "tile", "overlap"),
    [(2, (16, 16, 16), 8), (3, (24, 20, 28), 12), (4, (32, 32, 24), 16), (1, (20, 50, 10), 6)],
)
def test_no_seams(radius, tile, overlap):
    """The receptive field 2 r + 1 is smaller than the overlap, so the grid leaves no trace."""
    network = Smoother(radius)
    volume = noise(40, 45, 50)
    whole = network(torch.from_numpy(volume)[None, None])[0, 0].detach().numpy()
    first = tiled(network, volume, tile=tile, overlap=overlap, batch_size=8)
    shifted = tiled(network, volume[3:, 5:, 7:], tile=tile, overlap=overlap, batch_size=8)
    inner = slice(radius, -radius)
    bound = 1e-4 * whole.std()
    assert np.abs((first - whole)[inner, inner, inner]).max() < bound
    assert np.abs((first[3:, 5:, 7:] - shifted)[inner, inner, inner]).max() < bound


def test_seam_test_sees_seams():
    network = Smoother(2)
    volume = noise(40, 40, 40)
    first = tiled(network, volume, tile=(16, 16, 16), overlap=0)
    shifted = tiled(network, volume[5:], tile=(16, 16, 16), overlap=0)
    assert np.abs((first[5:] - shifted)[2:-2]).max() > 0.1 * first.std()


def test_progress_and_batches():
    seen: list[tuple[int, int]] = []
    sizes: list[int] = []

    def function(tiles: Tensor) -> Tensor:
        sizes.append(len(tiles))
        return tiles

    volume = noise(20, 12, 12)
    tiled(function, volume, tile=(8, 8, 8), overlap=2, batch_size=5, progress=lambda *count: seen.append(count))
    total = len(TileGrid((20, 12, 12), (8, 8, 8), 2))
    assert sum(sizes) == total
    assert set(sizes[:-1]) == {5}
    assert seen == [(min(5 * (i + 1), total), total) for i in range(len(sizes))]


@pytest.mark.parametrize(("tile", "overlap", "batch_size"), [(8, 8, 1), (8, -1, 1), (0, 0, 1), (8, 2, 0)])
def test_arguments_out_of_range(tile, overlap, batch_size):
    with pytest.raises(CryodenError, match=r"overlap must be|batch size 0"):
        tiled(lambda x: x, noise(9, 9, 9), tile=(tile, 9, 9), overlap=overlap, batch_size=batch_size)


def test_function_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"returned shape \(1, 1, 4, 4, 4\)"):
        tiled(lambda x: x[..., ::2, ::2, ::2], noise(9, 9, 9), tile=(8, 8, 8), overlap=2)


@pytest.mark.parametrize("dtype", [np.int8, ">i2", np.uint16, ">f4", np.float16])
def test_every_type_of_voxel_and_reduced_precision(dtype):
    volume = np.random.default_rng(0).integers(0, 100, (9, 10, 11)).astype(dtype)
    result = tiled(lambda x: x.bfloat16(), volume, tile=(8, 8, 8), overlap=4)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, volume.astype(float), atol=1e-4, rtol=0)


def test_mapped_files_give_the_same(tmp_path):
    network = Smoother(2)
    volume = noise(30, 31, 32)
    mapped = np.memmap(tmp_path / "in", np.float32, mode="w+", shape=volume.shape)
    mapped[:] = volume
    result = np.memmap(tmp_path / "out", np.float64, mode="w+", shape=volume.shape)
    result[:] = 7
    returned = tiled(network, mapped, tile=(16, 16, 16), overlap=4, result=result)
    assert returned is result
    np.testing.assert_array_equal(result, tiled(network, volume, tile=(16, 16, 16), overlap=4))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_halves_the_batch_and_goes_on(error, caplog):
    sizes: list[int] = []

    def function(tiles: Tensor) -> Tensor:
        sizes.append(len(tiles))
        if len(tiles) > 2:
            raise error
        return tiles * 3

    volume = noise(20, 20, 20)
    result = tiled(function, volume, tile=(8, 8, 8), overlap=2, batch_size=11)
    np.testing.assert_allclose(result, volume * 3, atol=1e-5)
    assert sizes[:3] == [11, 5, 2]
    assert set(sizes[3:-1]) == {2}
    assert "out of memory with 11 tiles of 8 × 8 × 8 voxels at once; trying 5" in caplog.text


def test_out_of_memory_with_one_tile_and_other_errors_are_raised():
    def function(tiles: Tensor) -> Tensor:
        raise RuntimeError("out of memory" if len(tiles) == 1 else "a bug")

    with pytest.raises(RuntimeError, match="out of memory"):
        tiled(function, noise(9, 9, 9), tile=(8, 8, 8), overlap=2, batch_size=1)
    with pytest.raises(RuntimeError, match="a bug"):
        tiled(function, noise(9, 9, 9), tile=(8, 8, 8), overlap=2, batch_size=2)
