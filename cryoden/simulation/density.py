"""Particle and orientation in, clean volume out."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryoden.errors import CryodenError
from cryoden.particles import Particle
from cryoden.simulation.points import points_of
from cryoden.simulation.sampling import sample_points
from cryoden.simulation.thesis import thesis_density
from cryoden.simulation.units import Sampling
from cryoden.volume import check_length


def clean_volume(
    particle: Particle,
    rotation: ArrayLike,
    box: int,
    voxel_size: float,
    resolution: float,
    sampling: Sampling = "band-limited",
) -> NDArray[np.float32]:
    """The density of a particle, rotated about its centre, which lies on voxel `box // 2` of each axis.

    Args:
        particle: what to put into the box.
        rotation: (3, 3), acts on xyz column vectors: x' = R x.
        box: voxels along each side.
        voxel_size: Å.
        resolution: Å; a value finer than two voxels is taken as two voxels.
        sampling: "band-limited", see `scattering_density`; or "thesis", see thesis.py: aliased, with the maximum 1.

    Returns:
        (box, box, box), axes z, y, x.

    Raises:
        CryodenError: the particle does not fit into the box, a number is not above 0, or a map is to be sampled as in
            the thesis.
    """
    check_fits(particle, box, voxel_size, resolution)
    if sampling == "thesis":
        volume = thesis_density(particle, rotation, box, voxel_size, resolution)
        scaled: NDArray[np.float32] = volume / volume.max()
        return scaled
    return scattering_density(particle, rotation, box, voxel_size, resolution)


def scattering_density(
    particle: Particle, rotation: ArrayLike, box: int, voxel_size: float, resolution: float
) -> NDArray[np.float32]:
    """The electron-scattering density of a particle above ice, which is 0; protein in bulk is 1, see units.py.

    Of atoms it is the scattering (Peng et al. 1996, from gemmi), with hydrogens, less the ice that the molecule's
    envelope displaces. A resolution d has its usual meaning (molmap's): all is blurred by a Gaussian with a standard
    deviation of 0.225 d, which leaves 1/e of a wave of period d. What is left beyond the voxels' Nyquist frequency is
    cut. The particle turns, not the volume, so it is the same in any orientation.

    The unit of a density map is unknown; it is scaled to the mass that is given with it, or else so that it is as dense
    as protein in bulk.

    Args:
        particle: what to put into the box, which it must fit; see `check_fits`.
        rotation: (3, 3), acts on xyz column vectors: x' = R x.
        box: voxels along each side.
        voxel_size: Å.
        resolution: Å; a value finer than two voxels is taken as two voxels.

    Returns:
        (box, box, box), axes z, y, x.
    """
    points = points_of(particle, voxel_size, max(resolution, 2 * voxel_size))
    return sample_points(points, rotation, box, voxel_size)


def check_fits(particle: Particle, box: int, voxel_size: float, resolution: float) -> None:
    """Check that a particle, with the blur around it, lies within the box in every orientation.

    Args:
        particle: what to put into the box.
        box: voxels along each side.
        voxel_size: Å.
        resolution: Å.

    Raises:
        CryodenError: it does not, or a number is not above 0.
    """
    if box < 1:
        raise CryodenError(f"box: got {box}; allowed is a whole number from 1 up")
    check_length("voxel_size", voxel_size)
    check_length("resolution", resolution)
    needed = smallest_box(particle, voxel_size, resolution)
    if needed > box:
        raise CryodenError(
            f"{particle.name}: its diameter of {particle.diameter:.0f} Å and {_reach(voxel_size, resolution):.0f} Å of "
            f"blur do not fit into a box of {box} voxels of {voxel_size:g} Å ({box * voxel_size:.0f} Å); "
            f"the smallest box that fits is {16 * math.ceil(needed / 16)} voxels"
        )


def smallest_box(particle: Particle, voxel_size: float, resolution: float) -> int:
    """The voxels along each side of the smallest box that holds a particle, and its blur, in every orientation.

    Args:
        particle: what to put into the box.
        voxel_size: Å.
        resolution: Å.
    """
    # An even box reaches half a voxel less far above its centre than below.
    return math.ceil((particle.diameter + _reach(voxel_size, resolution)) / voxel_size + 1)


def _reach(voxel_size: float, resolution: float) -> float:
    """Å by which the blur makes a particle wider: three standard deviations on each side."""
    return 1.35 * max(resolution, 2 * voxel_size)
