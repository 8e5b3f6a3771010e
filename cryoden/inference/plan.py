"""What is going to be done with a volume, decided before it is done."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from cryoden.denoiser import Denoiser
from cryoden.errors import CryodenError
from cryoden.inference.contrast import Contrast, detect_contrast
from cryoden.inference.memory import peak_memory
from cryoden.inference.tiling import TileGrid, fit_tile, tell
from cryoden.volume import Statistics, Volume, measure

_MEMORY = 3e9  # bytes of float32 in which a tile goes through a network; bfloat16 takes half of them
_OVERLAP = 32
_MEASURED = 64  # edge of the tile that tells how much memory a network needs, and the smallest that is chosen
_LARGEST = 256  # edge of a tile; beyond it, little is left to gain
_SMALLEST = 16
_SAME_SIZE = 0.1  # a network hardly notices voxels that are larger or smaller by this share of their size
_EXACT_SIZE = 0.01
_FURTHEST = 4.0  # times: beyond it, nothing of what the network knows is left in the tomogram, or the reverse


@dataclass(frozen=True)
class Settings:
    """How volumes are denoised.

    Args:
        contrast: Whether protein is brighter or darker than its surroundings; "auto" tells from the voxels. Models
            are trained on bright protein: a dark volume is inverted for the network, and the result inverted back.
        voxel_size: Å, instead of what the file says.
        rescale: Resample tiles to the voxel size of the model's training, and the result back.
        augment: Denoise each tile in the 8 orientations that flips make and average the results: all flips keep the
            beam and the tilt axis in place. Takes 8 times as long.
        tile: Largest edge of a tile in the network's voxels, a multiple of `model.generator.multiple`; by default what
            the network takes in 3 GB of float32, half of that in bfloat16, and at most 256.
        overlap: The network's voxels shared by neighbouring tiles; by default 32 or a third of `tile`. Networks that
            halve their volumes leave least of a grid where `tile - overlap` is a multiple of
            `model.generator.multiple`: then all tiles are halved at the same voxels.
        batch_size: Tiles denoised at once: more are faster on a GPU and need more of its memory.
        precision: Of the network; "auto" takes bfloat16 where the device computes in it.
    """

    contrast: Literal["auto", "bright", "dark"] = "auto"
    voxel_size: float | None = None
    rescale: bool = False
    augment: bool = False
    tile: int | None = None
    overlap: int | None = None
    batch_size: int = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        if self.contrast not in ("auto", "bright", "dark"):
            raise CryodenError(f"contrast {self.contrast!r} is unknown; it is 'auto', 'bright' or 'dark'")
        if self.voxel_size is not None and not 0 < self.voxel_size < math.inf:
            raise CryodenError(f"voxel size {self.voxel_size:g} is no length; give Å per voxel, above 0")
        if self.batch_size < 1:
            raise CryodenError(f"batch size {self.batch_size} is too small: at least 1 tile at once is needed")


@dataclass(frozen=True, eq=False)
class Plan:
    """What is going to be done with a volume.

    Attributes:
        name: What errors call the volume.
        volume: With the voxel size that counts.
        statistics: Of its voxels.
        contrast: Of its protein.
        skewness: What the contrast was told from; None where it was stated.
        network_tile: Edges (z, y, x) of the tiles the network sees, in its own voxels.
        grid: The tiles that cover the volume, in its voxels.
        ratio: How many of the volume's voxels make one of the network's, along an edge.
        settings: What was asked for.
    """

    name: str
    volume: Volume
    statistics: Statistics
    contrast: Contrast
    skewness: float | None
    network_tile: tuple[int, int, int]
    grid: TileGrid
    ratio: float
    settings: Settings

    def halved(self, model: Denoiser) -> Plan | None:
        """The same with tiles of half the edge, one at once; None if the network takes no smaller ones."""
        multiple = model.generator.multiple
        largest = max(self.network_tile) // 2 // multiple * multiple
        if largest < max(multiple, _SMALLEST):
            return None
        settings = replace(self.settings, batch_size=1, tile=largest, overlap=None)
        network_tile, grid = _tiles(self.grid.shape, model, settings, self.ratio)
        return replace(self, network_tile=network_tile, grid=grid, settings=settings)

    def describe(self) -> str:
        """The plan in a line, for people to read."""
        shape = tell(self.grid.shape)
        told = "as stated" if self.skewness is None else f"skewness {self.skewness:+.2f}"
        resampled = (
            f", resampled to {tell(self.network_tile)} for the network" if self.grid.tile != self.network_tile else ""
        )
        return (
            f"{shape} voxels (x, y, z) of {self.volume.voxel_size:.4g} Å, protein {self.contrast} ({told}), "
            f"{len(self.grid)} tile{'s' * (len(self.grid) > 1)} of {tell(self.grid.tile)} voxels{resampled}"
        )


def make_plan(volume: Volume, model: Denoiser, settings: Settings, name: str = "the volume") -> Plan:
    """Decides how a volume is denoised.

    Args:
        volume: The volume; its voxels are read once or twice.
        model: A trained model.
        settings: What is asked for.
        name: What errors call the volume.

    Returns:
        The plan.

    Raises:
        CryodenError: As `denoise`.
    """
    voxel_size = settings.voxel_size or volume.voxel_size
    ratio = _ratio(voxel_size, model.voxel_size, settings.rescale, name)
    depth, height, width = volume.data.shape
    network_tile, grid = _tiles((depth, height, width), model, settings, ratio)
    statistics = measure(volume.data)
    statistics.require_finite(name)
    if statistics.minimum == statistics.maximum:
        raise CryodenError(
            f"{name}: every voxel is {statistics.minimum:g}, so there is nothing to denoise; is this the right file?"
        )
    skewness = None
    contrast: Contrast | None = None if settings.contrast == "auto" else settings.contrast
    if contrast is None:
        contrast, skewness = detect_contrast(volume.data, statistics)
        if contrast is None:
            raise CryodenError(
                f"{name}: cannot tell whether protein is bright or dark (skewness {skewness:+.3f}); look at it, and "
                "give --contrast bright or --contrast dark"
            )
    volume = replace(volume, voxel_size=voxel_size)
    return Plan(name, volume, statistics, contrast, skewness, network_tile, grid, ratio, settings)


def _ratio(voxel_size: float, trained: float | None, rescale: bool, name: str) -> float:
    """How many of a volume's voxels make one of the network's."""
    if voxel_size <= 0:
        raise CryodenError(f"{name}: its header has no voxel size; state it with --voxel-size, in Å")
    if trained is None:
        if rescale:
            raise CryodenError(f"{name}: cannot be rescaled, because the model does not say what it was trained at")
        return 1.0
    ratio = trained / voxel_size
    if rescale:
        if not 1 / _FURTHEST <= ratio <= _FURTHEST:
            raise CryodenError(
                f"{name}: its voxels of {voxel_size:.4g} Å are too far from the model's {trained:.4g} Å to rescale: at "
                f"most {_FURTHEST:g} times; bin the tomogram, train a model for it, or state the right --voxel-size"
            )
        return ratio if abs(ratio - 1) > _EXACT_SIZE else 1.0
    if abs(voxel_size / trained - 1) > _SAME_SIZE:
        raise CryodenError(
            f"{name}: its voxels are {voxel_size:.4g} Å, and the model was trained at {trained:.4g} Å; resample it "
            "there and back with --rescale, or state the right --voxel-size if the header is wrong"
        )
    return 1.0


def _tiles(
    shape: tuple[int, int, int], model: Denoiser, settings: Settings, ratio: float
) -> tuple[tuple[int, int, int], TileGrid]:
    """Edges of a tile in the network's voxels, and the grid of the same tiles in the volume's.

    Of all tiles for which there is memory, those with the fewest voxels to compute: large, so that little is computed
    twice, but no larger than a thin volume needs.
    """
    multiple = model.generator.multiple
    largest, smallest = (math.ceil(edge / multiple) * multiple for edge in (_LARGEST, _MEASURED))
    if settings.tile is not None:
        if settings.tile < 1 or settings.tile % multiple:
            raise CryodenError(f"tile {settings.tile} does not suit the network: take a multiple of {multiple}")
        largest = smallest = settings.tile
    overlap = _overlap_for(largest, multiple) if settings.overlap is None else settings.overlap
    if not 0 <= overlap < largest:
        raise CryodenError(
            f"tile {largest} and overlap {overlap} do not fit: the overlap must be at least 0 and less than the "
            "tile; a third of the tile is a good choice"
        )
    depth, height, width = (math.ceil(size / ratio) for size in shape)
    covers = []
    for edge in range(largest, max(smallest - 1, overlap), -multiple):
        network_tile = fit_tile((depth, height, width), edge, overlap, multiple)
        z, y, x = (round(each * ratio) for each in network_tile)
        covers.append((network_tile, TileGrid(shape, (z, y, x), round(overlap * ratio))))
    if len(covers) == 1:
        return covers[0]
    needed = peak_memory(model.generator, settings.batch_size, (smallest,) * 3) / smallest**3
    fitting = [each for each in covers if math.prod(each[0]) * needed <= _MEMORY]
    return min(fitting or covers[-1:], key=lambda each: math.prod(each[0]) * len(each[1]))


def _overlap_for(tile: int, multiple: int) -> int:
    """About 32, or a third of a tile, such that the steps between tiles are multiples, if a tile has room for it."""
    overlap = math.ceil(min(_OVERLAP, tile / 3) / multiple) * multiple
    return overlap if overlap < tile else tile // 3
