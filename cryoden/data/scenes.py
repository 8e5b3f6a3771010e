"""Scenes of several particles, for Lightning."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cryoden.batch import Specimen
from cryoden.data.base import TEST, TRAIN
from cryoden.data.cache import CachedDataset
from cryoden.data.dataset import VolumeDataset, random_box
from cryoden.data.particles import ParticleVolumes
from cryoden.errors import CryodenError, check_above_zero
from cryoden.simulation.degradation import Degradation, context_of
from cryoden.simulation.presets import PRESETS, PresetName
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
        clean = torch.from_numpy(made.density)[None]
        specimen: Specimen = {"clean": clean, "entry": "scene", "placements": made.placements}
        if made.background is not None:
            specimen["imaged"] = clean + torch.from_numpy(made.background)
        return specimen


class CropDataset(VolumeDataset):
    """Boxes cut from scenes at random; `placements` are those with their centre in the box, relative to it.

    Of scenes that are degraded both volumes are cut.

    Args:
        scenes: what to cut from; degraded by the same steps, or not at all.
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
        box = (slice(None), *part)
        specimen: Specimen = {
            "clean": scene["clean"][box].clone(),
            "entry": scene["entry"],
            "placements": placements_within(scene["placements"], part),
        }
        if "degraded" in scene:
            return {**specimen, "degraded": scene["degraded"][box].clone(), "parameters": scene["parameters"]}
        if "imaged" in scene:
            specimen["imaged"] = scene["imaged"][box].clone()
        return specimen


class SceneDataModule(ParticleVolumes):
    """Volumes with several particles at random positions and in random orientations that do not overlap.

    A batch also has `placements`; `entry` is "scene" for each volume. With `shape` a scene is larger than the box, and
    boxes are cut from it, so that particles may be cut too: each scene is made once, before training, by all workers,
    and kept on disk. A tilt series sees what is around a box, so with one the whole scene is degraded, once, and both
    volumes are cut; steps that see nothing but the box, such as noise and a wedge, degrade each box anew.

    Args:
        scenes: how many, training and validation together; of a larger shape each trains, or validates, or tests.
        contents: what is in a scene; `abundance` goes by entry; null: that of the preset, or else 4 to 8 particles.
        shape: (z, y, x), voxels of a scene that is larger than the box; null: that of the preset, if there is one. Then
            `fresh` is about boxes, which are cut anew from the same scenes, and the cache keeps scenes; without a cache
            they are kept until the training ends.
        crops: boxes that are cut from each scene of that shape in an epoch.
        voxel_size: angstrom.
        resolution: angstrom; a wave of this period keeps 1/e of its height.
        preset: see ParticleVolumes; it gives contents and shape, too.
        kwargs: see ParticleVolumes.
    """

    def __init__(
        self,
        *,
        scenes: int = 1000,
        contents: SceneContents | None = None,
        shape: tuple[int, int, int] | None = None,
        crops: int = 100,
        voxel_size: float = 10.0,
        resolution: float = 20.0,
        preset: PresetName | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(voxel_size=voxel_size, resolution=resolution, preset=preset, **kwargs)
        if preset is not None:
            given = PRESETS[preset](voxel_size, shape)
            contents, shape = contents or given.contents, given.shape
        contents = contents or SceneContents()
        check_above_zero(crops=crops)
        if shape is not None and min(shape) < self.box:
            raise CryodenError(
                f"shape: got {shape}; boxes of {self.box} voxels cannot be cut from it: use a smaller box"
            )
        unknown = [entry for entry in contents.abundance or {} if entry not in self.all_entries]
        if unknown:
            raise CryodenError(f"abundance: {unknown[0]} is none of the entries: {', '.join(self.all_entries)}")
        self.scenes = self._split(scenes=scenes)
        self.contents = contents
        self.shape = shape
        self.crops = crops

    def setup(self, stage: str | None = None) -> None:
        """Read the particles and check that a scene can be made of them."""
        super().setup(stage)
        for split in (TRAIN, TEST):
            self._scene(split)  # refuses what it cannot be made of

    @property
    def _room(self) -> int:
        return min(self.shape) if self.shape else self.box

    def _scene(self, split: int) -> Scene:
        particles = self.particles(split)
        given = self.contents.abundance or {}
        abundance = {p.name: given.get(entry, 1.0) for p, entry in zip(particles, self.entries[split], strict=True)}
        contents = replace(self.contents, abundance=abundance)
        shape = self.shape or (self.box,) * 3
        return Scene(shape, self.voxel_size, self.resolution, particles, contents, self.sampling)

    def _kept(self, dataset: VolumeDataset) -> VolumeDataset:
        return dataset if self.shape else super()._kept(dataset)  # boxes are cut from scenes that are kept

    def _volumes(self, split: int, degradation: Sequence[Degradation]) -> VolumeDataset:
        degraded: dict[str, Any] = {"degradation": degradation, **self._randomness(split)}
        if self.shape is None:
            return SceneDataset(self._scene(split), self.scenes[split], **degraded)
        in_context = any(context_of(degradation))
        whole = SceneDataset(
            self._scene(split),
            self.scenes[split],
            degradation=degradation if in_context else [],
            seed=(self.seed, split),
            fresh=False,
            degrade=in_context,
        )
        lasting = None if in_context and degradation is not self.degradation else self.cache
        scenes = CachedDataset(whole, lasting or Path(self._scratch.name))
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        scenes.fill(self.num_workers, len(scenes) * rank // processes)
        return CropDataset(scenes, self.crops, self.box, **degraded)

    @cached_property
    def _scratch(self) -> tempfile.TemporaryDirectory[str]:
        """Where scenes are where no cache was given: gone with this module."""
        return tempfile.TemporaryDirectory(prefix="cryoden-scenes-")
