import numpy as np
import pytest
import torch
from scipy import ndimage

from cryoden.errors import CryodenError
from cryoden.particles import DensityMap, Particle, load_particle
from cryoden.simulation.density import clean_volume, smallest_box
from cryoden.simulation.scene import Scene, SceneVolume


@pytest.fixture(scope="module")
def particles() -> list[Particle]:
    return [load_particle("phantom:1"), load_particle("phantom:2")]


def made(particles: list[Particle], /, seed: int = 0, **arguments) -> SceneVolume:
    small = {"shape": (24, 28, 32), "voxel_size": 10.0, "resolution": 20.0, "count": 6, "particles": particles}
    return Scene(**{**small, **arguments}).make(torch.Generator().manual_seed(seed))


def test_a_scene_is_a_function_of_its_seed(particles: list[Particle]) -> None:
    one, again, other = made(particles), made(particles), made(particles, seed=1)
    assert np.array_equal(one.density, again.density)
    assert np.array_equal(one.labels, again.labels)
    assert not np.array_equal(one.density, other.density)
    assert one.density.dtype == np.float32
    assert one.density.shape == one.labels.shape == (24, 28, 32)
    assert one.density.max() == 1


@pytest.mark.parametrize("seed", range(3))
def test_the_table_rebuilds_the_scene_and_nothing_overlaps(particles: list[Particle], seed: int) -> None:
    scene = made(particles, seed)
    by_name = {particle.name: particle for particle in particles}
    pad = 32
    alone = []
    for placement in scene.placements:
        particle = by_name[placement.particle]
        box = smallest_box(particle, 10.0, 20.0)
        padded = np.zeros(np.array(scene.density.shape) + 2 * pad, np.float32)
        corner = placement.position - box // 2 + pad
        padded[tuple(slice(c, c + box) for c in corner)] = clean_volume(particle, placement.rotation, box, 10.0, 20.0)
        inside = padded[pad:-pad, pad:-pad, pad:-pad]
        assert (padded > 0.05).sum() == (inside > 0.05).sum()  # each lies whole within the scene
        alone.append(inside)
    assert len(alone) > 2
    np.testing.assert_allclose(scene.density, sum(alone) / np.sum(alone, axis=0).max(), atol=1e-6)
    for label, volume in enumerate(alone, start=1):
        assert np.array_equal(scene.labels == label, volume > 0.05)  # so no voxel has two particles


def test_particles_nestle_where_spheres_around_them_would_overlap() -> None:
    rod = np.zeros((21, 21, 21), np.float32)
    rod[:, 8:13, 8:13] = 1
    scene = made([DensityMap("rod", rod, 10.0)], shape=(36, 36, 36), count=40)
    centres = np.array([p.position for p in scene.placements])
    nearest = np.sort(np.linalg.norm(centres[:, None] - centres[None], axis=-1), axis=1)[:, 1].min()
    assert nearest < 18  # the rods are 21 voxels long
    assert ndimage.label(scene.labels > 0)[1] <= len(scene.placements) <= 40


def test_a_full_scene_holds_fewer_than_were_asked_for(particles: list[Particle]) -> None:
    assert 1 < len(made(particles, shape=(16, 16, 16), count=500).placements) < 50
    counts = {len(made(particles, seed, shape=(40, 40, 40), count=(1, 3)).placements) for seed in range(12)}
    assert counts == {1, 2, 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count: got 0"),
        ({"count": (3, 2)}, r"count: got \(3, 2\)"),
        ({"particles": []}, "particles: got none"),
        ({"shape": (8, 64, 64)}, "phantom:1: its diameter of .* do not fit into a box of 8 voxels"),
    ],
)
def test_bad_arguments(arguments: dict, message: str, particles: list[Particle]) -> None:
    with pytest.raises(CryodenError, match=message):
        made(particles, **arguments)
