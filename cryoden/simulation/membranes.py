"""Proteins in membranes: phantoms that stand in a bilayer, their axis along its normal."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from cryoden.particles import Structure
from cryoden.simulation.bodies import Embedded
from cryoden.simulation.points import points_of

_PHANTOMS = (9060, 9077, 9114, 9100)  # of 46, 66, 127 and 159 kDa; C1, C1, C3 and C5: higher than wide, or rings
_RISE = 20.0  # Å, the largest distance of a protein's centre from the middle of the membrane
_TRIES = 4  # places for each protein, of which those are taken that are free


@cache
def _proteins() -> list[tuple[Structure, float]]:
    """The structures, and the radius in Å of each in the plane of the membrane: of a disc that is as wide."""
    from cryoden.particles.phantom import phantom

    found = []
    for seed in _PHANTOMS:
        structure = phantom(seed)
        x, y, _ = np.array([atom.atom.pos.tolist() for atom in structure.model.all()]).T
        found.append((structure, float(np.sqrt(2 * np.mean(x**2 + y**2)))))
    return found


def proteins_in(
    axes: NDArray[np.float64], number: float, voxel_size: float, resolution: float, rng: np.random.Generator
) -> list[Embedded]:
    """Proteins all over an ellipsoidal membrane that do not overlap; fewer than asked for where it is full.

    Args:
        axes: (3,) half axes of the ellipsoid in Å.
        number: of proteins in 1000 nm².
        voxel_size: Å.
        resolution: Å, at least two voxels.
        rng: where the randomness comes from.
    """
    kinds = _proteins()
    directions = rng.normal(size=(4000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    stretch = np.linalg.norm(directions / axes, axis=1) * np.prod(axes)  # Å² of membrane in each solid angle
    wanted = round(number * 4 * np.pi * float(stretch.mean()) / 1e5)
    placed: list[Embedded] = []
    centres, radii = np.zeros((0, 3)), np.zeros(0)
    for place in rng.choice(len(directions), _TRIES * wanted, p=stretch / stretch.sum()):
        if len(placed) == wanted:
            break
        structure, radius = kinds[rng.integers(len(kinds))]
        middle = axes * directions[place]
        if (np.linalg.norm(centres - middle, axis=1) < radii + radius).any():
            continue
        centres, radii = np.vstack([centres, middle]), np.append(radii, radius)
        normal = directions[place] / axes
        normal /= np.linalg.norm(normal) * rng.choice([-1, 1])
        across = np.cross(normal, rng.normal(size=3))
        across /= np.linalg.norm(across)
        rotation = np.stack([across, np.cross(normal, across), normal], axis=1)
        position = middle + normal * rng.uniform(-_RISE, _RISE)
        placed.append(Embedded(points_of(structure, voxel_size, resolution), position, rotation))
    return placed
