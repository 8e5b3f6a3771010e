import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
import torch
import yaml

import cryoden
import cryoden.callbacks
from cryoden.cli import main

EXPERIMENTS = Path(__file__).parent.parent / "experiments"

# Every experiment as it is, but for its particles and its size.
TINY = [
    "--data.entries=[phantom:1,phantom:2]",
    "--data.copies=3",
    "--data.val_fraction=0.4",
    "--data.box=32",
    "--data.voxel_size=10",
    "--data.resolution=20",
    "--data.batch_size=2",
    "--data.num_workers=0",
    "--model.warmup_steps=1",
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
]


SIMPLE = ["--model=SimpleAE", "--data=ParticleDataModule"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["cryoden", *words])
        main()

    return call


def tiny(config: Path) -> list[str]:
    system = yaml.safe_load(config.read_text())
    extra = {
        "UpsampleUnetGAN": ["--model.box=32"],
        "UpsampleUnetDRAGAN": ["--model.box=32", "--model.critic_channels=2"],
        "UpsampleUnetWGAN": ["--model.critic_channels=2"],
        "UpsampleUnetWGANGP": ["--model.critic_channels=2"],
    }.get(system["model"]["class_path"], [])
    if "holdout" in system["data"].get("init_args", {}):
        extra.append("--data.holdout=[phantom:3]")
    return [
        "--config",
        str(config),
        "--model.channels=2" if "simple" in config.name else "--model.channels=4",
        *TINY,
        *extra,
    ]


# The experiment on tomograms of one's own has no truth to report on; tests/commands/test_tune.py trains it.
SIMULATED = [path for path in sorted(EXPERIMENTS.glob("*.yaml")) if path.stem != "own_tomograms"]


@pytest.mark.parametrize("config", SIMULATED, ids=lambda path: path.stem)
def test_every_experiment_trains_and_reports(config: Path, run, tmp_path: Path, capfd) -> None:
    run("fit", *tiny(config))
    printed = capfd.readouterr().out
    for row in ("input", "zeros", "Gaussian", "epoch 1"):
        assert row in printed
    folder = tmp_path / "runs" / config.stem / "version_0"
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (folder / "slices" / "epoch-0001.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "config.yaml").is_file()
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = [float(row["val/nrmse"]) for row in rows if row["val/nrmse"]]
    assert len(logged) == 1
    assert np.isfinite(logged).all()
    # the checkpoint holds nothing but plain values, and stands for the run
    torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    model = cryoden.load_denoiser(folder)
    assert model(torch.randn(1, 1, 32, 32, 32)).shape == (1, 1, 32, 32, 32)


@pytest.mark.parametrize(
    ("words", "precision"), [([], "bf16-mixed"), (["--trainer.precision=32", "--keep_memory.enabled=false"], 32)]
)
def test_the_precision_is_chosen_unless_given(words, precision, run, tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.setattr(cryoden.callbacks, "choose_precision", lambda device: torch.bfloat16)
    run("fit", *tiny(EXPERIMENTS / "simple_ae.yaml"), "--trainer.limit_train_batches=1", *words)
    assert f"precision {precision}" in capfd.readouterr().out
    config = yaml.safe_load((tmp_path / "runs/simple_ae/version_0/config.yaml").read_text())
    assert config["trainer"]["precision"] == precision


def test_a_training_says_what_it_was_and_what_is_next_and_goes_on_from_there(run, tmp_path: Path, capfd) -> None:
    run("fit", *tiny(EXPERIMENTS / "gan.yaml"), "--trainer.max_epochs=2")
    printed = capfd.readouterr().out
    assert re.search(r"^UpsampleUnet of [\d,]+ parameters, SimpleDiscriminator of [\d,]+ parameters$", printed, re.M)
    for noise in ("FLOPs", "Metrics", "Modules in"):
        assert noise not in printed
    assert printed.count("│ zeros ") == 2  # of both tables, and with the first validation alone
    assert printed.count("│ UpsampleUnet ") == 4
    folder = tmp_path / "runs/gan/version_0"
    *_, done, denoise, compare, more = printed.splitlines()
    told = re.fullmatch(r"done[.] Best: val/nrmse (\S+) in epoch (1|2) of 2, (\S+)[.] Next:", done)
    assert told is not None
    with (folder / "metrics.csv").open() as file:
        scores = [float(row["val/nrmse"]) for row in csv.DictReader(file) if row["val/nrmse"]]
    assert float(told[1]) == pytest.approx(min(scores), rel=1e-3)
    assert scores[int(told[2]) - 1] == min(scores)
    assert Path(told[3]) == Path("runs/gan/version_0/checkpoints/best.ckpt")
    assert denoise == "  cryoden denoise TOMOGRAM.mrc OUT.mrc --model runs/gan/version_0"
    assert compare == "  cryoden compare runs/gan/version_0"
    go_on = more.split()[2:-1]
    with pytest.raises(SystemExit):
        run("fit", *go_on, "2")
    assert "last.ckpt: epoch 2 of 2 is done already, and there is nothing to do" in capfd.readouterr().err
    assert [path.name for path in folder.parent.iterdir()] == ["version_0"]
    log = (folder / "metrics.csv").read_text().splitlines()
    later = dict(zip(log[0].split(","), log[-1].split(","), strict=True)) | {"step": "999", "val/nrmse": "7"}
    (folder / "metrics.csv").write_text("\n".join([*log, ",".join(later.values()), ""]))  # after the last checkpoint
    run("fit", *go_on, "3")
    printed = capfd.readouterr().out
    assert "validation, epoch 3" in printed
    assert "validation, epoch 2" not in printed
    assert [path.name for path in folder.parent.iterdir()] == ["version_0"]
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows if row["val/nrmse"]] == ["0", "1", "2"]
    assert [float(row["val/nrmse"]) for row in rows if row["val/nrmse"]][:2] == scores
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["logger"]["init_args"].get("version") is None
    run("validate", "--config", str(folder / "config.yaml"), "--ckpt-path", "last")
    assert "validation, epoch 3" in capfd.readouterr().out


def test_a_trial_of_a_batch_leaves_nothing_behind(run, tmp_path: Path, capfd) -> None:
    run("fit", *tiny(EXPERIMENTS / "gan.yaml"), "--trainer.fast_dev_run=1")
    printed = capfd.readouterr().out
    assert "nothing is kept" in printed
    assert "validation, epoch 1" in printed
    assert list(tmp_path.iterdir()) == []


def test_train_test_resume_export_and_denoise(run, tmp_path: Path, capfd) -> None:
    arguments = tiny(EXPERIMENTS / "gan.yaml")
    run("fit", *arguments)
    last = tmp_path / "runs/gan/version_0/checkpoints/last.ckpt"
    run("test", *arguments, "--ckpt_path", str(last))
    assert "test: 2 volumes" in capfd.readouterr().out
    with (tmp_path / "runs/gan/version_1/test.csv").open() as file:
        tested = list(csv.DictReader(file))
    assert [row["method"] for row in tested[:2]] == ["input", "zeros"]
    assert float(tested[1]["nrmse"]) == 1
    assert tested[-1]["method"] == "UpsampleUnetGAN"
    results = json.loads((tmp_path / "runs/gan/version_1/results.json").read_text())
    assert results["data"] == {"split": "test", "volumes": 2, "voxel_size": 10.0}
    assert results["command"].startswith("cryoden test --config")
    assert list(results["percentiles"]) == [row["method"] for row in tested]
    assert results["percentiles"]["UpsampleUnetGAN"]["all"]["nrmse"]["p50"] == float(tested[-1]["nrmse"])
    run("validate", *arguments, "--ckpt_path", str(last))
    run("fit", *arguments, "--trainer.max_epochs=2", "--ckpt_path", str(last))
    assert "epoch 2" in capfd.readouterr().out
    run("export", "weights.safetensors", "--model", "runs/gan/version_0")
    run("simulate", "phantom:1", "--box=32", "--voxel_size=10", "--resolution=20", "--output=volumes")
    assert (tmp_path / "volumes/phantom-1_0_slices.png").is_file()
    for model in ("runs/gan/version_0", "weights.safetensors"):
        run("denoise", "volumes/phantom-1_0_degraded.mrc", "out.mrc", "--model", model, "--overwrite", "--tile=32")
        with mrcfile.open("out.mrc") as file:
            assert file.voxel_size.x == pytest.approx(10)
            assert file.data.shape == (32, 32, 32)
            result = file.data.copy()
        map_ = gemmi.read_ccp4_map("out.mrc")
        assert map_.grid.spacing == pytest.approx((10, 10, 10))
        assert np.isfinite(result).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["denois"], "no command 'denois'; did you mean 'denoise'"),
        (["denoise", "--model", "nowhere"], "inputs: none given"),
        (["denoise", "in.mrc", "out.mrc", "--model", "nowhere"], "cannot read in.mrc: No such file"),
        (["simulate", "phantom:x"], "phantom:x: a phantom is called phantom: and a whole number"),
        (["simulate", "phantom:10", "--box=32"], "phantom:10: its diameter of .* the smallest box that fits is 48"),
        (["simulate", "phantom:1", "--degradation+=GaussianNoise", "--degradation.snr=-1"], "snr: got -1"),
        (
            [
                "simulate",
                "phantom:1",
                "--degradation=[{class_path: TiltSeriesDegradation, init_args: {scheme: {steps: 2}}}]",
            ],
            "scheme has no argument 'steps'",
        ),
        (
            [
                "simulate",
                "phantom:1",
                "--degradation=[{class_path: TiltSeriesDegradation, init_args: {scheme: {step: 0}}}]",
            ],
            "TiltScheme.step: got 0.0; allowed is a number of degrees above 0",
        ),
        (["fit", "--model=SimpleAE", "--data=ParticleDataModule", "--data.copies=1"], "each must be at least 1"),
        (["fit", "--model=SimpleAE", "--data=ParticleDataModule", "--data.entries=[nope]"], "nope"),
        (
            [
                *("fit", "--model=UpsampleUnetGAN", "--model.channels=2"),
                *("--data=ParticleDataModule", "--data.entries=[phantom:1]", "--data.box=48"),
            ],
            "box: got 64 for the model and 48 for the data; give both the same: --model.box 48",
        ),
        (["fit", "--model=SimpleAE", "--model.chanels=3", "--data=ParticleDataModule"], "chanels"),
        (["fit", *SIMPLE, "--seed-everything=-1"], "seed_everything: got -1; allowed is a whole number from 0 to"),
        (["fit", *SIMPLE, "--seed-everything=1099511627776"], "seed_everything: got 1099511627776; allowed"),
        (["fit", *SIMPLE, f"--data.seed={2**70}"], "seed: got 1180591620717411303424; allowed"),
        (["fit", *SIMPLE, "--data.val_fraction=.nan"], "val_fraction: got nan; allowed is a number between 0 and 1"),
        (["fit", *SIMPLE, "--model.learning_rate=-1"], "learning_rate: got -1.0; allowed is a number above 0"),
        (["fit", *SIMPLE, "--model.channels=0"], "channels: got 0; allowed is a whole number from 1 to 4096"),
        (
            ["fit", "--model=UpsampleUnetWGAN", "--data=ParticleDataModule", "--model.betas=[2,3]"],
            r"betas: got \(2.0, 3.0\); allowed is two numbers from 0 to below 1",
        ),
        (["fit", "--model=NoSuchNet", "--data=ParticleDataModule"], "NoSuchNet"),
    ],
)
def test_bad_input_is_told_in_words_with_exit_code_2(words: list[str], message: str, run, capfd, tmp_path) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(*words)
    assert stopped.value.code == 2
    told = capfd.readouterr().err
    assert re.search(message, told), told
    assert "Traceback" not in told


def test_existing_files_are_kept(run, tmp_path: Path, capfd) -> None:
    small = ["phantom:1", "--box=16", "--voxel_size=20", "--output=."]
    run("simulate", *small)
    before = Path("phantom-1_0_clean.mrc").stat().st_mtime_ns
    with pytest.raises(SystemExit):
        run("simulate", *small)
    assert "phantom-1_0_clean.mrc exists; choose another name" in capfd.readouterr().err
    assert Path("phantom-1_0_clean.mrc").stat().st_mtime_ns == before


def test_help_is_quick_and_complete() -> None:
    result = subprocess.run([sys.executable, "-m", "cryoden", "--help"], capture_output=True, text=True, check=True)
    for command in ("demo", "fetch", "simulate", "fit", "validate", "test", "compare", "denoise", "export"):
        assert re.search(rf"^  {command} +[A-Z].*[.]$", result.stdout, re.M), command
    assert "parser" not in result.stdout
    loaded = "import sys; sys.argv = ['cryoden']; import cryoden.cli as c; c.main(); print('lightning' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("False\n")


@pytest.mark.parametrize(("given", "turns"), [({}, "1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")])
def test_threads_that_wait_leave_the_core_to_others_unless_told_otherwise(given: dict[str, str], turns: str) -> None:
    code = """
import os, sys
class Watch:
    def find_spec(self, name, *_):
        if name == "torch":
            os.write(1, str(os.environ.get("GOMP_SPINCOUNT")).encode())
            os._exit(0)  # libgomp reads it only now
sys.meta_path.insert(0, Watch())
from cryoden.cli import main
main(["fit", "--config", "quick"])
"""
    environment = {name: each for name, each in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    run = subprocess.run([sys.executable, "-c", code], env={**environment, **given}, capture_output=True, text=True)
    assert run.stdout == turns
