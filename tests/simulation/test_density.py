"""Clean volumes: what they mean in volts, what they hold, and how they turn."""

import os
import pickle

import gemmi
import numpy as np
import pytest
import torch
from scipy import ndimage

from cryoden.errors import CryodenError
from cryoden.particles import DensityMap, Structure, load_particle
from cryoden.simulation import points
from cryoden.simulation.density import check_fits, clean_volume, scattering_density, smallest_box
from cryoden.simulation.rotation import random_rotation
from cryoden.simulation.units import ICE, UNIT, VOLTS
from tests.simulation.cutting import cut_in_fourier_space, difference, even

STRUCTURES = os.environ.get("CRYODEN_STRUCTURE_DIR")
QUARTER_TURN_ABOUT_Z = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]  # x goes to y
# voxel size, resolution, and what may be different from the reference: 2 % at two voxels, 0.5 % at three
RESOLUTIONS = [(6.0, 12.0, 0.02), (8.0, 16.0, 0.02), (10.0, 20.0, 0.02), (6.0, 18.0, 0.005), (10.0, 30.0, 0.005)]
# Forward scattering factors, Å (Peng et al. 1996, table 1)
FACTORS = {"H": 0.5288, "C": 2.5088, "N": 2.2111, "O": 1.9826, "P": 5.4876, "S": 5.1604}


def structure(positions, elements="C", residue_name="LIG", hydrogens=False, per_residue=None):
    """Atoms of these elements in turn, so many to a residue; by default all in one, which no table knows."""
    chain = gemmi.Chain("A")
    for i, position in enumerate(positions):
        if i % (per_residue or len(positions)) == 0:
            residue = gemmi.Residue()
            residue.name, residue.seqid = residue_name, gemmi.SeqId(str(len(chain) + 1))
            chain.add_residue(residue)
        atom = gemmi.Atom()
        atom.name, atom.element = f"{elements[i % len(elements)]}{i}", gemmi.Element(elements[i % len(elements)])
        atom.pos, atom.b_iso = gemmi.Position(*map(float, position)), 50.0
        chain[-1].add_atom(atom)
    deposited = gemmi.Structure()
    deposited.add_model(gemmi.Model(1))
    deposited[0].add_chain(chain)
    return Structure.from_gemmi(deposited, "probe", hydrogens=hydrogens)


@pytest.fixture
def blob():
    """A lopsided cloud of 300 atoms, about 45 Å wide."""
    rng = np.random.default_rng(0)
    return structure(rng.normal(size=(300, 3)) * (8, 5, 3) + 6 * rng.integers(0, 2, size=(300, 1)), "CNO")


def rotations(n):
    generator = torch.Generator().manual_seed(0)
    return [random_rotation(generator).numpy() for _ in range(n)]


def turned(particle, rotation):
    """The same atoms, turned before they are looked at."""
    model = particle.model.clone()
    model.transform_pos_and_adp(gemmi.Transform(gemmi.Mat33(np.asarray(rotation).tolist()), gemmi.Vec3(0, 0, 0)))
    return Structure(particle.name, model)


@pytest.fixture
def no_ice(monkeypatch):
    """Atoms in vacuum, to compare with gemmi's; particles must be new, for their points are kept."""
    monkeypatch.setattr(points, "ICE", 0.0)


# --- what voxels can hold ---------------------------------------------------------------------------


@pytest.mark.parametrize(("voxel_size", "resolution", "limit"), RESOLUTIONS)
@pytest.mark.parametrize("rotation", rotations(2))
def test_volumes_hold_nothing_beyond_nyquist(rotation, voxel_size, resolution, limit):
    """Against atoms that were turned first, on a four times finer grid, in the tightest box."""
    particle = load_particle("phantom:2")
    box = even(smallest_box(particle, voxel_size, resolution))
    fine = scattering_density(turned(particle, rotation), np.eye(3), 4 * box, voxel_size / 4, resolution)
    volume = clean_volume(particle, rotation, box, voxel_size, resolution)
    assert difference(volume, cut_in_fourier_space(fine, 4)) < limit


@pytest.mark.usefixtures("no_ice")
@pytest.mark.parametrize(("voxel_size", "resolution", "limit"), [(3.0, 6.0, 0.02), *RESOLUTIONS])
def test_atoms_are_gemmis_blurred_as_molmap_does(blob, voxel_size, resolution, limit):
    """And cut in Fourier space: nothing here is shared with our own way there."""
    rotation = rotations(3)[2]
    box = even(smallest_box(blob, voxel_size, resolution))
    side = box * voxel_size
    model = turned(blob, rotation).model
    model.transform_pos_and_adp(gemmi.Transform(gemmi.Mat33(), gemmi.Vec3(side / 2, side / 2, side / 2)))
    calculator = gemmi.DensityCalculatorE()
    calculator.grid.set_unit_cell(gemmi.UnitCell(side, side, side, 90, 90, 90))
    calculator.grid.set_size(4 * box, 4 * box, 4 * box)
    calculator.blur = 8 * np.pi**2 * (0.225 * resolution) ** 2
    calculator.cutoff = 1e-8
    calculator.add_model_density_to_grid(model)
    expected = cut_in_fourier_space(np.array(calculator.grid.array.T), 4) * 1.22 / UNIT
    assert difference(clean_volume(blob, rotation, box, voxel_size, resolution), expected) < limit


@pytest.mark.skipif(STRUCTURES is None, reason="CRYODEN_STRUCTURE_DIR is not set")
@pytest.mark.parametrize("entry", ["1bxn", "3qm1", "1s3x", "7pbl"])
@pytest.mark.parametrize(("voxel_size", "resolution", "limit"), RESOLUTIONS)
def test_real_volumes_hold_nothing_beyond_nyquist(entry, voxel_size, resolution, limit):
    particle = load_particle(entry)
    rotation = rotations(1)[0]
    box = even(smallest_box(particle, voxel_size, resolution))
    fine = scattering_density(turned(particle, rotation), np.eye(3), 4 * box, voxel_size / 4, resolution)
    volume = clean_volume(particle, rotation, box, voxel_size, resolution)
    assert difference(volume, cut_in_fourier_space(fine, 4)) < limit


@pytest.mark.usefixtures("no_ice")
@pytest.mark.parametrize("element", ["H", "C", "N", "O", "P", "S", "Mg", "Fe", "Zn", "Pt"])
@pytest.mark.parametrize(("voxel_size", "resolution"), [(2.5, 5.0), (6.0, 12.0), (10.0, 20.0)])
def test_each_element_scatters_as_gemmi_says_up_to_nyquist(element, voxel_size, resolution):
    box = 24
    lone = structure([(0, 0, 0)])
    lone.model[0][0][0].element = gemmi.Element(element)  # lone ions are left out of what is read
    volume = scattering_density(lone, rotations(1)[0], box, voxel_size, resolution)
    spectrum = np.fft.fftn(np.fft.ifftshift(volume)).real * voxel_size**3 * UNIT
    waves = np.arange(box // 2) / (box * voxel_size)  # below Nyquist
    with_hydrogens = 1.0 if element == "H" else 1.22
    factors = np.array([gemmi.Element(element).c4322.calculate_sf(float(k / 2) ** 2) for k in waves])
    expected = factors * np.exp(-2 * (np.pi * 0.225 * resolution * waves) ** 2) * with_hydrogens
    for along in (spectrum[0, 0, : box // 2], spectrum[0, : box // 2, 0], spectrum[: box // 2, 0, 0]):
        np.testing.assert_allclose(along, expected, rtol=0.01)


def test_a_wave_of_the_resolutions_period_keeps_one_in_e(blob):
    """Between two resolutions, at the period of one of them: the blur of each is known, so their ratio is."""
    sharp, soft = (scattering_density(blob, np.eye(3), 40, 4.0, resolution) for resolution in (8.0, 20.0))
    ratio = np.abs(np.fft.fftn(soft)[8, 0, 0] / np.fft.fftn(sharp)[8, 0, 0])  # 160 Å / 8 = 20 Å
    assert ratio == pytest.approx(np.exp(-1) / np.exp(-((8 / 20) ** 2)), rel=0.01)
    coarse, finer = (clean_volume(blob, np.eye(3), 16, 9.0, resolution) for resolution in (18.0, 2.0))
    np.testing.assert_array_equal(coarse, finer)  # what the voxels cannot show is not asked for


# --- turning and placing ----------------------------------------------------------------------------


@pytest.mark.parametrize("box", [24, 25])
@pytest.mark.parametrize(("voxel_size", "resolution"), [(6.0, 12.0), (4.0, 10.0)])
def test_form(blob, box, voxel_size, resolution):
    volume = clean_volume(blob, np.eye(3), box, voxel_size, resolution)
    assert (volume.shape, volume.dtype) == ((box, box, box), np.float32)
    assert volume.flags["C_CONTIGUOUS"]
    assert np.abs(volume[0]).max() < 0.02 * volume.max()  # nothing where there is ice


@pytest.mark.parametrize("rotation", [np.eye(3), *rotations(2)])
def test_centre_and_amount_do_not_hang_on_the_orientation(blob, rotation):
    still, volume = (clean_volume(blob, r, 32, 3.0, 16.0) for r in (np.eye(3), rotation))
    assert volume.sum(dtype=np.float64) == pytest.approx(still.sum(dtype=np.float64), rel=1e-4)
    centre = np.array(ndimage.center_of_mass(still))[::-1] - 16
    np.testing.assert_allclose(ndimage.center_of_mass(volume), 16 + (rotation @ centre)[::-1], atol=0.01)


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
        assert 0.2 < volume[tuple(expected)] / volume.max() < 0.9


def test_quarter_turn_moves_the_axes(blob):
    volume = clean_volume(blob, np.eye(3), 25, 4.0, 10.0)
    quarter = clean_volume(blob, QUARTER_TURN_ABOUT_Z, 25, 4.0, 10.0)
    np.testing.assert_allclose(quarter, np.rot90(volume, axes=(2, 1)), atol=1e-4)
    assert np.abs(quarter - volume).max() > 0.1


def test_is_a_pure_function_that_survives_pickling(blob):
    first = clean_volume(blob, rotations(1)[0], 24, 4.0, 12.0)
    clean_volume(blob, rotations(2)[1], 24, 4.0, 12.0)
    copy = pickle.loads(pickle.dumps(blob))
    np.testing.assert_array_equal(clean_volume(copy, rotations(1)[0], 24, 4.0, 12.0), first)


# --- what it means in volts -------------------------------------------------------------------------


def volts(particle, cubic_angstrom):
    """The mean potential above ice of a particle that fills so much."""
    box = smallest_box(particle, 6.0, 12.0)
    total = scattering_density(particle, np.eye(3), box, 6.0, 12.0).sum(dtype=np.float64) * 6.0**3
    return float(total) * VOLTS / cubic_angstrom


def test_the_amount_is_that_of_the_atoms_and_their_hydrogens_less_the_ice_they_displace(blob):
    heavy = 100 * (FACTORS["C"] + FACTORS["N"] + FACTORS["O"])
    hydrogens = 0.22 * heavy / FACTORS["H"]
    displaced = 0.983 * (100 * (16.44 + 2.49 + 9.13) + hydrogens * 5.15)
    expected = (1.22 * heavy - ICE * displaced) / UNIT
    assert volts(blob, 1.0) == pytest.approx(expected * VOLTS, rel=5e-3)


@pytest.mark.parametrize("name", ["phantom:1", "phantom:7"])
def test_protein_in_bulk_is_3_42_volts_above_ice(name):
    particle = load_particle(name)
    whole = particle.mass * 1000 / 0.93  # of which hydrogens, not among the atoms, are 7 %
    assert volts(particle, whole / 1.35 / 0.6022) == pytest.approx(3.42, rel=0.04)


def test_nucleic_acid_is_1_4_times_as_dense_as_protein():
    """By hand: RNA of 0.55 ml/g, C9.5 N3.75 O7 P and 10.7 hydrogens in 320.5 Da."""
    rng = np.random.default_rng(0)
    # the atoms of adenosine monophosphate in a chain, at random where RNA is as dense as it is
    atoms = ["P"] + 10 * ["C"] + 5 * ["N"] + 6 * ["O"]
    n = 60 * len(atoms)
    cube = (60 * 329.2 * 0.55 / 0.6022) ** (1 / 3)
    rna = structure(rng.random((n, 3)) * cube, atoms, residue_name="A", per_residue=len(atoms))
    by_hand = 9.5 * 2.509 + 3.75 * 2.214 + 7 * 1.983 + 5.488 + 10.7 * 0.529
    by_hand = (by_hand * 0.6022 / 320.5 / 0.55 - ICE) * 47.878
    assert by_hand == pytest.approx(1.41 * VOLTS, rel=0.01)
    assert volts(rna, cube**3) == pytest.approx(by_hand, rel=0.06)  # which is of all four bases


def test_hydrogens_count_whether_the_file_has_them_or_not():
    """Leucine in a chain has 11 of them: one that lists them, one that does not, and a lone one in solution."""
    heavy = [
        (0, 0, 0),
        (1.5, 0, 0),
        (2.2, 1.3, 0),
        (1.6, 2.4, 0),
        (2.0, -0.8, 1.2),
        (3.5, -0.9, 1.3),
        (4.1, -1.8, 2.3),
        (4.2, 0.4, 1.6),
    ]
    elements = "NCCOCCCC"
    rng = np.random.default_rng(0)
    listed = [np.array(heavy[i % 8]) + rng.normal(size=3) * 0.6 for i in range(11)]
    bare = structure(heavy, elements, "LEU")
    full = structure([*heavy, *listed], [*elements, *("H" * 11)], "LEU", hydrogens=True)
    removed = structure([*heavy, *listed], [*elements, *("H" * 11)], "LEU")
    assert volts(full, 1.0) == pytest.approx(volts(bare, 1.0), rel=0.01)
    assert volts(removed, 1.0) == pytest.approx(volts(bare, 1.0), rel=1e-3)
    expected = 6 * FACTORS["C"] + FACTORS["N"] + FACTORS["O"] + 11 * FACTORS["H"]
    expected -= ICE * 0.983 * (6 * 16.44 + 2.49 + 9.13 + 11 * 5.15)
    assert volts(bare, 1.0) == pytest.approx(expected / UNIT * VOLTS, rel=0.02)


def test_ice_takes_away_a_volume_not_a_share():
    """Detail that the smooth envelope does not have stays: what a constant share would leave of it is too weak.

    By the surface that a probe of 1.4 Å rolls over, 1bxn and 3gl1: 1.0, 1.46 and 1.74 times; phantoms,
    whose side chains leave fewer gaps for the ice, 0.98 to 1.0, 1.26 to 1.36, and 1.46 to 1.49.
    """
    particle = load_particle("phantom:1")
    box, voxel_size = 60, 4.0
    above, bare = (of(particle, box, voxel_size) for of in (_density, _without_ice))
    k = np.fft.fftfreq(box, voxel_size)
    frequency = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    power = [np.abs(np.fft.fftn(v)) ** 2 for v in (above, bare * (above.sum() / bare.sum()))]
    for (longest, shortest), stronger in (((80, 40), 1.0), ((16, 12), 1.3), ((12, 10), 1.48)):
        shell = (frequency > 1 / longest) & (frequency < 1 / shortest)
        assert np.sqrt(power[0][shell].sum() / power[1][shell].sum()) == pytest.approx(stronger, abs=0.1)


def _density(particle, box, voxel_size):
    return scattering_density(particle, np.eye(3), box, voxel_size, 2 * voxel_size)


def _without_ice(particle, box, voxel_size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(points, "ICE", 0.0)
        return _density(turned(particle, np.eye(3)), box, voxel_size)


# --- what fits --------------------------------------------------------------------------------------


def test_particle_must_fit():
    probe = structure([(-60, 0, 0), (60, 0, 0)])  # 120 + 16.2 Å: 23 voxels, and one to spare
    message = (
        "probe: its diameter of 120 Å and 16 Å of blur do not fit into a box of 16 voxels of 6 Å [(]96 Å[)]; "
        "the smallest box that fits is 32 voxels"
    )
    for call in (check_fits, lambda *args: clean_volume(args[0], np.eye(3), *args[1:])):
        with pytest.raises(CryodenError, match=message):
            call(probe, 16, 6.0, 12.0)
    check_fits(probe, 24, 6.0, 12.0)
    with pytest.raises(CryodenError, match="23 voxels"):
        check_fits(probe, 23, 6.0, 12.0)


@pytest.mark.parametrize("box", [24, 25])
def test_what_fits_is_not_cut(box):
    """In the tightest box an atom at the rim is as whole as in a wide one, but for the ripples of the cut."""
    probe = structure([(-60, 0, 0), (60, 0, 0)])
    tight, wide = (clean_volume(probe, np.eye(3), n, 6.0, 12.0) for n in (box, box + 40))
    assert tight.sum() == pytest.approx(wide.sum(), rel=1e-3)
    assert np.abs(tight - wide[20:-20, 20:-20, 20:-20]).max() < 0.03 * wide.max()


@pytest.mark.parametrize(("name", "numbers"), [
    ("box", (0, 6.0, 12.0)), ("voxel_size", (32, 0.0, 12.0)), ("resolution", (32, 6.0, -1.0)),
    ("voxel_size", (32, float("nan"), 12.0)),
])  # fmt: skip
def test_numbers_must_be_above_zero(blob, name, numbers):
    with pytest.raises(CryodenError, match=rf"{name}: got \S+; allowed is a (length|whole number) from "):
        check_fits(blob, *numbers)


# --- density maps -----------------------------------------------------------------------------------


def gaussians(centres, heights, sigma, shape, voxel_size=1.0):
    """At (z, y, x) in voxels of the grid."""
    grid = np.moveaxis(np.indices(shape), 0, -1)
    parts = [h * np.exp(-((grid - c) ** 2).sum(-1) / (2 * sigma**2)) for c, h in zip(centres, heights, strict=True)]
    return np.sum(parts, axis=0).astype(np.float32)


CENTRES, HEIGHTS = np.array([(12, 13, 11), (12, 13, 21), (16, 18, 11)], float), np.array([1.0, 0.5, 0.7])


@pytest.fixture
def lopsided():
    """Three Gaussians of 15 Å, none in the middle."""
    return DensityMap("map", gaussians(CENTRES, HEIGHTS, 1.5, (28, 30, 32)), 10.0)


@pytest.mark.parametrize(("voxel_size", "resolution", "limit"), [*RESOLUTIONS, (14.0, 28.0, 0.02)])
@pytest.mark.parametrize("rotation", [np.eye(3), *rotations(1)])
def test_maps_turn_and_hold_nothing_beyond_nyquist(lopsided, rotation, voxel_size, resolution, limit):
    """Against the formula: each Gaussian is moved, widened by the blur and drawn on a four times finer grid."""
    box = even(int(340 / voxel_size))
    volume = clean_volume(lopsided, rotation, box, voxel_size, resolution)
    middle = np.average(CENTRES, axis=0, weights=HEIGHTS)
    moved = ((rotation @ (CENTRES - middle)[:, ::-1].T).T[:, ::-1]) * 10.0
    sigma = np.hypot(15.0, 0.225 * resolution)
    step = voxel_size / 4
    fine = gaussians(moved / step + 2 * box, HEIGHTS * (15 / sigma) ** 3, sigma / step, (4 * box,) * 3)
    expected = cut_in_fourier_space(fine, 4)
    scale = float((volume * expected).sum() / np.square(expected).sum())
    assert difference(volume, scale * expected) < limit
    np.testing.assert_allclose(ndimage.center_of_mass(volume), box // 2, atol=0.02)


@pytest.mark.parametrize("finer", [3.5, 5.0, 10.0])
def test_a_map_is_as_dense_as_the_atoms_it_was_made_of_whatever_its_resolution_and_unit(finer):
    particle = load_particle("phantom:1")
    voxel_size = finer / 2
    box = even(smallest_box(particle, voxel_size, finer))
    as_map = DensityMap(
        "map", 70 * np.maximum(scattering_density(particle, np.eye(3), box, voxel_size, finer), 0), voxel_size
    )
    amounts = [volts(of, 1.0) for of in (as_map, particle)]
    assert amounts[0] / amounts[1] == pytest.approx(1, abs=0.15)


def test_a_map_must_fit(lopsided):
    with pytest.raises(CryodenError, match="map: its diameter"):
        clean_volume(lopsided, np.eye(3), 8, 8.0, 16.0)


def test_a_sugar_that_gemmi_lists_without_a_formula_counts_as_an_unknown_residue():
    """NDG has no weight in gemmi's table, and 1igy has it."""
    assert gemmi.find_tabulated_residue("NDG").weight == 0
    amounts = []
    for name in ("NDG", "XYZ9"):
        residue = gemmi.Residue()
        residue.name = name
        residue.seqid = gemmi.SeqId("1")
        for number, element in enumerate(("C", "C", "O", "N")):
            atom = gemmi.Atom()
            atom.name, atom.element, atom.pos = (
                f"{element}{number}",
                gemmi.Element(element),
                gemmi.Position(number, 0, 0),
            )
            residue.add_atom(atom)
        chain = gemmi.Chain("A")
        chain.add_residue(residue)
        model = gemmi.Model(1)
        model.add_chain(chain)
        structure = gemmi.Structure()
        structure.add_model(model)
        particle = Structure.from_gemmi(structure, name)
        amounts.append(float(scattering_density(particle, np.eye(3), 16, 2.0, 4.0).sum()))
    assert amounts[0] == pytest.approx(amounts[1], rel=1e-4)
    assert amounts[0] > 0


def test_a_map_with_a_mass_has_the_amount_of_it():
    """1230 Å³ of protein in bulk for each kDa, however sharp the map."""
    rng = np.random.default_rng(0)
    ball = (np.square(np.indices((32, 32, 32)) - 16).sum(0) < 10**2) * rng.random((32, 32, 32))
    for blur in (0.5, 2.0):
        data = ndimage.gaussian_filter(ball, blur).astype(np.float32)
        volume = clean_volume(DensityMap("map", 7 * data, 5.0, mass=300.0), np.eye(3), 32, 10.0, 20.0)
        assert volume.sum() * 1000 == pytest.approx(300 * 1000 / 1.35 / 0.6022, rel=5e-3)
