"""What the benchmarks share: runs that take turns, so that other work on the machine slows all sides alike."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch

from cryoden.hardware import machine


def medians(
    sides: Mapping[str, Callable[[], object]], runs: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each side over `runs` rounds; one more round beforehand warms up.

    Where other work takes the cores away, run one thread and take `time.process_time` for a clock.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs + 1):
        for name, run in sides.items():
            started = clock()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(clock() - started)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def hardware(device: str = "cpu") -> str:
    """One line: what this runs on."""
    here = machine()
    cpu = f"{here['cpu']} ({torch.backends.cpu.get_cpu_capability()}), {here['threads']} threads"
    where = here["gpu"] if device == "cuda" else cpu
    return f"{where}, torch {torch.__version__}, Python {platform.python_version()}"
