import pytest
import torch

from cryoden.data import ParticleDataModule
from cryoden.evaluation.tables import grids, read_thesis
from cryoden.evaluation.verdict import verdict
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
