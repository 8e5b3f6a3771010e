"""What a run's folder holds beside its checkpoints: its configuration, and its log."""

import csv
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from cryoden.errors import CryodenError
from cryoden.files import whole_file
from cryoden.modules.training import plain
from cryoden.particles import canonical_name


def run_directory(trainer: Trainer) -> Path:
    """Where a run's files go: its logger's own folder, whichever logger it has."""
    logger = trainer.logger
    if logger is None or logger.save_dir is None:
        return Path(trainer.default_root_dir)
    if logger.name is None or logger.version is None:
        return Path(logger.save_dir)
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir) / str(logger.name) / version


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
        with whole_file(run_directory(trainer) / "config.yaml", overwrite=True) as partial:
            self.parser.save(self.config, partial, overwrite=True)
        if isinstance(trainer.logger, WandbLogger):
            trainer.logger.log_hyperparams(plain(self.config.as_dict()))


def refuse_other_run(trainer: Trainer) -> None:
    """Refuse to begin a training where another left its files, as may be without a logger that numbers its runs.

    Raises:
        CryodenError: there is one's configuration.
    """
    if trainer.logger is not None and trainer.logger.version is None:  # one that finds a name of its own later
        return
    folder = run_directory(trainer)
    if (folder / "config.yaml").exists():
        raise CryodenError(
            f"{folder}: holds a run already, whose files are kept; go on with it by --ckpt-path, or write elsewhere: "
            "--trainer.default_root_dir FOLDER, or a logger, which gives each run a folder"
        )


def keep_history(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Keep what a run's metrics.csv holds up to a checkpoint: Lightning's logger would begin another one.

    Args:
        trainer: of the run that goes on, before it does.
        checkpoint: what it goes on from.
    """
    logger = trainer.logger
    path = run_directory(trainer) / "metrics.csv"
    if not isinstance(logger, CSVLogger) or not trainer.is_global_zero or not path.is_file():
        return
    if "loops" not in checkpoint:  # weights alone, from which Lightning does not go on
        return
    loop = checkpoint["loops"]["fit_loop"]
    epochs = loop["epoch_progress"]["current"]
    # the number of the last step; but where an epoch has ended, it is that of the next already
    last = loop["epoch_loop.state_dict"]["_batches_that_stepped"] - (epochs["processed"] == epochs["ready"])
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if int(row["step"]) <= last]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*exists and is not empty")
        writer: Any = logger.experiment
    writer.metrics = rows
    writer.save()


def beside(path: Path, name: str) -> Path | None:
    """A file of the run that a checkpoint belongs to."""
    folders = (path, path / "..", path.parent, path.parent.parent)
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def read_history(checkpoint: Path) -> dict[str, list[tuple[float, float]]]:
    """What was logged while a model was trained; empty if no metrics.csv can be read.

    Returns:
        Column → (epoch, its value): a loss is the mean over the epoch, a score that of its last validation.
    """
    path = beside(checkpoint, "metrics.csv")
    if path is None:
        return {}
    logged: dict[str, dict[float, list[float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for column, text in row.items():
                    if str(column).startswith(("train/", "val/")) and text:
                        logged.setdefault(column, {}).setdefault(float(row["epoch"]) + 1, []).append(float(text))
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {}
    return {
        column: [(e, v[-1] if column.startswith("val/") else float(np.mean(v))) for e, v in epochs.items()]
        for column, epochs in logged.items()
    }


def trained_on(checkpoint: Path) -> set[str]:
    """The canonical names of what the run of a checkpoint was trained on; none where no config.yaml tells."""
    path = beside(checkpoint, "config.yaml")
    try:
        arguments = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["init_args"] if path else {}
        named = {each: set(map(canonical_name, map(str, arguments.get(each) or ()))) for each in ("entries", "holdout")}
        return named["entries"] - named["holdout"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, yaml.YAMLError):
        return set()


def find_config(runs: list[str]) -> Path:
    """The configuration of the first run that has one.

    Raises:
        CryodenError: none has.
    """
    for run in runs:
        found = beside(Path(run), "config.yaml")
        if found:
            return found
    raise CryodenError(
        "no run has a config.yaml that says what to test on; give one with --data, such as experiments/quick.yaml"
    )
