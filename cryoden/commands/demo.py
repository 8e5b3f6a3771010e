"""The verb `demo`: a made-up tomogram, denoised by a model that comes along; then a small network is trained."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray

from cryoden.callbacks import Bar, KeepMemory, Report, best_precision
from cryoden.checkpoint import load_denoiser
from cryoden.commands.simulate import simulate
from cryoden.console import quiet
from cryoden.data import ParticleDataModule
from cryoden.errors import CryodenError
from cryoden.evaluation.baselines import FILTERS
from cryoden.files import check_folder, made_folder
from cryoden.inference.denoise import denoise_file
from cryoden.models import nearest_model
from cryoden.modules.recipes import CompactUnetAE
from cryoden.pictures import save_figure, slice_figure
from cryoden.scaling import Scale
from cryoden.simulation.scene import SceneContents
from cryoden.simulation.tilt_series import Exposure, Misalignment, Optics, TiltSeriesDegradation
from cryoden.volume import Volume, read_volume, write_volume

# A tomogram such as labs make: crowded, a vesicle, a bead of gold, phase-flipped; by proteins that no model was shown.
_CROWD = ["phantom:101", "phantom:102", "phantom:103", "phantom:104"]
_SHAPE = (64, 128, 128)
_TOMOGRAM_VOXEL_SIZE = 10.0
_CONTENTS = SceneContents(occupancy=0.12, vesicles=1, vesicle_diameter=(350.0, 450.0), fiducials=1)
_MICROSCOPE = TiltSeriesDegradation(
    voxel_size=_TOMOGRAM_VOXEL_SIZE,
    optics=Optics(defocus=3.0),
    exposure=Exposure(dose=100.0, radiation_damage=0.5, thickness=150.0),
    misalignment=Misalignment(shift=2.0),
    correction="phase_flip",
    weighting="exact",
)
_GOLD = 1.0  # density; pictures and scores are of proteins, and what is denser would leave nothing else to see

# Eight proteins of 40 to 330 kDa to learn from, and one that is never seen in training.
_TRAINING = [f"phantom:{seed}" for seed in (1, 2, 3, 5, 6, 7, 8, 15)]
_UNSEEN = "phantom:0"
_BOX, _VOXEL_SIZE, _RESOLUTION, _COPIES = 32, 8.0, 16.0, 60


def demo(output: str = "cryoden-demo", epochs: int = 2, seed: int = 0, overwrite: bool = False) -> Iterator[str]:
    """Denoise a simulated tomogram with a model that comes along, then train a small network: offline, on a CPU.

    Args:
        output: the folder to write to.
        epochs: passes over the simulated volumes.
        seed: of everything random.
        overwrite: replace the files of an earlier demo.

    Yields:
        What it does, and what to try next.

    Raises:
        CryodenError: the folder holds something already.
    """
    folder = Path(output)
    if epochs < 1:
        raise CryodenError(f"epochs: got {epochs}; allowed is a whole number from 1 up")
    check_folder(folder, overwrite=overwrite)
    with made_folder(folder):
        yield from _demo(folder, epochs, seed, overwrite)


def _demo(folder: Path, epochs: int, seed: int, overwrite: bool) -> Iterator[str]:
    started = time.monotonic()
    quiet()
    yield "cryoden demo: made-up proteins, a CPU. Nothing is downloaded."
    yield f"1. Simulate a tilt series and its tomogram of {len(_CROWD)} proteins, a vesicle and a bead of gold."
    tomogram = folder / "tomogram"
    for _ in simulate(
        _CROWD,
        str(tomogram),
        voxel_size=_TOMOGRAM_VOXEL_SIZE,
        resolution=2 * _TOMOGRAM_VOXEL_SIZE,
        shape=_SHAPE,
        contents=_CONTENTS,
        degradation=[_MICROSCOPE],
        seed=seed,
        overwrite=overwrite,
    ):
        pass
    model = nearest_model(_TOMOGRAM_VOXEL_SIZE)
    yield f"2. Denoise it with {model.name}, which comes with cryoden and never saw these proteins."
    yield from _denoise_tomogram(folder, tomogram, model.name, overwrite)

    yield f"3. Simulate {len(_TRAINING)} proteins to learn from, and one to test on: {_UNSEEN}, never trained on."
    seed_everything(seed, verbose=False)
    data = ParticleDataModule(
        entries=_TRAINING,
        holdout=[_UNSEEN],
        copies=_COPIES,
        box=_BOX,
        voxel_size=_VOXEL_SIZE,
        resolution=_RESOLUTION,
        batch_size=8,
        num_workers=0,
        seed=seed,
    )
    data.setup()
    pair = data.test_volumes()[0, 0]
    for kind in ("clean", "degraded"):
        volume = Volume(pair[kind][0].numpy(), _VOXEL_SIZE)
        write_volume(folder / f"{kind}.mrc", volume, overwrite=overwrite, label=f"cryoden demo {kind}")

    yield f"4. Train a small network for {epochs} epochs."
    trainer = _trainer(folder, epochs)
    trainer.fit(CompactUnetAE(warmup_steps=20), data)

    yield "5. Denoise a volume of the unseen protein from file to file."
    checkpoint = folder / "best.ckpt"
    denoised = denoise_file(
        folder / "degraded.mrc", folder / "denoised.mrc", load_denoiser(checkpoint), device="cpu", overwrite=overwrite
    )
    shown = {"degraded": pair["degraded"][0].numpy(), "denoised": denoised.data, "clean": pair["clean"][0].numpy()}
    figure = slice_figure(shown, _VOXEL_SIZE, f"{_UNSEEN}, never seen in training")
    save_figure(figure, folder / "slices.png", overwrite=overwrite)

    yield f"Done in {time.monotonic() - started:.0f} s."
    yield f"In {folder}: tomogram.png, tomogram_denoised.mrc and tomogram/, of the tomogram;"
    yield "  slices.png, degraded.mrc, denoised.mrc, clean.mrc and best.ckpt, of the small network, which is a toy."
    yield "Look at tomogram.png first. Then try, on a tomogram of yours:"
    yield "  cryoden denoise TOMOGRAM.mrc OUT.mrc --rescale --preview"
    yield "and to train a network of your own on real proteins from the PDB:"
    yield "  cryoden fit --config experiments/quick.yaml"


def _denoise_tomogram(folder: Path, tomogram: Path, model: str, overwrite: bool) -> Iterator[str]:
    """Beside the best filters and the truth, as a picture and in numbers."""
    source = tomogram / "scene_0_degraded.mrc"
    answer = denoise_file(
        source,
        folder / "tomogram_denoised.mrc",
        load_denoiser(model),
        device="cpu",
        contrast="dark",
        overwrite=overwrite,
    )
    truth = np.minimum(read_volume(tomogram / "scene_0_clean.mrc").data, _GOLD)
    given = -read_volume(source).data
    shown = {"tomogram": given}
    for filter in FILTERS[:2]:
        tries = [
            filter.run(torch.from_numpy(given)[None, None], setting)[0, 0].numpy() for setting in filter.candidates
        ]
        shown[f"best {filter.name}"] = max(tries, key=lambda tried: _correlation(tried, truth))
    shown[model] = -answer.data
    told = ", ".join(f"{name} {_correlation(volume, truth):.2f}" for name, volume in shown.items())
    yield f"   correlation with the truth: {told}"
    pictures = {name: _on_scale_of(truth, volume) for name, volume in shown.items()} | {"truth": truth}
    figure = slice_figure(pictures, _TOMOGRAM_VOXEL_SIZE, "a simulated tomogram; each grey scale its own")
    save_figure(figure, folder / "tomogram.png", overwrite=overwrite)


def _correlation(volume: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    return float(np.corrcoef(volume.ravel(), truth.ravel())[0, 1])


def _on_scale_of(truth: NDArray[np.float32], volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """A volume with the background of the truth, 0, and as bright where it is brightest, gold apart."""
    level = float(Scale.of(torch.from_numpy(volume)[None, None]).level)
    top, brightest = (float(np.quantile(each, 0.995)) for each in (volume, truth))
    return (volume - level) * (brightest / (top - level))


def _trainer(folder: Path, epochs: int) -> Trainer:
    interactive = sys.stderr.isatty()
    return Trainer(
        accelerator="cpu",
        precision=best_precision("cpu"),
        max_epochs=epochs,
        logger=CSVLogger(folder, name="", version="log"),
        callbacks=[
            Report(),
            KeepMemory(),
            ModelCheckpoint(folder, "best", monitor="val/nrmse", enable_version_counter=False),
            *([Bar()] if interactive else []),
        ],
        enable_progress_bar=interactive,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
    )
