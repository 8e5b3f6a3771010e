"""What the benchmarks share: runs that take turns, so that other work on the machine slows all sides alike."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


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
    if device == "cuda":
        where = torch.cuda.get_device_name()
    else:
        described = Path("/proc/cpuinfo")
        lines = described.read_text().splitlines() if described.exists() else []
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        where = f"{names[0] if names else platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"
        where += f", {torch.get_num_threads()} threads"
    return f"{where}, torch {torch.__version__}, Python {platform.python_version()}"
