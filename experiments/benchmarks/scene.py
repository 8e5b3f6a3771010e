"""CPU seconds of one crowded scene of 180 × 512 × 512 voxels of 10 Å; structure files, or phantoms are used.

python experiments/benchmarks/scene.py [OCCUPANCY [PARTICLE ...]]
"""

import sys
import time

import torch
from timing import hardware

from cryoden.particles import load_particle
from cryoden.simulation.scene import Scene, SceneContents


def main(occupancy: float, specs: list[str]) -> None:
    """Print how many particles were placed, how full the ice is, and how long it took."""
    torch.set_num_threads(1)
    particles = [load_particle(spec) for spec in specs]
    contents = SceneContents(occupancy=occupancy, vesicles=(3, 6), fiducials=(5, 10), ice=1700.0)
    scene = Scene((180, 512, 512), 10.0, 20.0, particles, contents)
    started = time.process_time()
    made = scene.make(torch.Generator().manual_seed(0))
    seconds = time.process_time() - started
    others = sum(placement.particle in ("vesicle", "fiducial") for placement in made.placements)
    print(f"{hardware()}; {len(particles)} kinds of particles")
    print(
        f"occupancy {occupancy:g}: {len(made.placements) - others} particles, {others} vesicles and fiducials, "
        f"{made.occupancy:.3f} reached, {seconds:.1f} s of CPU"
    )


main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.1, sys.argv[2:] or [f"phantom:{seed}" for seed in range(10)])
