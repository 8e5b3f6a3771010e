"""The figures of a comparison, that a person can judge a method by."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cryoden.evaluation.results import Comparison, Example, Sweep, curve_spread
from cryoden.metrics import MEASURES, percentiles
from cryoden.pictures import STYLES, Style, grey_scale, plain_axis, scale_bar, show_slice, slice_figure

_PLAIN = (  # input, zeros, then the filters
    Style("#444444", ":", "x", ""),
    Style("#bbbbbb", (0, (1, 3)), ".", ""),
    Style("#555555", (0, (4, 1, 1, 1)), "+", ".."),
    Style("#777777", (0, (2, 2)), "1", ".."),
    Style("#888888", (0, (4, 2)), "2", ".."),
    Style("#666666", (0, (6, 2)), "3", ".."),
)


def _styles(comparison: Comparison) -> dict[str, Style]:
    plain = [name for name in comparison.methods if name not in comparison.models]
    styles = {name: _PLAIN[i % len(_PLAIN)] for i, name in enumerate(plain)}
    models = enumerate(comparison.models)
    return {**styles, **{name: STYLES[i % len(STYLES)] for i, name in models}}


def figures(comparison: Comparison) -> dict[str, Figure]:
    """All figures of a comparison, by file name: captions are in `CAPTIONS`."""
    made = {"bars": bar_figure(comparison), "fsc": fsc_figure(comparison), "particles": box_figure(comparison)}
    if any(model.history for model in comparison.models.values()):
        made["training"] = training_figure(comparison)
    for number, example in enumerate(comparison.examples):
        made[f"slices_{number}"] = overview_figure(example, comparison.voxel_size)
    if comparison.examples:
        volumes = comparison.examples[0].volumes
        for name in comparison.compared:
            shown = {"input": volumes["input"], name: volumes[name], "clean": volumes["clean"]}
            title = f"{name}: {comparison.examples[0].entry}"
            made[f"slices_{file_name(name)}"] = slice_figure(shown, comparison.voxel_size, title)
    for sweep in comparison.sweeps:
        made[f"sensitivity_{file_name(sweep.quantity.partition(',')[0])}"] = sweep_figure(comparison, sweep)
    return made


def file_name(text: str) -> str:
    """Text as part of a file's name.

    >>> file_name("SimpleAE (a/b)")
    'SimpleAE_a_b'
    """
    return "_".join("".join(c if c.isalnum() else " " for c in text).split())


CAPTIONS = {
    "bars": "Median over volumes; the lines reach from the 5th to the 95th percentile (the thesis's figure 17).",
    "training": "Validation error, and training loss relative to its first value, over training (figure 18).",
    "fsc": "Fourier shell correlation with the clean volume: median over volumes; shaded: 5th to 95th percentile of "
    "the models (figures 19 and 20). Everywhere, where the tilt series measured, and in the missing wedge.",
    "particles": "NRMSE of each particle's volumes: median, quartiles, and 5th to 95th percentile.",
    "slices": "Slices of the same volume by all methods, one grey scale (figures 10, 12 and 14 to 16).",
    "sensitivity": "Median NRMSE, 5th to 95th percentile of the models; the filters are at their best at each point.",
}


def bar_figure(comparison: Comparison) -> Figure:
    """Median and 5th to 95th percentile of each method."""
    styles = _styles(comparison)
    names = comparison.methods[::-1]
    shown = ("nrmse", "masked_nrmse", "psnr", "ssim", "masked_ssim", "fsc_area")
    figure = Figure(figsize=(11, 1.2 + 0.56 * len(names)), layout="constrained")
    for axis, measure in zip(figure.subplots(2, 3, sharey=True).flat, shown, strict=True):
        about = MEASURES[measure]
        for row, name in enumerate(names):
            low, median, high = percentiles(comparison.of(name, measure))
            style = styles[name]
            axis.barh(row, median, color=style.color, hatch=style.hatch, edgecolor="white", linewidth=0.5)
            for color, width in (("white", 3.5), ("black", 1.4)):  # seen on dark bars and on white paper
                axis.plot([low, high], [row, row], color=color, linewidth=width, marker="|", markersize=6)
        axis.set_yticks(range(len(names)), names, fontsize=9)
        axis.set_xlabel(f"{about.heading}, {'less' if about.better < 0 else 'more'} is better", fontsize=9)
        axis.set_xlim(left=min(0, axis.get_xlim()[0]))
        plain_axis(axis)
    return figure


def box_figure(comparison: Comparison) -> Figure:
    """NRMSE of each particle by each model and the best filter."""
    styles = _styles(comparison)
    names = ["input", comparison.best(comparison.filters), *comparison.compared]
    width = 0.8 / len(names)
    figure = Figure(figsize=(max(6.0, 1.6 + 0.26 * len(names) * len(comparison.entries)), 4), layout="constrained")
    axis = figure.subplots()
    for i, name in enumerate(names):
        boxes = axis.boxplot(
            [comparison.of(name, "nrmse", entry) for entry in comparison.entries],
            positions=np.arange(len(comparison.entries)) + (i - (len(names) - 1) / 2) * width,
            widths=0.85 * width,
            whis=(5, 95),
            showfliers=False,
            patch_artist=True,
            medianprops={"color": "black", "linewidth": 1.5},
        )
        for box in boxes["boxes"]:
            box.set(facecolor=styles[name].color, hatch=styles[name].hatch, edgecolor="black", alpha=0.85)
    axis.axhline(1, color="#999999", linestyle=":", linewidth=1)
    axis.text(1.0, 1.0, "empty volume", transform=axis.get_yaxis_transform(), ha="right", va="bottom", fontsize=8)
    axis.set_xticks(range(len(comparison.entries)), comparison.entries, rotation=30 * (len(comparison.entries) > 4))
    axis.set_ylabel("NRMSE")
    axis.set_ylim(bottom=0)
    patches = [Patch(facecolor=styles[n].color, hatch=styles[n].hatch, edgecolor="black", label=n) for n in names]
    _legend_below(figure, patches)
    plain_axis(axis)
    return figure


def fsc_figure(comparison: Comparison) -> Figure:
    """Fourier shell correlation: everywhere, where the tilt series measured, and in the missing wedge."""
    styles = _styles(comparison)
    wedge = "fsc_wedge" in comparison.measures
    panels = {"fsc": "everywhere"} | ({"fsc_measured": "measured", "fsc_wedge": "missing wedge"} if wedge else {})
    figure = Figure(figsize=(4 * len(panels) + 0.5, 4.4), layout="constrained")
    frequencies = np.array(comparison.frequencies)
    for axis, (curve, title) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        for name in comparison.methods:
            if name == "zeros":
                continue  # has no frequencies to correlate
            bands = curve_spread(comparison.evaluation.curves[name][curve])
            style, model = styles[name], name in comparison.models
            axis.plot(
                frequencies,
                bands["p50"],
                color=style.color,
                linestyle=style.line,
                linewidth=2 if model else 1.2,
                marker=style.marker if model else None,
                markevery=4,
                markersize=4,
                label=name,
            )
            if model:
                axis.fill_between(frequencies, bands["p5"], bands["p95"], color=style.color, alpha=0.15, linewidth=0)
        for threshold in (0.5, 0.143):
            axis.axhline(threshold, color="#999999", linewidth=0.8, linestyle=":")
            axis.text(0.0, threshold, f" {threshold}", fontsize=8, va="bottom", color="#555555")
        axis.set(title=title, xlim=(0, 0.5), ylim=(-0.2, 1.02), xlabel="frequency, cycles per voxel")
        ticks = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
        top = axis.secondary_xaxis("top")
        top.set_xticks(ticks, [f"{comparison.voxel_size / tick:.0f}" for tick in ticks], fontsize=8)
        top.set_xlabel("Å", fontsize=8)
        plain_axis(axis)
    axis = figure.axes[0]
    axis.set_ylabel("Fourier shell correlation")
    _legend_below(figure, axis.get_legend_handles_labels()[0])
    return figure


def training_figure(comparison: Comparison) -> Figure:
    """Validation NRMSE and training loss of each model over its epochs."""
    styles = _styles(comparison)
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, model in comparison.models.items():
        style = styles[name]
        line = {"color": style.color, "linestyle": style.line, "marker": style.marker, "markersize": 4}
        if "val/nrmse" in model.history:
            epochs, values = np.array(model.history["val/nrmse"]).T
            left.plot(epochs, values, label=name, **line)
            if {"val/nrmse_p5", "val/nrmse_p95"} <= set(model.history):
                low, high = (np.array(model.history[f"val/nrmse_{p}"])[:, 1] for p in ("p5", "p95"))
                left.fill_between(epochs, low, high, color=style.color, alpha=0.15, linewidth=0)
        losses = [column for column in ("train/loss", "train/loss_reconstruction") if column in model.history]
        if losses:
            epochs, values = np.array(model.history[losses[0]]).T
            right.plot(epochs, values / values[0], label=name, **{**line, "marker": None})
    left.axhline(1, color="#999999", linestyle=":", linewidth=1)
    left.set(xlabel="epoch", ylabel="validation NRMSE", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="training loss / first value")
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)
        plain_axis(axis)
    _legend_below(figure, left.get_legend_handles_labels()[0] or right.get_legend_handles_labels()[0])
    return figure


def overview_figure(example: Example, voxel_size: float) -> Figure:
    """The same volume by all methods: the xy and xz slices through most of its density."""
    names = list(example.volumes)
    figure = Figure(figsize=(1.75 * len(names), 4.2), layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False)
    low, high = grey_scale(example.volumes["clean"])
    for column, name in enumerate(names):
        volume = example.volumes[name]
        for across in (0, 1):
            image = np.take(volume, example.densest(across), axis=across)
            show_slice(axes[across, column], image, low, high)
        axes[0, column].set_title(name.replace(" (", "\n("), fontsize=9)
    axes[0, 0].set_ylabel("xy", fontsize=9)
    axes[1, 0].set_ylabel("xz, beam upwards", fontsize=9)
    scale_bar(axes[0, 0], example.volumes["clean"].shape[2], voxel_size)
    figure.suptitle(f"{example.title}: {example.entry}, item {example.index}", fontsize=10)
    return figure


def sweep_figure(comparison: Comparison, sweep: Sweep) -> Figure:
    """NRMSE against a property of the degraded volumes."""
    styles = _styles(comparison)
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axis = figure.subplots()
    for name, values in sweep.values.items():
        low, median, high = np.array(values["nrmse"]).T
        style = styles[name]
        axis.plot(sweep.points, median, color=style.color, linestyle=style.line, marker=style.marker, label=name)
        if name in comparison.models:
            axis.fill_between(sweep.points, low, high, color=style.color, alpha=0.15, linewidth=0)
    axis.set(xlabel=sweep.quantity, ylabel="NRMSE", ylim=(0, min(2.0, axis.get_ylim()[1])))
    if max(sweep.points) > 10 * min(sweep.points):
        axis.set_xscale("log")
        axis.set_xticks(sweep.points, [f"{point:g}" for point in sweep.points])
        axis.set_xticks([], minor=True)
    axis.axhline(1, color="#999999", linestyle=":", linewidth=1)
    _legend_below(figure, axis.get_legend_handles_labels()[0])
    plain_axis(axis)
    return figure


def _legend_below(figure: Figure, handles: Any) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False, handlelength=3)
