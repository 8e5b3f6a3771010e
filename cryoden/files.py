"""Files written so that a reader finds a whole one or none, and so that nothing is replaced unasked."""

import errno
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from cryoden.errors import CryodenError, closest

try:
    import fcntl
except ImportError:  # Windows, where nothing of this kind spans processes
    fcntl = None  # type: ignore[assignment]
_LOCKLESS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # file systems where it does so neither

_EXPERIMENTS = ("*.yaml", "overlays/*.yaml", "simulations/*.yaml")  # of which the command line takes the arguments
_PACKED = (".gz", ".bz2")
_STORE = (".zgroup", ".zarray", "zarr.json")  # what tells that a folder is one
_MACHINE = re.sub(r"\W", "_", platform.node())[:30] or "machine"
_LEFT = re.compile(rf"\.(.+)\.{_MACHINE}\.(\d+)\.(part|before)")  # by a process of this machine


def find_experiment(name: str) -> Path:
    """A configuration: a file, or where there is none of this name one that comes with cryoden, such as gan.

    Args:
        name: a path; or what a file in `experiments/` is called, with or without that folder and .yaml.

    Raises:
        CryodenError: it is neither.
    """
    if Path(name).exists():
        return Path(name)
    home = Path(__file__).with_name("experiments")  # in the wheel, and beside the package in its sources
    home = home if home.is_dir() else Path(__file__).parents[1] / "experiments"
    there = [path for pattern in _EXPERIMENTS for path in sorted(home.glob(pattern))]
    known = {path.relative_to(home).with_suffix("").as_posix(): path for path in there}
    plain = name.removeprefix("experiments/").removesuffix(".yaml")
    if plain in known:
        return known[plain]
    close = closest(plain, known)
    meant = f"did you mean {close!r}? " if close else ""
    raise CryodenError(f"{name}: no such file; {meant}with cryoden come {', '.join(known)}")


def read_yaml(path: Path, what: str) -> Any:
    """What a YAML file says.

    Args:
        path: the file; it may be anyone's.
        what: errors call it.

    Raises:
        CryodenError: it cannot be read.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CryodenError(f"{what} {path}: cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error


def refuse_existing(path: Path | str, *, overwrite: bool) -> None:
    """Refuse to replace a file or a store, or to fill a folder that holds something: to ask before long work begins.

    Args:
        path: what is to be written.
        overwrite: replacing was asked for.

    Raises:
        CryodenError: there is a file, or a folder that is not empty.
    """
    path = Path(path)
    if overwrite or not (any(path.iterdir()) if path.is_dir() else path.exists()):
        return
    what = "is a folder that is not empty" if path.is_dir() and not is_store(path) else "exists"
    raise CryodenError(f"{path} {what}; choose another name or allow overwriting (--overwrite)")


def is_store(path: Path) -> bool:
    """Whether a folder stands for one file: a Zarr store."""
    return any((path / name).is_file() for name in _STORE)


def unpacked(path: Path) -> Path:
    """The path without the ending that tells that its file is compressed."""
    return path.with_suffix("") if path.suffix.lower() in _PACKED else path


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
    if path.is_dir() and not is_store(path):
        raise CryodenError(f"cannot write {path}: it is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise CryodenError(f"cannot write {path}: there is no folder {path.parent}; create it first")
    if not os.access(path.parent, os.W_OK):
        raise CryodenError(f"cannot write {path}: the folder {path.parent} is not writable")
    refuse_existing(path, overwrite=overwrite)
    require_room(path, size)


def check_folder(folder: Path | str, *, overwrite: bool, size: int = 0) -> None:
    """Check that a folder may be filled, so that nobody waits an hour to learn that it may not.

    Args:
        folder: It, its parents too, need not exist.
        overwrite: Whether it may hold something.
        size: Bytes that the disk must have room for.

    Raises:
        CryodenError: It holds something, or is none, or cannot be made or written to, or the disk is too full.
    """
    folder = Path(folder)
    try:
        if folder.exists() and not folder.is_dir():
            raise CryodenError(f"output {folder}: is a file; give the name of a folder")
        refuse_existing(folder, overwrite=overwrite)
        nearest = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    except OSError as error:
        raise CryodenError(f"output {folder}: cannot be made a folder: {error.strerror or error}") from error
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        why = "not writable" if nearest.is_dir() else "a file"
        raise CryodenError(f"output {folder}: cannot be made a folder: {nearest} is {why}")
    require_room(nearest / folder.name, size)


@contextmanager
def made_folder(folder: Path | str) -> Iterator[None]:
    """A folder that is there while something is written to it, and stays if something was.

    Args:
        folder: Made where it is missing, with its parents.

    Raises:
        CryodenError: The disk refuses it.
    """
    folder = Path(folder)
    try:
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CryodenError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # the first that holds something stays, and so do those around it
            for each in made:
                each.rmdir()


def require_room(path: Path, size: int) -> None:
    """Refuse to begin a file that the disk has no room for.

    Args:
        path: The file, in a folder that exists.
        size: Bytes.

    Raises:
        CryodenError: There is less.
    """
    if size and size > (free := shutil.disk_usage(path.parent).free):
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

    Whatever ends the writing, the temporary file is gone and what was there before is untouched. What processes of this
    machine that were killed had begun in this folder is removed, what they had set aside put back. A store is a file,
    too.

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
    partial = unfinished(path)
    aside = partial.with_suffix(".before")
    with made_folder(path.parent):
        try:
            clear_leftovers(path.parent)
            yield partial
            if is_store(path):  # which nothing can be moved onto
                path.replace(aside)
            partial.replace(path)
        except OSError as error:
            raise CryodenError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            with suppress(OSError):  # whoever writes here next does it
                _remove(partial)
                _settle(aside, path)


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


@contextmanager
def claimed(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """The sole right to make a file, among all processes that ask for it; it ends with the process, however that ends.

    Args:
        path: What is going to be made, in a folder that exists.
        wait: Until it is nobody else's.

    Yields:
        Whether the right was had; always, where it was waited for.

    Raises:
        CryodenError: The disk refuses it.
    """
    if fcntl is None:
        yield True
        return
    lock = path.with_name(f".{path.name}.lock")
    try:
        number = _lock(lock, wait=wait)
    except OSError as error:
        raise CryodenError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        yield number is not None
    finally:
        if number is not None:
            lock.unlink(missing_ok=True)
            os.close(number)


def _lock(lock: Path, *, wait: bool) -> int | None:
    """A descriptor of a file that is locked by it, if its file system can; None where another process has locked it."""
    while True:
        number = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(os.fstat(number), lock.stat()):
                return number
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(number)
            return None
        except BaseException as error:
            if isinstance(error, OSError) and error.errno in _LOCKLESS:
                return number
            os.close(number)
            raise
        os.close(number)  # of what another process has just let go of and removed


def unfinished(path: Path) -> Path:
    """A name beside a file's or folder's own that says who is at it, so that `clear_leftovers` knows what is dead."""
    return path.with_name(f".{path.name}.{_MACHINE}.{os.getpid()}.part")


def clear_leftovers(folder: Path) -> None:
    """Remove what killed processes of this machine had begun in a folder, and put back what they had set aside.

    Of the processes of other machines nothing is known here.
    """
    for left in folder.glob(".*"):
        found = _LEFT.fullmatch(left.name)
        if found is None or _runs(int(found[2])):
            continue
        if found[3] == "part":
            _remove(left)
        else:
            _settle(left, folder / found[1])


def _runs(process: int) -> bool:
    """Whether there is a process of this number, as far as the system tells."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OverflowError, OSError):
        pass
    return True


def _settle(aside: Path, path: Path) -> None:
    """Removes what was set aside, or puts it back where nothing came in its place."""
    if path.exists():
        _remove(aside)
    elif aside.exists():
        aside.replace(path)


def _remove(path: Path) -> None:
    """Removes a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
