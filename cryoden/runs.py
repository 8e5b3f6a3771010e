"""What a run's folder holds beside its checkpoint: its configuration, its log, and the data that it was trained on."""

import copy
import csv
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cryoden.data import VolumeDataModule
from cryoden.errors import CryodenError, one_line


def beside(path: Path, name: str) -> Path | None:
    """A file of the run that a checkpoint belongs to."""
    folders = (path, path / "..", path.parent, path.parent.parent)
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def read_history(checkpoint: Path) -> dict[str, list[tuple[float, float]]]:
    """What was logged while a model was trained: column → (epoch, its mean); empty if there is no metrics.csv."""
    path = beside(checkpoint, "metrics.csv")
    if path is None:
        return {}
    logged: dict[str, dict[float, list[float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for column, text in row.items():
                if column.startswith(("train/", "val/")) and text:
                    logged.setdefault(column, {}).setdefault(float(row["epoch"]) + 1, []).append(float(text))
    return {column: [(e, float(np.mean(v))) for e, v in epochs.items()] for column, epochs in logged.items()}


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


def load_data(path: Path) -> tuple[VolumeDataModule, dict[str, Any]]:
    """Make the data module that a configuration describes, ready to use.

    Returns:
        The module, and what the file says of it.

    Raises:
        CryodenError: the file cannot be read, or describes no data module of cryoden's.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CryodenError(f"data {path}: cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error
    described = config.get("data") if isinstance(config, dict) else None
    if not isinstance(described, dict) or "class_path" not in described:
        raise CryodenError(f"data {path}: has no `data:` with a `class_path:`, such as experiments/quick.yaml has")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(VolumeDataModule, "data", required=True)
    try:
        module = parser.instantiate(parser.parse_object({"data": copy.deepcopy(described)})).data
    except ArgumentError as error:
        raise CryodenError(f"data {path}: {' '.join(str(error).split())[:400]}") from error
    except ValueError as error:  # jsonargparse wraps what the class says of its arguments
        raise CryodenError(f"data {path}: {one_line(error.__cause__ or error)}") from error
    assert isinstance(module, VolumeDataModule)
    module.prepare_data()
    module.setup("test")
    return module, described
