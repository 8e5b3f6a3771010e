"""What is going to be done with a volume, decided before it is done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryoden.denoiser import Denoiser
from cryoden.errors import CryodenError
from cryoden.inference.contrast import Contrast, GreyValues, look
from cryoden.inference.memory import peak_memory
from cryoden.inference.resampling import resample
from cryoden.inference.settings import Settings
from cryoden.inference.tiling import TileGrid, fit_tile, tell
from cryoden.models import suits
from cryoden.scaling import Scale
from cryoden.volume import Statistics, Volume, central, measure, native

_MEMORY = 2.2e9  # bytes of float32 in which a tile goes through a network; bfloat16 takes half of them
_OVERLAP = 32
_RESAMPLING = 8  # voxels at the ends of a tile in which it shows that a tile was resampled alone
_DEAREST = 4.0  # times: so often each voxel may be computed for tiles that leave no trace; else they are blended
_MEASURED = 64  # edge of the tile that tells how much memory a network needs, and the smallest that is chosen
_LARGEST = 256  # edge of a tile; beyond it, little is left to gain
_SMALLEST = 16
_SEEN = 128  # edge of a box that tells how noisy resampled voxels are, in whichever voxels are smaller
_EXACT_SIZE = 0.01
_STEP = 0.1  # spreads between one number of a type and the next; rounding to them is an error of a thirtieth
_FURTHEST = 4.0  # times: beyond it, nothing of what the network knows is left in the tomogram, or the reverse


@dataclass(frozen=True, eq=False)
class Plan:
    """What is going to be done with a volume.

    Attributes:
        name: What errors call the volume.
        volume: With the voxel size that counts.
        statistics: Of its voxels.
        grey: What its grey values tell.
        contrast: Of its protein.
        network_tile: Edges (z, y, x) of the tiles the network sees, in its own voxels.
        grid: The tiles that cover the volume, in its voxels.
        ratio: How many of the volume's voxels make one of the network's, along an edge.
        spread: What standardised voxels have when they are resampled to the network's: larger ones are less noisy.
        multiple: Of what the network's tiles are.
        settings: What was asked for.
        traceless: The smallest `tile` that leaves no trace where tiles meet; None where the plan's leave none, or it is
            not known how far the network reaches.
        seen: The `size_and_time` of its file, before that was mapped; zeros where there is none.
    """

    name: str
    volume: Volume
    statistics: Statistics
    grey: GreyValues
    contrast: Contrast
    network_tile: tuple[int, int, int]
    grid: TileGrid
    ratio: float
    spread: float
    multiple: int
    settings: Settings
    traceless: int | None = None
    seen: tuple[int, int] = (0, 0)

    def halved(self, model: Denoiser) -> Plan | None:
        """The same with tiles of half the edge, one at once; None if the network takes no smaller ones."""
        largest = max(self.network_tile) // 2 // self.multiple * self.multiple
        if largest < max(self.multiple, _SMALLEST):
            return None
        settings = replace(self.settings, batch_size=1, tile=largest, overlap=None)
        network_tile, grid = _tiles(self.grid.shape, model, settings, self.ratio)
        traceless = _traceless(grid, model, self.ratio)
        return replace(self, network_tile=network_tile, grid=grid, settings=settings, traceless=traceless)

    @property
    def trace(self) -> str:
        """That it is going to show where tiles met, and what to do about that, in words; nothing where it is not."""
        if self.traceless is None:
            return ""
        little = "sharing so little" if self.settings.overlap is not None else "so small"
        way_out = "without --overlap, and " if self.settings.overlap is not None else ""
        return f"tiles {little} leave a trace where they meet: {way_out}with --tile {self.traceless}, they leave none"

    def describe(self) -> str:
        """The plan in a line, for people to read."""
        shape = tell(self.grid.shape)
        told = f"skewness {self.grey.skewness:+.2f}" if self.settings.contrast == "auto" else "as stated"
        resampled = (
            f", resampled to {tell(self.network_tile)} for the network" if self.grid.tile != self.network_tile else ""
        )
        left_out = self.grey.describe("become background" if self.settings.measured_only else "stay as they are")
        return "; ".join(
            part
            for part in (
                f"{shape} voxels (x, y, z) of {self.volume.voxel_size:.4g} Å, protein {self.contrast} ({told}), "
                f"{len(self.grid)} tile{'s' * (len(self.grid) > 1)} of {tell(self.grid.tile)} voxels{resampled}",
                self.trace,
                f"tilts {self.settings.tilts}" if self.settings.tilts else "",
                left_out,
            )
            if part
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
    if settings.measured_only and settings.tilts is None:
        raise CryodenError(
            f"{name}: which part of Fourier space was measured is not known: state its tilts, such as "
            "--tilt-range '[-60, 60]', or put its .tlt, .aln, .xml, .rawtlt or .mdoc beside it"
        )
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
    grey = look(volume.data)
    if not np.can_cast(volume.data.dtype, np.float32):
        require_kept(name, statistics, grey.scale, np.float32, "give it another scale, or take its level away")
    contrast = grey.contrast if settings.contrast == "auto" else settings.contrast
    if contrast is None:
        raise CryodenError(
            f"{name}: cannot tell whether protein is bright or dark (skewness {grey.skewness:+.3f}); look at it, and "
            "give --contrast bright or --contrast dark"
        )
    volume = replace(volume, voxel_size=voxel_size)
    multiple = model.generator.multiple
    spread = _spread(volume.data, grey.scale, ratio) if ratio != 1 and model.standardize else 1.0
    traceless = _traceless(grid, model, ratio)
    return Plan(
        name, volume, statistics, grey, contrast, network_tile, grid, ratio, spread, multiple, settings, traceless
    )


def require_kept(
    name: str, statistics: Statistics, scale: Scale, kind: type[np.float32 | np.float16], way_out: str
) -> None:
    """Refuses a volume of which the type of the answer would keep too little.

    Args:
        name: What errors call the volume.
        statistics: Of the volume.
        scale: Of the volume.
        kind: The type.
        way_out: What to do.

    Raises:
        CryodenError: It has values beyond the type's, or next to no steps for those that are there.
    """
    most = float(np.finfo(kind).max)
    largest = max(abs(statistics.minimum), abs(statistics.maximum))
    if largest > most:
        raise CryodenError(f"{name}: has values up to {largest:.3g}, and {kind.__name__} ends at {most:.5g}; {way_out}")
    level, spread = float(scale.level), float(scale.spread)
    step = float(np.spacing(kind(min(most, abs(level) + 4 * spread))))
    if step > _STEP * spread:
        raise CryodenError(
            f"{name}: its values are about {level:.5g}, with a spread of {spread:.2g}, and {kind.__name__} has steps "
            f"of {step:.2g} there, at most {_STEP:g} spreads being allowed; {way_out}"
        )


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
    if not suits(voxel_size, trained):
        raise CryodenError(
            f"{name}: its voxels are {voxel_size:.4g} Å, and the model was trained at {trained:.4g} Å; resample it "
            "there and back with --rescale, or state the right --voxel-size if the header is wrong"
        )
    return 1.0


def _spread(data: NDArray[Any], scale: Scale, ratio: float) -> float:
    """Of standardised voxels that are resampled: what the middle of a volume tells."""
    box = torch.from_numpy(native(central(data, round(_SEEN * min(1, ratio)))))[None, None]
    left_out = scale.left_out(box)
    shape = [max(1, round(size / ratio)) for size in box.shape[2:]]
    voxels, same = (
        resample(each, shape).flatten(2, 3)[:, 0] for each in (scale.standardize(box, left_out), left_out.float())
    )
    return float(Scale.of_rows(voxels, same > 0.5).spread)


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
    edges = range(largest, smallest - 1, -multiple)
    bytes_a_voxel = 0.0  # where there is a choice
    if len(edges) > 1:
        bytes_a_voxel = peak_memory(model.generator, settings.batch_size, (smallest,) * 3) / smallest**3
    least = _least(multiple, ratio)
    if settings.overlap is None:
        best = _cheapest(_exact(shape, model, ratio, edges), bytes_a_voxel)
        if best is not None and _pays(best):
            return best
    overlap = settings.overlap
    if overlap is None:
        overlap = max(0, min(_OVERLAP, largest // 3, largest - least))
    best = None
    if overlap >= 0:
        best = _cheapest(_covers(shape, ratio, edges, overlap // 4, overlap // 2, least, multiple), bytes_a_voxel)
    if best is None:
        raise CryodenError(
            f"tile {largest} and overlap {overlap} do not fit: the overlap must be at least 0 and leave {least} "
            f"voxel{'s' * (least > 1)} of the tile; a third of the tile is a good choice"
        )
    return best


_Cover = tuple[tuple[int, int, int], TileGrid]


def _least(multiple: int, ratio: float) -> int:
    """Voxels of the network's that must be left of a tile beside halo and blend."""
    return multiple if ratio == 1 else max(multiple, math.ceil(4 / ratio))  # rounding takes up to three voxels


def _exact(shape: tuple[int, int, int], model: Denoiser, ratio: float, edges: Sequence[int]) -> list[_Cover]:
    """Of `_covers`, those of tiles that share as much as the network reaches, so that nothing tells where they meet."""
    reach, multiple = model.generator.reach, model.generator.multiple
    if reach is None:
        return []
    # one voxel more: whether a voxel is hot, its neighbours tell
    halo, blend = (reach + 1, 0) if ratio == 1 else (reach + 1 + _RESAMPLING, _RESAMPLING)
    return _covers(shape, ratio, edges, halo, blend, _least(multiple, ratio), multiple)


def _traceless(grid: TileGrid, model: Denoiser, ratio: float) -> int | None:
    """The smallest tile that leaves no trace where tiles meet; None where the grid leaves none, or it is unknown.

    At the latest, it is as large as the volume.
    """
    reach, multiple = model.generator.reach, model.generator.multiple
    if reach is None or len(grid) == 1 or grid.halo >= math.ceil((reach + 1) * ratio):
        return None
    whole = math.ceil(max(grid.shape) / ratio / multiple) * multiple
    for edge in range(multiple, whole, multiple):
        if any(map(_pays, _exact(grid.shape, model, ratio, [edge]))):
            return edge
    return whole


def _pays(cover: _Cover) -> bool:
    """Whether tiles that leave no trace compute each voxel seldom enough to be taken."""
    return _computed(cover) <= _DEAREST * math.prod(cover[1].shape)


def _covers(
    shape: tuple[int, int, int], ratio: float, edges: Sequence[int], halo: int, blend: int, least: int, multiple: int
) -> list[_Cover]:
    """The network's tile and the volume's grid for each largest edge that leaves `least` beside halo and blend."""
    needed = math.ceil(shape[0] / ratio), math.ceil(shape[1] / ratio), math.ceil(shape[2] / ratio)
    covers = []
    for edge in edges:
        if edge - 2 * halo - blend < least and max(needed) > edge:
            continue
        network_tile = fit_tile(needed, edge, halo, blend, multiple)
        z, y, x = (round(each * ratio) for each in network_tile)
        steps = multiple if ratio == 1 else 1
        grid = TileGrid(shape, (z, y, x), math.ceil(halo * ratio), math.ceil(blend * ratio), steps)
        covers.append((network_tile, grid))
    return covers


def _computed(cover: _Cover) -> float:
    """Voxels of the volume that the network computes, one counted as often as tiles hold it."""
    return math.prod(cover[1].tile) * len(cover[1])


def _cheapest(covers: list[_Cover], bytes_a_voxel: float) -> _Cover | None:
    """The cover that computes the fewest voxels, of those there is memory for; the smallest where there is none."""
    fitting = [each for each in covers if math.prod(each[0]) * bytes_a_voxel <= _MEMORY]
    return min(fitting or covers[-1:], key=_computed, default=None)
