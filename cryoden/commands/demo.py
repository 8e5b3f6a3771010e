"""The verb `demo`: made-up proteins in; a trained denoiser and a denoised volume out."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger

from cryoden.callbacks import KeepMemory, Report, best_precision
from cryoden.checkpoint import load_denoiser
from cryoden.console import quiet
from cryoden.data import ParticleDataModule
from cryoden.errors import CryodenError
from cryoden.files import check_folder, made_folder
from cryoden.inference.denoise import denoise_file
from cryoden.modules.recipes import CompactUnetAE
from cryoden.pictures import save_figure, slice_figure
from cryoden.volume import Volume, write_volume

# Eight proteins of 50 to 400 kDa to learn from, and one that is never seen in training.
_TRAINING = [f"phantom:{seed}" for seed in (1, 2, 3, 5, 6, 7, 8, 15)]
_UNSEEN = "phantom:0"
_BOX, _VOXEL_SIZE, _RESOLUTION = 32, 8.0, 16.0


def demo(output: str = "cryoden-demo", epochs: int = 2, seed: int = 0, overwrite: bool = False) -> Iterator[str]:
    """Simulate, train and denoise in minutes: offline, on a CPU, on made-up proteins.

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
    yield "cryoden demo: made-up proteins, a small U-Net, a CPU. Nothing is downloaded."
    yield f"1. Simulate {len(_TRAINING)} proteins to learn from, and one to test on: {_UNSEEN}, never trained on."
    quiet()
    seed_everything(seed, verbose=False)
    data = ParticleDataModule(
        entries=_TRAINING,
        holdout=[_UNSEEN],
        copies=100,
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

    yield f"2. Train for {epochs} epochs."
    trainer = _trainer(folder, epochs)
    trainer.fit(CompactUnetAE(warmup_steps=20), data)

    yield "3. Denoise a volume of the unseen protein from file to file."
    checkpoint = folder / "best.ckpt"
    denoised = denoise_file(
        folder / "degraded.mrc", folder / "denoised.mrc", load_denoiser(checkpoint), device="cpu", overwrite=overwrite
    )
    shown = {"degraded": pair["degraded"][0].numpy(), "denoised": denoised.data, "clean": pair["clean"][0].numpy()}
    figure = slice_figure(shown, _VOXEL_SIZE, f"{_UNSEEN}, never seen in training")
    save_figure(figure, folder / "slices.png", overwrite=overwrite)

    yield f"Done in {time.monotonic() - started:.0f} s."
    yield f"In {folder}: degraded.mrc, denoised.mrc, clean.mrc, slices.png, best.ckpt."
    yield "Look at slices.png first. Then try:"
    yield f"  cryoden denoise TOMOGRAM.mrc OUT.mrc --model {checkpoint}   (a toy model: for a first look only)"
    yield "  cryoden fit --config experiments/quick.yaml   (real proteins from the PDB)"


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
            *([RichProgressBar()] if interactive else []),
        ],
        enable_progress_bar=interactive,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
    )
