"""Whether protein is bright or dark in a tomogram, told from its voxels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cryoden.volume import Statistics, sections

Contrast = Literal["bright", "dark"]

_BIN = 2  # voxels along each axis: averages out the noise of single voxels, and no protein
_SURE = 5.0  # standard errors
_LEAST = 0.03  # however many voxels there are: uneven ice is skewed a little, too


def skewness(data: NDArray[Any], statistics: Statistics) -> float:
    """The skewness of a volume binned by 2: above 0 where the few extreme voxels are bright.

    Args:
        data: (D, H, W), any unit; read once, two sections at a time.
        statistics: Of these voxels.

    Returns:
        Dimensionless; 0 where an axis is shorter than two voxels.
    """
    sums, count = np.zeros(3), 0
    for block in _binned(data):
        values = (block - statistics.mean) / statistics.std
        sums += [values.sum(), np.square(values).sum(), (values**3).sum()]
        count += values.size
    if count == 0:
        return 0.0
    first, second, third = sums / count
    variance = second - first**2
    return float((third - 3 * first * second + 2 * first**3) / variance**1.5) if variance > 0 else 0.0


def detect_contrast(data: NDArray[Any], statistics: Statistics) -> tuple[Contrast | None, float]:
    """Tells bright protein from dark: proteins are few, and stand out from ice and noise on one side.

    Args:
        data: (D, H, W), any unit.
        statistics: Of these voxels.

    Returns:
        The contrast, or None where the skewness is no larger than chance makes it; and the skewness.
    """
    found = skewness(data, statistics)
    bins = math.prod(size // _BIN for size in data.shape)
    if bins == 0 or abs(found) < max(_LEAST, _SURE * math.sqrt(6 / bins)):
        return None, found
    return ("bright" if found > 0 else "dark"), found


def _binned(data: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """The sections of the binned volume."""
    height, width = (size // _BIN * _BIN for size in data.shape[1:])
    if 0 in (height, width):
        return
    pair: list[NDArray[np.float64]] = []
    for section in sections(data):
        rows = section[:height, :width].astype(np.float64).reshape(height // _BIN, _BIN, width // _BIN, _BIN)
        pair.append(rows.mean(axis=(1, 3)))
        if len(pair) == _BIN:
            yield np.mean(pair, axis=0)
            pair = []
