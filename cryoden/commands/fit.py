"""The verb `fit`, and all that it shares with Lightning's other verbs."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningDataModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import cryoden.data
import cryoden.modules
import cryoden.networks
import cryoden.simulation  # noqa: F401 - importing a room makes its classes known by their names
from cryoden.callbacks import Balance, Bar, KeepMemory, Report, Stop, best_precision
from cryoden.checkpoint import read_checkpoint
from cryoden.commands.parser import OneLine, in_one_line, refuse_null
from cryoden.console import quiet
from cryoden.errors import CryodenError, check_seeds, one_line
from cryoden.hardware import choose_device, require_devices
from cryoden.metrics import MEASURES
from cryoden.models import kept
from cryoden.modules.training import Training
from cryoden.runs import SaveConfig, keep_history, refuse_other_run, run_directory

_PRECISIONS = ("None", "32", "32-true", "bf16-mixed", "16-mixed")  # volumes and weights are float32


def fit(*words: str) -> None:
    """Train a system: cryoden fit --config quick.

    A file says what is trained, on what, and how long. A second file is laid over the first, and a flag over both:

      cryoden fit --config quick
      cryoden fit --config gan --config overlays/small --model.channels 8
      cryoden fit --config runs/gan/version_0/config.yaml --ckpt-path last

    The first trains a small network on a CPU, the second a smaller GAN on smaller boxes; the third goes on with a run
    that was stopped. Each run has a folder, such as runs/gan/version_0, with its configuration, its log, slices, and
    checkpoints/best.ckpt and last.ckpt. Give it to `cryoden compare`, or to `cryoden denoise --model`.

      --config FILE               a file of yours, or one that comes along: quick, gan, overlays/small
      --model NAME                the system, such as UpsampleUnetGAN; --model.help NAME tells its arguments
      --model.KEY VALUE           one of them: --model.channels 8, --model.init_weights FILE to fine-tune
      --data NAME                 such as ParticleDataModule; --data.help NAME tells its arguments
      --data.KEY VALUE            one of them: --data.box 48
      --trainer.max_epochs N      how long; or --trainer.max_time 00:08:00:00
      --trainer.accelerator KIND  cpu or gpu, by default the best there is; --trainer.devices 2
      --trainer.logger NAME       WandbLogger or TensorBoardLogger instead of a CSV file
      --trainer.fast_dev_run 1    a batch of everything, to see whether it runs
      --seed-everything N         of everything random
      --ckpt-path FILE            go on from a checkpoint; last: from that of the run whose config.yaml is given
      --print-config              what all files and flags come to; nothing is trained
    """
    run("fit", *words)


def run(*words: str) -> None:
    """Run one of Lightning's verbs.

    Args:
        words: the verb, and its arguments, of `plain_words`.

    Raises:
        CryodenError: the arguments, the data or a checkpoint cannot be used.
    """
    quiet()
    # Without a terminal a progress bar is only noise in a log file.
    interactive = sys.stderr.isatty()
    try:
        _CLI(
            Training,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=SaveConfig,
            trainer_defaults={
                "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "runs", "name": ""}},
                # by its path, not as an object, so that a run's config.yaml can be given again
                "plugins": [{"class_path": "cryoden.modules.safeguards.SafeCheckpointIO"}],
                "enable_progress_bar": interactive,
                "enable_model_summary": False,  # Report tells how large the networks are
            },
            parser_kwargs={"prog": "cryoden"},
            parser_class=_Parser,
            args=list(words),
        )
    except (MisconfigurationException, OSError) as error:
        raise CryodenError(" ".join(str(error).split())) from error


def _checkpoint_beside(configs: Sequence[Path], which: str) -> Path:
    """The best or the last checkpoint of the run that one of these files is the config.yaml of.

    Raises:
        CryodenError: none is, or the run has no such checkpoint.
    """
    for config in configs:
        if found := kept(config.parent / "checkpoints", f"{which}*.ckpt"):
            return found
    told = ", ".join(map(str, configs)) or "none is given"
    raise CryodenError(
        f"ckpt_path {which}: of the run whose config.yaml is given with --config ({told}); there is no "
        f"checkpoints/{which}.ckpt beside it: give the checkpoint's path"
    )


def _going_on(logger: Any, checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint is of, if this one has its name: then it is the same run.

    Args:
        logger: as the configuration describes it.
        checkpoint: what is gone on from.
    """
    run = checkpoint.resolve().parent.parent
    given: Any = getattr(logger, "init_args", None)
    if not getattr(logger, "class_path", "").endswith("CSVLogger") or given.version is not None:
        return None
    mine = Path(given.save_dir, given.name or "").resolve()
    return run if mine == run.parent and (run / "config.yaml").is_file() else None


def _refuse_finished(path: Path, checkpoint: Mapping[str, Any], epochs: int | None) -> None:
    """Refuse to go on from a checkpoint with which a training is at its end, before a folder is made for it.

    Raises:
        CryodenError: it is.
    """
    try:
        whole = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]
        done = checkpoint["epoch"] + (1 if whole else 0)
    except (LookupError, TypeError):  # of weights alone; Lightning says what it lacks
        return
    if epochs is not None and 0 <= epochs <= done:
        raise CryodenError(
            f"{path}: epoch {done} of {epochs} is done already, and there is nothing to do; give more with "
            "--trainer.max_epochs"
        )


def _closing(trainer: Trainer) -> list[str]:
    """How a training ended, and what to do with it."""
    watching = [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
    kept = [each for each in watching if each.best_model_path]
    if not kept:
        return ["done, and nothing was trained: no batch was asked for, or no epoch"] if watching else []
    watched = kept[0] is watching[0]
    keeper = kept[0] if watched else kept[-1]  # the one that keeps the last comes last
    best, run = Path(keeper.best_model_path), run_directory(trainer)
    model = run if watched and best.parent == run / "checkpoints" else best
    home = type(cast(Training, trainer.lightning_module).denoiser.generator).__module__
    own = "" if home.startswith("cryoden.") else f" --module {home}"
    if watched:
        score = "" if keeper.best_model_score is None else f": {keeper.monitor} {float(keeper.best_model_score):.4g}"
        told = f"Best{score} in epoch {read_checkpoint(best)['epoch'] + 1} of {trainer.current_epoch}, {best}"
    else:  # whatever was watched did not come
        told = f"Without a {watching[0].monitor} there is no best; the last, of step {trainer.global_step}, {best}"
    lines = [
        f"done. {told}. Next:",
        f"  cryoden denoise TOMOGRAM.mrc OUT.mrc --model {model}{own}",
        f"  cryoden compare {model}{own}",
    ]
    if (run / "config.yaml").is_file() and best.parent == run / "checkpoints":
        more = "max_steps" if 0 <= trainer.max_steps <= trainer.global_step else "max_epochs"
        lines.append(f"  cryoden fit --config {run}/config.yaml --ckpt-path last --trainer.{more} MORE")
    return lines


class _Parser(OneLine, LightningArgumentParser):
    """Lightning's, which tells of bad input in one line."""


class _CLI(LightningCLI):
    """Lightning's verbs over cryoden's systems and data."""

    going_on: Path | None = None  # the folder of the run that is resumed

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # Lightning's own warns of words that are not taken from sys.argv, although they are the same
        self.config = parser.parse_args(args)
        seed = self.config[self.config.subcommand].seed_everything
        if not isinstance(seed, bool):  # true draws one
            check_seeds(seed_everything=seed)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Report, "report")
        parser.add_lightning_class_args(KeepMemory, "keep_memory")
        parser.add_lightning_class_args(Balance, "balance")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/nrmse",
                "checkpoint.filename": "best",
                "checkpoint.auto_insert_metric_name": False,
            }
        )

    def instantiate_classes(self) -> None:
        given = self.config[self.config.subcommand]
        if self.config.subcommand == "fit" and given.ckpt_path is not None:
            self.going_on = _going_on(given.trainer.logger, Path(given.ckpt_path))
        try:
            if self.going_on:
                given.trainer.logger.init_args.version = self.going_on.name
            super().instantiate_classes()
            if self.going_on:  # the configuration is kept as it was: given again, it is another run
                given.trainer.logger.init_args.version = None
        except CryodenError:
            raise
        except (AttributeError, OverflowError, TypeError, ValueError) as error:  # what Lightning says of its arguments
            raise CryodenError(in_one_line(error) or one_line(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer: Any = super().instantiate_trainer(**kwargs)
        # No arguments of the command line's: nobody wants to be without. Lightning's save_last would keep the last
        # only where it is the best as well (since 2.6.0), so that who goes on from it goes back.
        beside = getattr(trainer.checkpoint_callback, "dirpath", None)
        trainer.callbacks += [ModelCheckpoint(beside, filename="last", enable_version_counter=False), Stop()]
        trainer.callbacks = [Bar() if type(each) is RichProgressBar else each for each in trainer.callbacks]
        if trainer.fast_dev_run:  # Lightning's own would write its last checkpoint all the same
            trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, ModelCheckpoint)]
        made: Trainer = trainer
        return made

    def before_instantiate_classes(self) -> None:
        config = self.config[self.config.subcommand]
        given = config.as_dict()
        refuse_null(Trainer, given["trainer"], "trainer.")
        refuse_null(_CLI, {name: given[name] for name in ("model", "data")})
        trainer = config.trainer
        if isinstance(trainer.devices, int) and trainer.accelerator in ("auto", "cpu"):
            require_devices(
                trainer.devices, choose_device()[0] if trainer.accelerator == "auto" else torch.device("cpu")
            )
        if str(trainer.precision) not in _PRECISIONS:
            raise CryodenError(
                f"trainer.precision: got {trainer.precision}; networks learn in {', '.join(_PRECISIONS[1:])}, and "
                "null is the best of them here"
            )
        if trainer.overfit_batches:
            raise CryodenError(
                f"trainer.overfit_batches: got {trainer.overfit_batches}; volumes are drawn by epoch, which it would "
                "undo: take few that stay, --data.fresh false with --data.copies 5, say"
            )
        checkpoint = config.checkpoint
        if checkpoint.filename == "last":
            raise CryodenError("checkpoint.filename: got last, which the last epoch's is called; take another, or best")
        if measure := MEASURES.get(re.sub(r"^val/|_p5$|_p95$", "", checkpoint.monitor or "")):
            checkpoint.mode = {1: "max", -1: "min", 0: checkpoint.mode}[measure.better]
        plugins = [each.get("class_path", "") for each in trainer.plugins or [] if hasattr(each, "get")]
        if trainer.precision is None and not any(path.endswith("Precision") for path in plugins):
            trainer.precision = best_precision(trainer.accelerator)

    def _parse_ckpt_path(self) -> None:
        # Lightning would let the checkpoint's arguments override the command line's without a word, even its
        # system. Here the configuration rules, and a checkpoint that does not fit it is refused.
        given = self.config[self.config.subcommand]
        if given.ckpt_path in ("best", "last"):
            given.ckpt_path = str(_checkpoint_beside([Path(each) for each in given.config or []], given.ckpt_path))
        if given.ckpt_path is not None:
            checkpoint = read_checkpoint(Path(given.ckpt_path))
            if self.config.subcommand == "fit":
                _refuse_finished(Path(given.ckpt_path), checkpoint, given.trainer.max_epochs)
        elif self.config.subcommand != "fit":
            raise CryodenError(
                f"{self.config.subcommand}: no checkpoint, so that a network which never learnt would be scored; give "
                "--ckpt-path FILE, or --config RUN/config.yaml --ckpt-path best"
            )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skip = {"model", "datamodule", "weights_only", "verbose"}
        return {
            "fit": skip | {"train_dataloaders", "val_dataloaders"},
            "validate": skip | {"dataloaders"},
            "test": skip | {"dataloaders"},
        }

    # Lightning looks for methods of these names; a checkpoint may hold nothing but plain values.
    def fit(self, **kwargs: Any) -> None:
        if kwargs["ckpt_path"] is None and not getattr(self.trainer, "fast_dev_run", False):
            refuse_other_run(self.trainer)
        if self.going_on:
            keep_history(self.trainer, read_checkpoint(Path(kwargs["ckpt_path"])))
        self.trainer.fit(**kwargs, weights_only=True)
        if self.trainer.is_global_zero:
            print(*_closing(self.trainer), sep="\n")

    def validate(self, **kwargs: Any) -> None:
        self.trainer.validate(**kwargs, weights_only=True, verbose=False)

    def test(self, **kwargs: Any) -> None:
        self.trainer.test(**kwargs, weights_only=True, verbose=False)
