"""The verb `sweep`: many trainings, each with other settings, without an account anywhere."""

import csv
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cryoden.commands.fit import fit
from cryoden.commands.parser import plain_words
from cryoden.errors import CryodenError, one_line
from cryoden.evaluation.search import Settings, parallel_figure, settings
from cryoden.evaluation.tables import csv_text
from cryoden.files import check_folder, read_yaml, write_text
from cryoden.pictures import save_figure
from cryoden.runs import read_history

_TRIAL = "trial"
_GOALS = "minimize", "maximize"


def sweep(file: str, runs: int = 10, output: str = "sweep", seed: int = 0) -> Iterator[str]:
    """Train with one setting after the other, from a file as `wandb sweep` reads it, and tell which was best.

    `wandb sweep FILE` needs an account with Weights & Biases, shares the work among machines and knows Bayesian search;
    this needs nothing, and does one training after the other. Of the file it takes `method` (random or grid), `metric`,
    `parameters` (value, values, or min and max with the distribution uniform, int_uniform or log_uniform_values) and
    `command`, of which `cryoden fit` gets all that follows `fit`, with a CSV file for its logger.

    Writes sweep.csv, a row for each training with its settings and the metric at its end, sweep.png, parallel
    coordinates, and the runs. Stopped, or asked for more runs, the same command goes on: setting number 7 is the same
    in each sweep of a seed.

    Args:
        file: the sweep, such as experiments/sweeps/gan.yaml.
        runs: how many trainings, of a grid at most as many as it has.
        output: the folder to write to; that of the same sweep is gone on with.
        seed: of what is drawn.

    Yields:
        What each training came to, and the best.

    Raises:
        CryodenError: the file describes no sweep, or one for Weights & Biases alone; the folder holds something else;
            no training came to the metric.
    """
    if runs < 1:
        raise CryodenError(f"runs: got {runs}; it must be at least 1")
    described = _read(Path(file))
    metric, minimize = described["metric"]["name"], described["metric"].get("goal", _GOALS[0]) == _GOALS[0]
    asked = list(itertools.islice(settings(described["method"], described["parameters"], seed), runs))
    folder = Path(output)
    kept = yaml.safe_dump(described | {"seed": seed}, sort_keys=False)
    if not _is_file_of(folder / "sweep.yaml", kept):
        check_folder(folder, overwrite=False)
        write_text(folder / "sweep.yaml", kept, overwrite=False)
    names = list(described["parameters"])
    scores = _scores(folder / "sweep.csv")
    for number, setting in enumerate(asked):
        if math.isnan(scores.get(number, 0.0)):
            yield f"{_TRIAL} {number}: failed before; to try it again, take its line out of {folder / 'sweep.csv'}"
        if number not in scores:
            told = ", ".join(f"{name} {value}" for name, value in setting.items())
            yield f"{_TRIAL} {number}: {told}"
            try:
                scores[number] = _train(
                    _words(described["command"], setting), folder / "runs" / f"{number:03d}", metric
                )
            except CryodenError as error:
                yield f"{_TRIAL} {number}: {one_line(error)}"
                scores[number] = math.nan
            rows = [[n, *(asked[n][name] for name in names), scores[n]] for n in sorted(scores) if n < len(asked)]
            write_text(folder / "sweep.csv", csv_text([[_TRIAL, *names, metric], *rows]), overwrite=True)
    done = [(asked[number], score) for number, score in sorted(scores.items()) if number < len(asked)]
    if not any(math.isfinite(score) for _, score in done):
        raise CryodenError(f"none of {len(done)} trainings came to a {metric}; see above, and {folder}/sweep.csv")
    yield from _told(done, metric, minimize=minimize)
    figure = parallel_figure([tried for tried, _ in done], [score for _, score in done], metric, minimize=minimize)
    save_figure(figure, folder / "sweep.png", overwrite=True)
    yield f"wrote {folder}: sweep.csv, sweep.png, and the runs in runs"


def _read(path: Path) -> dict[str, Any]:
    """What a sweep's file says, checked.

    Raises:
        CryodenError: it is no sweep of `cryoden fit`.
    """
    described = read_yaml(path, "sweep")
    kinds = {"method": str, "metric": dict, "parameters": dict, "command": list}
    missing = [
        name
        for name, kind in kinds.items()
        if not (isinstance(described, dict) and isinstance(described.get(name), kind))
    ]
    if missing or "name" not in described["metric"] or "fit" not in described["command"] or not described["parameters"]:
        raise CryodenError(
            f"sweep {path}: needed are method, metric with its name, parameters, and a command with `fit`, such as "
            "experiments/sweeps/gan.yaml has"
        )
    goal = described["metric"].get("goal", _GOALS[0])
    if goal not in _GOALS:
        raise CryodenError(f"sweep {path}: metric goal: got {goal}; allowed are {' and '.join(_GOALS)}")
    return {name: described[name] for name in kinds}


def _is_file_of(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def _words(command: list[Any], setting: Settings) -> list[str]:
    """The arguments of `cryoden fit`."""
    words = [str(word) for word in command[command.index("fit") + 1 :] if word != "${args}"]
    kept, logger = [], False
    for word in plain_words([*words, *_flags(setting)]):
        if word.startswith("--"):  # other words are values of the flag before them
            logger = word.startswith("--trainer.logger")
        if not logger:
            kept.append(word)
    return kept


def _flags(setting: Settings) -> list[str]:
    """A flag for each value, which is read as a sweep's file is: JSON is YAML."""
    return [
        f"--{name}={value if isinstance(value, str) else json.dumps(value, default=str)}"
        for name, value in setting.items()
    ]


def _train(words: list[str], folder: Path, metric: str) -> float:
    """Train, and give the metric at the end; nan where it was not logged."""
    logger = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={folder}", "--trainer.logger.name="]
    fit(*words, *logger)
    newest = max(folder.glob("version_*"), key=lambda path: path.stat().st_mtime, default=folder)
    logged = read_history(newest).get(metric)
    return logged[-1][1] if logged else math.nan


def _scores(path: Path) -> dict[int, float]:
    """What earlier trainings of the sweep came to."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            _, *rows = csv.reader(file)
        return {int(row[0]): float(row[-1]) for row in rows}
    except (OSError, ValueError, IndexError) as error:
        raise CryodenError(f"{path}: is not as it was written ({error}); move it away to begin anew") from error


def _told(done: list[tuple[Settings, float]], metric: str, *, minimize: bool) -> Iterator[str]:
    """The settings, the best first."""
    sign = 1 if minimize else -1
    for setting, score in sorted(done, key=lambda each: sign * each[1] if math.isfinite(each[1]) else math.inf):
        yield f"{metric} {score:.4g}: {' '.join(_flags(setting))}"
