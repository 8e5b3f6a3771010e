"""A result that is being made, in a file beside its own, so that what was stopped can be gone on with."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryoden.errors import CryodenError
from cryoden.files import tell_size
from cryoden.signals import Stopped
from cryoden.volume import nameless

_KIND = np.dtype(np.float64)
_NOTE = 128  # bytes after the voxels that say of what they are, and how many tiles of it are done
_SHARE = 0.05  # of the time, that goes into notes: a disk may be slow to keep what tiles have changed


@dataclass(eq=False)
class Begun:
    """Voxels of a result, and how many of its tiles are done.

    Attributes:
        data: (D, H, W) float64, mapped.
        path: Of its file; None: it has no name, and nothing is left of it when the process ends.
        key: What it is a result of.
        done: Tiles.
        total: Tiles in all, as far as it is known.
    """

    data: NDArray[np.float64]
    path: Path | None = None
    key: str = ""
    done: int = 0
    total: int = 0
    _next: float = field(default=0.0, init=False)  # when it is noted again

    def tell(self, done: int, total: int) -> None:
        """Tiles are done: note it, as often as costs little."""
        self.done, self.total = done, total
        began = time.monotonic()
        if began >= self._next:
            self.note()
            now = time.monotonic()
            self._next = now + (now - began) / _SHARE

    def note(self) -> None:
        """Write how many tiles are done, after what they changed."""
        if self.path is None:
            return
        if isinstance(self.data, np.memmap):
            self.data.flush()
        text = json.dumps({"key": self.key, "done": self.done}).ljust(_NOTE)
        with self.path.open("r+b") as file:
            file.seek(self.data.nbytes)
            file.write(text.encode())

    def spoil(self) -> None:
        """From now on the voxels are no longer those of tiles: nothing can be gone on with."""
        self.done = 0
        self.note()


@contextmanager
def begun(path: Path, shape: tuple[int, ...], key: str) -> Iterator[Begun]:
    """Room for a result while it is made, with what was done of it when it was stopped last.

    It lies in a hidden file beside the result's, and is gone when the result is made, or cannot be. When somebody stops
    it, or the process is killed, it stays. Where there is no key, it lies in a file without a name.

    Args:
        path: Of the result, which is claimed, see `cryoden.files.claimed`.
        shape: (D, H, W).
        key: Of all that decides its tiles; "": it cannot be gone on with.

    Yields:
        It.

    Raises:
        CryodenError: The disk has no room.
    """
    if not key:
        yield Begun(scratch(path.parent, shape))
        return
    place = _place(path)
    result = _open(place, shape, hashlib.sha256(key.encode()).hexdigest()[:32])
    kept = False
    try:
        yield result
    except (Stopped, KeyboardInterrupt) as stop:
        kept = result.done > 0
        if kept:
            result.note()
        if kept and isinstance(stop, Stopped):
            of = f"{result.done} of {result.total} tiles"
            stop.told = f"; {of} are kept in {place}, and the same command goes on from there"
        raise
    finally:
        if not kept:
            place.unlink(missing_ok=True)


def kept_bytes(path: Path) -> int:
    """Bytes on the disk that a result which was stopped has already; they are used again."""
    place = _place(path)
    return place.stat().st_size if place.is_file() else 0


def scratch(folder: Path, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """An array for a result while it is made; see `nameless`.

    Raises:
        CryodenError: The disk has no room.
    """
    return nameless(folder, shape, _KIND, _WHAT, _WAY_OUT)


_WHAT, _WAY_OUT = "while the result is made", "make room, or choose another disk"


def _place(path: Path) -> Path:
    return path.with_name(f".{path.name}.begun")


def _open(place: Path, shape: tuple[int, ...], key: str) -> Begun:
    """The file, as it was left if it is of this key, else empty."""
    size = math.prod(shape) * _KIND.itemsize
    done = 0
    try:
        with place.open("a+b") as file:
            if file.tell() == size + _NOTE:
                file.seek(size)
                done = _told(file.read(_NOTE), key)
            if not done:
                file.truncate(0)
                if hasattr(os, "posix_fallocate"):  # where a mapped file cannot grow, the system ends the process
                    os.posix_fallocate(file.fileno(), 0, size + _NOTE)
                else:
                    file.truncate(size + _NOTE)
        data = np.memmap(place, _KIND, mode="r+", shape=shape)
    except OSError as error:
        place.unlink(missing_ok=True)
        raise CryodenError(
            f"cannot take {tell_size(size)} in {place.parent} {_WHAT}: {error.strerror or error}; {_WAY_OUT}"
        ) from error
    return Begun(data, place, key, done)


def _told(note: bytes, key: str) -> int:
    """How many tiles a note says are done; none, where it is none, or of something else."""
    try:
        found = json.loads(note)
        return int(found["done"]) if found["key"] == key else 0
    except (ValueError, KeyError, TypeError):
        return 0
