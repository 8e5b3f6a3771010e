"""Small proteins, solutes and lumps: imaged, not in the truth, with the amount and the spectrum they were given."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from cryoden.errors import CryodenError
from cryoden.particles import Particle, load_particle
from cryoden.simulation import Background, Scene, SceneContents, SceneVolume
from cryoden.simulation.sampling import sample_everywhere
from tests.simulation.cutting import cut_in_fourier_space, difference


@pytest.fixture(scope="module")
def particles() -> list[Particle]:
    return [load_particle("phantom:0")]


def made(particles: list[Particle], background: Background | None, seed: int = 0, **contents) -> SceneVolume:
    contents = {"count": 6, **contents, "background": background}
    scene = Scene((40, 48, 44), 10.0, 20.0, particles, SceneContents(**contents))
    return scene.make(torch.Generator().manual_seed(seed))


NOTHING = {"proteins": 0.0, "solutes": 0.0}


def test_what_is_in_the_background_is_not_in_the_truth(particles: list[Particle]) -> None:
    assert made(particles, None).background is None
    there = made(particles, Background(proteins=80.0, solutes=0.1))
    beside = ndimage.distance_transform_edt(there.labels == 0) > 4
    assert np.abs(there.density[beside]).max() < 0.03
    assert there.background[beside].std() > 0.1
    assert there.background.dtype == np.float32
    again = made(particles, Background(proteins=80.0, solutes=0.1))
    assert np.array_equal(there.background, again.background)


@pytest.mark.parametrize("grams", [40.0, 120.0])
def test_proteins_fill_what_their_concentration_says(particles: list[Particle], grams: float) -> None:
    scene = made(particles, Background(proteins=grams, protein_mass=20.0, solutes=0.0), count=1)
    assert scene.background.mean() == pytest.approx(grams / 1350, rel=0.07)
    assert 0.7 < scene.background.max() < 1.6  # as dense as protein


def test_proteins_have_the_mass_that_is_asked_for() -> None:
    """A bead of each kDa."""
    free = np.ones((20, 20, 20), np.bool_)
    beads = Background(protein_mass=47.0)._beads(80.0, free, 10.0, np.random.default_rng(0))
    assert len(beads) > 0
    assert len(beads) % 47 == 0


def test_proteins_lie_beside_all_else_and_in_the_ice(particles: list[Particle]) -> None:
    scene = made(particles, Background(proteins=150.0, solutes=0.0), ice=250.0)
    # Within what is labelled, by more than the blur, next to nothing of them is left.
    inside = ndimage.binary_erosion(scene.labels > 0, iterations=2)
    assert inside.sum() > 50
    assert np.abs(scene.background[inside]).mean() < 0.25 * scene.background[10:30].mean()
    assert np.abs(scene.background[:3]).max() < 0.06


@pytest.mark.parametrize("size", [12.0, 24.0])
def test_solutes_have_the_deviation_and_the_correlation_that_were_asked_for(
    particles: list[Particle], size: float
) -> None:
    """In a volume so fine that its blur takes nothing: 1/e is left at that distance."""
    scene = Scene((48, 48, 48), 4.0, 8.0, particles, SceneContents(count=1, background=Background(
        proteins=0.0, solutes=0.2, solute_size=size
    )))  # fmt: skip
    fields = [scene.make(torch.Generator().manual_seed(seed)) for seed in range(4)]
    spectrum = np.mean([np.abs(np.fft.fftn(made.background)) ** 2 for made in fields], axis=0)
    correlation = np.fft.ifftn(spectrum).real / spectrum.size
    along = np.mean([correlation[:24, 0, 0], correlation[0, :24, 0], correlation[0, 0, :24]], axis=0)
    expected = 0.2**2 * np.exp(-np.arange(24) * 4.0 / size)
    np.testing.assert_allclose(along[3:8] / 0.2**2, expected[3:8] / 0.2**2, atol=0.12)


def test_solutes_are_where_ice_is(particles: list[Particle]) -> None:
    scene = made(particles, Background(proteins=0.0, solutes=0.2), ice=250.0)
    assert np.abs(scene.background[:4]).max() < 0.02  # vacuum
    deep = scene.density > 0.9
    assert scene.background[deep].std() < 0.2 * scene.background[scene.labels == 0].std()


def test_lumps_are_neither_in_the_truth_nor_in_the_table_and_keep_their_room(particles: list[Particle]) -> None:
    lumps = Background(**NOTHING, lumps=2, lump_diameter=200.0, lump_density=0.8)
    scene = made(particles, lumps, count=30)
    there = scene.background > 0.4
    assert ndimage.label(there)[1] == 2
    assert not scene.labels[there].any()
    assert {p.particle for p in scene.placements} == {"phantom:0"}
    assert scene.class_names == ("background", "phantom:0", "vesicle", "fiducial", "membrane", "microtubule", "actin")
    assert scene.background.max() == pytest.approx(0.8, rel=0.1)
    # A hexagon's area, 0.65 of the square of its diameter, times half the diameter.
    assert scene.background.sum() * 1000 == pytest.approx(2 * 0.8 * 0.65 * 200**2 * 100, rel=0.03)


def test_points_everywhere_hold_nothing_beyond_nyquist() -> None:
    """Against the same Gaussians on a four times finer grid, cut in Fourier space; at the borders they go on."""
    rng = np.random.default_rng(0)
    shape, voxel_size, blur = (12, 16, 20), 10.0, 6.0
    positions = (rng.random((40, 3)) * shape * voxel_size).astype(np.float32)
    weights = rng.random(40).astype(np.float32) * 1000
    volume = sample_everywhere(positions, weights, shape, voxel_size, blur)
    axes = [(np.arange(4 * n) - 1.5) * voxel_size / 4 for n in shape]
    fine = np.zeros([4 * n for n in shape])
    for position, weight in zip(positions, weights, strict=True):
        profiles = []
        for axis, at, n in zip(axes, position, shape, strict=True):
            side = n * voxel_size
            apart = (axis - at + side / 2) % side - side / 2
            profiles.append(np.exp(-0.5 * (apart / blur) ** 2) / (blur * (2 * np.pi) ** 0.5))
        fine += weight * np.einsum("i,j,k", *profiles)
    # Fine samples lie beside the voxels, so a cut moves by the half of it.
    waves = [np.fft.fftfreq(n) * 1.5 / 4 for n in shape]
    moved = np.exp(2j * np.pi * sum(np.ix_(*waves)))
    expected = np.fft.ifftn(np.fft.fftn(np.fft.fftshift(cut_in_fourier_space(np.fft.ifftshift(fine), 4))) * moved).real
    assert difference(volume, expected) < 0.03
    assert volume.sum() * voxel_size**3 == pytest.approx(weights.sum(), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"proteins": 400.0}, "proteins: got 400.0; allowed is a number of grams in a litre from 0 to 300"),
        ({"protein_mass": (60.0, 10.0)}, r"protein_mass: got \(60.0, 10.0\)"),
        ({"solutes": -0.1}, "solutes: got -0.1"),
        ({"solute_size": 0.0}, "solute_size: got 0.0"),
        ({"lumps": -1}, "lumps: got -1"),
        ({"lump_diameter": 0.0}, "lump_diameter: got 0.0"),
        ({"lump_density": 0.0}, "lump_density: got 0.0"),
        ({"lumps": 1, "lump_diameter": 900.0}, "lump_diameter: 900 Å do not fit into 40 voxels"),
    ],
)
def test_bad_arguments(arguments: dict, message: str, particles: list[Particle]) -> None:
    with pytest.raises(CryodenError, match=message):
        made(particles, Background(**arguments))
