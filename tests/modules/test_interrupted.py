"""A training that is killed, and resumed, ends where it would have ended; one that is told to stop says so."""

import contextlib
import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from cryoden import CompactUnetAE, ParticleDataModule
from cryoden.runs import keep_history

EXPERIMENTS = Path(__file__).parent.parent.parent / "experiments"
DATA = [
    "--data.entries=[phantom:1,phantom:2]",
    "--data.copies=10",
    "--data.box=16",
    "--data.voxel_size=20",
    "--data.resolution=40",
    "--data.batch_size=2",
    "--data.num_workers=1",
    "--trainer.max_epochs=4",
    "--trainer.accelerator=cpu",
    "--trainer.num_sanity_val_steps=0",
]
SYSTEMS = {
    "gan": ["--model.channels=3", "--model.box=16", "--model.instance_noise=1.0"],
    "wgangp": ["--model.channels=3", "--model.critic_channels=2", "--model.discriminator_steps=2"],
}


def fit(system: str, folder: Path, *words: str) -> subprocess.Popen[str]:
    config = str(EXPERIMENTS / f"{system}.yaml")
    command = [sys.executable, "-m", "cryoden", "fit", "--config", config, *SYSTEMS[system], *DATA, *words]
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process: subprocess.Popen[str]) -> None:
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed


def last(folder: Path, system: str, version: int) -> Path:
    return folder / "runs" / system / f"version_{version}" / "checkpoints" / "last.ckpt"


def assert_equal(a: object, b: object, where: str) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


@pytest.mark.parametrize("system", ["gan", pytest.param("wgangp", marks=pytest.mark.slow)])
def test_kill_and_resume_end_at_the_same_weights(system: str, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finished(fit(system, whole))

    victim = fit(system, broken)
    half = last(broken, system, 0)
    deadline = time.monotonic() + 200
    while not half.exists():
        assert victim.poll() is None, victim.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)  # somewhere in the next epoch
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert torch.load(half, weights_only=True)["epoch"] < 3

    finished(fit(system, broken, "--ckpt_path", str(half)))
    expected, found = (
        torch.load(path, weights_only=True) for path in (last(whole, system, 0), last(broken, system, 0))
    )
    assert expected["global_step"] == found["global_step"] > 0
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_equal(expected[part], found[part], part)


class Killed(Callback):
    """Ends a training as a signal that nobody can catch, with all of its log written."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.place = epoch, batch

    def on_train_batch_end(self, trainer: Trainer, pl_module, outputs, batch, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.place:
            trainer.logger.save()
            raise KeyError


@pytest.mark.parametrize(
    ("place", "arguments"), [((1, 2), {}), ((0, 3), {"val_check_interval": 2})], ids=["an epoch", "within an epoch"]
)
def test_each_step_is_once_in_the_history_of_a_run_that_was_killed(place, arguments, tmp_path: Path) -> None:
    data = ParticleDataModule(
        entries=["phantom:1"], copies=10, box=16, voxel_size=20, resolution=40, batch_size=2, num_workers=0
    )

    def trainer(*callbacks: Callback) -> Trainer:
        return Trainer(
            accelerator="cpu",
            max_epochs=2,
            logger=CSVLogger(tmp_path, name="", version=0),
            callbacks=[ModelCheckpoint(tmp_path, filename="last", enable_version_counter=False), *callbacks],
            log_every_n_steps=1,
            limit_val_batches=1,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            **arguments,
        )

    with pytest.raises(KeyError):
        trainer(Killed(*place)).fit(CompactUnetAE(channels=2, levels=1), data)
    again = trainer()
    keep_history(again, torch.load(tmp_path / "last.ckpt", weights_only=True))
    again.fit(CompactUnetAE(channels=2, levels=1), data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    with (tmp_path / "version_0" / "metrics.csv").open(newline="") as file:
        rows = [(int(row["step"]), bool(row["train/loss"])) for row in csv.DictReader(file)]
    assert [step for step, learnt in rows if learnt] == list(range(8))  # of 10 volumes two validate
    assert len({row for row in rows if not row[1]}) == len([row for row in rows if not row[1]]) == len(rows) - 8


def test_an_epoch_of_some_of_its_batches_is_gone_on_from_at_its_end(tmp_path: Path) -> None:
    """The last batch that is taken ends the epoch, whatever others there are: the next begins with its own first."""
    data = ParticleDataModule(
        entries=["phantom:1"], copies=10, box=16, voxel_size=20, resolution=40, batch_size=2, num_workers=0
    )

    def trained(*callbacks: Callback, checkpoint: Path | None = None) -> dict[str, torch.Tensor]:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=3,
            logger=False,
            enable_checkpointing=bool(callbacks),
            callbacks=list(callbacks),
            limit_train_batches=3,  # of 4
            limit_val_batches=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        torch.manual_seed(0)
        module = CompactUnetAE(channels=2, levels=1)
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        assert trainer.global_step == 9
        return module.state_dict()

    kept = ModelCheckpoint(tmp_path, "s{step}", auto_insert_metric_name=False, every_n_train_steps=2, save_top_k=-1)
    whole = trained(kept)
    for step in (2, 6):  # within an epoch, and at the end of one
        assert_equal(whole, trained(checkpoint=tmp_path / f"s{step}.ckpt"), f"s{step}")


def alive(group: int) -> list[str]:
    """The processes of a group, but for those that have ended and that nobody has asked about."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            found += [path.read_text()] if its_group == str(group) and state != "Z" else []
    return found


@pytest.mark.parametrize(
    ("number", "processes", "code"),
    [(signal.SIGINT, 1, 130), (signal.SIGTERM, 2, 143)],
    ids=["Ctrl-C", "SIGTERM of two"],
)
def test_a_training_that_is_told_to_stop_says_how_to_go_on_and_leaves_nobody_behind(
    number: signal.Signals, processes: int, code: int, tmp_path: Path
) -> None:
    words = ["--trainer.max_epochs=400", f"--trainer.devices={processes}", "--model.channels=2", "--data.num_workers=0"]
    command = [sys.executable, "-m", "cryoden", "fit", "--config", str(EXPERIMENTS / "simple_ae.yaml"), *DATA, *words]
    with (tmp_path / "told").open("w") as told:
        victim = subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=told,
            stderr=told,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    kept = last(tmp_path, "simple_ae", 0)
    try:
        deadline = time.monotonic() + 200
        while not kept.exists():
            assert victim.poll() is None, (tmp_path / "told").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        victim.send_signal(number)
        assert victim.wait(60) == code, (tmp_path / "told").read_text()
        line = (tmp_path / "told").read_text().splitlines()[-1]
        assert re.fullmatch(
            rf"cryoden: stopped by {number.name} in epoch \d+ of 400; go on where the last checkpoint was kept with "
            rf"--ckpt-path \S+last\.ckpt",
            line,
        )
        time.sleep(1)
        assert alive(victim.pid) == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(victim.pid, signal.SIGKILL)
