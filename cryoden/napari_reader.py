"""Tomograms in napari: mapped, so that those larger than memory open at once, and in their place in ångström."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoden.errors import CryodenError
from cryoden.inference.origin import Origin
from cryoden.volume import Mrc, central, format_of, look_at, open_volume, release

MADE_BY = "cryoden"
"""The key in a layer's metadata under which stands what denoised it."""

LayerData = tuple[NDArray[Any], dict[str, Any], str]

_SHOWN = (0.5, 99.9)  # percentiles that are black and white: gold and hot voxels do not make the rest grey


def reader(path: str | list[str]) -> Callable[[str | list[str]], list[LayerData]] | None:
    """What reads a file, or several; napari asks by the names in `napari.yaml`.

    What is wrong with an MRC file is told when it is read. Of TIFF and OME-Zarr what is no volume is left to others, of
    which napari has some.
    """
    for each in [path] if isinstance(path, str) else path:
        try:
            if format_of(each) is not Mrc:
                look_at(each)
        except CryodenError:
            return None
    return _read


def _read(path: str | list[str]) -> list[LayerData]:
    """A layer for each file.

    Raises:
        CryodenError: As `open_volume`.
    """
    return [_layer(each) for each in ([path] if isinstance(path, str) else path)]


def _layer(path: str) -> LayerData:
    volume = open_volume(path)
    low, high = np.nanpercentile(central(volume.data).astype(np.float32), _SHOWN)
    release(volume.data)
    told: dict[str, Any] = {"metadata": {MADE_BY: volume.labels[-1]} if Origin.told_by(volume.labels) else {}}
    if low < high:
        told["contrast_limits"] = (float(low), float(high))
    if volume.voxel_size > 0:
        told |= {"scale": (volume.voxel_size,) * 3, "units": ("angstrom",) * 3, "translate": volume.origin[::-1]}
    return volume.data, told, "image"
