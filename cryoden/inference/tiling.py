"""Tiles: a function that takes small boxes, applied to a volume of any size so that nothing tells where they met.

Volume and result may be mapped from files: of both, no more than a few tiles are in memory at once.

A tile shares with its neighbours the voxels around what is taken from it: its halo, in which a function misses its
surroundings. Where the halo is as wide as the function reaches, the tiles' answers are those of the whole; where it is
not, neighbours are blended. At the faces of the volume tiles end as the volume does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoden.denoiser import mirrored
from cryoden.errors import CryodenError
from cryoden.scaling import RUN, filled
from cryoden.volume import native, release, require_whole, sections

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tile:
    """One box of a grid.

    Attributes:
        index: Place in the grid, along z, y, x.
        start: First voxel in the volume, z, y, x.
    """

    index: tuple[int, int, int]
    start: tuple[int, int, int]


@dataclass(frozen=True)
class TileGrid:
    """The tiles of one volume, from z = 0 upwards.

    Attributes:
        shape: (D, H, W) of the volume in voxels; each may be smaller than a tile, which then is mirrored at its end.
        tile: Edges of a tile in voxels, z, y, x; multiples of `multiple`.
        halo: Voxels on each side of a tile of which nothing is taken, but at the volume's faces.
        blend: Voxels over which a tile fades into the next; 0 cuts.
        multiple: Tiles start at multiples of this, as a network that halves its volumes wants it.

    Examples:
        >>> len(TileGrid((100, 60, 20), tile=(64, 64, 24), halo=8, multiple=8))
        2
    """

    shape: tuple[int, int, int]
    tile: tuple[int, int, int]
    halo: int = 0
    blend: int = 0
    multiple: int = 1

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise CryodenError(f"cannot tile a volume of shape {self.shape}: it has no voxels")
        if min(self.tile) < 1 or min(self.halo, self.blend) < 0:
            raise CryodenError(f"tile {self.tile}, halo {self.halo} and blend {self.blend} must not be below 0")
        for size, edge in zip(self.shape, self.tile, strict=True):
            if size > edge and edge - 2 * self.halo - self.blend < self.multiple:
                raise CryodenError(
                    f"tile {edge} leaves nothing but its halo of {self.halo} voxels on each side and the {self.blend} "
                    "in which it fades into the next; the overlap must be less than the tile: a third is a good choice"
                )

    def __len__(self) -> int:
        return math.prod(len(axis.starts) for axis in self._axes)

    def __iter__(self) -> Iterator[Tile]:
        for index in product(*(range(len(axis.starts)) for axis in self._axes)):
            z, y, x = (axis.starts[i] for axis, i in zip(self._axes, index, strict=True))
            yield Tile(index, (z, y, x))  # type: ignore[arg-type]  # three axes

    def cut(self, volume: NDArray[Any], tile: Tile) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
        """A tile's voxels, mirrored beyond the volume's end, and which of them are filled with one value.

        Voxels are float32 where that holds all that their type does, else float64: a network's float32 comes after
        their level was taken away.

        Args:
            volume: (D, H, W), any unit, real.
            tile: A tile of this grid.

        Returns:
            Both `self.tile`.
        """
        z, y, x = (
            mirrored(np.arange(start, start + edge), size)
            for start, edge, size in zip(tile.start, self.tile, self.shape, strict=True)
        )
        top, left = (max(0, int(each.min()) - RUN + 1) for each in (y, x))  # whether it is filled, neighbours tell
        around = np.s_[top : y.max() + RUN, left : x.max() + RUN]
        near = []
        for section in z:
            require_whole(volume)
            near.append(native(volume[section][around]))
            release(volume)  # around each row of a tile, the system maps much that belongs to others
        inside = np.ix_(np.arange(len(z)), y - top, x - left)
        # all at once: thousands of small steps on several threads take ten times as long where others use the cores
        stack = np.stack(near)
        kind = np.float32 if np.can_cast(stack.dtype, np.float32) else np.float64
        return stack[inside].astype(kind), filled(torch.from_numpy(stack)).numpy()[inside]

    def place(self, result: NDArray[np.float64], tile: Tile, values: NDArray[np.float32]) -> None:
        """Puts a tile's values into the volume of the result: adds them times their weights, where tiles are blended.

        Args:
            result: (D, H, W), changed in place.
            tile: A tile of this grid.
            values: `self.tile`.
        """
        weights = [axis.weights[index] for axis, index in zip(self._axes, tile.index, strict=True)]
        parts = []
        for weight, start, size in zip(weights, tile.start, self.shape, strict=True):
            taken = np.flatnonzero(weight[: size - start])
            parts.append(slice(int(taken[0]), int(taken[-1]) + 1))
        z, y, x = (weight[part] for weight, part in zip(weights, parts, strict=True))
        weighted = values[tuple(parts)] * (z[:, None, None] * y[:, None] * x)
        into = [slice(s + part.start, s + part.stop) for s, part in zip(tile.start, parts, strict=True)]
        for section, added in zip(range(into[0].start, into[0].stop), weighted, strict=True):
            if self.blend:
                result[section, into[1], into[2]] += added
            else:  # each voxel is of one tile, which may be placed twice
                result[section, into[1], into[2]] = added
            release(result)

    @cached_property
    def _axes(self) -> list[_Axis]:
        return [
            _Axis.cover(size, edge, self.halo, self.blend, self.multiple)
            for size, edge in zip(self.shape, self.tile, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class _Axis:
    """Tiles along one axis.

    Attributes:
        starts: Of the tiles.
        weights: (count, edge); those of all tiles sum to 1 at each voxel.
    """

    starts: list[int]
    weights: NDArray[np.float64]

    @classmethod
    def cover(cls, size: int, edge: int, halo: int, blend: int, multiple: int) -> _Axis:
        starts = _starts(size, edge, halo, blend, multiple)
        # In the middle of what two neighbours share they change over.
        cuts = [(a + edge + b) // 2 for a, b in pairwise(starts)]
        place = np.add.outer(np.array(starts), np.arange(edge) + 0.5)
        weights = np.ones((len(starts), edge))
        for i, cut in enumerate(cuts):
            weights[i] *= 1 - _ramp(place[i] - cut, blend)
            weights[i + 1 :] *= _ramp(place[i + 1 :] - cut, blend)
        return cls(starts, weights)


def _starts(size: int, edge: int, halo: int, blend: int, multiple: int) -> list[int]:
    """Evenly spread, the first at the start of an axis and the last at its end."""
    room = math.ceil(size / multiple) * multiple - edge
    if room <= 0:
        return [0]
    step = (edge - 2 * halo - blend) // multiple * multiple
    gaps = math.ceil(room / step)
    return [room * i // gaps // multiple * multiple for i in range(gaps)] + [room]


def _ramp(place: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """From 0 to 1 over `width` voxels around 0, as a squared sine."""
    if width == 0:
        return (place > 0).astype(np.float64)
    rising: NDArray[np.float64] = np.square(np.sin(np.pi / 2 * (place / width + 0.5).clip(0, 1)))
    return rising


def fit_tile(shape: tuple[int, int, int], largest: int, halo: int, blend: int, multiple: int) -> tuple[int, int, int]:
    """The smallest tile that covers a volume in no more tiles than one with the largest edges would.

    Args:
        shape: (D, H, W) of the volume in voxels.
        largest: What no edge may exceed; a multiple of `multiple`.
        halo: See `TileGrid`.
        blend: See `TileGrid`.
        multiple: What each edge must be a multiple of.

    Returns:
        Edges along z, y, x: short along the short axes of a volume.

    Examples:
        >>> fit_tile((60, 200, 1000), largest=128, halo=16, blend=0, multiple=8)
        (64, 120, 120)
    """

    def edge(size: int) -> int:
        count = len(_starts(size, largest, halo, blend, multiple))
        if count == 1:
            return math.ceil(size / multiple) * multiple
        smallest = math.ceil((2 * halo + blend) / multiple) * multiple + multiple  # with one step for each tile
        smaller = range(smallest, largest, multiple)
        return next((each for each in smaller if len(_starts(size, each, halo, blend, multiple)) == count), largest)

    z, y, x = map(edge, shape)
    return z, y, x


@torch.no_grad()
def tiled(
    function: Callable[[Tensor, Tensor], Tensor],
    volume: NDArray[Any],
    grid: TileGrid,
    *,
    batch_size: int = 1,
    result: NDArray[np.float64] | None = None,
    first: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Applies a function to a volume tile by tile.

    Where the function runs out of memory, it is given half as many tiles from then on.

    Args:
        function: Takes tiles (B, 1, *tile) on the CPU, of the type of `TileGrid.cut`, and which of their voxels are
            filled with one value (B, 1, *tile), moves them where it likes, and returns values of the same shape, on any
            device.
        volume: (D, H, W), any unit, real; may be mapped from a file.
        grid: The volume's tiles.
        batch_size: Tiles B given to the function at once.
        result: (D, H, W) to write to, mapped from a file where memory is short; by default a new array. In
            float64, because a voxel may be the sum of several tiles.
        first: Tiles that are in `result` already; only of a grid that does not blend.
        progress: Called with the number of tiles done and their total after each batch.

    Returns:
        `result`, in the unit of the function's output.

    Raises:
        CryodenError: The batch size is out of range.
        RuntimeError: The function runs out of memory with a single tile.
    """
    if batch_size < 1:
        raise CryodenError(f"batch size {batch_size} is too small: at least 1 tile at once is needed")
    if result is None:
        result = np.empty(volume.shape, np.float64)
    if grid.blend:
        for section in sections(result):
            section[...] = 0
    tiles = list(grid)
    done = first
    while done < len(tiles):
        batch = tiles[done : done + batch_size]
        boxes, same = (
            torch.from_numpy(np.stack(each)[:, None])
            for each in zip(*(grid.cut(volume, tile) for tile in batch), strict=True)
        )
        values = _unless_out_of_memory(function, boxes, same)
        if values is None:
            batch_size = max(1, len(batch) // 2)
            _log.warning(
                "out of memory with %d tiles of %s voxels at once; trying %d", len(batch), tell(grid.tile), batch_size
            )
            continue
        if values.shape != boxes.shape:
            raise ValueError(f"the function returned shape {tuple(values.shape)} for {tuple(boxes.shape)}")
        for each, value in zip(batch, values[:, 0].numpy(), strict=True):
            grid.place(result, each, value)
        done += len(batch)
        if progress is not None:
            progress(done, len(tiles))
    return result


def filled_in(sections: NDArray[Any]) -> NDArray[np.bool_]:
    """Which voxels (..., H, W) are filled with one value; see `cryoden.scaling.filled`."""
    mask: NDArray[np.bool_] = filled(torch.from_numpy(native(sections))).numpy()
    return mask


def tell(edges: tuple[int, int, int]) -> str:
    """Edges along z, y, x for people to read: x first, as the field does."""
    return " × ".join(map(str, reversed(edges)))


def _unless_out_of_memory(function: Callable[[Tensor, Tensor], Tensor], boxes: Tensor, same: Tensor) -> Tensor | None:
    """What the function makes of tiles, on the CPU; None if there is no memory for them, but for fewer."""
    try:
        return function(boxes, same).float().cpu()
    except RuntimeError as error:
        if len(boxes) == 1 or not out_of_memory(error):
            raise
    return None  # here, the traceback has let go of what the function had made


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch raised this because a device, or the machine, is out of memory."""
    told = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in told or "can't allocate memory" in told
