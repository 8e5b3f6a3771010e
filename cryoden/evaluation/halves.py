"""Models beside each other on half tomograms of one's own, judged by what the other half shows; no truth is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryoden.denoiser import Denoiser
from cryoden.errors import CryodenError, one_line
from cryoden.evaluation.report import figure_html, machine_facts, page, table_html
from cryoden.evaluation.tables import Grid
from cryoden.files import whole_file
from cryoden.inference.contrast import Contrast, look
from cryoden.inference.denoise import denoise
from cryoden.inference.halves import check_contrasts, check_halves, see_halves
from cryoden.inference.jobs import Job
from cryoden.inference.quality import QUALITY, Quality, compared, judge, outcome, table_rows, write_quality
from cryoden.metrics.halves import GAUSSIAN, INPUT, Halves
from cryoden.models import suits
from cryoden.pictures import STYLES, plain_axis, rendered
from cryoden.volume import Volume, measure, open_volume

_NO_MORE: Mapping[str, bytes] = {}
_ELSE = "`cryoden denoise --halves` gives scores, too, and takes"  # what a comparison does not
_COLUMNS = 3  # of panels in the figure
_CAPTION = (
    "Fourier shell correlation of each method with the signal, as the halves tell it; a Gaussian filter has that of "
    "the input. Thin and dotted: of a model's two answers with each other, which proves nothing."
)


@dataclass(frozen=True, eq=False)
class Judged:
    """What the halves of one tomogram tell.

    Attributes:
        name: of the tomogram.
        halves: as they were seen.
        found: the input, a Gaussian filter at its best, and the models.
        failed: model → why it could not be used.
    """

    name: str
    halves: Halves
    found: list[Quality]
    failed: dict[str, str]


def judge_tomogram(job: Job, models: Mapping[str, Denoiser], device: torch.device) -> Judged:
    """Denoise both halves of a tomogram by each model, and let each judge the answer to the other.

    Args:
        job: names the halves.
        models: name → model.
        device: where the networks run.

    Raises:
        CryodenError: they are no halves, or tell nothing, or seem of two contrasts; or no model can be used.
    """
    first, second = (open_volume(path) for path in job.inputs)
    check_halves(first, second, job.inputs)
    if not first.voxel_size > 0:
        raise CryodenError(f"{job.name}: its header has no voxel size; {_ELSE} --voxel-size")
    contrast = _contrast(job, first, second)
    halves = see_halves(first, second, job.inputs)
    if halves.flaw:  # which tells more than that noise alone has no contrast
        raise CryodenError(f"{job.name}: {halves.flaw}")
    if contrast is None:
        raise CryodenError(
            f"{job.name}: cannot tell of each half whether protein is bright or dark; look at them; {_ELSE} --contrast"
        )
    failed = {}

    def answers() -> Iterator[tuple[str, tuple[NDArray[np.float32], NDArray[np.float32]]]]:
        for name, model in models.items():
            try:
                _check_size(first.voxel_size, model.voxel_size)
                one, other = (denoise(half, model, device=device, contrast=contrast).data for half in (first, second))
            except CryodenError as error:
                failed[name] = one_line(error)
            else:
                yield name, (one, other)

    found = judge(halves, (first.data, second.data), answers())
    if len(failed) == len(models):
        raise CryodenError(f"{job.name}: no model can be used: {next(iter(failed.values()))}")
    return Judged(job.name, halves, found, failed)


def _contrast(job: Job, first: Volume, second: Volume) -> Contrast | None:
    """Of the protein in both halves, as far as these tell it.

    Raises:
        CryodenError: a voxel is not finite, or the halves differ.
    """
    found: list[Contrast | None] = []
    for path, half in zip(job.inputs, (first, second), strict=True):
        measure(half.data).require_finite(str(path))
        found.append(look(half.data).contrast)
    check_contrasts(found, job.inputs, f"; {_ELSE} --contrast")
    return found[0] and found[1]


def _check_size(voxel_size: float, trained: float | None) -> None:
    """Refuse voxels that a model takes only resampled.

    Raises:
        CryodenError: they are of another size than it was trained at.
    """
    if trained is not None and not suits(voxel_size, trained):
        raise CryodenError(
            f"its voxels are {voxel_size:.4g} Å, and the model was trained at {trained:.4g} Å; {_ELSE} --rescale, or "
            "--voxel-size if the header is wrong"
        )


def halves_verdict(tomograms: Sequence[Judged]) -> list[str]:
    """Sentences: the answer first, then each model, then what to keep in mind.

    Args:
        tomograms: at least one.
    """
    outcomes: dict[str, Counter[str]] = {}
    for each in tomograms:
        for model, further in compared(each.found).items():
            outcomes.setdefault(model, Counter())[outcome(further)] += 1
    best = max(outcomes, key=lambda model: outcomes[model]["nearer"])
    wins, count = outcomes[best]["nearer"], len(tomograms)
    of_all = f"{count} tomogram{'s' * (count > 1)}"
    if not wins:
        answer = f"No: no model is nearer to what both halves show than the best filter of shells, in any of {of_all}."
    else:
        sure = "Yes" if wins == count else "With doubt"
        answer = f"{sure}: {best} is nearer to what both halves show than any filter of shells, in {wins} of {of_all}."
    return [
        answer,
        *(
            f"{model}: nearer in {found['nearer']}, as near in {found['alike']}, further in {found['further']}."
            for model, found in outcomes.items()
        ),
        "What both halves share counts as signal: background, gold and contrast transfer, too. A model that takes "
        "these away is told to be further, and may be nearer to the density.",
        "Nothing is said of the missing wedge. That two answers agree proves nothing: a network may always draw the "
        "same.",
    ]


def write_halves(
    tomograms: Sequence[Judged], failed: Mapping[str, str], folder: Path, figures: Mapping[str, bytes] = _NO_MORE
) -> list[str]:
    """Write report.html, quality.csv, and the curves as PNG and SVG.

    Args:
        tomograms: what was judged.
        failed: what was left out, and why.
        folder: where to; files of these names are replaced.
        figures: caption → PNG, of what else the report shows.

    Returns:
        The files' names.
    """
    drawn = curves_figure(tomograms)
    png = rendered(drawn)
    headline, *sentences = halves_verdict(tomograms)
    models = {name for each in tomograms for name in compared(each.found)}
    grids = [
        Grid(each.name, f"Judged in waves down to {each.halves.resolution:.1f} Å.", *_split(each)) for each in tomograms
    ]
    facts = machine_facts() | {f"Left out: {name}": why for name, why in failed.items()}
    html = page(
        title=f"What halves tell of {', '.join(sorted(models))}",
        headline=headline,
        sentences=sentences,
        tables="".join(table_html(grid, models) for grid in grids),
        figures="".join(figure_html(*each) for each in {_CAPTION: png, **figures}.items()),
        facts=facts,
    )
    files = {"report.html": html.encode(), "figures/fsc.png": png, "figures/fsc.svg": rendered(drawn, "svg")}
    for name, content in files.items():
        with whole_file(folder / name, overwrite=True) as partial:
            partial.write_bytes(content)
    (folder / QUALITY).unlink(missing_ok=True)  # of an earlier comparison
    for each in tomograms:
        write_quality(folder / QUALITY, each.name, each.found)
    return [*files, QUALITY]


def curves_figure(tomograms: Sequence[Judged]) -> Figure:
    """A panel for each tomogram: correlation with the signal over frequencies."""
    columns = min(_COLUMNS, len(tomograms))
    rows = -(-len(tomograms) // columns)
    figure = Figure(figsize=(4 * columns + 0.5, 3.8 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    names = list(dict.fromkeys(name for each in tomograms for name in compared(each.found)))
    for axis, each in zip(axes, tomograms, strict=False):
        frequencies = each.halves.frequencies
        for quality in each.found:
            if quality.method == GAUSSIAN:
                continue
            if quality.method == INPUT:
                line = {"color": "#444444", "linestyle": ":", "marker": "x", "markersize": 4}
                axis.plot(frequencies, quality.score.fsc, label=INPUT, **line)
                continue
            style = STYLES[names.index(quality.method) % len(STYLES)]
            line = {"color": style.color, "linestyle": style.line, "marker": style.marker, "markersize": 4}
            axis.plot(frequencies, quality.score.fsc, label=quality.method, **line)
            axis.plot(frequencies, quality.score.agreement, linestyle=(0, (1, 3)), linewidth=1, color=style.color)
        axis.axhline(0.5, color="#999999", linewidth=0.8, linestyle=":")
        axis.set(title=each.name, xlim=(0, 0.5), ylim=(-0.2, 1.02), xlabel="frequency, cycles per voxel")
        ticks = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
        top = axis.secondary_xaxis("top")
        top.set_xticks(ticks, [f"{each.halves.voxel_size / tick:.0f}" for tick in ticks], fontsize=8)
        top.set_xlabel("Å", fontsize=8)
        plain_axis(axis)
    for axis in axes[len(tomograms) :]:
        axis.remove()
    figure.axes[0].set_ylabel("Fourier shell correlation")
    handles = figure.axes[0].get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False, handlelength=3)
    return figure


def _split(each: Judged) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of a tomogram's table."""
    header, *rows = table_rows(each.halves, each.found)
    return ["method", *header[1:]], [list(row) for row in rows]
