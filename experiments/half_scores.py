"""Do half tomograms tell the error that a denoised one really has? Estimates beside the truth of simulated tomograms.

    python experiments/half_scores.py 1u6g 3cf3 1qvr 2cg9 --output experiments/results/benchmarks/half_scores.json

Four crowded scenes of the preset, each as another laboratory's, at five doses, with halves of frames: the input, a
Gaussian filter at its best, a median filter, the model that comes along, and the same model if it always drew a ghost,
particles that are elsewhere. The truth is the tomogram of images without noise, in the part of Fourier space in which
the angles of the tilts measured, over all shells. Beside it stands the density that was imaged, which no half tells of.
Then what does not hold: halves of tilts, halves that share some of their noise, and gold.
"""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from held_out import AROUND, rounded
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, median_filter
from scipy.signal.windows import tukey
from torch import Tensor

from cryoden import Denoiser, denoise, load_denoiser
from cryoden.evaluation.results import plain_numbers, provenance
from cryoden.metrics import Halves
from cryoden.metrics.fsc import multiplicity, power, shell_sums
from cryoden.particles import load_particle
from cryoden.simulation.presets import PRESETS
from cryoden.simulation.scene import Scene
from cryoden.simulation.tilt_series import Tomograms
from cryoden.simulation.units import BRIGHTEST

VOXEL_SIZE = 10.0  # Å
SHAPE = (96, 192, 192)
BLOCK = 48  # voxels along the tilt axis
SCENES = (0, 1, 2, 3)
DOSES = (10.0, 20.0, 40.0, 80.0, 160.0)  # electrons per Å²
ORDINARY = 80.0
SHARED = (0.02, 0.05, 0.1, 0.4)  # of the noise's variance
MODEL = "cryoden-10A"

Array = NDArray[Any]
Pair = tuple[Array, Array]


@dataclass(frozen=True, eq=False)
class Sample:
    """A simulated tomogram.

    Attributes:
        scene: its seed.
        dose: electrons per Å².
        made: halves, and what nobody in a lab has.
        density: (D, H, W), protein dark, without what is brighter than protein.
        gold: (D, H, W), where there is gold, and near it.
    """

    scene: int
    dose: float
    made: Tomograms
    density: Array
    gold: Array

    @property
    def frames(self) -> Pair:
        """Halves of frames."""
        return self.made.first.numpy(), self.made.second.numpy()

    @property
    def tilts(self) -> Pair:
        """Halves of tilts."""
        return self.made.even.numpy(), self.made.odd.numpy()

    @property
    def signal(self) -> Array:
        """Without noise."""
        return self.made.noise_free.numpy()

    def sharing(self, share: float) -> Pair:
        """Halves of frames of whose noise a share of the variance is in both: that of another place along the axis."""
        noise = [half - self.signal for half in self.frames]
        common = np.roll((noise[0] + noise[1]) / math.sqrt(2), SHAPE[1] // 2, axis=1) * math.sqrt(share)
        first, second = (self.signal + math.sqrt(1 - share) * each + common for each in noise)
        return first, second


def samples(entries: list[str], scenes: Sequence[int], doses: Sequence[float]) -> Iterator[Sample]:
    """Scenes at all doses."""
    given = PRESETS["realistic"](VOXEL_SIZE, SHAPE)
    scene = Scene(given.shape, VOXEL_SIZE, 2 * VOXEL_SIZE, [load_particle(each) for each in entries], given.contents)
    for seed in scenes:
        generator = torch.Generator().manual_seed(seed)
        made = scene.make(generator)
        imaged = torch.from_numpy(made.density if made.background is None else made.density + made.background)
        drawn = given.degradation.sample(generator)
        gold = binary_dilation(made.density > BRIGHTEST, iterations=AROUND)
        for dose in doses:
            tomograms = given.degradation.tomograms(imaged, {**drawn, "dose": dose})
            yield Sample(seed, dose, tomograms, -made.density.clip(max=BRIGHTEST), gold)


def truth(
    answer: Array, signal: Array, angles: Sequence[float], judged: Tensor, mask: Array | None
) -> dict[str, float]:
    """What halves estimate: errors over all shells, and the mean correlation over those that were judged."""
    shape = SHAPE[0], BLOCK, SHAPE[2]
    z, x = torch.fft.fftfreq(shape[0])[:, None, None], torch.fft.rfftfreq(shape[2])
    angle = torch.atan2(z, x).rad2deg()
    weight = ((angle >= angles[0]) & (angle <= angles[-1])) * multiplicity(torch.empty(shape[2], dtype=torch.float64))
    fade = np.einsum("z,y,x->zyx", *(tukey(2 * size + 1, 0.25)[1::2] for size in shape))
    sums: list[Tensor] = []
    for start in range(0, SHAPE[1], BLOCK):
        inside = np.s_[:, start : start + BLOCK]
        here = fade if mask is None else fade * mask[inside]
        blocks = [
            torch.from_numpy((each[inside] - np.average(each[inside], weights=here)) * here)
            for each in (answer, signal)
        ]
        one, other = (torch.fft.rfftn(each) for each in blocks)
        products = torch.stack([(one * other.conj()).real, power(one), power(other)])
        sums.append(shell_sums(products * weight, shape))
    cross, powers, whole = (each[1:] for each in torch.stack(sums).sum(0))
    curve = cross / (powers * whole).sqrt()
    return {
        "nrmse_true": math.sqrt(1 - float((cross**2 / powers).sum() / whole.sum())),
        "nrmse_one_gain_true": math.sqrt(1 - float(cross.sum() ** 2 / powers.sum() / whole.sum())),
        "fsc_area_true": float(curve[judged[1:]].mean()),
    }


def row(sample: Sample, halves: Halves, method: str, answers: Pair, mask: Array | None = None) -> dict[str, Any]:
    """Estimates beside the truth."""
    score = halves.score(*answers)
    mean = (answers[0].astype(np.float64) + answers[1]) / 2
    angles = sample.made.series.angles
    to_density = truth(mean, sample.density, angles, halves.judged, mask)
    return {
        "scene": sample.scene,
        "dose": sample.dose,
        "method": method,
        "nrmse": score.nrmse.value,
        "nrmse_error": score.nrmse.error,
        "nrmse_one_gain": score.nrmse_one_gain.value,
        "fsc_area": score.fsc_area.value,
        **truth(mean, sample.signal, angles, halves.judged, mask),
        "answers_agree": float(score.agreement[halves.judged].mean()),
        "nrmse_to_density": to_density["nrmse_true"],
    }


def denoised(halves: Pair, model: Denoiser) -> Pair:
    """By the model, as `cryoden denoise` does it."""
    first, second = (denoise(half, model, contrast="dark", voxel_size=VOXEL_SIZE) for half in halves)
    return first, second


def both(halves: Pair, method: Callable[[Array], Array]) -> Pair:
    """A method's answers."""
    return method(halves[0]), method(halves[1])


def that_hold(sample: Sample, model: Denoiser) -> list[dict[str, Any]]:
    """Halves of frames, each method."""
    halves = Halves.of(*sample.frames, VOXEL_SIZE)
    sigma = halves.gaussian()[1]
    answers = denoised(sample.frames, model)
    ghost = np.roll(sample.density, (SHAPE[1] // 2, SHAPE[2] // 2), axis=(1, 2))
    ghost = ghost * (answers[0].std() / ghost.std())
    methods = {
        "input": sample.frames,
        "Gaussian filter": both(sample.frames, lambda half: gaussian_filter(half, sigma)),
        "median filter": both(sample.frames, lambda half: median_filter(half, 3)),
        MODEL: answers,
        f"{MODEL} and a ghost": both(answers, lambda answer: answer + ghost),
    }
    return [row(sample, halves, name, pair) for name, pair in methods.items()]


def that_do_not(sample: Sample, model: Denoiser) -> list[dict[str, Any]]:
    """What the estimates are worth where both halves share more than the signal, or less; no refusal is minded."""
    outside = 1.0 - sample.gold
    cases: dict[str, tuple[Pair, Array | None, Array | None]] = {"frames": (sample.frames, None, None)}
    cases["tilts"] = (sample.tilts, None, None)
    cases |= {f"{share:.0%} of the noise shared": (sample.sharing(share), None, None) for share in SHARED}
    if sample.gold.any():
        cases["gold counts"] = (sample.frames, None, outside)
        cases["gold masked"] = (sample.frames, outside, outside)
    rows = []
    for name, (pair, seen, mask) in cases.items():
        halves = Halves.of(*pair, VOXEL_SIZE, seen)
        for method, answers in (("input", pair), (MODEL, denoised(pair, model))):
            found = row(sample, replace(halves, flaw=""), method, answers, mask)
            rows.append({"case": name, "refused": halves.flaw, **found})
    return rows


def off(rows: Sequence[dict[str, Any]], measure: str) -> tuple[float, float]:
    """The median and the largest distance of the estimates from the truth."""
    distances = [abs(each[measure] - each[f"{measure}_true"]) for each in rows]
    return float(np.median(distances)), max(distances)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Estimates and truth, the median of the scenes at each dose; and how far an estimate was off at most."""
    doses = sorted({each["dose"] for each in rows})
    lines = [
        f"| by the halves / true, at electrons per Å² | {' | '.join(f'{dose:g}' for dose in doses)} | off at most |",
        f"|---{'|---' * (len(doses) + 1)}|",
    ]
    for measure, heading in (("nrmse", "NRMSE"), ("fsc_area", "FSC area")):
        for method in dict.fromkeys(each["method"] for each in rows):
            of_it = [each for each in rows if each["method"] == method]
            cells = []
            for dose in doses:
                there = [each for each in of_it if each["dose"] == dose]
                found, true = (np.median([each[key] for each in there]) for key in (measure, f"{measure}_true"))
                cells.append(f"{found:.3f} / {true:.3f}")
            lines.append(f"| {heading}, {method} | {' | '.join(cells)} | {off(of_it, measure)[1]:.3f} |")
    return "\n".join(lines) + "\n"


def failures(rows: Sequence[dict[str, Any]]) -> str:
    """Where estimates do not hold: how far they are off, with sign, the median of scenes; and how many were refused."""
    methods = list(dict.fromkeys(each["method"] for each in rows))
    heads = [f"{what}, {method}" for method in methods for what in ("NRMSE", "FSC area")]
    lines = [f"| halves | {' | '.join(heads)} | refused |", f"|---{'|---' * (len(heads) + 1)}|"]
    for case in dict.fromkeys(each["case"] for each in rows):
        of_it = [each for each in rows if each["case"] == case]
        cells = []
        for method in methods:
            there = [each for each in of_it if each["method"] == method]
            cells += [
                f"{np.median([each[key] - each[f'{key}_true'] for each in there]):+.3f}"
                for key in ("nrmse", "fsc_area")
            ]
        refused = {each["scene"] for each in of_it if each["refused"]}
        lines.append(f"| {case} | {' | '.join(cells)} | {len(refused)} of {len({each['scene'] for each in of_it})} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the tables, and write each number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entries", nargs="+")
    parser.add_argument("--scenes", type=int, nargs="+", default=SCENES)
    parser.add_argument("--doses", type=float, nargs="+", default=DOSES)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    model = load_denoiser(MODEL)
    hold: list[dict[str, Any]] = []
    fail: list[dict[str, Any]] = []
    for sample in samples(arguments.entries, arguments.scenes, arguments.doses):
        hold += that_hold(sample, model)
        if sample.dose == ORDINARY:
            fail += that_do_not(sample, model)
        print(f"scene {sample.scene}, {sample.dose:g} electrons per Å²", flush=True)
    found = {
        "title": "half scores",
        "commands": [f"python {shlex.join(sys.argv)}"],
        **{key: value for key, value in provenance().items() if key != "command"},
        "hold": rounded(hold),
        "fail": rounded(fail),
    }
    arguments.output.write_text(json.dumps(plain_numbers(found), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(found["hold"]))
    print(failures(found["fail"]))


if __name__ == "__main__":
    main()
