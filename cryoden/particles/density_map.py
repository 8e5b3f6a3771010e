"""Particles given as a density map: an MRC template with a voxel size."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryoden.errors import CryodenError
from cryoden.volume import read_volume

_VISIBLE = 0.01  # of the maximum: what lies below is no longer the particle
_BLUR = 0.225 * 20  # Å, standard deviation


@dataclass(frozen=True, eq=False)
class DensityMap:
    """A density map of one particle.

    Args:
        name: what errors, tables and figures call it.
        data: (D, H, W) float32, axes z, y, x; bright on a background of 0.
        voxel_size: Å.
        mass: kDa of protein that all of it stands for; None: unknown.
    """

    name: str
    data: NDArray[np.float32]
    voxel_size: float
    mass: float | None = None

    @cached_property
    def centre(self) -> NDArray[np.float64]:
        """(3,), z, y, x in voxels: the centre of mass."""
        return np.array(ndimage.center_of_mass(self.data))

    def is_same(self, other: object) -> bool:
        """Whether another particle is this map, whatever it and its mass are called."""
        return (
            isinstance(other, DensityMap)
            and self.voxel_size == other.voxel_size
            and np.array_equal(self.data, other.data)
        )

    @cached_property
    def diameter(self) -> float:
        """Å; twice the largest distance from the centre of a voxel above 1 % of the maximum."""
        visible = np.argwhere(self.data > _VISIBLE * self.data.max())
        return 2 * self.voxel_size * float(np.linalg.norm(visible - self.centre, axis=1).max())

    @cached_property
    def bulk(self) -> float:
        """The mean above half of the maximum, in the map's own unit, once the map is blurred to 20 Å.

        Not blurred, it would hang on the map's resolution: sharp maps have sharp peaks.
        """
        smooth = ndimage.gaussian_filter(self.data, _BLUR / self.voxel_size, mode="constant")
        return float(smooth[smooth > smooth.max() / 2].mean())


def read_density_map(path: str | Path, mass: float | None = None) -> DensityMap:
    """Read an MRC file as a particle; negative density, which no particle has, becomes 0.

    Args:
        path: the file; its name up to the first dot becomes the particle's name.
        mass: kDa of protein that all of it stands for; None: unknown.

    Raises:
        CryodenError: the mass is not above 0, or the file cannot be read, has no voxel size, or shows no bright
            particle.
    """
    path = Path(path)
    if mass is not None and not mass > 0:
        raise CryodenError(f"{path}: got a mass of {mass:g} kDa; allowed is a number above 0")
    volume = read_volume(path)
    if volume.voxel_size <= 0:
        raise CryodenError(f"{path}: no voxel size in the header; write it there: a particle has a size")
    lowest, highest = float(volume.data.min()), float(volume.data.max())
    if highest <= 0 or -lowest > highest:
        raise CryodenError(
            f"{path}: density from {lowest:.3g} to {highest:.3g}; a particle must be bright on a background "
            "of 0: multiply a dark one by -1"
        )
    return DensityMap(path.name.split(".")[0], np.maximum(volume.data, 0), volume.voxel_size, mass)
