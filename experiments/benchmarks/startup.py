"""What it takes to start: `import cryoden` and the help of its commands, each in new processes that take turns."""

import os
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import cryoden": ["-c", "import cryoden"],
    "cryoden --help": ["-m", "cryoden", "--help"],
    "cryoden fit --help": ["-m", "cryoden", "fit", "--help"],
    "cryoden denoise --help": ["-m", "cryoden", "denoise", "--help"],
}


def main(runs: int) -> None:
    """Print the medians of wall and CPU seconds; one more round beforehand fills the system's file cache."""
    wall: dict[str, list[float]] = {name: [] for name in COMMANDS}
    cpu: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs + 1):
        for name, words in COMMANDS.items():
            started, before = time.perf_counter(), os.times()
            subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
            after = os.times()
            wall[name].append(time.perf_counter() - started)
            cpu[name].append(
                after.children_user + after.children_system - before.children_user - before.children_system
            )
    for name in COMMANDS:
        walls, cpus = (statistics.median(seconds[name][1:]) for seconds in (wall, cpu))
        print(f"{name:22s} {walls:6.2f} s, {cpus:6.2f} s of CPU")


main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
