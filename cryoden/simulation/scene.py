"""Several particles in one volume, where and as they happen to lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cryoden.errors import CryodenError
from cryoden.particles import Particle
from cryoden.simulation.density import check_fits, clean_volume, smallest_box
from cryoden.simulation.rotation import random_rotation

_VISIBLE = 0.05  # of a particle's maximum: where its density is above this, no other particle may be
_TRIES = 200  # positions that are tried before a particle is left out


class Placement(NamedTuple):
    """Where a particle lies in a scene.

    Attributes:
        particle: its name.
        position: (3,), z, y, x of its centre, in voxels.
        rotation: (3, 3), acts on xyz column vectors: x' = R x.
    """

    particle: str
    position: NDArray[np.int64]
    rotation: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SceneVolume:
    """A scene that has been made.

    Attributes:
        density: (D, H, W) float32, axes z, y, x; background 0, maximum 1.
        labels: (D, H, W) int32; 0 in the background, i + 1 where the particle `placements[i]` is.
        placements: the particles.
    """

    density: NDArray[np.float32]
    labels: NDArray[np.int32]
    placements: list[Placement]


@dataclass(frozen=True)
class Scene:
    """Particles at random positions and in random orientations that do not overlap, in one volume.

    Two particles overlap where both have visible density (5 % of the maximum), not where the spheres around them do, so
    that they may nestle. Each lies whole within the volume.

    Args:
        shape: (D, H, W) in voxels.
        voxel_size: Å.
        resolution: Å.
        particles: what to draw from, each as likely as the others.
        count: how many to place, a number or a (lowest, highest) range. Fewer are placed where there is no room.
    """

    shape: tuple[int, int, int]
    voxel_size: float
    resolution: float
    particles: Sequence[Particle]
    count: int | tuple[int, int]

    def __post_init__(self) -> None:
        low, high = self._range
        if not 1 <= low <= high:
            raise CryodenError(f"count: got {self.count}; allowed is a whole number from 1 up, or a (low, high) range")
        if not self.particles:
            raise CryodenError("particles: got none; a scene needs at least one to draw from")
        for particle in self.particles:
            check_fits(particle, min(self.shape), self.voxel_size, self.resolution)

    @property
    def _range(self) -> tuple[int, int]:
        return self.count if isinstance(self.count, tuple) else (self.count, self.count)

    def make(self, generator: torch.Generator) -> SceneVolume:
        """Make a scene, the same for the same state of the generator.

        Args:
            generator: on the CPU; where all randomness comes from.
        """
        density = np.zeros(self.shape, np.float32)
        labels = np.zeros(self.shape, np.int32)
        placements: list[Placement] = []
        low, high = self._range
        for _ in range(int(torch.randint(low, high + 1, (), generator=generator))):
            particle = self.particles[int(torch.randint(len(self.particles), (), generator=generator))]
            rotation = random_rotation(generator).numpy()
            box = smallest_box(particle, self.voxel_size, self.resolution)
            volume = clean_volume(particle, rotation, box, self.voxel_size, self.resolution)
            visible = volume > _VISIBLE
            corner = self._free_corner(labels, visible, generator)
            if corner is None:
                continue
            # The box reaches beyond the scene where nothing of it is visible; what is left out there is faint.
            into = tuple(slice(max(c, 0), c + box) for c in corner)
            part = tuple(
                slice(max(-c, 0), min(box, size - c)) for c, size in zip(corner.tolist(), self.shape, strict=True)
            )
            density[into] += volume[part]
            labels[into][visible[part]] = len(placements) + 1
            placements.append(Placement(particle.name, corner + box // 2, rotation))
        return SceneVolume(density / density.max(), labels, placements)

    def _free_corner(
        self, labels: NDArray[np.int32], visible: NDArray[np.bool_], generator: torch.Generator
    ) -> NDArray[np.int64] | None:
        """Where the first voxel of a box may go so that what is visible in it overlaps nothing; None: no room."""
        first = np.array([np.flatnonzero(visible.any(axis=axes))[0] for axes in ((1, 2), (0, 2), (0, 1))])
        last = np.array([np.flatnonzero(visible.any(axis=axes))[-1] for axes in ((1, 2), (0, 2), (0, 1))])
        core = visible[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))]
        room = np.array(self.shape) - core.shape
        tries = torch.rand((_TRIES, 3), generator=generator, dtype=torch.float64).numpy()
        for start in (tries * (room + 1)).astype(np.int64):
            there = labels[tuple(slice(s, s + n) for s, n in zip(start, core.shape, strict=True))]
            if not there[core].any():
                corner: NDArray[np.int64] = start - first
                return corner
        return None
