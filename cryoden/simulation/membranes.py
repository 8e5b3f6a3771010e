"""Large pieces of membranes; and proteins in them: phantoms that stand in a bilayer, their axis along its normal."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryoden.particles import Structure
from cryoden.simulation.bodies import BILAYER, HEAD_WIDTH, HEADS, TAIL, TAILS, Embedded, blur_of, vesicle_rim
from cryoden.simulation.points import points_of
from cryoden.simulation.sampling import add_points

_PHANTOMS = (9060, 9039, 9086, 9071)  # of 40, 67, 94 and 130 kDa; C1, C1, C3 and C4: higher than wide, or rings
_RISE = 20.0  # Å, the largest distance of a protein's centre from the middle of the membrane
_BESIDE = 15  # voxels beside a large membrane to which what the cut at Nyquist leaves there is followed
_LEVELS = 32  # orientations to the voxels' axes for which it is worked out
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
    directions = rng.normal(size=(4000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    stretch = np.linalg.norm(directions / axes, axis=1) * np.prod(axes)  # Å² of membrane in each solid angle
    wanted = round(number * 4 * np.pi * float(stretch.mean()) / 1e5)
    places = rng.choice(len(directions), _TRIES * wanted, p=stretch / stretch.sum())
    normals = directions[places] / axes
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return _standing(axes * directions[places], normals, wanted, voxel_size, resolution, rng)


def sheet(
    centre: NDArray[np.float64],
    radius: float,
    shape: tuple[int, ...],
    voxel_size: float,
    resolution: float,
    *,
    density: float,
    number: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """A piece of a membrane that is large beside the volume: of a sphere, cut by the borders.

    It is so nearly flat that at each voxel it is known from the distance: of a flat one the voxels hold the waves along
    its normal up to where one of their own axes ends.

    Args:
        centre: (3,) x, y, z of the sphere in Å from the first voxel.
        radius: of the sphere in Å, of the middle of the membrane.
        shape: (D, H, W).
        voxel_size: Å.
        resolution: Å, at least two voxels.
        density: of the lipids, as a multiple of phosphatidylcholine's.
        number: of proteins in 1000 nm².
        rng: where the randomness comes from.

    Returns:
        (D, H, W), above ice.
    """
    distance, steepest = distance_from(centre, radius, shape, voxel_size)
    volume = np.zeros(shape, np.float32)
    near = np.abs(distance) < _BESIDE * voxel_size + vesicle_rim(resolution)
    volume[near] = density * _across(distance[near], steepest[near], voxel_size, resolution)
    if number:
        middle = np.argwhere(np.abs(distance) < voxel_size / 2)
        wanted = round(number * len(middle) * voxel_size**2 / 1e5)  # a layer of one voxel
        chosen = middle[rng.integers(len(middle), size=_TRIES * wanted)] + rng.uniform(-0.5, 0.5, (_TRIES * wanted, 3))
        normals = chosen[:, ::-1] * voxel_size - centre
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        there = np.zeros(shape, np.float32)
        for points, position, rotation in _standing(
            centre + radius * normals, normals, wanted, voxel_size, resolution, rng
        ):
            add_points(there, points, rotation, position[::-1] / voxel_size, voxel_size)
        volume = volume * (1 - there.clip(0, 1)) + there
    return volume


def distance_from(
    centre: NDArray[np.float64], radius: float, shape: tuple[int, ...], voxel_size: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(D, H, W) in Å: how far each voxel is from a sphere; and the largest part of the normal there along an axis."""
    steps = [(np.arange(n) * voxel_size - at).astype(np.float32) for n, at in zip(shape, centre[::-1], strict=True)]
    z, y, x = np.ix_(*steps)
    away = np.sqrt(z**2 + y**2 + x**2)
    steepest = np.maximum(np.maximum(np.abs(z), np.abs(y)), np.abs(x)) / np.maximum(away, 1)
    return away - np.float32(radius), steepest


def _across(
    distance: NDArray[np.float32], steepest: NDArray[np.float32], voxel_size: float, resolution: float
) -> NDArray[np.float32]:
    """The density of a flat membrane so many Å from its middle, without the waves that voxels cannot hold."""
    levels = np.linspace(3**-0.5, 1, _LEVELS)
    places = np.linspace(0, _BESIDE * voxel_size + vesicle_rim(resolution), 512)
    waves = (np.arange(512) + 0.5) / 512 * (0.5 / voxel_size / levels[0])
    heads = 2 * HEADS * HEAD_WIDTH * (2 * np.pi) ** 0.5 * np.exp(-2 * (np.pi * HEAD_WIDTH * waves) ** 2)
    tails = 2 * TAILS * TAIL * np.sinc(2 * TAIL * waves) * np.exp(-2 * (np.pi * HEAD_WIDTH * waves) ** 2)
    spectrum = heads * np.cos(np.pi * BILAYER * waves) + tails
    spectrum *= np.exp(-2 * (np.pi * blur_of(resolution) * waves) ** 2) * 2 * (waves[1] - waves[0])
    held = waves * voxel_size * levels[:, None] <= 0.5
    profiles = (held * spectrum) @ np.cos(2 * np.pi * np.outer(waves, places))
    step = np.array([levels[1] - levels[0], places[1]])
    index = np.stack([(steepest - levels[0]) / step[0], np.abs(distance) / step[1]])
    found: NDArray[np.float32] = ndimage.map_coordinates(profiles, index, order=1, mode="nearest", output=np.float32)
    return found


def _standing(
    middles: NDArray[np.float64],
    normals: NDArray[np.float64],
    wanted: int,
    voxel_size: float,
    resolution: float,
    rng: np.random.Generator,
) -> list[Embedded]:
    """Proteins at the first of these places that are free; their axis along the normal, either way round."""
    kinds = _proteins()
    placed: list[Embedded] = []
    centres, radii = np.zeros((0, 3)), np.zeros(0)
    for middle, outwards in zip(middles, normals, strict=True):
        if len(placed) == wanted:
            break
        structure, radius = kinds[rng.integers(len(kinds))]
        if (np.linalg.norm(centres - middle, axis=1) < radii + radius).any():
            continue
        centres, radii = np.vstack([centres, middle]), np.append(radii, radius)
        normal = outwards * rng.choice([-1, 1])
        across = np.cross(normal, rng.normal(size=3))
        across /= np.linalg.norm(across)
        rotation = np.stack([across, np.cross(normal, across), normal], axis=1)
        position = middle + normal * rng.uniform(-_RISE, _RISE)
        placed.append(Embedded(points_of(structure, voxel_size, resolution), position, rotation))
    return placed
