"""How much of a clean volume is detail that its voxels cannot hold, and how many volts there are in it.

python experiments/benchmarks/aliasing.py [PARTICLE ...] [--output FILE.json]

Each volume is compared with the same density on a four times finer grid that is cut in Fourier space, band-limited and
as in the thesis, over several orientations; a vesicle of 200 Å comes with the particles. Give structures or maps, or
phantoms are used.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from timing import hardware

from cryoden.particles import Particle, Structure, load_particle
from cryoden.simulation import bodies, ice
from cryoden.simulation.density import scattering_density, smallest_box
from cryoden.simulation.thesis import thesis_density
from cryoden.simulation.units import GOLD, VACUUM, VOLTS

Differences = dict[str, dict[str, dict[str, float]]]  # object → voxel and resolution → sampling → in parts of the norm

FINER = 4
VESICLE = 200.0  # Å
# Å³ a Da: protein of 1.35 g/cm³, of which the hydrogens that files leave out are 7 %
VOLUME = 1 / 1.35 / 0.6022 / 0.93


def cut(fine: NDArray[np.float32]) -> NDArray[np.float64]:
    """Every fourth sample, without what lies beyond the Nyquist frequency of what is left."""
    spectrum = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(fine)))
    n = len(fine) // FINER
    kept = slice((len(fine) - n) // 2, (len(fine) + n) // 2)
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(spectrum[kept, kept, kept])).real) / FINER**3


def aliased(make: Callable[[int, float], NDArray[np.float32]], box: int, voxel_size: float) -> float:
    """The difference, in parts of the norm, of a volume from what its voxels can hold."""
    box += box % 2
    expected = cut(make(FINER * box, voxel_size / FINER))
    return float(np.linalg.norm(make(box, voxel_size) - expected) / np.linalg.norm(expected))


def of_particle(particle: Particle, voxel_size: float, resolution: float, runs: int) -> dict[str, float]:
    """The mean over orientations, with each sampling."""
    box = smallest_box(particle, voxel_size, resolution)
    ways = {"band-limited": scattering_density, "thesis": thesis_density}
    found: dict[str, float] = {}
    for name, way in ways.items():
        if name == "thesis" and not isinstance(particle, Structure):
            continue
        differences = [
            aliased(lambda n, size, r=r, way=way: way(particle, r, n, size, resolution), box, voxel_size)
            for r in Rotation.random(runs, random_state=0).as_matrix()
        ]
        found[name] = round(float(np.mean(differences)), 4)
    return found


def of_vesicle(voxel_size: float, resolution: float) -> dict[str, float]:
    """The same of a vesicle; where it lies in a scene it is endless, so the ripples are left out of the comparison."""
    box = int((VESICLE + 2 * bodies.vesicle_rim(resolution)) / voxel_size) + 20
    axes = np.full(3, VESICLE / 2) * [1.0, 0.85, 0.7]
    turned = Rotation.random(random_state=0).as_matrix()
    return {
        "band-limited": round(
            aliased(lambda n, size: bodies.vesicle(axes, turned, n, size, resolution), box, voxel_size), 4
        )
    }


def volts(particle: Particle) -> float:
    """The mean above ice, over the volume that a structure's mass would have as protein."""
    assert isinstance(particle, Structure)
    box = smallest_box(particle, 6.0, 12.0)
    total = float(scattering_density(particle, np.eye(3), box, 6.0, 12.0).sum(dtype=np.float64)) * 6.0**3
    return round(total * VOLTS / (particle.mass * 1000 * VOLUME), 2)


def table(differences: Differences) -> str:
    """As Markdown: band-limited, and in brackets the thesis's sampling."""
    columns = list(next(iter(differences.values())))
    lines = ["| voxel, resolution | " + " | ".join(differences) + " |", "|---" * (len(differences) + 1) + "|"]
    for column in columns:
        cells = [of[column] for of in differences.values()]
        told = [f"{c['band-limited']:.2%}" + (f" ({c['thesis']:.0%})" if "thesis" in c else "") for c in cells]
        lines.append(f"| {column} | " + " | ".join(told).replace("%", " %") + " |")
    return "\n".join(lines)


def main() -> None:
    """Print and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("particles", nargs="*", default=["phantom:0", "phantom:1"])
    parser.add_argument("--voxels", type=float, nargs="+", default=[6.0, 8.0, 10.0], help="Å")
    parser.add_argument("--runs", type=int, default=2, help="orientations")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    particles = [load_particle(spec) for spec in arguments.particles]
    pairs = [(size, times * size) for times in (2, 3) for size in arguments.voxels]
    found: Differences = {}
    for size, resolution in pairs:
        column = f"{size:g}/{resolution:g} Å"
        for particle in particles:
            found.setdefault(particle.name, {})[column] = of_particle(particle, size, resolution, arguments.runs)
        found.setdefault("vesicle", {})[column] = of_vesicle(size, resolution)
    print(hardware(), table(found), sep="\n")
    bead = bodies.fiducial(100.0, 40, 6.0, 12.0)
    shell = bodies.vesicle(np.full(3, 300.0), np.eye(3), 140, 6.0, 12.0)[70, 70, 70:]
    potentials = {p.name: volts(p) for p in particles if isinstance(p, Structure)} | {
        "gold": round(float(bead.sum()) * 6.0**3 / (np.pi / 6 * 100**3) * VOLTS, 2),
        "vacuum": round(float(ice.vacuum(np.array(-100.0), np.array(100.0), 64, 6.0, 12.0)[0]) * VOLTS, 2),
        "membrane, V Å across": round(float(shell.sum()) * 6.0 * VOLTS, 1),
    }
    print(
        "volts above ice:", potentials, "by hand:", {"protein": VOLTS, "gold": GOLD * VOLTS, "vacuum": VACUUM * VOLTS}
    )
    if arguments.output:
        command = shlex.join(["python", "experiments/benchmarks/aliasing.py", *sys.argv[1:]])
        record = {"commands": [command], "hardware": hardware(), "difference": found, "volts": potentials}
        arguments.output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
