"""The systems of the thesis and our own on its experiments: what is missing of the grid, as far as the minutes reach.

    python experiments/thesis.py --plan --out DIR            what there is to do, and about how long it takes here
    python experiments/thesis.py --minutes 10 --out DIR      at full width and length: on a GPU
    python experiments/thesis.py 'control/*' --width 16 --epochs 4 --minutes 480 --out DIR      on a CPU

A row of the grid is a system, or a variant of one, trained by `cryoden fit` on the data of one experiment with one
seed. The words, with * for anything, choose rows; the most telling come first. Whatever ends the command, the minutes
or a signal, the same command goes on from the last epoch of each row. Processes share what is to do: on a CPU start
one for each core, with OMP_NUM_THREADS=1. Where 4b4t and 4d8q would be, rows have 3j9i and 1mnf, of similar size.

A row that is trained is tested, by its last weights, on the volumes of each experiment that its data prepare for: what
learnt from the control's is also shown 1bxn and salt and pepper, as in the thesis. What was found of all rows goes to
results/thesis_*.json, beside input, zeros and filters, and from there into the tables (`tables.py`). On a GPU the tests
that need one and the benchmarks that wait for one are run first; what they print is kept in DIR/checks.
"""

import argparse
import copy
import fnmatch
import inspect
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tables
import torch
import yaml
from lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

import cryoden
from cryoden.callbacks import best_precision
from cryoden.checkpoint import load_denoiser, read_checkpoint
from cryoden.commands.comparison import load_data
from cryoden.commands.fit import fit
from cryoden.console import quiet
from cryoden.data import VolumeDataModule
from cryoden.data.particles import THESIS_ENTRIES
from cryoden.errors import CryodenError
from cryoden.evaluation.baselines import FILTERS, Filter, best_setting
from cryoden.evaluation.evaluate import TRIVIAL, Method, evaluate, pairs, spaced
from cryoden.evaluation.results import plain_numbers, provenance, spread
from cryoden.files import claimed, write_text
from cryoden.hardware import choose_device, keep_freed_memory, machine
from cryoden.runs import read_history
from cryoden.signals import Stopped, stoppable

EXPERIMENTS = Path(__file__).resolve().parent
RESULTS = EXPERIMENTS / "results"
STAND_INS = {"4b4t": "3j9i", "4d8q": "1mnf"}
SEEDS = (1, 2, 3)

# What is trained on, the most telling first. What learnt from it is tested on the same; where it is not, `TESTS`.
DATA = (
    *("control", "scene_several_10A", "different_noise", "realistic", "small", "small_tilt_series"),
    # What several particles are taken apart into: is it their number, the scale, or SHREC's degradation?
    *("scene_one_6A", "scene_several_6A", "scene_one_10A", "scene_several_tilt_series"),
)
TESTS = {"control": ("control", "unseen_particle", "different_noise")}
FILES = {  # laid over one another; of the others the overlay of that name
    "control": ("gan.yaml",),  # any system's own file has these data
    "realistic": ("overlays/tilt_series.yaml",),
    "small_tilt_series": ("overlays/tilt_series.yaml", "overlays/small.yaml"),
}
THESIS = {"scene_several_10A": "multiple-particles"}  # what it calls an experiment, where not as here with a hyphen
SYSTEMS = (
    *("compact_unet_ae", "unet_ae", "gan", "upsample_unet_ae", "simple_ae", "wgangp"),
    *("original_unet_ae", "dragan", "wgan"),
)
# The same generator, data, optimiser and steps: what does the adversarial term do? Its weight beside the reconstruction
# is 1 / reconstruction_weight, so that the first has none. Then what else the thesis left open.
QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("gan", {"reconstruction_weight": weight}) for weight in (1.0e6, 100.0, 3.0, 1.0, 0.1)),
    ("gan", {"feature_matching": 10.0}),
    ("wgangp", {"critic_warmup_steps": 100}),
    ("upsample_unet_ae", {"residual": True}),
    ("upsample_unet_ae", {"loss": "ssim"}),
)
CHECKS = (
    "-m pytest -q -m gpu tests",
    "experiments/benchmarks/memory.py --device cuda",
    "experiments/benchmarks/networks.py --device cuda --compile",
    "experiments/benchmarks/loading.py --device cuda --num_workers 15",
    "experiments/benchmarks/tilt_series.py --device cuda",
)
CHECK_SECONDS = 180
TUNING_VOLUMES = 10  # that each filter is set on


@dataclass(frozen=True)
class Row:
    """A training: what, on what, how wide and how long.

    Args:
        data: of `DATA`.
        file: of the system, in experiments/, without .yaml.
        arguments: that differ from the file's.
        seed: of everything random.
        width: the most channels of a network's first level.
        epochs: None: as many as the file says.
    """

    data: str
    file: str
    arguments: Mapping[str, Any] = field(hash=False)
    seed: int
    width: int
    epochs: int | None

    @property
    def name(self) -> str:
        """Which names its folder, too."""
        what = "-".join([self.file, *self.variant.split()])
        return f"{self.data}/{what}/{self.length}-epochs-{self.channels}-channels/seed-{self.seed}"

    @property
    def variant(self) -> str:
        """The arguments in words; none where they are the file's."""
        return " ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.arguments.items()
        )

    @property
    def config(self) -> dict[str, Any]:
        """The system's file."""
        return _yaml(EXPERIMENTS / f"{self.file}.yaml")

    @property
    def system(self) -> str:
        """Its class."""
        return str(self.config["model"]["class_path"])

    @property
    def length(self) -> int:
        """Epochs."""
        return self.epochs or int(self.config["trainer"]["max_epochs"])

    @property
    def channels(self) -> int:
        """Of the network's first level."""
        return self.widths()["channels"]

    def widths(self) -> dict[str, int]:
        """Arguments of the system that are widths, at most `width`."""
        known = inspect.signature(getattr(cryoden, self.system)).parameters
        return {name: min(known[name].default, self.width) for name in ("channels", "critic_channels") if name in known}

    @property
    def tests(self) -> tuple[str, ...]:
        """The experiments on whose test volumes it is tested."""
        return TESTS.get(self.data, (self.data,))

    @property
    def label(self) -> str:
        """What tables call it: all rows of one label and the same data differ in nothing but the seed."""
        what = " ".join([self.system, self.variant]).strip()
        return f"{what}, {self.channels} channels, {self.length} epochs"


@cache
def _yaml(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return config


def grid(width: int, epochs: int | None, patterns: Iterable[str]) -> list[Row]:
    """All rows that one of the patterns fits, the most telling first."""
    systems: list[tuple[str, dict[str, Any]]] = [(file, {}) for file in SYSTEMS]
    rows = [
        Row(data, file, arguments, seed, width, epochs)
        for kinds in (systems, QUESTIONS)
        for seed in SEEDS
        for data in DATA
        for file, arguments in kinds
    ]
    rows.sort(key=lambda row: row.seed)
    return [row for row in rows if any(fnmatch.fnmatch(row.name, pattern) for pattern in patterns)]


class Work:
    """What was done and is to be done, in a folder.

    Args:
        folder: where runs, scores and checks go.
        volumes: that a row is tested on.
        small: try the way, with phantoms in small boxes.
    """

    def __init__(self, folder: Path, volumes: int, *, small: bool = False) -> None:
        self.folder, self.volumes, self.small = folder, volumes, small
        self.device, _ = choose_device()
        self._modules: dict[str, VolumeDataModule] = {}

    def data_file(self, name: str) -> Path:
        """The data of an experiment, with stand-ins, as `--config` and `load_data` take it."""
        parts = [
            copy.deepcopy(_yaml(EXPERIMENTS / file)["data"]) for file in FILES.get(name, (f"overlays/{name}.yaml",))
        ]
        arguments = {key: value for part in parts for key, value in part["init_args"].items()}
        described = {**parts[-1], "init_args": arguments}
        entries = arguments.get("entries", list(THESIS_ENTRIES))
        arguments["entries"] = [STAND_INS.get(entry, entry) for entry in entries]
        if self.device.type == "cpu":
            arguments["num_workers"] = 0  # a process for each core trains
        if name == "realistic":
            arguments["cache"] = str(self.folder / "cache")  # a tilt series takes long
        if self.small:
            arguments |= {"entries": ["phantom:1"], "box": 16, "voxel_size": 20.0, "resolution": 40.0, "batch_size": 2}
            arguments |= {"holdout": ["phantom:2"]} if arguments.get("holdout") else {}
            arguments |= {"scenes": 5} if "scenes" in arguments else {"copies": 5}
            for step in arguments.get("degradation", []):
                step["init_args"] |= {"voxel_size": 20.0} if "voxel_size" in step["init_args"] else {}
        path = self.folder / "data" / f"{name}.yaml"
        write_text(path, yaml.safe_dump({"data": described}), overwrite=True)
        return path

    def module(self, name: str) -> VolumeDataModule:
        """The data of an experiment, ready to use."""
        if name not in self._modules:
            self._modules[name], _ = load_data(self.data_file(name))
        return self._modules[name]

    def last(self, row: Row) -> Path | None:
        """The last checkpoint of a row."""
        found = (self.folder / "runs" / row.name).glob("version_*/checkpoints/last.ckpt")
        return max(found, key=lambda path: path.stat().st_mtime, default=None)

    def done(self, row: Row) -> int:
        """How many of a row's epochs are trained."""
        last = self.last(row)
        return 0 if last is None else int(read_checkpoint(last)["epoch"]) + 1

    def model(self, row: Row) -> dict[str, Any]:
        """The arguments of a row's system that its file does not give."""
        known = inspect.signature(getattr(cryoden, row.system)).parameters
        box = {"box": self.module(row.data).box} if "box" in known else {}
        return {**row.widths(), **box, **row.arguments}

    def train(self, row: Row) -> None:
        """Train a row to its end, from where it stopped."""
        folder = self.folder / "runs" / row.name
        words = [
            *("--config", str(EXPERIMENTS / f"{row.file}.yaml"), "--config", str(self.data_file(row.data))),
            *(f"--model.{name}={value}" for name, value in self.model(row).items()),
            *(f"--seed_everything={row.seed}", f"--data.seed={row.seed}", f"--trainer.max_epochs={row.length}"),
            *("--trainer.num_sanity_val_steps=0", "--trainer.enable_progress_bar=false"),
            *("--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={folder}", "--trainer.logger.name="),
        ]
        last = self.last(row)
        told = folder / "minutes.json"
        before = json.loads(told.read_text(encoding="utf-8")) if last and told.exists() else {"wall": 0.0, "cpu": 0.0}
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            fit(*words, *([f"--ckpt_path={last}"] if last else []))
        finally:
            spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            minutes = {name: before[name] + seconds / 60 for name, seconds in spent.items()}
            write_text(told, json.dumps(minutes), overwrite=True)

    def scores(self, test: str, name: str) -> Path:
        """Where the scores of a row or a method on an experiment's test volumes are kept."""
        return self.folder / "scores" / f"{test}-{self.volumes}" / f"{name.replace('/', ' ')}.json"

    def score(self, test: str, name: str, method: Callable[[], Method]) -> None:
        """Measure a method on an experiment's test volumes, if that was not done; it is made only then."""
        path = self.scores(test, name)
        if path.exists():
            return
        module = self.module(test)
        dataset = module.test_volumes()
        found = evaluate(
            {name: method()},
            dataset,
            spaced(len(dataset), self.volumes),
            voxel_size=module.voxel_size,
            batch_size=module.batch_size,
            num_workers=module.num_workers,
            device=self.device,
        )
        if found.failed:
            raise CryodenError(found.failed[name])
        values = {measure: each.tolist() for measure, each in found.values[name].items()}
        write_text(path, json.dumps(values), overwrite=True)  # a resolution of infinity is one, and counts

    def score_baselines(self, tests: Iterable[str]) -> None:
        """Measure what needs no training: input, zeros, and each filter at its best on validation volumes."""
        for name, test in product(TRIVIAL, tests):
            self.score(test, name, partial(TRIVIAL.__getitem__, name))
        for each, test in product(FILTERS, tests):
            self.score(test, each.name, partial(self._tuned, each, test))

    def _tuned(self, it: Filter, test: str) -> Method:
        module = self.module(test)
        dataset = module.validation_volumes()
        some = pairs(dataset, spaced(len(dataset), TUNING_VOLUMES), module.batch_size, module.num_workers)
        return it.at(best_setting(it, *some))

    def score_row(self, row: Row, test: str) -> None:
        """Measure a row's last weights."""
        last = self.last(row)
        assert last is not None
        self.score(test, row.name, lambda: load_denoiser(last).to(self.device))

    def read(self, test: str, name: str) -> dict[str, list[float]]:
        """The scores of a row or a method, every measure of every volume."""
        kept: dict[str, list[float]] = json.loads(self.scores(test, name).read_text(encoding="utf-8"))
        return kept

    def about(self, rows: list[Row]) -> dict[str, Any]:
        """What a reader must know of rows that differ in the seed alone."""
        checkpoints = [path for row in rows if (path := self.last(row))]
        minutes = [json.loads((self.folder / "runs" / r.name / "minutes.json").read_text("utf-8")) for r in rows]
        volumes = len(self.module(rows[0].data).training_volumes())
        histories = [{int(epoch): nrmse for epoch, nrmse in read_history(path)["val/nrmse"]} for path in checkpoints]
        curve = [
            [epoch * volumes, float(np.median([h[epoch] for h in histories if epoch in h]))]
            for epoch in sorted(set().union(*histories))
        ]
        return {
            "system": rows[0].system,
            "arguments": dict(self.model(rows[0])),
            "trained_on": rows[0].data,
            "parameters": sum(p.numel() for p in load_denoiser(checkpoints[0]).parameters()),
            "epochs": rows[0].length,
            "volumes_seen": rows[0].length * volumes,
            "seeds": [row.seed for row in rows],
            "minutes": [round(each["wall"], 2) for each in minutes],
            "cpu_minutes": [round(each["cpu"], 2) for each in minutes],
            "hardware": machine(),
            "curve": curve,
        }


def write_results(work: Work, rows: list[Row], results: Path, command: str) -> None:
    """Write results/thesis_EXPERIMENT.json of what was scored; what a file has of others stays."""
    for test in dict.fromkeys(test for row in rows for test in row.tests):
        scored = [row for row in rows if test in row.tests and work.scores(test, row.name).exists()]
        if not scored:
            continue
        path = results / f"thesis_{test}.json"
        nothing: dict[str, Any] = {"percentiles": {}, "rows": {}, "commands": []}
        old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else nothing
        baselines = [name for name in (*TRIVIAL, *(each.name for each in FILTERS)) if work.scores(test, name).exists()]
        found = {name: _spreads(work.read(test, name)) for name in baselines}
        module = work.module(test)
        about = {}
        for label, data in dict.fromkeys((row.label, row.data) for row in scored):
            same = [row for row in scored if (row.label, row.data) == (label, data)]
            values = [work.read(test, row.name) for row in same]
            name = label if data == test else f"{label}, trained on {data.replace('_', ' ')}"
            found[name] = _spreads({m: [v for each in values for v in each[m]] for m in values[0]})
            medians = [_spreads(each)["nrmse"]["p50"] for each in values]
            about[name] = work.about(same) | {"nrmse_of_each_seed": medians}
        described = _yaml(work.folder / "data" / f"{test}.yaml")["data"]
        made = provenance()
        kept = {
            "title": test.replace("_", " "),
            "commands": list(dict.fromkeys([*old["commands"], command])),
            **{name: made[name] for name in ("created", "versions", "hardware")},
            "experiment": THESIS.get(test, test.replace("_", "-")),
            "data": described
            | {"volumes": len(work.read(test, scored[0].name)["nrmse"]), "voxel_size": module.voxel_size},
            "percentiles": found | {name: each for name, each in old["percentiles"].items() if name not in found},
            "rows": old["rows"] | about,
        }
        write_text(path, json.dumps(plain_numbers(kept), indent=1, ensure_ascii=False) + "\n", overwrite=True)


def _spreads(values: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    return {name: spread(np.array(each, np.float64)) for name, each in values.items()}


class Clock(Callback):
    """Times steps."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start."""
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Stop; the device is waited for."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.began


def minutes_left(work: Work, rows: list[Row]) -> dict[Row, float]:
    """About how long the training of each row still takes here: by one step of each, the second."""

    @cache
    def seconds(system: str, arguments: tuple[tuple[str, Any], ...], box: int, size: int) -> float:
        volumes = torch.rand(size, 1, *[box] * 3)
        batch = {"clean": volumes, "degraded": volumes + torch.randn_like(volumes), "entry": []}
        clock = Clock()
        trainer = Trainer(
            max_epochs=1,
            precision=best_precision("auto"),
            logger=False,
            callbacks=[clock],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )
        trainer.fit(getattr(cryoden, system)(**dict(arguments)), DataLoader([batch] * 2, batch_size=None))  # type: ignore[arg-type]
        return clock.seconds / size

    left = {}
    for row in rows:
        module = work.module(row.data)
        volumes = (row.length - work.done(row)) * len(module.training_volumes())
        # on a CPU a volume takes as long beside others as alone
        size = 2 if work.device.type == "cpu" else module.batch_size
        step = (row.system, tuple(work.model(row).items()), module.box, size)
        left[row] = volumes and volumes * seconds(*step) / 60
    return left


@contextmanager
def at_most(minutes: float) -> Iterator[None]:
    """What is within it is told to stop, as by SIGTERM, when the minutes are over."""
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    with stoppable():
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def check(folder: Path) -> None:
    """Run what waits for a GPU, each once; what it prints is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for words in CHECKS:
        path = folder / f"{words.split()[0 if words.startswith('exp') else 1].rpartition('/')[2]}.txt"
        if not path.exists():
            command = [sys.executable, *shlex.split(words)]
            run = subprocess.run(  # what takes too long would leave nothing for the rows
                ["timeout", str(CHECK_SECONDS), *command], cwd=EXPERIMENTS.parent, capture_output=True, text=True
            )
            text = f"{shlex.join(command)}: exit code {run.returncode}\n\n{run.stdout}{run.stderr}"
            write_text(path, text, overwrite=True)
            print(f"{words}: exit code {run.returncode}, see {path}", flush=True)


def do(work: Work, rows: list[Row]) -> None:
    """Train and test rows, in order; those that another process is at are its own."""
    for row in rows:
        folder = work.folder / "runs" / row.name
        folder.mkdir(parents=True, exist_ok=True)
        with claimed(folder / "it", wait=False) as ours:
            if not ours:
                continue
            try:
                if work.done(row) < row.length:
                    print(f"{row.name}: {work.done(row)} of {row.length} epochs are done", flush=True)
                    work.train(row)
                for test in row.tests:
                    work.score_row(row, test)
                    print(
                        f"{row.name}: NRMSE {np.median(work.read(test, row.name)['nrmse']):.3f} on {test}", flush=True
                    )
                work.score_baselines(row.tests)
            except CryodenError as error:  # whatever happens in one row, the others go on
                print(f"{row.name}: {error}", flush=True)


def main() -> None:
    """Plan, or work, and make the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=["*"], help="of the names that --plan prints; all by default")
    parser.add_argument("--out", type=Path, required=True, help="the folder of runs and scores")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--plan", action="store_true", help="only tell what there is to do")
    parser.add_argument("--width", type=int, default=64, help="the most channels; by default each system's own")
    parser.add_argument("--epochs", type=int, help="by default what each system's file says")
    parser.add_argument("--volumes", type=int, default=200, help="that each row is tested on")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--small", action="store_true", help="only try the way, on phantoms")
    arguments = parser.parse_args()
    ends = time.monotonic() + 60 * arguments.minutes
    quiet()
    keep_freed_memory()
    rows = grid(arguments.width, arguments.epochs, arguments.rows)
    if not rows:
        raise SystemExit(f"rows: got {' '.join(arguments.rows)}, which fit none; see --plan")
    work = Work(arguments.out.resolve(), arguments.volumes, small=arguments.small)
    if arguments.plan:
        total = 0.0
        for row, minutes in minutes_left(work, rows).items():
            total += minutes
            print(f"{row.name}: {work.done(row)} of {row.length} epochs done, about {minutes:.1f} min to go")
        print(f"{len(rows)} rows, about {total:.0f} min of training on {work.device}")
        return
    if work.device.type == "cuda":
        check(work.folder / "checks")
    try:
        with at_most((ends - time.monotonic()) / 60):
            do(work, rows)
    except Stopped as stop:
        print(f"{stop}; the same command goes on", flush=True)
    words = ["DIR" if word == str(arguments.out) else word for word in sys.argv[1:]]  # whose folder is no matter
    write_results(work, rows, arguments.results, f"python experiments/thesis.py {shlex.join(words)}")
    if arguments.results == RESULTS:
        tables.write_pages()


if __name__ == "__main__":
    main()
