import io

import numpy as np
import pytest
import torch
from rich.console import Console

from cryoden.data import ParticleDataModule
from cryoden.evaluation.figures import training_figure
from cryoden.evaluation.results import Sweep
from cryoden.evaluation.tables import csv_of, csv_text, grids, read_thesis, score_grid, score_rows
from cryoden.evaluation.verdict import verdict
from cryoden.metrics import MEASURES
from cryoden.metrics.per_volume import QUALITY
from tests.evaluation.made import comparison_of


@pytest.mark.parametrize(("experiment", "systems"), [("control", 6), ("different-noise", 5), ("realistic", 2)])
def test_the_thesis_has_its_tables(experiment: str, systems: int) -> None:
    assert len({system for system, _ in read_thesis(experiment)}) == systems


@pytest.mark.parametrize(
    ("make", "answer"),
    [
        (lambda clean: 0.99 * clean, "Yes: model has "),
        (lambda clean: torch.zeros_like(clean), "No: no model has less error than the best classical filter"),
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
        assert any("agrees with the truth (FSC above 0.5) at no resolution" in line for line in said)
        assert any("invented nothing there" in line for line in said)


NRMSE, FSC, DETAIL = "nrmse", "fsc_measured", "resolution_0.5"


@pytest.mark.parametrize(
    ("ours", "filtered", "answer"),
    [
        ({NRMSE: 0.4, FSC: 0.6}, {NRMSE: 0.5, FSC: 0.5}, "Yes: model has 20% less error"),
        ({NRMSE: 0.49, FSC: 0.6}, {NRMSE: 0.5, FSC: 0.5}, "With doubt: model has 2% less error"),
        ({NRMSE: 0.4, FSC: 0.4}, {NRMSE: 0.5, FSC: 0.5}, "With doubt: model has 20% less error"),
        ({NRMSE: 0.6, FSC: 0.6}, {NRMSE: 0.5, FSC: 0.5}, "With doubt: model has 20% more error"),
        ({NRMSE: 0.6, FSC: 0.4}, {NRMSE: 0.5, FSC: 0.5}, "No: no model has less error"),
        ({NRMSE: 0.4, FSC: 0.4998}, {NRMSE: 0.5, FSC: 0.5}, "Yes: model has 20% less error"),
    ],
)
def test_there_is_doubt_where_error_and_fsc_disagree(ours, filtered, answer, module: ParticleDataModule) -> None:
    comparison = comparison_of(module, {"model": lambda v: v / 2})
    for method, values in (("model", ours), ("Gaussian filter", filtered)):
        for name, value in values.items():
            comparison.evaluation.values[method][name] = np.full(2, value)
    said = verdict(comparison)[0]
    assert said.startswith(answer)
    difference = round(ours[FSC] - filtered[FSC], 3)
    how = "better" if difference > 0 else "less well" if difference < 0 else "as well"  # as the numbers beside it say
    assert f"agrees {how} with the truth where the tilt series measured" in said
    assert (", but agrees" in said) == ((ours[NRMSE] < filtered[NRMSE]) != (difference >= 0))


@pytest.mark.parametrize("loss", ["train/loss", "train/loss_reconstruction"])  # of one player, and of two
def test_each_system_has_a_training_curve(loss: str, module: ParticleDataModule) -> None:
    comparison = comparison_of(module, {"model": lambda v: v / 2})
    comparison.models["model"].history.update({"val/nrmse": [(1.0, 0.9), (2.0, 0.5)], loss: [(1.0, 8.0), (2.0, 2.0)]})
    errors, losses = training_figure(comparison).axes
    (curve,) = losses.get_lines()
    assert list(curve.get_ydata()) == [1.0, 0.25]
    assert list(errors.get_lines()[0].get_ydata()) == [0.9, 0.5]


@pytest.mark.parametrize("failed", [False, True])
def test_a_model_that_failed_at_a_point_has_no_curve_and_this_is_told(failed: bool, module: ParticleDataModule) -> None:
    comparison = comparison_of(module, {"model": lambda v: v / 2})
    curve = {NRMSE: [[0.2, 0.3, 0.4], [0.1, 0.2, 0.3]]}
    comparison.sweeps.append(Sweep("dose", [20.0, 50.0], 2, {"input": curve} | ({} if failed else {"model": curve})))
    told = (
        "model failed at one of its values" if failed else "its NRMSE is lowest at 50 (0.200) and highest at 20 (0.300)"
    )
    assert any(line.startswith(f"Sensitivity to dose: {told}") for line in verdict(comparison))


def test_detail_is_told_beside_the_sharpest_filter(module: ParticleDataModule) -> None:
    comparison = comparison_of(module, {"model": lambda v: v / 2})
    for method, value in (("model", 31.0), ("Gaussian filter", 27.0), ("input", np.inf)):
        comparison.evaluation.values[method][DETAIL] = np.full(2, value)
    said = next(line for line in verdict(comparison) if line.startswith("Detail"))
    assert "down to 31 Å; the best filter (Gaussian filter) down to 27 Å, the input at no resolution." in said


def test_the_thesis_stands_only_beside_volumes_like_its_own(module: ParticleDataModule) -> None:
    comparison = comparison_of(module, {"SimpleAE": lambda v: v / 2})
    beside = next(grid for grid in grids(comparison) if grid.title == "Beside the thesis").rows
    median = next(row for row in beside if row[:2] == ["SimpleAE", "50"])
    assert median[5] == f"{comparison.median('SimpleAE'):.3f}"
    assert median[6:] == ["0.978", "29.89", "1.027", "0.432"]  # table 2
    assert ["UpsampleUnetGAN", "50", *["–"] * 4, "0.993", "34.64", "0.343", "0.247"] in beside
    assert "0.3657" in csv_of(comparison)
    comparison.experiment = None
    assert not any("thesis" in f"{grid.title} {grid.note} {grid.header}" for grid in grids(comparison))
    assert "0.3657" not in csv_of(comparison)


def test_tables_are_rectangles(module: ParticleDataModule) -> None:
    for grid in grids(comparison_of(module, {"SimpleAE": lambda v: v / 2})):
        assert {len(row) for row in grid.rows} == {len(grid.header)}, grid.title


SCORES = {
    "input": {"nrmse": np.array([0.9, 1.0]), "mse": np.array([0.0123, 0.0456]), "invented": np.full(2, np.nan)},
    "UpsampleUnetWGANGP": {
        "nrmse": np.array([0.3, np.inf]),
        "mse": np.array([0.0003, 0.1]),
        "invented": np.array([np.nan, 0.25]),
    },
    "zeros": {name: np.full(2, np.nan) for name in ("nrmse", "mse", "invented")},
}


def test_a_row_for_each_method_and_a_dash_where_there_is_no_value() -> None:
    grid = score_grid(SCORES, ("nrmse", "invented"), "title", "2 volumes")
    assert grid.header == ["method", "NRMSE ↓", "invented ↓"]
    assert grid.rows == [
        ["input", "0.950 [0.905, 0.995]", "–"],
        ["UpsampleUnetWGANGP", "0.300 [0.300, –]", "0.250 [0.250, 0.250]"],
        ["zeros", "–", "–"],
    ]
    assert "over 2 volumes" in grid.note
    left = {name: SCORES[name] for name in ("input", "zeros")}
    assert score_grid(left, ("nrmse", "invented"), "title").header == ["method", "NRMSE ↓"]


def test_rows_for_a_logger_are_those_of_the_table() -> None:
    columns, rows = score_rows(SCORES, ("nrmse", "invented"))
    assert columns == ["method", "nrmse_p5", "nrmse", "nrmse_p95", "invented_p5", "invented", "invented_p95"]
    assert rows[0] == ["input", 0.905, 0.95, 0.995, None, None, None]
    assert csv_text([columns, *rows]).splitlines()[3] == "zeros,,,,,,"


@pytest.mark.parametrize("width", [80, 200])
def test_a_terminal_shows_each_number_whole(width: int) -> None:
    values = {name: np.array([123.4567, 123.4567]) / MEASURES[name].factor for name in QUALITY}  # as long as they get
    grid = score_grid({"CompactUnetAE": values}, QUALITY, "title", "20000 volumes")
    text = io.StringIO()
    Console(file=text, width=width).print(grid.terminal())
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert text.getvalue().count("[123.5,123.5]") == len(QUALITY)
    assert "CompactUnet" in text.getvalue()
