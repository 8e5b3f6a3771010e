"""The thesis's sampling gives the volumes it always gave: the numbers here were recorded from its first code."""

import os
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoden.errors import CryodenError
from cryoden.particles import DensityMap, load_particle, read_structure
from cryoden.simulation.density import clean_volume
from cryoden.simulation.rotation import random_rotation
from cryoden.simulation.scene import Scene, SceneContents

STRUCTURES = os.environ.get("CRYODEN_STRUCTURE_DIR")


@pytest.mark.parametrize(
    ("box", "voxel_size", "resolution", "rms", "mean", "values"),
    [
        (32, 10.0, 20.0, 0.04953045, 0.004182207, (0.0, 0.060921, 0.209161)),
        (33, 6.0, 12.0, 0.07666258, 0.01133703, (0.0, 0.000109, 0.015494)),
    ],
)
def test_volumes_are_as_recorded(
    box: int, voxel_size: float, resolution: float, rms: float, mean: float, values: tuple[float, ...]
) -> None:
    rotation = Rotation.random(random_state=4).as_matrix()
    volume = clean_volume(load_particle("phantom:1"), rotation, box, voxel_size, resolution, "thesis").astype(float)
    assert (volume.min(), volume.max()) == (0, 1)
    assert np.sqrt(np.mean(volume**2)) == pytest.approx(rms, rel=1e-5)
    assert volume.mean() == pytest.approx(mean, rel=1e-5)
    c = box // 2
    found = [volume[c, c, c], volume[c - 2, c + 1, c], volume[c + 3, c - 1, c + 2]]
    np.testing.assert_allclose(found, values, atol=2e-6)


def test_scenes_are_as_recorded() -> None:
    particles = [load_particle("phantom:1"), load_particle("phantom:2")]
    scene = Scene((24, 28, 32), 10.0, 20.0, particles, SceneContents(count=6), "thesis")
    made = scene.make(torch.Generator().manual_seed(0))
    positions = sorted(tuple(placement.position.tolist()) for placement in made.placements)
    assert positions == [(6, 8, 23), (8, 14, 10), (14, 17, 21), (16, 23, 5), (18, 12, 11), (18, 21, 14)]
    assert made.density.max() == 1
    assert made.density.astype(float).std() == pytest.approx(0.1427950, rel=1e-5)
    assert made.occupancy == pytest.approx(0.08533296, rel=1e-5)


def test_it_is_gemmis_density_of_each_atom_at_the_voxels_centres() -> None:
    particle = load_particle("phantom:2")
    rotation = Rotation.random(random_state=0).as_matrix()
    calculator = gemmi.DensityCalculatorE()
    calculator.grid.set_unit_cell(gemmi.UnitCell(320, 320, 320, 90, 90, 90))
    calculator.grid.set_size(32, 32, 32)
    calculator.blur = 0.7 * 20**2
    for each in particle.model.all():
        atom = each.atom.clone()
        atom.pos = gemmi.Position(*(rotation @ np.array(atom.pos.tolist()) + 160))
        calculator.add_atom_density_to_grid(atom)
    expected = np.array(calculator.grid.array.T)
    volume = clean_volume(particle, rotation, 32, 10.0, 2.0, "thesis")  # finer than two voxels: taken as these
    np.testing.assert_allclose(volume, expected / expected.max(), atol=1e-5)


@pytest.mark.skipif(STRUCTURES is None, reason="CRYODEN_STRUCTURE_DIR is not set")
def test_calibration() -> None:
    """The thesis's table 4 for 1bxn: MSE 1.155e-3 and NRMSE 0.934, so an RMS of 0.0364."""
    particle = read_structure(Path(str(STRUCTURES)) / "1bxn.pdb.gz")
    generator = torch.Generator().manual_seed(0)
    rotations = [random_rotation(generator).numpy() for _ in range(100)]
    rms = [np.sqrt(np.mean(clean_volume(particle, r, 64, 6.0, 12.0, "thesis") ** 2)) for r in rotations]
    assert 0.036 < np.median(rms) < 0.037


def test_it_knows_structures_in_endless_ice_alone() -> None:
    ball = DensityMap("ball", (np.square(np.indices((9, 9, 9)) - 4).sum(0) < 9).astype(np.float32), 10.0)
    with pytest.raises(CryodenError, match="sampling: got 'thesis' for the density map ball; maps are 'band-limited'"):
        clean_volume(ball, np.eye(3), 24, 10.0, 20.0, "thesis")
    particle = load_particle("phantom:1")
    for particles, contents in (
        ([particle, ball], SceneContents()),
        ([particle], SceneContents(fiducials=(0, 1), fiducial_diameter=50.0)),
        ([particle], SceneContents(ice=240.0)),
    ):
        with pytest.raises(
            CryodenError, match="sampling: got 'thesis' for a scene with vesicles, fiducials, filaments"
        ):
            Scene((30, 30, 30), 10.0, 20.0, particles, contents, "thesis")
