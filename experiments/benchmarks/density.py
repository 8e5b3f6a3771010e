"""Clean volumes a second on one core, and what preparing a particle costs; give a structure file, or take a phantom.

python experiments/benchmarks/density.py [PARTICLE]
"""

import argparse
import time
from typing import get_args

import numpy as np
from scipy.spatial.transform import Rotation
from timing import hardware

from cryoden.particles import Structure, load_particle
from cryoden.simulation.density import clean_volume
from cryoden.simulation.points import points_of
from cryoden.simulation.units import Sampling

BOX, VOXEL_SIZE, RESOLUTION = 64, 6.0, 12.0


def main() -> None:
    """Print the medians of volumes of 64^3 at 6 Å, band-limited and as in the thesis."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("particle", nargs="?", default="phantom:0")
    parser.add_argument("--runs", type=int, default=100)
    arguments = parser.parse_args()
    particle = load_particle(arguments.particle)
    assert isinstance(particle, Structure)
    print(hardware(), f"{particle.name}, {particle.model.count_atom_sites()} atoms", sep="\n")
    started = time.process_time()
    points = points_of(particle, VOXEL_SIZE, RESOLUTION)
    print(f"prepared once in {time.process_time() - started:.2f} s of CPU: {len(points.weights)} points")
    for sampling in get_args(Sampling):
        times = []
        for rotation in Rotation.random(arguments.runs, random_state=0).as_matrix():
            started = time.process_time()
            clean_volume(particle, rotation, BOX, VOXEL_SIZE, RESOLUTION, sampling)
            times.append(time.process_time() - started)
        median = float(np.median(times))
        print(f"{sampling:12s} {1000 * median:6.1f} ms of CPU a volume, {1 / median:4.0f} volumes a second")


if __name__ == "__main__":
    main()
