"""`cryoden tune` as a user meets it."""

import functools
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cryoden import HalvesDataModule, export_weights, load_denoiser
from cryoden.cli import main
from cryoden.commands import tuning
from cryoden.denoiser import Denoiser
from cryoden.inference.quality import read_quality
from cryoden.networks import CompactUnet
from cryoden.networks.base import constructor_arguments
from cryoden.signals import Stopped
from cryoden.volume import Volume, write_volume
from tests.data.half_tomograms import write_halves

EXPERIMENTS = Path(__file__).parent.parent.parent / "experiments"


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
    monkeypatch.setattr(tuning, "_RATE", 1.0e-30)
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
    shutil.rmtree("mine")

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


def test_a_tuning_does_not_go_on_from_another(lab: Path, capfd) -> None:
    start = load_denoiser("start.safetensors")
    next(start.generator.parameters()).data += 1
    export_weights(start, "other.safetensors")
    words = ["--model", "start.safetensors", "--epochs", "1"]
    assert tune(*words) == 0
    Path("mine.safetensors").unlink()
    begun = Path("mine/last.ckpt").read_bytes()
    for others, told in (
        (["--model", "other.safetensors"], f"model was {digest('start.safetensors')[:8]} and is"),
        ([*words, "--from-scratch"], "from scratch was no and is yes"),
        ([*words, "--seed", "1"], "seed was 0 and is 1;"),
        ([*words, "--voxel-size", "10.5"], "voxel size was 10 Å and is 10.5 Å;"),
        ([*words, "--contrast", "bright"], "tomogram TS_1.mrc was halves"),
        ([*words, "--tilt-range", "[-60, 60]"], "tilts unknown and is halves"),
    ):
        assert tune(*others) == 2
        error = capfd.readouterr().err
        assert "mine/last.ckpt: is of another tuning" in error
        assert told in error
        assert error.count("\n") == 1
    write_halves(Path("moved"), "TS_1", seed=1, noise=3.0, shape=(32, 100, 32))
    shutil.copytree("moved", "lab", dirs_exist_ok=True)  # the same again, at another time
    assert tune(*words[:2], "--epochs", "2") == 0  # more of the same
    told = capfd.readouterr().out
    assert "going on from mine/last.ckpt" in told
    assert "  epoch 2 of 2" in told
    assert "  epoch 1 of 2" not in told
    Path("mine.safetensors").unlink()
    Path("mine/last.ckpt").write_bytes(begun)
    write_halves(Path("other"), "TS_1", seed=7, noise=3.0, shape=(32, 100, 32))
    shutil.copytree("other", "lab", dirs_exist_ok=True)
    assert tune(*words) == 2  # other tomograms of the same names
    assert "and 1 more" not in (error := capfd.readouterr().err)
    assert "tomogram TS_1.mrc was halves" in error
    assert "TS_2" not in error
    Path("mine/last.ckpt").write_bytes(begun[:1000])
    assert tune(*words) == 2
    assert "mine/last.ckpt: is damaged" in capfd.readouterr().err


def test_nothing_of_another_is_replaced_in_the_folder_of_the_report(lab: Path, capfd) -> None:
    words = ["--model", "start.safetensors", "--epochs", "1"]
    Path("mine").mkdir()
    Path("mine/quality.csv").write_text("of denoise --halves")
    assert tune(*words) == 2
    assert "the folder mine, which holds quality.csv, of no tuning" in capfd.readouterr().err
    assert [path.name for path in Path("mine").iterdir()] == ["quality.csv"]
    assert tune(*words, "--overwrite") == 0
    Path("mine.safetensors").unlink()
    Path("mine/TS_1.mrc").touch()  # all else there is its own
    assert tune(*words) == 2
    assert "holds TS_1.mrc" in capfd.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["lab", "--output", "lab.safetensors"],  # holds inputs
        ["lab", "--output", "lab/even.safetensors"],
        ["lab", "--output", "mine.safetensors", "--model", "mine/start.safetensors"],
        ["lab", "--output", "TS_1.zarr/mine.safetensors", "--tilt-range", "TS_1.zarr"],  # lies in one
    ],
)
def test_no_input_lies_where_the_report_goes(lab: Path, capfd, words: list[str]) -> None:
    for name in ("mine", "TS_1.zarr"):
        Path(name).mkdir()
    shutil.copy("start.safetensors", "mine")
    with pytest.raises(SystemExit):
        main(["tune", "--halves", "--overwrite", *words])
    error = capfd.readouterr().err
    assert "where the input" in error
    assert error.count("\n") == 1


def test_the_file_for_whoever_changes_how_names_the_network_that_it_begins_with() -> None:
    model = yaml.safe_load((EXPERIMENTS / "own_tomograms.yaml").read_text())["model"]["init_args"]
    begun = load_denoiser(model["init_weights"]).generator
    assert model["generator"]["class_path"] == type(begun).__name__
    named = CompactUnet(**model["generator"]["init_args"])
    assert constructor_arguments(named) == constructor_arguments(begun)


def test_whoever_changes_how_trains_it_by_a_file(lab: Path, capfd) -> None:
    small = ["--data.box=24", "--data.boxes=4", "--data.batch_size=2", "--data.simulated_batch_size=0"]
    data = ["--data.inputs=[lab]", "--data.contrast=dark", *small]
    network = [f"--model.generator.{each}" for each in ("channels=4", "levels=2", "refinements=0")]
    network += ["--model.init_weights=start.safetensors"]
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
        (
            ["lab", "--halves", "--output", "mine.safetensors", "--model", "unscaled.safetensors"],
            "model unscaled.safetensors: was trained with standardize false",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_made(lab: Path, capfd, words: list[str], told: str) -> None:
    export_weights(Denoiser(CompactUnet(channels=2, levels=1), standardize=False), "unscaled.safetensors")
    before = set(lab.iterdir())
    with pytest.raises(SystemExit) as stop:
        main(["tune", *words])
    assert stop.value.code == 2
    errors = capfd.readouterr().err
    assert told in errors
    assert errors.count("\n") == 1
    assert set(lab.iterdir()) == before
