"""Trained models, to be compared: what they are, and what makes their numbers less than they seem."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryoden.checkpoint import read_model
from cryoden.data import VolumeDataModule
from cryoden.denoiser import Denoiser
from cryoden.errors import CryodenError, one_line
from cryoden.models import find_checkpoint, shipped_models
from cryoden.runs import read_history, trained_on


@dataclass(eq=False)
class Model:
    """A trained model that was compared.

    Attributes:
        run: as it was given.
        checkpoint: the file.
        sha256: of the file.
        system: the class that trained it.
        parameters: of its network.
        voxel_size: Å, that it was trained at; None where it does not say.
        version: of cryoden that wrote it.
        history: column → values, from the run's metrics.csv; empty where there is none.
    """

    run: str
    checkpoint: str
    sha256: str
    system: str
    parameters: int
    voxel_size: float | None
    version: str
    history: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def load_models(runs: list[str]) -> tuple[dict[str, Model], dict[str, Denoiser], dict[str, str]]:
    """Load models, each under its system's name, with its run's where two have the same.

    One that comes with cryoden has its own name, as everywhere.

    Returns:
        name → what is known of it; name → the model; run → why it cannot be used.
    """
    loaded: list[tuple[Model, Denoiser]] = []
    failed = {}
    for run in dict.fromkeys(runs):
        try:
            path = find_checkpoint(run)
            denoiser, record = read_model(path)
            loaded.append((_describe(run, path, denoiser, record), denoiser))
        except CryodenError as error:
            failed[run] = one_line(error)
    shipped = {str(model.weights): name for name, model in shipped_models().items()}
    names = [shipped.get(model.checkpoint, model.system) for model, _ in loaded]
    count = Counter(names)
    named = {
        name if count[name] == 1 else f"{name} ({each[0].run})": each for name, each in zip(names, loaded, strict=True)
    }
    return {k: m for k, (m, _) in named.items()}, {k: d for k, (_, d) in named.items()}, failed


def _describe(run: str, path: Path, denoiser: Denoiser, record: dict[str, Any]) -> Model:
    return Model(
        run=run,
        checkpoint=str(path),
        sha256=_sha256(path),
        system=str(record["system"]),
        parameters=sum(parameter.numel() for parameter in denoiser.generator.parameters()),
        voxel_size=denoiser.voxel_size,
        version=str(record["version"]),
        history=read_history(path),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def notes(models: dict[str, Model], module: VolumeDataModule) -> list[str]:
    """What makes numbers less than they seem."""
    said = []
    for name, model in models.items():
        if model.voxel_size and abs(model.voxel_size - module.voxel_size) > 0.01 * module.voxel_size:
            said.append(f"{name} was trained at {model.voxel_size:g} Å per voxel and tested at {module.voxel_size:g} Å")
        if not model.history:
            said.append(f"{name} has no metrics.csv beside its checkpoint that can be read: no training curve")
        elif "val/nrmse" not in model.history:
            said.append(f"the metrics.csv of {name} has no val/nrmse: no validation curve")
    for name, model in models.items():
        seen = module.unseen & trained_on(Path(model.checkpoint))
        if seen:
            said.append(f"{name} was trained on {', '.join(sorted(seen))}, which is held out here: not unseen to it")
    return said
