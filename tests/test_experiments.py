"""The scripts of experiments/ run, and its files hold what they should."""

import contextlib
import inspect
import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import cryoden
from cryoden.commands.simulate import simulate
from cryoden.simulation.scene import SceneContents
from cryoden.simulation.tilt_series import Exposure, TiltSeriesDegradation
from experiments import tables
from tests.apart import APART

EXPERIMENTS = Path(__file__).parent.parent / "experiments"

# Each benchmark at its smallest.
SMALLEST = {
    "aliasing": "phantom:2 --voxels 10 --runs 1 --output aliasing.json",
    "contention": "--busy 1 --runs 1 --output contention.json",
    "context": "phantom:1 --shape 48 64 96 --boxes 16 --places 1 --runs 1",
    "convolutions": "--channels 2 --box 8 --batch 1 --runs 1",
    "degradation": "--batch 2 --box 16 --runs 1",
    "denoise": "speed 16 24 32",
    "density": "phantom:1 --runs 1",
    "fit": "--data.num_workers=0 --data.box=32 --data.voxel_size=12 --data.resolution=24 --data.copies=8",
    "gan": "--channels 2 --box 16 --batch 2 --runs 1",
    "gpu": "--device cpu --small --out gpu.json",
    "growth": "box --points 1 --output .",
    "loading": "--copies 20 --box 16 --num_workers 0",
    "memory": "--channels 2 --box 16 --batch 1",
    "networks": "--channels 2 --box 16 --batch 2 --runs 1",
    "operators": "--channels 2 --box 16 --batch 1 --steps 1 --matrix 64",
    "scene": "phantom:1 --occupancy 0.01 --shape 128 128 128",
    "ssim": "--volumes 1 --runs 1",
    "startup": "'import cryoden' --runs 1",
    "tilt_series": "--box 16 --runs 1",
}


def run_script(script: Path, words: list[str], folder: Path) -> None:
    """Run a script by its name in a folder; what it prints goes to a file there."""
    sys.argv = [str(script), *words]
    sys.path.insert(0, str(script.parent))
    with contextlib.chdir(folder), Path("printed").open("w") as file, contextlib.redirect_stdout(file):
        runpy.run_path(str(script), run_name="__main__")


def test_every_benchmark_is_tried() -> None:
    found = {path.stem for path in (EXPERIMENTS / "benchmarks").glob("*.py")}
    assert found - {"timing"} == set(SMALLEST)


LONG = {"contention", "fit", "gpu", "growth"}  # even then


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in SMALLEST])
def test_a_benchmark_runs_at_its_smallest(name: str, tmp_path: Path) -> None:
    script = EXPERIMENTS / "benchmarks" / f"{name}.py"
    process = APART.Process(target=run_script, args=(script, shlex.split(SMALLEST[name]), tmp_path))
    process.start()
    process.join()
    assert process.exitcode == 0
    # the subprocesses of some print past the file
    assert (tmp_path / "printed").read_text() or name == "denoise"


def test_models_are_judged_on_held_out_tomograms(tmp_path: Path) -> None:
    """The first tomogram gives the threshold of the search, the second is searched."""
    step = TiltSeriesDegradation(voxel_size=16.0, exposure=Exposure(dose=1000.0))
    scene = {"shape": (16, 40, 40), "contents": SceneContents(count=6), "voxel_size": 16.0, "resolution": 32.0}
    list(simulate(["phantom:1"], str(tmp_path / "made"), copies=2, degradation=[step], **scene))
    words = ["made", "--model", "it=cryoden-16A", "--find", "phantom:1", "--output", "found.json"]
    process = APART.Process(target=run_script, args=(EXPERIMENTS / "held_out.py", words, tmp_path))
    process.start()
    process.join()
    assert process.exitcode == 0
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert {"input", "zeros", "Gaussian filter"} < set(found["percentiles"])
    assert found["percentiles"]["the truth"]["f1"]["p50"] > 0.8
    assert found["percentiles"]["zeros"]["nrmse"]["p50"] == 1
    assert 0 < found["percentiles"]["it"]["nrmse"]["p50"] < 1
    assert [row.get("f1") is None for row in found["tomograms"] if row["method"] == "it"] == [True, False]


def defaults(kind: type) -> dict[str, Any]:
    """What the arguments of a class and of those it passes them on to are by default."""
    constructors = [vars(each)["__init__"] for each in reversed(inspect.getmro(kind)) if "__init__" in vars(each)]
    return {name: each.default for made in constructors for name, each in inspect.signature(made).parameters.items()}


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_holds_only_what_differs_from_the_defaults(path: Path) -> None:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    for part in ("model", "data"):
        known = defaults(getattr(cryoden, config[part]["class_path"]))
        for name, value in config[part].get("init_args", {}).items():
            assert known[name] != value, f"{part}.{name}"


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.stem)
def test_the_tables_are_those_of_the_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert tables.rendered(text) == text
    changed = re.sub(r"(\n\| input \| 0)", r"\1.1", text)
    assert changed != text
    assert tables.rendered(changed) == text
    assert text.count("<!-- ") == 2 * len(tables.MARK.findall(text))  # no mark is overlooked


def test_every_result_is_shown_and_says_how_it_was_made() -> None:
    marks = " ".join(mark[1] + mark[2] for page in tables.PAGES for mark in tables.MARK.finditer(page.read_text()))
    for path in (EXPERIMENTS / "results").glob("*.json"):
        assert path.stem in marks
        assert tables.read(path.stem).keys() >= {"title", "commands", "created", "versions", "hardware", "data"}


def test_a_result_is_kept_and_makes_a_table(comparison: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(tables, "EXPERIMENTS", tmp_path)
    tables.keep("mine", comparison / "results.json")
    text = tables.rendered("<!-- mine: nrmse, ssim -->\n<!-- end -->\n<!-- nrmse: mine -->\n<!-- end -->\n")
    full = json.loads((comparison / "results.json").read_text())["percentiles"]["SimpleAE"]["all"]
    low, median, high = (f"{full['nrmse'][key]:.3f}" for key in ("p5", "p50", "p95"))
    assert f"| SimpleAE | {median} [{low}, {high}] | {full['ssim']['p50']:.3f} |" in text
    assert f"| SimpleAE | {median} |" in text
    assert "| 3 volumes | NRMSE ↓ | SSIM ↑ |" in text
    assert "| NRMSE ↓ | mine |" in text


def test_what_a_norm_of_several_levels_costs_is_that_of_the_results() -> None:
    found = json.loads((EXPERIMENTS / "results" / "benchmarks" / "shared_norm.json").read_text("utf-8"))["rows"]
    page = (EXPERIMENTS.parent / "docs" / "systems.md").read_text("utf-8")
    for label, sides in found.items():
        before, now = (f"{sides[side]['nrmse']:.3f}" for side in ("one_for_all_levels", "one_for_each_level"))
        name = label.partition(",")[0].replace(" reconstruction_weight 1e+06", " without an adversarial term")
        assert ("reconstruction_weight" in name) != (f"| {name} | {before} | {now} |" in page)


def test_what_a_discriminator_does_in_crowded_tomograms_is_that_of_the_results() -> None:
    result = json.loads((EXPERIMENTS / "results" / "benchmarks" / "discriminator_crowded.json").read_text("utf-8"))
    page = (EXPERIMENTS.parent / "docs" / "discriminator.md").read_text("utf-8")
    for name, tomograms in result["rows"].items():
        told = {"nrmse": 3, "fsc_measured": 3, "fsc_wedge": 3, "f1": 2}
        cells = [f"{np.median([t[key] for t in tomograms if t[key] is not None]):.{n}f}" for key, n in told.items()]
        assert f"| {name} | {' | '.join(cells)} |" in page


def test_where_the_error_of_a_system_lies_is_that_of_the_results() -> None:
    result = json.loads((EXPERIMENTS / "results" / "benchmarks" / "error_spectrum.json").read_text("utf-8"))
    page = (EXPERIMENTS.parent / "docs" / "thesis.md").read_text("utf-8")
    for row in result["rows"]:
        cells = [row["shell"], *(f"{value:.3f}" for name, value in row.items() if name != "shell")]
        assert f"| {' | '.join(cells)} |" in page


def test_a_system_of_the_grid_stands_beside_its_own_in_the_thesis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(tables, "EXPERIMENTS", tmp_path)
    about = {"system": "UnetAE", "volumes_seen": 24000, "minutes": [9.0, 9.5], "cpu_minutes": [33.0, 34.0]}
    rows = {"UnetAE, 48 channels": about | {"hardware": {"gpu": "H100"}}, "mine": about | {"hardware": {"gpu": None}}}
    rows["mine"] |= {"system": "CompactUnetAE"}
    result = {"experiment": "control", "data": {"volumes": 200}, "rows": rows}
    result["percentiles"] = {name: {"nrmse": {"p5": 0.1, "p50": 0.2, "p95": 0.3}} for name in ("input", *rows)}
    (tmp_path / "results" / "grid.json").write_text(json.dumps(result))
    text = tables.rendered("<!-- grid: nrmse -->\n<!-- end -->\n")
    assert "| 200 volumes | NRMSE ↓ | thesis: NRMSE | volumes seen | minutes |" in text
    assert "| input | 0.200 [0.100, 0.300] | 0.895 | – | – |" in text
    assert "| UnetAE, 48 channels | 0.200 [0.100, 0.300] | 0.214 | 24,000 | 9.0, 9.5 |" in text
    assert "| mine | 0.200 [0.100, 0.300] | – | 24,000 | 33.0, 34.0 |" in text
    assert "UpsampleUnetGAN" not in text


def test_learning_curves_are_those_of_systems_and_not_of_their_variants() -> None:
    curve = [[800, 0.5], [1600, 0.4]]
    rows = {
        "UnetAE, 48 channels": {"system": "UnetAE", "curve": curve},
        "UnetAE, 16 channels": {"system": "UnetAE", "curve": curve[:1]},
        "UnetAE loss ssim, 48 channels": {"system": "UnetAE", "curve": curve},
    }
    levels = {name: {"nrmse": {"p50": 1.0}} for name in ("input", "zeros", *rows)}
    (axis,) = tables.learning_curves({"rows": rows, "percentiles": levels}).axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axis.lines if line.get_marker() != "None"}
    assert drawn == {"UnetAE, 48 channels": curve, "UnetAE, 16 channels": curve[:1]}
    assert [text.get_text() for text in axis.texts] == ["zeros, test volumes"]


def test_the_table_of_aliasing_is_that_of_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXPERIMENTS / "benchmarks")
    table = runpy.run_path(str(EXPERIMENTS / "benchmarks" / "aliasing.py"))["table"]
    result = json.loads((EXPERIMENTS / "results" / "benchmarks" / "aliasing.json").read_text(encoding="utf-8"))
    assert table(result["difference"]) in (EXPERIMENTS.parent / "docs" / "density.md").read_text(encoding="utf-8")


def test_what_halves_tell_is_near_the_truth_and_the_tables_are_those_of_the_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(EXPERIMENTS)
    script = runpy.run_path(str(EXPERIMENTS / "half_scores.py"))
    result = json.loads((EXPERIMENTS / "results" / "benchmarks" / "half_scores.json").read_text(encoding="utf-8"))
    page = (EXPERIMENTS.parent / "docs" / "halves-measured.md").read_text(encoding="utf-8")
    assert script["off"](result["hold"], "nrmse")[1] <= 0.02
    assert script["off"](result["hold"], "fsc_area")[1] <= 0.025
    assert script["table"](result["hold"]) in page
    assert script["failures"](result["fail"]) in page


def test_what_tuning_makes_of_a_model_is_told_as_it_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXPERIMENTS)
    script = runpy.run_path(str(EXPERIMENTS / "tuning.py"))
    result = json.loads((EXPERIMENTS / "results" / "benchmarks" / "tuning.json").read_text(encoding="utf-8"))
    page = (EXPERIMENTS.parent / "docs" / "own-tomograms.md").read_text(encoding="utf-8")
    assert script["table"](result["tomograms"]) in page
    truth = np.random.default_rng(0).normal(size=(4, 4, 4))
    assert script["error"](3 * truth - 7, truth) == pytest.approx(0, abs=1e-6)


def test_the_readme_is_short() -> None:
    assert len((EXPERIMENTS / "README.md").read_text(encoding="utf-8").splitlines()) <= 80
