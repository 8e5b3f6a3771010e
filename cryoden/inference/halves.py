"""Two halves of a tomogram: whether they belong together, and their average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoden.errors import CryodenError
from cryoden.metrics.halves import Halves
from cryoden.volume import Volume, release


def check_halves(first: Volume, second: Volume, names: tuple[Path, ...]) -> None:
    """Refuses two volumes that cannot be the halves of one tomogram.

    Raises:
        CryodenError: Shape or voxel size differ.
    """
    for what, a, b in (
        ("shape (z, y, x)", first.data.shape, second.data.shape),
        ("voxel size in Å", round(first.voxel_size, 3), round(second.voxel_size, 3)),
    ):
        if a != b:
            raise CryodenError(f"{names[0]} and {names[1]} are no two halves: their {what} is {a} and {b}")


def see_halves(first: Volume, second: Volume, names: tuple[Path, ...]) -> Halves:
    """Looks at what two halves show.

    Raises:
        CryodenError: They hold the same: their agreement would prove nothing.
    """
    try:
        return Halves.of(first.data, second.data, first.voxel_size)
    except CryodenError as error:
        raise CryodenError(f"{names[0]} and {names[1]}: {error}") from error


def average(first: NDArray[Any], second: NDArray[Any], result: NDArray[np.float64]) -> None:
    """Writes the mean of two volumes (D, H, W) into a third, a section at a time."""
    for z in range(len(result)):
        result[z] = (first[z].astype(np.float64) + second[z]) / 2
        for data in (first, second, result):
            release(data)
