"""Pictures that a person can judge a volume by."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

_PLANES = (("xy", "z"), ("xz", "y"), ("yz", "x"))


def slice_figure(volumes: Mapping[str, np.ndarray], voxel_size: float, title: str = "") -> Figure:
    """Central slices of volumes side by side: a column per volume, a row per plane, one grey scale for all.

    Args:
        volumes: name → (D, H, W), density; protein is drawn bright.
        voxel_size: angstrom.
        title: of the whole figure.

    Returns:
        The figure; the scale bar is in nm.
    """
    figure = Figure(figsize=(2.5 * len(volumes) + 1, 7.6), layout="constrained")
    axes = figure.subplots(3, len(volumes), squeeze=False)
    # The last column is the best there is, by convention: its contrast sets the grey scale, with room for noise below.
    reference = list(volumes.values())[-1]
    top = float(np.quantile(reference, 0.9995)) or 1.0
    for column, (name, volume) in enumerate(volumes.items()):
        for row, (plane, across) in enumerate(_PLANES):
            axis = axes[row, column]
            image = np.take(volume, volume.shape[row] // 2, axis=row)
            # xy and xz have x across; yz is turned so that z is across and y stays vertical
            if plane == "yz":
                image = image.T
            shown = axis.imshow(image, cmap="gray", vmin=-0.35 * top, vmax=top, origin="lower", interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(name, fontsize=11)
            if column == 0:
                axis.set_ylabel(f"{plane} slice, middle of {across}", fontsize=9)
    _scale_bar(axes[0, 0], next(iter(volumes.values())).shape[2], voxel_size)
    figure.colorbar(shown, ax=axes, shrink=0.5, label="density")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG under a temporary name, then move it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    figure.savefig(temporary, format="png", dpi=130)
    temporary.replace(path)


def _scale_bar(axis, width: int, voxel_size: float) -> None:  # type: ignore[no-untyped-def]  # matplotlib's Axes
    extent_nm = width * voxel_size / 10
    length_nm = max((step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500) if step < extent_nm / 3), default=1)
    voxels = length_nm * 10 / voxel_size
    start = 0.06 * width
    axis.plot([start, start + voxels], [0.07 * width] * 2, color="white", linewidth=3, solid_capstyle="butt")
    axis.text(start + voxels / 2, 0.1 * width, f"{length_nm} nm", color="white", ha="center", va="bottom", fontsize=9)
