"""What halves tell of what was made of them: a table to read, a sentence, and a file for all tomograms."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoden.errors import CryodenError
from cryoden.files import claimed, write_text
from cryoden.inference.removed import structure_removed
from cryoden.metrics.halves import GAUSSIAN, INPUT, HalfScore, Halves
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


def judge(halves: Halves, given: tuple[Array, Array], answers: Mapping[str, tuple[Array, Array]]) -> list[Quality]:
    """The input, a Gaussian filter at its best, and methods, by what the halves show.

    Args:
        halves: As `Halves.of` saw them.
        given: The halves, each (D, H, W); may be mapped.
        answers: A method's name → what it made of each; the same.

    Raises:
        CryodenError: No score can be given, see `Halves.flaw`.
    """
    from scipy.ndimage import gaussian_filter  # takes long to import, and only halves need it

    before = _middle(given)
    blurred, sigma = halves.gaussian()
    return [
        Quality(INPUT, halves.input(), 0.0),
        Quality(GAUSSIAN, blurred, structure_removed(before, gaussian_filter(before, sigma)), f", σ {sigma:.1f}"),
        *(
            Quality(name, halves.score(*pair), structure_removed(before, _middle(pair)))
            for name, pair in answers.items()
        ),
    ]


def quality_table(halves: Halves, found: Sequence[Quality]) -> list[str]:
    """Methods one below the other, in lines of one width."""
    rows: list[tuple[str, ...]] = [_HEADINGS]
    for each in found:
        score = each.score
        estimates = (str(value) for value in (score.nrmse, score.nrmse_one_gain, score.fsc_area))
        resolution = f"{score.resolution_half:.1f}" if math.isfinite(score.resolution_half) else "none"
        agreement = float(score.agreement[halves.judged].nanmean())
        rows.append((each.method + each.setting, *estimates, resolution, f"{agreement:.3f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        shown = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join(["", name.ljust(widths[0]), *shown]))
    return [f"judged by what the other half shows, in waves down to {halves.resolution:.1f} Å:", *lines]


def reading(found: Sequence[Quality], where: str) -> list[str]:
    """What the numbers of `judge` say of each method, a sentence each; and which of them to believe.

    Args:
        found: Of one tomogram.
        where: The result can be looked at.
    """
    (best,) = (each.score.nrmse for each in found if each.method == GAUSSIAN)
    told = []
    for each in found:
        if each.method in (INPUT, GAUSSIAN):
            continue
        higher = each.score.nrmse - best
        sure = higher.error if math.isfinite(higher.error) else 0.0
        size = str(replace(higher, value=abs(higher.value)))
        if abs(higher.value) <= sure:
            told.append(
                f"{each.method} is as near to what both halves show as the best filter of shells: within {size}"
            )
        elif higher.value < 0:
            told.append(f"{each.method} is nearer to what both halves show than any filter of shells, by {size}")
        else:
            told.append(
                f"warning: {each.method} is further from what both halves show than the best filter of shells, by "
                f"{size}: it takes away or changes what is in both. Background and contrast transfer may go, structure "
                f"may not: look at {where}"
            )
    return [*told, "believe NRMSE and FSC to the signal; answers agree on what a network always draws, too"]


def write_quality(path: Path, tomogram: str, found: Sequence[Quality]) -> None:
    """Puts a tomogram's rows into a table, in place of earlier ones of the same methods.

    Args:
        path: The table, `quality.csv`; several processes may write to it.
        tomogram: Its name.
        found: What `judge` found.

    Raises:
        CryodenError: The file is another table, or cannot be written.
    """
    with claimed(path):
        rows = {(row["tomogram"], row["method"]): row for row in read_quality(path)}
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
