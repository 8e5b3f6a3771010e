"""The whole job in minutes, offline and on a CPU: made-up proteins in, a trained denoiser and a denoised volume out."""

import logging
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from cryoden.callbacks import Report, progress_callbacks
from cryoden.checkpoint import load_denoiser
from cryoden.data.datamodule import ParticleDataModule
from cryoden.errors import CryodenError
from cryoden.inference.denoise import denoise_file
from cryoden.modules.recipes import CompactUnetAE
from cryoden.volume import Volume, write_volume

_TRAINING = [f"phantom:{seed}" for seed in range(1, 9)]
_UNSEEN = "phantom:0"


def demo(output: str = "cryoden-demo", epochs: int = 3, seed: int = 0, overwrite: bool = False) -> Iterator[str]:
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
