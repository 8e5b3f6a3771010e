"""Scores as tables: one row per method, percentiles over volumes; for a terminal, a logger, a file and a page."""

import csv
import io
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import ArrayLike
from rich.table import Table

from cryoden.evaluation.results import Comparison, Scores, scored
from cryoden.metrics import MEASURES, PERCENTILES, percentiles


@dataclass(frozen=True)
class Grid:
    """A table.

    Args:
        title: what it shows.
        note: how to read it.
        header: one heading for each column.
        rows: one text for each cell; the first is the row's name.
    """

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """The table in Markdown."""
        lines = [f"## {self.title}", "", self.note, "", _line(self.header), _line(["---"] * len(self.header))]
        return "\n".join([*lines, *map(_line, self.rows), ""])

    def terminal(self) -> Table:
        """The table for a terminal of 80 columns, if it has at most five."""
        table = Table(title=self.title, title_justify="left", caption=self.note)
        table.add_column(self.header[0], overflow="fold", max_width=12)
        for heading in self.header[1:]:
            table.add_column(heading, justify="right", min_width=13)
        for name, *cells in self.rows:
            # a long name of a system breaks before its kind: CompactUnet AE
            broken = re.sub(r"(?<=[a-z])(?=[A-Z]{2,}$)", " ", name) if len(name) > 12 else name
            # one space, so that a narrow terminal breaks the line there
            table.add_row(broken, *(cell.replace(", ", ",") for cell in cells))
        return table


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def score_grid(scores: Mapping[str, Scores], measures: Iterable[str], title: str, volumes: str = "volumes") -> Grid:
    """A row for each method, a column for each measure.

    Args:
        scores: method → its scores.
        measures: which of `MEASURES`; one that no method has a value for is left out.
        title: what was scored.
        volumes: what the percentiles are over, such as "200 volumes".
    """
    shown = scored(scores, measures)
    rows = [[method, *(_cell(name, each[name]) for name in shown)] for method, each in scores.items()]
    note = f"Median [5th, 95th percentile] over {volumes}; ↓ less, ↑ more is better."
    return Grid(title, note, ["method", *(MEASURES[name].column for name in shown)], rows)


def score_rows(
    scores: Mapping[str, Scores], measures: Iterable[str]
) -> tuple[list[str], list[list[str | float | None]]]:
    """The same figures as plain rows, for a logger or a file.

    Args:
        scores: method → its scores.
        measures: which of `MEASURES`; one that no method has a value for is left out.

    Returns:
        The columns' names, and a row for each method; None where it has no value.
    """
    shown = scored(scores, measures)
    columns = ["method", *itertools.chain.from_iterable((f"{name}_p5", name, f"{name}_p95") for name in shown)]
    rows: list[list[str | float | None]] = []
    for method, each in scores.items():
        numbers = itertools.chain.from_iterable(percentiles(each[name]) for name in shown)
        rows.append([method, *(None if math.isnan(number) else number for number in numbers)])
    return columns, rows


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cell(name: str, values: ArrayLike) -> str:
    low, median, high = map(MEASURES[name].show, percentiles(values))
    return median if median == "–" else f"{median} [{low}, {high}]"


def grids(comparison: Comparison) -> list[Grid]:
    """All tables of a comparison: all measures, the thesis's layout, per particle, filters, template matching."""
    columns = dict.fromkeys([*_FIRST, *MEASURES])
    made = [score_grid(comparison.evaluation.values, columns, "All measures", f"{comparison.n} volumes")]
    if comparison.experiment is not None:
        made.append(thesis_grid(comparison, comparison.experiment))
    if len(comparison.entries) > 1:
        made.append(entry_grid(comparison))
    made.append(_filter_grid(comparison))
    if comparison.matching:
        made.append(_matching_grid(comparison))
    meanings = [[about.heading, about.about] for about in comparison.measures.values()]
    made.append(
        Grid("What the measures mean", "Those in a mask look only at the particle.", ["measure", "meaning"], meanings)
    )
    return made


def thesis_grid(comparison: Comparison, experiment: str) -> Grid:
    """Three rows for each method, one for each percentile, as the thesis's tables have it, and its numbers beside."""
    thesis = read_thesis(experiment)
    names = {name: model.system for name, model in comparison.models.items()}
    ours = {method: names.get(method, method) for method in comparison.methods}
    header = ["method", "percentile", *(MEASURES[name].heading for name in _THESIS)]
    header += [f"thesis: {MEASURES[name].heading}" for name in _THESIS]
    rows = []
    for method, system in ours.items():
        low_to_high = {name: percentiles(comparison.of(method, name)) for name in _THESIS}
        for i, percentile in enumerate(PERCENTILES):
            there = thesis.get((system, percentile), {})
            cells = [MEASURES[name].show(low_to_high[name][i]) for name in _THESIS]
            rows.append([method, str(percentile), *cells, *(_show_thesis(name, there) for name in _THESIS)])
    for (system, percentile), there in thesis.items():
        if system not in ours.values():
            cells = ["–"] * len(_THESIS) + [_show_thesis(name, there) for name in _THESIS]
            rows.append([system, str(percentile), *cells])
    note = (
        f"The thesis's experiment {experiment!r} (table {_TABLES[experiment]}), whose particles, box, sampling and "
        "degradation these volumes have. Its rows without a model here are listed too."
    )
    return Grid("Beside the thesis", note, header, rows)


def entry_grid(comparison: Comparison) -> Grid:
    """Median NRMSE of each particle by each method."""
    show = MEASURES["nrmse"].show
    rows = [
        [entry, str(comparison.evaluation.entries.count(entry))]
        + [show(comparison.median(method, "nrmse", entry)) for method in comparison.methods]
        for entry in comparison.entries
    ]
    return Grid("Each particle", "Median NRMSE over its volumes.", ["particle", "volumes", *comparison.methods], rows)


def _filter_grid(comparison: Comparison) -> Grid:
    rows = [[name, what, f"{value:g}"] for name, (what, value) in comparison.filters.items()]
    note = "The setting with the lowest median NRMSE on validation volumes; all filters clip at 0."
    return Grid("Settings of the filters", note, ["filter", "setting", "value"], rows)


def _matching_grid(comparison: Comparison) -> Grid:
    columns = list(next(iter(comparison.matching.values())))
    rows = [
        [method, *("–" if math.isnan(found[name]) else f"{found[name]:.3g}" for name in columns)]
        for method, found in comparison.matching.items()
    ]
    note = (
        "Particles found by normalised cross-correlation over a grid of orientations, at the score threshold that was "
        "best for each method on validation scenes. A find counts within half the particle's radius; its position "
        "error is in Å. The row of the clean scenes is what the search can do at best."
    )
    return Grid("Template matching", note, ["method", *(name.replace("_", " ") for name in columns)], rows)


_FIRST = ("nrmse", "masked_nrmse", "fsc_measured", "resolution_0.5", "fsc_wedge", "invented")  # what decides
_THESIS = {"ssim": "ssim", "psnr": "psnr_db", "mse": "mse_x1000", "nrmse": "nrmse"}  # measure → column of the CSV
_TABLES = {"control": 2, "different-noise": 3, "unseen-particle": 4, "multiple-particles": 5, "realistic": 6}


def read_thesis(experiment: str | None) -> dict[tuple[str, int], dict[str, float]]:
    """The numbers of the 2019 thesis: (system, percentile) → measure → value, in the unit of `MEASURES`.

    Args:
        experiment: control, different-noise, unseen-particle, multiple-particles or realistic; None has no numbers.
    """
    found = {}
    with Path(__file__).with_name("thesis_results.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["experiment"] == experiment:
                numbers = {name: float(row[column]) / MEASURES[name].factor for name, column in _THESIS.items()}
                found[row["method"], int(row["percentile"])] = numbers
    return found


def _show_thesis(name: str, row: Mapping[str, float]) -> str:
    return MEASURES[name].show(row[name]) if row else "–"


def markdown(sentences: Iterable[str], tables: Iterable[Grid]) -> str:
    """A verdict and tables as one Markdown file."""
    return "\n".join(["# Comparison", "", *(f"- {line}" for line in sentences), "", *(t.markdown() for t in tables)])


def csv_of(comparison: Comparison) -> str:
    """Every percentile of every measure, of all volumes and of each particle, and the thesis's beside.

    Columns: experiment, method, entry, percentile, the measures (in their own units), thesis_ and the thesis's four.
    """
    thesis = read_thesis(comparison.experiment)
    header = ["experiment", "method", "entry", "percentile", *MEASURES, *(f"thesis_{name}" for name in _THESIS)]
    rows: list[list[object]] = [[*header]]
    for method, entry in itertools.product(comparison.methods, (None, *comparison.entries)):
        model = comparison.models.get(method)
        columns = [percentiles(comparison.of(method, name, entry)) for name in MEASURES]
        for percentile, values in zip(PERCENTILES, zip(*columns, strict=True), strict=True):
            known = thesis.get((model.system if model else method, percentile)) if entry is None else None
            beside = [known[name] for name in _THESIS] if known else [""] * len(_THESIS)
            cells = ["" if math.isnan(v) else f"{v:.6g}" for v in values]
            rows.append([comparison.experiment, method, entry or "all", str(percentile), *cells, *map(str, beside)])
    return csv_text(rows)
