from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cryoden.errors import CryodenError
from cryoden.inference.tiling import Tile, TileGrid, tiled, window


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def tilings(draw: st.DrawFn) -> tuple[tuple[int, int, int], int, int]:
    shape = draw(st.tuples(*[st.integers(1, 23)] * 3))
    tile = draw(st.integers(1, 16))
    overlap = draw(st.integers(0, tile - 1))
    assume(len(TileGrid(shape, tile, overlap)) <= 400)
    return shape, tile, overlap


@given(tilings(), st.integers(1, 5))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_identity_gives_the_volume_back(tiling, batch_size):
    shape, tile, overlap = tiling
    volume = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    result = tiled(lambda tiles: tiles, volume, tile=tile, overlap=overlap, batch_size=batch_size)
    torch.testing.assert_close(result, volume, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("shape", "tile", "overlap"),
    [((97, 64, 31), 64, 16), ((36, 206, 94), 64, 32), ((1, 5, 70), 64, 63), ((8, 8, 8), 64, 0)],
)
def test_identity_at_real_tiles(shape, tile, overlap):
    volume = torch.rand(shape) * 2 - 1
    torch.testing.assert_close(tiled(lambda x: x, volume, tile=tile, overlap=overlap), volume, atol=1e-6, rtol=0)


@given(tilings())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_every_voxel_lies_half_an_overlap_inside_a_tile(tiling):
    shape, tile, overlap = tiling
    grid = TileGrid(shape, tile, overlap)
    for axis, size in enumerate(shape):
        starts = sorted({each.start[axis] for each in grid})
        assert all(b - a == tile - overlap for a, b in pairwise(starts))
        assert starts[0] <= -(overlap // 2)
        assert starts[-1] + tile >= size + overlap // 2
        assert all(-tile < start < size for start in starts)


def test_padding_mirrors_as_often_as_needed():
    grid = TileGrid((1, 2, 3), tile=10, overlap=0)
    volume = torch.arange(6.0).view(1, 2, 3)
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
    torch.testing.assert_close(weights, weights.flip(0))
    if overlap:
        assert weights.diff().abs().max() <= torch.pi / overlap


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


@pytest.mark.parametrize(("radius", "tile", "overlap"), [(2, 16, 8), (3, 24, 12), (4, 32, 16), (1, 20, 6)])
def test_no_seams(radius, tile, overlap):
    """The receptive field 2 r + 1 is smaller than the overlap, so the grid leaves no trace."""
    network = Smoother(radius)
    volume = noise(40, 45, 50)
    whole = network(volume[None, None])[0, 0].detach()
    first = tiled(network, volume, tile=tile, overlap=overlap, batch_size=8)
    shifted = tiled(network, volume[3:, 5:, 7:], tile=tile, overlap=overlap, batch_size=8)
    inner = slice(radius, -radius)
    bound = 1e-4 * whole.std()
    assert (first - whole)[inner, inner, inner].abs().max() < bound
    assert (first[3:, 5:, 7:] - shifted)[inner, inner, inner].abs().max() < bound


def test_seam_test_sees_seams():
    network = Smoother(2)
    volume = noise(40, 40, 40)
    first = tiled(network, volume, tile=16, overlap=0)
    shifted = tiled(network, volume[5:], tile=16, overlap=0)
    assert (first[5:] - shifted)[2:-2].abs().max() > 0.1 * first.std()


def test_progress_and_batches():
    seen: list[tuple[int, int]] = []
    sizes: list[int] = []

    def function(tiles: Tensor) -> Tensor:
        sizes.append(len(tiles))
        return tiles

    volume = noise(20, 12, 12)
    tiled(function, volume, tile=8, overlap=2, batch_size=5, progress=lambda *count: seen.append(count))
    total = len(TileGrid((20, 12, 12), 8, 2))
    assert sum(sizes) == total
    assert set(sizes[:-1]) == {5}
    assert seen == [(min(5 * (i + 1), total), total) for i in range(len(sizes))]


@pytest.mark.parametrize(("tile", "overlap", "batch_size"), [(8, 8, 1), (8, -1, 1), (0, 0, 1), (8, 2, 0)])
def test_arguments_out_of_range(tile, overlap, batch_size):
    with pytest.raises(CryodenError, match=r"overlap must be|batch size 0"):
        tiled(lambda x: x, noise(9, 9, 9), tile=tile, overlap=overlap, batch_size=batch_size)


def test_function_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"returned shape \(1, 1, 4, 4, 4\)"):
        tiled(lambda x: x[..., ::2, ::2, ::2], noise(9, 9, 9), tile=8, overlap=2)


def test_integer_volumes_and_reduced_precision():
    volume = torch.randint(0, 100, (9, 10, 11), dtype=torch.int16)
    result = tiled(lambda x: x.bfloat16(), volume, tile=8, overlap=4)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, volume.float(), atol=1e-4, rtol=0)
