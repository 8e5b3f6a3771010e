"""Quality figures as tables: percentiles over volumes, one row per method."""

from collections.abc import Mapping

from rich.table import Table
from torch import Tensor

from cryoden.metrics.image import percentiles

Scores = Mapping[str, Tensor]
"""Metric name → one value per volume, (n,)."""

# name → heading, factor, digits; NRMSE first, since SSIM flatters an empty box
_COLUMNS = {
    "nrmse": ("NRMSE ↓", 1.0, 3),
    "psnr": ("PSNR dB ↑", 1.0, 2),
    "ssim": ("SSIM ↑", 1.0, 3),
    "mse": ("MSE ×10⁻³ ↓", 1000.0, 2),
}


def score_table(rows: Mapping[str, Scores], title: str) -> Table:
    """A table for the terminal: the median over volumes, and the 5th to 95th percentile behind it.

    Args:
        rows: method → its scores.
        title: what was scored.

    Returns:
        A rich table.
    """
    table = Table(title=title, title_justify="left", caption="median [5th, 95th percentile] over volumes")
    table.add_column("", overflow="fold", max_width=12)
    for heading, _, _ in _COLUMNS.values():
        table.add_column(heading, justify="right", min_width=13)
    for method, scores in rows.items():
        cells = []
        for name, (_, factor, digits) in _COLUMNS.items():
            low, median, high = (float(v) * factor for v in percentiles(scores[name]))
            # one space, so that a narrow terminal breaks the line there
            cells.append(f"{median:.{digits}f} [{low:.{digits}f},{high:.{digits}f}]")
        table.add_row(method, *cells)
    return table
