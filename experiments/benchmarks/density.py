"""Clean volumes a second on one core; give a structure file, or a phantom is used."""

import statistics
import sys
import time

import torch

from cryoden.particles import Structure, load_particle
from cryoden.simulation.density import clean_volume
from cryoden.simulation.rotation import random_rotation


def main(spec: str) -> None:
    """Print the median of 100 volumes of 64^3 at 6 Å."""
    particle = load_particle(spec)
    generator = torch.Generator().manual_seed(0)
    times = []
    for _ in range(100):
        rotation = random_rotation(generator).numpy()
        started = time.process_time()
        clean_volume(particle, rotation, 64, 6.0, 12.0)
        times.append(time.process_time() - started)
    atoms = particle.n_atoms if isinstance(particle, Structure) else 0
    median = statistics.median(times)
    print(f"{particle.name}, {atoms} atoms: {1000 * median:.1f} ms of CPU a volume, {1 / median:.0f} volumes a second")


main(sys.argv[1] if len(sys.argv) > 1 else "phantom:0")
