"""Pictures of volumes, and what all figures share: grey slices, scale bars, styles safe for the colour-blind."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from cryoden.files import whole_file

PLANES = (("xy", "z"), ("xz", "y"), ("yz", "x"))
"""The plane of a slice, and the axis across which it lies; by the number of that axis."""

_BARS = (1, 2, 5, 10, 20, 50, 100, 200, 500)  # nm


@dataclass(frozen=True)
class Style:
    """How a curve or a bar is told from others.

    Args:
        color: of the line or the area.
        line: matplotlib's line style.
        marker: of the points.
        hatch: of the area.
    """

    color: str
    line: Any
    marker: str
    hatch: str


# Okabe and Ito 2008, told apart by the colour-blind; lines, markers and hatches tell them apart in grey.
STYLES = (
    Style("#0072B2", "-", "o", ""),
    Style("#D55E00", "--", "s", "//"),
    Style("#009E73", "-.", "^", "\\\\"),
    Style("#CC79A7", (0, (5, 1, 1, 1, 1, 1)), "D", "xx"),
    Style("#E69F00", (0, (8, 2)), "v", "||"),
    Style("#56B4E9", (0, (3, 1)), "P", "--"),
    Style("#7F5F00", (0, (1, 1)), "X", "++"),
)


def slice_figure(volumes: Mapping[str, NDArray[Any]], voxel_size: float, title: str = "") -> Figure:
    """Central slices of volumes side by side: a column per volume, a row per plane, one grey scale for all.

    Args:
        volumes: name → (D, H, W), density; protein is drawn bright. The last one sets the grey scale.
        voxel_size: Å.
        title: of the whole figure.

    Returns:
        The figure; the scale bar is in nm.
    """
    *_, reference = volumes.values()
    depth, height, width = reference.shape
    heights = [height / width, depth / width, height / width]
    figure = Figure(figsize=(2.5 * len(volumes) + 1, 2.5 * sum(heights) + 0.1), layout="constrained")
    axes = figure.subplots(3, len(volumes), squeeze=False, height_ratios=heights)
    low, high = grey_scale(reference)
    for column, (name, volume) in enumerate(volumes.items()):
        for row, (plane, across) in enumerate(PLANES):
            axis = axes[row, column]
            shown = show_slice(axis, central_slice(volume, row), low, high)
            if row == 0:
                axis.set_title(name, fontsize=11)
            if column == 0:
                axis.set_ylabel(f"{plane} slice,\nmiddle of {across}", fontsize=9)
    scale_bar(axes[0, 0], reference.shape[2], voxel_size)
    figure.colorbar(shown, ax=axes, shrink=0.5, label="density")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def grey_scale(reference: NDArray[Any]) -> tuple[float, float]:
    """The values that are black and white in a picture of a volume and others like it: room for noise below 0.

    Args:
        reference: (D, H, W), the best volume there is, of background 0.
    """
    top = float(np.quantile(reference, 0.9995)) or 1.0
    return -0.35 * top, top


def central_slice(volume: NDArray[Any], axis: int) -> NDArray[Any]:
    """The middle slice across an axis (0, 1, 2: z, y, x) of (D, H, W): x is across in xy and xz.

    yz is turned, so that z is across and y stays vertical.
    """
    image: NDArray[Any] = np.take(volume, volume.shape[axis] // 2, axis=axis)
    return image.T if axis == 2 else image


def show_slice(axis: Axes, image: NDArray[Any], low: float, high: float) -> AxesImage:
    """Draw a slice in grey, voxel by voxel, its first row at the bottom.

    Args:
        axis: where.
        image: (rows, columns).
        low: what is black.
        high: what is white.
    """
    axis.set_xticks([])
    axis.set_yticks([])
    return axis.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="nearest")


def bar_length(width: int, voxel_size: float) -> int:
    """The length of a scale bar, up to a third of a slice, in nm.

    Args:
        width: of the slice in voxels.
        voxel_size: Å.
    """
    return max((bar for bar in _BARS if bar < width * voxel_size / 30), default=_BARS[0])


def scale_bar(axis: Axes, width: int, voxel_size: float) -> None:
    """A bar of up to a third of a slice's width, its length in nm above it, on a ground that noise cannot drown.

    Args:
        axis: where the slice is drawn.
        width: of the slice in voxels.
        voxel_size: Å.
    """
    length = bar_length(width, voxel_size)
    start, end = 0.06 * width, 0.06 * width + 10 * length / voxel_size
    axis.plot([start, end], [0.06 * width] * 2, color="white", linewidth=3, solid_capstyle="butt")
    axis.text(
        (start + end) / 2,
        0.08 * width,
        f"{length} nm",
        color="white",
        ha="center",
        va="bottom",
        fontsize=9,
        bbox={"facecolor": "black", "alpha": 0.5, "linewidth": 0, "pad": 1},
    )


def plain_axis(axis: Axes) -> None:
    """Take away what a graph does not need."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)


def save_figure(figure: Figure, path: Path, *, overwrite: bool) -> None:
    """Write a figure, as PNG or SVG by its path's ending.

    Args:
        figure: what to write.
        path: the file.
        overwrite: replace an existing file.

    Raises:
        CryodenError: the file exists, or the disk refuses it.
    """
    with whole_file(path, overwrite=overwrite) as partial:
        partial.write_bytes(rendered(figure, path.suffix[1:]))


def rendered(figure: Figure, kind: str = "png") -> bytes:
    """A figure as the content of a PNG or SVG file, the same for the same numbers."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "cryoden"}):  # otherwise names within an SVG are random
        # tight: constrained layout may leave the outermost label beyond the edge
        figure.savefig(buffer, format=kind, dpi=130, bbox_inches="tight", metadata=metadata)
    return buffer.getvalue()
