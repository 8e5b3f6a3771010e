"""The verb `compare`: runs in; tables, figures, numbers and one page of verdict out."""

import copy
import csv
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.progress import Progress
from torch import Tensor

from cryoden.checkpoint import find_checkpoint, read_model
from cryoden.data import SceneDataModule, VolumeDataModule
from cryoden.denoiser import Denoiser
from cryoden.errors import CryodenError
from cryoden.evaluation.baselines import FILTERS, Filter, best_setting
from cryoden.evaluation.evaluate import Method, batches, evaluate, first_line, spaced
from cryoden.evaluation.figures import figures
from cryoden.evaluation.report import report
from cryoden.evaluation.results import Comparison, Example, Model
from cryoden.evaluation.sensitivity import sweeps
from cryoden.evaluation.tables import csv_of, grids, markdown
from cryoden.evaluation.template_matching import match_scenes
from cryoden.evaluation.verdict import verdict
from cryoden.files import refuse_existing, whole_file
from cryoden.hardware import choose_device
from cryoden.pictures import rendered

_TUNING_VOLUMES = 10


def compare(
    runs: list[str],
    output: str = "comparison",
    *,
    data: str | None = None,
    volumes: int = 200,
    sensitivity: int = 0,
    matching: int = 0,
    overwrite: bool = False,
) -> Iterator[str]:
    """Compare trained models with each other and with classical filters on the same test volumes.

    Writes results.json (every number), tables.md and tables.csv (the thesis's numbers beside), figures as PNG and SVG,
    and report.html, one page that says in plain words which model to trust, and how far. Each filter is set on
    validation volumes. A model that cannot be used is reported and left out.

    Args:
        runs: runs' folders, checkpoints (.ckpt) or weights (.safetensors).
        output: the folder to write to.
        data: a YAML file whose `data:` says what to test on, such as experiments/quick.yaml; by default the config.yaml
            of the first run that has one.
        volumes: how many of the test volumes to take, evenly spaced over them.
        sensitivity: test volumes at each point of curves against signal-to-noise ratio (0.1 to 5) and tilt range (±40°
            to ±70°); 0 draws none.
        matching: test scenes in which particles are looked for by template matching, before and after denoising, and as
            many validation scenes that set its thresholds; only where the data are scenes. 0 looks for none.
        overwrite: replace the files of an earlier comparison.

    Yields:
        What it does and finds.

    Raises:
        CryodenError: no model can be used, or there is nothing to test on, or the output exists.
    """
    folder = Path(output)
    if folder.is_file():
        raise CryodenError(f"output {folder}: is a file; give the name of a folder")
    refuse_existing(folder, overwrite=overwrite)
    for name, number, least in (("volumes", volumes, 1), ("sensitivity", sensitivity, 0), ("matching", matching, 0)):
        if number < least:
            raise CryodenError(f"{name}: got {number}; it must be at least {least}")
    device, reason = choose_device()
    models, denoisers, failed = load_models(runs)
    for run, why in failed.items():
        yield f"left out: {run}: {why}"
    if not models:
        raise CryodenError("none of the runs can be used, so there is nothing to compare; see above")
    source = Path(data) if data else find_config(runs)
    module, described = load_data(source)
    if matching and not isinstance(module, SceneDataModule):
        raise CryodenError(
            f"matching: the data of {source} are no scenes; give a SceneDataModule with --data, or leave it out"
        )
    yield f"{len(models)} models on the test volumes of {source}, on {device} ({reason})"

    with _progress() as bar:
        filters = tune_filters(module, bar)
        yield f"filters set on validation volumes: {', '.join(f'{f.name} {s:g}' for f, s in filters)}"
        methods = all_methods(filters, denoisers, device)
        dataset = module.test_volumes()
        evaluation = evaluate(
            methods,
            dataset,
            spaced(len(dataset), volumes),
            voxel_size=module.voxel_size,
            batch_size=module.batch_size,
            num_workers=module.num_workers,
            device=device,
            progress=bar("volumes"),
        )
        for name, why in evaluation.failed.items():
            yield f"left out: {name}: {why}"
            failed[models.pop(name).run if name in models else name] = why
        if not models:
            raise CryodenError("none of the models could be evaluated; see above")
        comparison = Comparison(
            experiment=module.experiment,
            evaluation=evaluation,
            voxel_size=module.voxel_size,
            data=described,
            models=models,
            filters={f.name: (f.setting, setting) for f, setting in filters if f.name in evaluation.values},
            failed=failed,
            notes=notes(models, module),
        )
        comparison.examples = examples(comparison, methods, module, device)
        if sensitivity:
            yield f"sensitivity: {sensitivity} volumes at each point"
            usable = {name: methods[name] for name in models}
            try:
                comparison.sweeps = sweeps(usable, module, sensitivity, device, bar("sensitivity"))
            except CryodenError as error:
                comparison.notes.append(f"sensitivity: no curves: {error}")
                yield comparison.notes[-1]
        if matching and isinstance(module, SceneDataModule):
            yield f"template matching in {matching} test and {matching} validation scenes"
            shown = ["input", comparison.best(comparison.filters), *models]
            usable = {name: methods[name] for name in shown}
            comparison.matching = {
                name: vars(found)
                for name, found in match_scenes(usable, module, matching, device, bar("template matching")).items()
            }
    yield from write(comparison, folder)


def load_models(runs: list[str]) -> tuple[dict[str, Model], dict[str, Denoiser], dict[str, str]]:
    """Load models, each under its system's name, with its run's where two have the same.

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
            failed[run] = first_line(error)
    systems = Counter(model.system for model, _ in loaded)
    named = {
        model.system if systems[model.system] == 1 else f"{model.system} ({model.run})": (model, denoiser)
        for model, denoiser in loaded
    }
    return {k: m for k, (m, _) in named.items()}, {k: d for k, (_, d) in named.items()}, failed


def _describe(run: str, path: Path, denoiser: Denoiser, record: dict[str, Any]) -> Model:
    return Model(
        run=run,
        checkpoint=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        system=str(record["system"]),
        parameters=sum(parameter.numel() for parameter in denoiser.generator.parameters()),
        voxel_size=denoiser.voxel_size,
        version=str(record["version"]),
        history=read_history(path),
    )


def _beside(path: Path, name: str) -> Path | None:
    """A file of the run that a checkpoint belongs to."""
    folders = (path, path / "..", path.parent, path.parent.parent)
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def read_history(checkpoint: Path) -> dict[str, list[tuple[float, float]]]:
    """What was logged while a model was trained: column → (epoch, its mean); empty if there is no metrics.csv."""
    path = _beside(checkpoint, "metrics.csv")
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
        found = _beside(Path(run), "config.yaml")
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
        raise CryodenError(f"data {path}: {first_line(error.__cause__ or error)}") from error
    assert isinstance(module, VolumeDataModule)
    module.prepare_data()
    module.setup("test")
    return module, described


def tune_filters(module: VolumeDataModule, bar: "_Bar") -> list[tuple[Filter, float]]:
    """The best setting of each filter on some validation volumes."""
    dataset = module.validation_volumes()
    indices = spaced(len(dataset), _TUNING_VOLUMES)
    pairs = list(batches(dataset, indices, module.batch_size, module.num_workers))
    degraded, clean = (
        torch.cat(volumes) for volumes in zip(*((b["degraded"], b["clean"]) for b in pairs), strict=True)
    )
    show = bar("setting of filters")
    tuned = []
    for done, filter in enumerate(FILTERS, start=1):
        tuned.append((filter, best_setting(filter, degraded, clean)))
        show(done, len(FILTERS))
    return tuned


def all_methods(
    filters: list[tuple[Filter, float]], denoisers: dict[str, Denoiser], device: torch.device
) -> dict[str, Method]:
    """What is compared, by name: the trivial answers first, then filters, then models."""
    return {
        "input": lambda degraded: degraded,
        "zeros": torch.zeros_like,
        **{filter.name: filter.at(setting) for filter, setting in filters},
        **{name: denoiser.to(device) for name, denoiser in denoisers.items()},
    }


def notes(models: dict[str, Model], module: VolumeDataModule) -> list[str]:
    """What makes numbers less than they seem."""
    said = []
    for name, model in models.items():
        if model.voxel_size and abs(model.voxel_size - module.voxel_size) > 0.01 * module.voxel_size:
            said.append(f"{name} was trained at {model.voxel_size:g} Å per voxel and tested at {module.voxel_size:g} Å")
        if not model.history:
            said.append(f"{name} has no metrics.csv beside its checkpoint: no training curve")
        elif "val/nrmse" not in model.history:
            said.append(f"the metrics.csv of {name} has no val/nrmse: no validation curve")
    for name, model in models.items():
        config = _beside(Path(model.checkpoint), "config.yaml")
        if config and module.unseen:
            trained = (yaml.safe_load(config.read_text()).get("data") or {}).get("init_args", {})
            seen = module.unseen & (set(trained.get("entries", ())) - set(trained.get("holdout") or ()))
            if seen:
                said.append(
                    f"{name} was trained on {', '.join(sorted(seen))}, which is held out here: not unseen to it"
                )
    return said


def examples(
    comparison: Comparison, methods: dict[str, Method], module: VolumeDataModule, device: torch.device
) -> list[Example]:
    """The best model's most typical volume and its worst one."""
    scores = comparison.of(comparison.best(comparison.compared), "nrmse")
    order = np.argsort(scores)
    chosen = {"typical volume": int(order[(len(order) - 1) // 2]), "worst volume": int(order[-1])}
    rival = comparison.best(comparison.filters)
    shown = [name for name in comparison.methods if name in ("input", rival) or name in comparison.models]
    dataset = module.test_volumes()
    made = []
    for title, place in chosen.items():
        index = comparison.evaluation.indices[place]
        item = dataset[0, index]
        degraded: Tensor = item["degraded"][None].to(device)
        with torch.inference_mode():
            volumes = {name: methods[name](degraded)[0, 0].float().cpu().numpy() for name in shown}
        made.append(Example(title, item["entry"], index, {**volumes, "clean": item["clean"][0].numpy()}))
    return made


def write(comparison: Comparison, folder: Path) -> Iterator[str]:
    """Write a comparison's files.

    Yields:
        The verdict, and what was written.
    """
    yield from verdict(comparison)
    tables, drawn = grids(comparison), figures(comparison)
    pictures = {name: rendered(figure) for name, figure in drawn.items()}
    files: dict[str, bytes] = {
        "results.json": json.dumps(comparison.as_dict(), indent=1, allow_nan=False).encode(),
        "tables.md": markdown(verdict(comparison), tables).encode(),
        "tables.csv": csv_of(comparison).encode(),
        "report.html": report(comparison, tables, pictures).encode(),
        **{f"figures/{name}.png": png for name, png in pictures.items()},
        **{f"figures/{name}.svg": rendered(figure, "svg") for name, figure in drawn.items()},
    }
    for name, content in files.items():
        with whole_file(folder / name, overwrite=True) as partial:
            partial.write_bytes(content)
    yield f"wrote {folder}: report.html, tables.md, tables.csv, results.json, and in figures {', '.join(drawn)}"


_Bar = Callable[[str], Callable[[int, int], None]]


@contextmanager
def _progress() -> Iterator[_Bar]:
    """Bars by name, silent where nobody watches."""
    with Progress(disable=not sys.stderr.isatty(), transient=True) as progress:

        def bar(name: str) -> Callable[[int, int], None]:
            task = progress.add_task(name, total=None)
            return lambda done, total: progress.update(task, completed=done, total=total)

        yield bar
