"""Scenes of several particles, for Lightning."""

from typing import Any

import torch

from cryoden.data.base import TRAIN, Particles, VolumeDataModule, check_above_zero, split_copies
from cryoden.data.datamodule import THESIS_ENTRIES
from cryoden.data.dataset import Batch, VolumeDataset
from cryoden.simulation.degradation import Degradation, default_degradation
from cryoden.simulation.scene import Scene


class SceneDataset(VolumeDataset):
    """Scenes, each with particles of its own.

    An item also holds `placements`, the list of its particles; its `entry` is "scene".

    Args:
        scene: what to make.
        scenes: how many.
        kwargs: see VolumeDataset.
    """

    def __init__(self, scene: Scene, scenes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scene = scene
        self.scenes = scenes

    def __len__(self) -> int:
        return self.scenes

    def make(self, index: int, generator: torch.Generator) -> Batch:
        """Place particles."""
        made = self.scene.make(generator)
        return {"clean": torch.from_numpy(made.density)[None], "entry": "scene", "placements": made.placements}


class SceneDataModule(VolumeDataModule):
    """Volumes with several particles at random positions and in random orientations that do not overlap.

    A batch is as that of ParticleDataModule; `entry` is "scene" for each volume, and instead of `rotation` there is
    `placements`: for each volume a list of the particles in it, with their positions and rotations.

    Args:
        entries: particles: PDB entries ("1u6g"), structure files (.cif, .pdb, .ent, each also .gz), density maps (.mrc,
            .map) or phantoms ("phantom:7"). The default is the thesis's ten.
        holdout: particles never trained on; where there are any, validation and test scenes hold these alone.
        count: particles in a scene: a number, or a range to draw from; fewer where there is no room.
        scenes: volumes, training and validation together.
        val_fraction: the share of scenes that validate; as many other scenes test.
        fresh: new scenes each epoch; false repeats those of the first epoch.
        box: voxels along each side.
        voxel_size: angstrom.
        resolution: angstrom; the simulated density holds no finer detail.
        degradation: the steps from clean to degraded, in order; by default noise at snr 1.3, then a ±60° missing wedge.
        structure_dir: a folder searched for structure files before the archive; default: $CRYODEN_STRUCTURE_DIR.
        assembly: null for the deposited model, or the name of a biological assembly, such as "1".
        hydrogens: keep hydrogen atoms.
        ligands: keep ligands.
        batch_size: volumes per batch and process.
        num_workers: processes that make scenes; by default one fewer than there are cores, at most 8.
        seed: of everything random here.
    """

    def __init__(
        self,
        entries: list[str] = list(THESIS_ENTRIES),  # noqa: B006 - never changed; shown in the CLI's help
        holdout: list[str] | None = None,
        count: int | tuple[int, int] = (4, 8),
        scenes: int = 1000,
        val_fraction: float = 0.2,
        fresh: bool = True,
        box: int = 64,
        voxel_size: float = 10.0,
        resolution: float = 20.0,
        degradation: list[Degradation] | None = None,
        structure_dir: str | None = None,
        assembly: str | None = None,
        hydrogens: bool = False,
        ligands: bool = True,
        batch_size: int = 8,
        num_workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            default_degradation() if degradation is None else degradation,
            voxel_size=voxel_size,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        self.save_hyperparameters()
        check_above_zero(box=box, voxel_size=voxel_size, resolution=resolution)
        self.particles = Particles(
            entries, holdout, structure_dir=structure_dir, assembly=assembly, hydrogens=hydrogens, ligands=ligands
        )
        self.scenes = split_copies(scenes, val_fraction, "scenes")
        self.count = count
        self.box = box
        self.resolution = resolution
        self.fresh = fresh

    def prepare_data(self) -> None:
        """Download what is missing, once per machine."""
        self.particles.fetch()

    def setup(self, stage: str | None = None) -> None:
        """Read the particles and check that each fits the box."""
        self.particles.load(self.box, self.voxel_size, self.resolution)

    def _dataset(self, split: int) -> SceneDataset:
        scene = Scene((self.box,) * 3, self.voxel_size, self.resolution, self.particles.of(split), self.count)
        return SceneDataset(
            scene,
            self.scenes[split],
            degradation=self.degradation,
            seed=(self.seed, split),
            fresh=self.fresh and split == TRAIN,
            degrade=split != TRAIN,
        )
