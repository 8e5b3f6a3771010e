"""TIFF files: those of OME and ImageJ, which tell the size of a voxel, and other stacks of grey pages, which do not."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from cryoden.errors import CryodenError
from cryoden.volume.base import (
    Volume,
    VolumeFile,
    for_unpacking,
    in_angstrom,
    measure_finite,
    one_size,
    printable,
    release,
    sections,
)

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what is wrong with a file, an error of ours tells

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST = 2**32 - 2**25  # bytes, beyond which only a BigTIFF holds them


class Tiff(VolumeFile):
    """A TIFF file of one volume, page after page from z = 0 on; see `VolumeFile`.

    The voxel size is that of OME's or ImageJ's description; of the resolution, which many programs fill with 72 dots
    per inch, nothing is believed.
    """

    suffixes = (".tif", ".tiff")

    def __init__(self, path: Path, voxel_size: float | None = None, near: float | None = None) -> None:
        self.path = path
        try:
            with tifffile.TiffFile(path) as tiff:
                series = tiff.series[0]
                shape, dtype, axes = tuple(series.shape), series.dtype, series.axes
                self._count, self._offset = len(tiff.series), series.dataoffset
                sizes, self.labels = _told(tiff)
        except OSError as error:
            raise CryodenError(f"cannot read {path}: {error.strerror or error}") from error
        except Exception as error:  # whatever tifffile says of a file that is damaged
            raise CryodenError(f"{path} is a TIFF file that is damaged: {error}; copy it again") from error
        if (
            self._count > 1
            or len(shape) != 3
            or "S" in axes
            or dtype is None
            or dtype.kind not in "iuf"
            or not min(shape)
        ):
            many = f"{self._count} images, the first of " if self._count > 1 else ""
            raise CryodenError(
                f"{path} holds {many}shape {' × '.join(map(str, shape))} ({axes}) of {dtype}; a volume is needed: a "
                "stack of grey pages of one shape"
            )
        self._dtype = np.dtype(dtype).newbyteorder(tiff.byteorder)
        self._shape = (shape[0], shape[1], shape[2])
        end = 0 if self._offset is None else self._offset + math.prod(shape) * dtype.itemsize
        if end > path.stat().st_size:
            raise CryodenError(f"{path} is truncated: it has {path.stat().st_size} bytes of {end}; copy it again")
        self.voxel_size = one_size(path, sizes, voxel_size)

    @staticmethod
    def knows(path: Path) -> bool:
        """See `VolumeFile`."""
        try:
            with path.open("rb") as file:
                return file.read(4) in _MAGIC
        except OSError:
            return False

    def open(self) -> Volume:
        """See `VolumeFile`; pages that are compressed, or not one after another, are unpacked (TMPDIR says where)."""
        data: NDArray[Any]
        if self._offset is not None:
            data = np.memmap(self.path, self._dtype, mode="r", offset=self._offset, shape=self._shape)
        else:
            data = for_unpacking(self.path, self._shape, self._dtype.newbyteorder("="))
            try:
                with tifffile.TiffFile(self.path) as tiff:
                    for section, page in zip(data, tiff.series[0].pages, strict=True):
                        section[:] = np.squeeze(page.asarray())  # type: ignore[union-attr]  # missing pages are damage
                        release(data)
            except Exception as error:  # whatever tifffile and its codecs say of pages that are damaged
                raise CryodenError(f"{self.path}: its pages cannot be read: {error}; copy it again") from error
        return Volume(data, self.voxel_size, labels=self.labels)

    @staticmethod
    def write(
        partial: Path, name: Path, volume: Volume, voxels: np.dtype[Any], labels: Sequence[str], images: bool
    ) -> None:
        """See `VolumeFile`; as OME-TIFF, whose description has the voxel size in Å, and the labels."""
        measure_finite(name, volume.data, voxels)
        metadata: dict[str, Any] = {"axes": "ZYX", "Description": "\n".join(map(printable, (*volume.labels, *labels)))}
        if volume.voxel_size > 0:
            for axis in "XYZ":
                metadata |= {f"PhysicalSize{axis}": volume.voxel_size, f"PhysicalSize{axis}Unit": "Å"}

        def pages() -> Iterator[NDArray[Any]]:
            for section in sections(volume.data):
                yield section.astype(voxels)

        size = volume.data.size * voxels.itemsize
        with tifffile.TiffWriter(partial, bigtiff=size > _MOST, ome=True) as tiff:
            tiff.write(
                pages(),
                shape=volume.data.shape,
                dtype=voxels,
                metadata=metadata,
                contiguous=True,
                photometric="minisblack",
            )


def _told(tiff: tifffile.TiffFile) -> tuple[tuple[float, float, float], tuple[str, ...]]:
    """Voxel size along x, y, z in Å, zeros where that is not told, and the lines of a description."""
    unknown = (0.0, 0.0, 0.0)
    if tiff.ome_metadata:
        image = ElementTree.fromstring(tiff.ome_metadata).find("{*}Image")
        pixels = None if image is None else image.find("{*}Pixels")
        if image is None or pixels is None:
            return unknown, ()
        text = image.findtext("{*}Description") or ""
        x, y, z = (
            in_angstrom(pixels.get(f"PhysicalSize{axis}", 0), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
            for axis in "XYZ"
        )
        return (x, y, z) if min(x, y, z) > 0 else unknown, tuple(text.splitlines())
    told = tiff.imagej_metadata
    if told:
        unit = str(told.get("unit", ""))
        across = []
        for tag in ("XResolution", "YResolution"):
            dots, length = tiff.pages.first.tags[tag].value if tag in tiff.pages.first.tags else (0, 1)
            across.append(in_angstrom(length / dots if dots else 0, unit))
        x, y, z = across[0], across[1], in_angstrom(told.get("spacing", 0), unit)
        return (x, y, z) if min(x, y, z) > 0 else unknown, ()
    return unknown, ()
