import numpy as np
import pytest
import torch

from cryoden import CryodenError
from cryoden.particles import load_particle
from cryoden.simulation import Background, Surroundings
from cryoden.simulation.surroundings import _SIDES, Neighbours, _turned

PHANTOM = load_particle("phantom:1")
MARGIN = (12, 8, 20)


def around(surroundings: Surroundings, seed: int = 0, box: np.ndarray | None = None):
    neighbours = Neighbours([PHANTOM], surroundings, 10.0, 20.0, "band-limited", (3,))
    box = np.zeros((32, 32, 32), np.float32) if box is None else box
    return neighbours.around(box, MARGIN, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("occupancy", [0.05, 0.15])
def test_neighbours_fill_the_share_that_is_asked_for(occupancy: float) -> None:
    filled = [(around(Surroundings(occupancy), seed)[0] > 0.2).mean() for seed in range(6)]
    assert np.mean(filled) == pytest.approx(occupancy, rel=0.25)
    assert np.abs(around(Surroundings(0.0))[0]).max() == 0


def test_neighbours_overlap_neither_each_other_nor_what_is_in_the_box() -> None:
    """Where two overlapped, density would be that of both."""
    lone = around(Surroundings(0.01), 1)[0].max()
    box = np.zeros((32, 32, 32), np.float32)
    box[8:24, 8:24, 8:24] = 0.8
    density, _ = around(Surroundings(0.3), box=box)
    assert density.max() < 1.35 * lone
    inner = density[12:-12, 8:-8, 20:-20][8:24, 8:24, 8:24]
    assert np.abs(inner - 0.8).max() < 0.25 * lone


def test_the_sides_of_a_cube_are_rotations_each_once() -> None:
    """A mirror image would be a protein of the other hand."""
    grid = np.array(np.meshgrid(*[np.arange(-1, 2)] * 3, indexing="ij"), np.float32)
    matrices = []
    for turn in range(len(_SIDES)):
        moved = [_turned(axis, turn) for axis in grid]
        matrices.append(np.array([[axis[2, 1, 1], axis[1, 2, 1], axis[1, 1, 2]] for axis in moved]))
    assert len({matrix.tobytes() for matrix in matrices}) == 24
    assert all(np.linalg.det(matrix) == pytest.approx(1) for matrix in matrices)


def test_the_background_is_apart_and_leaves_room_for_what_is_there() -> None:
    box = np.zeros((32, 32, 32), np.float32)
    box[8:24, 8:24, 8:24] = 1.0
    density, background = around(Surroundings(0.0, Background(proteins=100.0, solutes=0.0)), box=box)
    assert background.shape == density.shape == (56, 48, 72)
    assert np.array_equal(density[12:-12, 8:-8, 20:-20], box)
    assert background[density == 0].std() > 0.02
    assert np.abs(background[density == 1]).max() == 0
    other = around(Surroundings(0.0, Background(proteins=100.0, solutes=0.0)), 1)[1]
    assert not np.array_equal(background, other)


def test_an_occupancy_that_is_none_is_refused() -> None:
    with pytest.raises(CryodenError, match=r"Surroundings.occupancy: got 0.7; allowed is a number from 0 to below 0.5"):
        Surroundings(0.7)
