"""What tuning on half tomograms makes of a model: by the halves, and by the truth that simulated tomograms have.

    cryoden simulate --config experiments/simulations/defocused.yaml --output defocused
    python experiments/tuning.py defocused --epochs 1 --output experiments/results/benchmarks/tuning.json

`cryoden tune` learns on NAME_half1.mrc and NAME_half2.mrc of the folders, once with each seed. Start and tuned are then
judged where nothing was learnt from, by the mean of their answers to both halves: NRMSE as the halves tell it; and the
true one, to NAME_clean.mrc after an affine fit, without gold and what is around it, and to NAME_noisefree.mrc, the
tomogram of images without noise. Input, zeros, and the Gaussian filter that is best by the halves after one gain stand
beside them. Models are kept beside the output, and made only where they are missing.
"""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from held_out import AROUND, rounded
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from cryoden import HalvesDataModule, denoise, load_denoiser, read_volume
from cryoden.commands.tune import tune
from cryoden.data.halves import HalfTomogram
from cryoden.denoiser import Denoiser
from cryoden.evaluation.results import plain_numbers, provenance
from cryoden.metrics import HalfScore, Halves
from cryoden.models import nearest_model
from cryoden.pictures import save_figure, slice_figure
from cryoden.simulation.units import BRIGHTEST

Array = NDArray[Any]

BRIGHT = 0.999  # of the voxels are darker than what is drawn as 1, of each volume by itself


def tuned(folder: Path, output: Path, seed: int, epochs: int, *, from_scratch: bool) -> Path:
    """The model that was tuned on a folder."""
    target = output.parent / f"{folder.name}_{'scratch' if from_scratch else 'tuned'}_{seed}.safetensors"
    if not target.exists():
        words = [f"{folder}/*_half?.mrc"]
        for line in tune(
            words,
            output=str(target),
            halves=True,
            contrast="dark",
            epochs=epochs,
            seed=seed,
            from_scratch=from_scratch,
        ):
            print(line, flush=True)
    return target


def rows(folder: Path, models: dict[str, Denoiser]) -> Iterator[dict[str, Any]]:
    """What is told of models, of each tomogram of a folder."""
    data = HalvesDataModule([f"{folder}/*_half?.mrc"], contrast="dark", simulated_batch_size=0)
    data.setup()
    for tomogram in data.tomograms:
        part = tomogram.judged(data.voxel_size)
        given = part["first"].numpy(), part["second"].numpy()
        halves = Halves.of(given[0], given[1], data.voxel_size)
        clean, noise_free = (_like(tomogram, kind) for kind in ("clean", "noisefree"))
        there = ~binary_dilation(clean > BRIGHTEST, iterations=AROUND)
        ones = dict.fromkeys(("nrmse", "nrmse_to_density", "nrmse_to_tomogram"), 1.0)
        yield {"folder": folder.name, "tomogram": tomogram.name, "method": "zeros", **ones}
        for name, score, (first, second) in answers(halves, given, models):
            mean = (first + second) / 2
            yield {
                "folder": folder.name,
                "tomogram": tomogram.name,
                "method": name,
                "nrmse": score.nrmse.value,
                "nrmse_to_density": error(mean[there], clean[there]),
                "nrmse_to_tomogram": error(mean[there], -noise_free[there]),
            }


def answers(
    halves: Halves, given: tuple[Array, Array], models: dict[str, Denoiser]
) -> Iterator[tuple[str, HalfScore, tuple[Array, Array]]]:
    """What baselines and models make of two halves, and what these tell of that."""
    yield "input", halves.input(), given
    score, sigma = halves.gaussian()
    yield "Gaussian filter", score, (gaussian_filter(given[0], sigma), gaussian_filter(given[1], sigma))
    for name, model in models.items():
        first, second = (denoise(half, model, contrast="bright") for half in given)
        yield name, halves.score(first, second), (first, second)


def draw(folder: Path, models: dict[str, Denoiser], path: Path) -> None:
    """The first tomogram of a folder where nothing was learnt from: the mean of its halves, the answers, the truth."""
    data = HalvesDataModule([f"{folder}/*_half?.mrc"], contrast="dark", simulated_batch_size=0)
    data.setup()
    tomogram = data.tomograms[0]
    part = tomogram.judged(data.voxel_size)
    given = part["first"].numpy(), part["second"].numpy()
    shown = {"mean of the halves": (given[0] + given[1]) / 2}
    for name, model in models.items():
        shown[name] = np.mean([denoise(half, model, contrast="bright") for half in given], axis=0)
    shown["truth"] = _like(tomogram, "clean").clip(max=BRIGHTEST)
    scaled = {name: (each - np.median(each)) / np.quantile(each, BRIGHT) for name, each in shown.items()}
    save_figure(slice_figure(scaled, data.voxel_size), path, overwrite=True)


def _like(tomogram: HalfTomogram, kind: str) -> Array:
    """What lies beside a tomogram, where it is judged."""
    name = tomogram.paths[0].name.replace("half1", kind)
    return read_volume(tomogram.paths[0].with_name(name)).data[:, tomogram.held_out :].astype(np.float64)


def error(answer: Array, truth: Array) -> float:
    """NRMSE after an affine fit."""
    one, other = (each - each.mean() for each in (answer, truth))
    return math.sqrt(1 - float((one * other).sum() ** 2 / (one**2).sum() / (other**2).sum()))


def table(found: Sequence[dict[str, Any]]) -> str:
    """Means over the tomograms of each folder."""
    measures = ("nrmse", "nrmse_to_density", "nrmse_to_tomogram")
    lines = [
        "| tomograms | model | NRMSE by halves | to the density | to the noise-free tomogram |",
        "|---|---|---|---|---|",
    ]
    for folder, method in dict.fromkeys((each["folder"], each["method"]) for each in found):
        of_it = [each for each in found if (each["folder"], each["method"]) == (folder, method)]
        cells = (f"{np.mean([each[name] for each in of_it]):.3f}" for name in measures)
        lines.append(f"| {folder} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Tune, print the table, and write each number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--from-scratch", action="store_true", help="random weights stand beside, too")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--picture", type=Path, help="of the first tomogram of the last folder")
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    for folder in arguments.folders:
        first = next(iter(sorted(folder.glob("*_half1.mrc"))))
        start = nearest_model(read_volume(first).voxel_size).name
        models = {start: load_denoiser(start)}
        for seed in arguments.seeds:
            for scratch in (False, True)[: 1 + arguments.from_scratch]:
                path = tuned(folder, arguments.output, seed, arguments.epochs, from_scratch=scratch)
                models[f"{'from scratch' if scratch else 'tuned'}, seed {seed}"] = load_denoiser(path)
        found += rows(folder, models)
    if arguments.picture:
        draw(folder, models, arguments.picture)
    written = {
        "title": "tuning",
        "commands": [f"python {shlex.join(sys.argv)}"],
        **{key: value for key, value in provenance().items() if key != "command"},
        "tomograms": rounded(found),
    }
    text = json.dumps(plain_numbers(written), indent=1, ensure_ascii=False) + "\n"
    arguments.output.write_text(text, encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
