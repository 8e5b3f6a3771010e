"""Files written so that a reader finds a whole one or none, and so that nothing is replaced unasked."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from cryoden.errors import CryodenError


def refuse_existing(path: Path | str, *, overwrite: bool) -> None:
    """Refuse to replace a file, or to fill a folder that holds something: for asking before long work begins.

    Args:
        path: what is to be written.
        overwrite: replacing was asked for.

    Raises:
        CryodenError: there is a file, or a folder that is not empty.
    """
    path = Path(path)
    if overwrite or not (any(path.iterdir()) if path.is_dir() else path.exists()):
        return
    what = "is a folder that is not empty" if path.is_dir() else "exists"
    raise CryodenError(f"{path} {what}; choose another name or allow overwriting (--overwrite)")


def check_output(path: Path | str, *, overwrite: bool, size: int = 0) -> None:
    """Check that a file may be written, so that nobody waits an hour to learn that it may not.

    Args:
        path: The file.
        overwrite: Whether it may exist.
        size: Bytes that the disk must have room for.

    Raises:
        CryodenError: The file exists and may not be overwritten, its folder is missing or not writable, or the
            disk is too full.
    """
    path = Path(path)
    if path.is_dir():
        raise CryodenError(f"cannot write {path}: it is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise CryodenError(f"cannot write {path}: there is no folder {path.parent}; create it first")
    if not os.access(path.parent, os.W_OK):
        raise CryodenError(f"cannot write {path}: the folder {path.parent} is not writable")
    refuse_existing(path, overwrite=overwrite)
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise CryodenError(
            f"cannot write {path}: {tell_size(size)} are needed there while it is made, and {tell_size(free)} are "
            "free; make room, or choose another disk"
        )


def tell_size(size: int) -> str:
    """A number of bytes in words, so precisely that what is a little too little shows.

    >>> tell_size(999), tell_size(161280), tell_size(3_000_000_000)
    ('999 bytes', '161.28 kB', '3 GB')
    """
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.6g} {unit}"
    return f"{size} bytes"


@contextmanager
def whole_file(path: Path | str, *, overwrite: bool) -> Iterator[Path]:
    """A name beside a file's own, to write to; when that is done, it is moved, so that a file is whole or not there.

    Whatever ends the writing, the temporary file is gone and what was there before is untouched. What processes that
    were killed had begun of this very file is removed.

    Args:
        path: the file; its folder is made where it is missing.
        overwrite: replace an existing file.

    Yields:
        The temporary name.

    Raises:
        CryodenError: the file exists, or the disk refuses it.
    """
    path = Path(path)
    refuse_existing(path, overwrite=overwrite)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(path)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise CryodenError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if partial.exists():
            partial.unlink()


def write_text(path: Path | str, text: str, *, overwrite: bool) -> None:
    """Write a text file, whole or not at all.

    Args:
        path: the file.
        text: what to write.
        overwrite: replace an existing file.

    Raises:
        CryodenError: the file exists, or the disk refuses it.
    """
    with whole_file(path, overwrite=overwrite) as partial:
        partial.write_text(text, encoding="utf-8")


def _clear_leftovers(path: Path) -> None:
    """Remove what processes that were killed had written of this file."""
    for partial in path.parent.glob(f".{escape(path.name)}.*.part"):
        number = partial.suffixes[-2][1:]
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            partial.unlink(missing_ok=True)
        except (ValueError, OSError):  # not ours
            continue
