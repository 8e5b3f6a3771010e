"""Every argument of every verb, given what it should not be given: one line and exit code 2, or a sound result.

The arguments are asked of the verbs themselves, so that a new one is tried, too. `-m slow` tries all of them with all
values; else a sample of each verb is drawn, always the same.
"""

import inspect
import random
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import yaml
from lightning import Trainer

from cryoden.checkpoint import export_weights
from cryoden.cli import main, verbs
from cryoden.modules.recipes import SimpleAE
from cryoden.particles import load_particle
from cryoden.simulation.scene import SceneContents

# Nothing, 0, below 0, no number, endless, huge, tiny, broken, another kind, a list, a table, a folder, a long name.
ODD = (
    *("", " ", "0", "-1", "nan", "inf", "-inf", "1e9", "1e308", "1e-308", str(10**20), "0.5", "true", "null", "word"),
    *("[]", "{}", "[1, 2]", "[0, 0, 0]", "{a: 1}", "[", "x" * 300, ".", "..", "missing/", "~nobody", "%s", "é"),
)
DATA = {"entries": ["phantom:1"], "copies": 5, "box": 16, "voxel_size": 20.0, "resolution": 40.0, "num_workers": 0}
TRAINER = {"max_epochs": 1, "accelerator": "cpu", "limit_train_batches": 1, "limit_val_batches": 1}
FIT = [
    *("--model=SimpleAE", "--model.channels=1", "--data=ParticleDataModule", "--trainer.limit_test_batches=1"),
    *(f"--data.{name}={value}" for name, value in DATA.items()),
    *(f"--trainer.{name}={value}" for name, value in TRAINER.items()),
]
# How each verb is called when all is well, and how many tries it gets where not all are wanted.
SOUND: dict[str, tuple[list[str], int]] = {
    "calibrate": (["sound.mrc", "other.mrc", "--output=out.png"], 20),
    "compare": (["model.safetensors", "--output=out", "--data=data.yaml", "--volumes=1"], 4),
    "demo": (["--output=out"], 6),
    "denoise": (["sound.mrc", "--output=out", "--model=model.safetensors", "--tile=16"], 25),
    "export": (["out.safetensors", "--model=model.safetensors"], 20),
    "fetch": (["1abc", "--structure_dir=structures"], 20),
    "fit": (FIT, 20),
    "models": (["card"], 10),
    "simulate": (["--entries=[phantom:1]", "--box=16", "--voxel_size=20", "--resolution=40", "--output=out"], 25),
    "sweep": (["sweep.yaml", "--runs=1", "--output=out"], 8),
    "test": ([*FIT, "--ckpt_path=sound.ckpt"], 6),
    "tune": (["halves", "--halves", "--output=out.safetensors", "--model=model.safetensors"], 15),
    "validate": ([*FIT, "--ckpt_path=sound.ckpt"], 6),
}
CONFIGURED = {
    "fit": [[]],
    "test": [[]],
    "validate": [[]],
    "simulate": [
        ["--shape=[16,16,16]", "--contents.count=1", "--box=null"],
        ["--degradation=[{class_path: TiltSeriesDegradation, init_args: {voxel_size: 20}}]"],
        ["--degradation=[{class_path: GaussianNoise}, {class_path: MissingWedge}, {class_path: SaltAndPepper}]"],
    ],
}


class Working(BaseException):
    """It is at work still: whatever it was given, it took."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CRYODEN_STRUCTURE_DIR", raising=False)
    monkeypatch.setattr("cryoden.commands.simulate.save_figure", lambda *_, **__: None)
    monkeypatch.setattr("cryoden.commands.demo._TRAINING", ["phantom:1"])
    monkeypatch.setattr("cryoden.commands.demo._CROWD", ["phantom:1"])
    monkeypatch.setattr("cryoden.commands.demo._SHAPE", (16, 32, 32))
    monkeypatch.setattr("cryoden.commands.demo._CONTENTS", SceneContents(count=1))
    fill(tmp_path)
    return tmp_path


@cache
def checkpoint() -> bytes:
    """Of a run with those arguments."""
    with tempfile.TemporaryDirectory() as folder:
        main(["fit", *FIT, "--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={folder}"])
        return next(Path(folder).rglob("last.ckpt")).read_bytes()


def fill(folder: Path) -> None:
    """What the verbs find: two tomograms, a model, a checkpoint, data to test them on, a folder of structures."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "structures").mkdir()
    (folder / "structures" / "1abc.cif").touch()
    (folder / "data.yaml").write_text(yaml.safe_dump({"data": {"class_path": "ParticleDataModule", "init_args": DATA}}))
    sweep = {"method": "grid", "metric": {"name": "val/nrmse"}, "parameters": {"model.norm": {"value": "group"}}}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep | {"command": ["cryoden", "fit", *FIT]}))
    (folder / "halves").mkdir()
    export_weights(SimpleAE(channels=1), folder / "model.safetensors")
    (folder / "sound.ckpt").write_bytes(checkpoint())
    small, large = (20, 24, 24), (48, 96, 48)
    shapes = {"sound.mrc": small, "other.mrc": small, "halves/a_half1.mrc": large, "halves/a_half2.mrc": large}
    for seed, (name, shape) in enumerate(shapes.items()):
        with mrcfile.new(folder / name) as file:  # skewed, as bright protein is
            file.set_data(np.random.default_rng(seed).gamma(1, size=shape).astype(np.float32))
            file.voxel_size = 10.0


def stands(folder: Path) -> dict[str, tuple[int, int]]:
    found = {path: path.stat() for path in folder.rglob("*")}
    return {str(path): (status.st_size, status.st_mtime_ns * path.is_file()) for path, status in found.items()}


def tries(verb: str) -> Iterator[tuple[str, list[str] | dict[str, Any]]]:
    """All there is to try of a verb: what it is called, and the words or the configuration."""
    sound = SOUND[verb][0]
    for added in CONFIGURED.get(verb, []):
        config = yaml.safe_load(printed([verb, *sound, *added, "--print_config"]))
        for path, value in product(leaves(config), ODD):
            yield f"{'.'.join(map(str, path))}: {value}", changed(config, path, yaml_value(value))
    function = getattr(import_module(f"cryoden.commands.{verb}"), verb)
    words = [word for word in sound if not word.startswith("--")]
    for place, each in enumerate(inspect.signature(function).parameters.values()):
        names = list(inspect.signature(load_particle).parameters)[1:] if each.kind is each.VAR_KEYWORD else [each.name]
        if each.kind is each.VAR_POSITIONAL or each.default is False:
            continue
        for name, value in product(names, ODD):
            given = sound.copy()
            if place < len(words):
                given[place] = value
            else:
                given.append(f"--{name}={value}")
            yield f"{name}={value}", given


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values in a configuration."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        for number, value in enumerate(node):
            yield from leaves(value, (*path, number))
    elif path[-1] != "class_path":
        yield path


def changed(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    items = node.items() if isinstance(node, dict) else enumerate(node)
    new = {key: changed(each, path[1:], value) if key == path[0] else each for key, each in items}
    return new if isinstance(node, dict) else list(new.values())


def yaml_value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def printed(words: list[str]) -> str:
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("sys.stdout.write", lines.append)
        with pytest.raises(SystemExit) as stop:
            main(words)
    assert not stop.value.code
    return "".join(lines)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Working

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def wrong(verb: str, given: list[str] | dict[str, Any], folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """What is wrong with how a verb took it; nothing where it refused, or did it, as it should."""
    if isinstance(given, dict):
        (folder / "config.yaml").write_text(yaml.safe_dump(given))
        given = ["--config=config.yaml"]
    before = stands(folder)
    code: Any = 0
    capfd.readouterr()
    try:
        with at_most(20):
            main([verb, *given])
    except SystemExit as stop:
        code = stop.code
    except Working:
        fill(folder)
        return ""
    except Exception as error:
        fill(folder)
        return f"{type(error).__name__}: {error}"
    told = capfd.readouterr().err
    left = {path for path, what in stands(folder).items() if before.get(path) != what}
    lost = before.keys() - stands(folder).keys()
    found = ""
    if lost:
        found = f"took away {lost}"
    elif code == 2 and not re.fullmatch(r"cryoden: error: [^\n]{10,700}\n", told):
        found = f"told {told!r}"
    elif code == 2 and left:
        found = f"left {left}"
    elif code not in (0, 2):
        found = f"ended with {code}: {told}"
    elif code == 0:
        found = "; ".join(f"{path} is not finite" for path in left if path.endswith(".mrc") and not is_finite(path))
    if left or lost:
        fill(folder)
    return found


def is_finite(path: str) -> bool:
    with mrcfile.open(path) as file:
        return bool(np.isfinite(file.data).all() and np.isfinite(float(file.voxel_size.x)))


def check(verb: str, wanted: int | None, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    there = list(tries(verb))
    drawn = there if wanted is None else random.Random(verb).sample(there, min(wanted, len(there)))
    bad = {name: found for name, given in drawn if (found := wrong(verb, given, folder, capfd))}
    assert not bad, f"{len(bad)} of {len(drawn)}: {bad}"


def test_all_verbs_are_tried() -> None:
    assert set(SOUND) == set(verbs())


@pytest.mark.parametrize("verb", SOUND)
def test_an_argument_is_taken_or_refused_in_one_line(verb: str, folder: Path, capfd, monkeypatch) -> None:
    if verb == "demo":
        monkeypatch.setattr(Trainer, "fit", working)
    if verb == "tune":  # when all was looked at
        monkeypatch.setattr("cryoden.data.halves.SceneDataModule", working)
    check(verb, SOUND[verb][1], folder, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("verb", SOUND)
def test_so_is_every_argument_with_every_value(verb: str, folder: Path, capfd, monkeypatch) -> None:
    if verb == "demo":
        monkeypatch.setattr(Trainer, "fit", working)
    if verb == "tune":
        monkeypatch.setattr("cryoden.data.halves.SceneDataModule", working)
    check(verb, None, folder, capfd)


def working(*_: object, **__: object) -> None:
    raise Working
