"""Runs and sweeps with Weights & Biases: the real client, offline, without an account."""

import json
import random
import sys
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps import utils as agent

from cryoden.cli import main
from tests.apart import cryoden

ROOT = Path(__file__).parent.parent
SWEEPS = sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))
TINY = [
    "--data.entries=[phantom:1,phantom:2]",
    "--data.holdout=[phantom:2]",  # whatever an overlay holds out
    "--data.copies=5",
    "--data.box=16",
    "--data.voxel_size=20",
    "--data.resolution=40",
    "--data.batch_size=2",
    "--data.num_workers=0",
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
    "--trainer.logger.offline=true",
]


def draw(parameter: dict, generator: random.Random) -> object:
    if "values" in parameter:
        return generator.choice(parameter["values"])
    assert parameter["distribution"] == "log_uniform_values"
    assert 0 < parameter["min"] < parameter["max"]
    return parameter["min"] * (parameter["max"] / parameter["min"]) ** generator.random()


def expand(sweep: dict, generator: random.Random) -> tuple[list[str], dict[str, object]]:
    """A sweep's command with one draw of its parameters, by the agent's own functions."""
    drawn = {name: draw(parameter, generator) for name, parameter in sweep["parameters"].items()}
    arguments = agent.create_sweep_command_args({"args": {name: {"value": value} for name, value in drawn.items()}})
    words: list[str] = []
    for word in agent.create_sweep_command(sweep["command"]):
        words += arguments[word[2:-1]] if word.startswith("${") else [word]
    return words, drawn


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_draw_of_a_sweep_runs(path: Path, tmp_path: Path) -> None:
    sweep = yaml.safe_load(path.read_text())
    words, drawn = expand(sweep, random.Random(0))
    assert words[0] == sweep["program"] == "cryoden"
    config = words[2].removeprefix("--config=")
    small = ["--model.channels=3", "--model.critic_channels=2" if path.stem == "wgangp" else "--model.box=16"]
    run = cryoden(tmp_path, words[1], f"--config={ROOT / config}", *words[3:], *TINY, *small)
    assert run.returncode == 0, run.stderr

    (offline,) = (tmp_path / "runs" / "wandb").glob("offline-run-*")
    assert sweep["metric"]["name"] == "val/nrmse"
    # what was logged: losses, the table, the slices, and the whole configuration
    log = next(offline.glob("run-*.wandb")).read_bytes()
    for name in (b"train/loss_reconstruction", b"val/nrmse", b"penalty_weight" if path.stem == "wgangp" else b"betas"):
        assert name in log
    assert list(offline.glob("files/media/images/val/slices_*.png"))
    (table,) = offline.glob("files/media/table/val/table_*.json")
    rows = json.loads(table.read_text())["data"]
    assert [row[0].split()[0] for row in rows][:3] == ["input", "zeros", "Gaussian"]
    (saved,) = (tmp_path / "runs").glob("*/*/config.yaml")
    kept = yaml.safe_load(saved.read_text())["model"]["init_args"]
    for name, value in drawn.items():
        if name not in ("model.channels", "model.betas"):
            assert kept[name.removeprefix("model.")] == pytest.approx(value)


def test_there_are_sweeps() -> None:
    assert {path.stem for path in SWEEPS} == {"gan", "gan_balance", "wgangp"}


@pytest.mark.parametrize(
    ("logger", "module", "how"),
    [("WandbLogger", "wandb", "pip install wandb"), ("TensorBoardLogger", "tensorboard", "pip install tensorboard")],
)
def test_a_logger_that_is_not_installed_is_told_in_one_line(
    logger: str, module: str, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not there
    monkeypatch.setattr("lightning.pytorch.loggers.tensorboard._TENSORBOARD_AVAILABLE", False, raising=False)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE", False)
    monkeypatch.chdir(tmp_path)
    words = ["fit", f"--config={ROOT / 'experiments' / 'gan.yaml'}", f"--trainer.logger={logger}"]
    monkeypatch.setattr(sys, "argv", ["cryoden", *words, *TINY[:-1], "--model.channels=3", "--model.box=16"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    told = capfd.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("cryoden: error:")
    assert how in told
