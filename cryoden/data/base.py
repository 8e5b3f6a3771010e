"""What every LightningDataModule of cryoden's shares: splits that never touch, and loaders."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from cryoden.batch import Batch, Item
from cryoden.data.dataset import EpochSampler, ResumableLoader, VolumeDataset, collate, degraded_boxes
from cryoden.errors import CryodenError, check_above_zero, check_seeds, check_whole
from cryoden.simulation.degradation import Degradation
from cryoden.simulation.units import BRIGHTEST, Sampling

TRAIN, VALIDATION, TEST = 3, 1, 2  # which a seed's random streams go by, too; `cryoden simulate` has 0

_WORKERS = 1024  # more processes than any machine has cores for


class VolumeDataModule(LightningDataModule, ABC):
    """Batches of pairs of volumes, as `cryoden.batch.Batch` has them.

    Training volumes are degraded in batches on the device; validation and test volumes never change. Every item is a
    pure function of the seed, the epoch and its index, whatever the number of workers and processes.

    Args:
        degradation: the steps from clean to degraded, in order.
        voxel_size: angstrom.
        box: voxels along each side of a volume.
        fresh: draw training volumes anew each epoch; false repeats those of the first epoch, as the thesis did.
        batch_size: volumes per batch and process.
        num_workers: processes that make volumes; by default one fewer than there are cores, at most 8.
        seed: of everything random here.
    """

    sampling: Sampling = "band-limited"
    """Of the clean volumes, which tells the unit of their density."""

    def __init__(
        self,
        degradation: Sequence[Degradation],
        voxel_size: float,
        *,
        box: int = 64,
        fresh: bool = True,
        batch_size: int = 8,
        num_workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_above_zero(box=box, batch_size=batch_size)
        check_volumes(degradation, voxel_size)
        if num_workers is not None:
            check_whole(0, _WORKERS, num_workers=num_workers)
        check_seeds(seed=seed)
        self.degradation = list(degradation)
        self.voxel_size = voxel_size
        self.box = box
        self.fresh = fresh
        self.batch_size = batch_size
        self.num_workers = min((os.cpu_count() or 1) - 1, 8) if num_workers is None else num_workers
        self.seed = seed

    @property
    def experiment(self) -> str | None:
        """The experiment of the thesis whose very volumes these are: only then its numbers may stand beside theirs."""
        return None

    @property
    def unseen(self) -> frozenset[str]:
        """Which of the entries that validate and test are never trained on, by their canonical names."""
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

    def _dataset(self, split: int) -> VolumeDataset:
        """The volumes of TRAIN, VALIDATION or TEST, as training and tables have them."""
        return self._volumes(split, self.degradation)

    def training_volumes(self) -> VolumeDataset:
        """The training volumes: item (epoch, i) for each i."""
        return self._dataset(TRAIN)

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
        check_volumes(degradation, self.voxel_size, self.sampling)
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
            taken=(lambda: trainer.num_training_batches) if trainer else None,
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
            clean, imaged = batch["clean"], batch.pop("imaged", None)
            batch["degraded"] = degraded_boxes(self.degradation, clean, imaged, batch["parameters"])
            batch["clean"] = clean.clamp(max=BRIGHTEST)
        return batch


def check_volumes(degradation: Sequence[Degradation], voxel_size: float, sampling: Sampling = "band-limited") -> None:
    """Check that each step suits volumes of this kind.

    Raises:
        CryodenError: one does not.
    """
    for step in degradation:
        step.check_volumes(voxel_size, sampling)
