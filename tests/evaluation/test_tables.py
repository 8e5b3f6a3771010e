import io

import numpy as np
import pytest
import torch
from rich.console import Console

from cryoden.data import ParticleDataModule
from cryoden.evaluation.tables import csv_text, grids, read_thesis, score_grid, score_rows
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
