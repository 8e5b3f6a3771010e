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


@dataclass(frozen=True, eq=False)
class DensityMap:
    """A density map of one particle.

    Args:
        name: what errors, tables and figures call it.
        data: (D, H, W) float32, axes z, y, x; bright on a background of 0.
        voxel_size: Å.
    """

    name: str
    data: NDArray[np.float32]
    voxel_size: float

    @cached_property
    def centre(self) -> NDArray[np.float64]:
        """(3,), z, y, x in voxels: the centre of mass."""
        return np.array(ndimage.center_of_mass(self.data))

    @cached_property
    def diameter(self) -> float:
        """Å; twice the largest distance from the centre of a voxel above 1 % of the maximum."""
        visible = np.argwhere(self.data > _VISIBLE * self.data.max())
        return 2 * self.voxel_size * float(np.linalg.norm(visible - self.centre, axis=1).max())

    @cached_property
    def bulk(self) -> float:
        """The mean of what is above half of the maximum, in the map's own unit."""
        return float(self.data[self.data > self.data.max() / 2].mean())

    def sample(
        self, rotation: NDArray[np.float64], box: int, voxel_size: float, resolution: float
    ) -> NDArray[np.float32]:
        """Rotate the map about its centre of mass, put that on voxel `box // 2`, and sample without aliasing.

        Args:
            rotation: (3, 3), acts on xyz column vectors: x' = R x.
            box: voxels along each side.
            voxel_size: Å.
            resolution: Å; what is finer, or finer than two voxels, is taken out first.

        Returns:
            (box, box, box), axes z, y, x.
        """
        cutoff = max(resolution, 2 * voxel_size)
        spline, margin = self._spline(cutoff)
        # Where each voxel of the box comes from: the inverse rotation, with axes in the order z, y, x.
        inverse = rotation.T[::-1, ::-1] * (voxel_size / self.voxel_size)
        offset = self.centre + margin - inverse.sum(axis=1) * (box // 2)
        shape = (box, box, box)
        return np.asarray(
            ndimage.affine_transform(
                spline, inverse, offset, shape, output=np.float32, order=3, mode="constant", prefilter=False
            )
        )

    def _spline(self, cutoff: float) -> tuple[NDArray[np.float32], int]:
        """The spline coefficients of the low-passed map, and the margin around it in voxels; made once."""
        if cutoff not in self._splines:
            margin = int(np.ceil(2 * cutoff / self.voxel_size))  # so that nothing wraps around
            smooth = _low_pass(np.pad(self.data, margin), cutoff / self.voxel_size)
            self._splines[cutoff] = ndimage.spline_filter(smooth, order=3, output=np.float32), margin
        return self._splines[cutoff]

    @cached_property
    def _splines(self) -> dict[float, tuple[NDArray[np.float32], int]]:
        return {}


def read_density_map(path: str | Path) -> DensityMap:
    """Read an MRC file as a particle; negative density, which no particle has, becomes 0.

    Args:
        path: the file; its name up to the first dot becomes the particle's name.

    Raises:
        CryodenError: the file cannot be read, has no voxel size, or shows no bright particle.
    """
    path = Path(path)
    volume = read_volume(path)
    if volume.voxel_size <= 0:
        raise CryodenError(f"{path}: no voxel size in the header; write it there: a particle has a size")
    lowest, highest = float(volume.data.min()), float(volume.data.max())
    if highest <= 0 or -lowest > highest:
        raise CryodenError(
            f"{path}: density from {lowest:.3g} to {highest:.3g}; a particle must be bright on a background "
            "of 0: multiply a dark one by -1"
        )
    return DensityMap(path.name.split(".")[0], np.maximum(volume.data, 0), volume.voxel_size)


def _low_pass(data: NDArray[np.float32], cutoff: float) -> NDArray[np.float32]:
    """Take out what is finer than `cutoff` voxels, gradually: a sharp edge would ring around the particle."""
    nz, ny, nx = data.shape
    z, y, x = np.fft.fftfreq(nz)[:, None, None], np.fft.fftfreq(ny)[:, None], np.fft.rfftfreq(nx)
    kept = np.cos(np.pi / 2 * np.minimum(np.sqrt(z**2 + y**2 + x**2) * cutoff, 1))
    smooth = np.fft.irfftn(np.fft.rfftn(data) * kept.astype(np.float32), data.shape, axes=(0, 1, 2))
    return smooth.astype(np.float32, copy=False)
