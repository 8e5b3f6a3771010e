"""How far a box that is imaged alone, or in its surroundings, is from the same box cut from the tomogram of its scene.

    python experiments/benchmarks/context.py 1u6g 1qvr 2cg9

The root mean square of the difference over that of the box, of images with next to no noise; and what a particle's box
costs with its neighbours, clean and degraded.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
from timing import hardware, medians

from cryoden import ParticleDataModule
from cryoden.particles import load_particle
from cryoden.simulation.degradation import without_margin
from cryoden.simulation.scene import Scene, SceneContents
from cryoden.simulation.tilt_series import Exposure, Optics, TiltSeriesDegradation

VOXEL = 10.0  # Å
_BRIGHTER = 1e5  # times as many electrons, which do as much damage in all


def main() -> None:
    """Print a line for each size of the box."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("particles", nargs="*", default=["phantom:0", "phantom:1"])
    parser.add_argument("--shape", type=int, nargs=3, default=[96, 160, 160], help="voxels of the scene along z, y, x")
    parser.add_argument("--boxes", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--places", type=int, default=8, help="boxes of each size")
    parser.add_argument("--runs", type=int, default=5, help="boxes whose time is taken")
    arguments = parser.parse_args()
    print(hardware())
    series = TiltSeriesDegradation(
        voxel_size=VOXEL,
        correction="phase_flip",
        weighting="exact",
        optics=Optics(defocus=3.0),
        exposure=Exposure(dose=120.0),
    )
    bright = replace(series, exposure=Exposure(dose=120.0 * _BRIGHTER, radiation_damage=1 / _BRIGHTER))
    generator = torch.Generator().manual_seed(0)
    particles = [load_particle(entry) for entry in arguments.particles]
    scene = Scene(tuple(arguments.shape), VOXEL, 2 * VOXEL, particles, SceneContents(occupancy=0.15)).make(generator)
    density = torch.from_numpy(scene.density)[None, None]
    drawn = [bright.sample(generator)]
    whole = bright.apply(density, drawn)
    margin = series.context
    for box in arguments.boxes:
        wide = [box + 2 * m for m in margin]
        room = [size - n for size, n in zip(arguments.shape, wide, strict=True)]
        if min(room) < 0:
            continue
        differences = []
        for _ in range(arguments.places):
            corner = [int(torch.randint(n + 1, (), generator=generator)) for n in room]
            part = (..., *(slice(c, c + n) for c, n in zip(corner, wide, strict=True)))
            within, truth = density[part].contiguous(), without_margin(whole[part], margin)
            alone = bright.apply(without_margin(within, margin).contiguous(), drawn)
            around = bright.apply_within(within, drawn, margin)
            differences.append([float((each - truth).std() / truth.std()) for each in (alone, around)])
        alone_, around_ = np.median(differences, axis=0)
        print(f"{box:3d}^3 alone {alone_:.2f}, in its surroundings {around_:.2f} of the signal off")
    data = ParticleDataModule(
        entries=arguments.particles, voxel_size=VOXEL, resolution=2 * VOXEL, degradation=[series], num_workers=0
    )
    data.setup()
    boxes = data.validation_volumes()
    indices = iter(range(len(boxes)))
    spent = medians({"pair": lambda: boxes[0, next(indices)]}, arguments.runs, time.process_time)
    print(f"a pair of {data.box}^3 with its neighbours: {1000 * spent['pair']:.0f} ms of CPU")


if __name__ == "__main__":
    main()
