"""RELION 5's tables of tomograms (tomograms.star): halves or tomograms in, a column for the denoised ones out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryoden.errors import CryodenError
from cryoden.files import whole_file
from cryoden.inference.jobs import Job

_NAME = "rlnTomoName"
_HALVES = ("rlnTomoReconstructedTomogramHalf1", "rlnTomoReconstructedTomogramHalf2")
_WHOLE = "rlnTomoReconstructedTomogram"
_DENOISED = "rlnTomoReconstructedTomogramDenoised"


def star_jobs(path: Path, folder: Path) -> list[Job]:
    """The tomograms of a table: their halves where it has them, else the tomograms themselves.

    Args:
        path: A RELION 5 tomogram star file. Paths in it are relative to RELION's project folder: the current one, or
            the nearest one above the star file in which they exist.
        folder: Of the results, which have the tomograms' names.

    Raises:
        CryodenError: The file is no such table.
    """
    _, table = _read(path)
    halves = all(column in table for column in _HALVES)
    if _NAME not in table or not (halves or _WHOLE in table):
        raise CryodenError(
            f"{path} is no RELION 5 table of tomograms: it needs {_NAME}, and {_HALVES[0]}/2 or {_WHOLE}"
        )
    jobs = []
    for name, *files in zip(
        table[_NAME], *(table[column] for column in (_HALVES if halves else (_WHOLE,))), strict=True
    ):
        inputs = tuple(_locate(str(file), path) for file in files)
        result = folder / f"{name}.mrc"
        if halves:
            outputs = tuple(folder / f"{name}_half{number}.mrc" for number in (1, 2))
            jobs.append(Job(str(name), inputs, outputs, result))
        else:
            jobs.append(Job(str(name), inputs, (result,)))
    return jobs


def write_star(path: Path, target: Path, jobs: Sequence[Job]) -> None:
    """Writes the table again, all its columns kept, with the denoised tomograms in a column of their own.

    Args:
        path: The table that was read.
        target: The one to write.
        jobs: Of `star_jobs`.
    """
    blocks, table = _read(path)
    table[_DENOISED] = [str(job.average or job.outputs[0]) for job in jobs]
    with whole_file(target, overwrite=True) as partial:
        _starfile().write(dict(blocks), partial, overwrite=True)


def _read(path: Path) -> tuple[Mapping[str, Any], Any]:
    """All blocks of a star file, and the one with the tomograms."""
    library = _starfile()
    if not path.is_file():
        raise CryodenError(f"cannot read {path}: there is no such file")
    try:
        blocks: Mapping[str, Any] = library.read(path, always_dict=True)
    except Exception as error:  # whatever a parser may say of a file that is something else
        raise CryodenError(f"{path} is not a star file: {error}") from error
    for block in blocks.values():
        if hasattr(block, "columns") and _NAME in block.columns:
            return blocks, block
    raise CryodenError(f"{path} is no RELION 5 table of tomograms: no block of it has a column {_NAME}")


def _starfile() -> Any:
    try:
        import starfile
    except ImportError as error:
        raise CryodenError("star files need the package starfile: pip install 'cryoden[relion]'") from error
    return starfile


def _locate(file: str, star: Path) -> Path:
    for folder in (Path(), *star.absolute().parents):
        if (folder / file).exists():
            return folder / file
    return Path(file)
