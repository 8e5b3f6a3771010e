"""Two halves of a tomogram: whether they belong together, and their average."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoden.errors import CryodenError
from cryoden.inference.jobs import Job
from cryoden.metrics.halves import Halves
from cryoden.volume import Volume, release


def named_apart(jobs: Sequence[Job]) -> list[Job]:
    """Tomograms in halves of which no two have one name: those that had are called by their path, too.

    That begins below the folder that all of them lie in, as in the quality.csv of `cryoden denoise`.
    """
    count = Counter(job.name for job in jobs)
    # halves may lie in even/ and odd/: the tomogram is where both are
    homes = [os.path.commonpath([path.absolute().parent for path in job.inputs]) for job in jobs]
    above = os.path.commonpath(homes) if homes else ""
    return [
        job if count[job.name] == 1 else replace(job, name=Path(os.path.relpath(home, above), job.name).as_posix())
        for job, home in zip(jobs, homes, strict=True)
    ]


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


def check_contrasts(found: Sequence[str | None], names: Sequence[Path], remedy: str) -> None:
    """Refuses halves in one of which protein seems bright and in the other dark.

    Args:
        found: Of each half, "bright", "dark", or None where it does not tell.
        names: Of both.
        remedy: What to do about it, beside looking at them.

    Raises:
        CryodenError: They differ.
    """
    if {*found} == {"bright", "dark"}:
        raise CryodenError(f"{names[0]} seems {found[0]} and {names[1]} {found[1]}: look at them{remedy}")


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
