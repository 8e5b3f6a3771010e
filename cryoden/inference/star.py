"""RELION 5's tables of tomograms (tomograms.star): halves or tomograms in, a column for the denoised ones out.

A table is read as text and stays the text that it was: a name such as 00255 is no number, and what was not changed is
written as it was read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from cryoden.errors import CryodenError
from cryoden.files import write_text
from cryoden.inference.jobs import Job, find_files, half_jobs

_NAME = "rlnTomoName"
_HALVES = ("rlnTomoReconstructedTomogramHalf1", "rlnTomoReconstructedTomogramHalf2")
_WHOLE = "rlnTomoReconstructedTomogram"
_DENOISED = "rlnTomoReconstructedTomogramDenoised"
_SERIES = "rlnTomoTiltSeriesStarFile"
# As aligned by RELION 5, which the tomogram was made with; as recorded, in Warp's .tomostar and in RELION's table.
_TILTS = ("rlnTomoYTilt", "wrpAngleTilt", "rlnTomoNominalStageTiltAngle")
_NOTHING = {"", "None", "none", "null", "."}  # what programs write where there is no file

# A value in quotes, which end where a blank follows, or without; or a comment to the end of the line.
_WORD = re.compile(r"""'(.*?)'(?=\s|$)|"(.*?)"(?=\s|$)|(\#.*)|(\S+)""")


@dataclass(frozen=True)
class _Table:
    """The block of a star file that lists tomograms.

    Attributes:
        path: The file.
        lines: All lines of the file, with their ends.
        columns: Label, without its underscore → place in a row.
        labels: Number of each label's line, from 0.
        rows: Number of a row's line, from 0 → its values. The one row of a block that is no loop has the number of its
            last label.
        loop: Whether the block is a loop.
    """

    path: Path
    lines: list[str]
    columns: dict[str, int]
    labels: list[int]
    rows: dict[int, list[str]]
    loop: bool

    def value(self, row: int, column: str) -> str:
        """What a row has in a column; empty where the column is missing, or says that there is nothing."""
        text = self.rows[row][self.columns[column]] if column in self.columns else ""
        return "" if text in _NOTHING else text


def star_jobs(path: Path, folder: Path) -> tuple[dict[int, Job], list[str]]:
    """The tomograms of a table: their halves where a row has them, else the tomogram itself.

    Args:
        path: A RELION 5 tomogram star file. Paths in it are relative to RELION's project folder: the current one, or
            the nearest one above the star file in which they exist.
        folder: Of the results, which have the tomograms' names.

    Returns:
        Row → its job, and what is to be told of rows that have neither halves nor tomogram, which are left out.

    Raises:
        CryodenError: The file is no such table, or a row has no name of its own.
    """
    table = _read(path)
    if not (set(_HALVES) <= set(table.columns) or _WHOLE in table.columns):
        raise CryodenError(
            f"{path} is no RELION 5 table of tomograms: it needs {_NAME}, and {_HALVES[0]}/2 or {_WHOLE}"
        )
    jobs: dict[int, Job] = {}
    told: list[str] = []
    names: dict[str, int] = {}
    for row in table.rows:
        where, name = f"{path}, line {row + 1}", table.value(row, _NAME)
        if not name:
            raise CryodenError(f"{where}: {_NAME} is {table.rows[row][table.columns[_NAME]]!r}; give it a name")
        if name in names:
            raise CryodenError(
                f"{where}: {_NAME} {name} is that of line {names[name] + 1}, too, and both would be written to "
                f"{folder / name}.mrc; name them apart"
            )
        names[name] = row
        halves = [table.value(row, column) for column in _HALVES]
        whole = table.value(row, _WHOLE)
        series = table.value(row, _SERIES)
        tilts = _locate(series, path) if series else None
        result = folder / f"{name}.mrc"
        if all(halves):
            outputs = tuple(folder / f"{name}_half{number}.mrc" for number in (1, 2))
            jobs[row] = Job(name, tuple(_locate(file, path) for file in halves), outputs, result, tilts)
        elif whole:
            jobs[row] = Job(name, (_locate(whole, path),), (result,), tilts=tilts)
        else:
            empty = [
                column for column in (*_HALVES, _WHOLE) if column in table.columns and not table.value(row, column)
            ]
            told.append(f"{where}: {name} has no {' and no '.join(empty)}; left out")
    if not jobs:
        raise CryodenError(f"{path}: no row has halves or a tomogram; {told[0] if told else 'it has no rows'}")
    return jobs, told


def find_halves(inputs: Sequence[str]) -> list[Job]:
    """The tomograms in halves that files, folders, patterns or a RELION 5 tomograms.star stand for.

    Raises:
        CryodenError: there are none.
    """
    if not inputs:
        raise CryodenError("inputs: none given; name half tomograms, their folder, or a tomograms.star")
    stars = [Path(word) for word in inputs if word.endswith(".star")]
    if not stars:
        return half_jobs(find_files(inputs), Path())[0]
    if len(inputs) > 1:
        raise CryodenError(f"{stars[0]} stands for all its tomograms: give it alone")
    jobs = [job for job in star_jobs(stars[0], Path())[0].values() if job.average is not None]
    if not jobs:
        raise CryodenError(f"{stars[0]}: no row has two halves")
    return jobs


def write_star(path: Path, target: Path, done: Mapping[int, Job]) -> None:
    """Writes the table again with the denoised tomograms in a column of their own; all else is the same text.

    Args:
        path: The table that was read.
        target: The one to write.
        done: Of `star_jobs`, the rows whose tomograms are denoised; others are left out.
    """
    table = _read(path)
    lines = list(table.lines)
    place = table.columns.get(_DENOISED)
    for row in table.rows:
        if row not in done:
            lines[row] = ""
            continue
        text, end = _split_end(lines[row])
        result = _quoted(str(done[row].results[-1]))
        if not table.loop:
            row = row if place is None else table.labels[place]
            text = f"{text}{end or chr(10)}_{_DENOISED} {result}" if place is None else f"_{_DENOISED} {result}"
        elif place is not None:
            begin, stop = _spans(text)[place]
            text = text[:begin] + result + text[stop:]
        else:
            text = f"{text.rstrip()}{chr(9) if chr(9) in text else ' '}{result}"
        lines[row] = text + end
    if table.loop and place is None:
        last = table.labels[-1]
        text, end = _split_end(lines[last])
        number = f" #{len(table.columns) + 1}" if "#" in text else ""
        lines[last] = f"{text}{end}_{_DENOISED}{number}{end}"
    write_text(target, "".join(lines), overwrite=True)


def check_star(target: Path, *, overwrite: bool) -> None:
    """Refuse to replace what `write_star` did not write: to ask before long work begins.

    Args:
        target: The table that is going to be written, in the folder of the results.
        overwrite: Replacing was asked for.

    Raises:
        CryodenError: There is something else: not each tomogram is denoised in this folder, under its name.
    """
    if overwrite or not target.exists():
        return
    try:
        table = _read(target, _DENOISED)
        listed = [_locate(table.value(row, _DENOISED), target).resolve() for row in table.rows]
        own = listed == [target.with_name(f"{table.value(row, _NAME)}.mrc").resolve() for row in table.rows]
    except (CryodenError, ValueError):  # of a name that no path can have
        own = False
    if not own:
        raise CryodenError(
            f"{target} exists, and is no table of tomograms denoised in this folder; give another --output, move it "
            "elsewhere, or allow overwriting (--overwrite)"
        )


def tilts_of_table(path: Path) -> list[float]:
    """The angles of a table of a tilt series, RELION 5's or Warp's, in degrees: as aligned if they are, else recorded.

    Raises:
        CryodenError: The file is no such table, or one of the angles is no number.
    """
    for column in _TILTS:
        try:
            table = _read(path, column, "of a tilt series")
        except CryodenError:
            if column == _TILTS[-1]:
                raise
            continue
        try:
            return [float(table.value(row, column)) for row in table.rows]
        except ValueError as error:
            raise CryodenError(f"{path}: a {column} is no number ({error}); correct the table") from error
    raise AssertionError("the last column either is read or raises")


def _read(path: Path, column: str = _NAME, what: str = "of tomograms") -> _Table:
    """The block of a star file that has a column.

    Raises:
        CryodenError: There is no such file, it is no text, has no such block, or a row has not one value a column.
    """
    if not path.is_file():
        raise CryodenError(f"cannot read {path}: there is no such file")
    try:
        with path.open(encoding="utf-8", newline="") as file:  # which keeps the ends of lines as they are
            lines = list(file)
    except (OSError, UnicodeDecodeError) as error:
        raise CryodenError(f"{path} is not a star file: {error}") from error
    if any("\0" in line for line in lines):
        raise CryodenError(f"{path} is not a star file: it has bytes that are 0, which no text has")
    starts = [i for i, line in enumerate(lines) if line.lstrip("\ufeff").lower().startswith("data_")]
    for start, stop in pairwise([*starts, len(lines)]):
        if any(_words(line)[:1] == [f"_{column}"] for line in lines[start:stop]):
            return _table(path, lines, start + 1, stop)
    lacks = f"no block of it has a column {column}" if starts else "it has no line data_"
    raise CryodenError(f"{path} is no RELION 5 table {what}: {lacks}")


def _table(path: Path, lines: list[str], start: int, stop: int) -> _Table:
    """The table in lines of a block."""
    columns: dict[str, int] = {}
    labels: list[int] = []
    rows: dict[int, list[str]] = {}
    values: list[str] = []
    loop = False
    for i in range(start, stop):
        words = _words(lines[i])
        if lines[i].startswith(";"):
            raise CryodenError(f"{path}, line {i + 1}: values over several lines are not read; put each on one line")
        if not words:
            continue
        if words[0].lower() == "loop_":
            if columns:
                raise CryodenError(f"{path}, line {i + 1}: a second loop in the block of the tomograms; name it apart")
            loop = True
        elif words[0].startswith("_") and not rows:
            name = words[0][1:]
            if name in columns or len(words) != (1 if loop else 2):
                what = "a second time" if name in columns else f"with {len(words) - 1} values"
                raise CryodenError(f"{path}, line {i + 1}: column {name} {what}; correct the table")
            columns[name] = len(columns)
            labels.append(i)
            values += words[1:]
        elif loop and len(words) == len(columns):
            rows[i] = words
        else:
            raise CryodenError(
                f"{path}, line {i + 1}: {len(words)} values where the table has {len(columns)} columns; correct it"
            )
    return _Table(path, lines, columns, labels, rows if loop else {labels[-1]: values}, loop)


def _words(line: str) -> list[str]:
    """The values of a line, without quotes and comments."""
    return [next(g for g in found.groups() if g is not None) for found in _WORD.finditer(line) if found[3] is None]


def _spans(text: str) -> list[tuple[int, int]]:
    """Where the values of a line begin and end, quotes included."""
    return [found.span() for found in _WORD.finditer(text) if found[3] is None]


def _split_end(line: str) -> tuple[str, str]:
    """A line, and what ends it."""
    text = line.rstrip("\r\n")
    return text, line[len(text) :]


def _quoted(text: str) -> str:
    """A value as star files have it: in quotes where it has blanks, or would mean something else."""
    if re.search(r"\s", text) or text[0] in "'\"#_;$[" or text.lower().startswith(("data_", "loop_")):
        return f'"{text}"' if '"' not in text else f"'{text}'"
    return text


def _locate(file: str, star: Path) -> Path:
    with suppress(OSError):  # a name may be longer than names can be
        for folder in (Path(), *star.absolute().parents):
            if (folder / file).exists():
                return folder / file
    return Path(file)
