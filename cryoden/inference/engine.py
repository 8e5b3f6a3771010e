"""A denoiser on a device: a planned volume goes through it, tile after tile, into a file or an array.

The memory needed does not depend on the volume's size.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoden.denoiser import Denoiser, denoiser_of
from cryoden.errors import CryodenError
from cryoden.hardware import choose_device, choose_precision
from cryoden.inference.begun import Begun
from cryoden.inference.normalisation import has_group_norm, normalised_alike
from cryoden.inference.plan import Plan, make_plan
from cryoden.inference.resampling import resample
from cryoden.inference.settings import Settings
from cryoden.inference.tiling import TileGrid, filled_in, out_of_memory, tell, tiled
from cryoden.inference.wedge import see_wedge
from cryoden.version import __version__
from cryoden.volume import Volume, release

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
Precision = Literal["auto", "float32", "bfloat16"]

_FLIPS = [axes for count in range(4) for axes in combinations((2, 3, 4), count)]
_CHECKED = ("cuda",)  # where float32 costs little, and libraries have been seen to be silently wrong in bfloat16
_BFLOAT16_ERROR = 0.02  # relative; docs/denoising.md says what was measured
_SAMPLE, _SAMPLE_EDGE = 32, 96  # tiles, and their edge, that tell what the norms of a network are going to see


@dataclass(frozen=True, eq=False)
class Engine:
    """A denoiser, where it runs, and how precisely it computes.

    Attributes:
        denoiser: In evaluation mode while it runs, and afterwards as it was.
        device: Where the network runs.
        precision: float32, or bfloat16, which is two to three times as fast where a device computes in it.
    """

    denoiser: Denoiser
    device: torch.device
    precision: torch.dtype
    _errors: dict[tuple[int, ...], float] = field(default_factory=dict, init=False, repr=False)  # a tile's shape → its

    @classmethod
    def of(cls, model: nn.Module, device: torch.device | str | None = None, precision: Precision = "auto") -> Engine:
        """For a model, by default on the fastest device and in the precision that suits it.

        Args:
            model: A denoiser, or a training that has one.
            device: By default the choice of `choose_device`.
            precision: "auto" takes bfloat16 where the device computes in it.

        Raises:
            CryodenError: The model is something else, its weights are not float32, or the precision is unknown.
        """
        where = choose_device()[0] if device is None else torch.device(device)
        if precision not in ("auto", "float32", "bfloat16"):
            raise CryodenError(f"precision {precision!r} is unknown; it is 'auto', 'float32' or 'bfloat16'")
        kind = choose_precision(where) if precision == "auto" else getattr(torch, precision)
        denoiser = denoiser_of(model)
        others = {p.dtype for p in denoiser.generator.parameters() if p.dtype != torch.float32}
        if others:
            told = ", ".join(sorted(str(each).removeprefix("torch.") for each in others))
            raise CryodenError(
                f"model: its weights are {told}; needed is float32, which model.float() makes of them, and precision "
                "says what the network computes in"
            )
        return cls(denoiser, where, kind)

    def plan(self, volume: Volume, settings: Settings, name: str = "the volume") -> Plan:
        """What is going to be done with a volume; see `make_plan`."""
        return make_plan(volume, self.denoiser, settings, name)

    def run(
        self,
        plan: Plan,
        result: NDArray[np.float64],
        progress: Progress | None = None,
        begun: Begun | None = None,
    ) -> float | None:
        """Denoises.

        Args:
            plan: Of this engine.
            result: (D, H, W), changed in place; may be mapped from a file.
            progress: Called with the number of tiles done and their total.
            begun: What the result is kept in, to be gone on with where this is possible; see `tiles_key`.

        Returns:
            The share of the answer's power that lay in the missing wedge, from 0 to 1; None where that is unknown.

        Raises:
            CryodenError: The network gives what is not finite, or there is no memory for even the smallest tile.
        """
        smaller = self._attempt(plan, result, progress, begun)
        if begun is not None:
            begun.spoil()
        while smaller is not None:
            plan = smaller
            smaller = self._attempt(plan, result, progress)
        in_wedge = None
        if plan.settings.tilts is not None:
            if self.denoiser.standardize and plan.grey.scale.masked:
                _empty_margins(result, plan.volume.data)  # whose edges have waves of any direction
            in_wedge = see_wedge(result, plan.settings.tilts, remove=plan.settings.measured_only)
        self._restore(plan, result)
        return in_wedge

    def _restore(self, plan: Plan, result: NDArray[np.float64]) -> None:
        """From density of bright protein in the network's unit to the grey scale of the input, in place."""
        if not self.denoiser.standardize:
            if plan.contrast == "dark":
                for section in result:
                    np.negative(section, out=section)
                    release(result)
            return
        level, spread = float(plan.grey.scale.level), float(plan.grey.scale.spread)
        spread = -spread if plan.contrast == "dark" else spread
        masked = bool(plan.grey.scale.masked) and not plan.settings.measured_only
        for section, given in zip(result, plan.volume.data, strict=True):
            section *= spread
            section += level
            if masked:
                np.copyto(section, given, where=filled_in(given))
            release(result)
            release(plan.volume.data)

    def label(self, settings: Settings, contrast: str = "") -> str:
        """What a denoised file says of itself: the model, a digest of its weights, and how it was used."""
        used = ", augmented" * settings.augment + ", rescaled" * settings.rescale
        used += ", measured part only" * settings.measured_only
        told = f"cryoden {__version__}: denoised by {self.denoiser.name} {self._digest[:8]}{used}, {contrast}"
        return told.removesuffix(", ")

    def key(self, settings: Settings, contrast: str, *, float16: bool = False) -> str:
        """12 hexadecimal digits that stand for all that decides the voxels of a result, but for the input.

        Batches are left out, in which a result differs by rounding alone, and tiles and overlap that nobody asked for:
        they are chosen so that they leave no trace, where that is possible.
        """
        rescaled = settings.rescale and "to the network's spread"  # which was once left as it is
        used = [self._digest, settings.augment, rescaled, settings.voxel_size, contrast]
        asked = {"tile": settings.tile, "overlap": settings.overlap}
        used += [each for each in asked.items() if each[1] is not None]
        if settings.measured_only:
            used.append(settings.tilts and settings.tilts[:2])
        if float16:
            used.append("float16")
        return hashlib.sha256(repr(tuple(used)).encode()).hexdigest()[:12]

    def tiles_key(self, plan: Plan) -> str:
        """Of all that decides the tiles of a result, but for the input; "" where each depends on more than its tile.

        That is so where tiles are blended, and where a norm sees what the whole volume holds.
        """
        if plan.grid.blend or (len(plan.grid) > 1 and has_group_norm(self.denoiser.generator)):
            return ""
        return f"{self.key(plan.settings, plan.contrast)} {self.precision} {plan.grid}"

    @cached_property
    def _digest(self) -> str:
        """Of the model, as it was when this engine was first asked."""
        return self.denoiser.digest()

    def _attempt(
        self, plan: Plan, result: NDArray[np.float64], progress: Progress | None, begun: Begun | None = None
    ) -> Plan | None:
        """Density of bright protein, in the network's unit, into `result`; or a plan that needs less memory."""
        generator = self.denoiser.generator

        def count(done: int, total: int) -> None:
            if begun is not None:
                begun.tell(done, total)
            if progress is not None:
                progress(done, total)

        divided = len(plan.grid) > 1 and has_group_norm(generator)
        if divided:
            _log.warning(
                "%s normalises by what a tile holds (group or instance norm), so that what is denoised here depends on "
                "what lies around it; a network without such norms, such as CompactUnet, does not",
                type(generator).__name__,
            )
        try:
            network = _Network(self._proved(plan), plan)
            with (
                network.engine._evaluating(),
                # a single tile's own statistics are those of the whole
                normalised_alike(generator, lambda: network.show(_sample(plan))) if divided else nullcontext(),
            ):
                tiled(
                    network,
                    plan.volume.data,
                    plan.grid,
                    batch_size=plan.settings.batch_size,
                    result=result,
                    first=begun.done if begun is not None else 0,
                    progress=count,
                )
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            told = str(error)
        else:
            return None
        smaller = plan.halved(self.denoiser)
        if smaller is None:
            raise CryodenError(
                f"{plan.name}: no memory on {self.device} for even one tile of {tell(plan.network_tile)} voxels "
                f"({told.split('.')[0]})"
            )
        _log.warning(
            "out of memory with a tile of %s voxels: beginning again with %s%s",
            tell(plan.grid.tile),
            tell(smaller.grid.tile),
            ", and tiles so small leave a trace where they meet" if smaller.traceless else "",
        )
        return smaller

    def _proved(self, plan: Plan) -> Engine:
        """This engine, or one in float32 where this device's bfloat16 gives something else."""
        if self.precision != torch.bfloat16 or self.device.type not in _CHECKED:
            return self
        if plan.network_tile not in self._errors:
            self._errors[plan.network_tile] = error = bfloat16_error(self, plan)
            if not error <= _BFLOAT16_ERROR:
                _log.warning(
                    "%s gives in bfloat16 what is off by %.1f %% of what it gives in float32, with torch %s on %s: "
                    "going on in float32, which is slower",
                    type(self.denoiser.generator).__name__,
                    100 * error,
                    torch.__version__,
                    self.device,
                )
        return self if self._errors[plan.network_tile] <= _BFLOAT16_ERROR else replace(self, precision=torch.float32)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The network in evaluation mode on the device, and afterwards as and where it was."""
        network = self.denoiser.generator
        training = network.training
        home = next((parameter.device for parameter in network.parameters()), self.device)
        try:
            network.to(self.device).eval()
            if self.precision == torch.bfloat16:  # only there are channels last the faster layout
                network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stubs lack it
            yield
        finally:
            network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            network.to(home).train(training)


def bfloat16_error(engine: Engine, plan: Plan) -> float:
    """How far off a network is in bfloat16 on a device.

    Some versions of the libraries that compute convolutions give something else, without a word.

    Args:
        engine: In whichever precision.
        plan: Of this engine; the tile in the middle is tried.

    Returns:
        The root mean square of the difference to the answer in float32, by that of this answer; NaN or infinite where
        an answer is.
    """
    tiles = list(plan.grid)
    box, same = plan.grid.cut(plan.volume.data, tiles[len(tiles) // 2])
    answers = []
    for precision in (torch.bfloat16, torch.float32):
        network = _Network(replace(engine, precision=precision), plan)
        with network.engine._evaluating():
            answers.append(network.answer(torch.from_numpy(box[None, None]), torch.from_numpy(same[None, None])))
    rounded, exact = answers
    return float((rounded - exact).norm() / exact.norm()) if exact.any() else float(rounded.norm())


def _empty_margins(density: NDArray[np.float64], given: NDArray[Any]) -> None:
    """Makes background, in place, of what is filled with one value in the volume that was given."""
    for section, before in zip(density, given, strict=True):
        section[filled_in(before)] = 0.0
        release(density)
        release(given)


def _sample(plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
    """Tiles (1, 1, D, H, W) from all over the volume, no larger than they need be to tell of it."""
    multiple = plan.multiple
    smaller = [min(edge, math.ceil(_SAMPLE_EDGE / multiple) * multiple) for edge in plan.network_tile]
    z, y, x = (round(edge * plan.ratio) for edge in smaller)
    grid = TileGrid(plan.grid.shape, (z, y, x))
    tiles = list(grid)
    for i in np.random.default_rng(0).permutation(len(tiles))[:_SAMPLE]:
        box, same = grid.cut(plan.volume.data, tiles[i])
        yield torch.from_numpy(box[None, None]), torch.from_numpy(same[None, None])


class _Network:
    """A denoiser as a function of tiles as they are in the file."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        self.engine, self.plan = engine, plan
        self.flips = _FLIPS if plan.settings.augment else _FLIPS[:1]
        self.sign = -1.0 if plan.contrast == "dark" else 1.0

    @torch.no_grad()
    def answer(self, boxes: Tensor, same: Tensor) -> Tensor:
        """What the network makes of tiles (B, 1, D, H, W) in one orientation, in its own voxels, whatever that is."""
        return self._generate(self._prepare(boxes, same))

    def show(self, tiles: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Runs the network on tiles for its norms to see them."""
        for boxes, same in tiles:
            self.answer(boxes, same)

    def __call__(self, boxes: Tensor, same: Tensor) -> Tensor:
        """(B, 1, D, H, W) as in the file to density of bright protein in the network's unit, of the same shape."""
        tiles = self._prepare(boxes, same)
        density = torch.zeros_like(tiles)
        for axes in self.flips:
            density += self._generate(tiles.flip(axes)).flip(axes)
        density *= self.plan.spread / len(self.flips)
        if density.shape != boxes.shape:
            density = resample(density, boxes.shape[2:])
        if not density.isfinite().all():
            raise CryodenError(
                f"{self.plan.name}: the network gives NaN or infinite values; its training has failed: use another "
                "model"
            )
        return density

    def _prepare(self, boxes: Tensor, same: Tensor) -> Tensor:
        device = self.engine.device
        # first, since a GPU standardises them much faster; but Apple's have no float64, in which that is done
        tiles = boxes.cpu() if device.type == "mps" else boxes.to(device)
        if self.engine.denoiser.standardize:
            scale = self.plan.grey.scale
            tiles = scale.standardize(tiles, (same & scale.masked).to(tiles.device)).to(device).mul_(self.sign)
        else:
            tiles = self.sign * tiles.float().to(device)
        if self.plan.ratio != 1:
            multiple = self.plan.multiple
            tiles = resample(tiles, [round(e / self.plan.ratio / multiple) * multiple for e in tiles.shape[2:]])
            tiles /= self.plan.spread  # which is 1 in what it was trained on
        if self.engine.precision == torch.bfloat16:
            tiles = tiles.to(memory_format=torch.channels_last_3d)
        return tiles

    def _generate(self, tiles: Tensor) -> Tensor:
        with torch.autocast(self.engine.device.type, torch.bfloat16, enabled=self.engine.precision == torch.bfloat16):
            return self.engine.denoiser.density(tiles)
