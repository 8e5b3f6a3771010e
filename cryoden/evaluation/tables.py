"""Quality figures as tables: percentiles over volumes, one row per method."""

from collections.abc import Mapping

from rich.table import Table
from torch import Tensor

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
        table.add_row(method, *cells)
    return table
