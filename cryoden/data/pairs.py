"""Pairs of MRC files, degraded and clean, for Lightning: what a microscope or another program made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryoden.batch import Specimen
from cryoden.data.base import TRAIN, VolumeDataModule, check_above_zero
from cryoden.data.dataset import VolumeDataset, random_box
from cryoden.errors import CryodenError
from cryoden.simulation.degradation import Degradation, MissingWedge
from cryoden.volume import read_volume

_CLEAN, _DEGRADED = "_clean.mrc", "_degraded.mrc"
_CHANCE = 5  # standard deviations: a lower correlation is that of volumes that show different things
_SHIFTS = range(-3, 4)  # sections by which a slab may lie off the middle of its reconstruction


@dataclass(frozen=True, eq=False)
class Pair:
    """A degraded volume and its clean one, on the clean one's grey scale.

    Attributes:
        name: what tables call it.
        degraded: (D, H, W) float32; equals what was measured of `clean`, plus what is uncorrelated with that.
        clean: (D, H, W) float32; bright, its median 0 and its maximum 1.
        voxel_size: Å.
    """

    name: str
    degraded: NDArray[np.float32]
    clean: NDArray[np.float32]
    voxel_size: float


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


def read_pair(name: str, degraded: Path, clean: Path, wedge: MissingWedge | None = None) -> Pair:
    """Read a pair and bring both volumes to one grey scale.

    The clean volume is shifted and divided so that its background (the median) is 0 and its maximum 1. The degraded
    one is shifted and scaled, and inverted where its particles are dark, so that it equals what was measured of the
    clean one plus what is uncorrelated with that. Where one has more sections than the other, as SHREC's
    reconstructions have, it is cut to the slab that fits best, at most three sections off the middle.

    Args:
        name: what tables call it.
        degraded: an MRC file.
        clean: an MRC file.
        wedge: the missing wedge of the degraded volume; None: the clean volume was measured whole.

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
    b = truth.data - np.median(truth.data)
    a, b = _same_slab(noisy.data, b, f"pair {name}: {degraded.name} and {clean.name}")
    b /= b.max()
    a -= a.mean()
    centred = b - b.mean()
    if wedge:
        whole = torch.from_numpy(centred)[None, None]
        centred = wedge.apply(whole, [wedge.sample(torch.Generator())])[0, 0].numpy()
    covariance = float(np.mean(a * centred, dtype=np.float64))
    correlation = covariance / float(a.std() * centred.std())
    if abs(correlation) < _CHANCE / b.size**0.5:
        raise CryodenError(
            f"pair {name}: {degraded.name} and {clean.name} have a correlation of {correlation:.3f}: they do not show "
            "the same thing; pair the right files"
        )
    # a = gain × what was measured + the rest, by least squares; a negative gain is dark particles
    a *= float(np.mean(centred**2, dtype=np.float64)) / covariance
    return Pair(name, a + b.mean(), b, truth.voxel_size)


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
        boxes: items per pair; item `index` is cut from pair `index // boxes`.
        box: voxels along each side.
        kwargs: see VolumeDataset.
    """

    def __init__(self, pairs: list[Pair], boxes: int, box: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pairs = pairs
        self.boxes = boxes
        self.box = box

    def __len__(self) -> int:
        return len(self.pairs) * self.boxes

    def make(self, index: int, generator: torch.Generator) -> Specimen:
        """Cut a box that shows something."""
        pair = self.pairs[index // self.boxes]
        return cut_pair(pair, random_box(pair.clean, self.box, generator))


def cut_pair(pair: Pair, part: tuple[slice, ...]) -> Specimen:
    """A box of a pair.

    Args:
        pair: what to cut from.
        part: the box's place along z, y, x.
    """
    clean, degraded = (torch.from_numpy(volume[part].copy())[None] for volume in (pair.clean, pair.degraded))
    return {"clean": clean, "degraded": degraded, "entry": pair.name}


class PairDataModule(VolumeDataModule):
    """Boxes from pairs of MRC files, degraded and clean: real ones, or another program's.

    Both volumes of a pair are brought to one grey scale,
    dark particles made bright. The pairs that are held out validate and test, each with boxes of its own.

    Args:
        folder: where NAME_degraded.mrc and NAME_clean.mrc files are, as `cryoden simulate` writes them.
        holdout: names of the pairs that are never trained on; by default the last fifth, at least one.
        boxes: boxes cut from each pair in an epoch.
        tilt_range: (min, max) in degrees of the tilt series, about y, where there is a missing wedge; null for none.
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
        # Never applied: the degraded volumes are there. It tells which part of Fourier space was measured.
        self.wedge = MissingWedge(tilt_range) if tilt_range else None
        degradation = [self.wedge] if self.wedge else []
        super().__init__(degradation, voxel_size=0.0, **kwargs)
        self.save_hyperparameters()
        check_above_zero(boxes=boxes)
        self.folder = Path(folder)
        self.holdout = holdout
        self.boxes = boxes
        self.pairs: dict[str, Pair] = {}

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
        self.voxel_size = first.voxel_size

    @property
    def experiment(self) -> str:
        """The experiment of the thesis that these data make."""
        return "realistic"

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
        return read_pair(name, degraded, clean, self.wedge)

    def _of(self, split: int) -> list[Pair]:
        """The pairs of a split."""
        return [pair for pair in self.pairs.values() if (pair.name in (self.holdout or [])) == (split != TRAIN)]

    def _settings(self, split: int) -> dict[str, Any]:
        """What a dataset needs beside its pairs: they are degraded already."""
        return {**self._randomness(split), "degradation": self.degradation, "degrade": False}

    def _volumes(self, split: int, degradation: Sequence[Degradation]) -> VolumeDataset:
        return PairDataset(self._of(split), self.boxes, self.box, **self._settings(split))
