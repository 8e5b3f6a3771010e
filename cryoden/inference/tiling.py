"""Overlapping tiles: a function that takes small boxes, applied to a volume of any size without seams.

Volume and result may be mapped from files: of both, no more than a few tiles are in memory at once.

Tiles cover the volume on a regular grid and beyond its faces, where it is mirrored. Each voxel of the result
is a weighted mean over the tiles that hold it. The weights of a voxel sum to 1, so the identity gives the
volume back, and they fade towards a tile's faces, where a network misses its surroundings.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoden.errors import CryodenError
from cryoden.volume import release, sections

_log = logging.getLogger(__name__)

_FLOOR = 1e-6  # weight of a voxel at the face of a tile


@dataclass(frozen=True)
class Tile:
    """One box of a grid.

    Attributes:
        index: Place in the grid, along z, y, x.
        start: First voxel in the volume, z, y, x; negative where the tile reaches beyond a face.
    """

    index: tuple[int, int, int]
    start: tuple[int, int, int]


@dataclass(frozen=True)
class TileGrid:
    """The tiles of one volume, from z = 0 upwards.

    Attributes:
        shape: (D, H, W) of the volume in voxels; each may be smaller than a tile.
        tile: Edges of a tile in voxels, z, y, x.
        overlap: Voxels shared by neighbours, less than any edge of `tile`. The outer quarter of it counts almost
            nothing; the middle half is blended.

    Examples:
        >>> len(TileGrid((100, 60, 20), tile=(64, 64, 40), overlap=16))
        6
    """

    shape: tuple[int, int, int]
    tile: tuple[int, int, int]
    overlap: int

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise CryodenError(f"cannot tile a volume of shape {self.shape}: it has no voxels")
        if not 0 <= self.overlap < min(self.tile):
            raise CryodenError(
                f"tile {min(self.tile)} and overlap {self.overlap} do not fit: the overlap must be at least 0 and "
                "less than the tile; a third of the tile is a good choice"
            )

    def __len__(self) -> int:
        depth, height, width = self._counts
        return depth * height * width

    def __iter__(self) -> Iterator[Tile]:
        for z, y, x in product(*map(range, self._counts)):
            first, step = self._first, self._steps
            yield Tile((z, y, x), (first[0] + z * step[0], first[1] + y * step[1], first[2] + x * step[2]))

    def cut(self, volume: NDArray[Any], tile: Tile) -> NDArray[np.float32]:
        """A tile's voxels, mirrored at the volume's faces.

        Args:
            volume: (D, H, W), any unit, real.
            tile: A tile of this grid.

        Returns:
            `self.tile`.
        """
        z, y, x = (
            _mirror(np.arange(start, start + edge), size)
            for start, edge, size in zip(tile.start, self.tile, self.shape, strict=True)
        )
        box = np.empty(self.tile, np.float32)
        for place, section in zip(box, z, strict=True):
            place[...] = volume[section][np.ix_(y, x)]
            release(volume)  # around each row of a tile, the system maps much that belongs to others
        return box

    def blend(self, result: NDArray[np.float64], tile: Tile, values: NDArray[np.float32]) -> None:
        """Adds a tile's values, times their weights, to the volume of the result.

        Args:
            result: (D, H, W), changed in place.
            tile: A tile of this grid.
            values: `self.tile`.
        """
        z, y, x = (weights[index] for weights, index in zip(self._weights, tile.index, strict=True))
        weighted = values * (z[:, None, None] * y[:, None] * x)
        low = [max(0, -start) for start in tile.start]
        high = [min(edge, size - start) for start, edge, size in zip(tile.start, self.tile, self.shape, strict=True)]
        rows, columns = (slice(a, b) for a, b in zip(low[1:], high[1:], strict=True))
        into_rows, into_columns = (
            slice(s + a, s + b) for s, a, b in zip(tile.start[1:], low[1:], high[1:], strict=True)
        )
        for section in range(low[0], high[0]):
            result[tile.start[0] + section, into_rows, into_columns] += weighted[section, rows, columns]
            release(result)

    @property
    def _steps(self) -> tuple[int, int, int]:
        z, y, x = (edge - self.overlap for edge in self.tile)
        return z, y, x

    @property
    def _counts(self) -> tuple[int, int, int]:
        """Tiles along z, y, x; the grid reaches at least half an overlap beyond each face of the volume."""
        z, y, x = (-(-_covered(size, self.overlap) // step) for size, step in zip(self.shape, self._steps, strict=True))
        return z, y, x

    @cached_property
    def _first(self) -> tuple[int, int, int]:
        """Start of the first tile along z, y, x: the grid reaches equally far beyond both faces."""
        z, y, x = (
            -((count * step + self.overlap - size) // 2)
            for count, step, size in zip(self._counts, self._steps, self.shape, strict=True)
        )
        return z, y, x

    @cached_property
    def _weights(self) -> tuple[NDArray[np.float64], ...]:
        """(count, edge) for each axis: weights of the tiles, which sum to 1 at each place of it."""
        normalised = []
        for count, step, edge in zip(self._counts, self._steps, self.tile, strict=True):
            profile = window(edge, self.overlap)
            total = np.zeros(count * step + self.overlap)
            for index in range(count):
                total[index * step : index * step + edge] += profile
            normalised.append(profile / np.lib.stride_tricks.sliding_window_view(total, edge)[::step])
        return tuple(normalised)


def _covered(size: int, overlap: int) -> int:
    """What the steps of the tiles along an axis must add up to, to reach half an overlap beyond both ends."""
    return max(1, size + 2 * (overlap // 2) - overlap)


def fit_tile(shape: tuple[int, int, int], largest: int, overlap: int, multiple: int) -> tuple[int, int, int]:
    """The smallest tile that covers a volume in no more tiles than one with the largest edges would.

    Args:
        shape: (D, H, W) of the volume in voxels.
        largest: What no edge may exceed; a multiple of `multiple`.
        overlap: Voxels shared by neighbours.
        multiple: What each edge must be a multiple of.

    Returns:
        Edges along z, y, x: short along the short axes of a volume.

    Examples:
        >>> fit_tile((60, 200, 1000), largest=128, overlap=32, multiple=8)
        (96, 104, 128)
    """

    def edge(size: int) -> int:
        covered = _covered(size, overlap)
        step = math.ceil(covered / math.ceil(covered / (largest - overlap)))
        return math.ceil((step + overlap) / multiple) * multiple

    z, y, x = map(edge, shape)
    return z, y, x


def window(tile: int, overlap: int) -> NDArray[np.float64]:
    """Weights of a tile along one axis before they are normalised by those of its neighbours.

    Almost nothing over the outer quarter of the overlap, a squared sine over the middle half, 1 further
    inside: a network that sees no further than a quarter of the overlap leaves no trace of the tiles.

    Returns:
        (tile,), symmetric, positive.
    """
    place = np.arange(tile) + 0.5
    depth = np.minimum(place, tile - place)
    ramp = (depth - overlap / 4) / (overlap / 2) if overlap else np.ones_like(depth)
    weights: NDArray[np.float64] = np.maximum(np.square(np.sin(np.pi / 2 * ramp.clip(0, 1))), _FLOOR)
    return weights


@torch.no_grad()
def tiled(
    function: Callable[[Tensor], Tensor],
    volume: NDArray[Any],
    *,
    tile: tuple[int, int, int],
    overlap: int,
    batch_size: int = 1,
    result: NDArray[np.float64] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Applies a function to a volume tile by tile.

    Where the function runs out of memory, it is given half as many tiles from then on.

    Args:
        function: Takes tiles (B, 1, *tile) float32 on the CPU, moves them where it likes, and returns
            values of the same shape, on any device.
        volume: (D, H, W), any unit, real; may be mapped from a file.
        tile: Edges of a tile in voxels, z, y, x.
        overlap: Voxels shared by neighbouring tiles, less than any edge.
        batch_size: Tiles B given to the function at once.
        result: (D, H, W) to write to, mapped from a file where memory is short; by default a new array. In
            float64, because a voxel may be the sum of thousands of tiles.
        progress: Called with the number of tiles done and their total after each batch.

    Returns:
        `result`, in the unit of the function's output.

    Raises:
        CryodenError: Tile, overlap or batch size is out of range.
        RuntimeError: The function runs out of memory with a single tile.
    """
    if batch_size < 1:
        raise CryodenError(f"batch size {batch_size} is too small: at least 1 tile at once is needed")
    depth, height, width = volume.shape
    grid = TileGrid((depth, height, width), tile, overlap)
    if result is None:
        result = np.empty(volume.shape, np.float64)
    for section in sections(result):
        section[...] = 0
    tiles = list(grid)
    done = 0
    while done < len(tiles):
        batch = tiles[done : done + batch_size]
        boxes = torch.from_numpy(np.stack([grid.cut(volume, each) for each in batch])[:, None])
        values = _unless_out_of_memory(function, boxes)
        if values is None:
            batch_size = max(1, len(batch) // 2)
            _log.warning(
                "out of memory with %d tiles of %s voxels at once; trying %d", len(batch), tell(tile), batch_size
            )
            continue
        if values.shape != boxes.shape:
            raise ValueError(f"the function returned shape {tuple(values.shape)} for {tuple(boxes.shape)}")
        for each, value in zip(batch, values[:, 0].numpy(), strict=True):
            grid.blend(result, each, value)
        done += len(batch)
        if progress is not None:
            progress(done, len(tiles))
    return result


def tell(edges: tuple[int, int, int]) -> str:
    """Edges along z, y, x for people to read: x first, as the field does."""
    return " × ".join(map(str, reversed(edges)))


def _unless_out_of_memory(function: Callable[[Tensor], Tensor], boxes: Tensor) -> Tensor | None:
    """What the function makes of tiles, on the CPU; None if there is no memory for them, but for fewer."""
    try:
        return function(boxes).float().cpu()
    except RuntimeError as error:
        if len(boxes) == 1 or not out_of_memory(error):
            raise
    return None  # here, the traceback has let go of what the function had made


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch raised this because a device, or the machine, is out of memory."""
    told = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in told or "can't allocate memory" in told


def _mirror(index: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Indices reflected into 0 … size - 1, as often as needed, without repeating the face."""
    period = max(1, 2 * (size - 1))
    index = index % period
    return np.minimum(index, period - index) if size > 1 else np.zeros_like(index)
