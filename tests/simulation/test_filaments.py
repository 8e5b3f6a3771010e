"""Filaments have the lattices, the widths and the masses of the real ones."""

import numpy as np
import pytest
from scipy import ndimage

from cryoden.simulation.filaments import ACTIN, LATTICES, MICROTUBULE, Course, about_z, outer_radius, render, subunit
from cryoden.simulation.units import PROTEIN_VOLUME
from tests.simulation.cutting import cut_in_fourier_space, difference

STRAIGHT = Course(np.full(3, 200.0), np.eye(3), 1e12, 700.0)  # along z, through voxel 20 of 10 Å


def profile(volume: np.ndarray, width: float) -> np.ndarray:
    """The mean over all angles and heights, in steps of one voxel of the distance from the axis."""
    away = np.hypot(*(np.indices(volume.shape[1:]) - 20)) * width
    mean = volume.mean(axis=0)
    return np.array([mean[(away >= r) & (away < r + 10)].mean() for r in range(0, 180, 10)])


def test_a_microtubule_is_a_tube_of_the_right_size_and_mass() -> None:
    volume = render(MICROTUBULE, STRAIGHT, (81, 41, 41), 10.0, 20.0)  # 20 repeats of 40.5 Å
    across = profile(volume, 10.0)
    assert across[:4].max() < 0.05  # its lumen
    assert across[8:11].min() > 0.35  # its wall, 80 to 110 Å from the axis
    assert across[14:].max() < 0.05
    assert 2 * outer_radius(MICROTUBULE) == pytest.approx(250, abs=10)
    mass = 13 * subunit(MICROTUBULE).mass / 40.5 * 80
    assert mass == pytest.approx(1430, rel=0.2)  # kDa in 80 Å of tubulin
    assert volume.sum() * 1000 / 810 == pytest.approx(mass * PROTEIN_VOLUME / 80, rel=0.12)


def test_a_microtubule_has_13_protofilaments_and_three_starts() -> None:
    """Its strongest wave around the axis is the 13th on the equator, and the third where monomers repeat."""
    volume = render(MICROTUBULE, STRAIGHT, (81, 82, 82), 5.0, 30.0)
    angles = np.arange(360) * np.pi / 180
    places = np.stack([40 + 18 * np.sin(angles), 40 + 18 * np.cos(angles)])  # 90 Å from the axis
    around = np.stack([ndimage.map_coordinates(section, places, order=3) for section in volume])
    power = np.abs(np.fft.fft2(around)) ** 2
    assert int(np.argmax(power[0, 1:180])) + 1 == 13
    # Ten waves in 405 Å: monomers. Where the angle grows the height falls on a left-handed helix: one sign for both.
    assert int(np.argmax(power[10])) == 3


@pytest.mark.parametrize("kind", [ACTIN, MICROTUBULE])
def test_a_filament_repeats_by_its_rise_and_twist(kind: str) -> None:
    lattice = LATTICES[kind]
    volume = render(kind, STRAIGHT, (40, 40, 40), 10.0, 20.0)
    moved = Course(
        STRAIGHT.middle + np.array([0, 0, lattice.rise]), about_z(lattice.twist), STRAIGHT.bending, STRAIGHT.length
    )  # fmt: skip
    assert difference(render(kind, moved, (40, 40, 40), 10.0, 20.0), volume) < 1e-3
    half = Course(STRAIGHT.middle + np.array([0, 0, lattice.rise / 2]), about_z(0), STRAIGHT.bending, STRAIGHT.length)
    assert difference(render(kind, half, (40, 40, 40), 10.0, 20.0), volume) > 0.2


def test_actin_is_two_strands_that_wind_around_each_other() -> None:
    lattice = LATTICES[ACTIN]
    assert (lattice.rise, lattice.twist) == (27.5, -166.6)
    assert subunit(ACTIN).mass == pytest.approx(42, rel=0.1)
    assert 70 < 2 * outer_radius(ACTIN) < 95
    # The strands cross every 370 Å: where one has turned by half, its other is in its place.
    volume = render(ACTIN, STRAIGHT, (41, 41, 41), 10.0, 30.0)
    wide = [np.cov(np.argwhere(section > 0.2).T) for section in volume]
    angle = np.unwrap([np.arctan2(2 * c[0, 1], c[1, 1] - c[0, 0]) for c in wide]) / 2
    assert abs(np.polyfit(np.arange(41) * 10.0, angle, 1)[0]) == pytest.approx(np.pi / 370, rel=0.1)


def test_a_filament_holds_nothing_beyond_nyquist() -> None:
    course = Course(np.array([150.0, 170.0, 160.0]), about_z(20.0), 3e4, 300.0)
    volume = render(ACTIN, course, (32, 32, 32), 10.0, 20.0)
    fine = render(ACTIN, course, (128, 128, 128), 2.5, 20.0)
    # Along z it is cut by the borders, where a discrete transform sees an edge: ends are left out of the comparison.
    window = np.exp(-(((np.arange(32) - 16) / 6.0) ** 2))[:, None, None]
    expected = cut_in_fourier_space(fine, 4)
    assert difference(volume * window, expected * window) < 0.03


def test_a_bent_filament_follows_its_arc() -> None:
    course = Course(np.array([300.0, 300.0, 300.0]), np.eye(3), 2000.0, 400.0)
    for along in (-300.0, 0.0, 200.0):
        place, rotation = course.at(along)
        assert np.linalg.norm(place - course.middle - [2000, 0, 0]) == pytest.approx(2000)
        ahead, _ = course.at(along + 1e-3)
        np.testing.assert_allclose((ahead - place) / 1e-3, rotation[:, 2], atol=1e-5)
        assert np.linalg.det(rotation) == pytest.approx(1)
    volume = render(ACTIN, course, (60, 60, 60), 10.0, 20.0)
    for z in (5, 55):
        x = np.average(np.arange(60), weights=volume[z - 4 : z + 5].clip(0).sum((0, 1)))
        assert x == pytest.approx(30 + (250**2) / (2 * 2000) / 10, abs=0.8)
