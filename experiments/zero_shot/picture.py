"""Slices of a simulated tomogram, after the best Gaussian filter and a model, beside the truth.

    python experiments/zero_shot/picture.py NAME_degraded.mrc MODEL picture.png

All are in the truth's grey scale: the tomogram with as much spread, what was denoised by an affine fit.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from cryoden import denoise, load_denoiser
from cryoden.evaluation.baselines import FILTERS
from cryoden.pictures import save_figure, slice_figure
from experiments.held_out import Truth


def main(tomogram: str, model: str, picture: str) -> None:
    """Write it."""
    truth = Truth.read(Path(tomogram))
    bright = -truth.degraded
    gaussian = next(each for each in FILTERS if each.name == "Gaussian filter")
    batch = torch.from_numpy(bright)[None, None]
    tried = [gaussian(batch, candidate)[0, 0].numpy() for candidate in gaussian.candidates]
    best = min(tried, key=lambda volume: truth.scores(volume)["nrmse"])
    answer = -np.asarray(denoise(truth.degraded, load_denoiser(model), contrast="dark", voxel_size=truth.voxel_size))
    clean = truth.clean.astype(np.float32)
    shown = {"tomogram": (bright - np.median(bright)) * (clean.std() / bright.std())}
    for name, volume in (("best Gaussian filter", best), (Path(model).stem, answer)):
        scores = truth.scores(volume)
        shown[f"{name}\nNRMSE {scores['nrmse']:.2f}"] = scores["gain"] * (volume - np.median(volume))
    figure = slice_figure(shown | {"truth": clean}, truth.voxel_size)
    save_figure(figure, Path(picture), overwrite=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
