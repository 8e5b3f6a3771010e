"""What halves tell of what was made of them: a table to read, a sentence, and a file for all tomograms."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoden.errors import CryodenError
from cryoden.files import claimed, write_text
from cryoden.inference.removed import structure_removed
from cryoden.metrics.halves import GAUSSIAN, INPUT, Estimate, HalfScore, Halves
from cryoden.volume import central, release

Array = NDArray[Any]

QUALITY = "quality.csv"

_KEY = ("tomogram", "method")
_NUMBERS = (
    "nrmse",
    "nrmse_error",
    "nrmse_low",
    "nrmse_high",
    "nrmse_one_gain",
    "fsc_area",
    "resolution_0.5",
    "removed",
)
_HEADINGS = ("", "NRMSE, gain a shell", "NRMSE, one gain", "FSC to signal", "0.5 at, Å", "FSC of answers")


@dataclass(frozen=True, eq=False)
class Quality:
    """How good a method was with one tomogram.

    Attributes:
        method: Its name.
        score: By the halves.
        removed: How much structure it took away, see `structure_removed`.
        setting: Of the method, as a reader is told.
    """

    method: str
    score: HalfScore
    removed: float
    setting: str = ""

    @property
    def numbers(self) -> dict[str, float]:
        """As `quality.csv` has them."""
        score = self.score
        values = (
            score.nrmse.value,
            score.nrmse.error,
            score.nrmse_low.value,
            score.nrmse_high.value,
            score.nrmse_one_gain.value,
            score.fsc_area.value,
            score.resolution_half,
            self.removed,
        )
        return dict(zip(_NUMBERS, values, strict=True))


def judge(
    halves: Halves, given: tuple[Array, Array], answers: Iterable[tuple[str, tuple[Array, Array]]]
) -> list[Quality]:
    """The input, a Gaussian filter at its best, and methods, by what the halves show.

    Args:
        halves: As `Halves.of` saw them.
        given: The halves, each (D, H, W); may be mapped.
        answers: Methods' names, and what each made of both halves; the same. They are asked for one after the other.

    Raises:
        CryodenError: No score can be given, see `Halves.flaw`.
    """
    from scipy.ndimage import gaussian_filter  # takes long to import, and only halves need it

    before = _middle(given)
    blurred, sigma = halves.gaussian()
    return [
        Quality(INPUT, halves.input(), 0.0),
        Quality(GAUSSIAN, blurred, structure_removed(before, gaussian_filter(before, sigma)), f", σ {sigma:.1f}"),
        *(Quality(name, halves.score(*pair), structure_removed(before, _middle(pair))) for name, pair in answers),
    ]


def table_rows(halves: Halves, found: Sequence[Quality]) -> list[tuple[str, ...]]:
    """Headings, and a row for each method."""
    rows: list[tuple[str, ...]] = [_HEADINGS]
    for each in found:
        score = each.score
        estimates = (str(value) for value in (score.nrmse, score.nrmse_one_gain, score.fsc_area))
        resolution = f"{score.resolution_half:.1f}" if math.isfinite(score.resolution_half) else "none"
        agreement = float(score.agreement[halves.judged].nanmean())
        rows.append((each.method + each.setting, *estimates, resolution, f"{agreement:.3f}"))
    return rows


def quality_table(halves: Halves, found: Sequence[Quality]) -> list[str]:
    """Methods one below the other, in lines of one width."""
    rows = table_rows(halves, found)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        shown = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join(["", name.ljust(widths[0]), *shown]))
    return [f"judged by what the other half shows, in waves down to {halves.resolution:.1f} Å:", *lines]


def compared(found: Sequence[Quality]) -> dict[str, Estimate]:
    """How much further from what both halves show each method is than the best filter of shells, of one tomogram."""
    (best,) = (each.score.nrmse for each in found if each.method == GAUSSIAN)
    return {each.method: each.score.nrmse - best for each in found if each.method not in (INPUT, GAUSSIAN)}


def outcome(further: Estimate) -> str:
    """In a word what `compared` found of a method: nearer, further, or alike."""
    sure = further.error if math.isfinite(further.error) else 0.0
    if abs(further.value) <= sure:
        return "alike"
    return "nearer" if further.value < 0 else "further"


def reading(found: Sequence[Quality], where: str) -> list[str]:
    """What the numbers of `judge` say of each method, a sentence each; and which of them to believe.

    Args:
        found: Of one tomogram.
        where: The result can be looked at.
    """
    told = []
    fine = {each.method: each.score.nrmse_high.value for each in found}
    for method, further in compared(found).items():
        size = replace(further, value=abs(further.value))
        but = ", though nearer in waves shorter than 4 voxels" if fine[method] < fine[GAUSSIAN] else ""
        sentences = {
            "nearer": f"{method} is nearer to what both halves show than any filter of shells, by {size}",
            "alike": f"{method} is as near to what both halves show as the best filter of shells: within {size}",
            "further": f"warning: {method} is further from what both halves show than the best filter of shells, "
            f"by {size}{but}: it takes away or changes what is in both. Background and contrast transfer may go, "
            f"structure may not: look at {where}",
        }
        told.append(sentences[outcome(further)])
    return [*told, "believe NRMSE and FSC to the signal; answers agree on what a network always draws, too"]


def write_quality(path: Path, tomogram: str, found: Sequence[Quality]) -> None:
    """Puts a tomogram's rows into a table, in place of earlier ones of the same methods.

    Args:
        path: The table, `quality.csv`; several processes may write to it.
        tomogram: Its name.
        found: What `judge` found; nothing: the halves tell nothing any more, and no row of the tomogram stays.

    Raises:
        CryodenError: The file is another table, or cannot be written.
    """
    if not found and not path.exists():
        return
    with claimed(path):
        kept = (row for row in read_quality(path) if found or row["tomogram"] != tomogram)
        rows = {(row["tomogram"], row["method"]): row for row in kept}
        for each in found:
            numbers = {name: f"{value:.4f}" if math.isfinite(value) else "" for name, value in each.numbers.items()}
            rows[tomogram, each.method] = {"tomogram": tomogram, "method": each.method, **numbers}
        text = io.StringIO()
        table = csv.DictWriter(text, (*_KEY, *_NUMBERS), lineterminator="\n")
        table.writeheader()
        table.writerows(rows.values())
        write_text(path, text.getvalue(), overwrite=True)


def read_quality(path: Path) -> list[dict[str, str]]:
    """The rows of a table that `write_quality` wrote; none, where there is no file.

    Raises:
        CryodenError: It is another table.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise CryodenError(f"{path}: cannot be read as a table ({error}); move it elsewhere") from error
    table = csv.DictReader(lines)
    rows = list(table)
    if tuple(table.fieldnames or ()) != (*_KEY, *_NUMBERS) or any(None in row or None in row.values() for row in rows):
        raise CryodenError(
            f"{path}: is no table of cryoden's, whose columns are {', '.join((*_KEY, *_NUMBERS))}; move it elsewhere"
        )
    return rows


def _middle(pair: tuple[Array, Array]) -> NDArray[np.float64]:
    """The middle of the average of two volumes, as much as `structure_removed` looks at."""
    first, second = (central(each) for each in pair)
    mean: NDArray[np.float64] = (first.astype(np.float64) + second) / 2
    for each in pair:
        release(each)
    return mean
