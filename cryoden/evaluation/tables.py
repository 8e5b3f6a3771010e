"""Quality figures as tables: percentiles over volumes, one row per method."""

import csv
import io
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from torch import Tensor

from cryoden.evaluation.measures import MEASURES, spread
from cryoden.evaluation.results import PERCENTILES, Comparison
from cryoden.metrics.image import percentiles

Scores = Mapping[str, Tensor]
"""Metric name → one value per volume, (n,)."""

_Column = tuple[str, float, int]  # heading, factor, digits

# NRMSE first, since SSIM flatters an empty box
_COLUMNS = {
    "nrmse": ("NRMSE ↓", 1.0, 3),
    "psnr": ("PSNR dB ↑", 1.0, 2),
    "ssim": ("SSIM ↑", 1.0, 3),
    "mse": ("MSE ×10⁻³ ↓", 1000.0, 2),
}


_WEDGE_COLUMNS = {
    "wedge_energy": ("energy (clean: 1)", 1.0, 3),
    "wedge_correlation": ("correlation ↑", 1.0, 3),
}

_CAPTION = "median [5th, 95th percentile] over volumes"


def score_table(rows: Mapping[str, Scores], title: str) -> Table:
    """A table for the terminal: the median over volumes, and the 5th to 95th percentile behind it.

    Args:
        rows: method → its scores.
        title: what was scored.

    Returns:
        A rich table.
    """
    return _table(rows, _COLUMNS, title, _CAPTION)


def wedge_table(rows: Mapping[str, Scores]) -> Table:
    """A table for the terminal of what each method put into the missing wedge.

    Args:
        rows: method → its scores.

    Returns:
        A rich table.
    """
    caption = f"{_CAPTION}\nenergy without correlation is invented"
    return _table(rows, _WEDGE_COLUMNS, "in the missing wedge, where nothing was measured", caption)


def score_rows(rows: Mapping[str, Scores]) -> tuple[list[str], list[list[str | float]]]:
    """The same figures as plain rows, for a logger.

    Args:
        rows: method → its scores.

    Returns:
        The columns' names, and a row for each method.
    """
    columns = ["method"]
    cells: dict[str, list[str | float]] = {method: [method] for method in rows}
    for name in (*_COLUMNS, *_WEDGE_COLUMNS):
        if all(scores[name].numel() > 0 for scores in rows.values()):
            columns += [f"{name}_p5", name, f"{name}_p95"]
            for method, scores in rows.items():
                cells[method] += percentiles(scores[name]).tolist()
    return columns, list(cells.values())


def write_scores(rows: Mapping[str, Scores], path: Path) -> None:
    """Write the same figures as CSV, under a temporary name that is then moved.

    Args:
        rows: method → its scores.
        path: the file.
    """
    columns, cells = score_rows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *cells])
    temporary.replace(path)


def _table(rows: Mapping[str, Scores], columns: Mapping[str, _Column], title: str, caption: str) -> Table:
    table = Table(title=title, title_justify="left", caption=caption)
    table.add_column("", overflow="fold", max_width=12)
    for heading, _, _ in columns.values():
        table.add_column(heading, justify="right", min_width=13)
    for method, scores in rows.items():
        cells = []
        for name, (_, factor, digits) in columns.items():
            low, median, high = (float(v) * factor for v in percentiles(scores[name]))
            # one space, so that a narrow terminal breaks the line there
            cells.append(f"{median:.{digits}f} [{low:.{digits}f},{high:.{digits}f}]")
        # a long name of a system breaks before its kind: CompactUnet AE
        table.add_row(re.sub(r"(?<=[a-z])(?=[A-Z]{2,}$)", " ", method) if len(method) > 12 else method, *cells)
    return table


@dataclass(frozen=True)
class Grid:
    """A table for files and pages.

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


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def grids(comparison: Comparison) -> list[Grid]:
    """All tables of a comparison: all measures, the thesis's layout, per particle, filters, template matching."""
    made = [measure_grid(comparison), thesis_grid(comparison)]
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


def measure_grid(comparison: Comparison) -> Grid:
    """A row for each method, a column for each measure."""
    arrows = {-1: " ↓", 0: "", 1: " ↑"}
    header = ["method", *(about.heading + arrows[about.better] for about in comparison.measures.values())]
    rows = []
    for method in comparison.methods:
        cells = []
        for name, about in comparison.measures.items():
            low, median, high = map(about.show, spread(comparison.of(method, name)))
            cells.append(median if median == "–" else f"{median} [{low}, {high}]")
        rows.append([method, *cells])
    note = f"Median [5th, 95th percentile] over {comparison.n} volumes. ↓: less is better, ↑: more is better."
    return Grid("All measures", note, header, rows)


def thesis_grid(comparison: Comparison) -> Grid:
    """Three rows for each method, one for each percentile, as the thesis's tables have it, and its numbers beside."""
    thesis = read_thesis(comparison.experiment)
    names = {name: model.system for name, model in comparison.models.items()}
    ours = {method: names.get(method, method) for method in comparison.methods}
    header = ["method", "percentile", *(MEASURES[name].heading for name in _THESIS)]
    header += [f"thesis: {MEASURES[name].heading}" for name in _THESIS]
    rows = []
    for method, system in ours.items():
        low_to_high = {name: spread(comparison.of(method, name), PERCENTILES) for name in _THESIS}
        for i, percentile in enumerate(PERCENTILES):
            there = thesis.get((system, percentile), {})
            cells = [MEASURES[name].show(low_to_high[name][i]) for name in _THESIS]
            rows.append([method, str(percentile), *cells, *(_show_thesis(name, there) for name in _THESIS)])
    for (system, percentile), there in thesis.items():
        if system not in ours.values():
            cells = ["–"] * len(_THESIS) + [_show_thesis(name, there) for name in _THESIS]
            rows.append([system, str(percentile), *cells])
    note = (
        f"The thesis's experiment {comparison.experiment!r} (table {_TABLES[comparison.experiment]}). Its numbers are "
        "comparable where particles, box and degradation are its own; its rows without a model here are listed too."
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


_THESIS = {"ssim": "ssim", "psnr": "psnr_db", "mse": "mse_x1000", "nrmse": "nrmse"}  # measure → column of the CSV
_TABLES = {"control": 2, "different-noise": 3, "unseen-particle": 4, "multiple-particles": 5, "realistic": 6}


def read_thesis(experiment: str) -> dict[tuple[str, int], dict[str, float]]:
    """The numbers of the 2019 thesis: (system, percentile) → measure → value, in the unit of `MEASURES`."""
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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["experiment", "method", "entry", "percentile", *MEASURES, *(f"thesis_{n}" for n in _THESIS)])
    for method, entry in itertools.product(comparison.methods, (None, *comparison.entries)):
        model = comparison.models.get(method)
        columns = [spread(comparison.of(method, name, entry), PERCENTILES) for name in MEASURES]
        for percentile, values in zip(PERCENTILES, zip(*columns, strict=True), strict=True):
            known = thesis.get((model.system if model else method, percentile)) if entry is None else None
            beside = [known[name] for name in _THESIS] if known else [""] * len(_THESIS)
            cells = ["" if math.isnan(v) else f"{v:.6g}" for v in values]
            writer.writerow([comparison.experiment, method, entry or "all", percentile, *cells, *beside])
    return text.getvalue()
