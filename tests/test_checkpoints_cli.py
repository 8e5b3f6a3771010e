"""Checkpoints that cannot be written or read, through the real command line: one line, and the old one stays."""

import shutil
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch

from cryoden.cli import main
from cryoden.models import find_checkpoint
from cryoden.runs import read_history
from tests.apart import cryoden

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
TINY = [
    "--data.entries=[phantom:1]",
    "--data.copies=5",
    "--data.box=16",
    "--data.voxel_size=20",
    "--data.resolution=40",
    "--data.batch_size=2",
    "--data.num_workers=0",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
]
GAN = ["--config", str(EXPERIMENTS / "gan.yaml"), "--model.channels=3", "--model.box=16", *TINY]


def refused(run: CompletedProcess[str], *parts: str) -> None:
    assert run.returncode == 2, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    line = run.stderr.strip().splitlines()[-1]
    assert line.startswith("cryoden: error: ")
    for part in parts:
        assert part in line


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run's checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    run = cryoden(folder, "fit", *GAN)
    assert run.returncode == 0, run.stderr
    return folder / "runs" / "gan" / "version_0" / "checkpoints"


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        ("missing", ("no such file", "cryoden fit")),
        ("cut short", ("not a readable checkpoint, or cut short",)),
        ("garbage", ("not a readable checkpoint",)),
        ("foreign", ("but not of cryoden's",)),
        ("another network", ("of another network, UpsampleUnet(channels=3", "this run's is UpsampleUnet(channels=4")),
    ],
)
def test_a_checkpoint_that_does_not_serve_is_refused(
    damage: str, parts: tuple[str, ...], trained: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.ckpt"
    extra = []
    match damage:
        case "cut short":
            path.write_bytes((trained / "last.ckpt").read_bytes()[:-5000])
        case "garbage":
            path.write_bytes(b"\x00" * 1000)
        case "foreign":
            torch.save({"state_dict": {}}, path)
        case "another network":
            shutil.copy(trained / "last.ckpt", path)
            extra = ["--model.channels=4", "--trainer.max_epochs=2"]
    refused(cryoden(tmp_path, "fit", *GAN, *extra, "--ckpt_path", str(path)), *parts)


def test_a_checkpoint_of_another_system_is_refused(trained: Path, tmp_path: Path) -> None:
    wgan = ["--config", str(EXPERIMENTS / "wgan.yaml"), "--model.channels=3", "--model.critic_channels=2", *TINY]
    run = cryoden(tmp_path, "fit", *wgan, "--trainer.max_epochs=2", "--ckpt_path", str(trained / "last.ckpt"))
    refused(run, "of another system, UpsampleUnetGAN; this run's is UpsampleUnetWGAN", "config.yaml")


def test_a_full_disk_leaves_the_old_checkpoint(trained: Path, tmp_path: Path) -> None:
    old = tmp_path / "kept"
    shutil.copytree(trained, old)
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    words = ["--checkpoint.dirpath", str(old), "--ckpt_path", str(old / "last.ckpt"), "--trainer.max_epochs=2"]
    size = len(before["last.ckpt"])
    run = cryoden(tmp_path, "fit", *GAN, *words, limit=size // 2)
    refused(run, "checkpoint", "cannot be written", "earlier checkpoints are untouched")
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    # with room again, the run goes on from there
    run = cryoden(tmp_path, "fit", *GAN, *words)
    assert run.returncode == 0, run.stderr
    assert "epoch 2" in run.stdout


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(cryoden(tmp_path, "fit", *GAN, "--checkpoint.dirpath", str(tmp_path / "file" / "x")), "file")


def test_a_training_that_explodes_stops_and_keeps_its_checkpoint(trained: Path, tmp_path: Path) -> None:
    old = tmp_path / "kept"
    shutil.copytree(trained, old)
    words = ["--checkpoint.dirpath", str(old), "--trainer.max_epochs=3", "--model.learning_rate=1.0e9"]
    refused(cryoden(tmp_path, "fit", *GAN, *words), "training broke down in epoch 0, batch 1 (phantom:1)", "nonfinite")
    assert (old / "last.ckpt").read_bytes() == (trained / "last.ckpt").read_bytes()


def test_the_configuration_of_a_run_serves_again(trained: Path, tmp_path: Path) -> None:
    config, last = trained.parent / "config.yaml", trained / "last.ckpt"
    run = cryoden(tmp_path, "validate", "--config", str(config), "--ckpt_path", str(last))
    assert run.returncode == 0, run.stderr
    assert "UpsampleUnetGAN, validation" in run.stdout


def test_the_last_checkpoint_is_the_last_and_not_the_best(tmp_path: Path) -> None:
    # so that the second epoch is no better than the first
    still = ["--model.channels=1", "--model.norm=group", "--model.learning_rate=1e-30", "--trainer.max_epochs=2"]
    run = cryoden(tmp_path, "fit", "--model=SimpleAE", "--data=ParticleDataModule", *TINY, *still)
    assert run.returncode == 0, run.stderr
    kept = tmp_path / "runs" / "version_0" / "checkpoints"
    epochs = {path.name: torch.load(path, weights_only=True)["epoch"] for path in kept.iterdir()}
    assert epochs == {"best.ckpt": 0, "last.ckpt": 1}


@pytest.mark.parametrize(("measure", "better"), [("nrmse", min), ("ssim_p5", max)])
def test_of_several_that_are_kept_the_best_is_taken(
    measure: str, better: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever is watched; a learning rate that is far too large makes later epochs worse or better, and none alike."""
    monkeypatch.chdir(tmp_path)
    words = [f"--checkpoint.monitor=val/{measure}", "--checkpoint.save_top_k=3", "--model.learning_rate=0.3"]
    model = ["--model=CompactUnetAE", "--model.channels=2", "--model.levels=1", "--model.cosine=false"]
    main(["fit", *model, "--data=ParticleDataModule", *TINY, "--trainer.max_epochs=4", *words])
    folder = Path("runs/version_0")
    best, _ = better(read_history(folder / "checkpoints" / "last.ckpt")[f"val/{measure}"], key=lambda pair: pair[1])
    assert f"in epoch {best:.0f} of 4" in capfd.readouterr().out
    assert len(list((folder / "checkpoints").glob("best*.ckpt"))) == 3
    assert torch.load(find_checkpoint(folder), weights_only=True)["epoch"] == best - 1


@pytest.mark.parametrize(
    ("word", "lines"),
    [
        (
            "--trainer.max_steps=1",
            [
                "done. Without a val/nrmse there is no best; the last, of step 1, {}/checkpoints/last.ckpt. Next:",
                "  cryoden denoise TOMOGRAM.mrc OUT.mrc --model {}/checkpoints/last.ckpt",
                "  cryoden compare {}/checkpoints/last.ckpt",
                "  cryoden fit --config {}/config.yaml --ckpt-path last --trainer.max_steps MORE",
            ],
        ),
        (
            "--trainer.limit_val_batches=0",
            [
                "done. Without a val/nrmse there is no best; the last, of step 2, {}/checkpoints/last.ckpt. Next:",
                "  cryoden denoise TOMOGRAM.mrc OUT.mrc --model {}/checkpoints/last.ckpt",
                "  cryoden compare {}/checkpoints/last.ckpt",
                "  cryoden fit --config {}/config.yaml --ckpt-path last --trainer.max_epochs MORE",
            ],
        ),
        ("--trainer.max_epochs=0", ["done, and nothing was trained: no batch was asked for, or no epoch"]),
    ],
)
def test_a_training_without_a_best_tells_what_was_kept(
    word: str, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = ["--model=CompactUnetAE", "--model.channels=2", "--model.levels=1"]
    main(["fit", *model, "--data=ParticleDataModule", *TINY, "--trainer.num_sanity_val_steps=0", word])
    expected = [line.format(*["runs/version_0"] * line.count("{}")) for line in lines]
    assert capfd.readouterr().out.splitlines()[-len(lines) :] == expected


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("--trainer.precision=64", "trainer.precision: got 64; networks learn in 32, 32-true, bf16-mixed, 16-mixed"),
        ("--trainer.precision=bf16-true", "trainer.precision: got bf16-true"),
        ("--trainer.overfit_batches=2", "trainer.overfit_batches: got 2; volumes are drawn by epoch"),
        ("--checkpoint.filename=last", "checkpoint.filename: got last, which the last epoch's is called"),
    ],
)
def test_what_would_fail_late_or_lose_the_best_is_refused(
    word: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["fit", *GAN, word])
    assert stop.value.code == 2
    assert f"cryoden: error: {told}" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_does_not_write_over_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--model=SimpleAE", "--model.channels=1", "--data=ParticleDataModule", *TINY]
    words += ["--model.norm=group", "--trainer.logger=false", "--trainer.num_sanity_val_steps=0"]
    main(words)
    files = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert {"config.yaml", "last.ckpt", "best.ckpt"} <= {path.name for path in files}
    main([*words, "--trainer.fast_dev_run=1"])
    with pytest.raises(SystemExit) as stop:
        main([*words, "--seed_everything=7"])
    assert stop.value.code == 2
    assert f"cryoden: error: {tmp_path}: holds a run already, whose files are kept; go on" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == files
    main([*words, "--trainer.max_epochs=2", "--ckpt-path=checkpoints/last.ckpt"])
    assert torch.load("checkpoints/last.ckpt", weights_only=True)["epoch"] == 1
