"""Filaments that cross a scene: microtubules and actin, of phantom subunits on the lattices of the real ones."""

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from cryoden.particles import Structure
from cryoden.simulation.points import points_of
from cryoden.simulation.ranges import draw
from cryoden.simulation.rotation import random_rotation
from cryoden.simulation.sampling import Points, add_points

MICROTUBULE, ACTIN = "microtubule", "actin"

_BENDING = (2e4, 2e5)  # Å, the radius of the arc that a filament lies on


@dataclass(frozen=True)
class Lattice:
    """How a filament is built: a repeat, which goes on along the axis by a rise and a twist.

    Args:
        seed: of the phantom subunit, a compact domain.
        residues: of the subunit, about.
        axes: which of the subunit's principal axes, the shortest first, point outwards, around and along.
        radius: Å, of the subunits' centres.
        subunits: of a repeat.
        step: the turn in degrees, and the rise in Å, from one subunit of a repeat to the next.
        rise: Å, from one repeat to the next.
        twist: degrees, from one repeat to the next.
    """

    seed: int
    residues: int
    axes: tuple[int, int, int]
    radius: float
    subunits: int
    step: tuple[float, float]
    rise: float
    twist: float


LATTICES = {
    # 13 protofilaments of monomers 40.5 Å apart, beside each other on left-handed helices of three starts.
    MICROTUBULE: Lattice(20, 580, (2, 1, 0), 90.0, 13, (-360 / 13, 3 * 40.5 / 13), 40.5, 0.0),
    ACTIN: Lattice(5, 375, (0, 1, 2), 18.0, 1, (0.0, 0.0), 27.5, -166.6),
}


@cache
def subunit(kind: str) -> Structure:
    """The subunit of a filament, its principal axes where the lattice wants them: outwards is x, along is z."""
    from cryoden.particles.phantom import make_domain

    lattice = LATTICES[kind]
    structure = Structure.from_gemmi(make_domain(lattice.seed, lattice.residues), f"{kind} subunit")
    positions = np.array([atom.atom.pos.tolist() for atom in structure.model.all()])
    axes = np.linalg.eigh(np.cov(positions.T))[1].T[list(lattice.axes)]
    axes[0] *= np.sign(np.linalg.det(axes))
    return structure.turned(axes)


@lru_cache(maxsize=16)
def repeat_of(kind: str, voxel_size: float, resolution: float) -> Points:
    """A repeat around the axis z.

    Args:
        kind: of filament.
        voxel_size: Å.
        resolution: Å, at least two voxels.
    """
    lattice = LATTICES[kind]
    one = points_of(subunit(kind), voxel_size, resolution)
    turn, rise = lattice.step
    numbers = np.arange(lattice.subunits) - (lattice.subunits - 1) / 2
    outwards = one.positions + np.array([[lattice.radius], [0], [0]])
    copies = [about_z(number * turn) @ outwards + [[0], [0], [number * rise]] for number in numbers]
    positions = np.concatenate(copies, axis=1).astype(np.float32)
    radius = float(np.linalg.norm(positions, axis=0).max())
    return Points(positions, np.tile(one.weights, lattice.subunits), one.finest, radius)


def outer_radius(kind: str) -> float:
    """Å, from the axis to the outermost atom."""
    x, y, _ = np.array([atom.atom.pos.tolist() for atom in subunit(kind).model.all()]).T
    return float(np.hypot(x + LATTICES[kind].radius, y).max())


@dataclass(frozen=True)
class Course:
    """An arc that a filament follows.

    Attributes:
        middle: (3,) x, y, z in Å, where the arc is at 0.
        rotation: (3, 3), the filament's orientation there: its axis is R z, and it bends towards R x.
        bending: Å, the radius of the arc.
        length: Å, to either side.
    """

    middle: NDArray[np.float64]
    rotation: NDArray[np.float64]
    bending: float
    length: float

    def at(self, along: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where the axis is so many Å from the middle: (3,) x, y, z, and the orientation (3, 3) there."""
        angle = along / self.bending
        cos, sin = np.cos(angle), np.sin(angle)
        bent = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        return self.middle + self.rotation @ [self.bending * (1 - cos), 0, self.bending * sin], self.rotation @ bent

    def around(self, radius: float, step: float) -> NDArray[np.float64]:
        """(n, 3) x, y, z in Å: points on the axis and all around it."""
        turns = [about_z(angle)[:, 0] * radius * part for angle in range(0, 360, 30) for part in (0.5, 1.0)]
        near = np.array([np.zeros(3), *turns])
        places = [self.at(along) for along in np.arange(-self.length, self.length, step)]
        return np.concatenate([place + near @ rotation.T for place, rotation in places])


def draw_course(side: NDArray[np.float64], steepest: float, generator: torch.Generator) -> Course:
    """An arc through a box in a random direction, long enough to leave it on both sides.

    Args:
        side: (3,) x, y, z in Å, of the box.
        steepest: the largest part of its direction that is along z.
        generator: where the randomness comes from.
    """
    middle = side * torch.rand(3, generator=generator, dtype=torch.float64).numpy()
    while True:
        rotation = random_rotation(generator).numpy()
        if abs(rotation[2, 2]) <= steepest:
            return Course(middle, rotation, draw(_BENDING, generator), float(np.linalg.norm(side)))


def render(
    kind: str, course: Course, shape: tuple[int, ...], voxel_size: float, resolution: float
) -> NDArray[np.float32]:
    """A filament along a course, cut by the borders of the volume.

    Args:
        kind: of filament.
        course: in Å from the first voxel.
        shape: (D, H, W).
        voxel_size: Å.
        resolution: Å, at least two voxels.

    Returns:
        (D, H, W), above ice.
    """
    lattice, points = LATTICES[kind], repeat_of(kind, voxel_size, resolution)
    volume = np.zeros(shape, np.float32)
    most = int(course.length / lattice.rise)
    for number in range(-most, most + 1):
        place, rotation = course.at(number * lattice.rise)
        add_points(volume, points, rotation @ about_z(number * lattice.twist), place[::-1] / voxel_size, voxel_size)
    return volume


def about_z(degrees: float) -> NDArray[np.float64]:
    """(3, 3), a right-handed turn."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
