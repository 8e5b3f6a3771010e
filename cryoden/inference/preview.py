"""A picture of what denoising did to a tomogram: before, after, and what was taken away."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryoden.pictures import PLANES, central_slice, save_figure, scale_bar, show_slice
from cryoden.volume import Volume, release


def write_preview(path: Path, before: Volume, after: Volume, title: str) -> None:
    """Writes central slices before and after, and their difference, as PNG.

    Before and difference share the width of their grey scale: structure that can be seen in the difference was removed.

    Args:
        path: The picture.
        before: The tomogram; of a mapped one only the three slices are read.
        after: The same, denoised.
        title: Above it all.
    """
    save_figure(_figure(before, after, title), path, overwrite=True)


def _figure(before: Volume, after: Volume, title: str) -> Figure:
    slices = [[_slice(volume, axis) for axis in range(3)] for volume in (before, after)]
    slices.append([a - b for a, b in zip(*slices, strict=True)])
    limits = [np.percentile(np.concatenate([image.ravel() for image in images]), (0.5, 99.5)) for images in slices[:2]]
    half = (limits[0][1] - limits[0][0]) / 2
    limits.append(np.array([-half, half]))
    depth, height, width = before.data.shape
    ratios = np.array([height, depth, height]) / np.array([width, width, depth])
    figure = Figure(figsize=(10, 0.8 + 3.1 * float(np.clip(ratios, 0.15, 1.5).sum())), layout="constrained")
    axes = figure.subplots(3, 3, height_ratios=np.clip(ratios, 0.15, 1.5))
    names = ("before", "after", "before - after")
    for column, (name, images, (low, high)) in enumerate(zip(names, slices, limits, strict=True)):
        for row, (plane, across) in enumerate(PLANES):
            shown = show_slice(axes[row, column], images[row], low, high)
            if column == 0:
                axes[row, column].set_ylabel(f"{plane}, middle of {across}", fontsize=9)
        axes[0, column].set_title(name, fontsize=11)
        figure.colorbar(shown, ax=axes[:, column], location="bottom", shrink=0.7, aspect=30)
    scale_bar(axes[0, 0], width, before.voxel_size)
    figure.suptitle(title, fontsize=11)
    return figure


def _slice(volume: Volume, axis: int) -> NDArray[np.float64]:
    image = central_slice(volume.data, axis).astype(np.float64)
    release(volume.data)
    return image
