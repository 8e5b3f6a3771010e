"""Pairs of MRC files, degraded and clean, for Lightning: what a microscope or another program made."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryoden.batch import Specimen
from cryoden.data.base import TEST, TRAIN, VALIDATION, VolumeDataModule
from cryoden.data.dataset import VolumeDataset, random_box, shows_something
from cryoden.errors import CryodenError, check_above_zero
from cryoden.inference.tilts import find_tilts
from cryoden.scaling import Scale
from cryoden.simulation.degradation import Degradation, MissingWedge, Parameters
from cryoden.simulation.units import BRIGHTEST
from cryoden.volume import read_volume

_log = logging.getLogger(__name__)

Part = tuple[slice, ...]
"""A place in a volume along z, y, x."""

_CLEAN, _DEGRADED = "_clean.mrc", "_degraded.mrc"
_CHANCE = 5  # standard deviations: a lower correlation is that of volumes that show different things
_SHOWS = 0.1  # of the highest contrast: a section or block with less of it shows nothing
_DARKEST = -0.5  # times the particles' contrast: vacuum is darker, protein is not
_BLOCK = 8  # voxels along each side: about a particle
_ROUNDS = 8
_SHIFTS = range(-3, 4)  # sections by which a slab may lie off the middle of its reconstruction


@dataclass(frozen=True, eq=False)
class Pair:
    """A degraded volume and its clean one, on the clean one's grey scale.

    Attributes:
        name: what tables call it.
        degraded: (D, H, W) float32; equals what was measured of `clean`, plus what is uncorrelated with that.
        clean: (D, H, W) float32; bright, its background 0 and its particles about 1, whatever else is in it.
        voxel_size: Å.
        tilt_range: (min, max) in degrees of the tilt series; None: everything was measured.
    """

    name: str
    degraded: NDArray[np.float32]
    clean: NDArray[np.float32]
    voxel_size: float
    tilt_range: tuple[float, float] | None = None


def find_pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The pairs of a folder, NAME_degraded.mrc and NAME_clean.mrc as `cryoden simulate` writes them.

    Returns:
        Name → (degraded, clean).

    Raises:
        CryodenError: there are none, or one lacks its partner.
    """
    found = {}
    for degraded in sorted(folder.glob(f"*{_DEGRADED}")):
        name = degraded.name.removesuffix(_DEGRADED)
        found[name] = degraded, folder / f"{name}{_CLEAN}"
    if not found:
        shrec = "; a SHREC data set is read by ShrecDataModule" if any(folder.glob("model_*")) else ""
        raise CryodenError(f"folder {folder}: no pairs; they are NAME_degraded.mrc beside NAME_clean.mrc{shrec}")
    for name, paths in found.items():
        for path in paths:
            if not path.is_file():
                raise CryodenError(f"pair {name}: there is no {path}; add it, or take the pair out of the folder")
    return found


def read_pair(name: str, degraded: Path, clean: Path, tilt_range: tuple[float, float] | None = None) -> Pair:
    """Read a pair and bring both volumes to one grey scale.

    The clean volume is shifted and divided so that its background is 0 and its particles are about 1. The degraded one
    is shifted and scaled, and inverted where its particles are dark, so that it equals what was measured of the clean
    one plus what is uncorrelated with that. Both are said by the particles: gold, vacuum and filled margins count for
    nothing, and where a margin was filled both are background. Where one has more sections than the other, as SHREC's
    reconstructions have, it is cut to the slab that fits best, at most three sections off the middle.

    Args:
        name: what tables call it.
        degraded: an MRC file.
        clean: an MRC file.
        tilt_range: (min, max) in degrees of the degraded volume's tilt series; None: all of it was measured.

    Raises:
        CryodenError: a file cannot be read, the two do not fit each other, or one is constant.
    """
    noisy, truth = read_volume(degraded), read_volume(clean)
    for path, volume in ((degraded, noisy), (clean, truth)):
        if volume.data.std() == 0:
            raise CryodenError(f"{path}: all voxels are {volume.data.flat[0]:g}; a constant volume shows nothing")
    if abs(noisy.voxel_size - truth.voxel_size) > 0.01 * truth.voxel_size:
        raise CryodenError(
            f"pair {name}: voxels of {noisy.voxel_size:g} Å in {degraded.name} and {truth.voxel_size:g} Å in "
            f"{clean.name}; they must be the same: correct a header, or resample a volume"
        )
    if truth.voxel_size <= 0:
        raise CryodenError(f"{clean}: no voxel size in the header; write it there")
    seen, shown = _same_slab(noisy.data, truth.data, f"pair {name}: {degraded.name} and {clean.name}")
    shown = shown - background_of(shown)
    if not shown.max() > 0:
        raise CryodenError(f"{clean}: nothing is brighter than its background; invert it, so that particles are bright")
    shown /= particle_level(shown)
    batch = torch.from_numpy(seen)[None, None]
    filled = Scale.of(batch).left_out(batch)[0, 0].numpy()
    # seen = gain × what was measured + the rest, by least squares; a negative gain is dark particles. Gold and vacuum,
    # which spread over what is beside them and are seen otherwise than protein, have gains of their own.
    gold, vacuum = np.maximum(shown - BRIGHTEST, 0), np.where(shown < _DARKEST, shown, np.float32(0))
    specimen = ~filled & (gold == 0) & (vacuum == 0)
    wedge = MissingWedge(tilt_range) if tilt_range else None
    parts = [_measured(part, wedge) for part in (shown - gold - vacuum, gold, vacuum) if part.any()]
    fit = _Fit.of(seen[specimen], [part[specimen] for part in parts])
    if abs(fit.correlation) < _CHANCE / np.count_nonzero(specimen) ** 0.5:
        raise CryodenError(
            f"pair {name}: {degraded.name} and {clean.name} have a correlation of {fit.correlation:.3f}: they do not "
            "show the same thing; pair the right files"
        )
    seen = (seen - np.float32(fit.offset)) / np.float32(fit.gain)
    seen, shown = (np.where(filled, np.float32(0), each) for each in (seen, shown))
    return Pair(name, seen, shown, truth.voxel_size, tilt_range)


def background_of(clean: NDArray[np.float32]) -> float:
    """The grey value of what is around particles: the median over the sections that show some, and so no vacuum.

    Args:
        clean: (D, H, W), bright, any unit.
    """
    contrast = np.ptp(clean, axis=(1, 2))
    return float(np.median(clean[contrast > _SHOWS * contrast.max()]))


def particle_level(clean: NDArray[np.float32]) -> float:
    """How bright particles are, whatever else is in a volume: the median brightest voxel of small blocks.

    Blocks without anything to see and blocks with gold are left out, as often as it takes to tell them.

    Args:
        clean: (D, H, W), bright, any unit, its background 0.
    """
    block = min(_BLOCK, *clean.shape)
    whole = clean[tuple(slice(size // block * block) for size in clean.shape)]
    depth, height, width = (size // block for size in whole.shape)
    brightest = whole.reshape(depth, block, height, block, width, block).max((1, 3, 5))
    level = float(np.median(brightest[brightest > _SHOWS * brightest.max()]))
    for _ in range(_ROUNDS):
        level = float(np.median(brightest[(brightest > level / 4) & (brightest < level * 3)]))
    return level


def _measured(clean: NDArray[np.float32], wedge: MissingWedge | None) -> NDArray[np.float32]:
    """What a tilt series measures of a volume (D, H, W)."""
    if wedge is None:
        return clean
    batch = torch.from_numpy(clean)[None, None]
    left: NDArray[np.float32] = wedge.apply(batch, [wedge.sample(torch.Generator())])[0, 0].numpy()
    return left


@dataclass(frozen=True)
class _Fit:
    """Grey values as a sum of parts, by least squares.

    Attributes:
        offset: where the first part is 0, and the others are what they are on the mean.
        gain: of the first part.
        correlation: with the first part.
    """

    offset: float
    gain: float
    correlation: float

    @classmethod
    def of(cls, seen: NDArray[np.float32], parts: list[NDArray[np.float32]]) -> "_Fit":
        """Fit (n,) grey values by parts, each (n,)."""
        means = [float(np.mean(each, dtype=np.float64)) for each in (seen, *parts)]
        columns = [each - np.float32(mean) for each, mean in zip((seen, *parts), means, strict=True)]
        # float64 sums without a copy in float64
        gram = np.array([[np.einsum("i,i", one, other, dtype=np.float64) for other in columns] for one in columns])
        # A part that varies a thousand times less than the others has no gain: vacuum, of which a wedge leaves nothing.
        gains = np.linalg.lstsq(gram[1:, 1:], gram[1:, 0], rcond=1e-6)[0]
        correlation = gram[0, 1] / (gram[0, 0] * gram[1, 1]) ** 0.5
        return cls(means[0] - float(gains[0]) * means[1], float(gains[0]), float(correlation))


def _same_slab(
    noisy: NDArray[np.float32], truth: NDArray[np.float32], what: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The sections that both describe."""
    if noisy.shape[1:] != truth.shape[1:]:
        raise CryodenError(
            f"{what} have {noisy.shape} and {truth.shape} voxels (z, y, x); they must show the same volume"
        )
    more = noisy.shape[0] - truth.shape[0]
    if more == 0:
        return noisy, truth
    thick, thin = (noisy, truth) if more > 0 else (truth, noisy)
    more = abs(more)
    starts = [more // 2 + shift for shift in _SHIFTS if 0 <= more // 2 + shift <= more]
    slabs = [thick[start : start + thin.shape[0]] for start in starts]
    # without the mean, which says nothing of where the slab lies
    centred = thin - thin.mean()
    match = [abs(float(np.vdot(slab, centred))) / (float(slab.std()) or 1.0) for slab in slabs]
    slab = slabs[int(np.argmax(match))].copy()
    return (slab, thin) if thick is noisy else (thin, slab)


class PairDataset(VolumeDataset):
    """Boxes cut from pairs at random, or whole pairs where they are no larger than the box.

    Args:
        pairs: what to cut from.
        boxes: items per pair, see `items_of`.
        box: voxels along each side.
        kwargs: see VolumeDataset.
    """

    def __init__(self, pairs: list[Pair], boxes: int, box: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pairs = pairs
        self.items = items_of(pairs, boxes, box)
        self.box = box

    def __len__(self) -> int:
        return len(self.items)

    def make(self, index: int, generator: torch.Generator) -> Specimen:
        """Cut a box that shows something."""
        pair = self.pairs[self.items[index]]
        return cut_pair(pair, random_box(pair.clean, self.box, generator))


def items_of(pairs: Sequence[Pair], boxes: int, box: int) -> list[int]:
    """Which pair each item is cut from: so many of each, but no more than it has places for a box.

    Args:
        pairs: what to cut from.
        boxes: items per pair.
        box: voxels along each side.
    """
    places = [math.prod(size - box + 1 for size in pair.clean.shape) for pair in pairs]
    return [number for number, most in enumerate(places) for _ in range(min(boxes, most))]


def part_of(pair: Pair, part: Part) -> Pair:
    """A pair of which there is this part alone."""
    return replace(pair, degraded=pair.degraded[part], clean=pair.clean[part])


def cut_pair(pair: Pair, part: Part) -> Specimen:
    """A box of a pair.

    Args:
        pair: what to cut from.
        part: the box's place along z, y, x.
    """
    clean, degraded = (torch.from_numpy(volume[part].copy())[None] for volume in (pair.clean, pair.degraded))
    low, high = pair.tilt_range or (-90.0, 90.0)
    drawn: list[Parameters] = [{"tilt_min": low, "tilt_max": high}]
    return {"clean": clean, "degraded": degraded, "entry": pair.name, "parameters": drawn}


class PairDataModule(VolumeDataModule):
    """Boxes from pairs of MRC files, degraded and clean: real ones, or another program's.

    Both volumes of a pair are brought to one grey scale, dark particles made bright. The pairs that are held out are
    shared out: the first tests, the second validates, and so on in turn. One alone is halved across its longest side,
    for validation and for test, where each half has room for a box and shows something; where not, both see the same
    places, which is logged.

    Args:
        folder: where NAME_degraded.mrc and NAME_clean.mrc files are, as `cryoden simulate` writes them.
        holdout: names of the pairs that are never trained on; by default the last fifth, at least one.
        boxes: boxes cut from each pair in an epoch; fewer where it has fewer places for one: a pair of the box's size
            is shown once.
        tilt_range: (min, max) in degrees of all tilt series, about y; null: of each what lies beside it tells, such as
            NAME_degradation.json of `cryoden simulate` or a .tlt, and no missing wedge where nothing does.
        kwargs: see VolumeDataModule.
    """

    def __init__(
        self,
        folder: str,
        holdout: list[str] | None = None,
        boxes: int = 100,
        tilt_range: tuple[float, float] | None = None,
        **kwargs: Any,
    ) -> None:
        # Never applied: the degraded volumes are there. It tells which part of Fourier space was measured of each.
        super().__init__([MissingWedge(tilt_range or (-90.0, 90.0))], voxel_size=0.0, **kwargs)
        self.save_hyperparameters()
        check_above_zero(boxes=boxes)
        self.folder = Path(folder)
        self.tilt_range = tilt_range
        self.holdout = holdout
        self.boxes = boxes
        self.pairs: dict[str, Pair] = {}
        self.shares: dict[int, dict[str, Part]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the pairs and check that they fit together."""
        if self.pairs:
            return
        if not self.folder.is_dir():
            raise CryodenError(f"folder {self.folder}: no such folder")
        found = self._find()
        names = list(found)
        if self.holdout is None:
            self.holdout = names[-max(1, len(names) // 5) :]
        unknown = [name for name in self.holdout if name not in found]
        if unknown:
            raise CryodenError(f"holdout: no pair {unknown[0]} in {self.folder}; there are {', '.join(names)}")
        if stage == "fit" and set(self.holdout) == set(names):
            raise CryodenError(
                f"folder {self.folder}: nothing left to train on: {', '.join(names)} held out; add pairs"
            )
        pairs = {name: self._read(name, *paths) for name, paths in found.items()}
        first = pairs[names[0]]
        for pair in pairs.values():
            if min(pair.clean.shape) < self.box:
                raise CryodenError(
                    f"pair {pair.name}: {pair.clean.shape} voxels (z, y, x) hold no box of {self.box}; "
                    "use a smaller box"
                )
            if abs(pair.voxel_size - first.voxel_size) > 0.01 * first.voxel_size:
                raise CryodenError(
                    f"pairs {first.name} and {pair.name}: voxels of {first.voxel_size:g} and {pair.voxel_size:g} Å; a "
                    "network learns one voxel size: put them into different folders"
                )
        self.pairs = pairs
        self.shares = self._shared_out(self.holdout)
        self.voxel_size = first.voxel_size

    def test_volumes(self, degradation: Sequence[Degradation] | None = None) -> VolumeDataset:
        """The test volumes: item (0, i) for each i.

        Args:
            degradation: refused: what degraded these volumes, degraded them.

        Raises:
            CryodenError: another degradation was asked for.
        """
        if degradation is not None:
            raise CryodenError(
                f"{type(self).__name__}: its volumes come from files, as they were degraded; what would have become of "
                "them otherwise is only known of simulated ones: take ParticleDataModule or SceneDataModule"
            )
        return super().test_volumes()

    def _find(self) -> dict[str, tuple[Path, Path]]:
        """The pairs of the folder: name → (degraded, clean)."""
        return find_pairs(self.folder)

    def _read(self, name: str, degraded: Path, clean: Path) -> Pair:
        """Read one of them."""
        tilts = self.tilt_range or find_tilts(degraded)
        return read_pair(name, degraded, clean, tilts and (tilts[0], tilts[1]))

    def _shared_out(self, holdout: Sequence[str]) -> dict[int, dict[str, Part]]:
        """What each split is cut from: of which pairs which parts."""
        whole = {name: tuple(slice(0, size) for size in pair.clean.shape) for name, pair in self.pairs.items()}
        held_out = list(dict.fromkeys(holdout))
        shares = {
            TRAIN: {name: part for name, part in whole.items() if name not in held_out},
            TEST: {name: whole[name] for name in held_out[::2]},
            VALIDATION: {name: whole[name] for name in held_out[1::2]},
        }
        if len(held_out) == 1:
            (name,) = held_out
            test, validation = self._halves(name, whole[name])
            shares |= {TEST: {name: test}, VALIDATION: {name: validation}}
        return shares

    def _halves(self, name: str, whole: Part) -> tuple[Part, Part]:
        """Both halves of a pair, across its longest side; twice the whole where one half would be of no use."""
        sizes = [side.stop for side in whole]
        axis = int(np.argmax(sizes))
        middle = sizes[axis] // 2
        sides = slice(0, middle), slice(middle, sizes[axis])
        first, second = (tuple(side if i == axis else each for i, each in enumerate(whole)) for side in sides)
        if middle >= self.box and self._shows(name, first) and self._shows(name, second):
            return first, second
        _log.warning(
            "pair %s: it alone is held out, and has no two halves with room for a box of %d and something to see: "
            "validation and test see the same places; hold out another pair, or take a smaller box",
            name,
            self.box,
        )
        return whole, whole

    def _shows(self, name: str, part: Part) -> bool:
        """Whether boxes that can be scored can be cut from this part of a pair."""
        return shows_something(self.pairs[name].clean[part])

    def _settings(self, split: int) -> dict[str, Any]:
        """What a dataset needs beside its pairs: they are degraded already."""
        return {**self._randomness(split), "degradation": self.degradation, "degrade": False}

    def _volumes(self, split: int, degradation: Sequence[Degradation]) -> VolumeDataset:
        pairs = [part_of(self.pairs[name], part) for name, part in self.shares[split].items()]
        return PairDataset(pairs, self.boxes, self.box, **self._settings(split))
