"""Simulated particles, each in a box of its own, and what all data share that are made of particles, for Lightning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cryoden.batch import Specimen
from cryoden.data.base import TEST, TRAIN, VALIDATION, VolumeDataModule, check_volumes
from cryoden.data.cache import CachedDataset
from cryoden.data.dataset import VolumeDataset
from cryoden.errors import CryodenError, check_numbers
from cryoden.particles import Particle, canonical_name, check_distinct, check_names, is_archive_entry, load_particle
from cryoden.particles.archive import fetch
from cryoden.simulation.degradation import (
    Degradation,
    GaussianNoise,
    Margin,
    SaltAndPepper,
    context_of,
    default_degradation,
    without_margin,
)
from cryoden.simulation.density import check_fits, clean_volume
from cryoden.simulation.presets import PRESETS, PresetName
from cryoden.simulation.rotation import random_rotation
from cryoden.simulation.surroundings import Neighbours, Surroundings
from cryoden.simulation.units import Sampling
from cryoden.volume import check_length

THESIS_ENTRIES = ("1u6g", "3cf3", "4b4t", "1qvr", "3h84", "2cg9", "3qm1", "3gl1", "3d2f", "4d8q")


class ParticleDataset(VolumeDataset):
    """Copies of particles, each in the middle of its box in a random orientation.

    Args:
        particles: what to put into the boxes.
        copies: items per particle; item `index` shows particle `index // copies`.
        degradation: the steps that damage a clean volume, in order.
        box: voxels along each side.
        voxel_size: angstrom.
        resolution: angstrom.
        sampling: see `clean_volume`.
        margin: voxels along z, y, x, on either side of the box, that are imaged with it; what reaches from there into
            the box is part of the clean volume.
        surroundings: what is in the margin, where there is one.
        kwargs: see VolumeDataset.
    """

    def __init__(
        self,
        particles: Sequence[Particle],
        copies: int,
        degradation: Sequence[Degradation],
        *,
        box: int,
        voxel_size: float,
        resolution: float,
        sampling: Sampling = "band-limited",
        margin: Margin = (0, 0, 0),
        surroundings: Surroundings = Surroundings(),  # noqa: B008 - frozen
        **kwargs: Any,
    ) -> None:
        super().__init__(degradation, **kwargs)
        self.particles = particles
        self.copies = copies
        self.box = box
        self.voxel_size = voxel_size
        self.resolution = resolution
        self.sampling: Sampling = sampling
        self.margin = margin
        self.neighbours = Neighbours(particles, surroundings, voxel_size, resolution, sampling, self.seed)

    def __len__(self) -> int:
        return len(self.particles) * self.copies

    def make(self, index: int, generator: torch.Generator) -> Specimen:
        """Turn a particle, compute its density, and put it into its surroundings."""
        particle = self.particles[index // self.copies]
        rotation = random_rotation(generator)
        volume = clean_volume(particle, rotation.numpy(), self.box, self.voxel_size, self.resolution, self.sampling)
        if not any(self.margin):
            return {"clean": torch.from_numpy(volume)[None], "entry": particle.name, "rotation": rotation}
        density, background = self.neighbours.around(volume, self.margin, generator)
        around = torch.from_numpy(density)[None]
        return {
            "clean": without_margin(around, self.margin).clone(),
            "imaged": around if background is None else around + torch.from_numpy(background),
            "entry": particle.name,
            "rotation": rotation,
        }


class ParticleVolumes(VolumeDataModule):
    """What all data share that are simulated from particles: which, and how they are looked at.

    Density is computed in worker processes; training volumes are degraded in batches on the device. Validation and test
    volumes never change. Every item is a pure function of the seed, the epoch and its index, whatever the number of
    workers and processes.

    Args:
        entries: particles, each once: PDB entries ("1u6g"), structure files (.cif, .pdb, .ent, each also .gz), density
            maps (.mrc, .map) or phantoms ("phantom:7"). The default is the thesis's ten (3qm1 for its misprint 3qml).
        holdout: particles never trained on, however they are spelt among the entries; where there are any, validation
            and test use these alone.
        val_fraction: the share of volumes that validate; as many others test.
        cache: a folder in which volumes are kept for this and later trainings. They are those of the first epoch for
            ever, clean and degraded, as with fresh: false.
        voxel_size: angstrom.
        resolution: angstrom; a wave of this period keeps 1/e of its height.
        sampling: "band-limited", as voxels can hold it, or "thesis", as the thesis's experiments had it: with half of
            the detail aliased, and the maximum of each volume 1.
        degradation: the steps from clean to degraded, in order; null: that of the preset, or else noise at snr 1.3,
            then a ±60° missing wedge.
        preset: "realistic" gives what is not given: tilt series, of which each is another laboratory's, and crowded
            specimens; see `cryoden.simulation.presets`.
        structure_dir: a folder searched for structure files before the archive; default: $CRYODEN_STRUCTURE_DIR.
        assembly: null for the deposited model, or the name of a biological assembly, such as "1".
        hydrogens: keep hydrogen atoms.
        ligands: keep ligands.
        kwargs: see VolumeDataModule.
    """

    def __init__(
        self,
        *,
        entries: list[str] = list(THESIS_ENTRIES),  # noqa: B006 - never changed; shown in the CLI's help
        holdout: list[str] | None = None,
        val_fraction: float = 0.2,
        cache: str | None = None,
        voxel_size: float = 6.0,
        resolution: float = 12.0,
        sampling: Sampling = "band-limited",
        degradation: list[Degradation] | None = None,
        preset: PresetName | None = None,
        structure_dir: str | None = None,
        assembly: str | None = None,
        hydrogens: bool = False,
        ligands: bool = True,
        **kwargs: Any,
    ) -> None:
        if degradation is None:
            degradation = [PRESETS[preset](voxel_size).degradation] if preset else default_degradation()
        super().__init__(degradation, voxel_size, **kwargs)
        self.save_hyperparameters()
        check_length("voxel_size", voxel_size)
        check_length("resolution", resolution)
        check_numbers(lambda share: 0 < share < 1, "a number between 0 and 1", val_fraction=val_fraction)
        check_volumes(self.degradation, voxel_size, sampling)
        check_distinct(entries=entries, holdout=holdout or [])
        held_out = set(map(canonical_name, holdout or []))
        training = [entry for entry in entries if canonical_name(entry) not in held_out]
        if not training:
            raise CryodenError(f"entries: nothing left to train on: {len(entries)} entries, all held out; add others")
        evaluation = list(holdout or training)
        self.entries = {TRAIN: training, VALIDATION: evaluation, TEST: evaluation}
        self.loaded: dict[str, Particle] = {}
        self.val_fraction = val_fraction
        self.cache = Path(cache).expanduser() if cache else None
        self.resolution = resolution
        self.sampling = sampling
        self.structure_dir = Path(structure_dir) if structure_dir else None
        self._reading: dict[str, Any] = {"assembly": assembly, "hydrogens": hydrogens, "ligands": ligands}

    @property
    def unseen(self) -> frozenset[str]:
        """Which of the entries that validate and test are never trained on, by their canonical names."""
        return self._names(TEST) - self._names(TRAIN)

    def _names(self, split: int) -> frozenset[str]:
        """The canonical names of a split's entries."""
        return frozenset(map(canonical_name, self.entries[split]))

    def _is_thesis(self, *, voxel_size: float, degradation: list[Degradation]) -> bool:
        """Whether these are the thesis's particles in its box, sampled and degraded as there."""
        sampled = (self.sampling, self.box, self.voxel_size, self.resolution)
        return (
            self._names(TRAIN) == frozenset(THESIS_ENTRIES)
            and sampled == ("thesis", 64, voxel_size, 2 * voxel_size)
            and self.degradation == degradation
            and self._reading == {"assembly": None, "hydrogens": False, "ligands": True}
        )

    @property
    def all_entries(self) -> list[str]:
        """What the user calls the particles, each once."""
        return list(dict.fromkeys([*self.entries[TRAIN], *self.entries[TEST]]))

    def particles(self, split: int) -> list[Particle]:
        """The particles of TRAIN, VALIDATION or TEST; they are there after `setup`."""
        return [self.loaded[entry] for entry in self.entries[split]]

    def prepare_data(self) -> None:
        """Download what is missing, once per machine."""
        fetch([entry for entry in self.all_entries if is_archive_entry(entry)], structure_dir=self.structure_dir)

    def setup(self, stage: str | None = None) -> None:
        """Read the particles and check them.

        Raises:
            CryodenError: one cannot be read or does not fit the volume, is called like another, or is held out and
                trains by another name.
        """
        if self.loaded:
            return
        loaded = {
            entry: load_particle(entry, structure_dir=self.structure_dir, **self._reading) for entry in self.all_entries
        }
        for particle in loaded.values():
            check_fits(particle, self._room, self.voxel_size, self.resolution)
        for split in (TRAIN, TEST):
            check_names(self.entries[split], (loaded[entry].name for entry in self.entries[split]))
        for entry in self.entries[TEST] if self.unseen else []:
            same = [other for other in self.entries[TRAIN] if loaded[entry].is_same(loaded[other])]
            if same:
                raise CryodenError(
                    f"holdout: {entry} is the same particle as {same[0]}, which is trained on; allowed are particles "
                    "that are not: take one of the two out"
                )
        self.loaded = loaded

    @property
    def _room(self) -> int:
        """Voxels along the shortest side of what particles are put into."""
        return self.box

    def _split(self, **numbers: int) -> dict[int, int]:
        """How many volumes each split has, from an argument's name and value; each has at least one."""
        ((name, number),) = numbers.items()
        val = round(number * self.val_fraction)
        if not 0 < val < number:
            raise CryodenError(
                f"{name} {number} with val_fraction {self.val_fraction} gives {number - val} training and {val} "
                f"validation volumes{' per particle' if name == 'copies' else ''}; each must be at least 1: "
                f"raise {name} or change val_fraction"
            )
        return {TRAIN: number - val, VALIDATION: val, TEST: val}

    def _dataset(self, split: int) -> VolumeDataset:
        return self._kept(super()._dataset(split))

    def _kept(self, dataset: VolumeDataset) -> VolumeDataset:
        """The same volumes, from the cache where there is one: what is kept is degraded too."""
        if self.cache is None:
            return dataset
        dataset.fresh, dataset.degrade = False, True
        return CachedDataset(dataset, self.cache)


class ParticleDataModule(ParticleVolumes):
    """Volumes simulated from particles: each copy in a random orientation, alone in its box, then degraded.

    A tilt series shows in a box what is around it, so with one a particle has neighbours, above, below and beside its
    box; the box is cut from what was made of all. A batch also has `rotation`, of the particle in the middle.

    Args:
        copies: volumes per particle, training and validation together.
        surroundings: what is around a box, where the degradation sees it; null: that of the preset, or else particles
            that fill up to a fifth of the ice.
        voxel_size: angstrom.
        preset: see ParticleVolumes; it gives surroundings, too.
        kwargs: see ParticleVolumes.
    """

    def __init__(
        self,
        *,
        copies: int = 100,
        surroundings: Surroundings | None = None,
        voxel_size: float = 6.0,
        preset: PresetName | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(voxel_size=voxel_size, preset=preset, **kwargs)
        self.copies = self._split(copies=copies)
        given = PRESETS[preset](voxel_size).surroundings if preset else Surroundings()
        self.surroundings = surroundings or given

    @property
    def experiment(self) -> str | None:
        """See VolumeDataModule."""
        if self._is_thesis(voxel_size=6.0, degradation=default_degradation()):
            return {(): "control", ("1bxn",): "unseen-particle"}.get(tuple(self.unseen))
        peppered = not self.unseen and self._is_thesis(voxel_size=6.0, degradation=[GaussianNoise(), SaltAndPepper()])
        return "different-noise" if peppered else None

    def _volumes(self, split: int, degradation: Sequence[Degradation]) -> VolumeDataset:
        return ParticleDataset(
            self.particles(split),
            self.copies[split],
            degradation,
            box=self.box,
            voxel_size=self.voxel_size,
            resolution=self.resolution,
            sampling=self.sampling,
            margin=context_of(self.degradation),  # also where it is degraded otherwise: the same volumes
            surroundings=self.surroundings,
            **self._randomness(split),
        )
