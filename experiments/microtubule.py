"""How a microtubule came out of denoising: its wall, lumen and background, around its axis.

    python experiments/microtubule.py TOMOGRAM.mrc [DENOISED.mrc ...]

The tomogram holds one straight microtubule along y, bright. Its axis is where a wall of the known radius, 9 to 13.5 nm,
is brightest in the slightly smoothed tomogram; the denoised volumes are measured around the same axis, and how much of
the tomogram's structure was taken away is told of each.
"""

import sys

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import minimize

from cryoden import read_volume
from cryoden.inference.removed import structure_removed, tell_removed

WALL, LUMEN, BACKGROUND = (90.0, 135.0), (0.0, 60.0), (220.0, 320.0)  # Å from the axis
Array = NDArray[np.float64]


def around(shape: tuple[int, ...], line: Array, voxel_size: float) -> tuple[Array, Array]:
    """(D, H, W) distances from an axis in Å, and angles in degrees: 0 beside it, 90 above and below it."""
    z, y, x = np.indices(shape, dtype=float)
    at = y - shape[1] / 2
    across, up = x - line[0] - line[1] * at, z - line[2] - line[3] * at
    across /= np.hypot(1, line[1])  # the axis is not along y
    return np.hypot(across, up) * voxel_size, np.degrees(np.arctan2(abs(up), abs(across)))


def find_axis(data: Array, voxel_size: float) -> Array:
    """The axis: x at the middle, its slope against y, and the same of z: where a ring of samples is brightest."""
    smooth = gaussian_filter(data, 1)
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    y = np.arange(4.0, data.shape[1] - 4)

    def dark(line: Array) -> float:
        at = y - data.shape[1] / 2
        found = []
        for radius, weight in ((112.0, 1.0), (30.0, -0.5), (200.0, -0.5)):
            reach = radius / voxel_size
            z = line[2] + line[3] * at + reach * np.sin(turns)[:, None]
            x = line[0] + line[1] * at + reach * np.cos(turns)[:, None]
            found.append(
                weight * map_coordinates(smooth, [z, np.broadcast_to(y, z.shape), x], order=1, mode="nearest").mean()
            )
        return -float(sum(found))

    depth, _, width = data.shape
    starts = [
        np.array([x, slope, z, 0.0])
        for x in np.linspace(0.3, 0.7, 9) * width
        for slope in np.linspace(-0.5, 0.5, 11)
        for z in np.linspace(0.35, 0.65, 4) * depth
    ]
    best = min(starts, key=dark)
    axis: Array = minimize(dark, best, method="Nelder-Mead").x
    return axis


def main(tomogram: str, *denoised: str) -> None:
    """Print a line for each volume."""
    volume = read_volume(tomogram)
    axis = find_axis(volume.data.astype(float), volume.voxel_size)
    distance, angle = around(volume.data.shape, axis, volume.voxel_size)
    wall, lumen, background = ((distance >= a) & (distance < b) for a, b in (WALL, LUMEN, BACKGROUND))
    print(f"axis: x = {axis[0]:.1f} {axis[1]:+.3f} y, z = {axis[2]:.1f} {axis[3]:+.3f} y, y from the middle, in voxels")
    for name in (tomogram, *denoised):
        data = read_volume(name).data.astype(float)
        taken = "" if name == tomogram else f"; {tell_removed(structure_removed(volume.data, data))}"
        data -= data[background].mean()
        height = data[wall].mean()
        steep = data[wall & (angle > 60)].mean() / data[wall & (angle < 30)].mean()
        print(
            f"{name}: wall {height / data[background].std():.2f} deviations of the background; lumen "
            f"{data[lumen].mean() / height:+.2f} of the wall; top and bottom {steep:.2f} of the sides{taken}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
