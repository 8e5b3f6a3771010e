"""Is a simulated tomogram like a real one? Spectrum, grey values, noise and contrast of many, beside those of one.

    python experiments/realism.py REAL.mrc 1u6g 1qvr 2cg9 --output experiments/results/benchmarks/realism.json

The real one shows a straight microtubule along y, bright, as for microtubule.py. The simulated ones are the preset's,
each with a microtubule along its section, and as large a part as the real one is cut around that. Beside them stand
tomograms of a purified microtubule, with nothing else in the ice but the preset's background, and some without
background and without variety: a microtubule and a particle in empty ice, one microscope.
"""

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from microtubule import around, find_axis
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cryoden import read_volume
from cryoden.evaluation.calibration import Character, describe, spectral_distance
from cryoden.hardware import machine
from cryoden.particles import Particle, load_particle
from cryoden.simulation.filaments import MICROTUBULE
from cryoden.simulation.presets import PRESETS
from cryoden.simulation.scene import Scene, SceneContents
from cryoden.simulation.tilt_series import Exposure, Optics, TiltSeriesDegradation
from cryoden.version import __version__
from cryoden.volume import Volume

WALL, OUTSIDE, ALONG = (90.0, 125.0), (190.0, 320.0), 450.0  # Å from the axis, and from a point on it
SMOOTH = 2.0  # voxels, standard deviation
PERCENTILES = (5, 50, 95)
SHAPE = (72, 144, 144)  # voxels of a scene
PLAIN = 10  # draws are enough where little is drawn

Array = NDArray[np.float64]


class Tomogram(NamedTuple):
    """What is measured of one tomogram; its fields are those of the table.

    Attributes:
        contrast: of the microtubule's wall, in standard deviations of what is outside of it.
        smooth_contrast: the same after a Gaussian.
        skewness: of the grey values.
        kurtosis: of the grey values, in excess of Gaussian noise.
        neighbours_z: correlation of the noise of neighbouring voxels along z.
        neighbours_y: the same along y.
        neighbours_x: the same along x.
        decibel: between its power spectrum and the real one's, root mean square over frequencies.
        power: at 40 frequencies up to Nyquist; 1 is white noise.
    """

    contrast: float
    smooth_contrast: float
    skewness: float
    kurtosis: float
    neighbours_z: float
    neighbours_y: float
    neighbours_x: float
    decibel: float
    power: list[float]


def measured(data: Array, distance: Array, near: NDArray[np.bool_], it: Character, real: Character) -> Tomogram:
    """Measure a tomogram, bright.

    Args:
        data: (D, H, W).
        distance: (D, H, W), Å from the microtubule's axis.
        near: (D, H, W), where that holds.
        it: what its voxels are like.
        real: what the real one's are like.
    """
    wall, outside = (near & (distance >= low) & (distance < high) for low, high in (WALL, OUTSIDE))
    stands = [
        float((each[wall].mean() - each[outside].mean()) / each[outside].std())
        for each in (data, gaussian_filter(data, SMOOTH))
    ]
    z, y, x = it.noise[:, 1].tolist()
    return Tomogram(*stands, it.skewness, it.kurtosis, z, y, x, spectral_distance(it, real), it.power.tolist())


def drawn(scene: Scene, step: TiltSeriesDegradation, seed: int, like: tuple[int, ...], real: Character) -> Tomogram:
    """A tomogram of a scene, and the part of it around the microtubule that is as large as the real one."""
    generator = torch.Generator().manual_seed(seed)
    made = scene.make(generator)
    density = made.density if made.background is None else made.density + made.background
    imaged = torch.from_numpy(density)[None, None]
    data = step.apply(imaged, [step.sample(generator)])[0, 0].numpy().astype(float)
    (tube,) = (placement for placement in made.placements if placement.particle == MICROTUBULE)
    wanted = [min(size, n) for size, n in zip(like, data.shape, strict=True)]
    corner = [
        int(np.clip(at - n / 2, 0, size - n)) for at, n, size in zip(tube.position, wanted, data.shape, strict=True)
    ]
    part = tuple(slice(c, c + n) for c, n in zip(corner, wanted, strict=True))
    from_it = np.moveaxis(np.indices(wanted), 0, -1) + np.array(corner) - tube.position
    from_it = from_it[..., ::-1] * scene.voxel_size
    along = from_it @ tube.rotation[:, 2]
    distance = np.sqrt(np.maximum(np.square(from_it).sum(-1) - along**2, 0))
    it = describe(Volume(data[part].astype(np.float32), scene.voxel_size), f"draw {seed}")
    return measured(data[part], distance, np.abs(along) < ALONG, it, real)


def spread(tomograms: list[Tomogram]) -> dict[str, object]:
    """Percentiles of each measure."""
    return {
        name: np.round(np.percentile([getattr(t, name) for t in tomograms], PERCENTILES, axis=0), 3).tolist()
        for name in Tomogram._fields
    }


def main() -> None:
    """Print a row for each measure, and write all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path)
    parser.add_argument("particles", nargs="*", default=["phantom:0", "phantom:1"])
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    volume = read_volume(arguments.real)
    data, size = volume.data.astype(float), volume.voxel_size
    real = describe(volume, str(arguments.real))
    distance, _ = around(data.shape, find_axis(data, size), size)
    theirs = measured(data, distance, np.ones(data.shape, np.bool_), real, real)

    particles: list[Particle] = [load_particle(entry) for entry in arguments.particles]
    preset = PRESETS["realistic"](size, SHAPE)
    flat: dict[str, Any] = {"microtubules": 1, "ice": SHAPE[0] * size}  # along the section
    empty = SceneContents(count=1, **flat)
    plain = TiltSeriesDegradation(
        voxel_size=size, sirt_like=10, optics=Optics(defocus=3.0), exposure=Exposure(dose=100.0, thickness=150.0)
    )
    background = replace(preset.contents.background, lumps=0) if preset.contents.background else None
    found = {}
    for name, contents, step, draws in (
        ("plain", empty, plain, min(PLAIN, arguments.draws)),
        ("purified", replace(empty, background=background), preset.degradation, arguments.draws),
        ("preset", replace(preset.contents, **flat), preset.degradation, arguments.draws),
    ):
        scene = Scene(SHAPE, size, 2 * size, particles, contents)
        found[name] = spread([drawn(scene, step, seed, data.shape, real) for seed in range(draws)])
    print(f"{'':16s} {'real':>6s}   " + "".join(f"{f'{name}: 5, 50, 95 %':25s}" for name in found))
    for name, value in theirs._asdict().items():
        if name != "power":
            rows = ["  ".join(f"{each:6.2f}" for each in of[name]) for of in found.values()]  # type: ignore[attr-defined]
            print(f"{name:16s} {value:6.2f}   " + "   ".join(rows))
    if arguments.output:
        record = {
            "commands": [shlex.join(["python", "experiments/realism.py", *sys.argv[1:]])],
            "hardware": machine(),
            "version": __version__,
            "draws": arguments.draws,
            "percentiles": PERCENTILES,
            "frequency": real.frequency.tolist(),
            "real": theirs._asdict(),
            **found,
        }
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
