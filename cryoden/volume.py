"""A three-dimensional image with its place in space, and its MRC file.

Files are read by their content, whatever their name, and leniently where the header is only slightly wrong.
What is written opens at the same place and scale as what was read: the header is carried along. Volumes of
any size are mapped rather than read, and go through memory a section at a time.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import logging
import math
import mmap
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import mrcfile
import numpy as np
from mrcfile.constants import MAP_ID
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import DTypeLike, NDArray

from cryoden.errors import CryodenError
from cryoden.files import check_output, whole_file

_log = logging.getLogger(__name__)

_MODES = "0 (int8), 1 (int16), 2 (float32), 6 (uint16) and 12 (float16)"
_KNOWN_MODES = {0, 1, 2, 4, 6, 12}
_SKEW = 0.1  # degrees; what comes of rounding is far below
_ANISOTROPY = 0.01  # rounding of the cell in the header stays far below; wrong axes are far above
_CARRIED = ("cella", "cellb", "mapc", "mapr", "maps", "extra1", "extra2")
_COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open}
_LABELS = 10


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
        header: The MRC header the volume was read with: what else it says (order of the axes, cell, labels) is
            written back, and the voxels in that order.
        extended_header: The bytes between header and voxels, in the byte order of the header.
    """

    data: NDArray[Any]
    voxel_size: float
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    nstart: tuple[int, int, int] = (0, 0, 0)
    header: np.recarray[Any, Any] | None = field(default=None, repr=False)
    extended_header: bytes = field(default=b"", repr=False)


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


def open_volume(path: Path | str, voxel_size: float | None = None) -> Volume:
    """Maps an MRC file of mode 0, 1, 2, 6 or 12, plain or compressed by gzip or bzip2, without reading its voxels.

    A compressed file is unpacked into a temporary file first (TMPDIR says where).

    Args:
        path: The file; its content decides, not its suffix.
        voxel_size: Å, whatever the header says of it.

    Returns:
        The volume, its voxels mapped, read-only, in the file's type and byte order; some may be NaN. The
        statistics in the header are ignored. Sections, rows and columns that are stored in another order than z, y, x
        are put in that order.

    Raises:
        CryodenError: The file cannot be read, is no MRC file, is truncated, holds images instead of a volume,
            complex values, a cell that is no box, or voxels that are not cubes.
    """
    path = Path(path)
    header, extended_header, data = _map_mrc(path)
    angles = [float(angle) for angle in header.cellb.item()]
    if any(abs(angle - 90) > _SKEW for angle in angles):
        raise CryodenError(
            f"{path} has a cell with angles of {', '.join(f'{angle:g}' for angle in angles)}°; a volume is a box, with "
            "three of 90°: resample it, or correct its header if that is wrong"
        )
    sizes = _voxel_size(header)
    if voxel_size is None and max(sizes) - min(sizes) > _ANISOTROPY * max(sizes):
        told = " × ".join(f"{size:.4g}" for size in sizes)
        raise CryodenError(
            f"{path} has voxels of {told} Å (x, y, z); they must be cubes within {_ANISOTROPY:.0%}: "
            "resample the volume, or, if its header is wrong, correct that or state the voxel size"
        )
    return Volume(
        data=data.transpose(_order(header)),
        voxel_size=float(np.mean(sizes)) if voxel_size is None else voxel_size,
        origin=(float(header.origin.x), float(header.origin.y), float(header.origin.z)),
        nstart=(int(header.nxstart), int(header.nystart), int(header.nzstart)),
        header=header,
        extended_header=extended_header,
    )


def read_volume(path: Path | str) -> Volume:
    """Reads the files that `open_volume` opens into memory.

    Args:
        path: The file; its content decides, not its suffix.

    Returns:
        The volume in float32.

    Raises:
        CryodenError: As `open_volume`; or some voxels are NaN or infinite.
    """
    volume = open_volume(path)
    measure(volume.data).require_finite(path)
    return replace(volume, data=np.array(volume.data, dtype=np.float32))


def write_volume(
    path: Path | str,
    volume: Volume,
    *,
    overwrite: bool = False,
    label: str | Sequence[str] = "",
    dtype: type[np.float32 | np.float16] = np.float32,
    images: bool = False,
) -> None:
    """Writes a volume as an MRC file with fresh statistics, a section at a time.

    Order of the axes, cell, labels, byte order and, where the shape is still that of the header, the extended
    header are those of `volume.header`. The file appears under its name only when it is complete.

    Args:
        path: The file; one that ends in .gz or .bz2 is compressed.
        volume: What to write.
        overwrite: Whether an existing file is replaced.
        label: Added to the header's labels, one or several: at most 80 ASCII characters of each are kept.
        dtype: float32 (mode 2), or float16 (mode 12): half the size, three digits, nothing beyond ±65504.
        images: The sections are images, such as a tilt series: the header says so (space group 0, mz 1).

    Raises:
        CryodenError: The file exists, its folder does not, the disk refuses it, some voxels are NaN or infinite, or
            float16 is too small for it.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    # the byte order of the file is kept, because nobody knows what the extended header is made of
    swapped = volume.header is not None and not volume.header.mode.dtype.isnative
    voxels = np.dtype(dtype).newbyteorder("S" if swapped else "=")
    stored = volume.data
    if volume.header is not None:
        stored = stored.transpose(np.argsort(_order(volume.header)))
    with np.errstate(over="ignore"):
        statistics = measure(stored, voxels)
        if statistics.bad and dtype is np.float16:
            raise CryodenError(f"cannot write {path} as float16: it has voxels beyond ±65504, or NaN; use float32")
        statistics.require_finite(f"cannot write {path}: it")
        added = [label or "Written by cryoden"] if isinstance(label, str) else label
        header = _new_header(volume, stored.shape, voxels, statistics, added)
        if images:
            header.ispg, header.mz, header.cella.z = 0, 1, volume.voxel_size
        with (
            whole_file(path, overwrite=overwrite) as partial,
            _compressing(partial, path.suffix.lower()) as stream,
        ):
            stream.write(header.tobytes())
            stream.write(volume.extended_header[: int(header.nsymbt)])
            for section in sections(stored):
                stream.write(section.astype(voxels).tobytes())


def labels(volume: Volume) -> list[str]:
    """The labels of the header that a volume was read with."""
    stored = () if volume.header is None else volume.header.label
    return [bytes(label).decode("ascii", "replace").strip() for label in stored if label.strip()]


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
    cut = [slice((size - min(size, largest)) // 2, (size + min(size, largest)) // 2) for size in data.shape]
    return data[tuple(cut)]


def native(block: NDArray[Any]) -> NDArray[Any]:
    """A copy of a part of a volume that torch takes: in this machine's byte order, unsigned integers as float32."""
    kind = np.float32 if block.dtype.kind == "u" and block.dtype.itemsize > 1 else block.dtype.newbyteorder("=")
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


def _map_mrc(path: Path) -> tuple[np.recarray[Any, Any], bytes, NDArray[Any]]:
    """Header, extended header and mapped voxels of any MRC file that is one volume of real numbers."""
    with _unpacked(path) as plain:
        with warnings.catch_warnings(record=True) as mended:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", DeprecationWarning)  # mrcfile's own, of its numpy; a header's are others
            try:
                with mrcfile.open(plain, permissive=True, header_only=True) as mrc:
                    header = mrc.header.copy().view(np.recarray)
                    extended_header = b"" if mrc.extended_header is None else mrc.extended_header.tobytes()
            except (OSError, ValueError, OverflowError, MemoryError) as error:
                raise CryodenError(f"{path} is not an MRC file: {error}") from error
        told = _mend(header)
        shape, dtype = _layout(path, header)
        voxels, announced = math.prod(shape) * dtype.itemsize, max(0, int(header.nsymbt))
        size = plain.stat().st_size
        if announced and size == HEADER_DTYPE.itemsize + voxels:
            told.append(f"an extended header of {announced} bytes is announced, and exactly that is missing")
            announced, extended_header = 0, b""
        offset = HEADER_DTYPE.itemsize + announced
        expected = offset + voxels
        if size < expected:
            nx_ny_nz = " × ".join(map(str, reversed(shape)))
            unpacked = "" if plain == path else " when unpacked"
            raise CryodenError(
                f"{path} is truncated: {nx_ny_nz} voxels of mode {header.mode} make a file of {expected} bytes, and "
                f"it has {size}{unpacked}; copy it again"
            )
        data = np.memmap(plain, dtype, mode="r", offset=offset, shape=shape)
    told += [str(warning.message) for warning in mended]
    if told:
        what = "; ".join(told)
        _log.warning("%s is read although its header is not quite right (%s); what is written is mended", path, what)
    return header, extended_header, data


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The file itself, or a temporary one with what it holds: once mapped, that lives on without its name."""
    try:
        with path.open("rb") as stream:
            start = stream.read(HEADER_DTYPE.itemsize)
    except OSError as error:
        raise CryodenError(f"cannot read {path}: {error.strerror}") from error
    opener = _COMPRESSED.get(start[:2])
    if opener is None:
        _require_mrc(path, start)
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="cryoden-", suffix=".mrc", delete=False) as unpacked:
        try:
            try:
                with opener(path) as packed:
                    start = packed.read(HEADER_DTYPE.itemsize)
                    _require_mrc(path, start)
                    unpacked.write(start)
                    shutil.copyfileobj(packed, unpacked, 1 << 22)
            except (OSError, EOFError, zlib.error) as error:
                if getattr(error, "errno", None) == errno.ENOSPC:
                    folder = tempfile.gettempdir()
                    raise CryodenError(
                        f"cannot unpack {path}: no space left in {folder}; let TMPDIR name another folder"
                    ) from error
                raise CryodenError(f"{path} is truncated or damaged: {error}; copy it again") from error
            unpacked.close()
            yield Path(unpacked.name)
        finally:
            with suppress(PermissionError):  # Windows keeps a file while it is mapped
                Path(unpacked.name).unlink()


def _require_mrc(path: Path, start: bytes) -> None:
    """Refuses a file that starts like none of MRC: its header could ask for gigabytes."""
    modes = {int.from_bytes(start[12:16], "little"), int.from_bytes(start[12:16], "big")}
    if start[208:211] != MAP_ID[:3] and not (len(start) == HEADER_DTYPE.itemsize and modes & _KNOWN_MODES):
        raise CryodenError(f"{path} is not an MRC file: its header has neither the word MAP nor a known mode")


def _layout(path: Path, header: np.recarray[Any, Any]) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    """Shape (D, H, W) and type of the voxels after a header, if it announces one volume of real numbers."""
    shape = int(header.nz), int(header.ny), int(header.nx)
    if min(shape) < 1:
        raise CryodenError(
            f"{path} is not an MRC file, or damaged: its header says {' × '.join(map(str, reversed(shape)))} voxels"
        )
    try:
        dtype = mrcfile.utils.data_dtype_from_header(header)
    except ValueError:
        raise CryodenError(f"{path} has voxels of mode {header.mode}; allowed are the modes {_MODES}") from None
    if dtype.kind == "c":
        raise CryodenError(f"{path} has complex voxels (mode {header.mode}); allowed are the modes {_MODES}")
    if dtype == np.int8 and _unsigned_bytes(header):
        dtype = np.dtype(np.uint8)
    if mrcfile.utils.spacegroup_is_volume_stack(header.ispg):
        count = shape[0] // max(1, int(header.mz))
        raise CryodenError(f"{path} is a stack of {count} volumes; one volume is needed: extract it")
    if shape[0] == 1:
        raise CryodenError(f"{path} is a single image of {shape[1]} × {shape[2]} pixels; a volume is needed")
    if header.ispg == 0 and header.mz == 1:  # many programs leave ispg at 0, but only stacks have mz = 1
        raise CryodenError(
            f"{path} is a stack of {shape[0]} images (space group 0, mz 1), such as a tilt series; a "
            "volume is needed: reconstruct it first, or correct the header (mz = nz) if it is a volume"
        )
    return shape, dtype


def _order(header: np.recarray[Any, Any]) -> tuple[int, ...]:
    """The places of z, y and x among sections, rows and columns: what a stored volume is transposed by."""
    stored = [int(header.maps), int(header.mapr), int(header.mapc)]
    return tuple(stored.index(axis) for axis in (3, 2, 1))


def _mend(header: np.recarray[Any, Any]) -> list[str]:
    """Puts what is undefined in a header in order; tells what that was."""
    told = []
    axes = (int(header.mapc), int(header.mapr), int(header.maps))
    if sorted(axes) != [1, 2, 3]:
        header.mapc, header.mapr, header.maps = 1, 2, 3
        told += [f"axes {axes} are no order of 1, 2, 3"] if any(axes) else []
    angles = header.cellb.item()
    if not all(np.isfinite(angles)) or min(angles) <= 0:
        header.cellb = (90.0, 90.0, 90.0)
        told += [f"cell angles {angles}"] if any(angles) else []
    if not all(np.isfinite(header.origin.item())):
        told.append(f"origin {header.origin.item()}")
        header.origin = (0.0, 0.0, 0.0)
    if not (0 <= header.ispg <= 230 or 401 <= header.ispg <= 630):
        told.append(f"space group {header.ispg}")
        header.ispg = 1
    if not bytes(header.exttyp).strip(b"\0 ").isalnum():
        told += [f"type of extended header {bytes(header.exttyp)!r}"] if bytes(header.exttyp).strip(b"\0 ") else []
        header.exttyp = b""
    return told


def _voxel_size(header: np.recarray[Any, Any]) -> tuple[float, float, float]:
    """Voxel size along x, y, z in Å; all zero where the header does not give one."""
    lengths = (float(header.cella.x), float(header.cella.y), float(header.cella.z))
    intervals = (int(header.mx), int(header.my), int(header.mz))
    if min(intervals) <= 0:
        return (0.0, 0.0, 0.0)
    x, y, z = (length / interval for length, interval in zip(lengths, intervals, strict=True))
    return (x, y, z) if math.isfinite(x + y + z) and is_length(max(x, y, z)) else (0.0, 0.0, 0.0)


def _unsigned_bytes(header: np.recarray[Any, Any]) -> bool:
    """Whether IMOD wrote the file and did not mark its bytes as signed: then they are not."""
    stamp, flags = np.frombuffer(header.extra2.tobytes(), dtype=header.mode.dtype)[10:12]
    return bool(stamp == 1146047817 and not flags & 1)


@contextmanager
def _compressing(path: Path, suffix: str) -> Iterator[IO[bytes]]:
    """A file to write to, that compresses if the suffix says so; without names and times, so that bytes repeat."""
    if suffix == ".gz":
        with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as stream:
            yield stream  # type: ignore[misc]  # a GzipFile is written to like any other
    elif suffix == ".bz2":
        with bz2.open(path, "wb") as packed:
            yield packed
    else:
        with path.open("wb") as file:
            yield file


def _new_header(
    volume: Volume, stored: tuple[int, ...], voxels: np.dtype[Any], statistics: Statistics, added: Sequence[str]
) -> np.recarray[Any, Any]:
    """The header of what is written in a shape: the old one's place and cell, with nothing left that is wrong."""
    header = np.zeros((), HEADER_DTYPE.newbyteorder(voxels.byteorder)).view(np.recarray)
    old = volume.header
    header.map, header.nversion = MAP_ID, 20141  # MRC2014, with mode 12
    header.machst = list(mrcfile.utils.machine_stamp_from_byte_order(voxels.byteorder))
    header.mode = mrcfile.utils.mode_from_dtype(voxels)
    header.ispg = 1  # 0, images, is what many programs leave there
    shape = stored[::-1]
    header.nx, header.ny, header.nz = shape
    header.mx, header.my, header.mz = volume.data.shape[::-1]
    header.mapc, header.mapr, header.maps = 1, 2, 3
    header.cellb = (90.0, 90.0, 90.0)
    if old is not None:
        for name in _CARRIED:
            header[name] = old[name]
        header.ispg = int(old.ispg) or 1
        if shape == (old.nx, old.ny, old.nz):
            if min(old.mx, old.my, old.mz) > 0:
                header.mx, header.my, header.mz = old.mx, old.my, old.mz
            header.nsymbt, header.exttyp = len(volume.extended_header), old.exttyp
    if float(np.mean(_voxel_size(header))) != volume.voxel_size:
        header.cella = tuple(volume.voxel_size * int(header[name]) for name in ("mx", "my", "mz"))
    header.origin = volume.origin
    header.nxstart, header.nystart, header.nzstart = volume.nstart
    header.dmin, header.dmax, header.dmean = statistics.minimum, statistics.maximum, statistics.mean
    header.rms = statistics.std
    _set_labels(header, () if old is None else old.label, added)
    return header


def _set_labels(header: np.recarray[Any, Any], old: Iterable[bytes], added: Sequence[str]) -> None:
    """Adds labels after those that are there; the last of ten give way."""
    kept = [text for text in old if text.strip()][: _LABELS - len(added)]
    kept += [label.encode("ascii", "replace")[:80] for label in added]
    header.label = kept + [b""] * (_LABELS - len(kept))
    header.nlabl = len(kept)
