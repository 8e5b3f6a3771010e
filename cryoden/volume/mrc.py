"""MRC files, plain or compressed.

They are read leniently where the header is only slightly wrong. What is written opens at the same place and scale as
what was read: the header is carried along.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import logging
import math
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import mrcfile
import numpy as np
from mrcfile.constants import MAP_ID
from mrcfile.dtypes import HEADER_DTYPE

from cryoden.errors import CryodenError
from cryoden.files import unpacked
from cryoden.volume.base import Statistics, Volume, VolumeFile, is_length, measure_finite, one_size, printable, sections

_log = logging.getLogger(__name__)

_MODES = "0 (int8), 1 (int16), 2 (float32), 6 (uint16) and 12 (float16)"
_KNOWN_MODES = {0, 1, 2, 4, 6, 12}
_SKEW = 0.1  # degrees; what comes of rounding is far below
_CARRIED = ("cella", "cellb", "mapc", "mapr", "maps", "extra1", "extra2")
_COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open}
_LABELS = 10
_TILT_SERIES = (".st", ".mrcs", ".ali", ".preali")  # as SerialEM, RELION and IMOD name them


class Mrc(VolumeFile):
    """An MRC file of mode 0, 1, 2, 6 or 12, plain or compressed by gzip or bzip2; see `VolumeFile`.

    Sections, rows and columns that are stored in another order than z, y, x are put in that order.
    """

    suffixes = (".mrc", ".rec", ".map")

    def __init__(self, path: Path, voxel_size: float | None = None, near: float | None = None) -> None:
        self.path = path
        self._header, self._extended_header, self._told = _read_header(path)
        self._told += _mend(self._header)
        self._shape, self._dtype = _layout(path, self._header)
        if not _is_packed(path):
            self._offset(path)
        angles = [float(angle) for angle in self._header.cellb.item()]
        if any(abs(angle - 90) > _SKEW for angle in angles):
            raise CryodenError(
                f"{path} has a cell with angles of {', '.join(f'{angle:g}' for angle in angles)}°; a volume is a box, "
                "with three of 90°: resample it, or correct its header if that is wrong"
            )
        self.voxel_size = one_size(path, _voxel_size(self._header), voxel_size)
        texts = (bytes(label).partition(b"\0")[0].decode("ascii", "replace") for label in self._header.label)
        self.labels = tuple(label for text in texts if (label := printable(text).strip()))

    @staticmethod
    def knows(path: Path) -> bool:
        """Whatever no other format knows; what is none is told of when it is looked at."""
        return True

    def open(self) -> Volume:
        """See `VolumeFile`; a compressed file is unpacked into a temporary one first (TMPDIR says where)."""
        header, extended_header, told = self._header, self._extended_header, list(self._told)
        with _unpacked(self.path) as plain:
            offset = self._offset(plain)
            data = np.memmap(plain, self._dtype, mode="r", offset=offset, shape=self._shape)
        if offset == HEADER_DTYPE.itemsize and header.nsymbt > 0:
            told.append(f"an extended header of {header.nsymbt} bytes is announced, and exactly that is missing")
            extended_header = b""
        if told:
            _log.warning(
                "%s is read although its header is not quite right (%s); what is written is mended",
                self.path,
                "; ".join(told),
            )
        return Volume(
            data=data.transpose(_order(header)),
            voxel_size=self.voxel_size,
            origin=(float(header.origin.x), float(header.origin.y), float(header.origin.z)),
            nstart=(int(header.nxstart), int(header.nystart), int(header.nzstart)),
            header=header,
            extended_header=extended_header,
            labels=self.labels,
        )

    @staticmethod
    def write(
        partial: Path, name: Path, volume: Volume, voxels: np.dtype[Any], labels: Sequence[str], images: bool
    ) -> None:
        """See `VolumeFile`; compressed where the name ends in .gz or .bz2.

        Order of the axes, cell, labels, byte order and, where the shape is still that of the header, the extended
        header are those of `volume.header`.
        """
        stored = volume.data
        if volume.header is not None:
            stored = stored.transpose(np.argsort(_order(volume.header)))
            # the byte order of the file is kept, because nobody knows what the extended header is made of
            voxels = voxels if volume.header.mode.dtype.isnative else voxels.newbyteorder("S")
        statistics = measure_finite(name, stored, voxels)
        header = _new_header(volume, stored.shape, voxels, statistics, labels)
        if images:
            header.ispg, header.mz, header.cella.z = 0, 1, volume.voxel_size
        with _compressing(partial, name.suffix.lower()) as stream:
            stream.write(header.tobytes())
            stream.write(volume.extended_header[: int(header.nsymbt)])
            for section in sections(stored):
                stream.write(section.astype(voxels).tobytes())

    def _offset(self, plain: Path) -> int:
        """Where the voxels begin in the file, unpacked if it was packed.

        Raises:
            CryodenError: They are not all there.
        """
        voxels: int = math.prod(self._shape) * self._dtype.itemsize
        announced = max(0, int(self._header.nsymbt))
        size = plain.stat().st_size
        if announced and size == HEADER_DTYPE.itemsize + voxels:
            announced = 0
        offset: int = HEADER_DTYPE.itemsize + announced
        if size < offset + voxels:
            nx_ny_nz = " × ".join(map(str, reversed(self._shape)))
            when = "" if plain == self.path else " when unpacked"
            raise CryodenError(
                f"{self.path} is truncated: {nx_ny_nz} voxels of mode {self._header.mode} make a file of "
                f"{offset + voxels} bytes, and it has {size}{when}; copy it again"
            )
        return offset


def _read_header(path: Path) -> tuple[np.recarray[Any, Any], bytes, list[str]]:
    """Header, extended header and what mrcfile says of them, of a file that may be packed."""
    try:
        with path.open("rb") as stream:
            start = stream.read(HEADER_DTYPE.itemsize)
        opener = _COMPRESSED.get(start[:2])
        if opener is not None:
            with opener(path) as packed:
                start = packed.read(HEADER_DTYPE.itemsize)
    except (EOFError, zlib.error) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        if error.strerror is None:  # of gzip's and bz2's own, not the disk's
            raise _damaged(path, error) from error
        raise CryodenError(f"cannot read {path}: {error.strerror}") from error
    _require_mrc(path, start)
    with warnings.catch_warnings(record=True) as mended:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)  # mrcfile's own, of its numpy; a header's are others
        try:
            with mrcfile.open(path, permissive=True, header_only=True) as mrc:
                header = mrc.header.copy().view(np.recarray)
                extended_header = b"" if mrc.extended_header is None else mrc.extended_header.tobytes()
        except (OSError, ValueError, OverflowError, MemoryError, EOFError, zlib.error) as error:
            raise CryodenError(f"{path} is not an MRC file: {error}") from error
    return header, extended_header, [str(warning.message) for warning in mended]


def _is_packed(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) in _COMPRESSED


def _damaged(path: Path, error: Exception) -> CryodenError:
    return CryodenError(f"{path} is truncated or damaged: {error}; copy it again")


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The file itself, or a temporary one with what it holds: once mapped, that lives on without its name."""
    if not _is_packed(path):
        yield path
        return
    with path.open("rb") as stream:
        opener = _COMPRESSED[stream.read(2)]
    with tempfile.NamedTemporaryFile(prefix="cryoden-", suffix=".mrc", delete=False) as unpacked:
        try:
            try:
                with opener(path) as packed:
                    shutil.copyfileobj(packed, unpacked, 1 << 22)
            except (OSError, EOFError, zlib.error) as error:
                if getattr(error, "errno", None) == errno.ENOSPC:
                    folder = tempfile.gettempdir()
                    raise CryodenError(
                        f"cannot unpack {path}: no space left in {folder}; let TMPDIR name another folder"
                    ) from error
                raise _damaged(path, error) from error
            unpacked.close()
            yield Path(unpacked.name)
        finally:
            with suppress(PermissionError):  # Windows keeps a file while it is mapped
                Path(unpacked.name).unlink()


def is_tilt_series(path: Path) -> bool:
    """Whether the images of a tilt series have such a name."""
    return unpacked(path).name.lower().endswith(_TILT_SERIES)


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
    if is_tilt_series(path):  # of which SerialEM and IMOD write a header as of a volume: space group 0, mz = nz
        raise CryodenError(
            f"{path} is a tilt series by its name, of {shape[0]} images; a volume is needed: reconstruct it first, or "
            "rename it to .mrc if it is a volume"
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
    carried = (label.encode("ascii", "replace") for label in volume.labels)
    _set_labels(header, carried if old is None else old.label, added)
    return header


def _set_labels(header: np.recarray[Any, Any], old: Iterable[bytes], added: Sequence[str]) -> None:
    """Adds labels after those that are there; the last of ten give way."""
    kept = [text for text in old if text.strip()][: _LABELS - len(added)]
    kept += [label.encode("ascii", "replace")[:80] for label in added]
    header.label = kept + [b""] * (_LABELS - len(kept))
    header.nlabl = len(kept)
