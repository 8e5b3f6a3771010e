import os
import pickle
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from scipy import ndimage

from cryoden.errors import CryodenError
from cryoden.particles.density_map import DensityMap
from cryoden.particles.structure import Structure, read_structure
from cryoden.simulation.density import _atomic_density, check_fits, clean_volume
from cryoden.simulation.rotation import random_rotation

STRUCTURES = os.environ.get("CRYODEN_STRUCTURE_DIR")
QUARTER_TURN_ABOUT_Z = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]  # x goes to y


def structure(positions, elements="C"):
    chain, residue = gemmi.Chain("A"), gemmi.Residue()
    residue.name, residue.seqid = "LIG", gemmi.SeqId("1")
    for i, position in enumerate(positions):
        atom = gemmi.Atom()
        atom.name, atom.element = f"C{i}", gemmi.Element(elements[i % len(elements)])
        atom.pos, atom.b_iso = gemmi.Position(*map(float, position)), 50.0
        residue.add_atom(atom)
    chain.add_residue(residue)
    deposited = gemmi.Structure()
    deposited.add_model(gemmi.Model(1))
    deposited[0].add_chain(chain)
    return Structure.from_gemmi(deposited, "probe")


@pytest.fixture
def blob():
    """A lopsided cloud of 300 atoms, about 45 Å wide."""
    rng = np.random.default_rng(0)
    return structure(rng.normal(size=(300, 3)) * (8, 5, 3) + 6 * rng.integers(0, 2, size=(300, 1)), "CNO")


def rotations(n):
    generator = torch.Generator().manual_seed(0)
    return [random_rotation(generator).numpy() for _ in range(n)]


@pytest.mark.parametrize("box", [24, 25])
@pytest.mark.parametrize(("voxel_size", "resolution"), [(6.0, 12.0), (4.0, 10.0)])
def test_form(blob, box, voxel_size, resolution):
    volume = clean_volume(blob, np.eye(3), box, voxel_size, resolution)
    assert (volume.shape, volume.dtype) == ((box, box, box), np.float32)
    assert volume.flags["C_CONTIGUOUS"]
    assert (volume.min(), volume.max()) == (0, 1)


@pytest.mark.parametrize("rotation", [np.eye(3), *rotations(2)])
def test_total_scattering_and_centre_are_conserved(blob, rotation):
    density = _atomic_density(blob.model, rotation, 32, 3.0, 16.0)
    # The integral over an atom is its electron scattering factor at angle 0 (Å; Peng et al. 1996, table 1).
    factors = {"C": 2.5088, "N": 2.2111, "O": 1.9826}
    expected = 100 * sum(factors.values())
    assert density.sum(dtype=np.float64) * 27 == pytest.approx(expected, rel=5e-3)
    weight = [factors[a.element.name] for c in blob.model for r in c for a in r]
    positions = np.array([a.pos.tolist() for c in blob.model for r in c for a in r])
    centre = rotation @ np.average(positions, axis=0, weights=weight) / 3.0
    np.testing.assert_allclose(ndimage.center_of_mass(density), 16 + centre[::-1], atol=0.01)


@pytest.mark.parametrize("box", [20, 21])
def test_centre_is_the_middle_voxel(box):
    """A symmetric particle has its centre of mass there whatever the rotation."""
    cross = structure([s * 10 * axis for axis in np.eye(3) for s in (-1, 1)])
    for rotation in rotations(3):
        volume = clean_volume(cross, rotation, box, 3.0, 12.0)
        np.testing.assert_allclose(ndimage.center_of_mass(volume), box // 2, atol=0.02)


def test_two_atoms_land_where_the_convention_says():
    """Sulphur at +x, the lighter oxygen at -x; the volume's axes are z, y, x."""
    probe = structure([(12, 0, 0), (-12, 0, 0)], "SO")
    for rotation, axis in ((np.eye(3), 2), (QUARTER_TURN_ABOUT_Z, 1)):
        volume = clean_volume(probe, rotation, 16, 4.0, 8.0)
        expected = [8, 8, 8]
        expected[axis] += 3
        assert np.unravel_index(volume.argmax(), volume.shape) == tuple(expected)
        expected[axis] -= 6
        assert 0.2 < volume[tuple(expected)] < 0.9


def test_quarter_turn_moves_the_axes(blob):
    volume = clean_volume(blob, np.eye(3), 25, 4.0, 10.0)
    turned = clean_volume(blob, QUARTER_TURN_ABOUT_Z, 25, 4.0, 10.0)
    np.testing.assert_allclose(turned, np.rot90(volume, axes=(2, 1)), atol=1e-4)
    assert np.abs(turned - volume).max() > 0.1


def test_moving_the_atoms_is_rotating_the_volume(blob):
    density = _atomic_density(blob.model, np.eye(3), 32, 3.0, 36.0)  # blurred enough for a spline to follow
    for rotation in rotations(2):
        inverse = rotation.T[::-1, ::-1]
        centre = np.full(3, 16)
        expected = ndimage.affine_transform(density, inverse, centre - inverse @ centre, order=5)
        moved = _atomic_density(blob.model, rotation, 32, 3.0, 36.0)
        assert np.sqrt(np.mean((moved - expected) ** 2)) < 0.01 * np.sqrt(np.mean(moved**2))


def test_resolution_blurs(blob):
    sharp, soft = (clean_volume(blob, np.eye(3), 32, 3.0, resolution) for resolution in (6.0, 24.0))
    assert np.abs(np.gradient(sharp)).mean() / sharp.mean() > np.abs(np.gradient(soft)).mean() / soft.mean()
    coarse, finer = (clean_volume(blob, np.eye(3), 16, 9.0, resolution) for resolution in (18.0, 2.0))
    np.testing.assert_array_equal(coarse, finer)  # what the voxels cannot show is not asked for


def test_is_a_pure_function_that_survives_pickling(blob):
    first = clean_volume(blob, rotations(1)[0], 24, 4.0, 12.0)
    clean_volume(blob, rotations(2)[1], 24, 4.0, 12.0)
    copy = pickle.loads(pickle.dumps(blob))
    np.testing.assert_array_equal(clean_volume(copy, rotations(1)[0], 24, 4.0, 12.0), first)


def test_particle_must_fit():
    probe = structure([(-60, 0, 0), (60, 0, 0)])  # 120 + 12 Å: 22 voxels, and one to spare
    message = (
        "probe: its diameter of 120 Å and 12 Å of blur do not fit into a box of 16 voxels of 6 Å [(]96 Å[)]; "
        "the smallest box that fits is 32 voxels"
    )
    for call in (check_fits, lambda *args: clean_volume(args[0], np.eye(3), *args[1:])):
        with pytest.raises(CryodenError, match=message):
            call(probe, 16, 6.0, 12.0)
    check_fits(probe, 23, 6.0, 12.0)
    with pytest.raises(CryodenError, match="22 voxels"):
        check_fits(probe, 22, 6.0, 12.0)


@pytest.mark.parametrize("box", [23, 24])
def test_what_fits_does_not_wrap_around(box):
    """In the tightest box, an atom at the rim leaves nothing on the other side."""
    probe = structure([(-60, 0, 0), (60, 0, 0)])
    check_fits(probe, box, 6.0, 12.0)
    for sign in (1, -1):
        lone = probe.model.clone()
        del lone[0][0][0 if sign == 1 else 1]
        density = _atomic_density(lone, np.eye(3), box, 6.0, 12.0)
        half = density[:, :, : box // 2] if sign == 1 else density[:, :, box // 2 + 1 :]
        assert np.abs(half).max() < 1e-3 * density.max()


@pytest.mark.parametrize(("name", "numbers"), [
    ("box", (0, 6.0, 12.0)), ("voxel_size", (32, 0.0, 12.0)), ("resolution", (32, 6.0, -1.0)),
    ("voxel_size", (32, float("nan"), 12.0)),
])  # fmt: skip
def test_numbers_must_be_above_zero(blob, name, numbers):
    with pytest.raises(CryodenError, match=f"{name}: got .*above 0"):
        check_fits(blob, *numbers)


def test_density_map_goes_the_same_way():
    data = np.zeros((15, 15, 15), np.float32)
    data[7, 7, 7], data[7, 7, 10] = 1.0, 0.999
    particle = DensityMap("map", ndimage.gaussian_filter(data, 1), 8.0)
    volume = clean_volume(particle, np.eye(3), 32, 8.0, 16.0)
    assert (volume.dtype, volume.max()) == (np.float32, 1)
    np.testing.assert_allclose(ndimage.center_of_mass(volume), 16, atol=0.02)
    with pytest.raises(CryodenError, match="map: its diameter"):
        clean_volume(particle, np.eye(3), 8, 8.0, 16.0)


@pytest.mark.skipif(STRUCTURES is None, reason="CRYODEN_STRUCTURE_DIR is not set")
def test_calibration():
    """The thesis's table 4 for 1bxn: MSE 1.155e-3 and NRMSE 0.934, so an RMS of 0.0364."""
    particle = read_structure(Path(STRUCTURES) / "1bxn.pdb.gz")
    rms = [np.sqrt(np.mean(clean_volume(particle, r, 64, 6.0, 12.0) ** 2)) for r in rotations(100)]
    assert 0.036 < np.median(rms) < 0.037
