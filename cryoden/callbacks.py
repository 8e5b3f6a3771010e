"""What a run tells a person: a table and a picture at each validation, and its configuration kept beside them."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from torch import Tensor
from torchmetrics import MetricCollection

from cryoden.evaluation.baselines import SIGMAS, gaussian_baseline
from cryoden.evaluation.figures import save_figure, slice_figure
from cryoden.evaluation.tables import Scores, score_table
from cryoden.inference.denoise import choose_device
from cryoden.metrics.image import quality_metrics
from cryoden.modules.denoiser import Denoiser, plain


def run_directory(trainer: Trainer) -> Path:
    """Where a run's files go: its logger's own folder, whichever logger it has."""
    logger = trainer.logger
    if logger is None or logger.save_dir is None:
        return Path(trainer.default_root_dir)
    if logger.name is None or logger.version is None:
        return Path(logger.save_dir)
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir) / str(logger.name) / version


class Report(Callback):
    """Prints a table and writes a picture of slices after each validation and test.

    The table sets the model beside the input, a volume of zeros (which scores SSIM 0.95 in these mostly empty boxes, so
    that SSIM alone proves nothing) and a Gaussian filter at the width that is best for these very volumes.
    """

    def __init__(self) -> None:
        self._baselines: dict[str, MetricCollection] = {}
        self._rows: dict[str, Scores] = {}
        self._picture: dict[str, Tensor] = {}
        self._entry = ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say what it runs on, and where its files go."""
        device = trainer.strategy.root_device
        best, reason = choose_device()
        why = reason if device.type == best.type else f"as asked for; there is {reason}"
        processes = f", {trainer.world_size} processes" if trainer.world_size > 1 else ""
        if trainer.is_global_zero:
            line = f"{TrainerFn(stage).value} on {device} ({why}){processes}; files go to {run_directory(trainer)}"
            Console().print(line, soft_wrap=True, highlight=False)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Get ready; validation volumes never change, so that their baselines are computed once."""
        self._start(_denoiser(pl_module), again=not self._rows)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Get ready."""
        self._start(_denoiser(pl_module), again=True)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Score the baselines on a batch."""
        self._score(outputs["denoised"], batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Score the baselines on a batch."""
        self._score(outputs["denoised"], batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and draw."""
        if not trainer.sanity_checking:
            epoch = trainer.current_epoch + (1 if trainer.state.fn == TrainerFn.FITTING else 0)
            module = _denoiser(pl_module)
            self._finish(trainer, module, module.val_metrics, f"validation, epoch {epoch}", f"epoch-{epoch:04d}.png")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and draw."""
        module = _denoiser(pl_module)
        self._finish(trainer, module, module.test_metrics, "test", "test.png")

    def _start(self, module: Denoiser, *, again: bool) -> None:
        self._picture = {}
        if again:
            self._rows = {}
            names = ["input", "zeros", *map(_gaussian_name, SIGMAS)]
            self._baselines = {name: quality_metrics().to(module.device) for name in names}

    def _score(self, denoised: Tensor, batch: Any) -> None:
        degraded, clean = batch["degraded"], batch["clean"]
        if not self._picture:
            shown = {"degraded": degraded, "denoised": denoised, "clean": clean}
            self._picture = {name: volumes[0, 0].float().cpu() for name, volumes in shown.items()}
            self._entry = batch["entry"][0]
        if not self._rows:
            self._baselines["input"].update(degraded, clean)
            self._baselines["zeros"].update(torch.zeros_like(clean), clean)
            for sigma in SIGMAS:
                self._baselines[_gaussian_name(sigma)].update(gaussian_baseline(degraded, sigma), clean)

    def _finish(self, trainer: Trainer, module: Denoiser, metrics: MetricCollection, title: str, picture: str) -> None:
        # Every rank computes: the metrics gather their values from all of them.
        if not self._rows:
            scores = {name: baseline.compute() for name, baseline in self._baselines.items()}
            best = min(map(_gaussian_name, SIGMAS), key=lambda name: scores[name]["nrmse"].median())
            self._rows = {name: scores[name] for name in ("input", "zeros", best)}
        prefix = metrics.prefix or ""
        model = {name.removeprefix(prefix): values for name, values in metrics.compute().items()}
        if not trainer.is_global_zero:
            return
        system = type(module).__name__
        folder = run_directory(trainer)
        title = f"{system}, {title}"
        Console().print(score_table({**self._rows, system: model}, f"{title}: {model['nrmse'].numel()} volumes"))
        volumes = {name: volume.numpy() for name, volume in self._picture.items()}
        voxel_size = module.voxel_size or 1.0
        save_figure(slice_figure(volumes, voxel_size, f"{title}: {self._entry}"), folder / "slices" / picture)


def _denoiser(module: LightningModule) -> Denoiser:
    assert isinstance(module, Denoiser)
    return module


def _gaussian_name(sigma: float) -> str:
    return f"Gaussian σ={sigma:g}"


class SaveConfig(SaveConfigCallback):
    """Keeps the configuration in the run's own folder, and with the run where a logger keeps hyper-parameters.

    Lightning writes to the logger's root instead, which several W&B runs share.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write config.yaml when training starts."""
        if stage != "fit":
            return
        folder = run_directory(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, folder / "config.yaml", overwrite=True)
        if isinstance(trainer.logger, WandbLogger):
            trainer.logger.log_hyperparams(plain(self.config.as_dict()))
