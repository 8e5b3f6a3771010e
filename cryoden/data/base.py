"""What every LightningDataModule of cryoden's shares: splits that never touch, and loaders."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from cryoden.batch import Batch, Item
from cryoden.data.cache import CachedDataset
from cryoden.data.dataset import EpochSampler, ResumableLoader, VolumeDataset, collate
from cryoden.errors import CryodenError
from cryoden.particles import Particle, is_archive_entry, load_particle
from cryoden.particles.archive import fetch
from cryoden.simulation.degradation import Degradation, apply_all
from cryoden.simulation.density import check_fits

TRAIN, VALIDATION, TEST = range(3)


class VolumeDataModule(LightningDataModule, ABC):
    """Batches of pairs of volumes, as `cryoden.batch.Batch` has them.

    Training volumes are degraded in batches on the device; validation and test volumes never change. Every item is a
    pure function of the seed, the epoch and its index, whatever the number of workers and processes.

    Args:
        degradation: the steps from clean to degraded, in order.
        voxel_size: angstrom.
        batch_size: volumes per batch and process.
        num_workers: processes that make volumes; by default one fewer than there are cores, at most 8.
        seed: of everything random here.
        cache: a folder in which volumes are kept, once they are made.
    """

    fresh: bool
    """Whether training volumes are drawn anew each epoch."""

    def __init__(
        self,
        degradation: Sequence[Degradation],
        *,
        voxel_size: float,
        batch_size: int,
        num_workers: int | None,
        seed: int,
        cache: str | None = None,
    ) -> None:
        super().__init__()
        check_above_zero(batch_size=batch_size)
        check_voxel_size(degradation, voxel_size)
        self.degradation = list(degradation)
        self.voxel_size = voxel_size
        self.batch_size = batch_size
        self.num_workers = min((os.cpu_count() or 1) - 1, 8) if num_workers is None else num_workers
        self.seed = seed
        self.cache = Path(cache).expanduser() if cache else None

    @property
    def experiment(self) -> str:
        """The experiment of the thesis that these data make: the one whose numbers stand beside theirs."""
        return "control"

    @property
    def unseen(self) -> frozenset[str]:
        """Which of the entries that validate and test are never trained on."""
        return frozenset()

    @abstractmethod
    def _volumes(self, split: int, degradation: Sequence[Degradation]) -> VolumeDataset:
        """The volumes of TRAIN, VALIDATION or TEST, degraded by these steps."""

    def _randomness(self, split: int) -> dict[str, Any]:
        """The seed of a split, and what is drawn anew and degraded where."""
        return {
            "seed": (self.seed, split),
            "fresh": self.fresh and split == TRAIN,
            "degrade": split != TRAIN,
        }

    def _kept(self, dataset: VolumeDataset) -> VolumeDataset:
        """The same volumes, from the cache where there is one: what is kept is degraded too."""
        if self.cache is None:
            return dataset
        dataset.fresh, dataset.degrade = False, True
        return CachedDataset(dataset, self.cache)

    def _dataset(self, split: int) -> VolumeDataset:
        """The volumes of TRAIN, VALIDATION or TEST, as training and tables have them."""
        return self._kept(self._volumes(split, self.degradation))

    def validation_volumes(self) -> VolumeDataset:
        """The validation volumes: item (0, i) for each i."""
        return self._dataset(VALIDATION)

    def test_volumes(self, degradation: Sequence[Degradation] | None = None) -> VolumeDataset:
        """The test volumes: item (0, i) for each i.

        Args:
            degradation: steps from clean to degraded other than the data's own; what they make is kept nowhere.

        Raises:
            CryodenError: these data cannot be degraded otherwise, or a step is made for other voxels.
        """
        if degradation is None:
            return self._dataset(TEST)
        check_voxel_size(degradation, self.voxel_size)
        return self._volumes(TEST, degradation)

    def _loader(self, split: int) -> DataLoader[Item]:
        dataset = self._dataset(split)
        trainer = self.trainer
        sampler = EpochSampler(
            dataset,
            shuffle=split == TRAIN,
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        if len(sampler) == 0:
            raise CryodenError(
                f"{len(dataset)} volumes to {('train on', 'validate on', 'test on')[split]} are too few for "
                f"{sampler.num_replicas} processes, which need one each: ask for more volumes or fewer devices"
            )
        return ResumableLoader(
            dataset,
            sampler,
            self.batch_size,
            num_workers=self.num_workers,
            collate_fn=collate,
            persistent_workers=self.num_workers > 0,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )

    def train_dataloader(self) -> DataLoader[Item]:
        """Training volumes; `degraded` is added on the device."""
        return self._loader(TRAIN)

    def val_dataloader(self) -> DataLoader[Item]:
        """Validation volumes, always the same."""
        return self._loader(VALIDATION)

    def test_dataloader(self) -> DataLoader[Item]:
        """Test volumes, always the same, and none of them a validation volume."""
        return self._loader(TEST)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Degrade a training batch on the device."""
        if "degraded" not in batch:
            batch["degraded"] = apply_all(self.degradation, batch["clean"], batch["parameters"])
        return batch


class Particles:
    """The particles of a data module: found, downloaded where they are missing, and checked.

    Args:
        entries: particles: PDB entries, structure or map files, or phantoms.
        holdout: particles never trained on.
        structure_dir: a folder searched for structure files before the archive.
        assembly: null for the deposited model, or the name of a biological assembly.
        hydrogens: keep hydrogen atoms.
        ligands: keep ligands.
    """

    def __init__(
        self,
        entries: Sequence[str],
        holdout: Sequence[str] | None,
        *,
        structure_dir: str | None,
        assembly: str | None,
        hydrogens: bool,
        ligands: bool,
    ) -> None:
        self.training = [entry for entry in entries if entry not in (holdout or [])]
        self.evaluation = list(holdout or self.training)
        if not self.training:
            raise CryodenError(f"entries: nothing left to train on: {len(entries)} entries, all held out; add others")
        self.structure_dir = Path(structure_dir) if structure_dir else None
        self._source: dict[str, Any] = {"assembly": assembly, "hydrogens": hydrogens, "ligands": ligands}
        self.loaded: dict[str, Particle] = {}

    @property
    def entries(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys([*self.training, *self.evaluation]))

    @property
    def unseen(self) -> frozenset[str]:
        """Those that validate and test and are never trained on."""
        return frozenset(self.evaluation) - frozenset(self.training)

    def fetch(self) -> None:
        """Download what is missing."""
        fetch([entry for entry in self.entries if is_archive_entry(entry)], structure_dir=self.structure_dir)

    def load(self, box: int, voxel_size: float, resolution: float) -> None:
        """Read the particles and check that each fits the box."""
        if self.loaded:
            return
        loaded = {
            entry: load_particle(entry, structure_dir=self.structure_dir, **self._source) for entry in self.entries
        }
        for particle in loaded.values():
            check_fits(particle, box, voxel_size, resolution)
        self.loaded = loaded

    def of(self, split: int) -> list[Particle]:
        """The particles of a split."""
        return [self.loaded[entry] for entry in self.entries_of(split)]

    def entries_of(self, split: int) -> list[str]:
        """What the user calls the particles of a split."""
        return self.training if split == TRAIN else self.evaluation


def split_copies(copies: int, val_fraction: float, what: str) -> dict[int, int]:
    """How many volumes each split has.

    Raises:
        CryodenError: one would have none.
    """
    val = round(copies * val_fraction)
    if not 0 < val < copies:
        raise CryodenError(
            f"{what} {copies} with val_fraction {val_fraction} gives {copies - val} training and {val} "
            f"validation volumes{' per particle' if what == 'copies' else ''}; each must be at least 1: "
            f"raise {what} or change val_fraction"
        )
    return {TRAIN: copies - val, VALIDATION: val, TEST: val}


def check_voxel_size(degradation: Sequence[Degradation], voxel_size: float) -> None:
    """Check that each step suits volumes of this voxel size.

    Raises:
        CryodenError: one does not.
    """
    for step in degradation:
        step.check_voxel_size(voxel_size)


def check_above_zero(**numbers: float) -> None:
    """Check arguments.

    Raises:
        CryodenError: one is not above 0.
    """
    for name, value in numbers.items():
        if value <= 0:
            raise CryodenError(f"{name}: got {value}; it must be above 0")
