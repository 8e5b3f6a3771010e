import csv
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cryoden.checkpoint import export_weights, load_denoiser
from cryoden.cli import main
from cryoden.commands.compare import load_data, load_models, notes
from cryoden.data import ParticleDataModule
from cryoden.errors import CryodenError
from cryoden.evaluation.evaluate import evaluate, spaced
from cryoden.evaluation.results import Comparison, Model
from cryoden.evaluation.tables import grids, read_thesis
from cryoden.evaluation.verdict import verdict
from cryoden.metrics import MEASURES, functional
from cryoden.modules.recipes import CompactUnetAE
from cryoden.simulation.degradation import SaltAndPepper

SMALL = {"box": 32, "voxel_size": 10.0, "resolution": 20.0, "batch_size": 2, "num_workers": 0}


@pytest.fixture(scope="module")
def module() -> ParticleDataModule:
    made = ParticleDataModule(entries=["phantom:1", "phantom:2"], copies=8, val_fraction=0.25, **SMALL)
    made.setup()
    return made


def test_all_files_are_there(comparison: Path) -> None:
    names = {path.name for path in comparison.iterdir()}
    assert names == {"results.json", "tables.md", "tables.csv", "report.html", "figures"}
    drawn = {path.stem for path in (comparison / "figures").iterdir()}
    assert drawn == {
        *("bars", "fsc", "particles", "training", "slices_0", "slices_1", "slices_SimpleAE", "slices_CompactUnetAE")
    }
    for name in drawn:
        assert (comparison / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert ET.parse(comparison / "figures" / f"{name}.svg").getroot().tag.endswith("svg")


def test_the_numbers_are_those_of_the_models_on_the_test_volumes(comparison: Path, runs: Path, module) -> None:
    found = json.loads((comparison / "results.json").read_text())
    assert found["data"]["items"] == spaced(4, 3)
    denoiser = load_denoiser(runs / "simple" / "version_0")
    digest = hashlib.sha256()
    for place, index in enumerate(found["data"]["items"]):
        item = module.test_volumes()[0, index]
        digest.update(item["clean"].numpy().tobytes())
        digest.update(item["degraded"].numpy().tobytes())
        with torch.inference_mode():
            denoised = denoiser(item["degraded"][None])
        assert found["data"]["entries"][place] == item["entry"]
        for name in ("nrmse", "psnr", "ssim", "mse"):
            expected = getattr(functional, name)(denoised, item["clean"][None]).item()
            assert found["values"]["SimpleAE"][name][place] == pytest.approx(expected, rel=1e-4), name
        expected = functional.nrmse(item["degraded"][None], item["clean"][None]).item()
        assert found["values"]["input"]["nrmse"][place] == pytest.approx(expected, rel=1e-5)
    assert found["data"]["sha256"] == digest.hexdigest()
    for method, scores in found["values"].items():
        assert list(scores) == list(MEASURES)
        low, median, high = np.percentile(scores["mse"], (5, 50, 95))
        assert found["percentiles"][method]["all"]["mse"] == pytest.approx({"p5": low, "p50": median, "p95": high})


def test_results_say_how_they_were_made(comparison: Path, runs: Path) -> None:
    found = json.loads((comparison / "results.json").read_text())
    assert found["data"]["init_args"]["seed"] == 0
    assert found["versions"]["torch"] == torch.__version__
    assert found["hardware"]["cores"] >= 1
    model = found["models"]["SimpleAE"]
    assert model["sha256"] == hashlib.sha256(Path(model["checkpoint"]).read_bytes()).hexdigest()
    assert model["voxel_size"] == 10
    assert model["parameters"] > 1000
    assert set(found["filters"]) == {"Gaussian filter", "median filter", "total variation", "non-local means"}
    assert set(found["seconds"]) >= {"volumes", "measures", "SimpleAE", "non-local means"}
    failed = found["failed"]
    assert "not a readable checkpoint" in failed[str(runs / "broken.ckpt")]
    assert "no such file or folder" in failed[str(runs / "nowhere")]
    assert any("compact" in note or "CompactUnetAE" in note for note in found["notes"])  # it has no metrics.csv


def test_tables_stand_beside_the_thesis(comparison: Path) -> None:
    text = (comparison / "tables.md").read_text()
    found = json.loads((comparison / "results.json").read_text())
    ours = found["percentiles"]["SimpleAE"]["all"]
    row = next(line for line in text.splitlines() if line.startswith("| SimpleAE | 50 |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2] == f"{ours['ssim']['p50']:.3f}"
    assert cells[5] == f"{ours['nrmse']['p50']:.3f}"
    assert cells[6:] == ["0.978", "29.89", "1.027", "0.432"]  # table 2 of the thesis
    assert "| UpsampleUnetGAN | 50 | – | – | – | – | 0.993 | 34.64 | 0.343 | 0.247 |" in text
    with (comparison / "tables.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    one = next(r for r in rows if (r["method"], r["entry"], r["percentile"]) == ("SimpleAE", "phantom:1", "95"))
    assert float(one["nrmse"]) == pytest.approx(found["percentiles"]["SimpleAE"]["phantom:1"]["nrmse"]["p95"], rel=1e-5)
    assert {r["entry"] for r in rows} == {"all", "phantom:1", "phantom:2"}


@pytest.mark.parametrize(("experiment", "systems"), [("control", 6), ("different-noise", 5), ("realistic", 2)])
def test_the_thesis_has_its_tables(experiment: str, systems: int) -> None:
    assert len({system for system, _ in read_thesis(experiment)}) == systems


def comparison_of(module: ParticleDataModule, methods: dict, indices: tuple[int, ...] = (0, 2)) -> Comparison:
    filters = {"Gaussian filter": lambda v: 0.5 * v}
    all_methods = {"input": lambda v: v, "zeros": torch.zeros_like, **filters, **methods}
    found = evaluate(all_methods, module.test_volumes(), indices, voxel_size=10.0, batch_size=2)
    models = {name: Model(name, "", "", name, 1, 10.0, "0") for name in methods if name in found.values}
    return Comparison("control", found, 10.0, {}, models, {"Gaussian filter": ("σ", 0.5)}, found.failed)


def test_a_method_that_fails_does_not_stop_the_others(module: ParticleDataModule) -> None:
    def raises(volumes):
        raise RuntimeError("size mismatch\nat the second line")

    methods = {
        "raises": raises,
        "nan": lambda v: v * torch.nan,
        "cropped": lambda v: v[..., 1:],
        "half": lambda v: v / 2,
    }
    found = comparison_of(module, methods).evaluation
    assert set(found.values) == {"input", "zeros", "Gaussian filter", "half"}
    assert found.failed["raises"] == "RuntimeError: size mismatch at the second line"
    assert found.failed["nan"] == "gave 65536 voxels that are NaN or infinite; its training went wrong: train it again"
    assert "gave volumes of shape (2, 1, 32, 32, 31)" in found.failed["cropped"]


def test_results_do_not_depend_on_the_batches(module: ParticleDataModule) -> None:
    def of(batch_size: int) -> dict:
        methods = {"half": lambda v: v / 2}
        found = evaluate(methods, module.test_volumes(), range(4), voxel_size=10, batch_size=batch_size)
        return {"sha256": found.sha256, **found.values["half"]}

    one, other = of(1), of(3)
    assert one.pop("sha256") == other.pop("sha256")
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_nothing_to_compare_with_is_an_error(module: ParticleDataModule) -> None:
    class Constant(type(module.test_volumes())):
        def make(self, index, generator):
            return {**super().make(index, generator), "clean": torch.zeros(1, 32, 32, 32)}

    dataset = module.test_volumes()
    with pytest.raises(CryodenError, match="volumes: got none to evaluate"):
        evaluate({}, dataset, [], voxel_size=10)
    dataset.__class__ = Constant
    with pytest.raises(CryodenError, match=r"volume 2 \(phantom:2\): its clean volume is constant"):
        evaluate({}, dataset, [2], voxel_size=10)


@pytest.mark.parametrize(
    ("make", "answer"),
    [
        (lambda clean: 0.99 * clean, "Yes: model denoises better"),
        (lambda clean: torch.zeros_like(clean), "No: no model beats the best classical filter"),
    ],
)
def test_the_verdict_follows_the_numbers(make, answer: str, module: ParticleDataModule) -> None:
    volumes = iter([torch.stack([module.test_volumes()[0, i]["clean"] for i in (0, 2)])])
    said = verdict(comparison_of(module, {"model": lambda v: make(next(volumes))}))
    assert said[0].startswith(answer)
    if answer.startswith("Yes"):
        assert "NRMSE 0.010" in said[1]
        assert any("put in 98% of the power that belongs there; 0% of what" in line for line in said)
    else:
        assert any("Hardly better than an empty volume" in line for line in said)
        assert any("agree with the truth at no resolution" in line for line in said)
        assert any("invented nothing there" in line for line in said)


def test_tables_are_rectangles(module: ParticleDataModule) -> None:
    for grid in grids(comparison_of(module, {"SimpleAE": lambda v: v / 2})):
        assert {len(row) for row in grid.rows} == {len(grid.header)}, grid.title


@pytest.mark.parametrize(
    ("arguments", "experiment"),
    [
        ({}, "control"),
        ({"holdout": ["phantom:2"]}, "unseen-particle"),
        ({"degradation": [SaltAndPepper()]}, "different-noise"),
    ],
)
def test_the_experiment_shows_in_the_data(arguments: dict, experiment: str) -> None:
    data = ParticleDataModule(entries=["phantom:1", "phantom:2"], copies=2, val_fraction=0.5, **arguments)
    assert data.experiment == experiment


def test_what_makes_numbers_less_than_they_seem_is_noted(runs: Path) -> None:
    checkpoint = runs / "simple" / "version_0" / "checkpoints" / "best.ckpt"
    held_out = ParticleDataModule(
        entries=["phantom:1", "phantom:2"], holdout=["phantom:2"], copies=2, val_fraction=0.5, voxel_size=8.0
    )
    model = Model("run", str(checkpoint), "", "SimpleAE", 1, 10.0, "0", {"val/psnr": [(1.0, 20.0)]})
    said = notes({"SimpleAE": model}, held_out)
    assert any("trained at 10 Å per voxel and tested at 8 Å" in note for note in said)
    assert any("metrics.csv of SimpleAE has no val/nrmse" in note for note in said)
    assert any("trained on phantom:2, which is held out here" in note for note in said)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read as YAML"),
        ("data: [", "cannot be read as YAML"),
        ("model: {}", "has no `data:` with a `class_path:`"),
        ("data: {class_path: NoSuchData}", "NoSuchData"),
        ("data: {class_path: ParticleDataModule, init_args: {copis: 3}}", "copis"),
        ("data: {class_path: ParticleDataModule, init_args: {copies: 1}}", "each must be at least 1"),
    ],
)
def test_bad_data(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CryodenError, match=re.escape(message)):
        load_data(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{runs}/nowhere"], "none of the runs can be used"),
        (["{runs}/compact.safetensors"], "no run has a config.yaml"),
        (["{runs}/simple/version_0", "--volumes", "0"], "volumes: got 0; it must be at least 1"),
        (["{runs}/simple/version_0", "--output", "{runs}"], "is a folder that is not empty; choose another name"),
        (["{runs}/compact.safetensors", "--output", "{runs}/compact.safetensors", "--overwrite"], "is a file; give"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, runs: Path, tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *(word.format(runs=runs) for word in words)])
    assert stopped.value.code == 2
    told = capfd.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_two_runs_of_a_system_keep_their_names(runs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    export_weights(CompactUnetAE(channels=4, levels=2), other)
    words = [str(runs / "compact.safetensors"), str(other), str(runs / "simple" / "version_0")]
    models, denoisers, failed = load_models([*words, words[0]])  # given twice, it is taken once
    names = [f"CompactUnetAE ({words[0]})", f"CompactUnetAE ({words[1]})", "SimpleAE"]
    assert list(models) == list(denoisers) == names
    assert failed == {}
    assert models["SimpleAE"].history["val/nrmse"][0][0] == 1  # of two epochs
    assert len(models["SimpleAE"].history["train/loss"]) == 2
    assert models[names[0]].history == {}


def test_scenes_are_searched_and_sensitivity_drawn(runs: Path, tmp_path: Path) -> None:
    given = {**SMALL, "entries": ["phantom:1"], "scenes": 4, "val_fraction": 0.5, "count": 3}
    config = {"data": {"class_path": "SceneDataModule", "init_args": given}}
    (tmp_path / "scenes.yaml").write_text(yaml.safe_dump(config))
    words = ["--data", str(tmp_path / "scenes.yaml"), "--sensitivity", "1", "--matching", "1"]
    main(["compare", str(runs / "simple" / "version_0"), *words, "--output", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["experiment"] == "multiple-particles"
    assert found["template_matching"]["clean"]["f1"] > 0.8
    assert {"input", "SimpleAE"} < set(found["template_matching"])
    noise, tilt = found["sensitivity"]
    assert noise["points"] == [0.1, 0.2, 0.5, 1, 2, 5]
    assert tilt["points"] == [40, 50, 60, 70]
    for sweep in (noise, tilt):
        medians = [point[1] for point in sweep["values"]["input"]["nrmse"]]
        best = [point[1] for point in sweep["values"]["Gaussian filter"]["nrmse"]]
        assert all(ours <= theirs for ours, theirs in zip(best, medians, strict=True))
        if sweep is noise:  # a narrower tilt range also takes noise away, but more signal leaves less error
            assert medians == sorted(medians, reverse=True)
    assert (tmp_path / "out" / "figures" / "sensitivity_signal_to_noise_ratio.png").is_file()
    assert "Finding particles: template matching scores F1" in (tmp_path / "out" / "tables.md").read_text()


def test_only_scenes_can_be_searched(runs: Path, tmp_path: Path, capfd) -> None:
    with pytest.raises(SystemExit):
        main(["compare", str(runs / "simple" / "version_0"), "--matching", "2", "--output", str(tmp_path / "out")])
    assert "are no scenes; give a SceneDataModule with --data" in capfd.readouterr().err
