"""How a model's error depends on what the microscope did: curves against noise and against the tilt range."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryoden.data import VolumeDataModule
from cryoden.errors import CryodenError
from cryoden.evaluation.baselines import FILTERS, best_setting
from cryoden.evaluation.evaluate import TRIVIAL, Method, evaluate, pairs, spaced
from cryoden.evaluation.results import Sweep
from cryoden.metrics import MEASURES, percentiles
from cryoden.simulation.degradation import Degradation, GaussianNoise, MissingWedge
from cryoden.simulation.tilt_series import TiltSeriesDegradation

SNRS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
TILTS = (40.0, 50.0, 60.0, 70.0)
DOSES = (20.0, 50.0, 100.0, 200.0)
_TILT = "tilt range, ± degrees"


def _with_snr(step: GaussianNoise, snr: float) -> Degradation:
    return replace(step, snr=snr)


def _with_tilt(step: MissingWedge, tilt: float) -> Degradation:
    return replace(step, tilt_range=(-tilt, tilt))


def _with_scheme(step: TiltSeriesDegradation, tilt: float) -> Degradation:
    return replace(step, scheme=replace(step.scheme, tilt_range=(-tilt, tilt)))


def _with_dose(step: TiltSeriesDegradation, dose: float) -> Degradation:
    return replace(step, exposure=replace(step.exposure, dose=dose))


# What is varied: what it is called, its values, the kind of step, and how such a step becomes one with a value.
_VARIED: tuple[tuple[str, Sequence[float], type[Degradation], Callable[[Any, float], Degradation]], ...] = (
    ("signal-to-noise ratio, var(signal) / var(noise)", SNRS, GaussianNoise, _with_snr),
    (_TILT, TILTS, MissingWedge, _with_tilt),
    ("dose, electrons per Å²", DOSES, TiltSeriesDegradation, _with_dose),
    (_TILT, TILTS, TiltSeriesDegradation, _with_scheme),
)
_QUICK = FILTERS[:3]  # set anew at each point, which non-local means is too slow for


def sweeps(
    methods: Mapping[str, Method],
    module: VolumeDataModule,
    volumes: int,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> list[Sweep]:
    """Measure methods, and filters at their best, on the same test volumes degraded more and less.

    The signal-to-noise ratio goes from 0.1 to 5 where the data have Gaussian noise, the tilt range from ±40° to ±70°
    where they have a missing wedge. Of tilt series the dose goes from 20 to 200 electrons per Å², and the tilt range
    too. The rest stays as it is.

    Args:
        methods: name → method.
        module: where the volumes come from.
        volumes: how many at each point.
        device: where methods run.
        progress: called with the number of points done and their total.

    Raises:
        CryodenError: the data cannot be degraded otherwise, or in nothing that is varied.
    """
    steps = module.degradation
    plans = [
        (
            quantity,
            points,
            [[vary(step, point) if isinstance(step, kind) else step for step in steps] for point in points],
        )
        for quantity, points, kind, vary in _VARIED
        if any(isinstance(step, kind) for step in steps)
    ]
    if not plans:
        varied = ", ".join(dict.fromkeys(kind.__name__ for _, _, kind, _ in _VARIED))
        raise CryodenError(f"what degraded the data cannot be varied: of {varied} there is none")
    total = sum(len(points) for _, points, _ in plans)
    done = 0
    found = []
    for quantity, points, degradations in plans:
        values: dict[str, dict[str, list[list[float]]]] = {}
        for degradation in degradations:
            for method, scores in _at(methods, module, degradation, volumes, device).items():
                kept = values.setdefault(method, {name: [] for name in MEASURES})
                for name in MEASURES:
                    kept[name].append(percentiles(scores[name]))
            done += 1
            progress(done, total)
        # a method that failed at one point has no curve
        complete = {method: kept for method, kept in values.items() if len(kept["nrmse"]) == len(points)}
        found.append(Sweep(quantity, list(points), volumes, complete))
    return found


def _at(
    methods: Mapping[str, Method],
    module: VolumeDataModule,
    degradation: Sequence[Degradation],
    volumes: int,
    device: torch.device,
) -> Mapping[str, Mapping[str, NDArray[np.float64]]]:
    dataset = module.test_volumes(degradation)
    indices = spaced(len(dataset), volumes)
    degraded, clean = pairs(dataset, indices, module.batch_size, 0)
    filters: dict[str, Method] = {filter.name: filter.at(best_setting(filter, degraded, clean)) for filter in _QUICK}
    return evaluate(
        {"input": TRIVIAL["input"], **filters, **methods},
        dataset,
        indices,
        voxel_size=module.voxel_size,
        batch_size=module.batch_size,
        device=device,
    ).values
