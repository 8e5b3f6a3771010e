"""What it takes to start: `import cryoden` and the help of its commands, each in new processes that take turns."""

import argparse
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


def main() -> None:
    """Print the medians of wall and CPU seconds; one more round beforehand fills the system's file cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commands", nargs="*", default=list(COMMANDS), help=f"some of {', '.join(COMMANDS)}")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    wall: dict[str, list[float]] = {name: [] for name in arguments.commands}
    cpu: dict[str, list[float]] = {name: [] for name in arguments.commands}
    for _ in range(arguments.runs + 1):
        for name in arguments.commands:
            started, before = time.perf_counter(), os.times()
            subprocess.run([sys.executable, *COMMANDS[name]], stdout=subprocess.DEVNULL, check=True)
            after = os.times()
            wall[name].append(time.perf_counter() - started)
            cpu[name].append(
                after.children_user + after.children_system - before.children_user - before.children_system
            )
    for name in arguments.commands:
        walls, cpus = (statistics.median(seconds[name][1:]) for seconds in (wall, cpu))
        print(f"{name:22s} {walls:6.2f} s, {cpus:6.2f} s of CPU")


if __name__ == "__main__":
    main()
