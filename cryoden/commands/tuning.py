"""What the verb `tune` does when its arguments are sound: a model learns on half tomograms, and is judged by them."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cryoden.callbacks import Stop, best_precision
from cryoden.checkpoint import export_weights, load_denoiser, read_checkpoint
from cryoden.console import quiet
from cryoden.data import HalvesDataModule
from cryoden.denoiser import Denoiser
from cryoden.errors import CryodenError
from cryoden.evaluation.halves import Judged, write_halves
from cryoden.hardware import choose_device, keep_freed_memory
from cryoden.inference.denoise import denoise
from cryoden.inference.quality import judge
from cryoden.inference.tiling import tell
from cryoden.metrics.halves import Halves
from cryoden.models import nearest_model
from cryoden.modules import Noise2Noise
from cryoden.modules.safeguards import SafeCheckpointIO
from cryoden.networks.base import DenoisingNetwork, build_network
from cryoden.pictures import STYLES, plain_axis, rendered
from cryoden.signals import Stopped
from cryoden.volume import sections

_PATIENCE = 6  # epochs without a better score, after which no better one is waited for
_UNLEARNT = 1.05  # times the start's error of simulated boxes: beyond, it draws what is no density
_RATE, _RATE_FROM_SCRATCH = 2.0e-4, 1.0e-3
_WARMUP = 20  # steps
_NAMED = 3  # differences of many, where each is like the others
_TUNED = "tuned"
_OF = "tuning"  # in a checkpoint
_CURVES = "What was learnt: NRMSE after each epoch."


@dataclass(frozen=True)
class Tuning:
    """A model that is to learn on half tomograms.

    Attributes:
        inputs: where these are.
        target: the model that is written.
        model: what to start from; None: the one that comes with cryoden and is nearest in voxel size.
        epochs: at most.
        from_scratch: begin with random weights.
        overwrite: replace the target, and begin anew.
        settings: of `HalvesDataModule`.
    """

    inputs: list[str]
    target: Path
    model: str | None
    epochs: int
    from_scratch: bool
    overwrite: bool
    settings: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Of all other files."""
        return self.target.with_suffix("")

    def run(self) -> Iterator[str]:
        """Tune, judge and write.

        Yields:
            What it runs on, what was found, and what was kept.

        Raises:
            CryodenError: the halves or the model cannot be used, or another tuning was begun under this name.
        """
        quiet()
        device, reason = choose_device()
        kept = device.type == "cpu" and keep_freed_memory()
        start = load_denoiser(self.model) if self.model else None
        if start and not start.standardize:
            raise CryodenError(
                f"model {self.model}: was trained with standardize false, for volumes of one unit, and half tomograms "
                "come in any; give one that was trained with true, or none for the one that comes with cryoden"
            )
        yield f"on {device} ({reason}){', keeping freed memory' * kept}; files go to {self.folder}"
        data = HalvesDataModule(self.inputs, cache=str(self.folder / "scenes"), **self.settings)
        data.look()
        yield from _about(data)
        name = self.model or nearest_model(data.voxel_size).name
        start = start or load_denoiser(name)
        yield self._plan(start, name, data)
        last, decides = self.folder / "last.ckpt", self._decides(start, data)
        if self.overwrite:
            last.unlink(missing_ok=True)
        elif last.exists():
            _refuse_another(last, decides)

        data.setup("fit")
        best = _Best(self.folder / "best.safetensors", self.epochs, decides, bounded=not self.from_scratch)
        trainer = self._trainer(best)
        trainer.validate(self._system(start.generator, start), data, verbose=False)
        network = build_network(start.record()["network"]) if self.from_scratch else start.generator
        going_on = str(last) if last.is_file() else None
        if going_on:
            yield f"going on from {last}"
        try:
            trainer.fit(self._system(network, start), data, ckpt_path=going_on, weights_only=True)
        except Stopped as stop:
            stop.told = "; the same command goes on from the last epoch that was finished"
            raise

        tuned = load_denoiser(best.path) if best.epoch else None
        models = {name: start} if tuned is None else {name: start, _TUNED: tuned}
        drawn = {_CURVES: rendered(best.figure())}
        write_halves(_judged(data, models, device), {}, self.folder, drawn)
        yield f"wrote {self.folder / 'report.html'} and quality.csv: what the halves tell of {' and '.join(models)}"
        keep = tuned is not None and (self.from_scratch or best.score < best.start["nrmse"])
        export_weights(tuned if tuned is not None and keep else start, self.target, overwrite=self.overwrite)
        yield self._outcome(best, name, keep)
        yield f"  cryoden denoise FILES --halves --output FOLDER --model {self.target}"

    def _decides(self, start: Denoiser, data: HalvesDataModule) -> dict[str, str]:
        """All that decides what is learnt, beside the number of epochs, in words: with others it is another tuning."""
        return {
            "model": start.digest()[:8],
            "from scratch": "yes" if self.from_scratch else "no",
            "seed": f"{self.settings['seed']}",
            "voxel size": f"{data.voxel_size:.4g} Å",
            **{f"tomogram {each.name}": each.told for each in data.tomograms},
        }

    def _system(self, network: DenoisingNetwork, start: Denoiser) -> Noise2Noise:
        """One that learns, of a copy of a network."""
        seed_everything(self.settings["seed"], verbose=False)
        return Noise2Noise(
            copy.deepcopy(network).train(),
            learning_rate=_RATE_FROM_SCRATCH if self.from_scratch else _RATE,
            residual=start.residual,
            warmup_steps=_WARMUP,
            gradient_clip=1.0,
        )

    def _trainer(self, best: _Best) -> Trainer:
        return Trainer(
            accelerator="auto",
            devices=1,
            precision=best_precision("auto"),
            max_epochs=self.epochs,
            logger=CSVLogger(self.folder, name="log"),
            callbacks=[best, Stop(), ModelCheckpoint(self.folder, "last", enable_version_counter=False)],
            plugins=[SafeCheckpointIO()],
            enable_progress_bar=sys.stderr.isatty(),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=10,
        )

    def _plan(self, start: Denoiser, name: str, data: HalvesDataModule) -> str:
        """What begins as what."""
        if self.from_scratch:
            return f"begins with random weights of the network of {name}, which stands beside it"
        size = start.voxel_size or data.voxel_size
        other = abs(size / data.voxel_size - 1) > 0.01
        return f"begins with {name}" + f", trained at {size:.4g} Å: it learns {data.voxel_size:.4g} Å, too" * other

    def _outcome(self, best: _Best, name: str, keep: bool) -> str:
        """What was kept and why."""
        start = best.start["nrmse"]
        if not keep:
            learnt = f"the best {best.score:.4f}" if best.epoch else "none within its bounds"
            return (
                f"kept {name}: nothing that was learnt is nearer to what both halves show ({learnt}, {name} "
                f"{start:.4f}); {self.target} is {name} as it was"
            )
        return (
            f"tuned, best in epoch {best.epoch}: {abs(1 - best.score / start):.1%} "
            f"{'nearer to' if best.score < start else 'further from'} what both halves show than {name} "
            f"({best.score:.4f}, {name} {start:.4f}); wrote {self.target}"
        )


class _Best(Callback):
    """Tells the scores of each epoch, keeps the weights of the best, and ends where no better ones come.

    Args:
        path: where the weights go, a name that ends in .safetensors.
        epochs: at most.
        decides: what makes it this tuning and no other, in words, for its checkpoints.
        bounded: take no weights whose error of simulated boxes is far beyond the start's.

    Attributes:
        start: what is scored before the training: name → value.
        score: NRMSE of the best epoch, by the halves.
        epoch: the best one, from 1 up; 0: none yet.
        history: of each epoch, NRMSE by the halves, and of simulated boxes.
    """

    def __init__(self, path: Path, epochs: int, decides: Mapping[str, str], *, bounded: bool) -> None:
        self.path = path
        self.epochs = epochs
        self.decides = decides
        self.bounded = bounded
        self.start: dict[str, float] = {}
        self.score = math.inf
        self.epoch = 0
        self.history: list[tuple[float, float]] = []
        self._began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare."""
        found = {name.removeprefix("val/"): float(value) for name, value in trainer.callback_metrics.items()}
        told = f"NRMSE by the halves {found['nrmse']:.4f}, FSC {found['fsc_area']:.4f}, "
        told += f"NRMSE of simulated boxes {found['nrmse_simulated']:.4f}"
        if trainer.state.fn != TrainerFn.FITTING:
            self.start = found
            print(f"  start: {told}", flush=True)
            return
        epoch = trainer.current_epoch + 1
        self.history.append((found["nrmse"], found["nrmse_simulated"]))
        unlearnt = self.bounded and found["nrmse_simulated"] > _UNLEARNT * self.start["nrmse_simulated"]
        if unlearnt:
            told += f", above {_UNLEARNT:g} times the start's: not kept"
        elif found["nrmse"] < self.score:
            self.score, self.epoch = found["nrmse"], epoch
            export_weights(pl_module, self.path, overwrite=True)
            told += ", the best"
        trainer.should_stop = epoch >= self.epoch + _PATIENCE
        minutes = (time.monotonic() - self._began) / 60
        print(f"  epoch {epoch} of {self.epochs}, {minutes:.1f} min: {told}", flush=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Tell of what tuning a checkpoint is."""
        checkpoint[_OF] = dict(self.decides)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"score": self.score, "epoch": self.epoch, "history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.score, self.epoch = state["score"], int(state["epoch"])
        self.history = [(float(ours), float(simulated)) for ours, simulated in state["history"]]

    def figure(self) -> Figure:
        """Both errors over the epochs, the start at 0."""
        start = self.start["nrmse"], self.start["nrmse_simulated"]
        figure = Figure(figsize=(6, 3.4), layout="constrained")
        axis = figure.subplots()
        labels = "by the halves, where nothing was learnt from", "of simulated boxes, by their truth"
        for label, values, style in zip(labels, zip(start, *self.history, strict=True), STYLES, strict=False):
            axis.plot(values, label=label, color=style.color, linestyle=style.line, marker=style.marker, markersize=4)
        if self.epoch:
            axis.axvline(self.epoch, color="#999999", linewidth=0.8, linestyle=":")
        axis.set(xlabel="epoch; 0 is the start, the dotted line the best", ylabel="NRMSE")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(frameon=False, fontsize=9)
        plain_axis(axis)
        return figure


def _refuse_another(last: Path, decides: Mapping[str, str]) -> None:
    """Refuse to go on from what was begun with something else: what comes out would be of neither.

    Args:
        last: a checkpoint.
        decides: what makes this tuning.

    Raises:
        CryodenError: it is of another tuning, or of none.
    """
    anew = "or begin anew with --overwrite, which replaces it"
    try:
        there = read_checkpoint(last)[_OF]
    except (CryodenError, KeyError) as error:
        raise CryodenError(
            f"{last}: is damaged, or does not say of what tuning it is, so that none can go on from it; give another "
            f"--output, {anew}"
        ) from error
    names = dict.fromkeys([*decides, *there])
    other = [
        f"{name} was {there.get(name, 'not there')} and is {decides.get(name, 'not there')}"
        for name in names
        if there.get(name) != decides.get(name)
    ]
    if other:
        more = f"; and {len(other) - _NAMED} more" if len(other) > _NAMED else ""
        raise CryodenError(
            f"{last}: is of another tuning, from which this one cannot go on: {'; '.join(other[:_NAMED])}{more}; give "
            f"what it was begun with, another --output, {anew}"
        )


def _about(data: HalvesDataModule) -> Iterator[str]:
    """What is learnt from."""
    for each in data.tomograms:
        shape = tell((each.shape[0], each.shape[1], each.shape[2]))
        first, end = each.sections
        tilts = each.tilts or "unknown: nothing is taken to be missing, and a wedge is learnt as it is"
        mask = ""
        if each.mask is not None:
            inside = np.mean([float((section > 0).mean()) for section in sections(each.mask)])
            mask = f", {inside:.0%} of it in the mask"
        yield (
            f"{each.name}: {shape} voxels (x, y, z) of {data.voxel_size:.4g} Å{mask}, protein {each.contrast}; learns "
            f"from z {first} to {end - 1}, y below {each.held_out}; tilts {tilts}"
        )


def _judged(data: HalvesDataModule, models: Mapping[str, Denoiser], device: torch.device) -> list[Judged]:
    """What the halves tell of models, of the part of each tomogram that nothing was learnt from."""
    found = []
    for part in data.judged():
        given = part["first"].numpy(), part["second"].numpy()
        mask = part["mask"]
        halves = Halves.of(given[0], given[1], data.voxel_size, None if mask is None else mask.numpy())

        def answers(given: tuple[NDArray[Any], NDArray[Any]] = given) -> Iterator[tuple[str, Any]]:
            for name, model in models.items():
                # at the size of the voxels that it is tuned for, whatever those that it knew
                yield name, [denoise(half, model, device=device, contrast="bright") for half in given]

        found.append(Judged(part["entry"], halves, judge(halves, given, answers()), {}))
    return found
