"""Sweeps without an account: the same settings again, the work gone on with, a table and a picture."""

import csv
import itertools
import json
import math
from pathlib import Path

import pytest
import yaml

import cryoden.commands.sweep
from cryoden.cli import main
from cryoden.errors import CryodenError
from cryoden.evaluation.search import parallel_figure, settings

SWEEPS = sorted((Path(__file__).parents[2] / "experiments" / "sweeps").glob("*.yaml"))
SWEEP = {
    "method": "random",
    "metric": {"name": "val/nrmse", "goal": "minimize"},
    "parameters": {
        "model.learning_rate": {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0e-2},
        "model.norm": {"values": ["batch", "group"]},
    },
    "command": [
        *("cryoden", "fit", "--model=SimpleAE", "--model.channels=1", "--data=ParticleDataModule"),
        *("--data.entries=[phantom:1]", "--data.copies=5", "--data.box=16", "--data.voxel_size=20"),
        *("--data.resolution=40", "--data.num_workers=0", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"),
        *("--trainer.logger=WandbLogger", "${args}"),
    ],
}


def written(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump(SWEEP | changes), encoding="utf-8")
    return path


def test_a_sweep_trains_tells_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", str(written(tmp_path / "sweep.yaml")), "--output", str(tmp_path / "out")]
    main([*words, "--runs", "1"])
    with (tmp_path / "out" / "sweep.csv").open(newline="") as file:
        header, first = csv.reader(file)
    assert header == ["trial", "model.learning_rate", "model.norm", "val/nrmse"]
    kept = yaml.safe_load(next((tmp_path / "out" / "runs" / "000").rglob("config.yaml")).read_text())["model"][
        "init_args"
    ]
    assert [str(kept["learning_rate"]), kept["norm"]] == first[1:3]
    assert 0 < float(first[3]) < 2
    capsys.readouterr()

    main([*words, "--runs", "2"])
    said = capsys.readouterr().out
    assert "trial 1:" in said
    assert "trial 0:" not in said  # it was done
    with (tmp_path / "out" / "sweep.csv").open(newline="") as file:
        _, again, second = csv.reader(file)
    assert again == first
    told = [line for line in said.splitlines() if line.startswith("val/nrmse")]
    assert [float(line.split()[1].rstrip(":")) for line in told] == pytest.approx(
        sorted([float(first[3]), float(second[3])]), rel=1e-3
    )
    assert (tmp_path / "out" / "sweep.png").stat().st_size > 5000


def test_a_trial_comes_to_its_last_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to the mean of those within its last epoch; a loss is that of the whole epoch."""
    log = "epoch,step,train/loss,val/nrmse\n0,0,0.9,\n0,1,,0.8\n1,2,0.4,\n1,2,,0.7\n1,3,0.2,\n1,3,,0.5\n"

    def fit(*words: str) -> None:
        (tmp_path / "metrics.csv").write_text(log)

    monkeypatch.setattr(cryoden.commands.sweep, "fit", fit)
    assert cryoden.commands.sweep._train([], tmp_path, "val/nrmse") == 0.5
    assert cryoden.commands.sweep._train([], tmp_path, "train/loss") == pytest.approx(0.3)


def test_what_failed_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(words: list[str], folder: Path, metric: str) -> float:
        if "--model.norm=batch" in words:
            raise CryodenError("it broke down")
        return 0.5

    monkeypatch.setattr(cryoden.commands.sweep, "_train", train)
    path = written(tmp_path / "sweep.yaml", method="grid", parameters={"model.norm": {"values": ["batch", "group"]}})
    said = list(cryoden.commands.sweep.sweep(str(path), output=str(tmp_path / "out")))
    assert "trial 0: it broke down" in said
    assert said.index("val/nrmse 0.5: --model.norm=group") < said.index("val/nrmse nan: --model.norm=batch")
    table = tmp_path / "out" / "sweep.csv"
    said = list(cryoden.commands.sweep.sweep(str(path), output=str(tmp_path / "out")))
    assert said[0] == f"trial 0: failed before; to try it again, take its line out of {table}"
    table.write_text("".join(line for line in table.read_text().splitlines(True) if not line.startswith("0,")))
    with monkeypatch.context() as mended:
        mended.setattr(cryoden.commands.sweep, "_train", lambda *_: 0.7)
        said = list(cryoden.commands.sweep.sweep(str(path), output=str(tmp_path / "out")))
    assert "failed" not in said[0]
    assert "val/nrmse 0.7: --model.norm=batch" in said
    path = written(tmp_path / "other.yaml", method="grid", parameters={"model.norm": {"value": "batch"}})
    with pytest.raises(CryodenError, match="none of 1 trainings came to a val/nrmse"):
        list(cryoden.commands.sweep.sweep(str(path), output=str(tmp_path / "broken")))
    with pytest.raises(CryodenError, match="not empty"):  # another sweep's
        list(cryoden.commands.sweep.sweep(str(path), output=str(tmp_path / "out")))


def test_the_logger_is_a_file_and_all_else_is_as_for_wandb() -> None:
    command, logger = SWEEP["command"][:-2], SWEEP["command"][-2]
    for words in ([logger], logger.split("="), [*logger.split("="), "--trainer.logger.project", "mine"]):
        kept = cryoden.commands.sweep._words([*command, *words, "${args}"], {"model.norm": "group"})
        assert kept == [*command[2:], "--model.norm=group"]


@pytest.mark.parametrize("value", [None, True, 3, 1.0e-5, "group", [0.5, None], {"mse": 1.0, "fsc": 0.1}, "[0.5, 0.9]"])
def test_values_are_those_of_the_file(value: object) -> None:
    (word,) = cryoden.commands.sweep._words(["fit"], {"model.x": value})
    read = yaml.safe_load(word.removeprefix("--model.x="))
    assert read == (yaml.safe_load(value) if isinstance(value, str) else value) or float(read) == value


def test_its_command_is_read_as_the_command_line_is() -> None:
    words = cryoden.commands.sweep._words(["cryoden", "fit", "--config", "gan", "--trainer.max-epochs=1"], {})
    assert Path(words[1]).name == "gan.yaml"
    assert words[2] == "--trainer.max_epochs=1"


def test_a_setting_depends_on_its_number_and_the_seed_alone() -> None:
    parameters = {
        "rate": {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0e-1},
        "steps": {"min": 1, "max": 3},
        "weight": {"min": 0.0, "max": 2.0},
        "kind": {"values": ["a", "b"]},
        "fixed": {"value": 7},
    }
    drawn = list(itertools.islice(settings("random", parameters, 0), 400))
    assert drawn[:5] == list(itertools.islice(settings("random", parameters, 0), 5))
    assert drawn[:5] != list(itertools.islice(settings("random", parameters, 1), 5))
    logs = [math.log10(each["rate"]) for each in drawn]
    assert -4 <= min(logs) < -3.9
    assert -1.1 < max(logs) <= -1
    assert sum(logs) / len(logs) == pytest.approx(-2.5, abs=0.15)  # as often in each decade
    assert {each["steps"] for each in drawn} == {1, 2, 3}
    assert sum(each["weight"] for each in drawn) / len(drawn) == pytest.approx(1, abs=0.1)
    assert {each["kind"] for each in drawn} == {"a", "b"}
    assert {each["fixed"] for each in drawn} == {7}


def test_a_grid_has_every_combination_once() -> None:
    parameters = {"a": {"values": [1, 2]}, "b": {"values": ["x", "y", "z"]}, "c": {"value": 0}}
    drawn = list(settings("grid", parameters, 0))
    assert len(drawn) == 6
    assert len({json.dumps(each) for each in drawn}) == 6


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_each_sweep_that_comes_along_is_known(path: Path) -> None:
    described = cryoden.commands.sweep._read(path)
    drawn = next(settings(described["method"], described["parameters"], 0))
    assert set(drawn) == set(described["parameters"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "bayes"}, "allowed here are random and grid"),
        ({"command": ["python", "train.py"]}, "a command with `fit`"),
        ({"metric": {"goal": "minimize"}}, "metric with its name"),
        ({"metric": {"name": "val/ssim", "goal": "max"}}, "goal: got max; allowed are minimize and maximize"),
        ({"parameters": {"model.channels": {"distribution": "beta", "min": 0.1, "max": 0.5}}}, "model.channels: got"),
        ({"parameters": {"model.channels": {"distribution": "log_uniform_values", "min": 0, "max": 1}}}, "allowed are"),
        ({"method": "grid", "parameters": {"model.channels": {"min": 1, "max": 5}}}, "allowed are value, values$"),
    ],
)
def test_what_only_wandb_can_do_is_refused_in_one_line(changes: dict, told: str, tmp_path: Path) -> None:
    path = written(tmp_path / "sweep.yaml", **changes)
    with pytest.raises(CryodenError, match=told):
        list(cryoden.commands.sweep.sweep(str(path), output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_the_picture_has_a_line_for_each_setting_and_the_best_is_thick() -> None:
    tried = [{"rate": 10.0**-power, "kind": kind} for power, kind in zip(range(1, 8), "abababa", strict=True)]
    scores = [0.7, 0.6, 0.2, 0.4, 0.5, 0.9, math.nan]
    figure = parallel_figure(tried, scores, "val/nrmse", minimize=True)
    lines = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 3]
    assert len(lines) == 6
    (best,) = [line for line in lines if line.get_linewidth() == 3]
    assert best.get_ydata()[-1] == 0.0
    assert best.get_ydata()[0] == pytest.approx(0.6)  # 1e-3 between 1e-6 and 1e-1
    (worst,) = [line for line in lines if line.get_ydata()[-1] == 1.0]
    assert best.get_color() != worst.get_color()


@pytest.mark.parametrize("values", [([0.5, 0.9], [0.0, 0.9]), ({"mse": 1.0}, {"mse": 1.0, "fsc": 0.1}), (None, 1.0)])
def test_the_picture_has_any_values(values: tuple) -> None:
    figure = parallel_figure(
        [{"x": each} for each in (*values, values[0])], [0.3, 0.2, 0.1], "val/nrmse", minimize=True
    )
    lines = [line for line in figure.axes[0].get_lines() if list(line.get_xdata()) == [0, 1]]
    assert len(lines) == 3
    assert len({float(line.get_ydata()[0]) for line in lines}) == 2
    assert str(values[0]) in {text.get_text() for text in figure.axes[0].texts}
