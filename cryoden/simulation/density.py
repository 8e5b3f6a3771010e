"""Particle and orientation in, clean volume out."""

import math

import gemmi
import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryoden.errors import CryodenError
from cryoden.particles.density_map import DensityMap
from cryoden.particles.structure import Structure

# The blur of each atom, a B factor, is this times the squared resolution: a wave of that period keeps 84 % of
# its height. So 1bxn in the default box has an RMS of 0.0365, as MSE / NRMSE² of the thesis (table 4) asks.
_BLUR = 0.7

PROTEIN_DENSITY = 0.136
"""Å^-2; the electron-scattering density of protein of 1.35 g/cm³ without its hydrogens, in bulk: the sum of the atoms'
forward scattering factors (Peng et al. 1996) over their volume, for the average composition of proteins."""


def clean_volume(
    particle: Structure | DensityMap, rotation: ArrayLike, box: int, voxel_size: float, resolution: float
) -> NDArray[np.float32]:
    """The density of a particle, rotated about its centre, which lies on voxel `box // 2` of each axis.

    For atoms it is the electron-scattering density (Peng et al. 1996, from gemmi) at the voxels' centres; the
    atoms move, so the rotation is exact. A resolution finer than two voxels is taken as two voxels.

    Args:
        particle: what to put into the box.
        rotation: (3, 3), acts on xyz column vectors: x' = R x.
        box: voxels along each side.
        voxel_size: Å.
        resolution: Å.

    Returns:
        (box, box, box), axes z, y, x; its maximum is 1.

    Raises:
        CryodenError: the particle does not fit into the box, or a number is not above 0.
    """
    check_fits(particle, box, voxel_size, resolution)
    volume = scattering_density(particle, rotation, box, voxel_size, resolution)
    scaled: NDArray[np.float32] = volume / volume.max()
    return scaled


def scattering_density(
    particle: Structure | DensityMap, rotation: ArrayLike, box: int, voxel_size: float, resolution: float
) -> NDArray[np.float32]:
    """As `clean_volume`, but not scaled: particles keep their densities relative to each other.

    The unit of a density map is unknown, so it is scaled to protein: where the map, not rotated, is above half of its
    maximum, its mean becomes `PROTEIN_DENSITY`.

    Args:
        particle: what to put into the box, which it must fit; see `check_fits`.
        rotation: (3, 3), acts on xyz column vectors: x' = R x.
        box: voxels along each side.
        voxel_size: Å.
        resolution: Å.

    Returns:
        (box, box, box), axes z, y, x; Å^-2.
    """
    resolution = max(resolution, 2 * voxel_size)
    matrix = np.asarray(rotation, dtype=np.float64)
    if isinstance(particle, DensityMap):
        volume: NDArray[np.float32] = particle.sample(matrix, box, voxel_size, resolution)
        return volume * np.float32(PROTEIN_DENSITY / particle.bulk)
    return _atomic_density(particle.model, matrix, box, voxel_size, resolution)


def check_fits(particle: Structure | DensityMap, box: int, voxel_size: float, resolution: float) -> None:
    """Check that a particle, with the blur around it, lies within the box in every orientation.

    Args:
        particle: what to put into the box.
        box: voxels along each side.
        voxel_size: Å.
        resolution: Å.

    Raises:
        CryodenError: it does not, or a number is not above 0.
    """
    for name, value in (("box", box), ("voxel_size", voxel_size), ("resolution", resolution)):
        if not value > 0:
            raise CryodenError(f"{name}: got {value}; allowed is a number above 0")
    needed = smallest_box(particle, voxel_size, resolution)
    if needed > box:
        raise CryodenError(
            f"{particle.name}: its diameter of {particle.diameter:.0f} Å and {_reach(voxel_size, resolution):.0f} Å of "
            f"blur do not fit into a box of {box} voxels of {voxel_size:g} Å ({box * voxel_size:.0f} Å); "
            f"the smallest box that fits is {16 * math.ceil(needed / 16)} voxels"
        )


def smallest_box(particle: Structure | DensityMap, voxel_size: float, resolution: float) -> int:
    """The voxels along each side of the smallest box that holds a particle, and its blur, in every orientation.

    Args:
        particle: what to put into the box.
        voxel_size: Å.
        resolution: Å.
    """
    # An even box reaches half a voxel less far above its centre than below.
    return math.ceil((particle.diameter + _reach(voxel_size, resolution)) / voxel_size + 1)


def _reach(voxel_size: float, resolution: float) -> float:
    """Å by which the blur makes a particle wider."""
    return max(resolution, 2 * voxel_size)


def _atomic_density(
    model: gemmi.Model, rotation: NDArray[np.float64], box: int, voxel_size: float, resolution: float
) -> NDArray[np.float32]:
    moved = model.clone()
    centre = box // 2 * voxel_size
    transform = gemmi.Transform(gemmi.Mat33(rotation.tolist()), gemmi.Vec3(centre, centre, centre))
    moved.transform_pos_and_adp(transform)
    calculator = gemmi.DensityCalculatorE()
    side = box * voxel_size
    calculator.grid.set_unit_cell(gemmi.UnitCell(side, side, side, 90, 90, 90))
    calculator.grid.set_size(box, box, box)
    calculator.blur = _BLUR * resolution**2
    calculator.add_model_density_to_grid(moved)
    return np.asarray(calculator.grid.array.T)  # a view: gemmi's array is x, y, z with x fastest in memory
