"""What a scene holds that is no particle: vesicles, beads of gold, and crystals.

All are known as formulas, blurred like particles; they are sampled finely and then cut at Nyquist.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from cryoden.simulation.sampling import Points, cut, fine_step, sample_points, where_they_meet
from cryoden.simulation.units import GOLD

# Densities of a bilayer: tails, and on top of them heads, half of whose layer is water. Their integral across the
# membrane is 23.9 Å; from composition and volume it is 23.3 for POPC, 22.1 for DPPC, 29.2 with 40 % cholesterol.
HEADS, TAILS = 0.45, 0.35
BILAYER = 40.0  # Å from the middle of one layer of head groups to that of the other (phosphatidylcholine: 37 to 40)
HEAD_WIDTH = 5.0  # Å, standard deviation
TAIL = 18.0  # Å, from the middle to where tails end

Offset = tuple[float, float, float]
CENTRED: Offset = (0.0, 0.0, 0.0)

_Floats = NDArray[np.floating[Any]]


def blur_of(resolution: float) -> float:
    """Å, the standard deviation of the Gaussian that leaves 1/e of a wave of this period."""
    return 0.225 * resolution


class Embedded(NamedTuple):
    """A particle that stands in a membrane.

    Attributes:
        points: what it is.
        position: (3,) x, y, z in Å from the middle of the vesicle, as that lies before it is turned.
        rotation: (3, 3), acts on xyz column vectors, before the vesicle is turned.
    """

    points: Points
    position: NDArray[np.float64]
    rotation: NDArray[np.float64]


def vesicle(
    axes: NDArray[np.float64],
    rotation: NDArray[np.float64],
    box: int,
    voxel_size: float,
    resolution: float,
    offset: Offset = CENTRED,
    *,
    density: float = 1.0,
    proteins: Sequence[Embedded] = (),
) -> NDArray[np.float32]:
    """An ellipsoidal lipid bilayer.

    Args:
        axes: (3,) half axes in Å, between the middles of the membrane.
        rotation: (3, 3), acts on xyz column vectors: x' = R x.
        box: voxels along each side.
        voxel_size: Å.
        resolution: Å, at least two voxels.
        offset: (3,) z, y, x in voxels, of the centre from that of voxel `box // 2`.
        density: of the lipids, as a multiple of phosphatidylcholine's.
        proteins: which stand in it, instead of lipids.

    Returns:
        (box, box, box), axes z, y, x.
    """
    blur = blur_of(resolution)
    width = np.hypot(HEAD_WIDTH, blur)
    reach = max([float(np.linalg.norm(p.position)) + p.points.radius for p in proteins], default=0.0)
    grid = _grid(max(reach, axes.max() + vesicle_rim(resolution)), voxel_size, offset)
    halves = axes.astype(np.float32)[:, None, None, None]
    scaled = np.tensordot(rotation.T.astype(np.float32), grid, 1) / halves
    radius = np.linalg.norm(scaled, axis=0)
    slope = np.maximum(np.linalg.norm(scaled / halves, axis=0), 1e-9)
    # To first order the distance from the surface, negative inside.
    distance = np.where(radius > 0, radius * (radius - 1) / slope, -axes.min())
    heads = np.exp(-0.5 * ((np.abs(distance) - BILAYER / 2) / width) ** 2) * HEAD_WIDTH / width
    tails = _half_space(TAIL - distance, width) - _half_space(-TAIL - distance, width)
    lipids: NDArray[np.float32] = density * (HEADS * heads + TAILS * tails)
    if not proteins:
        return _cut(lipids, box, voxel_size)
    embedded = np.zeros(lipids.shape, np.float32)
    step, middle = fine_step(voxel_size), len(embedded) // 2
    for points, position, turned in proteins:
        place = (rotation @ position)[::-1] / step + np.array(offset) * voxel_size / step
        nearest = np.rint(place).astype(int)
        half = int(points.radius / step) + 2
        corner = nearest + middle - half
        into, part = where_they_meet(corner, 2 * half, embedded.shape)
        embedded[into] += sample_points(points, rotation @ turned, 2 * half, step, offset=place - nearest)[part]
    # Where a protein is no lipids are; of the product the fine samples hold all that voxels can.
    return _cut(lipids * (1 - np.clip(embedded, 0, 1)) + embedded, box, voxel_size)


def vesicle_rim(resolution: float) -> float:
    """Å from the middle of a membrane to where nothing of it is left."""
    return BILAYER / 2 + 4 * float(np.hypot(HEAD_WIDTH, blur_of(resolution)))


def fiducial(
    diameter: float, box: int, voxel_size: float, resolution: float, offset: Offset = CENTRED
) -> NDArray[np.float32]:
    """A ball of gold.

    Args:
        diameter: Å.
        box: voxels along each side.
        voxel_size: Å.
        resolution: Å, at least two voxels.
        offset: (3,) z, y, x in voxels, of the centre from that of voxel `box // 2`.

    Returns:
        (box, box, box), axes z, y, x.
    """
    half, blur = diameter / 2, blur_of(resolution)
    r = np.maximum(np.linalg.norm(_grid(half + surface_rim(resolution), voxel_size, offset), axis=0), 1e-3)
    rim = np.exp(-0.5 * ((r - half) / blur) ** 2) - np.exp(-0.5 * ((r + half) / blur) ** 2)
    ball = _half_space(half - r, blur) - _half_space(-half - r, blur) - blur / (2 * np.pi) ** 0.5 * rim / r
    return _cut(GOLD * ball, box, voxel_size)


def surface_rim(resolution: float) -> float:
    """Å from the surface of a bead or a crystal to where nothing of it is left."""
    return 4 * blur_of(resolution)


def crystal(
    diameter: float,
    rotation: NDArray[np.float64],
    box: int,
    voxel_size: float,
    resolution: float,
    offset: Offset = CENTRED,
) -> NDArray[np.float32]:
    """A six-sided prism of density 1, half as high as wide, as crystals of ice are.

    Args:
        diameter: Å, between opposite corners.
        rotation: (3, 3), acts on xyz column vectors: x' = R x.
        box: voxels along each side.
        voxel_size: Å.
        resolution: Å, at least two voxels.
        offset: (3,) z, y, x in voxels, of the centre from that of voxel `box // 2`.

    Returns:
        (box, box, box), axes z, y, x.
    """
    blur = blur_of(resolution)
    grid = _grid(diameter / 2 + surface_rim(resolution), voxel_size, offset)
    x, y, z = np.tensordot(rotation.T.astype(np.float32), grid, 1)
    corners = np.arange(6) * np.pi / 3
    across = np.max([np.cos(a) * x + np.sin(a) * y for a in corners], axis=0)
    sides = _half_space(diameter * 3**0.5 / 4 - across, blur)
    return _cut(sides * _half_space(diameter / 4 - np.abs(z), blur), box, voxel_size)


def _half_space(inside: _Floats, blur: float) -> _Floats:
    """The share of a blurred half space, at so many Å inside."""
    share: _Floats = (1 + erf(inside / (blur * 2**0.5))) / 2
    return share


def _grid(radius: float, voxel_size: float, offset: Offset) -> NDArray[np.float32]:
    """(3, n, n, n), x, y, z in Å from the centre, of fine samples that reach as far."""
    step = fine_step(voxel_size)
    half = int((radius + max(map(abs, offset)) * voxel_size) / step) + 1
    grid = (np.indices((2 * half + 1,) * 3, np.float32) - half) * np.float32(step)
    grid -= np.array(offset, np.float32)[:, None, None, None] * np.float32(voxel_size)
    return grid[::-1]


def _cut(fine: _Floats, box: int, voxel_size: float) -> NDArray[np.float32]:
    return cut(fine.astype(np.float32), fine_step(voxel_size), box, voxel_size, endless=True)
