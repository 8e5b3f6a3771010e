"""A tilt series and its back-projection: of boxes as in training, and with --slab of a whole tomogram with its halves.

On a CPU: CPU time, of one thread unless OMP_NUM_THREADS says otherwise. On a GPU: with --device cuda.
"""

import argparse
import resource
import time

import torch
from timing import hardware, medians

from cryoden.simulation.degradation import without_margin
from cryoden.simulation.tilt_series import TiltSeriesDegradation


def main() -> None:
    """Print milliseconds per box, or seconds per slab."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--slab", type=int, nargs=3, metavar=("D", "H", "W"), help="for instance 180 512 512")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    step = TiltSeriesDegradation()
    generator = torch.Generator().manual_seed(0)
    print(hardware(arguments.device), f"{len(step.scheme.angles)} tilts", sep="\n")
    if arguments.slab:
        slab = torch.rand(arguments.slab, generator=generator).to(arguments.device)
        started, spent = time.perf_counter(), time.process_time()
        made = step.tomograms(slab, step.sample(generator))
        assert made.full.isfinite().all()
        seconds, spent = time.perf_counter() - started, time.process_time() - spent
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{arguments.slab}, 6 tomograms: {seconds:.1f} s, {spent:.1f} s of CPU time, at most {memory:.1f} GB")
        return
    margin = step.context
    wide = [arguments.box + 2 * m for m in margin]
    within = torch.rand(arguments.batch, 1, *wide, generator=generator).to(arguments.device)
    volumes = without_margin(within, margin).contiguous()
    parameters = [step.sample(generator) for _ in volumes]
    clock = time.process_time if arguments.device == "cpu" else time.perf_counter
    sides = {
        "one tomogram": lambda: step.apply(volumes, parameters),
        "in context": lambda: step.apply_within(within, parameters, margin),
        "two halves": lambda: step.halves(volumes, parameters),
    }
    for name, seconds in medians(sides, arguments.runs, clock).items():
        print(f"{name:12s} {1000 * seconds / arguments.batch:7.1f} ms a box of {arguments.box}^3")


if __name__ == "__main__":
    main()
