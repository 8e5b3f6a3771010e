"""CPU seconds of one crowded scene of 10 Å voxels.

python experiments/benchmarks/scene.py --occupancy 0.2 1bxn 1qvr
"""

import argparse
import time

import torch
from timing import hardware

from cryoden.particles import load_particle
from cryoden.simulation.scene import Scene, SceneContents


def main() -> None:
    """Print how many particles were placed, how full the ice is, and how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("particles", nargs="*", default=[f"phantom:{seed}" for seed in range(10)])
    parser.add_argument("--occupancy", type=float, default=0.1)
    parser.add_argument("--shape", type=int, nargs=3, default=(180, 512, 512), metavar=("D", "H", "W"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    particles = [load_particle(spec) for spec in arguments.particles]
    ice = 9.4 * arguments.shape[0]  # Å: a little vacuum above and below
    contents = SceneContents(occupancy=arguments.occupancy, vesicles=(3, 6), fiducials=(5, 10), ice=ice)
    scene = Scene(tuple(arguments.shape), 10.0, 20.0, particles, contents)
    started = time.process_time()
    made = scene.make(torch.Generator().manual_seed(0))
    seconds = time.process_time() - started
    others = sum(placement.particle in ("vesicle", "fiducial") for placement in made.placements)
    print(f"{hardware()}; {len(particles)} kinds of particles, occupancy {arguments.occupancy:g}")
    print(
        f"{len(made.placements) - others} particles, {others} vesicles and fiducials, {made.occupancy:.3f} reached, "
        f"{seconds:.1f} s of CPU"
    )


if __name__ == "__main__":
    main()
