"""A volume and its place in space, and what is done with its voxels: mapped, a section at a time, whatever their file.

A format is a `VolumeFile`. What cannot be mapped as it lies on the disk, because it is compressed or in pieces, is
unpacked into a nameless file that is mapped in its place, so that all else knows arrays alone.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cryoden.errors import CryodenError
from cryoden.files import tell_size

_UNITS = {  # Å
    **dict.fromkeys(("angstrom", "ångström", "å", "\u212b"), 1.0),  # the last is the sign of the unit
    **dict.fromkeys(("nanometer", "nm"), 10.0),
    **dict.fromkeys(("micrometer", "micron", "µm", "\u03bcm", "\\u00b5m", "um"), 1e4),
    **dict.fromkeys(("millimeter", "mm"), 1e7),
    **dict.fromkeys(("meter", "m"), 1e10),
}
_ANISOTROPY = 0.01  # rounding of the cell in a header stays far below; wrong axes are far above

SHORTEST, LONGEST = 0.01, 1e4
"""Å; no voxel of electron microscopy is smaller or larger."""


def is_length(value: float) -> bool:
    """Whether a number may be a voxel's size in Å, or what is told of by it: NaN and infinity may not."""
    return SHORTEST <= value <= LONGEST


def check_length(name: str, value: float) -> None:
    """Refuse what is no length in Å.

    Args:
        name: What errors call it.
        value: What was given.

    Raises:
        CryodenError: It is below 0.01 or above 10,000.
    """
    if not is_length(value):
        raise CryodenError(f"{name}: got {value:g}; allowed is a length from {SHORTEST:g} to {LONGEST:g} Å")


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume and where it lies.

    Attributes:
        data: (D, H, W), axes z, y, x, in whichever order the file has them: float32 from `read_volume`, mapped and in
            the file's own type from `open_volume`.
        voxel_size: Å per voxel, the same on all axes; 0 where the file does not say.
        origin: Position of the first voxel, x, y, z in Å.
        nstart: Grid index of the first voxel along columns, rows, sections.
        header: The MRC header the volume was read with, if it was: what else it says (order of the axes, cell, labels)
            is written back, and the voxels in that order.
        extended_header: The bytes between header and voxels, in the byte order of the header.
        labels: What the file says of itself, the last line last.
    """

    data: NDArray[Any]
    voxel_size: float
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    nstart: tuple[int, int, int] = (0, 0, 0)
    header: np.recarray[Any, Any] | None = field(default=None, repr=False)
    extended_header: bytes = field(default=b"", repr=False)
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Statistics:
    """What the voxels of a volume are like, in the volume's unit; NaN and infinite ones are counted and left out."""

    minimum: float
    maximum: float
    mean: float
    std: float
    bad: int = 0
    first_bad: tuple[int, int, int] | None = None

    def require_finite(self, name: Path | str) -> None:
        """Refuses a volume with NaN or infinite voxels.

        Raises:
            CryodenError: There are some; how many and where the first one is.
        """
        if self.first_bad is not None:
            z, y, x = self.first_bad
            raise CryodenError(
                f"{name} has {self.bad} NaN or infinite voxels, the first at z {z}, y {y}, x {x} (from 0); "
                "replace them by the mean, or reconstruct the volume again"
            )


class VolumeFile(ABC):
    """A file of one volume, of which the header was read and nothing else.

    Args:
        path: The file, or the folder that stands for one.
        voxel_size: Å, whatever the file says of it.
        near: Å; of a file that holds a volume in several sizes, the one nearest to it is meant, by default the
            finest. Other files do not care.

    Attributes:
        path: As given.
        voxel_size: Å; 0 where nothing tells it.
        labels: What the file says of itself.

    Raises:
        CryodenError: It cannot be read, is damaged, or holds no volume of real numbers in cubic voxels.
    """

    suffixes: ClassVar[tuple[str, ...]]
    """Of names that are written in this format, in lower case."""
    title: ClassVar[str] = ""
    library: ClassVar[str] = ""
    """What errors call a format that needs a library which is an extra, and that library."""

    path: Path
    voxel_size: float
    labels: tuple[str, ...]

    @abstractmethod
    def __init__(self, path: Path, voxel_size: float | None = None, near: float | None = None) -> None: ...

    @staticmethod
    @abstractmethod
    def knows(path: Path) -> bool:
        """Whether a file is of this format, by its content."""

    @classmethod
    def require(cls, path: Path) -> None:
        """Refuses a file where the library of its format, which is an extra, is not installed.

        Raises:
            CryodenError: It is not.
        """
        if cls.library and find_spec(cls.library) is None:
            raise CryodenError(
                f"{path} is {cls.title}, and {cls.library} is not installed here: pip install 'cryoden[{cls.library}]'"
            )

    @abstractmethod
    def open(self) -> Volume:
        """Maps the voxels.

        Raises:
            CryodenError: They cannot be read, or the file is cut short.
        """

    @staticmethod
    @abstractmethod
    def write(
        partial: Path, name: Path, volume: Volume, voxels: np.dtype[Any], labels: Sequence[str], images: bool
    ) -> None:
        """Writes a volume.

        Args:
            partial: The file to make.
            name: The one that it becomes, which tells whether it is compressed.
            volume: Its data is finite in the type that is written.
            voxels: This type.
            labels: Added to those that the volume has.
            images: The sections are images.
        """


def one_size(path: Path, sizes: tuple[float, float, float], stated: float | None) -> float:
    """The voxel size in Å that a file tells for x, y, z, or that is stated.

    Raises:
        CryodenError: The voxels are no cubes, and nothing is stated.
    """
    if stated is not None:
        return stated
    if max(sizes) - min(sizes) > _ANISOTROPY * max(sizes):
        told = " × ".join(f"{size:.4g}" for size in sizes)
        raise CryodenError(
            f"{path} has voxels of {told} Å (x, y, z); they must be cubes within {_ANISOTROPY:.0%}: "
            "resample the volume, or, if its header is wrong, correct that or state the voxel size"
        )
    return float(np.mean(sizes))


def in_angstrom(length: float | str, unit: str, *, anywhere: bool = False) -> float:
    """A length that a file tells in a unit, in Å; 0 where the unit is none of length, or it is no size of a voxel.

    Args:
        length: A number, or what a file has in its place.
        unit: By name or sign.
        anywhere: It is a place, not a size.
    """
    value = float(length) * _UNITS.get(unit.strip().lower(), 0.0)
    return value if (anywhere and math.isfinite(value)) or is_length(value) else 0.0


def printable(label: str) -> str:
    """A label without control characters, with which some formats cannot be read again."""
    return "".join(each for each in label if each.isprintable())


def measure_finite(name: Path, data: NDArray[Any], voxels: np.dtype[Any]) -> Statistics:
    """The statistics of what is going to be written.

    Args:
        name: The file.
        data: (D, H, W).
        voxels: What the voxels are rounded to.

    Raises:
        CryodenError: Some are NaN or infinite, or too large for the type.
    """
    with np.errstate(over="ignore"):
        statistics = measure(data, voxels)
    if statistics.bad and voxels.itemsize == 2:
        raise CryodenError(f"cannot write {name} as float16: it has voxels beyond ±65504, or NaN; use float32")
    statistics.require_finite(f"cannot write {name}: it")
    return statistics


def nameless(folder: Path | str, shape: tuple[int, ...], dtype: DTypeLike, what: str, way_out: str) -> NDArray[Any]:
    """A mapped array of zeros in a file without a name, of which nothing is left whatever happens.

    Its room on the disk is taken at once: where a mapped file cannot grow, the system ends the process without a word.

    Args:
        folder: Of the file.
        shape: Of the array.
        dtype: Of the array.
        what: It is for, in words.
        way_out: What to do where there is no room.

    Raises:
        CryodenError: The disk has no room.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, mode="w+", shape=shape)  # which lives on when the file is closed
    except OSError as error:
        raise CryodenError(
            f"cannot take {tell_size(size)} in {folder} {what}: {error.strerror or error}; {way_out}"
        ) from error


def for_unpacking(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """A mapped array for what a file holds in pieces or compressed.

    Raises:
        CryodenError: The disk has no room.
    """
    way_out = "make room, or let TMPDIR name another folder"
    return nameless(tempfile.gettempdir(), shape, dtype, f"to unpack {path}", way_out)


def sections(data: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The sections (H, W) of a volume from z = 0 on; of a mapped one no more than one is in memory."""
    for section in data:
        require_whole(data)
        yield section
        release(data)


def require_whole(data: NDArray[Any]) -> None:
    """Refuses to read on in a mapped file that was cut short since: the system would end the process without a word.

    Raises:
        CryodenError: It was.
    """
    mapped = getattr(data, "_mmap", None)
    if isinstance(data, np.memmap) and mapped is not None:
        begin = data.offset - data.offset % mmap.ALLOCATIONGRANULARITY
        if mapped.size() < begin + len(mapped):
            raise CryodenError(
                f"{data.filename} was cut short while it was read; run it again when the file is complete"
            )


def release(data: NDArray[Any]) -> None:
    """Lets go of the memory of a mapped array: the file keeps what was read or changed. Others stay as they are."""
    mapped = getattr(data, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def central(data: NDArray[Any], largest: int = 192) -> NDArray[Any]:
    """The middle of a volume, of at most so many voxels along each axis: enough to tell of the whole."""
    return data[tuple(middle(size, largest) for size in data.shape)]


def middle(size: int, largest: int) -> slice:
    """The middle of an axis, of at most so many voxels."""
    return slice((size - min(size, largest)) // 2, (size + min(size, largest)) // 2)


def native(block: NDArray[Any]) -> NDArray[Any]:
    """A copy of a part of a volume that torch takes: in this machine's byte order, what torch lacks as floats."""
    size = block.dtype.itemsize
    lacking = size > 8 or (block.dtype.kind == "u" and size > 1)
    kind = block.dtype.newbyteorder("=") if not lacking else np.float32 if size == 2 else np.float64
    return np.array(block, kind, order="C")


def measure(data: NDArray[Any], dtype: DTypeLike | None = None) -> Statistics:
    """The statistics of a volume of any size, in one pass and in float64.

    Args:
        data: (D, H, W), real.
        dtype: What the voxels are rounded to first.

    Returns:
        Statistics; zeros where every voxel is bad.
    """
    count, bad, mean, squares = 0, 0, 0.0, 0.0
    minimum, maximum = math.inf, -math.inf
    first_bad = None
    for z, section in enumerate(sections(data)):
        values = (section if dtype is None else section.astype(dtype)).astype(np.float64)
        finite = np.isfinite(values)
        if not finite.all():
            if first_bad is None:
                y, x = np.unravel_index(np.argmin(finite), values.shape)
                first_bad = (z, int(y), int(x))
            bad += values.size - int(np.count_nonzero(finite))
            values = values[finite]
            if values.size == 0:
                continue
        minimum, maximum = min(minimum, float(values.min())), max(maximum, float(values.max()))
        # Chan et al. 1983: two sets of values are put together without losing digits to a large mean
        here = float(values.mean())
        total = count + values.size
        squares += float(np.square(values - here).sum()) + (here - mean) ** 2 * count * values.size / total
        mean += (here - mean) * values.size / total
        count = total
    if count == 0:
        return Statistics(0.0, 0.0, 0.0, 0.0, bad, first_bad)
    return Statistics(minimum, maximum, mean, math.sqrt(squares / count), bad, first_bad)
