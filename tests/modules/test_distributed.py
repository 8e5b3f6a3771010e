"""Every way of training with two real processes: equal weights on both, and the metrics of one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning import Trainer

import cryoden
from cryoden import CryodenError, ParticleDataModule, UpsampleUnetGAN

SYSTEMS = {
    "UpsampleUnetAE": {"channels": 3},
    "UpsampleUnetGAN": {"channels": 3, "box": 16},
    "UpsampleUnetWGAN": {"channels": 3, "critic_channels": 2, "discriminator_steps": 2},
    "UpsampleUnetWGANGP": {"channels": 3, "critic_channels": 2, "discriminator_steps": 2},
    "UpsampleUnetDRAGAN": {"channels": 3, "critic_channels": 2, "box": 16, "feature_matching": 0.1},
}
DATA = {
    "entries": ["phantom:1", "phantom:2"],
    "copies": 10,
    "box": 16,
    "voxel_size": 20.0,
    "resolution": 40.0,
    "batch_size": 2,
    "num_workers": 0,
}

SCRIPT = """
import json, sys, torch, cryoden
from lightning import Trainer, seed_everything

systems, data, folder = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
for name, arguments in systems.items():
    seed_everything(0, verbose=False)
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp_find_unused_parameters_true", max_epochs=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder,
    )
    model, datamodule = getattr(cryoden, name)(**arguments), cryoden.ParticleDataModule(**data)
    trainer.fit(model, datamodule)
    torch.save(model.state_dict(), f"{folder}/{name}-{trainer.global_rank}.pt")
    trainer.save_checkpoint(f"{folder}/{name}.ckpt")
    trainer.validate(model, datamodule, verbose=False)
    if trainer.is_global_zero:
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        open(f"{folder}/{name}.json", "w").write(json.dumps(metrics))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    script = folder / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), json.dumps(SYSTEMS), json.dumps(DATA), str(folder)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


@pytest.mark.parametrize("system", SYSTEMS)
def test_both_processes_end_with_the_same_weights(system: str, trained: Path) -> None:
    torch.manual_seed(0)
    first, second = (torch.load(trained / f"{system}-{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert any(name.startswith("denoiser.generator.") for name in first)


@pytest.mark.parametrize("system", SYSTEMS)
def test_two_processes_measure_what_one_measures(system: str, trained: Path) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=trained)
    again = {"ckpt_path": trained / f"{system}.ckpt", "weights_only": True, "verbose": False}
    trainer.validate(getattr(cryoden, system)(**SYSTEMS[system]), ParticleDataModule(**DATA), **again)
    alone = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
    together = json.loads((trained / f"{system}.json").read_text())
    assert {"val/nrmse", "val/ssim", "val/psnr_p95", "val/wedge_power"} <= set(alone)
    for name, value in alone.items():
        assert together[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_the_strategy_that_two_players_need_is_named(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.replace("ddp_find_unused_parameters_true", "ddp"))
    command = [sys.executable, str(script), json.dumps({"UpsampleUnetGAN": SYSTEMS["UpsampleUnetGAN"]})]
    run = subprocess.run(
        [*command, json.dumps(DATA), str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert run.returncode != 0
    assert "--trainer.strategy=ddp_find_unused_parameters_true" in run.stderr


def test_one_process_needs_no_strategy_but_the_right_box(tmp_path: Path) -> None:
    def fit(box: int) -> None:
        model = UpsampleUnetGAN(channels=3, box=box)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        Trainer(accelerator="cpu", fast_dev_run=True, default_root_dir=tmp_path, **quiet).fit(
            model, ParticleDataModule(**DATA)
        )

    fit(16)
    with pytest.raises(CryodenError, match="box: got 32 for the model and 16 for the data"):
        fit(32)
