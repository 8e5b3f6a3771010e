"""Which files are to be denoised, and where the results go: files, folders, patterns, and halves paired by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryoden.errors import CryodenError

# What a folder is searched for; tilt series (.st, .mrcs) and whatever else has to be named.
_SUFFIXES = (".mrc", ".rec", ".map")
_PACKED = (".gz", ".bz2")
_HALF = re.compile(r"_(?:(EVN|even|half1)|(ODD|odd|half2))(?=[_.])")
_HALF_FOLDERS = ("even", "odd")


@dataclass(frozen=True)
class Job:
    """One tomogram: a file, or its two halves.

    Attributes:
        name: What tables call it.
        inputs: The file; or first and second half.
        outputs: Where each is written when denoised.
        average: Where the average of the two denoised halves is written; None for a single file.
    """

    name: str
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    average: Path | None = None


def find_files(words: Sequence[str]) -> list[Path]:
    """The files that files, folders and patterns stand for, in order and each once.

    Args:
        words: Files are taken as they are; of folders, with those inside, all .mrc, .rec and .map, also compressed.

    Raises:
        CryodenError: A word stands for nothing.
    """
    found: list[Path] = []
    for word in words:
        path = Path(word)
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if _plain(each).suffix.lower() in _SUFFIXES)
            more = [each for each in inside if each.is_file() and not each.name.startswith(".")]
            if not more:
                raise CryodenError(f"{word}: no tomogram in this folder; looked for {', '.join(_SUFFIXES)}")
        elif path.exists() or not set(word) & set("*?["):
            more = [path]
        else:
            root = Path(path.anchor)
            more = sorted(root.glob(str(path.relative_to(root))))
            if not more:
                raise CryodenError(f"{word}: no file has such a name")
        found += more
    return list(dict.fromkeys(found))


def single_jobs(paths: Sequence[Path], folder: Path) -> list[Job]:
    """A job for each file; its result has its name, with .mrc, in a folder.

    Raises:
        CryodenError: Two would have the same result, or a result would be its own input.
    """
    return _checked([Job(str(path), (path,), (folder / f"{_plain(path).stem}.mrc",)) for path in paths])


def half_jobs(paths: Sequence[Path], folder: Path) -> tuple[list[Job], list[Path]]:
    """Pairs half tomograms by name: _EVN and _ODD, _even and _odd, _half1 and _half2, or folders even and odd.

    Args:
        paths: Halves, and whatever lies beside them.
        folder: Of the results: denoised halves under the names of the halves, the average without the half's mark.

    Returns:
        A job for each pair, and the files that are no half of anything.

    Raises:
        CryodenError: A half has no partner or two, or as in `single_jobs`.
    """
    pairs: dict[tuple[Path, str], dict[int, Path]] = {}
    others: list[Path] = []
    for path in paths:
        half = _half(path)
        if half is None:
            others.append(path)
            continue
        key, which = half
        twin = pairs.setdefault(key, {}).setdefault(which, path)
        if twin != path:
            raise CryodenError(f"{twin} and {path} are both half {which + 1} of {key[1]}; leave one out")
    lonely = [next(iter(halves.values())) for halves in pairs.values() if len(halves) == 1]
    if lonely:
        more = f" (and {len(lonely) - 1} more)" if len(lonely) > 1 else ""
        raise CryodenError(
            f"{lonely[0]}{more}: no other half beside it among the input; name both, or leave this one out"
        )
    if not pairs:
        raise CryodenError(
            "no half tomograms among the input; names are told by _EVN and _ODD, _even and _odd, _half1 and _half2, or "
            "folders even and odd"
        )
    jobs = []
    for (_, name), halves in pairs.items():
        inputs = (halves[0], halves[1])
        outputs = tuple(
            folder / (path.parent.name if _HALF.search(path.name) is None else "") / f"{_plain(path).stem}.mrc"
            for path in inputs
        )
        jobs.append(Job(name, inputs, outputs, folder / f"{_plain(Path(name)).stem}.mrc"))
    return _checked(jobs), others


def _half(path: Path) -> tuple[tuple[Path, str], int] | None:
    """Folder and name of the tomogram that a file is a half of, and which half; None if it is not."""
    found = _HALF.search(path.name)
    if found:
        return (path.parent, path.name[: found.start()] + path.name[found.end() :]), 0 if found[1] else 1
    if path.parent.name.lower() in _HALF_FOLDERS:
        return (path.parent.parent, path.name), _HALF_FOLDERS.index(path.parent.name.lower())
    return None


def _checked(jobs: list[Job]) -> list[Job]:
    inputs = {path.resolve() for job in jobs for path in job.inputs}
    seen: dict[Path, str] = {}
    for job in jobs:
        for output in (*job.outputs, *([job.average] if job.average else [])):
            if output.resolve() in inputs:
                raise CryodenError(f"{output} is an input and would be an output; give another folder with --output")
            other = seen.setdefault(output, job.name)
            if other != job.name:
                raise CryodenError(f"{other} and {job.name} would both be written to {output}; denoise them apart")
    return jobs


def _plain(path: Path) -> Path:
    """The path without .gz or .bz2."""
    return path.with_suffix("") if path.suffix.lower() in _PACKED else path
