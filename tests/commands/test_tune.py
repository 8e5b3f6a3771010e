"""`cryoden tune` as a user meets it."""

import functools
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoden import HalvesDataModule, export_weights, load_denoiser
from cryoden.cli import main
from cryoden.commands import tuning
from cryoden.denoiser import Denoiser
from cryoden.inference.quality import read_quality
from cryoden.networks import CompactUnet
from cryoden.signals import Stopped
from cryoden.volume import Volume, write_volume
from tests.data.half_tomograms import write_halves


def tune(*words: str) -> int:
    try:
        main(["tune", "lab", "--halves", "--contrast", "dark", "--output", "mine.safetensors", *words])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def digest(path: str) -> str:
    return load_denoiser(path).digest()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with halves of two tomograms, and a network that was never trained; few and small boxes."""
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        write_halves(Path("lab"), f"TS_{number}", seed=number, noise=3.0, shape=(32, 100, 32))
    torch.manual_seed(0)
    network = Denoiser(CompactUnet(channels=4, levels=2), voxel_size=10.0, system="Mine")
    for parameter in network.generator.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    for parameter in list(network.generator.parameters())[-2:]:  # of the last layer: bright blobs come out bright
        parameter.data.neg_()
    export_weights(network, "start.safetensors")
    monkeypatch.setattr("cryoden.data.halves._SCENE", (24, 32, 32))
    small = {"box": 24, "boxes": 8, "batch_size": 2, "scenes": 3, "entries": ["phantom:1"], "num_workers": 0}
    monkeypatch.setattr(tuning, "HalvesDataModule", functools.partial(HalvesDataModule, **small))
    monkeypatch.setattr(tuning, "_WARMUP", 1)
    return tmp_path


def test_what_the_halves_find_better_is_kept(lab: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr(tuning, "_RATE", 2e-3)
    mask = np.ones((32, 100, 32), np.float32)
    mask[:8] = 0
    write_volume("lab/TS_2_mask.mrc", Volume(mask, 10.0))
    assert tune("--model", "start.safetensors", "--epochs", "3") == 0
    told = capfd.readouterr().out
    assert "on cpu" in told
    assert "TS_1.mrc: 32 × 100 × 32 voxels (x, y, z) of 10 Å, protein dark" in told
    assert "tilts unknown" in told
    assert told.count("75% of it in the mask") == 1
    assert told.count("NRMSE by the halves") == 4  # of the start, and of each epoch
    assert "nearer to what both halves show than start.safetensors" in told
    assert "cryoden denoise FILES --halves --output FOLDER --model mine.safetensors" in told
    assert digest("mine.safetensors") != digest("start.safetensors")
    rows = {(row["tomogram"], row["method"]): float(row["nrmse"]) for row in read_quality(Path("mine/quality.csv"))}
    assert len(rows) == 8  # input, filter, start and tuned, of two tomograms
    for name in ("TS_1.mrc", "TS_2.mrc"):
        assert rows[name, "tuned"] < rows[name, "start.safetensors"]
    report = Path("mine/report.html").read_text(encoding="utf-8")
    assert "tuned" in report
    assert "What was learnt: NRMSE after each epoch." in report


def test_the_start_is_kept_where_nothing_is_better(lab: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr(tuning, "_RATE", 0.0)
    assert tune("--model", "start.safetensors", "--epochs", "1") == 0
    assert (
        "kept start.safetensors: nothing that was learnt is nearer to what both halves show" in capfd.readouterr().out
    )
    assert digest("mine.safetensors") == digest("start.safetensors")


def test_what_unlearns_density_is_not_kept(lab: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr(tuning, "_RATE", 2e-3)
    monkeypatch.setattr(tuning, "_UNLEARNT", 0.0)
    assert tune("--model", "start.safetensors", "--epochs", "1") == 0
    told = capfd.readouterr().out
    assert "above 0 times the start's: not kept" in told
    assert "(none within its bounds, start.safetensors" in told
    assert digest("mine.safetensors") == digest("start.safetensors")


def test_random_weights_are_kept_and_what_comes_along_stands_beside(lab: Path, capfd) -> None:
    assert tune("--model", "start.safetensors", "--from-scratch", "--epochs", "1") == 0
    assert "random weights of the network of start.safetensors" in capfd.readouterr().out
    assert digest("mine.safetensors") != digest("start.safetensors")
    assert {row["method"] for row in read_quality(Path("mine/quality.csv"))} > {"start.safetensors", "tuned"}


def test_a_stopped_tuning_goes_on_to_the_same_weights(lab: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr(tuning, "_RATE", 2e-3)
    words = ("--model", "start.safetensors", "--epochs", "3")
    assert tune(*words) == 0
    whole = hashlib.sha256(Path("mine.safetensors").read_bytes()).hexdigest()
    Path("mine.safetensors").unlink()
    Path("mine/last.ckpt").unlink()

    step = tuning.Noise2Noise.training_step

    def stopped(system: tuning.Noise2Noise, batch: object, batch_idx: int) -> torch.Tensor:
        if system.current_epoch == 2 and batch_idx == 1:
            raise Stopped(15)
        return step(system, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(tuning.Noise2Noise, "training_step", stopped)
        assert tune(*words) == 143
    assert "the same command goes on from the last epoch that was finished" in capfd.readouterr().err
    assert not Path("mine.safetensors").exists()
    assert tune(*words) == 0
    told = capfd.readouterr().out
    assert "going on from mine/last.ckpt" in told
    assert told.count("  epoch ") == 1
    kept = torch.load("mine/last.ckpt", weights_only=True)["callbacks"]
    (history,) = [state["history"] for state in kept.values() if "history" in state]
    assert len(history) == 3  # which the report draws
    assert hashlib.sha256(Path("mine.safetensors").read_bytes()).hexdigest() == whole


def test_whoever_changes_how_trains_it_by_a_file(lab: Path, capfd) -> None:
    small = ["--data.box=24", "--data.boxes=4", "--data.batch_size=2", "--data.simulated_batch_size=0"]
    data = ["--data.inputs=[lab]", "--data.contrast=dark", *small]
    network = ["--model.generator.channels=4", "--model.generator.levels=2", "--model.init_weights=start.safetensors"]
    words = ["--config", "own_tomograms", *data, *network, "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    main(["fit", *words])
    assert "Best: val/nrmse" in capfd.readouterr().out
    trained = Path("runs/own_tomograms/version_0")
    assert load_denoiser(trained).voxel_size == 10.0
    main(["fit", "--config", str(trained / "config.yaml"), "--ckpt-path", "last", "--trainer.max_epochs=2"])
    assert "in epoch" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lab", "--output", "mine.safetensors"], "give --halves"),
        (["lab", "--halves", "--output", "mine.ckpt"], "output mine.ckpt: a model is written as safetensors"),
        (["lab", "--halves", "--output", "start.safetensors"], "start.safetensors exists"),
        (["lab", "--halves", "--output", "mine.safetensors", "--epochs", "0"], "epochs: got 0"),
        (["nowhere", "--halves", "--output", "mine.safetensors"], "no half tomograms among the input"),
        (["lab", "--halves", "--output", "mine.safetensors", "--model", "none"], "model none: no such file or folder"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_made(lab: Path, capfd, words: list[str], told: str) -> None:
    before = set(lab.iterdir())
    with pytest.raises(SystemExit) as stop:
        main(["tune", *words])
    assert stop.value.code == 2
    errors = capfd.readouterr().err
    assert told in errors
    assert errors.count("\n") == 1
    assert set(lab.iterdir()) == before
