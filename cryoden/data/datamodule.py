"""The LightningDataModule that turns PDB structures into rotated, degraded volumes."""

import os
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from cryoden.data.dataset import Batch, EpochSampler, ParticleDataset, collate
from cryoden.errors import CryodenError
from cryoden.particles import Particle, is_archive_entry, load_particle
from cryoden.particles.archive import fetch
from cryoden.simulation.degradation import Degradation, apply_all, default_degradation, measured_by_all
from cryoden.simulation.density import check_fits

THESIS_ENTRIES = ("1u6g", "3cf3", "4b4t", "1qvr", "3h84", "2cg9", "3qm1", "3gl1", "3d2f", "4d8q")

_TRAIN, _VALIDATION, _TEST = range(3)


class ParticleDataModule(LightningDataModule):
    """Volumes simulated from particles: each copy in a random orientation, alone in its box, then degraded.

    A batch is a mapping with `clean` and `degraded` (B, 1, N, N, N), `measured` (bool, broadcastable to (B, N, N,
    N // 2 + 1): which part of Fourier space was measured), `entry` (a list of names), `rotation` (B, 3, 3) and
    `parameters`. Density is computed in worker processes; training volumes are degraded in batches on the device.
    Validation and test volumes never change. Every item is a pure function of the seed, the epoch and its index,
    whatever the number of workers and processes.

    Args:
        entries: particles: PDB entries ("1u6g"), structure files (.cif, .pdb, .ent, each also .gz), density maps (.mrc,
            .map) or phantoms ("phantom:7"). The default is the thesis's ten (3qm1 for its misprint 3qml).
        holdout: particles never trained on; where there are any, validation and test use these alone.
        copies: volumes per particle, training and validation together.
        val_fraction: the share of copies that validate; as many again, in other orientations, test.
        fresh: new orientations and noise each epoch; false repeats those of the first epoch, as the thesis did.
        box: voxels along each side.
        voxel_size: angstrom.
        resolution: angstrom; the simulated density holds no finer detail.
        degradation: the steps from clean to degraded, in order; by default noise at snr 1.3, then a ±60° missing wedge.
        structure_dir: a folder searched for structure files before the archive; default: $CRYODEN_STRUCTURE_DIR.
        assembly: null for the deposited model, or the name of a biological assembly, such as "1".
        hydrogens: keep hydrogen atoms.
        ligands: keep ligands.
        batch_size: volumes per batch and process.
        num_workers: processes that compute density; by default one fewer than there are cores, at most 8.
        seed: of everything random here.
    """

    def __init__(
        self,
        entries: list[str] = list(THESIS_ENTRIES),  # noqa: B006 - never changed; shown in the CLI's help
        holdout: list[str] | None = None,
        copies: int = 100,
        val_fraction: float = 0.2,
        fresh: bool = True,
        box: int = 64,
        voxel_size: float = 6.0,
        resolution: float = 12.0,
        degradation: list[Degradation] | None = None,
        structure_dir: str | None = None,
        assembly: str | None = None,
        hydrogens: bool = False,
        ligands: bool = True,
        batch_size: int = 8,
        num_workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.training_entries = [entry for entry in entries if entry not in (holdout or [])]
        self.evaluation_entries = holdout or self.training_entries
        val_copies = round(copies * val_fraction)
        if not self.training_entries:
            raise CryodenError(f"entries: nothing left to train on: {len(entries)} entries, all held out; add others")
        sizes = {"box": box, "voxel_size": voxel_size, "resolution": resolution, "batch_size": batch_size}
        for name, value in sizes.items():
            if value <= 0:
                raise CryodenError(f"{name}: got {value}; it must be above 0")
        train_copies = copies - val_copies
        if not 0 < val_copies < copies:
            raise CryodenError(
                f"copies {copies} with val_fraction {val_fraction} gives {train_copies} training and {val_copies} "
                "validation volumes per particle; each must be at least 1: raise copies or change val_fraction"
            )
        self.copies = {_TRAIN: copies - val_copies, _VALIDATION: val_copies, _TEST: val_copies}
        self.degradation = default_degradation() if degradation is None else degradation
        self.box = box
        self.voxel_size = voxel_size
        self.resolution = resolution
        self.fresh = fresh
        self.batch_size = batch_size
        self.num_workers = min((os.cpu_count() or 1) - 1, 8) if num_workers is None else num_workers
        self.seed = seed
        self._source: dict[str, Any] = {
            "structure_dir": Path(structure_dir) if structure_dir else None,
            "assembly": assembly,
            "hydrogens": hydrogens,
            "ligands": ligands,
        }
        self._particles: dict[str, Particle] = {}

    @property
    def _entries(self) -> list[str]:
        return list(dict.fromkeys([*self.training_entries, *self.evaluation_entries]))

    def prepare_data(self) -> None:
        """Download what is missing, once per machine."""
        fetch(
            [entry for entry in self._entries if is_archive_entry(entry)],
            structure_dir=self._source["structure_dir"],
        )

    def setup(self, stage: str | None = None) -> None:
        """Read the particles and check that each fits the box."""
        if self._particles:
            return
        particles = {entry: load_particle(entry, **self._source) for entry in self._entries}
        for particle in particles.values():
            check_fits(particle, self.box, self.voxel_size, self.resolution)
        self._particles = particles

    def _dataset(self, split: int) -> ParticleDataset:
        train = split == _TRAIN
        return ParticleDataset(
            [self._particles[entry] for entry in (self.training_entries if train else self.evaluation_entries)],
            self.copies[split],
            self.degradation,
            box=self.box,
            voxel_size=self.voxel_size,
            resolution=self.resolution,
            seed=(self.seed, split),
            fresh=self.fresh and train,
            degrade=not train,
        )

    @property
    def test_dataset(self) -> ParticleDataset:
        """The test volumes: item (0, i) for each i."""
        return self._dataset(_TEST)

    def _loader(self, split: int) -> DataLoader[Batch]:
        dataset = self._dataset(split)
        trainer = self.trainer
        sampler = EpochSampler(
            dataset,
            shuffle=split == _TRAIN,
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            persistent_workers=self.num_workers > 0,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Training volumes; `degraded` is added on the device."""
        return self._loader(_TRAIN)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation volumes, always the same."""
        return self._loader(_VALIDATION)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Test volumes, always the same, and none of them a validation volume."""
        return self._loader(_TEST)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Degrade a training batch on the device, and say which part of Fourier space was measured."""
        if "degraded" not in batch:
            batch["degraded"] = apply_all(self.degradation, batch["clean"], batch["parameters"])
        batch["measured"] = measured_by_all(self.degradation, batch["clean"], batch["parameters"])
        return batch
