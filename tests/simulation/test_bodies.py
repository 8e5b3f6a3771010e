"""Vesicles, gold and vacuum hold nothing that voxels cannot, and have the right size and density."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cryoden.simulation import bodies, ice, sampling
from cryoden.simulation.membranes import proteins_in, sheet
from cryoden.simulation.units import GOLD, ICE, UNIT, VACUUM, VOLTS
from tests.simulation.cutting import cut_in_fourier_space, difference, even

RESOLUTIONS = [(6.0, 12.0), (6.0, 18.0), (10.0, 20.0), (10.0, 30.0)]
AXES = np.array([110.0, 90.0, 80.0])
TURNED = Rotation.random(random_state=0).as_matrix()


def slab(thickness: float, depth: int, voxel_size: float, resolution: float) -> NDArray[np.float32]:
    return ice.vacuum(np.array(-thickness / 2), np.array(thickness / 2), depth, voxel_size, resolution)


def limit(voxel_size: float, resolution: float) -> float:
    return 0.005 if resolution >= 3 * voxel_size else 0.02


@pytest.fixture
def periodic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut as a discrete transform of the box would."""

    def cut(fine: NDArray[np.float32], box: int, voxel_size: float) -> NDArray[np.float32]:
        return sampling.cut(fine.astype(np.float32), sampling.fine_step(voxel_size), box, voxel_size)

    monkeypatch.setattr(bodies, "_cut", cut)


@pytest.mark.usefixtures("periodic")
@pytest.mark.parametrize(("voxel_size", "resolution"), RESOLUTIONS)
def test_gold_holds_nothing_beyond_nyquist(voxel_size: float, resolution: float) -> None:
    box = even(int((100 + 2 * resolution) / voxel_size))
    bead = bodies.fiducial(100.0, box, voxel_size, resolution)
    fine = bodies.fiducial(100.0, 4 * box, voxel_size / 4, resolution)
    assert difference(bead, cut_in_fourier_space(fine, 4)) < limit(voxel_size, resolution)
    assert bead.sum() * voxel_size**3 == pytest.approx(GOLD * np.pi / 6 * 100**3, rel=2e-3)
    assert bead[box // 2, box // 2, box // 2] == pytest.approx(GOLD, rel=0.05)


@pytest.mark.usefixtures("periodic")
@pytest.mark.parametrize(("voxel_size", "resolution"), RESOLUTIONS[2:])
def test_a_vesicle_holds_nothing_beyond_nyquist(voxel_size: float, resolution: float) -> None:
    box = even(int((220 + 2 * bodies.vesicle_rim(resolution)) / voxel_size) + 1)
    shell = bodies.vesicle(AXES, TURNED, box, voxel_size, resolution)
    fine = bodies.vesicle(AXES, TURNED, 4 * box, voxel_size / 4, resolution)
    assert difference(shell, cut_in_fourier_space(fine, 4)) < limit(voxel_size, resolution)


@pytest.mark.parametrize("depth", [64, 63])
@pytest.mark.parametrize(("voxel_size", "resolution"), RESOLUTIONS)
def test_the_surfaces_of_the_ice_hold_nothing_beyond_nyquist(voxel_size: float, resolution: float, depth: int) -> None:
    levels = slab(32.3 * voxel_size, depth, voxel_size, resolution)
    np.testing.assert_allclose(levels, levels[::-1], atol=2e-3)  # the ice lies in the middle
    assert levels[0] == pytest.approx(VACUUM, rel=2e-3)
    assert levels[depth // 2] == pytest.approx(0, abs=0.01)  # the cut leaves ripples
    assert levels.sum() == pytest.approx(VACUUM * (depth - 32.3), rel=1e-3)
    # Fine voxels do not lie on the others, so they are compared wave by wave.
    fine = slab(32.3 * voxel_size, 4 * depth, voxel_size / 4, resolution)
    place = (np.arange(4 * depth) + 0.5) / 4 - 0.5
    waves = np.arange(1, (depth - 1) // 2 + 1) * 2 * np.pi / depth
    expected = np.exp(-1j * np.outer(waves, place)) @ fine / 4
    assert difference(np.exp(-1j * np.outer(waves, np.arange(depth))) @ levels, expected) < limit(
        voxel_size, resolution
    )


def test_ice_that_fills_the_volume_leaves_no_vacuum() -> None:
    assert np.abs(slab(640.0, 64, 10.0, 20.0)).max() < 1e-6


def test_what_a_bilayer_is_in_sum_does_not_hang_on_the_resolution() -> None:
    """Across the membrane: two layers of heads and the tails between them, 23.9 Å of bulk protein.

    By hand, POPC is C42 H82 N O8 P: 342.6 Å of scattering in 1256 Å³ and 64.3 Å² of a leaflet, less ice 23.3 Å.
    """
    scattering = 42 * 2.509 + 82 * 0.529 + 2.214 + 8 * 1.983 + 5.488
    popc = 2 * (scattering - ICE * 1256) / 64.3 / UNIT
    assert popc == pytest.approx(23.3, abs=0.5)
    for voxel_size, resolution in RESOLUTIONS[1:3]:
        box = even(int(1000 / voxel_size))
        shell = bodies.vesicle(np.full(3, 400.0), np.eye(3), box, voxel_size, resolution)
        middle = box // 2
        across = shell[middle, middle, middle:].sum() * voxel_size
        # of a sphere, the outer layer's height is that of the formula too
        assert across == pytest.approx(2 * 0.45 * 5 * (2 * np.pi) ** 0.5 + 0.35 * 36, rel=0.01)
        assert across == pytest.approx(popc, rel=0.05)
    assert shell[middle, middle, middle] == pytest.approx(0, abs=1e-3)  # hollow


def test_proteins_stand_in_a_membrane_in_place_of_lipids() -> None:
    proteins = proteins_in(AXES, 10.0, 10.0, 20.0, np.random.default_rng(0))
    # The area of an ellipsoid, to 1 % (Thomsen), in 1000 nm²; some find no room.
    area = 4 * np.pi * (sum((AXES[i] * AXES[j]) ** 1.6075 for i, j in ((0, 1), (0, 2), (1, 2))) / 3) ** (1 / 1.6075)
    assert 0.6 * 10 * area / 1e5 <= len(proteins) <= 10 * area / 1e5 + 1
    ways = set()
    for one in proteins:  # near the surface, axis along its normal
        normal = one.position / AXES**2
        assert abs(normal @ one.rotation[:, 2]) / np.linalg.norm(normal) > 0.9
        ways.add(np.sign(normal @ one.rotation[:, 2]))
        assert np.linalg.det(one.rotation) == pytest.approx(1)
        assert abs(np.linalg.norm(one.position / AXES) - 1) < 20 / AXES.min() + 0.02
    assert ways == {-1, 1}
    box = 60
    bare = bodies.vesicle(AXES, TURNED, box, 10.0, 20.0)
    full = bodies.vesicle(AXES, TURNED, box, 10.0, 20.0, proteins=proteins)
    mass = sum(float(p.points.weights.sum()) for p in proteins)
    gained = float((full - bare).sum()) * 1000
    assert 0.6 * mass < gained < 0.95 * mass  # the lipids in their place are gone
    for one in proteins:
        z, y, x = np.rint((TURNED @ one.position)[::-1] / 10 + box // 2).astype(int)
        around = np.s_[z - 2 : z + 3, y - 2 : y + 3, x - 2 : x + 3]
        assert full[around].max() > 1.3 * bare.max()
    assert full.max() < 1.7  # proteins, not proteins on top of lipids


@pytest.mark.usefixtures("periodic")
def test_a_membrane_with_proteins_holds_nothing_beyond_nyquist() -> None:
    box = 44
    volumes = []
    for size, voxels in ((10.0, box), (2.5, 4 * box)):
        proteins = proteins_in(AXES, 5.0, size, 20.0, np.random.default_rng(0))
        volumes.append(bodies.vesicle(AXES, TURNED, voxels, size, 20.0, proteins=proteins))
    assert difference(volumes[0], cut_in_fourier_space(volumes[1], 4)) < 0.03


def test_a_vesicle_turns_with_its_rotation() -> None:
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # x goes to y
    for rotation, long in ((np.eye(3), 2), (quarter, 1)):
        shell = bodies.vesicle(np.array([150.0, 80.0, 80.0]), rotation, 48, 10.0, 20.0)
        spread = [np.average((axis - 24) ** 2, weights=np.abs(shell)) for axis in np.indices(shell.shape)]
        assert int(np.argmax(spread)) == long
        np.testing.assert_allclose(ndimage.center_of_mass(shell), 24, atol=0.02)


def test_volts_above_ice_by_hand() -> None:
    """Scattering factors (Peng et al. 1996) C 2.509, H 0.529, N 2.214, O 1.983, S 5.160, Au 10.571 Å; 47.878 V Å²."""
    ice = (1.983 + 2 * 0.529) * 0.93 / 18.015 * 0.6022 * 47.878
    # The mean residue of proteins, C4.94 H7.77 N1.36 O1.48 S0.04, is 110.8 Da.
    residue = 4.94 * 2.509 + 7.77 * 0.529 + 1.36 * 2.214 + 1.48 * 1.983 + 0.04 * 5.160
    protein = residue * 1.35 / 110.8 * 0.6022 * 47.878
    gold = 10.571 * 19.3 / 196.97 * 0.6022 * 47.878
    assert protein - ice == pytest.approx(VOLTS, rel=0.01)
    assert round(VOLTS, 2) == 3.42
    assert -ice == pytest.approx(VACUUM * VOLTS, rel=1e-3)
    assert gold - ice == pytest.approx(GOLD * VOLTS, rel=1e-3)


def test_ice_slopes_and_waves_as_much_as_it_is_told() -> None:
    rng = np.random.default_rng(0)
    top, bottom = ice.surfaces(700.0, 4.0, 0.0, (96, 64, 80), 10.0, rng)
    thickness = bottom - top
    assert thickness.mean() == pytest.approx(700)
    slopes = np.hypot(*np.gradient(thickness, 10.0))
    np.testing.assert_allclose(slopes, np.tan(np.radians(4.0)), rtol=1e-6)
    heights = [ice.surfaces(700.0, 0.0, 30.0, (200, 256, 256), 30.0, rng) for _ in range(6)]
    assert np.std([[h.top + 350, h.bottom - 350] for h in heights]) == pytest.approx(30.0, rel=0.1)
    assert np.abs(np.gradient(heights[0].top, 30.0)).max() < 0.6  # smooth


@pytest.mark.parametrize("waves", [0.0, 60.0])
def test_vacuum_is_what_is_not_between_the_surfaces(waves: float) -> None:
    top, bottom = ice.surfaces(400.0, 3.0, waves, (64, 48, 56), 10.0, np.random.default_rng(1))
    volume = ice.vacuum(top, bottom, 64, 10.0, 20.0)
    assert volume.shape == (64, 48, 56)
    np.testing.assert_allclose(volume.sum(axis=0) * 10, VACUUM * (640 - (bottom - top)), rtol=2e-3)
    inside = ice.within(top, bottom, 64, 10.0)
    np.testing.assert_allclose(inside.sum(axis=0) * 10, bottom - top, atol=20)
    deep = ndimage.binary_erosion(inside, np.ones((7, 1, 1)), border_value=0)
    assert np.abs(volume[deep]).max() < 0.06


@pytest.mark.parametrize(("voxel_size", "resolution"), RESOLUTIONS[1:])
def test_a_large_membrane_holds_nothing_beyond_nyquist(voxel_size: float, resolution: float) -> None:
    """Against one on a four times finer grid; nothing is compared near the borders, which a discrete transform sees."""
    n, rng = 32, np.random.default_rng(0)
    centre = np.array([300.0, -1400.0, -1300.0])
    radius = float(np.linalg.norm(centre - n * voxel_size / 2))
    volumes = [
        sheet(centre, radius, (f * n,) * 3, voxel_size / f, resolution, density=1.0, number=0.0, rng=rng)
        for f in (1, 4)
    ]
    window = np.exp(-np.square(np.indices((n, n, n)) - n / 2).sum(0) / (n / 5) ** 2)
    expected = cut_in_fourier_space(volumes[1], 4)
    assert difference(volumes[0] * window, expected * window) < limit(voxel_size, resolution)


def test_a_large_membrane_is_as_dense_as_that_of_a_vesicle_and_holds_proteins() -> None:
    centre, shape = np.array([200.0, 200.0, -3800.0]), (40, 40, 40)
    bare, full = (
        sheet(centre, 4000.0, shape, 10.0, 20.0, density=1.2, number=number, rng=np.random.default_rng(0))
        for number in (0.0, 10.0)
    )
    across = bare[:, 20, 20]
    assert across.sum() * 10 == pytest.approx(1.2 * 23.9, rel=0.02)
    assert 18 <= np.average(np.arange(40), weights=across) <= 22  # at 200 Å
    assert bare.max() < 0.8
    assert 0.9 < full.max() < 1.7
    per_area = float((full - bare).sum()) * 1000 / (400**2 / 1e5)
    assert 5 * 30e3 < per_area < 11 * 159e3 * 1.23  # some of ten, of 46 to 159 kDa, in place of lipids
