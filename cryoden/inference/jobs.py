"""Which files are to be denoised, and where the results go: files, folders, patterns, and halves paired by name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from cryoden.errors import CryodenError
from cryoden.files import is_store, unpacked

# What a folder is searched for; whatever else has to be named.
_MRC = (".mrc", ".rec", ".map")
_KEPT = (".tif", ".tiff", ".zarr")  # and of what a result has the format, too
_SUFFIXES = _MRC + _KEPT
SEARCHED = f"{', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}"
"""What a folder is searched for, in words."""

_OTHERS = (".mrcs", ".st", ".ccp4")  # what else a result's name drops; ".00Apx" of Warp's is no suffix
_HALVES = ({"evn", "even", "half1"}, {"odd", "half2"})
# Only a last mark counts, before what AreTomo3 and Warp put behind it: an_odd_cell.mrc is no half.
_HALF = re.compile(r"_(evn|even|half1|odd|half2)(?=(_Vol|_[0-9.]+Apx)?$)", re.IGNORECASE)
_LONGEST = 200  # bytes of a name, which file systems end at 255; the rest is for the name that it is written under


@dataclass(frozen=True)
class Job:
    """One tomogram: a file, or its two halves.

    Attributes:
        name: What tables call it.
        inputs: The file; or first and second half.
        outputs: Where each is written when denoised.
        average: Where the average of the two denoised halves is written; None for a single file.
        tilts: A table of its tilt series, where one is named; see `cryoden.inference.tilts`.
        voxel_size: Å, where what lists the tomogram states it.
    """

    name: str
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    average: Path | None = None
    tilts: Path | None = None
    voxel_size: float | None = None

    @property
    def results(self) -> tuple[Path, ...]:
        """All volumes that are written."""
        return self.outputs if self.average is None else (*self.outputs, self.average)


def picture_of(result: Path | str) -> Path:
    """The picture beside a result."""
    return Path(result).with_suffix(".png")


def check_jobs(jobs: Sequence[Job], folder: Path | None = None, *, pictures: bool = False) -> None:
    """The one gate before any work: nothing is written outside the folder, over an input, or twice.

    Links are followed, and an input is safe from pictures beside the results, too. No flag opens this gate.

    Args:
        jobs: All of them, however they were named.
        folder: What is written must lie within; None: where the user named it.
        pictures: Pictures beside the results are written, too.

    Raises:
        CryodenError: A job is not as said above.
    """
    inputs = {same for job in jobs for path in job.inputs for same in _identity(path)}
    writers: dict[Path, Job] = {}
    for job in jobs:
        for output in job.results:
            where = f"{job.name}: its result would be {output}"
            if len(os.fsencode(output.name)) > _LONGEST or not output.name.isprintable():
                raise CryodenError(f"{where!r}, and a name has at most {_LONGEST} bytes, all printable: give another")
            if folder is not None and not output.resolve().is_relative_to(folder.resolve()):
                raise CryodenError(f"{where}, outside the folder {folder}: give the tomogram another name")
            for path in (output, picture_of(output)):
                if inputs & _identity(path) or inputs & {*path.resolve().parents}:
                    raise CryodenError(
                        f"{path} is an input and would be an output; give another name, or another folder with --output"
                    )
            for path in (output, picture_of(output)) if pictures else (output,):
                other = writers.setdefault(path.resolve(), job)
                if other is not job:
                    raise CryodenError(
                        f"{other.name} ({other.inputs[0]}) and {job.name} ({job.inputs[0]}) would both be written to "
                        f"{path}: name them apart, or give a folder above both, whose subfolders are kept"
                    )


def find_files(words: Sequence[str], output: Path | None = None) -> dict[Path, Path]:
    """The files that files, folders and patterns stand for, in order and each once.

    Args:
        words: Files are taken as they are, and so are the folders of OME-Zarr images; of other folders, with those
            inside, all .mrc, .rec and .map, also compressed, .tif, .tiff and .zarr. What is hidden is left out, unless
            a pattern has its dot.
        output: A folder of results, which is left out where it lies within a folder that is searched.

    Returns:
        Each file, and its path from the folder that was searched, or from where a pattern begins; of a file that was
        named, its name.

    Raises:
        CryodenError: A word stands for nothing, or is no pattern.
    """
    found: dict[Path, Path] = {}
    for word in words:
        path = Path(word)
        if path.is_dir() and not is_store(path):
            more = [each for each in _inside(path, output) if _is_tomogram(each)]
            if not more:
                raise CryodenError(f"{word}: no tomogram in this folder; looked for {SEARCHED}")
            found |= {each: each.relative_to(path) for each in more if each not in found}
        elif path.exists() or not set(word) & set("*?["):
            found.setdefault(path, Path(path.name))
        else:
            fixed = next(i for i, part in enumerate(path.parts) if set(part) & set("*?["))
            base, pattern = Path(*path.parts[:fixed]), Path(*path.parts[fixed:])
            try:
                matching = [
                    each for each in sorted(base.glob(str(pattern))) if _is_meant(each.relative_to(base), pattern)
                ]
            except ValueError as error:  # of Python before 3.13
                raise CryodenError(f"{word}: no such pattern: ** stands for whole folders, as in '**/*.mrc'") from error
            more = _apart([each for each in matching if each.is_file() or is_store(each)], base, output)
            if not more:
                raise CryodenError(f"{word}: no file has such a name")
            found |= {each: each.relative_to(base) for each in more if each not in found}
    return found


def passed_over(words: Sequence[str], output: Path | None = None) -> list[Path]:
    """The files in the folders among the words of `find_files` that are no tomograms by their names."""
    folders = [path for path in map(Path, words) if path.is_dir() and not is_store(path)]
    return [each for folder in folders for each in _inside(folder, output) if not _is_tomogram(each)]


def single_jobs(files: Mapping[Path, Path], folder: Path) -> list[Job]:
    """A job for each file of `find_files`; its result is called as `result_name` says, in its subfolder of a folder."""
    return [Job(str(path), (path,), ((folder / below).with_name(result_name(path)),)) for path, below in files.items()]


def half_jobs(files: Mapping[Path, Path], folder: Path) -> tuple[list[Job], list[Path]]:
    """Pairs half tomograms by the last mark of their names, or by folders: EVN and ODD, even and odd, half1 and half2.

    Args:
        files: Of `find_files`: halves, and whatever lies beside them.
        folder: Of the results: denoised halves under the names of the halves, the average without the half's mark.

    Returns:
        A job for each pair, and the files that are no half of anything.

    Raises:
        CryodenError: A half has no partner or two, or there is none.
    """
    pairs: dict[tuple[Path, str], dict[int, Path]] = {}
    others: list[Path] = []
    for path in files:
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
            "no half tomograms among the input; names are told by _EVN and _ODD, _even and _odd, _half1 and _half2 at "
            "their end, or by folders of these names"
        )
    jobs = []
    for (_, name), halves in pairs.items():
        inputs = (halves[0], halves[1])
        places = [folder / _without_half(files[path]) for path in inputs]
        outputs = tuple(
            place / (path.parent.name if half_folder(path.parent) is not None else "") / result_name(path)
            for place, path in zip(places, inputs, strict=True)
        )
        jobs.append(Job(name, inputs, outputs, places[0] / result_name(Path(name))))
    return jobs, others


def _half(path: Path) -> tuple[tuple[Path, str], int] | None:
    """Folder and name of the tomogram that a file is a half of, and which half; None if it is not."""
    name = bare_name(path)
    found = _HALF.search(name)
    if found:
        which = int(found[1].lower() in _HALVES[1])
        home = path.parent.parent if half_folder(path.parent) == which else path.parent
        return (home, f"{name[: found.start()]}{name[found.end() :]}{_ending(path)}"), which
    folder = half_folder(path.parent)
    return None if folder is None else ((path.parent.parent, path.name), folder)


def half_folder(folder: Path) -> int | None:
    """Which halves a folder of such a name holds."""
    return next((which for which, names in enumerate(_HALVES) if folder.name.lower() in names), None)


def _without_half(below: Path) -> Path:
    """The subfolder of a file, without the folder of its half."""
    return below.parent if half_folder(below.parent) is None else below.parent.parent


def _inside(folder: Path, output: Path | None, above: tuple[Path, ...] = ()) -> list[Path]:
    """The files in a folder and its subfolders, and the stores, without hidden ones and results.

    A link is followed unless it leads back to a folder that this one lies in, or was come by.
    """
    found: list[Path] = []
    above = (*above, folder.resolve())
    for each in _apart(sorted(folder.iterdir()), folder, output):
        if each.name.startswith("."):
            continue
        if each.is_dir() and not is_store(each):
            place = each.resolve()
            found += [] if any(one.is_relative_to(place) for one in above) else _inside(each, output, above)
        elif each.exists():
            found.append(each)
    return found


def _is_meant(found: Path, pattern: Path) -> bool:
    """Whether a pattern asks for what it matches: for hidden files and folders only where it has their dot, too."""
    asked = [part for part in pattern.parts if part.startswith(".")]
    hidden = [part for part in found.parts if part.startswith(".")]
    return all(any(fnmatchcase(part, each) for each in asked) for part in hidden)


def _is_tomogram(path: Path) -> bool:
    return unpacked(path).suffix.lower() in _SUFFIXES


def _apart(paths: Sequence[Path], searched: Path, output: Path | None) -> list[Path]:
    """Without those in a folder of results within the folder that was searched."""
    if output is None or searched.resolve() not in output.resolve().parents:
        return list(paths)
    return [path for path in paths if not path.resolve().is_relative_to(output.resolve())]


def _identity(path: Path) -> set[object]:
    """What tells that two names are one file: where it lies, links followed, and what it is there."""
    try:
        status = path.stat()
    except OSError:
        return {path.resolve()}
    return {path.resolve(), (status.st_dev, status.st_ino)}


def result_name(path: Path) -> str:
    """The name of a file's result: in its format, unpacked, and with .mrc where that is not told otherwise."""
    return bare_name(path) + _ending(path)


def bare_name(path: Path) -> str:
    """The name of a file without what tells its format."""
    plain = unpacked(path)
    return plain.name.removesuffix(_ending(path)) if _is_kept(plain) else plain.stem if _is_mrc(plain) else plain.name


def _ending(path: Path) -> str:
    """What ends the name of a file's result."""
    plain = unpacked(path)
    if not _is_kept(plain):
        return ".mrc"
    return "".join(plain.suffixes[-2:]) if plain.stem.lower().endswith(".ome") else plain.suffix


def _is_kept(plain: Path) -> bool:
    return plain.suffix.lower() in _KEPT


def _is_mrc(plain: Path) -> bool:
    return plain.suffix.lower() in _MRC + _OTHERS
