"""A three-dimensional image with its place in space, and its MRC file.

Files are read by their content, whatever their name, and leniently where the header is only slightly wrong.
What is written opens at the same place and scale as what was read: the header is carried along.
"""

from __future__ import annotations

import logging
import os
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import NDArray

from cryoden.errors import CryodenError

_log = logging.getLogger(__name__)

_MODES = "0 (int8), 1 (int16), 2 (float32), 6 (uint16) and 12 (float16)"
_KNOWN_MODES = {0, 1, 2, 4, 6, 12}
_ANISOTROPY = 0.01  # rounding of the cell in the header stays far below; wrong axes are far above
_CARRIED = ("cella", "cellb", "mapc", "mapr", "maps", "extra1", "exttyp", "extra2")
_COMPRESSION = {".gz": "gzip", ".bz2": "bzip2"}
_LABELS = 10


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume and where it lies.

    Attributes:
        data: (D, H, W) float32, axes z, y, x as the file has them.
        voxel_size: Å per voxel, the same on all axes; 0 where the file does not say.
        origin: Position of the first voxel, x, y, z in Å.
        nstart: Grid index of the first voxel along columns, rows, sections.
        header: The MRC header the volume was read with: what else it says (axis mapping, cell, labels) is
            written back.
        extended_header: The bytes between header and voxels, in the byte order of the header.
    """

    data: NDArray[np.float32]
    voxel_size: float
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    nstart: tuple[int, int, int] = (0, 0, 0)
    header: np.recarray[Any, Any] | None = field(default=None, repr=False)
    extended_header: bytes = field(default=b"", repr=False)


def read_volume(path: Path | str) -> Volume:
    """Reads an MRC file of mode 0, 1, 2, 6 or 12, plain or compressed by gzip or bzip2.

    Args:
        path: The file; its content decides, not its suffix.

    Returns:
        The volume in float32. The statistics in the header are ignored.

    Raises:
        CryodenError: The file cannot be read, is no MRC file, is truncated, holds images instead of a volume,
            complex or non-finite values, or voxels that are not cubes.
    """
    path = Path(path)
    header, extended_header, data = _read_mrc(path)
    voxel_size = _voxel_size(header)
    if data.ndim == 4:
        raise CryodenError(f"{path} is a stack of {data.shape[0]} volumes; one volume is needed: extract it")
    if data.ndim == 2 or data.shape[0] == 1:
        raise CryodenError(
            f"{path} is a single image of {data.shape[-2]} × {data.shape[-1]} pixels; a volume is needed"
        )
    if header.ispg == 0 and header.mz == 1:  # many programs leave ispg at 0, but only stacks have mz = 1
        raise CryodenError(
            f"{path} is a stack of {data.shape[0]} images (space group 0, mz 1), such as a tilt series; a "
            "volume is needed: reconstruct it first, or correct the header (mz = nz) if it is a volume"
        )
    if max(voxel_size) - min(voxel_size) > _ANISOTROPY * max(voxel_size):
        sizes = " × ".join(f"{size:.4g}" for size in voxel_size)
        raise CryodenError(
            f"{path} has voxels of {sizes} Å (x, y, z); they must be cubes within {_ANISOTROPY:.0%}: "
            "resample the volume, or correct its header if that is wrong"
        )
    finite = np.isfinite(data)
    if not finite.all():
        z, y, x = np.unravel_index(np.argmin(finite), data.shape)
        raise CryodenError(
            f"{path} has {data.size - np.count_nonzero(finite)} NaN or infinite voxels, the first at z {z}, "
            f"y {y}, x {x} (from 0); replace them by the mean, or reconstruct the volume again"
        )
    return Volume(
        data=data.astype(np.float32, copy=False),
        voxel_size=float(np.mean(voxel_size)),
        origin=(float(header.origin.x), float(header.origin.y), float(header.origin.z)),
        nstart=(int(header.nxstart), int(header.nystart), int(header.nzstart)),
        header=header,
        extended_header=extended_header,
    )


def write_volume(path: Path | str, volume: Volume, *, overwrite: bool = False, label: str = "") -> None:
    """Writes a volume as an MRC file of mode 2 with fresh statistics.

    Axis mapping, cell, labels, byte order and, where the shape is still that of the header, the extended
    header are those of `volume.header`. The file appears under its name only when it is complete.

    Args:
        path: The file; one that ends in .gz or .bz2 is compressed.
        volume: What to write.
        overwrite: Whether an existing file is replaced.
        label: Added to the header's labels: at most 80 ASCII characters are kept.

    Raises:
        CryodenError: The file exists, its folder does not, or the disk refuses it.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    header = volume.header
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with mrcfile.new(partial, compression=_COMPRESSION.get(path.suffix.lower()), overwrite=True) as mrc:
            # the byte order of the file is kept, because nobody knows what the extended header is made of
            mrc.set_data(volume.data.astype(np.float32 if header is None else _float32_like(header), copy=False))
            if header is not None:
                _carry_header(mrc, header, volume.extended_header)
            if float(np.mean(_voxel_size(mrc.header))) != volume.voxel_size:
                mrc.voxel_size = volume.voxel_size
            mrc.header.origin = volume.origin
            mrc.header.nxstart, mrc.header.nystart, mrc.header.nzstart = volume.nstart
            _set_labels(mrc.header, () if header is None else header.label, label or "Written by cryoden")
        partial.replace(path)
    except OSError as error:
        raise CryodenError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def check_output(path: Path | str, *, overwrite: bool) -> None:
    """Checks that a file may be written, so that nobody waits an hour to learn that it may not.

    Raises:
        CryodenError: The file exists and may not be overwritten, or its folder is missing or not writable.
    """
    path = Path(path)
    if path.is_dir():
        raise CryodenError(f"cannot write {path}: it is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise CryodenError(f"cannot write {path}: there is no folder {path.parent}; create it first")
    if not os.access(path.parent, os.W_OK):
        raise CryodenError(f"cannot write {path}: the folder {path.parent} is not writable")
    if path.exists() and not overwrite:
        raise CryodenError(f"{path} exists; choose another name or allow overwriting (--overwrite)")


def _read_mrc(path: Path) -> tuple[np.recarray[Any, Any], bytes, NDArray[Any]]:
    """Header, extended header and voxels of any MRC file that has real voxels."""
    try:
        with path.open("rb") as stream:
            start = stream.read(1024)
    except OSError as error:
        raise CryodenError(f"cannot read {path}: {error.strerror}") from error
    if not _may_be_mrc(start):
        raise CryodenError(f"{path} is not an MRC file: its header has neither the word MAP nor a known mode")
    with warnings.catch_warnings(record=True) as mended:
        warnings.simplefilter("always")
        try:
            with mrcfile.open(path, permissive=True) as mrc:
                header, extended_header, data = mrc.header, mrc.extended_header, mrc.data
        except (OSError, EOFError, zlib.error) as error:
            raise CryodenError(f"{path} is truncated or damaged: {error}; copy it again") from error
        except (ValueError, OverflowError, MemoryError) as error:
            raise CryodenError(f"{path} is not an MRC file: {error}") from error
    if data is None or data.size == 0:
        raise CryodenError(_why_unreadable(path, header))
    if np.iscomplexobj(data):
        raise CryodenError(f"{path} has complex voxels (mode {header.mode}); allowed are the modes {_MODES}")
    for warning in mended:
        _log.warning("%s is read although its header is not quite right: %s", path, warning.message)
    if header.mode == 0 and _unsigned_bytes(header):
        data = data.view(np.uint8)
    return header, b"" if extended_header is None else extended_header.tobytes(), data


def _may_be_mrc(start: bytes) -> bool:
    """Whether a file that starts so is worth reading: a wrong header can ask for gigabytes."""
    compressed = start.startswith((b"\x1f\x8b", b"BZ"))
    modes = {int.from_bytes(start[12:16], "little"), int.from_bytes(start[12:16], "big")}
    return compressed or start[208:211] == b"MAP" or (len(start) == 1024 and bool(modes & _KNOWN_MODES))


def _why_unreadable(path: Path, header: np.recarray[Any, Any]) -> str:
    """The message for a file whose header was read and whose voxels were not."""
    shape = (int(header.nx), int(header.ny), int(header.nz))
    try:
        itemsize = mrcfile.utils.dtype_from_mode(header.mode).itemsize
    except ValueError:
        return f"{path} has voxels of mode {header.mode}; allowed are the modes {_MODES}"
    if bytes(header.map)[:3] != b"MAP" or min(shape) < 1:
        return f"{path} is not an MRC file, or damaged: its header says {' × '.join(map(str, shape))} voxels"
    expected = 1024 + int(header.nsymbt) + itemsize * shape[0] * shape[1] * shape[2]
    return (
        f"{path} is truncated: {' × '.join(map(str, shape))} voxels of mode {header.mode} make a file of "
        f"{expected} bytes before compression, and it is {path.stat().st_size} bytes on disk; copy it again"
    )


def _voxel_size(header: np.recarray[Any, Any]) -> tuple[float, float, float]:
    """Voxel size along x, y, z in Å; all zero where the header does not give one."""
    lengths = (float(header.cella.x), float(header.cella.y), float(header.cella.z))
    intervals = (int(header.mx), int(header.my), int(header.mz))
    if not all(np.isfinite(lengths)) or max(lengths) <= 0 or min(intervals) <= 0:
        return (0.0, 0.0, 0.0)
    x, y, z = (length / interval for length, interval in zip(lengths, intervals, strict=True))
    return x, y, z


def _unsigned_bytes(header: np.recarray[Any, Any]) -> bool:
    """Whether IMOD wrote the file and did not mark its bytes as signed: then they are not."""
    stamp, flags = np.frombuffer(header.extra2.tobytes(), dtype=header.mode.dtype)[10:12]
    return bool(stamp == 1146047817 and not flags & 1)


def _float32_like(header: np.recarray[Any, Any]) -> np.dtype[np.float32]:
    """float32 in the byte order of a header."""
    return np.dtype(f"{header.mode.dtype.byteorder}f4")


def _carry_header(mrc: Any, header: np.recarray[Any, Any], extended_header: bytes) -> None:
    """Copies what a header says of the volume's place, and what it says in fields of its own."""
    for name in _CARRIED:
        mrc.header[name] = header[name]
    mrc.header.ispg = header.ispg or 1  # 0, images, is what many programs leave there
    if {int(header.mapc), int(header.mapr), int(header.maps)} != {1, 2, 3}:
        mrc.header.mapc, mrc.header.mapr, mrc.header.maps = 1, 2, 3
    if min(header.cellb.item()) <= 0:
        mrc.header.cellb = (90.0, 90.0, 90.0)
    if all(header[name] == mrc.header[name] for name in ("nx", "ny", "nz")):
        if min(header.mx, header.my, header.mz) > 0:
            mrc.header.mx, mrc.header.my, mrc.header.mz = header.mx, header.my, header.mz
        mrc.set_extended_header(np.frombuffer(extended_header, dtype="V1"))


def _set_labels(header: np.recarray[Any, Any], labels: Iterable[bytes], label: str) -> None:
    """Adds a label after those that are there; the last of ten gives way."""
    kept = [text for text in labels if text.strip()][: _LABELS - 1]
    kept.append(label.encode("ascii", "replace")[:80])
    header.label = kept + [b""] * (_LABELS - len(kept))
    header.nlabl = len(kept)
