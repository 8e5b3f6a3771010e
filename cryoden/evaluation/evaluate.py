"""Methods beside each other on the same volumes: one value per volume, measure and method."""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from cryoden.batch import Batch
from cryoden.data.dataset import VolumeDataset, collate
from cryoden.errors import CryodenError, one_line
from cryoden.metrics import CURVES, MEASURES, measure

Method = Callable[[Tensor], Tensor]
"""Degraded volumes (B, 1, D, H, W) → denoised ones, in the same unit and on the same device."""

TRIVIAL: dict[str, Method] = {"input": lambda degraded: degraded, "zeros": torch.zeros_like}
"""The answers that need no method, by name: first in each table."""

Progress = Callable[[int, int], None]


@dataclass(eq=False)
class Evaluation:
    """What was measured.

    Attributes:
        indices: the items of the data set, in order; n of them.
        entries: what each of them shows.
        shape: (D, H, W) in voxels.
        values: method → measure → (n,).
        curves: method → curve → (n, S).
        failed: method → why it is not among these.
        seconds: what took how long, in all.
        sha256: of all clean and degraded voxels, in order: the same volumes have the same.
    """

    indices: list[int]
    entries: list[str] = field(default_factory=list)
    shape: tuple[int, int, int] = (0, 0, 0)
    values: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    curves: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    sha256: str = ""


def spaced(n: int, count: int) -> list[int]:
    """At most `count` of n items, evenly spaced, so that each particle has its share.

    >>> spaced(10, 4)
    [1, 3, 6, 8]
    """
    count = min(n, count)
    return [int((i + 0.5) * n / count) for i in range(count)]


def batches(dataset: VolumeDataset, indices: Sequence[int], batch_size: int, num_workers: int) -> Iterable[Batch]:
    """Items of epoch 0 in batches."""
    keys = [(0, index) for index in indices]
    return DataLoader(dataset, batch_size, sampler=keys, num_workers=num_workers, collate_fn=collate)


def pairs(dataset: VolumeDataset, indices: Sequence[int], batch_size: int, num_workers: int) -> tuple[Tensor, Tensor]:
    """Items of epoch 0: degraded and clean, each (n, 1, D, H, W), in memory at once."""
    made = [(batch["degraded"], batch["clean"]) for batch in batches(dataset, indices, batch_size, num_workers)]
    degraded, clean = (torch.cat(volumes) for volumes in zip(*made, strict=True))
    return degraded, clean


def evaluate(
    methods: Mapping[str, Method],
    dataset: VolumeDataset,
    indices: Sequence[int],
    *,
    voxel_size: float,
    batch_size: int = 8,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Evaluation:
    """Let methods denoise the same volumes, and measure them.

    Args:
        methods: name → method. One that fails, or gives what is not finite, is left out, and the rest go on.
        dataset: where the volumes come from, clean and degraded.
        indices: which.
        voxel_size: Å.
        batch_size: volumes at once.
        num_workers: processes that make volumes.
        device: where methods and measures run.
        progress: called with the number of volumes done and their total.

    Raises:
        CryodenError: there are no volumes, or a clean one is constant: there is nothing to compare with.
    """
    if not indices:
        raise CryodenError("volumes: got none to evaluate; there must be at least 1")
    found = Evaluation(list(indices))
    parts: dict[str, list[tuple[dict[str, Tensor], dict[str, Tensor]]]] = {name: [] for name in methods}
    digest = hashlib.sha256()
    clock = _Clock(found.seconds, torch.device(device))
    clock.start()
    for batch in batches(dataset, indices, batch_size, num_workers):
        clock.stop("volumes")
        clean, degraded = batch["clean"], batch["degraded"]
        first = len(found.entries)
        depth, height, width = clean.shape[2:]
        found.shape = depth, height, width
        found.entries += batch["entry"]
        for i, (one, other) in enumerate(zip(clean, degraded, strict=True)):
            if float(one.std()) == 0:
                where = f"volume {found.indices[first + i]} ({found.entries[first + i]})"
                raise CryodenError(
                    f"{where}: its clean volume is constant, there is nothing to compare with; leave it out"
                )
            digest.update(one.numpy().tobytes())
            digest.update(other.numpy().tobytes())
        clean, degraded, measured = clean.to(device), degraded.to(device), batch["measured"].to(device)
        for name, method in methods.items():
            if name in found.failed:
                continue
            clock.start()
            try:
                with torch.inference_mode():
                    denoised = method(degraded)
                _check(denoised, degraded)
            except Exception as error:  # whatever happens in one method, the others go on
                found.failed[name] = one_line(error)
                continue
            clock.stop(name)
            parts[name].append(measure(denoised, clean, measured, voxel_size))
            clock.stop("measures")
        if progress:
            progress(len(found.entries), len(indices))
        clock.start()
    for name in methods:
        if name not in found.failed:
            values, curves = zip(*parts[name], strict=True)
            found.values[name] = {key: _joined(values, key) for key in MEASURES}
            found.curves[name] = {key: _joined(curves, key) for key in CURVES}
    found.sha256 = digest.hexdigest()
    return found


def _check(denoised: Any, degraded: Tensor) -> None:
    if denoised.shape != degraded.shape:
        raise CryodenError(f"gave volumes of shape {tuple(denoised.shape)} for {tuple(degraded.shape)}")
    wrong = int((~denoised.isfinite()).sum())
    if wrong:
        raise CryodenError(f"gave {wrong} voxels that are NaN or infinite; its training went wrong: train it again")


def _joined(parts: Sequence[Mapping[str, Tensor]], key: str) -> NDArray[np.float64]:
    return torch.cat([part[key] for part in parts]).double().numpy()


class _Clock:
    """Adds up the seconds of what happens between a start, or the last stop, and a stop."""

    def __init__(self, seconds: dict[str, float], device: torch.device) -> None:
        self.seconds = seconds
        self.device = device
        self.last = 0.0

    def start(self) -> None:
        self.last = time.perf_counter()

    def stop(self, what: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[what] = self.seconds.get(what, 0.0) + now - self.last
        self.last = now
