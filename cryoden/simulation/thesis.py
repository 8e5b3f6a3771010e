"""The sampling that the thesis's numbers were matched with, kept so that its experiments can be repeated.

Atoms are sampled at the voxels' centres with next to no blur, so that half of a volume is detail finer than its voxels,
folded back, and each volume is divided by its maximum. The difficulty of the thesis's task hangs on it. It is of no use
for anything else: what a network cannot predict it does not learn.
"""

import gemmi
import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryoden.errors import CryodenError
from cryoden.particles import Particle, Structure

# The blur of each atom, a B factor, is this times the squared resolution: a wave of that period keeps 84 % of
# its height. So 1bxn in the default box has an RMS of 0.0365, as MSE / NRMSE² of the thesis (table 4) asks.
_BLUR = 0.7


def thesis_density(
    particle: Particle, rotation: ArrayLike, box: int, voxel_size: float, resolution: float
) -> NDArray[np.float32]:
    """The electron-scattering density (Peng et al. 1996) of atoms, without hydrogens that the file leaves out.

    Args:
        particle: a structure, which must fit.
        rotation: (3, 3), acts on xyz column vectors: x' = R x.
        box: voxels along each side.
        voxel_size: Å.
        resolution: Å; one finer than two voxels is taken as two voxels.

    Returns:
        (box, box, box), axes z, y, x; Å^-2. Particles keep their densities relative to each other.

    Raises:
        CryodenError: the particle is a density map.
    """
    if not isinstance(particle, Structure):
        raise CryodenError(f"sampling: got 'thesis' for the density map {particle.name}; maps are 'band-limited'")
    moved = particle.model.clone()
    centre = box // 2 * voxel_size
    matrix = gemmi.Mat33(np.asarray(rotation, np.float64).tolist())
    moved.transform_pos_and_adp(gemmi.Transform(matrix, gemmi.Vec3(centre, centre, centre)))
    calculator = gemmi.DensityCalculatorE()
    side = box * voxel_size
    calculator.grid.set_unit_cell(gemmi.UnitCell(side, side, side, 90, 90, 90))
    calculator.grid.set_size(box, box, box)
    calculator.blur = _BLUR * max(resolution, 2 * voxel_size) ** 2
    calculator.add_model_density_to_grid(moved)
    return np.asarray(calculator.grid.array.T)  # a view: gemmi's array is x, y, z with x fastest in memory
