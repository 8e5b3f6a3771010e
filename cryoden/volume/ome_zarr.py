"""OME-Zarr images, versions 0.4 and 0.5: a folder of chunks, in several sizes."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoden.errors import CryodenError
from cryoden.files import is_store
from cryoden.version import __version__
from cryoden.volume.base import (
    Volume,
    VolumeFile,
    for_unpacking,
    in_angstrom,
    measure_finite,
    one_size,
    printable,
    release,
    require_whole,
)

_log = logging.getLogger(__name__)

_CHUNK = 128  # voxels along each edge; a level that fits into one is the last
_SAME_SIZE = 0.1  # a stated voxel size is that of a level if it differs by less than this share


@dataclass(frozen=True)
class _Level:
    """One of the sizes of an image.

    Attributes:
        path: Of its array, in the folder.
        sizes: Å along x, y, z; zeros where that is not told.
        origin: Of its first voxel, x, y, z in Å.
    """

    path: str
    sizes: tuple[float, float, float]
    origin: tuple[float, float, float]


class OmeZarr(VolumeFile):
    """A folder that holds an OME-Zarr image of one volume; see `VolumeFile`."""

    suffixes = (".zarr",)
    title, library = "OME-Zarr", "zarr"

    def __init__(self, path: Path, voxel_size: float | None = None, near: float | None = None) -> None:
        self.path = path
        self.require(path)
        zarr = import_module("zarr")
        try:
            group = zarr.open_group(path, mode="r")
            attributes = group.attrs.asdict()
        except Exception as error:  # whatever zarr says of a folder that is something else
            raise CryodenError(f"{path} is not an OME-Zarr image: {error}") from error
        levels, self._kept = _levels(path, attributes)
        level = _choose(path, levels, voxel_size, near)
        try:
            self._array: Any = group[level.path]
            shape, dtype = self._array.shape, self._array.dtype
        except Exception as error:
            raise CryodenError(f"{path}: its array {level.path!r} cannot be read: {error}; copy it again") from error
        others = [size for place, size in enumerate(shape) if place not in self._kept]
        if len(shape) != 3 + len(others) or others != [1] * len(others) or dtype.kind not in "iuf" or not min(shape):
            raise CryodenError(
                f"{path} holds shape {' × '.join(map(str, shape))} of {dtype}; a volume is needed: z, y and x, and "
                "real numbers, of one channel at one time"
            )
        self.voxel_size = one_size(path, level.sizes, voxel_size)
        self._origin = level.origin
        told = attributes.get("cryoden")
        self.labels = (
            tuple(printable(str(each)) for each in told["labels"])
            if isinstance(told, Mapping) and "labels" in told
            else ()
        )

    @staticmethod
    def knows(path: Path) -> bool:
        """See `VolumeFile`."""
        return is_store(path)

    def open(self) -> Volume:
        """See `VolumeFile`; chunk after chunk is unpacked into a temporary file (TMPDIR says where)."""
        array = self._array
        shape = tuple(array.shape[place] for place in self._kept)
        order = np.argsort(np.argsort(self._kept))  # of z, y, x among themselves
        data = for_unpacking(self.path, shape, array.dtype.newbyteorder("="))
        chunks = [array.chunks[place] for place in self._kept]
        try:
            missing = array.nchunks - array.nchunks_initialized  # below 0 where shards reach beyond the volume
            if missing > 0:
                _log.warning(
                    "%d of %d chunks of %s are missing and read as %s, as those that hold nothing else; if they should "
                    "be there, copy it again",
                    missing,
                    array.nchunks,
                    self.path,
                    array.fill_value,
                )
            for block in _blocks(shape, chunks):
                whole: list[Any] = [0] * array.ndim
                for place, part in zip(self._kept, block, strict=True):
                    whole[place] = part
                data[block] = array[tuple(whole)].transpose(order)
                release(data)
        except Exception as error:  # whatever zarr and its codecs say of chunks that are damaged
            raise CryodenError(f"{self.path}: its chunks cannot be read: {error}; copy it again") from error
        return Volume(data, self.voxel_size, self._origin, labels=self.labels)

    @staticmethod
    def write(
        partial: Path, name: Path, volume: Volume, voxels: np.dtype[Any], labels: Sequence[str], images: bool
    ) -> None:
        """See `VolumeFile`; as version 0.4, which every program that reads OME-Zarr knows, in several sizes."""
        zarr = import_module("zarr")
        measure_finite(name, volume.data, voxels)
        group = zarr.open_group(partial, mode="w", zarr_format=2)
        edge = volume.voxel_size or 1.0
        datasets = []
        source: Any = volume.data
        for number, shape in enumerate(_pyramid(volume.data.shape)):
            array = group.create_array(
                str(number),
                shape=shape,
                chunks=tuple(min(_CHUNK, size) for size in shape),
                dtype=voxels,
                chunk_key_encoding={"name": "v2", "separator": "/"},
            )
            for block in _blocks(shape, array.chunks):
                array[block] = (_halved(source, block) if number else source[block]).astype(voxels)
                require_whole(source)
                release(source)
            # the first voxel of a coarser level lies amid those that it is the mean of
            places = [each + edge * (2**number - 1) / 2 for each in volume.origin[::-1]]
            transformations = [
                {"type": "scale", "scale": [edge * 2**number] * 3},
                {"type": "translation", "translation": places},
            ]
            datasets.append({"path": str(number), "coordinateTransformations": transformations})
            source = array
        unit = {"unit": "angstrom"} if volume.voxel_size > 0 else {}
        group.attrs["multiscales"] = [
            {
                "version": "0.4",
                "name": name.name.removesuffix(".zarr").removesuffix(".ome"),
                "axes": [{"name": axis, "type": "space", **unit} for axis in "zyx"],
                "datasets": datasets,
                "type": "mean",
            }
        ]
        group.attrs["cryoden"] = {"version": __version__, "labels": [*volume.labels, *labels]}


def _levels(path: Path, attributes: Mapping[str, Any]) -> tuple[list[_Level], tuple[int, int, int]]:
    """The sizes of an image, and the places of z, y and x among its axes.

    Raises:
        CryodenError: Its metadata are none of OME-Zarr 0.4 or 0.5.
    """
    try:
        image = dict(attributes.get("ome", attributes))["multiscales"][0]
        axes = {axis["name"]: place for place, axis in enumerate(image["axes"])}
        kept = axes["z"], axes["y"], axes["x"]
        units = [str(image["axes"][place].get("unit", "")) for place in kept]
        levels = []
        for dataset in image["datasets"]:
            scale, place = [1.0] * len(axes), [0.0] * len(axes)
            for step in (*dataset["coordinateTransformations"], *image.get("coordinateTransformations", ())):
                if step["type"] == "scale":
                    scale = [a * float(b) for a, b in zip(scale, step["scale"], strict=True)]
                    place = [a * float(b) for a, b in zip(place, step["scale"], strict=True)]
                elif step["type"] == "translation":
                    place = [a + float(b) for a, b in zip(place, step["translation"], strict=True)]
            z, y, x = (in_angstrom(scale[each], unit) for each, unit in zip(kept, units, strict=True))
            lies = [in_angstrom(place[each], unit, anywhere=True) for each, unit in zip(kept, units, strict=True)]
            sizes = (x, y, z) if min(x, y, z) > 0 else (0.0, 0.0, 0.0)
            levels.append(_Level(str(dataset["path"]), sizes, (lies[2], lies[1], lies[0])))
        if not levels:
            raise ValueError("no datasets")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise CryodenError(
            f"{path} is not an OME-Zarr image of version 0.4 or 0.5: its metadata lack multiscales with axes z, y, x "
            f"and a scale for each dataset ({type(error).__name__}: {error}); give the folder that has them"
        ) from error
    return levels, kept


def _choose(path: Path, levels: Sequence[_Level], stated: float | None, near: float | None) -> _Level:
    """The level that is nearest in voxel size to what is stated, else to what is wished for, else the finest.

    Raises:
        CryodenError: What is stated is the voxel size of none of several.
    """
    sizes = [float(np.mean(level.sizes)) for level in levels]
    wanted = stated or near or min(sizes)
    if min(sizes) <= 0:
        return levels[0]
    found = min(range(len(levels)), key=lambda number: abs(math.log(sizes[number] / wanted)))
    if stated and len(levels) > 1 and abs(sizes[found] / stated - 1) > _SAME_SIZE:
        told = ", ".join(f"{size:.4g}" for size in sizes)
        raise CryodenError(f"{path} has levels of {told} Å, and {stated:g} Å was stated: give one of these")
    return levels[found]


def _pyramid(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The shapes of a volume's levels, each half as large as the one before, to the first that fits into a chunk."""
    yield shape
    while max(shape) > _CHUNK and min(shape) > 1:
        shape = tuple(size // 2 for size in shape)
        yield shape


def _halved(finer: Any, block: tuple[slice, ...]) -> NDArray[np.float64]:
    """A block of a level: the mean of eight voxels of the finer one for each of its own."""
    whole = np.asarray(finer[tuple(slice(2 * part.start, 2 * part.stop) for part in block)])
    corners = itertools.product((0, 1), repeat=3)
    eight = (whole[z::2, y::2, x::2].astype(np.float64) for z, y, x in corners)
    return np.asarray(sum(eight)) / 8


def _blocks(shape: Sequence[int], chunks: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """The chunks of an array."""
    starts = [range(0, size, chunk) for size, chunk in zip(shape, chunks, strict=True)]
    for corner in itertools.product(*starts):
        yield tuple(
            slice(start, min(start + chunk, size)) for start, chunk, size in zip(corner, chunks, shape, strict=True)
        )
