"""What the verb `compare` does when its arguments are sound: models on test volumes, or on halves."""

import copy
import re
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from rich.progress import Progress

from cryoden.commands.parser import first_reason
from cryoden.data import SceneDataModule, VolumeDataModule
from cryoden.denoiser import Denoiser
from cryoden.errors import CryodenError, one_line
from cryoden.evaluation.baselines import tuned_filters
from cryoden.evaluation.evaluate import TRIVIAL, Method, evaluate, spaced
from cryoden.evaluation.halves import Judged, halves_verdict, judge_tomogram, write_halves
from cryoden.evaluation.models import Model, load_models, notes
from cryoden.evaluation.report import write_comparison
from cryoden.evaluation.results import Comparison, examples
from cryoden.evaluation.sensitivity import sweeps
from cryoden.evaluation.template_matching import match_scenes
from cryoden.evaluation.verdict import verdict
from cryoden.files import find_experiment, read_yaml
from cryoden.hardware import choose_device
from cryoden.inference.halves import named_apart
from cryoden.inference.jobs import Job
from cryoden.inference.quality import quality_table
from cryoden.runs import find_config


def on_volumes(
    runs: list[str], data: str | None, folder: Path, *, volumes: int, sensitivity: int, matching: int
) -> Iterator[str]:
    """Compare models on test volumes; arguments, lines and errors are those of `compare`.

    Args:
        runs: whose models they are.
        data: the configuration; None: that of the first run that has one.
        folder: to write to.
        volumes: how many of the test volumes.
        sensitivity: how many at each point of the curves.
        matching: scenes in which particles are looked for.

    Yields:
        What it does and finds.
    """
    device, reason = choose_device()
    models, denoisers, failed = yield from _loaded(runs)
    source = find_experiment(data) if data else find_config(runs)
    test_data, described = load_data(source, shared=data is None)
    if matching and not isinstance(test_data, SceneDataModule):
        raise CryodenError(
            f"matching: the data of {source} are no scenes; give a SceneDataModule with --data, or leave it out"
        )
    yield f"{', '.join(models)} on the test volumes of {source}, on {device} ({reason})"

    with _progress() as bar:
        filters = tuned_filters(test_data, bar("setting of filters"))
        yield f"filters set on validation volumes: {', '.join(f'{f.name} {s:g}' for f, s in filters)}"
        methods: dict[str, Method] = {
            **TRIVIAL,
            **{filter.name: filter.at(setting) for filter, setting in filters},
            **{name: denoiser.to(device) for name, denoiser in denoisers.items()},
        }
        dataset = test_data.test_volumes()
        evaluation = evaluate(
            methods,
            dataset,
            spaced(len(dataset), volumes),
            voxel_size=test_data.voxel_size,
            batch_size=test_data.batch_size,
            num_workers=test_data.num_workers,
            device=device,
            progress=bar("volumes"),
        )
        for name, why in evaluation.failed.items():
            yield f"left out: {name}: {why}"
            failed[models.pop(name).run if name in models else name] = why
        if not models:
            raise CryodenError("none of the models could be evaluated; see above")
        comparison = Comparison(
            experiment=test_data.experiment,
            evaluation=evaluation,
            voxel_size=test_data.voxel_size,
            data=described,
            models=models,
            filters={f.name: (f.setting, setting) for f, setting in filters if f.name in evaluation.values},
            failed=failed,
            notes=notes(models, test_data),
        )
        comparison.examples = examples(comparison, methods, dataset, device)
        if sensitivity:
            yield f"sensitivity: {sensitivity} volumes at each point"
            usable = {name: methods[name] for name in models}
            try:
                comparison.sweeps = sweeps(usable, test_data, sensitivity, device, bar("sensitivity"))
            except CryodenError as error:
                comparison.notes.append(f"sensitivity: no curves: {error}")
                yield comparison.notes[-1]
        if matching and isinstance(test_data, SceneDataModule):
            yield f"template matching in {matching} test and {matching} validation scenes"
            shown = ["input", comparison.best(comparison.filters), *models]
            usable = {name: methods[name] for name in shown}
            comparison.matching = {
                name: vars(found)
                for name, found in match_scenes(usable, test_data, matching, device, bar("template matching")).items()
            }
    yield from verdict(comparison)
    figures = write_comparison(comparison, folder)
    yield f"wrote {folder}: report.html, tables.md, tables.csv, results.json, and in figures {', '.join(figures)}"


def on_halves(runs: list[str], source: str, jobs: Sequence[Job], folder: Path) -> Iterator[str]:
    """Compare models on half tomograms; lines and errors are those of `compare`.

    Args:
        runs: whose models they are.
        source: the folder of the tomograms.
        jobs: a pair of halves each.
        folder: to write to.

    Yields:
        What it does and finds.
    """
    device, reason = choose_device()
    models, denoisers, failed = yield from _loaded(runs)
    yield f"{', '.join(models)} on the halves in {source}, on {device} ({reason})"
    judged: list[Judged] = []
    for job in named_apart(jobs):
        try:
            found = judge_tomogram(job, denoisers, device)
        except CryodenError as error:
            failed[job.name] = str(error)
            yield f"left out: {error}"
            continue
        judged.append(found)
        for name, why in found.failed.items():
            failed[f"{name} on {job.name}"] = why
            yield f"left out: {name} on {job.name}: {why}"
        yield f"{job.name}, {quality_table(found.halves, found.found)[0]}"
        yield from quality_table(found.halves, found.found)[1:]
    if not judged:
        raise CryodenError(f"none of the tomograms can be used, of {len(jobs)} in {source}; see above")
    yield from halves_verdict(judged)
    yield f"wrote {folder}: {', '.join(write_halves(judged, failed, folder))}"


def _loaded(
    runs: list[str],
) -> Generator[str, None, tuple[dict[str, Model], dict[str, Denoiser], dict[str, str]]]:
    """As `load_models`; yields what is left out.

    Raises:
        CryodenError: nothing is left.
    """
    models, denoisers, failed = load_models(runs)
    for run, why in failed.items():
        yield f"left out: {run}: {why}"
    if not models:
        raise CryodenError("none of the runs can be used, so there is nothing to compare; see above")
    return models, denoisers, failed


def load_data(path: Path, *, shared: bool = False) -> tuple[VolumeDataModule, dict[str, Any]]:
    """Make the data module that a configuration describes, ready to use.

    Args:
        path: a YAML file.
        shared: it may be anyone's: it imports no module that was not imported before, and names no folder to write to.

    Returns:
        The module, and what the file says of it.

    Raises:
        CryodenError: the file cannot be read, or describes no data module of cryoden's.
    """
    config = read_yaml(path, "data")
    described = config.get("data") if isinstance(config, dict) else None
    if not isinstance(described, dict) or "class_path" not in described:
        raise CryodenError(f"data {path}: has no `data:` with a `class_path:`, such as experiments/quick.yaml has")
    if shared:
        _refuse_imports(described, path)
        arguments = described.get("init_args")
        if isinstance(arguments, dict):
            described = {**described, "init_args": {k: v for k, v in arguments.items() if k != "cache"}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(VolumeDataModule, "data", required=True)
    try:
        module = parser.instantiate(parser.parse_object({"data": copy.deepcopy(described)})).data
    except ArgumentError as error:
        raise CryodenError(f"data {path}: {first_reason(str(error))}") from error
    except ValueError as error:  # jsonargparse wraps what the class says of its arguments
        raise CryodenError(f"data {path}: {one_line(error.__cause__ or error)}") from error
    assert isinstance(module, VolumeDataModule)
    module.prepare_data()
    module.setup("test")
    return module, described


def _refuse_imports(described: Any, path: Path) -> None:
    """Refuse a description in which anything names a class of a module that was not imported by the user.

    Raises:
        CryodenError: something does.
    """
    if isinstance(described, dict):
        described = list(described.values())
    if isinstance(described, list):
        for each in described:
            _refuse_imports(each, path)
    elif isinstance(described, str) and re.fullmatch(r"\w+(\.\w+)+", described):
        home, first = described.rpartition(".")[0], described.partition(".")[0]
        if first != "cryoden" and home not in sys.modules and find_spec(first) is not None:
            raise CryodenError(
                f"data {path}: {described} is not of cryoden, and this file may be anyone's: name the module with "
                f"--module {home} if you trust it, or the file with --data"
            )


_Bar = Callable[[str], Callable[[int, int], None]]


@contextmanager
def _progress() -> Iterator[_Bar]:
    """Bars by name, silent where nobody watches."""
    with Progress(disable=not sys.stderr.isatty(), transient=True) as progress:

        def bar(name: str) -> Callable[[int, int], None]:
            task = progress.add_task(name, total=None)
            return lambda done, total: progress.update(task, completed=done, total=total)

        yield bar
