"""The verb `fit`, and all that it shares with Lightning's other verbs."""

import sys
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import cryoden.data
import cryoden.modules
import cryoden.networks
import cryoden.simulation  # noqa: F401 - importing a room makes its classes known by their names
from cryoden.callbacks import Balance, KeepMemory, Report, Stop, best_precision
from cryoden.checkpoint import read_checkpoint
from cryoden.commands.parser import OneLine, refuse_null
from cryoden.console import quiet
from cryoden.errors import CryodenError, one_line
from cryoden.hardware import choose_device, require_devices
from cryoden.modules.training import Training
from cryoden.runs import SaveConfig


def fit(*words: str) -> None:
    """Train a system: cryoden fit --config experiments/gan.yaml."""
    run("fit", *words)


def run(*words: str) -> None:
    """Run one of Lightning's verbs.

    Args:
        words: the verb, and its arguments.

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
            },
            parser_kwargs={"prog": "cryoden"},
            parser_class=_Parser,
            args=list(words),
        )
    except (MisconfigurationException, OSError) as error:
        raise CryodenError(" ".join(str(error).split())) from error


class _Parser(OneLine, LightningArgumentParser):
    """Lightning's, which tells of bad input in one line."""


class _CLI(LightningCLI):
    """Lightning's verbs over cryoden's systems and data."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # Lightning's own warns of words that are not taken from sys.argv, although they are the same
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Report, "report")
        parser.add_lightning_class_args(KeepMemory, "keep_memory")
        parser.add_lightning_class_args(Balance, "balance")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/nrmse",
                "checkpoint.filename": "best",
                "checkpoint.save_last": True,
                "checkpoint.auto_insert_metric_name": False,
            }
        )

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except CryodenError:
            raise
        except (AttributeError, OverflowError, TypeError, ValueError) as error:  # what Lightning says of its arguments
            raise CryodenError(one_line(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer: Any = super().instantiate_trainer(**kwargs)
        trainer.callbacks.append(Stop())  # no argument of the command line's: nobody wants to be without
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
        plugins = [each.get("class_path", "") for each in trainer.plugins or [] if hasattr(each, "get")]
        if trainer.precision is None and not any(path.endswith("Precision") for path in plugins):
            trainer.precision = best_precision(trainer.accelerator)

    def _parse_ckpt_path(self) -> None:
        # Lightning would let the checkpoint's arguments override the command line's without a word, even its
        # system. Here the configuration rules, and a checkpoint that does not fit it is refused.
        path = self.config[self.config.subcommand].get("ckpt_path")
        if path is not None and path not in ("best", "last"):
            read_checkpoint(Path(path))

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
        self.trainer.fit(**kwargs, weights_only=True)

    def validate(self, **kwargs: Any) -> None:
        self.trainer.validate(**kwargs, weights_only=True, verbose=False)

    def test(self, **kwargs: Any) -> None:
        self.trainer.test(**kwargs, weights_only=True, verbose=False)
