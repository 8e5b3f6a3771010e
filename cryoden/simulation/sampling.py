"""From a density of any fineness to voxels that hold nothing beyond their Nyquist frequency.

What is blurred is smooth: sampled one and a half times as finely as the voxels it is known exactly. Three matrices, one
for each axis, then take from these samples the waves that voxels can carry, and their values at the voxels' centres. It
is the same as a cut in Fourier space, without a transform.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

_RIPPLES = 10  # voxels beside an object to which what the cut at Nyquist leaves there is followed
_ENDLESS = 4  # boxes, after which what is endless repeats itself


class Points(NamedTuple):
    """A density as points in space.

    Attributes:
        positions: (3, n) x, y, z in Å from the centre.
        weights: (n,), density times Å³.
        finest: 1/Å; no wave that the points carry is shorter than one over this.
        radius: Å; the largest distance from the centre.
    """

    positions: NDArray[np.float32]
    weights: NDArray[np.float32]
    finest: float
    radius: float


def fine_step(voxel_size: float, finest: float = np.inf) -> float:
    """Å from one fine sample to the next.

    Args:
        voxel_size: Å.
        finest: 1/Å, the highest frequency of what is sampled, where that is lower than the voxels can carry.
    """
    return 1 / (3 * min(0.5 / voxel_size, finest))


def sample_points(
    points: Points,
    rotation: ArrayLike,
    box: int,
    voxel_size: float,
    *,
    offset: ArrayLike = (0.0, 0.0, 0.0),
    endless: bool = False,
) -> NDArray[np.float32]:
    """Turn points about their centre, put that on voxel `box // 2`, and sample what they stand for.

    Args:
        points: the density.
        rotation: (3, 3), acts on xyz column vectors: x' = R x.
        box: voxels along each side.
        voxel_size: Å.
        offset: (3,) z, y, x in voxels, of the centre from that voxel's.
        endless: see `cut`.

    Returns:
        (box, box, box), axes z, y, x.
    """
    step = fine_step(voxel_size, points.finest)
    moved = np.asarray(offset, np.float32) * np.float32(voxel_size)
    size = 2 * (int((points.radius + float(np.abs(moved).max())) / step) + 3)
    turned: NDArray[np.float32] = (np.asarray(rotation, np.float32) @ points.positions)[::-1] + moved[:, None]
    fine = _spread(turned / np.float32(step) + np.float32(size // 2), points.weights, (size,) * 3)
    return cut(fine, step, box, voxel_size, endless=endless, spread=True)


def where_they_meet(
    corner: Iterable[int], edge: int, shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of a volume that a cube covers, and the part of the cube that lies in the volume; both may be empty.

    Args:
        corner: z, y, x of the cube's first voxel, which may lie outside.
        edge: voxels along each side of the cube.
        shape: (D, H, W) of the volume.
    """
    corner = [int(c) for c in corner]
    into = tuple(slice(max(c, 0), max(c + edge, 0)) for c in corner)
    return into, tuple(slice(max(-c, 0), max(size - c, 0)) for c, size in zip(corner, shape, strict=True))


def add_points(
    volume: NDArray[np.float32], points: Points, rotation: ArrayLike, position: NDArray[np.float64], voxel_size: float
) -> None:
    """Add what points stand for to a volume, whose borders cut it.

    Args:
        volume: (D, H, W).
        points: the density.
        rotation: (3, 3), acts on xyz column vectors: x' = R x.
        position: (3,) z, y, x in voxels, of the points' centre.
        voxel_size: Å.
    """
    half = int(points.radius / voxel_size) + 1 + _RIPPLES
    nearest = np.rint(position).astype(int)
    corner = nearest - half
    into, part = where_they_meet(corner, 2 * half, volume.shape)
    if volume[into].size:
        offset = position - nearest
        volume[into] += sample_points(points, rotation, 2 * half, voxel_size, offset=offset, endless=True)[part]


def sample_everywhere(
    positions: NDArray[np.float32], weights: NDArray[np.float32], shape: tuple[int, ...], voxel_size: float, blur: float
) -> NDArray[np.float32]:
    """Sample a whole volume full of points, each of which stands for a Gaussian; what leaves it comes in opposite.

    Args:
        positions: (n, 3) z, y, x in Å from the first voxel.
        weights: (n,), density times Å³.
        shape: (D, H, W) in voxels.
        voxel_size: Å.
        blur: Å, standard deviation.

    Returns:
        (D, H, W), without the waves that voxels cannot carry.
    """
    sizes = [fft.next_fast_len(-(-3 * n // 2), real=True) for n in shape]
    per_angstrom = (np.array(sizes) / np.array(shape) / voxel_size).astype(np.float32)
    places: NDArray[np.float32] = positions.T * per_angstrom[:, None]
    spectrum = fft.rfftn(_spread(places, weights, sizes))
    counts = [np.concatenate([np.arange((n + 1) // 2), np.arange(-((n - 1) // 2), 0)]) for n in shape]
    counts[-1] = np.arange((shape[-1] + 1) // 2)
    kept = np.zeros((*shape[:2], shape[-1] // 2 + 1), np.complex64)
    factors = [
        np.exp(-2 * (np.pi * blur * count / (n * voxel_size)) ** 2) / np.sinc(count / size) ** 4
        for count, n, size in zip(counts, shape, sizes, strict=True)
    ]
    z, y, x = np.ix_(*(factor.astype(np.float32) for factor in factors))
    kept[np.ix_(*counts)] = spectrum[np.ix_(*counts)] * z * y * x / np.float32(voxel_size**3)
    volume: NDArray[np.float32] = fft.irfftn(kept, shape)
    return volume


def _spread(places: NDArray[np.float32], weights: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """Points on samples, each shared out by a cubic B-spline; a grid goes on at its other side.

    Args:
        places: (3, n) z, y, x in samples.
        weights: (n,).
        shape: of the samples.
    """
    cells = np.floor(places)
    shares = _spline(places - cells)
    around = (cells.astype(np.intp)[:, None] + np.arange(-1, 3)[:, None]) % np.array(shape)[:, None, None]
    fine = np.zeros(np.prod(shape), np.float32)
    for z, along_z in zip(around[0], shares[:, 0] * weights, strict=True):
        for y, along_y in zip(around[1], shares[:, 1], strict=True):
            start, weight = (z * shape[1] + y) * shape[2], along_z * along_y
            for x, along_x in zip(around[2], shares[:, 2], strict=True):
                np.add.at(fine, start + x, weight * along_x)
    return fine.reshape(shape)


def cut(
    fine: NDArray[np.float32],
    step: float,
    box: int,
    voxel_size: float,
    *,
    endless: bool = False,
    spread: bool = False,
) -> NDArray[np.float32]:
    """Take fine samples to voxels, without the waves that these cannot carry.

    Args:
        fine: (n, n, n), whose centre is sample n // 2 of each axis.
        step: Å from one sample to the next, see `fine_step`.
        box: voxels along each side; the centre lies on voxel `box // 2`.
        voxel_size: Å.
        endless: what a sharp cut leaves beside an object runs on along the axes. Else it comes in again on the other
            side of the box, as it does where the cut is made by a discrete transform of the box.
        spread: the samples are points that a spline spread, not densities.

    Returns:
        (box, box, box), axes z, y, x.
    """
    size = len(fine)
    matrix = _matrix(box, size, step, voxel_size, _ENDLESS * box if endless else box, spread)
    across: NDArray[np.float32] = matrix @ (fine @ matrix.T)
    return (matrix @ across.reshape(size, -1)).reshape(box, box, box)


@lru_cache(maxsize=256)
def _matrix(box: int, size: int, step: float, voxel_size: float, period: int, spread: bool) -> NDArray[np.float32]:
    """(box, size): how much each fine sample counts in each voxel along an axis.

    A sum over the waves that fit into the period, up to Nyquist, of which one half counts at either end, or to the
    finest that the samples have. What a spline took from each wave it is given back.
    """
    waves = np.arange(period // 2 + 1) / (period * voxel_size)
    height = np.where(waves == 0, 1.0, 2.0)
    if period % 2 == 0:
        height[-1] = 1.0
    seen = waves * step < 0.334  # see fine_step
    waves, height = waves[seen], height[seen]
    height *= 1 / np.sinc(waves * step) ** 4 if spread else step
    voxels = np.exp(2j * np.pi * np.outer((np.arange(box) - box // 2) * voxel_size, waves))
    samples = np.exp(-2j * np.pi * np.outer(waves, (np.arange(size) - size // 2) * step))
    matrix: NDArray[np.float64] = ((voxels * height) @ samples).real / (period * voxel_size)
    return matrix.astype(np.float32)


def _spline(t: NDArray[np.float32]) -> NDArray[np.float32]:
    """(4, ...): the shares that a cubic B-spline gives 4 samples in a point that lies t, 0 to 1, beyond the second."""
    s = 1 - t
    shares: NDArray[np.float32] = np.stack([s**3, 3 * t**2 * (t - 2) + 4, 3 * s**2 * (s - 2) + 4, t**3])
    return shares / np.float32(6)
