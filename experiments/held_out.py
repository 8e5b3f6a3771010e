"""How near models come to the truth of simulated tomograms, beside the input, zeros and classical filters.

    cryoden simulate --config experiments/simulations/tomogram.yaml --output simulated
    python experiments/held_out.py simulated --model NAME=MODEL --output experiments/results/NAME.json

Every tomogram NAME_degraded.mrc of the folders is denoised as `cryoden denoise` does it; each filter has the setting
that is best on that very tomogram, which nobody has in a laboratory. All are compared with NAME_clean.mrc after an
affine fit, without gold and what is around it: correlation, NRMSE, also where there is something,
Fourier shell correlation in the measured part of Fourier space and in the missing wedge, where the former falls below
0.5, and how much of the structure was taken away: of the truth itself, and of half of it, this is told to compare with.
The medians over tomograms are printed.
"""

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from cryoden import denoise, load_denoiser, read_volume
from cryoden.data.pairs import told_tilt_range
from cryoden.evaluation.baselines import FILTERS
from cryoden.evaluation.results import plain_numbers, provenance, spread
from cryoden.inference.removed import structure_removed
from cryoden.simulation.units import BRIGHTEST

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

AROUND = 9  # voxels around the middle of gold that are left out
SOMETHING = 0.2  # of the 99.9th percentile of the truth; above, there is something
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
        tilt_range = told_tilt_range(path) or (-60.0, 60.0)  # older ones do not tell
        degraded = read_volume(path)
        clean = read_volume(path.with_name(path.name.replace("_degraded", "_clean"))).data.astype(np.float64)
        gold = binary_dilation(clean > BRIGHTEST, iterations=AROUND)
        return cls(degraded.data, clean, gold, tilt_range, degraded.voxel_size)

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


def methods(truth: Truth, models: dict[str, Path]) -> Iterator[tuple[str, NDArray[np.float32], float]]:
    """Each method's name, what it makes of the tomogram, protein bright, and the seconds that it took."""
    bright = -truth.degraded
    yield "input", bright, 0.0
    yield "zeros", np.zeros_like(bright), 0.0
    clean = truth.clean.astype(np.float32)
    yield "the truth", clean, 0.0
    yield "half of the truth", np.float32(0.5) * clean, 0.0
    batch = torch.from_numpy(bright)[None, None]
    for each in FILTERS:
        tried = [(truth.scores(each(batch, it)[0, 0].numpy())["nrmse"], it) for it in each.candidates]
        began = time.perf_counter()
        filtered = each(batch, min(tried)[1])[0, 0].numpy()
        yield each.name, filtered, time.perf_counter() - began
    for name, path in models.items():
        model = load_denoiser(path)
        began = time.perf_counter()
        denoised = -denoise(truth.degraded, model, contrast="dark", voxel_size=truth.voxel_size)
        yield name, np.asarray(denoised, np.float32), time.perf_counter() - began


def main() -> None:
    """Print a row for each method, and write what was found of each tomogram."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=MODEL")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    models = {name: Path(path) for name, _, path in (each.partition("=") for each in arguments.model)}
    rows: list[dict[str, Any]] = []
    for folder in arguments.folders:
        for path in sorted(folder.glob("*_degraded.mrc")):
            truth = Truth.read(path)
            for name, volume, seconds in methods(truth, models):
                scores = {**truth.scores(volume), "seconds": seconds}
                rows.append({"tomogram": f"{folder.name}/{path.stem}", "method": name, **scores})
                told = ", ".join(f"{measure} {value:.3f}" for measure, value in scores.items())
                print(f"{folder.name}/{path.stem} {name}: {told}", flush=True)
    measures = list(rows[0])[2:]
    percentiles = {
        name: {key: spread(np.array([row[key] for row in rows if row["method"] == name])) for key in measures}
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
