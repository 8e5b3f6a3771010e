"""How near models come to the truth of simulated tomograms, beside the input, zeros and classical filters.

    cryoden simulate --config experiments/simulations/tomogram.yaml --output simulated
    python experiments/held_out.py simulated --model NAME=MODEL --output experiments/results/NAME.json

Every tomogram NAME_degraded.mrc of the folders is denoised as `cryoden denoise` does it; each filter has the setting
that is best on that very tomogram, which nobody has in a laboratory. All are compared with NAME_clean.mrc after an
affine fit, without gold and what is around it: correlation, NRMSE, also where there is something, Fourier shell
correlation in the measured part of Fourier space and in the missing wedge, where the former falls below 0.5, how much
of the structure was taken away (of the truth itself, and of half of it, this is told to compare with), and the share of
the answer's power that lies where there is nothing. What could be known stands beside them: the truth without what lies
in the missing wedge, and the tomogram as it would be at an endless dose, NAME_noisefree.mrc. With --topaz, its command,
Topaz's model for tomograms of about that voxel size stands beside them. With --find, a structure of the scenes, it is
told how well template matching finds it above the threshold that was best on the first tomogram of the folder. The
medians over tomograms are printed.
"""

import argparse
import json
import math
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from cryoden import denoise, load_denoiser, read_volume, write_volume
from cryoden.evaluation.baselines import FILTERS
from cryoden.evaluation.results import plain_numbers, provenance, spread
from cryoden.evaluation.template_matching import (
    above,
    best_threshold,
    find_peaks,
    match_detections,
    match_template,
    orientation_grid,
)
from cryoden.inference.removed import structure_removed
from cryoden.inference.tilts import find_tilts
from cryoden.particles import load_particle
from cryoden.simulation.degradation import MissingWedge
from cryoden.simulation.tables import read_shrec_table
from cryoden.simulation.units import BRIGHTEST

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

AROUND = 9  # voxels around the middle of gold that are left out
SOMETHING = 0.2  # of the 99.9th percentile of the truth; above, there is something
ORIENTATIONS = 200  # of a template: 42° apart
TOPAZ = {"unet-3d-10a": 10.0, "unet-3d-20a": 20.0}  # its models for tomograms, and their voxel sizes in Å
SHELLS = 31  # of 1/64 cycles per voxel, up to Nyquist


@dataclass(frozen=True, eq=False)
class Truth:
    """A simulated tomogram and the truth of it.

    Attributes:
        degraded: (D, H, W), as from `cryoden simulate`, protein dark.
        clean: (D, H, W), the truth: protein bright on a background of 0.
        gold: (D, H, W), where there is gold, and near it.
        tilt_range: (min, max) in degrees.
        voxel_size: Å.
    """

    degraded: NDArray[np.float32]
    clean: Array
    gold: Mask
    tilt_range: tuple[float, float]
    voxel_size: float

    @classmethod
    def read(cls, path: Path) -> "Truth":
        """From NAME_degraded.mrc and what lies beside it."""
        told = find_tilts(path)
        tilt_range = (told.low, told.high) if told else (-60.0, 60.0)  # older ones do not tell
        degraded = read_volume(path)
        clean = read_volume(path.with_name(path.name.replace("_degraded", "_clean"))).data.astype(np.float64)
        gold = binary_dilation(clean > BRIGHTEST, iterations=AROUND)
        return cls(degraded.data, clean, gold, tilt_range, degraded.voxel_size)

    @property
    def wedge(self) -> dict[str, float]:
        """What `MissingWedge` draws for such a tomogram."""
        low, high = self.tilt_range
        return {"tilt_min": low, "tilt_max": high}

    def scores(self, denoised: NDArray[np.float32]) -> dict[str, float]:
        """What is told of a volume (D, H, W) of any grey scale, protein bright."""
        truth, volume = (self._without_gold(each) for each in (self.clean, denoised.astype(np.float64)))
        there = ~self.gold
        power = float(np.square(volume[there]).sum())
        gain = float((volume[there] * truth[there]).sum()) / power if power else 0.0
        something = binary_dilation(truth > SOMETHING * np.percentile(truth[there], 99.9)) & there

        def error(where: Mask) -> float:
            return math.sqrt(np.square((gain * volume - truth)[where]).sum() / np.square(truth[where]).sum())

        measured, wedge = self._shells(gain * volume, truth)
        below = np.flatnonzero(measured < 0.5)
        return {
            "correlation": math.sqrt(max(0.0, 1 - error(there) ** 2)) if power else math.nan,
            "nrmse": error(there),
            "masked_nrmse": error(something),
            "fsc_measured": float(measured.mean()),
            "fsc_wedge": float(wedge.mean()),
            "resolution_half": 2 * self.voxel_size * ((SHELLS + 1) / (below[0] + 1.5) if len(below) else 1),
            "gain": gain,
            "removed": structure_removed(-self.degraded, denoised),
            "invented": float(np.square(volume[there & ~something]).sum()) / power if power else 0.0,
        }

    def _without_gold(self, volume: Array) -> Array:
        filled = np.where(self.gold, np.median(volume), volume)
        mean: Array = filled - filled[~self.gold].mean()
        return mean

    def _shells(self, volume: Array, truth: Array) -> tuple[Array, Array]:
        """Fourier shell correlations, where there are images and where there are none."""
        kz, ky, kx = np.meshgrid(*(np.fft.fftfreq(size) for size in truth.shape), indexing="ij", sparse=True)
        shell = (np.sqrt(kz**2 + ky**2 + kx**2) * 2 * (SHELLS + 1)).astype(int)
        angle = np.degrees(np.arctan2(np.where(kx < 0, -kz, kz), abs(kx)))  # of a plane that a tilt measures
        low, high = self.tilt_range
        measured = np.broadcast_to((angle >= low) & (angle <= high), truth.shape)
        one, other = np.fft.fftn(volume), np.fft.fftn(truth)
        products = (one * other.conj()).real, np.abs(one) ** 2, np.abs(other) ** 2

        def curve(where: Mask) -> Array:
            common, ours, theirs = (
                np.bincount(shell[where], each[where], SHELLS + 2)[1 : SHELLS + 1] for each in products
            )
            found: Array = common / np.sqrt(ours * theirs + 1e-30)
            return found

        return curve(measured), curve(~measured)


def topaz(command: Path, path: Path, model: str) -> tuple[NDArray[np.float32], float]:
    """What a model of Topaz (Bepler et al. 2020) makes of a tomogram, protein bright, and the seconds that it took.

    It is run as a program of its own, on a CPU. What it wrote is kept beside the tomogram: it takes minutes; then it
    takes no seconds, nan.
    """
    kept = path.with_name(path.name.replace("_degraded", f"_topaz-{model}"))
    seconds = math.nan
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            source = Path(folder) / "tomogram.mrc"
            degraded = read_volume(path)
            write_volume(source, replace(degraded, data=-degraded.data))
            words = [command, "denoise3d", source, "-o", f"{folder}/out", "-m", model, "-d", -1, "-s", 96, "-p", 24]
            began = time.perf_counter()
            subprocess.run([str(word) for word in words], check=True, capture_output=True)
            seconds = time.perf_counter() - began
            (written,) = (Path(folder) / "out").glob("*.mrc")
            written.rename(kept)
    return read_volume(kept).data.astype(np.float32), seconds


def methods(
    truth: Truth, path: Path, models: dict[str, Path], command: Path | None
) -> Iterator[tuple[str, NDArray[np.float32], float]]:
    """Each method's name, what it makes of the tomogram, protein bright, and the seconds that it took."""
    bright = -truth.degraded
    yield "input", bright, 0.0
    yield "zeros", np.zeros_like(bright), 0.0
    clean = truth.clean.astype(np.float32)
    yield "the truth", clean, 0.0
    yield "half of the truth", np.float32(0.5) * clean, 0.0
    left = MissingWedge().apply(torch.from_numpy(clean)[None, None], [truth.wedge])
    yield "the truth without its wedge", left[0, 0].numpy(), 0.0
    noise_free = path.with_name(path.name.replace("_degraded", "_noisefree"))
    if noise_free.exists():  # not of a simple wedge
        yield "the tomogram without noise", -read_volume(noise_free).data.astype(np.float32), 0.0
    batch = torch.from_numpy(bright)[None, None]
    for each in FILTERS:
        tried = [(truth.scores(each(batch, it)[0, 0].numpy())["nrmse"], it) for it in each.candidates]
        began = time.perf_counter()
        filtered = each(batch, min(tried)[1])[0, 0].numpy()
        yield each.name, filtered, time.perf_counter() - began
    if command is not None:
        nearest = min(TOPAZ, key=lambda name: abs(math.log(TOPAZ[name] / truth.voxel_size)))
        yield f"Topaz {nearest}", *topaz(command, path, nearest)
    for name, weights in models.items():
        model = load_denoiser(weights)
        began = time.perf_counter()
        denoised = -denoise(truth.degraded, model, contrast="dark", voxel_size=truth.voxel_size)
        yield name, np.asarray(denoised, np.float32), time.perf_counter() - began


class Search:
    """Template matching of one structure, in the tomograms of a folder, one after the other.

    Args:
        entry: a structure of the scenes.
    """

    def __init__(self, entry: str) -> None:
        self.entry, self.particle = entry, load_particle(entry)
        self.rotations = orientation_grid(ORIENTATIONS)
        self.least: dict[str, float] = {}

    def f1(self, method: str, volume: NDArray[np.float32], path: Path, truth: Truth) -> float:
        """Of what is found; the first tomogram gives the threshold, and no score: nan.

        Args:
            method: whose answer it is: each has a threshold of its own.
            volume: (D, H, W), protein bright.
            path: of the tomogram.
            truth: of it.
        """
        size = truth.voxel_size
        measured = None
        if method == "input":  # what was never measured is no part of the template either
            measured = MissingWedge().measured(torch.empty(1, 1, *volume.shape), [truth.wedge])
        best, index = match_template(
            torch.from_numpy(volume)[None, None],
            self.particle,
            self.rotations,
            voxel_size=size,
            resolution=2 * size,
            measured=measured,
        )
        across, name = self.particle.diameter / size, self.particle.name
        table = path.with_name(path.name.replace("_degraded.mrc", "_particle_locations.txt"))
        there = [placed for placed in read_shrec_table(table) if placed.particle == self.entry]
        finds = find_peaks({name: (best[0], index[0])}, self.rotations, {name: 0.4 * across}, 2 * len(there) + 10)
        found, wanted, near = (
            [[replace(each, particle=self.entry) for each in finds]],
            [there],
            {self.entry: across / 4},
        )
        if method not in self.least:
            self.least[method] = best_threshold(found, wanted, near, size)
            return math.nan
        return match_detections(above(found, self.least[method]), wanted, near, size).f1


def main() -> None:
    """Print a row for each method, and write what was found of each tomogram."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=MODEL")
    parser.add_argument("--topaz", type=Path, help="its command, in an environment of its own")
    parser.add_argument("--find", metavar="ENTRY", help="a structure to find by template matching")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    models = {name: Path(path) for name, _, path in (each.partition("=") for each in arguments.model)}
    rows: list[dict[str, Any]] = []
    for folder in arguments.folders:
        search = Search(arguments.find) if arguments.find else None
        for path in sorted(folder.glob("*_degraded.mrc")):
            truth = Truth.read(path)
            for name, volume, seconds in methods(truth, path, models, arguments.topaz):
                scores = {**truth.scores(volume), "seconds": seconds}
                if search and name in (
                    "input",
                    "the truth",
                    "Gaussian filter",
                    *(f"Topaz {each}" for each in TOPAZ),
                    *models,
                ):
                    scores["f1"] = search.f1(name, volume, path, truth)
                rows.append({"tomogram": f"{folder.name}/{path.stem}", "method": name, **scores})
                told = ", ".join(f"{measure} {value:.3f}" for measure, value in scores.items())
                print(f"{folder.name}/{path.stem} {name}: {told}", flush=True)
    measures = list(rows[0])[2:]
    percentiles = {
        name: {
            key: spread(np.array([row.get(key, math.nan) for row in rows if row["method"] == name])) for key in measures
        }
        for name in dict.fromkeys(row["method"] for row in rows)
    }
    found = {
        "title": arguments.output.stem.replace("_", " "),
        "commands": [f"python {shlex.join(sys.argv)}"],
        **{key: value for key, value in provenance().items() if key != "command"},
        "experiment": None,
        "data": {"volumes": len({row["tomogram"] for row in rows})},
        "percentiles": rounded(percentiles),
        "tomograms": rounded(rows),
    }
    arguments.output.write_text(json.dumps(plain_numbers(found), indent=1) + "\n", encoding="utf-8")
    for name, of_all in percentiles.items():
        print(f"{name}: " + ", ".join(f"{measure} {values['p50']:.3f}" for measure, values in of_all.items()))


def rounded(value: Any) -> Any:
    """The same with four decimals."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
