"""A three-dimensional image with its place in space, and its file: MRC, TIFF or OME-Zarr, by one interface.

Files are known by their content, whatever their names. Volumes of any size are mapped rather than read, and go through
memory a section at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryoden.errors import CryodenError
from cryoden.files import check_output, unpacked, whole_file
from cryoden.volume.base import (
    LONGEST,
    SHORTEST,
    Statistics,
    Volume,
    VolumeFile,
    central,
    check_length,
    is_length,
    measure,
    middle,
    nameless,
    native,
    release,
    require_whole,
    sections,
)
from cryoden.volume.mrc import Mrc, is_tilt_series
from cryoden.volume.ome_zarr import OmeZarr
from cryoden.volume.tiff import Tiff

__all__ = [
    "LONGEST",
    "SHORTEST",
    "Mrc",
    "Statistics",
    "Volume",
    "VolumeFile",
    "central",
    "check_length",
    "format_of",
    "is_length",
    "look_at",
    "measure",
    "middle",
    "nameless",
    "native",
    "open_volume",
    "read_volume",
    "release",
    "require_whole",
    "sections",
    "write_volume",
]

_FORMATS: tuple[type[VolumeFile], ...] = (OmeZarr, Tiff, Mrc)  # of which the first that knows a file has it
_FOREIGN = (".png", ".jpg", ".jpeg", ".em", ".hdf", ".hdf5", ".h5", ".npy", ".npz", ".nii")


def look_at(path: Path | str, voxel_size: float | None = None, near: float | None = None) -> VolumeFile:
    """What a file says of its volume, without reading its voxels; see `VolumeFile`, also for errors.

    Args:
        path: The file, or the folder of an OME-Zarr image; its content decides, not its suffix.
        voxel_size: Å, whatever the file says of it.
        near: Å; which of several sizes is meant.
    """
    path = Path(path)
    return next(each for each in _FORMATS if each.knows(path))(path, voxel_size, near)


def open_volume(path: Path | str, voxel_size: float | None = None, near: float | None = None) -> Volume:
    """Maps a file: MRC of mode 0, 1, 2, 6 or 12, plain or compressed by gzip or bzip2; TIFF; OME-Zarr.

    What cannot be mapped as it lies on the disk is unpacked into a temporary file first (TMPDIR says where).

    Args:
        path: The file; its content decides, not its suffix.
        voxel_size: Å, whatever the file says of it.
        near: Å; of a file that holds a volume in several sizes, the one nearest to it is meant, by default the finest.

    Returns:
        The volume, its voxels mapped, read-only, in the file's type and byte order; some may be NaN. The
        statistics in the header are ignored.

    Raises:
        CryodenError: The file cannot be read, is of no such format, is truncated, holds images instead of a volume,
            complex values, a cell that is no box, or voxels that are not cubes.
    """
    return look_at(path, voxel_size, near).open()


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
    """Writes a volume as a file of the format that its name tells, see `format_of`, a section at a time.

    Of a volume from an MRC file, another keeps order of the axes, cell, labels, byte order and, where the shape is
    still that of the header, the extended header. The file appears under its name only when it is complete.

    Args:
        path: The file; an MRC file that ends in .gz or .bz2 is compressed.
        volume: What to write.
        overwrite: Whether an existing file is replaced.
        label: Added to the volume's labels, one or several: MRC keeps at most 80 ASCII characters of each.
        dtype: float32, or float16: half the size, three digits, nothing beyond ±65504.
        images: The sections are images, such as a tilt series: the header of an MRC file says so (space group 0, mz 1).

    Raises:
        CryodenError: The file exists, its folder does not, the disk refuses it, some voxels are NaN or infinite, or
            float16 is too small for it.
    """
    path = Path(path)
    form = format_of(path, dtype, images=images)
    check_output(path, overwrite=overwrite)
    added = [label or "Written by cryoden"] if isinstance(label, str) else label
    with whole_file(path, overwrite=overwrite) as partial:
        form.write(partial, path, volume, np.dtype(dtype), added, images)


def format_of(
    path: Path | str, dtype: type[np.float32 | np.float16] = np.float32, *, images: bool = False
) -> type[VolumeFile]:
    """The format that a file is written in, by its name: MRC, unless it is another's.

    Args:
        path: The file.
        dtype: Of the voxels.
        images: The sections are images, such as a tilt series, and may be called so.

    Raises:
        CryodenError: It is that of a format that nothing is written in, that is not compressed as a whole, that has no
            voxels of this type, or whose library is not installed; or it is that of a tilt series.
    """
    path = Path(path)
    name = unpacked(path).name.lower()
    found = next((each for each in _FORMATS if name.endswith(each.suffixes)), Mrc)
    if name.endswith(_FOREIGN) or (found is not Mrc and name != path.name.lower()):
        raise CryodenError(f"cannot write {path}: give a name that ends in .mrc, .tif or .zarr, which tells the format")
    if is_tilt_series(path) and not images:
        raise CryodenError(f"cannot write {path}: this is how a tilt series is called; give a name that ends in .mrc")
    found.require(path)
    if found is Tiff and dtype is np.float16:
        raise CryodenError(f"cannot write {path} as float16, which OME-TIFF has not; use float32, or another format")
    return found
