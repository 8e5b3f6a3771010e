"""The script that trains the models that come with cryoden: from nothing, on, and to weights that denoise."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

import cryoden.models
from cryoden.checkpoint import load_denoiser

MODELS = Path(__file__).parent.parent / "experiments" / "models"

RECIPE = """
voxel_size: 16.0
entries: ["phantom:1"]
occupancy: 0.02
channels: 2
shape: [24, 48, 48]
box: 16
boxes: 4
scenes: 12
"""


def run(script: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, *words])
    runpy.run_path(str(MODELS / f"{script}.py"), run_name="__main__")


def test_a_model_is_trained_goes_on_and_is_released(tmp_path: Path, monkeypatch, capfd) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    out = tmp_path / "out"
    words = [str(recipe), "--out", str(out), "--batch-size", "2", "--workers", "1", "--every", "0.02"]
    run("train", [*words, "--minutes", "0.03"], monkeypatch)
    kept = torch.load(out / "last.ckpt", weights_only=True)
    assert kept["global_step"] > 1
    assert len(list((out / "scenes").glob("*.npy"))) == 12
    run("train", [*words, "--minutes", "0.06"], monkeypatch)
    went_on = torch.load(out / "last.ckpt", weights_only=True)
    assert went_on["global_step"] > kept["global_step"]
    (minutes,) = (state["minutes"] for state in went_on["callbacks"].values() if "minutes" in state)
    assert 0.06 <= minutes < 0.3
    assert "min, step" in capfd.readouterr().out

    cryoden.models.shipped_models()  # are found once, and not in the folder that follows
    monkeypatch.setattr(cryoden.models, "FOLDER", tmp_path)
    run("release", ["small", str(out / "last.ckpt")], monkeypatch)
    denoiser = load_denoiser(tmp_path / "small.safetensors")
    assert denoiser.voxel_size == 16.0
    averaged = {name: value.half().float() for name, value in load_denoiser(out / "last.ckpt").state_dict().items()}
    assert all(torch.equal(value, averaged[name]) for name, value in denoiser.state_dict().items())


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_is_of_a_model_and_leaves_out_what_is_held_out(path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(MODELS)
    known = runpy.run_path(str(MODELS / "train.py"))
    recipe = known["Recipe"](**known["yaml"].safe_load(path.read_text(encoding="utf-8")))
    assert not {"1bxn", "4yvs", "7pbl", "3wip", "1f2n"} & set(recipe.entries)
    assert cryoden.models.shipped_models()[path.stem].voxel_size == recipe.voxel_size
