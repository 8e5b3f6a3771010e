"""A picture of what denoising did to a tomogram: before, after, and what was taken away; slices and power spectra."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryoden.pictures import PLANES, save_figure, scale_bar, show_slice
from cryoden.volume import Volume, central, release

_THICK = 50.0  # Å of sections that are averaged: about a protein, so that noise goes down and the protein stays
_SHOWN = (0.5, 99.5)  # percentiles that are black and white
_FLATTEST = 0.12  # height of a row by its width
_DECADES = 4.0  # of power, from the strongest wave to black


def write_preview(path: Path, before: Volume, after: Volume, title: str) -> None:
    """Writes central sections before and after, their difference, and the power spectra of the three, as PNG.

    All slices have grey scales of one width: structure that can be seen in the difference was removed. The spectra are
    of the plane of beam and tilt direction, where a missing wedge is dark: what a network drew into it shows.

    Args:
        path: The picture.
        before: The tomogram; of a mapped one only what is shown is read.
        after: The same, denoised.
        title: Above it all: by what, of which voxel size and contrast; how thick the slices are is added.
    """
    save_figure(_figure(before, after, title), path, overwrite=True)


def _figure(before: Volume, after: Volume, title: str) -> Figure:
    count = max(1, round(_THICK / before.voxel_size))
    slices = [[_mean_section(volume, axis, count) for axis in range(3)] for volume in (before, after)]
    slices.append([a - b for a, b in zip(*slices, strict=True)])
    low, high = np.percentile(np.concatenate([image.ravel() for image in slices[0]]), _SHOWN)
    half = (high - low) / 2
    cubes = [central(volume.data).astype(np.float32) for volume in (before, after)]
    for volume in (before, after):
        release(volume.data)
    spectra = [_log_power(cube) for cube in (*cubes, cubes[0] - cubes[1])]
    ratios = [max(_FLATTEST, image.shape[0] / image.shape[1]) for image in slices[0]]
    figure = Figure(figsize=(10, 1.6 + 3.1 * (sum(ratios) + 1)), layout="constrained")
    axes = figure.subplots(4, 3, height_ratios=[*ratios, 1])
    columns = zip(("before", "after", "before − after"), slices, spectra, strict=True)
    for column, (name, images, spectrum) in enumerate(columns):
        black, white = (low, high) if column < 2 else (-half, half)
        for row, image in enumerate(images):
            show_slice(axes[row, column], image, black, white)
        axes[0, column].set_title(f"{name}\ngrey {black:.3g} to {white:.3g}", fontsize=11)
        _show_spectrum(axes[3, column], spectrum, spectra[0].max())
    for axis, (plane, _) in zip(axes[:3, 0], PLANES, strict=True):
        axis.set_ylabel(plane, fontsize=11)
    axes[3, 0].set_ylabel("power, x and z", fontsize=11)
    scale_bar(axes[0, 0], before.data.shape[2], before.voxel_size)
    nm = count * before.voxel_size / 10
    shown = f"slices through the middle, the mean of {count} section{'s' * (count > 1)}, {nm:.2g} nm; beam (z) up"
    figure.suptitle(f"{title}\n{shown}", fontsize=11)
    return figure


def _mean_section(volume: Volume, axis: int, count: int) -> NDArray[np.float64]:
    """The mean of some sections about the middle of an axis (0, 1, 2: z, y, x); the beam is up in xz and yz."""
    size = volume.data.shape[axis]
    first = max(0, (size - count) // 2)
    image: NDArray[np.float64] = volume.data.take(range(first, min(size, first + count)), axis).mean(axis, np.float64)
    release(volume.data)
    return image


def _log_power(cube: NDArray[np.float32]) -> NDArray[np.float64]:
    """log10 of the power of (D, H, W) in the plane of z and x, the mean over y; its middle is the slowest wave."""
    depth, _, width = cube.shape
    window = np.hanning(depth + 2)[1:-1, None, None] * np.hanning(width + 2)[1:-1]  # else edges make a cross
    waves = np.fft.fft2((cube - cube.mean()) * window, axes=(0, 2))
    power = np.square(np.abs(waves)).mean(1)
    return np.log10(np.fft.fftshift(power) + np.finfo(np.float64).tiny)


def _show_spectrum(axis: Axes, spectrum: NDArray[np.float64], top: float) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    nyquist = (-0.5, 0.5, -0.5, 0.5)
    axis.imshow(spectrum, cmap="gray", vmin=top - _DECADES, vmax=top, origin="lower", extent=nyquist)
