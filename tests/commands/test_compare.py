import csv
import hashlib
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cryoden.checkpoint import load_denoiser
from cryoden.cli import main
from cryoden.evaluation.evaluate import spaced
from cryoden.metrics import MEASURES, functional

SMALL = {"box": 32, "voxel_size": 10.0, "resolution": 20.0, "batch_size": 2, "num_workers": 0}


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


def test_tables_hold_the_numbers_and_none_of_the_theses_beside_other_volumes(comparison: Path) -> None:
    text = (comparison / "tables.md").read_text()
    found = json.loads((comparison / "results.json").read_text())
    ours = found["percentiles"]["SimpleAE"]["all"]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    header = next(cells for cells in lines if cells[0] == "method")
    row = next(cells for cells in lines if cells[0] == "SimpleAE")
    assert header[:4] == ["method", "NRMSE ↓", "NRMSE in mask ↓", "FSC measured ↑"]
    for measure, heading in (("nrmse", "NRMSE ↓"), ("ssim", "SSIM ↑")):
        low, median, high = (f"{ours[measure][p]:.3f}" for p in ("p5", "p50", "p95"))
        assert row[header.index(heading)] == f"{median} [{low}, {high}]"
    assert "thesis" not in text
    with (comparison / "tables.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    one = next(r for r in rows if (r["method"], r["entry"], r["percentile"]) == ("SimpleAE", "phantom:1", "95"))
    assert float(one["nrmse"]) == pytest.approx(found["percentiles"]["SimpleAE"]["phantom:1"]["nrmse"]["p95"], rel=1e-5)
    assert {r["entry"] for r in rows} == {"all", "phantom:1", "phantom:2"}
    assert {r["thesis_nrmse"] for r in rows} == {""}


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


def test_scenes_are_searched_and_sensitivity_drawn(runs: Path, tmp_path: Path) -> None:
    given = {**SMALL, "entries": ["phantom:1"], "scenes": 4, "val_fraction": 0.5, "contents": {"count": 3}}
    config = {"data": {"class_path": "SceneDataModule", "init_args": given}}
    (tmp_path / "scenes.yaml").write_text(yaml.safe_dump(config))
    words = ["--data", str(tmp_path / "scenes.yaml"), "--sensitivity", "1", "--matching", "1"]
    main(["compare", str(runs / "simple" / "version_0"), *words, "--output", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["experiment"] is None
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
