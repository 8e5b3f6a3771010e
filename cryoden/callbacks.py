"""What a run tells a person: a table and a picture at each validation, and what goes wrong while it trains."""

import json
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any, Literal

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from torch import Tensor

from cryoden.batch import Batch
from cryoden.data import VolumeDataModule
from cryoden.evaluation.baselines import SIGMAS, gaussian_baseline
from cryoden.evaluation.evaluate import TRIVIAL
from cryoden.evaluation.results import Scores, summary
from cryoden.evaluation.tables import csv_text, score_grid, score_rows
from cryoden.files import write_text
from cryoden.hardware import choose_device, choose_precision, keep_freed_memory
from cryoden.metrics import percentiles
from cryoden.metrics.per_volume import QUALITY, WEDGE, TrainingMetrics
from cryoden.modules.adversarial import Adversarial
from cryoden.modules.training import Training
from cryoden.particles import Particle, Structure
from cryoden.pictures import save_figure, slice_figure
from cryoden.runs import run_directory
from cryoden.signals import Stopped, listen

_PATIENCE = 5.0  # seconds for other processes to end by themselves
_IN_WEDGE = "in the missing wedge, where nothing was measured"


def best_precision(accelerator: object) -> Literal["bf16-mixed", "32-true"]:
    """The precision to train at where none is asked for.

    Args:
        accelerator: what a Trainer takes by that name; of those that are not words nothing is known.

    Returns:
        bf16-mixed where the device multiplies bfloat16 itself: the weights stay float32, and validation scores are the
        same to a few thousandths (docs/speed.md).
    """
    best, _ = choose_device()
    devices = {"auto": best, "gpu": best, "cuda": torch.device("cuda"), "cpu": torch.device("cpu")}
    device = devices.get(accelerator) if isinstance(accelerator, str) else None
    return "bf16-mixed" if device is not None and choose_precision(device) == torch.bfloat16 else "32-true"


class Bar(RichProgressBar):
    """Lightning's bar of progress, with one number of which the name is short, so that it fits 100 columns."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What is shown, and called train/loss or train/discriminator_accuracy in the log."""
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)  # the run's folder was told
        return {name.rpartition("/")[2].removeprefix("discriminator_"): value for name, value in shown.items()}


class Stop(Callback):
    """Ends a training that is told to stop, by SIGTERM or Ctrl-C, with a word on what was kept and how to go on.

    Lightning's own handler waits for the other processes, which wait for this one, and then ends as if all were done.
    """

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals back from Lightning, which has just taken them."""
        listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take them back where there is no such check."""
        listen()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take them back where there is no training."""
        listen()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take them back where there is no training."""
        listen()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say what was kept, and hand it on to the processes that this one has started."""
        if not isinstance(exception, Stopped):
            return
        if trainer.state.fn == TrainerFn.FITTING:
            # the one that is kept whatever its score comes last
            paths = [getattr(each, "best_model_path", "") for each in reversed(trainer.checkpoint_callbacks)]
            kept = next((path for path in paths if path and Path(path).is_file()), None)
            exception.told = f" in epoch {trainer.current_epoch + 1} of {_number(trainer.max_epochs)}; " + (
                f"go on where the last checkpoint was kept with --ckpt-path {kept}"
                if kept
                else "nothing was kept, since no checkpoint had been written"
            )
        started: list[Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        processes = list(started)
        started.clear()  # for Lightning kills this process as soon as it sees one of them end
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(_PATIENCE)
            except TimeoutExpired:  # it waits for this one
                process.kill()


def _number(epochs: int | None) -> str:
    return "any number" if epochs in (None, -1) else str(epochs)


class Report(Callback):
    """Prints tables and writes a picture of slices after each validation and test; W&B gets them too.

    What each validation of a training shares, the rows beside the model's, is printed with the first alone.

    A test's table is also written, as test.csv, and as results.json with how and on what it was made.

    The first table sets the model beside the input, a volume of zeros (which scores SSIM 0.79 in mostly empty boxes of
    32 voxels an edge and 0.95 of 64, so that SSIM alone proves nothing) and a Gaussian filter at the width that is best
    for these very volumes.
    The second tells what each put into the missing wedge, where nothing was measured.
    """

    def __init__(self) -> None:
        self._baselines: dict[str, TrainingMetrics] = {}
        self._rows: dict[str, Scores] = {}
        self._picture: dict[str, Tensor] = {}
        self._entry = ""
        self._epoch = 0
        self._beside: dict[str, Scores] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say what it runs on, and where its files go."""
        device = trainer.strategy.root_device
        best, reason = choose_device()
        why = reason if device.type == best.type else f"as asked for; there is {reason}"
        processes = f", {trainer.world_size} processes" if trainer.world_size > 1 else ""
        if trainer.is_global_zero:
            files = "nothing is kept" if _is_trial(trainer) else f"files go to {run_directory(trainer)}"
            _say(f"{TrainerFn(stage).value} on {device} ({why}){processes}; {files}")
            _say(f"precision {_about_precision(trainer.precision, device)}")
            _say(", ".join(f"{name} of {size:,} parameters" for name, size in _networks(_training(pl_module))))
            loaded: dict[str, Particle] = getattr(getattr(trainer, "datamodule", None), "loaded", {})
            for particle in loaded.values():
                if isinstance(particle, Structure):
                    _say(particle.summary())

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember how far the training was from which the weights are."""
        self._epoch = checkpoint.get("epoch", -1) + 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Get ready; validation volumes never change, so that their baselines are computed once."""
        self._start(_training(pl_module), again=not self._rows)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Get ready."""
        self._start(_training(pl_module), again=True)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Score the baselines on a batch, where there is a truth."""
        if outputs is not None:
            self._score(outputs["denoised"], batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Score the baselines on a batch."""
        self._score(outputs["denoised"], batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and draw."""
        if not trainer.sanity_checking and self._picture:
            epoch = trainer.current_epoch + 1 if trainer.state.fn == TrainerFn.FITTING else self._epoch
            module = _training(pl_module)
            self._finish(trainer, module, module.val_metrics, f"validation, epoch {epoch}", f"epoch-{epoch:04d}.png")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and draw."""
        module = _training(pl_module)
        self._finish(trainer, module, module.test_metrics, "test", "test.png")

    def _start(self, module: Training, *, again: bool) -> None:
        self._picture = {}
        if again:
            self._rows = {}
            names = [*TRIVIAL, *map(_gaussian_name, SIGMAS)]
            self._baselines = {name: TrainingMetrics().to(module.device) for name in names}

    def _score(self, denoised: Tensor, batch: Batch) -> None:
        degraded, clean = batch["degraded"], batch["clean"]
        if not self._picture:
            shown = {"degraded": degraded, "denoised": denoised, "clean": clean}
            self._picture = {name: volumes[0, 0].float().cpu() for name, volumes in shown.items()}
            self._entry = batch["entry"][0]
        if not self._rows:
            answers = {name: answer(degraded) for name, answer in TRIVIAL.items()}
            answers |= {_gaussian_name(sigma): gaussian_baseline(degraded, sigma) for sigma in SIGMAS}
            for name, volumes in answers.items():
                self._baselines[name].update(volumes, clean, batch["measured"])

    def _finish(self, trainer: Trainer, module: Training, metrics: TrainingMetrics, title: str, picture: str) -> None:
        # Every rank computes: the metrics gather their values from all of them.
        if not self._rows:
            scores = {name: _computed(baseline) for name, baseline in self._baselines.items()}
            best = min(map(_gaussian_name, SIGMAS), key=lambda name: percentiles(scores[name]["nrmse"], (50,)))
            self._rows = {name: scores[name] for name in (*TRIVIAL, best)}
        model = _computed(metrics)
        if not trainer.is_global_zero:
            return
        system = type(module).__name__
        title = f"{system}, {title}"
        scores = {**self._rows, system: model}
        columns, rows = score_rows(scores, (*QUALITY, *WEDGE))
        shown = {system: model} if self._beside is self._rows else scores  # what is the same each time is told once
        self._beside = self._rows
        for measures, what in ((QUALITY, f"{title}: {model['nrmse'].size} volumes"), (WEDGE, _IN_WEDGE)):
            grid = score_grid(shown, measures, what)
            if len(grid.header) > 1:
                Console().print(grid.terminal())
        if _is_trial(trainer):
            return
        data: Any = getattr(trainer, "datamodule", None)
        voxel_size = getattr(data, "voxel_size", module.denoiser.voxel_size)
        if trainer.testing:
            experiment = data.experiment if isinstance(data, VolumeDataModule) else None
            results = json.dumps(summary(scores, experiment, voxel_size), indent=1, allow_nan=False)
            write_text(run_directory(trainer) / "test.csv", csv_text([columns, *rows]), overwrite=True)
            write_text(run_directory(trainer) / "results.json", results, overwrite=True)
        volumes = {name: volume.numpy() for name, volume in self._picture.items()}
        path = run_directory(trainer) / "slices" / picture
        figure = slice_figure(volumes, voxel_size or 1.0, f"{title}: {self._entry}")
        save_figure(figure, path, overwrite=True)
        if isinstance(trainer.logger, WandbLogger):
            stage = "test" if trainer.testing else "val"
            trainer.logger.log_image(f"{stage}/slices", [str(path)], caption=[title])
            trainer.logger.log_table(f"{stage}/table", columns=columns, data=rows)


class KeepMemory(Callback):
    """Where a CPU computes, keeps memory that is freed for what is allocated next, and says so.

    It makes training faster by a tenth to a third, for more memory: see docs/speed-inside.md. Only with glibc (Linux).

    Args:
        enabled: false gives freed memory back to the system at once.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set up the allocator, in each process."""
        on_cpu = trainer.strategy.root_device.type == "cpu"
        if self.enabled and on_cpu and keep_freed_memory() and trainer.is_global_zero:
            _say("freed memory is kept, which is faster and takes more of it; --keep_memory.enabled false turns it off")


class Balance(Callback):
    """Says in words when one of two players has been winning for too long, and which setting to turn.

    Args:
        window: batches that are looked at together.
    """

    def __init__(self, window: int = 50) -> None:
        self.window = window
        self._seen: list[Tensor] = []
        self._widest = 0.0
        self._windows = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the balance once in a window, so that the device is not asked after each batch."""
        if not isinstance(pl_module, Adversarial) or pl_module.standing is None:
            return
        self._seen.append(pl_module.standing.value.detach())
        if len(self._seen) == self.window:
            mean = float(torch.stack(self._seen).float().mean())
            self._seen = []
            trouble = self._accuracy(mean) if pl_module.standing.name == "discriminator_accuracy" else self._gap(mean)
            if trouble:
                rank_zero_warn(f"epoch {trainer.current_epoch}, batch {batch_idx}: {trouble}")

    def _accuracy(self, mean: float) -> str:
        told = f"its accuracy over the last {self.window} batches is {mean:.2f}"
        if mean > 0.99:
            return (
                f"the discriminator has won, {told}: the generator learns little from it. Raise instance_noise or "
                "label_smoothing, lower discriminator_learning_rate, or raise reconstruction_weight"
            )
        if mean < 0.01:
            return (
                f"the discriminator is fooled every time, {told}: it has nothing to teach. Raise "
                "discriminator_learning_rate or discriminator_steps"
            )
        return ""

    def _gap(self, mean: float) -> str:
        earlier, self._widest = self._widest, max(self._widest, abs(mean))
        self._windows += 1
        if self._windows > 2 and abs(mean) > 10 * earlier:
            return (
                f"the critic's gap is exploding, {mean:.3g} over the last {self.window} batches and at most "
                f"{earlier:.3g} before: its slope is out of hand. Lower discriminator_learning_rate, raise "
                "penalty_weight (WGAN-GP) or lower weight_clip (WGAN)"
            )
        return ""


def _say(line: str) -> None:
    Console().print(line, soft_wrap=True, highlight=False)


def _about_precision(precision: str | int | None, device: torch.device) -> str:
    """A trainer's precision in words: whether it suits the device, and how to change it."""
    what = "this CPU" if device.type == "cpu" else "this GPU"
    native = choose_precision(device) == torch.bfloat16
    if precision == "bf16-mixed" and native:
        return f"bf16-mixed: {what} multiplies bfloat16, twice as fast or more; --trainer.precision 32 turns it off"
    if precision == "bf16-mixed":
        return f"bf16-mixed, as asked for, which {what} only emulates; --trainer.precision 32 may be far faster"
    if precision == "32-true" and native:
        return f"32-true, as asked for; {what} multiplies bfloat16: bf16-mixed is twice as fast or more"
    return str(precision)


def _is_trial(trainer: Trainer) -> bool:
    """Whether a few batches are run to see whether they run: nothing is left behind."""
    return bool(getattr(trainer, "fast_dev_run", False))


def _networks(module: Training) -> list[tuple[str, int]]:
    """The kind of each network that learns, and how many parameters it has."""
    parts = [module.denoiser.generator, *(each for each in module.children() if each is not module.denoiser)]
    sizes = [(type(part).__name__, sum(each.numel() for each in part.parameters())) for part in parts]
    return [(name, size) for name, size in sizes if size]


def _training(module: LightningModule) -> Training:
    assert isinstance(module, Training)
    return module


def _computed(metrics: TrainingMetrics) -> Scores:
    """The values of all measures, under their names without a stage before them."""
    computed = {name.rpartition("/")[2]: values.cpu().numpy() for name, values in metrics.compute().items()}
    return {name: np.atleast_1d(values) for name, values in computed.items()}  # torchmetrics squeezes a single one


def _gaussian_name(sigma: float) -> str:
    return f"Gaussian σ={sigma:g}"
