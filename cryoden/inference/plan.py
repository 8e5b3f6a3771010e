"""What is going to be done with a volume, decided before it is done."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from cryoden.errors import CryodenError
from cryoden.inference.contrast import Contrast, detect_contrast
from cryoden.inference.tiling import TileGrid
from cryoden.volume import Statistics, Volume, measure

if TYPE_CHECKING:
    from cryoden.modules.denoiser import Denoiser

_TILE = 96
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
        tile: Edge of a tile in the network's voxels, a multiple of `model.generator.multiple`; by default about 96.
        overlap: The network's voxels shared by neighbouring tiles; by default about a third of a tile. Networks that
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
        network_tile: Edge of the tiles the network sees, in its own voxels.
        tile: The same edge in the volume's voxels.
        overlap: In the volume's voxels.
        settings: What was asked for.
    """

    name: str
    volume: Volume
    statistics: Statistics
    contrast: Contrast
    skewness: float | None
    network_tile: int
    tile: int
    overlap: int
    settings: Settings

    @property
    def grid(self) -> TileGrid:
        """The tiles that cover the volume."""
        depth, height, width = self.volume.data.shape
        return TileGrid((depth, height, width), self.tile, self.overlap)

    def halved(self, model: Denoiser) -> Plan | None:
        """The same with tiles of half the edge, one at once; None if the network takes no smaller ones."""
        multiple = model.generator.multiple
        network_tile = self.network_tile // 2 // multiple * multiple
        if network_tile < max(multiple, _SMALLEST):
            return None
        ratio = self.tile / self.network_tile
        return replace(
            self,
            network_tile=network_tile,
            tile=round(network_tile * ratio),
            overlap=round(_overlap_for(network_tile, multiple) * ratio),
            settings=replace(self.settings, batch_size=1),
        )

    def describe(self) -> str:
        """The plan in a line, for people to read."""
        shape = " × ".join(map(str, reversed(self.volume.data.shape)))
        told = "as stated" if self.skewness is None else f"skewness {self.skewness:+.2f}"
        resampled = f", resampled to {self.network_tile} for the network" if self.tile != self.network_tile else ""
        return (
            f"{shape} voxels (x, y, z) of {self.volume.voxel_size:.4g} Å, protein {self.contrast} ({told}), "
            f"{len(self.grid)} tile{'s' * (len(self.grid) > 1)} of {self.tile} voxels{resampled}"
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
    multiple = model.generator.multiple
    network_tile = math.ceil(_TILE / multiple) * multiple if settings.tile is None else settings.tile
    if network_tile < 1 or network_tile % multiple:
        raise CryodenError(f"tile {network_tile} does not suit the network: take a multiple of {multiple}")
    overlap = _overlap_for(network_tile, multiple) if settings.overlap is None else settings.overlap
    tile = round(network_tile * ratio)
    overlap = round(overlap * ratio)
    depth, height, width = volume.data.shape
    TileGrid((depth, height, width), tile, overlap)
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
    return Plan(name, volume, statistics, contrast, skewness, network_tile, tile, overlap, settings)


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


def _overlap_for(tile: int, multiple: int) -> int:
    """About a third of a tile, such that the steps between tiles are multiples, if a tile has room for it."""
    overlap = math.ceil(tile / (3 * multiple)) * multiple
    return overlap if overlap < tile else tile // 3
