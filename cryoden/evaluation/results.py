"""A comparison of methods, with all that a reader needs to trust it or to make it again."""

import math
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryoden.data.dataset import VolumeDataset
from cryoden.evaluation.evaluate import Evaluation, Method
from cryoden.evaluation.models import Model
from cryoden.hardware import machine
from cryoden.metrics import CURVES, MEASURES, Measure, percentiles, shell_frequencies
from cryoden.version import versions

Scores = Mapping[str, NDArray[np.floating[Any]]]
"""Name of a measure → one value per volume, (n,); nan where it has none."""


@dataclass(frozen=True)
class Example:
    """Volumes to look at.

    Attributes:
        title: why this one.
        entry: what it shows.
        index: its item.
        volumes: method → (D, H, W); "input" first and "clean" last.
    """

    title: str
    entry: str
    index: int
    volumes: dict[str, NDArray[np.float32]]

    def densest(self, axis: int) -> int:
        """Where across an axis (0, 1, 2: z, y, x) the slice with most of the clean volume's density lies."""
        others = tuple(other for other in range(3) if other != axis)
        return int(self.volumes["clean"].sum(axis=others).argmax())


@dataclass(frozen=True)
class Sweep:
    """One property of the degraded volumes varied, the rest as it was.

    Attributes:
        quantity: what was varied, with its unit.
        points: its values.
        volumes: at each point.
        values: method → measure → one (5th, 50th, 95th percentile) for each point.
    """

    quantity: str
    points: list[float]
    volumes: int
    values: dict[str, dict[str, list[list[float]]]]


@dataclass(eq=False)
class Comparison:
    """Models and classical filters on the same volumes.

    Attributes:
        experiment: of the thesis, whose numbers stand beside these; None: these are none of its volumes.
        evaluation: what was measured.
        voxel_size: Å.
        data: the data module's class and arguments.
        models: name → model.
        filters: name → (what its setting is, its best value on the validation volumes).
        failed: run → why it was left out.
        notes: what a reader should know.
        examples: volumes to look at.
        sweeps: sensitivity to the degradation.
        matching: method → what template matching found in its volumes.
        created: when.
        seconds: what took how long, in all.
    """

    experiment: str | None
    evaluation: Evaluation
    voxel_size: float
    data: dict[str, Any]
    models: dict[str, Model]
    filters: dict[str, tuple[str, float]]
    failed: dict[str, str]
    notes: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)
    matching: dict[str, dict[str, float]] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def methods(self) -> list[str]:
        """All of them: input, zeros, filters, models."""
        return list(self.evaluation.values)

    @property
    def compared(self) -> list[str]:
        """The models that were measured."""
        return [name for name in self.methods if name in self.models]

    @property
    def n(self) -> int:
        """Volumes."""
        return len(self.evaluation.entries)

    @property
    def measures(self) -> dict[str, Measure]:
        """The measures that at least one volume has a value for."""
        return {name: MEASURES[name] for name in scored(self.evaluation.values, MEASURES)}

    def median(self, method: str, measure: str = "nrmse", entry: str | None = None) -> float:
        """The median over volumes, of all or of one particle."""
        return percentiles(self.of(method, measure, entry), (50,))[0]

    def of(self, method: str, measure: str, entry: str | None = None) -> NDArray[np.float64]:
        """One value for each volume, of all or of one particle."""
        values = self.evaluation.values[method][measure]
        return values if entry is None else values[np.array(self.evaluation.entries) == entry]

    def best(self, names: Iterable[str], measure: str = "nrmse") -> str:
        """The method with the best median, by default the lowest NRMSE; the first of them where none has a value."""
        better = MEASURES[measure].better
        medians = {name: self.median(name, measure) for name in names}
        return max(medians, key=lambda name: better * medians[name] if math.isfinite(medians[name]) else -math.inf)

    @property
    def entries(self) -> list[str]:
        """The particles, each once."""
        return list(dict.fromkeys(self.evaluation.entries))

    @property
    def frequencies(self) -> list[float]:
        """Of the curves, in cycles per voxel."""
        return [float(f) for f in shell_frequencies(self.evaluation.shape)]

    def as_dict(self) -> dict[str, Any]:
        """All numbers, as JSON takes them: what is nan or infinite is None."""
        evaluation = self.evaluation
        result: dict[str, Any] = plain_numbers(
            {
                **provenance(),
                "created": self.created,
                "experiment": self.experiment,
                "data": {
                    **self.data,
                    "split": "test",
                    "volumes": self.n,
                    "items": evaluation.indices,
                    "entries": evaluation.entries,
                    "shape": evaluation.shape,
                    "voxel_size": self.voxel_size,
                    "sha256": evaluation.sha256,
                },
                "measures": {name: about.about for name, about in MEASURES.items()},
                "models": {name: {**vars(model), "history": None} for name, model in self.models.items()},
                "filters": {name: {"setting": what, "value": value} for name, (what, value) in self.filters.items()},
                "failed": self.failed,
                "notes": self.notes,
                "percentiles": {
                    method: {
                        entry or "all": {measure: spread(self.of(method, measure, entry)) for measure in MEASURES}
                        for entry in (None, *self.entries)
                    }
                    for method in self.methods
                },
                "values": {
                    method: {measure: values.tolist() for measure, values in scores.items()}
                    for method, scores in evaluation.values.items()
                },
                "frequencies": self.frequencies,
                "curves": {
                    method: {name: curve_spread(self.evaluation.curves[method][name]) for name in CURVES}
                    for method in self.methods
                },
                "sensitivity": [vars(sweep) for sweep in self.sweeps],
                "template_matching": self.matching,
                "seconds": evaluation.seconds,
            }
        )
        return result


def examples(
    comparison: Comparison, methods: Mapping[str, Method], dataset: VolumeDataset, device: torch.device
) -> list[Example]:
    """The best model's most typical volume and its worst one, by the input, the best filter and all models.

    Args:
        comparison: what was measured.
        methods: name → method.
        dataset: the volumes that were measured.
        device: where methods run.
    """
    scores = comparison.of(comparison.best(comparison.compared), "nrmse")
    order = np.argsort(scores)
    chosen = {"typical volume": int(order[(len(order) - 1) // 2]), "worst volume": int(order[-1])}
    rival = comparison.best(comparison.filters)
    shown = [name for name in comparison.methods if name in ("input", rival) or name in comparison.models]
    made = []
    for title, place in chosen.items():
        index = comparison.evaluation.indices[place]
        item = dataset[0, index]
        degraded = item["degraded"][None].to(device)
        with torch.inference_mode():
            volumes = {name: methods[name](degraded)[0, 0].float().cpu().numpy() for name in shown}
        made.append(Example(title, item["entry"], index, {**volumes, "clean": item["clean"][0].numpy()}))
    return made


def scored(scores: Mapping[str, Scores], measures: Iterable[str]) -> list[str]:
    """Those measures that at least one volume of one method has a value for.

    Args:
        scores: method → its scores.
        measures: which of `MEASURES`.
    """
    return [name for name in measures if any(np.isfinite(each[name]).any() for each in scores.values())]


def provenance() -> dict[str, Any]:
    """When, by which command, with what and on what numbers were made."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"cryoden {shlex.join(sys.argv[1:])}",
        "versions": versions(),
        "hardware": machine(),
    }


def summary(scores: Mapping[str, Scores], experiment: str | None, voxel_size: float | None) -> dict[str, Any]:
    """What `cryoden test` found, under the names of `Comparison.as_dict`.

    Args:
        scores: method → its scores.
        experiment: of the thesis; None: not one of them.
        voxel_size: Å; None where it is not known.
    """
    volumes = len(next(iter(scores.values()))["nrmse"])
    found: dict[str, Any] = plain_numbers(
        {
            **provenance(),
            "experiment": experiment,
            "data": {"split": "test", "volumes": volumes, "voxel_size": voxel_size},
            "percentiles": {
                method: {"all": {measure: spread(values) for measure, values in each.items()}}
                for method, each in scores.items()
            },
        }
    )
    return found


def spread(values: NDArray[np.floating[Any]]) -> dict[str, float]:
    """5th, 50th and 95th percentile of values, one for each volume."""
    return dict(zip(("p5", "p50", "p95"), percentiles(values), strict=True))


def curve_spread(curves: NDArray[np.float64]) -> dict[str, list[float]]:
    """Percentiles over volumes of curves (n, S), shell by shell."""
    rows = [percentiles(shell) for shell in curves.T]
    return dict(zip(("p5", "p50", "p95"), (list(row) for row in zip(*rows, strict=True)), strict=True))


def plain_numbers(value: Any) -> Any:
    """The same without what JSON does not know: nan and infinities become None, tuples lists.

    >>> plain_numbers({"a": (1.0, float("inf"))})
    {'a': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {str(k): plain_numbers(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain_numbers(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
