"""What it takes to start: `import cryoden`, help, being told of a mistake, a volume of 32^3 voxels.

Each in new processes that take turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import mrcfile
import numpy as np

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import cryoden": ["-c", "import cryoden"],
    "cryoden --help": ["-m", "cryoden", "--help"],
    "cryoden fit --help": ["-m", "cryoden", "fit", "--help"],
    "cryoden denoise --help": ["-m", "cryoden", "denoise", "--help"],
    "cryoden fit --help all": ["-m", "cryoden", "fit", "--help", "all"],
    "cryoden denoise missing.mrc out.mrc": ["-m", "cryoden", "denoise", "missing.mrc", "out.mrc"],
    "cryoden denoise volume.mrc out.mrc": ["-m", "cryoden", "denoise", "volume.mrc", "out.mrc", "--overwrite"],
    "cryoden compare missing": ["-m", "cryoden", "compare", "missing"],
    "cryoden fit --config missing.yaml": ["-m", "cryoden", "fit", "--config", "missing.yaml"],
}


def main() -> None:
    """Print the medians of wall and CPU seconds; one more round beforehand fills the system's file cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commands", nargs="*", default=list(COMMANDS), help=f"some of {', '.join(COMMANDS)}")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    wall: dict[str, list[float]] = {name: [] for name in arguments.commands}
    cpu: dict[str, list[float]] = {name: [] for name in arguments.commands}
    with TemporaryDirectory() as folder:
        with mrcfile.new(Path(folder, "volume.mrc")) as file:
            file.set_data(np.random.default_rng(0).gamma(1, size=(32, 32, 32)).astype(np.float32))
            file.voxel_size = 10.0
        for _ in range(arguments.runs + 1):
            for name in arguments.commands:
                started, before = time.perf_counter(), os.times()
                done = subprocess.run(
                    [sys.executable, *COMMANDS[name]], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                assert done.returncode in (0, 2), name  # 2: a mistake is told
                after = os.times()
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(
                    after.children_user + after.children_system - before.children_user - before.children_system
                )
    for name in arguments.commands:
        walls, cpus = (statistics.median(seconds[name][1:]) for seconds in (wall, cpu))
        print(f"{name:36s} {walls:6.2f} s, {cpus:6.2f} s of CPU")


if __name__ == "__main__":
    main()
