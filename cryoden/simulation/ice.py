"""The surfaces of the ice: how far apart they are, how they slope and wave, and the vacuum beyond them."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cryoden.simulation.bodies import blur_of
from cryoden.simulation.units import VACUUM

_WAVES = 8  # of each surface
_WAVELENGTHS = (1000.0, 4000.0)  # Å
_FAR = 40.5  # voxels from a surface: where the ripple of the cut, which fades, passes zero
_FINE = 16  # values in a voxel


class Surfaces(NamedTuple):
    """Where ice begins and ends, along z from the volume's middle.

    Attributes:
        top: (...) Å.
        bottom: (...) Å.
    """

    top: NDArray[np.float64]
    bottom: NDArray[np.float64]


def surfaces(
    thickness: float,
    slope: float,
    waves: float,
    shape: tuple[int, ...],
    voxel_size: float,
    rng: np.random.Generator,
) -> Surfaces:
    """Both surfaces of a slab of ice, whose middle is that of the volume.

    Args:
        thickness: Å, in the middle.
        slope: degrees, between the surfaces, along a random direction.
        waves: Å, the standard deviation of each surface's height.
        shape: (D, H, W) of the volume.
        voxel_size: Å.
        rng: where the randomness comes from.

    Returns:
        Each (H, W), within the volume.
    """
    depth, *sides = shape
    y, x = ((np.arange(n) - (n - 1) / 2) * voxel_size for n in sides)
    directions, phases = rng.uniform(0, 2 * np.pi, (2, 2, _WAVES))
    lengths = rng.uniform(*_WAVELENGTHS, (2, _WAVES, 1, 1))
    along = np.cos(directions)[..., None, None] * x + np.sin(directions)[..., None, None] * y[:, None]
    height = np.sin(2 * np.pi * along / lengths + phases[..., None, None]).sum(axis=1) * waves * (2 / _WAVES) ** 0.5
    towards = rng.uniform(0, 2 * np.pi)
    wedge = np.tan(np.radians(slope)) * (np.cos(towards) * x + np.sin(towards) * y[:, None])
    half = (thickness + wedge) / 2
    most = depth * voxel_size / 2
    top, bottom = (height[0] - half).clip(-most, most), (height[1] + half).clip(-most, most)
    return Surfaces(top, np.maximum(top, bottom))  # where waves would cross there is no ice


def within(top: NDArray[np.float64], bottom: NDArray[np.float64], depth: int, voxel_size: float) -> NDArray[np.bool_]:
    """(D, ...): which voxels are wholly in the ice.

    Args:
        top: (...) Å along z from the volume's middle.
        bottom: likewise.
        depth: voxels.
        voxel_size: Å.
    """
    z = (_sections(depth, top.ndim) - (depth - 1) / 2) * voxel_size
    half = voxel_size / 2 * (1 - 1e-6)
    inside: NDArray[np.bool_] = (z - half >= top) & (z + half <= bottom)
    return inside


def vacuum(
    top: NDArray[np.float64], bottom: NDArray[np.float64], depth: int, voxel_size: float, resolution: float
) -> NDArray[np.float32]:
    """Vacuum above and below a slab of ice, along z; beyond the volume it goes on.

    Its surfaces are so smooth that only along z there is something that voxels cannot hold.

    Args:
        top: (...) Å along z from the volume's middle, where the ice begins.
        bottom: where it ends.
        depth: voxels.
        voxel_size: Å.
        resolution: Å, at least two voxels.

    Returns:
        (D, ...); 0 in the ice.
    """
    z = _sections(depth, top.ndim) - (depth - 1) / 2
    ice = np.zeros((depth, *top.shape), np.float32)
    places, shares = _step(blur_of(resolution) / voxel_size)
    for beyond in (-depth, 0, depth):
        ice += np.interp(z + beyond - top / voxel_size, places, shares)
        ice -= np.interp(z + beyond - bottom / voxel_size, places, shares)
    return (np.float32(VACUUM) * (1 - ice)).astype(np.float32)


@lru_cache(maxsize=8)
def _step(blur: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places in voxels beside a blurred step of 1, and its height there, without waves beyond Nyquist."""
    places = np.linspace(-_FAR, _FAR, round(2 * _FAR * _FINE) + 1)
    waves = (np.arange(1024) + 0.5) / 2048
    heights = np.exp(-2 * (np.pi * waves * blur) ** 2) / (np.pi * waves) / 2048
    shares: NDArray[np.float64] = 0.5 + np.sin(2 * np.pi * np.outer(places, waves)) @ heights
    return places, (shares - shares[0]) / (shares[-1] - shares[0])


def _sections(depth: int, ndim: int) -> NDArray[np.float64]:
    """(D, 1, ...): the numbers of sections, against surfaces of so many dimensions."""
    return np.arange(depth, dtype=np.float64).reshape(-1, *(1,) * ndim)
