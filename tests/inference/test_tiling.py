from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cryoden.errors import CryodenError
from cryoden.inference.tiling import Tile, TileGrid, fit_tile, tiled
from cryoden.scaling import filled


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def uniform(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def same(boxes: Tensor, _: Tensor) -> Tensor:
    return boxes


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    multiple = draw(st.sampled_from([1, 2, 4]))
    halo, blend = draw(st.integers(0, 5)), draw(st.integers(0, 6))
    least = 2 * halo + blend + multiple
    tile = draw(st.tuples(*[st.integers(-(-least // multiple), 5 + least // multiple)] * 3))
    shape = draw(st.tuples(*[st.integers(1, 23)] * 3))
    grid = TileGrid(shape, tuple(edge * multiple for edge in tile), halo, blend, multiple)
    assume(len(grid) <= 400)
    return grid


@given(grids(), st.integers(1, 5))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_identity_gives_the_volume_back(grid, batch_size):
    volume = uniform(*grid.shape)
    result = tiled(same, volume, grid, batch_size=batch_size)
    np.testing.assert_allclose(result, volume, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "grid",
    [
        TileGrid((97, 64, 31), (64, 64, 64), 8, 16),
        TileGrid((36, 206, 94), (72, 128, 96), 32, 0, 8),
        TileGrid((1, 5, 70), (64, 64, 64), 31, 1),
        TileGrid((8, 8, 8), (64, 8, 16)),
    ],
)
def test_identity_at_real_tiles(grid):
    volume = uniform(*grid.shape)
    np.testing.assert_allclose(tiled(same, volume, grid), volume, atol=1e-6, rtol=0)


@given(grids())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_tiles_begin_at_multiples_and_end_with_the_volume(grid):
    """As whole volumes do, so that a network halves both alike."""
    for axis, (size, edge) in enumerate(zip(grid.shape, grid.tile, strict=True)):
        starts = sorted({each.start[axis] for each in grid})
        assert starts[0] == 0
        assert not any(start % grid.multiple for start in starts)
        whole = -(-size // grid.multiple) * grid.multiple
        assert starts[-1] + edge == max(whole, edge)
        assert all(b - a <= edge - 2 * grid.halo - grid.blend for a, b in pairwise(starts))


@given(grids())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_nothing_is_taken_from_a_halo_but_at_the_faces(grid):
    for tile in grid:
        taken = np.zeros(grid.shape)
        grid.place(taken, tile, np.ones(grid.tile, np.float32))
        for axis, (size, edge, start) in enumerate(zip(grid.shape, grid.tile, tile.start, strict=True)):
            places = np.flatnonzero(taken.any(axis=tuple({0, 1, 2} - {axis})))
            assert places[0] >= (0 if start == 0 else start + grid.halo)
            assert places[-1] < (size if start + edge >= size else start + edge - grid.halo)


@given(
    st.tuples(*[st.integers(1, 400)] * 3),
    st.integers(1, 12),
    st.integers(0, 12),
    st.integers(0, 12),
    st.sampled_from([1, 4, 8, 16]),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_fitted_tile_covers_in_as_many_tiles_and_is_no_larger_than_it_must_be(shape, steps, halo, blend, multiple):
    largest = (-(-(2 * halo + blend) // multiple) + steps) * multiple
    tile = fit_tile(shape, largest, halo, blend, multiple)
    assert max(tile) <= largest
    assert not any(edge % multiple for edge in tile)
    grid = TileGrid(shape, tile, halo, blend, multiple)
    assert len(grid) == len(TileGrid(shape, (largest,) * 3, halo, blend, multiple))
    for axis in range(3):
        smaller = [*tile]
        smaller[axis] -= multiple
        if smaller[axis] - 2 * halo - blend >= multiple:
            assert len(TileGrid(shape, tuple(smaller), halo, blend, multiple)) > len(grid)


def test_beyond_its_end_a_volume_is_mirrored_as_often_as_needed():
    grid = TileGrid((1, 2, 3), tile=(10, 10, 10))
    box, _ = grid.cut(np.arange(6).reshape(1, 2, 3), Tile((0, 0, 0), (0, 0, 0)))
    assert box[0, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0, 1]
    assert box[0, :, 0].tolist() == [0, 3] * 5
    assert (box == box[:1]).all()


def test_what_is_filled_is_told_as_of_the_whole():
    """Also where no more than a corner of it reaches into a tile."""
    volume = noise(8, 40, 44)
    volume[:, 10:19, 12:21] = volume[2, :, 40:] = 0.5
    whole = filled(torch.from_numpy(volume)).numpy()
    assert 0 < whole.mean() < 0.5
    grid = TileGrid(volume.shape, (8, 16, 12), halo=1)
    for tile in grid:
        z, y, x = (slice(start, start + edge) for start, edge in zip(tile.start, grid.tile, strict=True))
        _, found = grid.cut(volume, tile)
        np.testing.assert_array_equal(found, whole[z, y, x])


class Smoother(nn.Module):
    """A random network that sees `radius` voxels around each."""

    def __init__(self, radius: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for i in range(radius):
            layers += [nn.Conv3d(1 if i == 0 else 4, 4, 3, padding=1), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*layers, nn.Conv3d(4, 1, 1))

    def forward(self, volumes: Tensor, _: Tensor) -> Tensor:
        denoised: Tensor = self.layers(volumes)
        return denoised


def error(grid: TileGrid, network: nn.Module) -> float:
    """Of tiles against the whole: the largest, over the deviation."""
    volume = noise(*grid.shape)
    given = torch.from_numpy(volume)[None, None]
    whole = network(given, given)[0, 0].detach().numpy()
    return float(np.abs(tiled(network, volume, grid, batch_size=8) - whole).max() / whole.std())


@pytest.mark.parametrize("blend", [0, 3])
@pytest.mark.parametrize(
    ("radius", "tile"), [(2, (16, 16, 16)), (3, (24, 20, 28)), (4, (32, 32, 24)), (1, (20, 45, 10))]
)
def test_no_seams_where_the_halo_is_as_wide_as_a_network_reaches(radius, tile, blend):
    """Everywhere, the faces of the volume included."""
    assert error(TileGrid((40, 45, 50), tile, radius, blend), Smoother(radius)) < 1e-4


@pytest.mark.parametrize("radius", [1, 3])
def test_seams_where_it_is_narrower(radius):
    assert error(TileGrid((40, 45, 50), (16, 16, 16), radius - 1), Smoother(radius)) > 1e-3


def test_progress_and_batches():
    seen: list[tuple[int, int]] = []
    sizes: list[int] = []

    def function(tiles: Tensor, _: Tensor) -> Tensor:
        sizes.append(len(tiles))
        return tiles

    grid = TileGrid((20, 12, 12), (8, 8, 8), 1)
    tiled(function, noise(20, 12, 12), grid, batch_size=5, progress=lambda *count: seen.append(count))
    assert sum(sizes) == len(grid)
    assert set(sizes[:-1]) == {5}
    assert seen == [(min(5 * (i + 1), len(grid)), len(grid)) for i in range(len(sizes))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"halo": 4}, r"tile 8 leaves nothing but its halo of 4 voxels on each side"),
        ({"halo": 1, "blend": 6}, r"the overlap must be less than the tile: a third is a good choice"),
        ({"multiple": 8, "blend": 1}, r"tile 8 leaves nothing"),
        ({"halo": -1}, r"halo -1 and blend 0 must not be below 0"),
        ({"blend": -1}, r"halo 0 and blend -1 must not be below 0"),
        ({"tile": (0, 8, 8)}, r"tile \(0, 8, 8\)"),
        ({"shape": (0, 9, 9)}, r"a volume of shape \(0, 9, 9\): it has no voxels"),
    ],
)
def test_grids_out_of_range(arguments, message):
    with pytest.raises(CryodenError, match=message):
        TileGrid(**{"shape": (9, 9, 9), "tile": (8, 8, 8), **arguments})


def test_a_tile_that_holds_the_volume_needs_no_room_beside_its_halo():
    assert len(TileGrid((8, 5, 1), (8, 8, 8), halo=30, blend=9)) == 1


def test_batch_size_out_of_range():
    with pytest.raises(CryodenError, match="batch size 0"):
        tiled(same, noise(9, 9, 9), TileGrid((9, 9, 9), (8, 8, 8)), batch_size=0)


GRID = TileGrid((9, 10, 11), (8, 8, 8), 1)


def test_function_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"returned shape \(1, 1, 4, 4, 4\)"):
        tiled(lambda x, _: x[..., ::2, ::2, ::2], noise(*GRID.shape), GRID)


@pytest.mark.parametrize("dtype", [np.int8, ">i2", np.uint16, ">u2", ">f4", np.float16])
def test_every_type_of_voxel_and_reduced_precision(dtype):
    volume = np.random.default_rng(0).integers(0, 100, GRID.shape).astype(dtype)
    result = tiled(lambda x, _: x.bfloat16(), volume, GRID)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, volume.astype(float), atol=1e-4, rtol=0)


def test_mapped_files_give_the_same(tmp_path):
    network = Smoother(2)
    volume = noise(30, 31, 32)
    grid = TileGrid(volume.shape, (16, 16, 16), 1, 2)
    mapped = np.memmap(tmp_path / "in", np.float32, mode="w+", shape=volume.shape)
    mapped[:] = volume
    result = np.memmap(tmp_path / "out", np.float64, mode="w+", shape=volume.shape)
    result[:] = 7
    returned = tiled(network, mapped, grid, result=result)
    assert returned is result
    np.testing.assert_array_equal(result, tiled(network, volume, grid))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_halves_the_batch_and_goes_on(error, caplog):
    sizes: list[int] = []

    def function(tiles: Tensor, _: Tensor) -> Tensor:
        sizes.append(len(tiles))
        if len(tiles) > 2:
            raise error
        return tiles * 3

    volume = noise(20, 20, 20)
    result = tiled(function, volume, TileGrid(volume.shape, (8, 8, 8), 1), batch_size=11)
    np.testing.assert_allclose(result, volume * 3, atol=1e-5)
    assert sizes[:3] == [11, 5, 2]
    assert set(sizes[3:-1]) == {2}
    assert "out of memory with 11 tiles of 8 × 8 × 8 voxels at once; trying 5" in caplog.text


def test_out_of_memory_with_one_tile_and_other_errors_are_raised():
    def function(tiles: Tensor, _: Tensor) -> Tensor:
        raise RuntimeError("out of memory" if len(tiles) == 1 else "a bug")

    with pytest.raises(RuntimeError, match="out of memory"):
        tiled(function, noise(*GRID.shape), GRID, batch_size=1)
    with pytest.raises(RuntimeError, match="a bug"):
        tiled(function, noise(*GRID.shape), GRID, batch_size=2)
