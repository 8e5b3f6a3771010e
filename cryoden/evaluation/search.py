"""Settings drawn at random or from a grid, as a sweep describes them, and a picture of what they gave."""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cryoden.errors import CryodenError

Settings = dict[str, Any]
"""Name of a flag → its value."""

_KNOWN = ("value", "values", "distribution", "min", "max")
_RANGES = ("uniform", "int_uniform", "log_uniform_values")


def settings(method: str, parameters: Mapping[str, Mapping[str, Any]], seed: int) -> Iterator[Settings]:
    """One setting after the other, each a function of the seed and its number alone.

    Args:
        method: random, without an end, or grid, all combinations of values.
        parameters: name → value, values, or min and max with a distribution, as in a sweep's file.
        seed: of what is drawn.

    Raises:
        CryodenError: it is another method, or a parameter is described in a way that is not known here.
    """
    for name, parameter in parameters.items():
        _check(name, parameter, grid=method == "grid")
    if method == "grid":
        for combination in itertools.product(*(_values(each) for each in parameters.values())):
            yield dict(zip(parameters, combination, strict=True))
    elif method == "random":
        for number in itertools.count():
            generator = random.Random(f"{seed} {number}")
            yield {name: _draw(each, generator) for name, each in parameters.items()}
    else:
        raise CryodenError(
            f"method: got {method!r}; allowed here are random and grid, others need Weights & Biases: wandb sweep"
        )


def _check(name: str, parameter: Any, *, grid: bool) -> None:
    """Refuse what `_draw` does not know."""
    if isinstance(parameter, Mapping) and set(parameter) <= set(_KNOWN):
        values: Any = parameter.get("values")
        low: Any = parameter.get("min")
        high: Any = parameter.get("max")
        if "value" in parameter or (isinstance(values, list) and values):
            return
        kind = parameter.get("distribution", "uniform")
        least = 0.0 if kind == "log_uniform_values" else -math.inf
        numbers = all(isinstance(end, int if kind == "int_uniform" else int | float) for end in (low, high))
        if numbers and kind in _RANGES and not grid and least < low < high < math.inf:
            return
    ranges = "" if grid else f", or min and max with one of the distributions {', '.join(_RANGES)}"
    raise CryodenError(f"parameters {name}: got {str(parameter)[:100]}; allowed are value, values{ranges}")


def _values(parameter: Mapping[str, Any]) -> Sequence[Any]:
    return [parameter["value"]] if "value" in parameter else list(parameter["values"])


def _draw(parameter: Mapping[str, Any], generator: random.Random) -> Any:
    if "min" not in parameter:
        return generator.choice(_values(parameter))
    low, high = parameter["min"], parameter["max"]
    whole = isinstance(low, int) and isinstance(high, int)  # Weights & Biases takes whole ends for whole numbers
    match parameter.get("distribution", "int_uniform" if whole else "uniform"):
        case "int_uniform":
            return generator.randint(low, high)
        case "log_uniform_values":
            return float(f"{math.exp(generator.uniform(math.log(low), math.log(high))):.4g}")
        case _:
            return float(f"{generator.uniform(low, high):.4g}")


def parallel_figure(tried: Sequence[Settings], scores: Sequence[float], metric: str, *, minimize: bool) -> Figure:
    """Parallel coordinates (Inselberg 1985): a line for each setting, from axis to axis, to what it scored.

    Args:
        tried: the settings, all of the same names.
        scores: one for each; those that are not finite are left out.
        metric: what was scored.
        minimize: whether less is better; the best is drawn thick, and the better, the darker.
    """
    order = [int(i) for i in np.argsort(scores) if math.isfinite(scores[i])]
    order = order if minimize else order[::-1]
    axes = {name: [settings[name] for settings in tried] for name in tried[0]} | {metric: list(scores)}
    figure = Figure(figsize=(max(6.0, 1.7 * len(axes)), 4.6), layout="constrained")
    axis = figure.subplots()
    heights = {name: _heights([values[i] for i in order]) for name, values in axes.items()}
    colors = matplotlib.colormaps["viridis"]
    for rank in reversed(range(len(order))):
        line = [heights[name][0][rank] for name in axes]
        axis.plot(range(len(axes)), line, color=colors(0.9 * rank / max(1, len(order) - 1)), lw=1 if rank else 3)
    for place, name in enumerate(axes):
        axis.axvline(place, color="#999999", linewidth=0.8)
        for height, label in heights[name][1].items():
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}
            axis.text(place + 0.03, height, label, fontsize=8, va="center", bbox=box)
    axis.set_xticks(range(len(axes)), [name.removeprefix("model.").replace("_", "\n") for name in axes], fontsize=9)
    axis.set(xlim=(-0.1, len(axes) - 0.6), yticks=[])
    axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return figure


def _heights(values: Sequence[Any]) -> tuple[list[float], dict[float, str]]:
    """Where on an axis from 0 to 1 values lie, and what stands beside it: many numbers by size, all else in turn."""
    if len(set(map(str, values))) > 5 and all(isinstance(value, int | float) for value in values):
        low, high = min(values), max(values)
        scale = math.log if low > 0 and high / low > 20 else float
        heights = [(scale(value) - scale(low)) / (scale(high) - scale(low)) for value in values]
        return heights, {0.0: f"{low:.3g}", 1.0: f"{high:.3g}"}
    kinds = {str(value): value for value in values}  # lists and tables have no hash
    if len(set(map(type, values))) == 1 and all(isinstance(value, int | float | str) for value in values):
        kinds = {str(value): value for value in sorted(kinds.values())}
    at = {kind: (i + 0.5) / len(kinds) for i, kind in enumerate(kinds)}
    return [at[str(value)] for value in values], {height: _shown(kinds[kind]) for kind, height in at.items()}


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
