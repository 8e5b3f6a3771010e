"""`cryoden denoise` where other processes want the cores too: threads that wait for others turn in circles, or sleep.

    python experiments/benchmarks/contention.py --tomogram tomogram.mrc --busy 0 3 --output contention.json

Without a tomogram (of bright protein), noise is denoised. Told are medians of seconds by the clock and of the CPU, with
the turns that GNU's OpenMP makes by itself, and with ours (`cryoden.cli`), in turns; the results must be the same.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import hardware

from cryoden import Volume, read_volume, write_volume
from cryoden.evaluation.results import provenance

TURNS = {"GNU's": "300000", "cryoden's": None}  # before a thread sleeps; None: as the command does it


def burn() -> None:
    """Want a core, as what another person runs does: Linux shares cores among sessions first."""
    os.setsid()
    while True:
        pass


def denoise(tomogram: Path, output: Path, turns: str | None) -> tuple[float, float]:
    """Seconds by the clock, and of the CPU, of a process of its own."""
    environment = {name: each for name, each in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment |= {"GOMP_SPINCOUNT": turns} if turns else {}
    command = [
        sys.executable,
        "-m",
        "cryoden",
        "denoise",
        str(tomogram),
        str(output),
        "--contrast",
        "bright",
        "--overwrite",
    ]
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, compare, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tomogram", type=Path)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 3], help="processes beside it")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True, help="a .json file")
    arguments = parser.parse_args()
    print(hardware())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tomogram = arguments.tomogram or Path(folder) / "noise.mrc"
        if not arguments.tomogram:
            noise = np.random.default_rng(0).normal(size=(32, 48, 48)).astype(np.float32)
            write_volume(tomogram, Volume(noise, voxel_size=10.0))
        for busy in arguments.busy:
            others = [multiprocessing.Process(target=burn, daemon=True) for _ in range(busy)]
            for other in others:
                other.start()
            outputs = {name: Path(folder) / f"{number}.mrc" for number, name in enumerate(TURNS)}
            found = {name: [] for name in TURNS}
            for _ in range(arguments.runs):
                for name, turns in TURNS.items():
                    found[name].append(denoise(tomogram, outputs[name], turns))
            for other in others:
                other.kill()
                other.join()
            first, second = (read_volume(path).data for path in outputs.values())
            assert (first == second).all(), "the results differ"
            for name, seconds in found.items():
                wall, cpu = (round(statistics.median(each), 1) for each in zip(*seconds, strict=True))
                rows.append({"busy": busy, "turns": name, "seconds": wall, "cpu_seconds": cpu})
                print(f"{busy} busy processes, {name} turns: {wall} s, {cpu} CPU s")
    made = provenance()
    words = f"--tomogram {tomogram.name} --busy {' '.join(map(str, arguments.busy))} --runs {arguments.runs}"
    kept = {
        "title": "contention",
        "commands": [f"python experiments/benchmarks/contention.py {words}"],
        **{name: made[name] for name in ("created", "versions", "hardware")},
        "rows": rows,
    }
    arguments.output.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
