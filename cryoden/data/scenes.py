"""Scenes of several particles, for Lightning."""

import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cryoden.batch import Specimen
from cryoden.data.base import TEST, TRAIN, Particles, VolumeDataModule, check_above_zero, split_copies
from cryoden.data.cache import CachedDataset
from cryoden.data.datamodule import THESIS_ENTRIES
from cryoden.data.dataset import VolumeDataset, random_box
from cryoden.errors import CryodenError
from cryoden.simulation.degradation import Degradation, default_degradation
from cryoden.simulation.scene import Scene, SceneContents, placements_within


class SceneDataset(VolumeDataset):
    """Scenes, each with particles of its own, its `placements`.

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

    def make(self, index: int, generator: torch.Generator) -> Specimen:
        """Place particles."""
        made = self.scene.make(generator)
        return {"clean": torch.from_numpy(made.density)[None], "entry": "scene", "placements": made.placements}


class CropDataset(VolumeDataset):
    """Boxes cut from scenes at random; `placements` are those with their centre in the box, relative to it.

    Args:
        scenes: what to cut from.
        crops: boxes per scene; item `index` is cut from scene `index // crops`.
        box: voxels along each side.
        kwargs: see VolumeDataset.
    """

    def __init__(self, scenes: VolumeDataset, crops: int, box: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scenes = scenes
        self.crops = crops
        self.box = box

    def __len__(self) -> int:
        return len(self.scenes) * self.crops

    def make(self, index: int, generator: torch.Generator) -> Specimen:
        """Cut a box that shows something."""
        scene = self.scenes[0, index // self.crops]
        part = random_box(scene["clean"][0].numpy(), self.box, generator)
        clean = scene["clean"][(slice(None), *part)].clone()
        return {"clean": clean, "entry": scene["entry"], "placements": placements_within(scene["placements"], part)}


class SceneDataModule(VolumeDataModule):
    """Volumes with several particles at random positions and in random orientations that do not overlap.

    A batch also has `placements`; `entry` is "scene" for each volume.

    By default each volume is a small scene of its own. With `shape`, scenes are larger than the box and each gives
    `crops` volumes: boxes at random positions, in which particles may be cut by the border. Such scenes are made once,
    before training, by all workers, and kept on disk.

    Args:
        entries: particles: PDB entries ("1u6g"), structure or map files, or phantoms ("phantom:7").
        holdout: particles that are never trained on: they alone validate and test, and need not be among the entries.
        count: particles in a scene: a number, or a range to draw from; fewer where there is no room. By default 4 to 8,
            where no occupancy is given.
        scenes: how many, training and validation together.
        val_fraction: the share of scenes that validate; as many other scenes test.
        fresh: new scenes each epoch, or with `shape` new boxes from the same scenes; false repeats the first epoch.
        occupancy: instead of a count, the share of the ice that particles fill, such as 0.2, or a range.
        abundance: how frequent each entry is relative to the others; 1 for those that are not named.
        vesicles: closed membranes in a scene, a number or a range.
        vesicle_diameter: angstrom; a number or a range.
        fiducials: beads of gold in a scene, a number or a range.
        fiducial_diameter: angstrom; a number or a range.
        ice: angstrom; the thickness of the ice in the middle of the scene, between vacuum in z; null: all ice.
        shape: (z, y, x), voxels of a scene that is larger than the box.
        crops: boxes that are cut from each scene of that shape in an epoch.
        cache: a folder in which volumes, or with `shape` the scenes, are kept for this and later trainings. Volumes in
            it are those of the first epoch for ever, clean and degraded, as with fresh: false.
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
        count: int | tuple[int, int] | None = None,
        scenes: int = 1000,
        val_fraction: float = 0.2,
        fresh: bool = True,
        occupancy: float | tuple[float, float] | None = None,
        abundance: dict[str, float] | None = None,
        vesicles: int | tuple[int, int] = 0,
        vesicle_diameter: float | tuple[float, float] = (400.0, 1000.0),
        fiducials: int | tuple[int, int] = 0,
        fiducial_diameter: float | tuple[float, float] = 100.0,
        ice: float | None = None,
        shape: tuple[int, int, int] | None = None,
        crops: int = 100,
        cache: str | None = None,
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
            cache=cache,
        )
        self.save_hyperparameters()
        check_above_zero(box=box, voxel_size=voxel_size, resolution=resolution, crops=crops)
        if shape is not None and min(shape) < box:
            raise CryodenError(f"shape: got {shape}; boxes of {box} voxels cannot be cut from it: use a smaller box")
        self.particles = Particles(
            entries, holdout, structure_dir=structure_dir, assembly=assembly, hydrogens=hydrogens, ligands=ligands
        )
        unknown = [entry for entry in abundance or {} if entry not in self.particles.entries]
        if unknown:
            raise CryodenError(f"abundance: {unknown[0]} is none of the entries: {', '.join(self.particles.entries)}")
        self.scenes = split_copies(scenes, val_fraction, "scenes")
        self.abundance = abundance or {}
        self.shape = shape
        self.crops = crops
        self.box = box
        self.resolution = resolution
        self.fresh = fresh
        self._contents: dict[str, Any] = {
            "count": count,
            "occupancy": occupancy,
            "vesicles": vesicles,
            "vesicle_diameter": vesicle_diameter,
            "fiducials": fiducials,
            "fiducial_diameter": fiducial_diameter,
            "ice": ice,
        }

    def prepare_data(self) -> None:
        """Download what is missing, once per machine."""
        self.particles.fetch()

    def setup(self, stage: str | None = None) -> None:
        """Read the particles and check that a scene can be made of them."""
        self.particles.load(min(self.shape) if self.shape else self.box, self.voxel_size, self.resolution)
        for split in (TRAIN, TEST):
            self._scene(split)  # refuses what it cannot be made of

    def _scene(self, split: int) -> Scene:
        particles = self.particles.of(split)
        entries = self.particles.entries_of(split)
        abundance = {p.name: self.abundance.get(e, 1.0) for p, e in zip(particles, entries, strict=True)}
        contents = SceneContents(abundance=abundance, **self._contents)
        return Scene(self.shape or (self.box,) * 3, self.voxel_size, self.resolution, particles, contents)

    @property
    def experiment(self) -> str:
        """The experiment of the thesis that these data make."""
        return "multiple-particles"

    @property
    def unseen(self) -> frozenset[str]:
        """Which of the entries that validate and test are never trained on."""
        return self.particles.unseen

    def _kept(self, dataset: VolumeDataset) -> VolumeDataset:
        """The same volumes, from the cache where there is one; where boxes are cut from scenes it keeps those."""
        return dataset if self.shape else super()._kept(dataset)

    def _volumes(self, split: int, degradation: Sequence[Degradation]) -> VolumeDataset:
        degraded: dict[str, Any] = {"degradation": degradation, **self._randomness(split)}
        if self.shape is None:
            return SceneDataset(self._scene(split), self.scenes[split], **degraded)
        whole = SceneDataset(
            self._scene(split),
            self.scenes[split],
            degradation=[],
            seed=(self.seed, split),
            fresh=False,
            degrade=False,
        )
        scenes = CachedDataset(whole, self.cache or Path(self._scratch.name))
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        scenes.fill(self.num_workers, len(scenes) * rank // processes)
        return CropDataset(scenes, self.crops, self.box, **degraded)

    @cached_property
    def _scratch(self) -> tempfile.TemporaryDirectory[str]:
        """Where scenes are where no cache was given: gone with this module."""
        return tempfile.TemporaryDirectory(prefix="cryoden-scenes-")
