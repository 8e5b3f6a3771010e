"""What a comparison writes: one HTML page that says whether to trust a model, with nothing loaded from elsewhere."""

import base64
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cryoden.evaluation.figures import CAPTIONS, figures
from cryoden.evaluation.results import Comparison, Example
from cryoden.evaluation.tables import Grid, csv_of, grids, markdown
from cryoden.evaluation.verdict import verdict
from cryoden.files import whole_file
from cryoden.hardware import machine
from cryoden.pictures import bar_length, grey_scale, rendered
from cryoden.version import versions

_NUMBER = re.compile(r"-?\d")  # how a cell with a number starts
_ITEM = re.compile(r"item (\d+)")  # how the verdict names a volume


def write_comparison(comparison: Comparison, folder: Path) -> list[str]:
    """Write results.json, tables.md, tables.csv, report.html and figures/ as PNG and SVG.

    Args:
        comparison: what was measured.
        folder: where to; files of these names are replaced.

    Returns:
        The figures' names.

    Raises:
        CryodenError: the disk refuses one of them; then none is there.
    """
    tables, drawn = grids(comparison), figures(comparison)
    pngs = {name: rendered(figure) for name, figure in drawn.items()}
    files: dict[str, bytes] = {
        "results.json": json.dumps(comparison.as_dict(), indent=1, allow_nan=False).encode(),
        "tables.md": markdown(verdict(comparison), tables).encode(),
        "tables.csv": csv_of(comparison).encode(),
        "report.html": report(comparison, tables, pngs).encode(),
        **{f"figures/{name}.png": png for name, png in pngs.items()},
        **{f"figures/{name}.svg": rendered(figure, "svg") for name, figure in drawn.items()},
    }
    with ExitStack() as all_or_none:
        for name, content in files.items():
            all_or_none.enter_context(whole_file(folder / name, overwrite=True)).write_bytes(content)
    return list(drawn)


def report(comparison: Comparison, tables: list[Grid], pngs: Mapping[str, bytes]) -> str:
    """The page.

    Args:
        comparison: what was measured.
        tables: to show, each sortable by every column.
        pngs: name → figure, to show below.
    """
    headline, *sentences = verdict(comparison)
    return page(
        title=f"Which denoiser to trust: {_what(comparison)}",
        headline=headline,
        sentences=[_linked(sentence, comparison.examples) for sentence in sentences],
        tables="".join(table_html(grid, set(comparison.models)) for grid in tables),
        figures="".join(figure_html(CAPTIONS[name.partition("_")[0]], png) for name, png in pngs.items()),
        facts=_facts(comparison),
        examples=[_example(example, comparison.voxel_size) for example in comparison.examples],
    )


def page(
    title: str,
    headline: str,
    sentences: Sequence[str],
    tables: str,
    figures: str,
    facts: Mapping[str, str],
    examples: Sequence[Mapping[str, Any]] = (),
) -> str:
    """A page that answers a question.

    Args:
        title: what it is about.
        headline: the answer, beginning with "Yes:", "No:" or words of doubt.
        sentences: below it, as HTML.
        tables: as HTML.
        figures: as HTML.
        facts: how it was made.
        examples: volumes to leaf through, see `_example`.
    """
    parts = {
        "TITLE": escape(title),
        "ANSWER": {"Yes": "yes", "No": "no"}.get(headline.partition(":")[0], "doubt"),
        "HEADLINE": escape(headline),
        "VERDICT": "".join(f"<li>{sentence}</li>" for sentence in sentences),
        "TABLES": tables,
        "FIGURES": figures,
        "FACTS": "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items()),
        # "</" would end the script
        "EXAMPLES": json.dumps(examples).replace("</", "<\\/"),
    }
    html = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        html = html.replace(f"@@{name}@@", part)
    return html


def _what(comparison: Comparison) -> str:
    return f"{', '.join(comparison.compared)} on {comparison.n} volumes"


def table_html(grid: Grid, models: set[str]) -> str:
    """A table that can be sorted by every column; the models' rows stand out."""
    words = [not any(map(_NUMBER.match, column)) for column in zip(*grid.rows, strict=True)]
    kinds = ["" if i == 0 or not word else " class=text" for i, word in enumerate(words)]
    header = "".join(
        f'<th scope="col"{kind}><button type="button">{escape(cell)}</button></th>'
        for kind, cell in zip(kinds, grid.header, strict=True)
    )
    rows = []
    for row in grid.rows:
        cells = "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        rows.append(f"<tr{' class=model' * (row[0] in models)}>{cells}</tr>")
    return (
        f'<h2>{escape(grid.title)}</h2><p class="soft">{escape(grid.note)} Click a heading to sort.</p>'
        f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def figure_html(caption: str, png: bytes) -> str:
    """A figure and what it shows."""
    return (
        f'<figure class="plot"><img alt="{escape(caption)}" src="{_data_url(png)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _linked(sentence: str, examples: Sequence[Example]) -> str:
    """A sentence as HTML, in which an item that can be looked at is a link to it."""
    numbers = {str(example.index): number for number, example in enumerate(examples)}

    def link(found: re.Match[str]) -> str:
        number = numbers.get(found[1])
        return found[0] if number is None else f'<a href="#slices" data-example="{number}">{found[0]}</a>'

    return _ITEM.sub(link, escape(sentence))


def _example(example: Example, voxel_size: float) -> dict[str, Any]:
    """The slices of each volume as one sheet of images, row by row, and how to find them on it."""
    clean = example.volumes["clean"]
    depth, height, width = clean.shape
    low, high = grey_scale(clean)
    return {
        "title": f"{example.title}: {example.entry}, item {example.index}",
        "depth": depth,
        "height": height,
        "width": width,
        "densest": [example.densest(axis) for axis in range(3)],
        "bar": bar_length(width, voxel_size),
        "voxel": voxel_size,
        "columns": math.ceil(math.sqrt(depth)),
        "sheets": {name: _data_url(slice_sheet(volume, low, high)) for name, volume in example.volumes.items()},
    }


def slice_sheet(volume: NDArray[np.float32], low: float, high: float) -> bytes:
    """All z slices of a volume as one PNG, row by row, y upwards as in the figures.

    Args:
        volume: (D, H, W).
        low: the value that is black.
        high: the value that is white.
    """
    depth, height, width = volume.shape
    columns = math.ceil(math.sqrt(depth))
    rows = math.ceil(depth / columns)
    tiles = np.zeros((rows * columns, height, width), np.uint8)
    tiles[:depth] = np.clip((volume[:, ::-1] - low) / (high - low) * 255, 0, 255)
    image = tiles.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def machine_facts() -> dict[str, str]:
    """With what, and on what."""
    here = machine()
    return {
        "With": ", ".join(f"{name} {number}" for name, number in versions().items()),
        "On": f"{here['gpu'] or 'no GPU'}; {here['cpu']}, {here['cores']} cores, {here['threads']} threads",
    }


def _facts(comparison: Comparison) -> dict[str, str]:
    facts = {
        "Made": comparison.created,
        **machine_facts(),
        "Data": json.dumps(comparison.data),
        "Volumes": f"{comparison.n} of the test split, {' × '.join(map(str, comparison.evaluation.shape))} voxels of "
        f"{comparison.voxel_size:g} Å; SHA-256 {comparison.evaluation.sha256}",
        "Mask": "density above 5 % of the clean volume's maximum, grown by 2 voxels",
        "Seconds": ", ".join(f"{what} {seconds:.1f}" for what, seconds in comparison.evaluation.seconds.items()),
    }
    for name, model in comparison.models.items():
        facts[name] = (
            f"{model.checkpoint}; {model.system}, {model.parameters:,} parameters, trained at "
            f"{model.voxel_size or '?'} Å per voxel by cryoden {model.version}; SHA-256 {model.sha256}"
        )
    for run, why in comparison.failed.items():
        facts[f"Left out: {run}"] = why
    for number, note in enumerate(comparison.notes, start=1):
        facts[f"Note {number}"] = note
    return facts
