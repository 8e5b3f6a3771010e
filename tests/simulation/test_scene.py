import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from cryoden.errors import CryodenError
from cryoden.particles import DensityMap, Particle, load_particle
from cryoden.simulation.points import points_of
from cryoden.simulation.ranges import draw_seed
from cryoden.simulation.sampling import sample_points
from cryoden.simulation.scene import Placement, Scene, SceneContents, SceneVolume, placements_within
from cryoden.simulation.units import GOLD, VACUUM
from tests.simulation.cutting import cut_in_fourier_space, difference


@pytest.fixture(scope="module")
def particles() -> list[Particle]:
    return [load_particle("phantom:1"), load_particle("phantom:2")]


def made(particles: list[Particle], /, seed: int = 0, **arguments) -> SceneVolume:
    small = {"shape": (24, 28, 32), "voxel_size": 10.0, "resolution": 20.0, "particles": particles, "count": 6}
    chosen = {**small, **arguments}
    scene = {name: chosen.pop(name) for name in ("shape", "voxel_size", "resolution", "particles")}
    return Scene(**scene, contents=SceneContents(**chosen)).make(torch.Generator().manual_seed(seed))


def test_a_scene_is_a_function_of_its_seed(particles: list[Particle]) -> None:
    one, again, other = made(particles), made(particles), made(particles, seed=1)
    assert np.array_equal(one.density, again.density)
    assert np.array_equal(one.labels, again.labels)
    assert not np.array_equal(one.density, other.density)
    assert one.density.dtype == np.float32
    assert one.density.shape == one.labels.shape == (24, 28, 32)
    assert 0.8 < one.density.max() < 2  # protein


def alone(
    scene: SceneVolume, particles: list[Particle], voxel_size: float, resolution: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each object of a scene in a volume of its own, from the table: with space around it, and without."""
    by_name = {particle.name: particle for particle in particles}
    pad, volumes = 48, []
    for placement in scene.placements:
        points = points_of(by_name[placement.particle], voxel_size, resolution)
        box = 2 * (int(points.radius / voxel_size) + 12)
        padded = np.zeros(np.array(scene.density.shape) + 2 * pad, np.float32)
        middle = np.rint(placement.position).astype(int)
        corner = middle - box // 2 + pad
        offset = placement.position - middle
        volume = sample_points(points, placement.rotation, box, voxel_size, offset=offset, endless=True)
        padded[tuple(slice(c, c + box) for c in corner)] = volume
        volumes.append(padded)
    return [(padded, padded[pad:-pad, pad:-pad, pad:-pad]) for padded in volumes]


@pytest.mark.parametrize("seed", range(3))
def test_the_table_rebuilds_the_scene_and_nothing_overlaps(particles: list[Particle], seed: int) -> None:
    scene = made(particles, seed)
    volumes = alone(scene, particles, 10.0, 20.0)
    assert len(volumes) > 2
    for label, (padded, inside) in enumerate(volumes, start=1):
        least = 0.2 * padded.max()
        assert (padded > least).sum() == (inside > least).sum()  # each lies whole within the scene
        assert np.array_equal(scene.labels == label, inside > least)  # so no voxel has two particles
        assert not (inside > least)[[0, -1]].any()  # nor does one touch the border
    assert difference(scene.density, sum(inside for _, inside in volumes)) < 0.01


@pytest.mark.parametrize(("voxel_size", "resolution", "limit"), [(10.0, 20.0, 0.02), (8.0, 24.0, 0.005)])
def test_a_scene_holds_nothing_beyond_nyquist(
    particles: list[Particle], voxel_size: float, resolution: float, limit: float
) -> None:
    """Against the same particles in the same places on a four times finer grid, cut in Fourier space."""
    shape = (24, 28, 32)
    scene = made(particles, shape=shape, voxel_size=voxel_size, resolution=resolution)
    by_name = {particle.name: particle for particle in particles}
    fine = np.zeros([4 * n for n in shape], np.float32)
    for placement in scene.placements:
        particle = by_name[placement.particle]
        box = 4 * int((particle.diameter + 2 * resolution) / voxel_size)
        points = points_of(particle, voxel_size / 4, resolution)
        middle = np.rint(4 * placement.position).astype(int)
        offset = 4 * placement.position - middle
        volume = sample_points(points, placement.rotation, box, voxel_size / 4, offset=offset)
        corner = middle - box // 2
        places = [np.arange(c, c + box) % n for c, n in zip(corner, fine.shape, strict=True)]
        fine[np.ix_(*places)] += volume
    assert difference(scene.density, cut_in_fourier_space(fine, 4)) < limit


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
    assert {len(made(particles, seed, shape=(48, 48, 48), count=None).placements) for seed in range(12)} <= {
        4,
        5,
        6,
        7,
        8,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count: got 0"),
        ({"count": (3, 2)}, r"count: got \(3, 2\)"),
        ({"particles": []}, "particles: got none"),
        ({"shape": (8, 64, 64)}, "phantom:1: its diameter of .* do not fit into a box of 8 voxels"),
        ({"ice": 80.0}, "phantom:1: its diameter of .* do not fit into a box of 8 voxels"),
        ({"ice": 300.0}, r"ice: got 300.0 Å; allowed is a thickness up to the volume's 240 Å in z"),
        ({"ice": 0.0}, "ice: got 0.0; allowed is a number of angstrom above 0"),
        ({"ice_slope": 40.0}, "ice_slope: got 40.0; allowed is a number of degrees from 0 to 30"),
        ({"ice_waves": -1.0}, "ice_waves: got -1.0"),
        ({"occupancy": 0.1}, "count: got 6, and occupancy: got 0.1; give one of them"),
        ({"count": None, "occupancy": 1.5}, "occupancy: got 1.5; allowed is a number between 0 and 1"),
        ({"abundance": {"1bxn": 1}}, "abundance: no particle 1bxn; there are phantom:1, phantom:2"),
        ({"abundance": {"phantom:1": -1}}, "abundance: got .*; allowed are numbers from 0 up"),
        ({"abundance": {"phantom:1": math.nan}}, "abundance: got .*; allowed are numbers from 0 up"),
        ({"abundance": {"phantom:1": 0, "phantom:2": 0}}, "at least one particle must have a number above 0"),
        ({"vesicles": -1}, "vesicles: got -1"),
        ({"membranes": -1}, "membranes: got -1"),
        ({"microtubules": -1}, "microtubules: got -1"),
        ({"actin": (2, 1)}, r"actin: got \(2, 1\)"),
        ({"membrane_density": 0.0}, "membrane_density: got 0.0; allowed is a number above 0"),
        ({"membrane_proteins": -1.0}, "membrane_proteins: got -1.0; allowed is a number from 0 up"),
        ({"fiducials": 1, "fiducial_diameter": (9.0, 5.0)}, r"fiducial_diameter: got \(9.0, 5.0\)"),
        (
            {"vesicles": 1},
            r"vesicle_diameter: 1000 Å do not fit into 24 voxels of 10 Å; the largest that fits is about",
        ),
    ],
)
def test_bad_arguments(arguments: dict, message: str, particles: list[Particle]) -> None:
    with pytest.raises(CryodenError, match=message):
        made(particles, **arguments)


SMALL_VESICLES = {"vesicles": 1, "vesicle_diameter": 120.0}


def test_occupancy_and_abundance_are_what_was_asked_for(particles: list[Particle]) -> None:
    scene = made(particles, shape=(64, 64, 64), count=None, occupancy=0.1, abundance={"phantom:1": 3, "phantom:2": 1})
    assert scene.occupancy == pytest.approx(0.1, abs=0.015)
    assert scene.occupancy == (scene.labels > 0).mean()
    numbers = [sum(p.particle == name for p in scene.placements) for name in ("phantom:1", "phantom:2")]
    assert numbers[0] / sum(numbers) == pytest.approx(0.75, abs=0.12)
    only = made(particles, abundance={"phantom:1": 0})
    assert {p.particle for p in only.placements} == {"phantom:2"}


def test_labels_do_not_tell_that_large_objects_come_first(particles: list[Particle]) -> None:
    scene = made(particles, shape=(48, 48, 48), count=40, fiducials=4, fiducial_diameter=50.0)
    place = [i for i, p in enumerate(scene.placements) if p.particle == "fiducial"]
    assert len(place) == 4
    assert max(place) > len(scene.placements) // 2


def test_class_labels_and_names_agree_with_the_table(particles: list[Particle]) -> None:
    scene = made(particles, shape=(40, 40, 40), fiducials=2, fiducial_diameter=60.0, **SMALL_VESICLES)
    assert scene.class_names == (
        "background",
        "phantom:1",
        "phantom:2",
        "vesicle",
        "fiducial",
        "membrane",
        "microtubule",
        "actin",
    )
    classes = scene.classes
    assert classes.dtype == scene.labels.dtype == np.int32
    assert not classes[scene.labels == 0].any()
    assert scene.occupancy == np.isin(classes, (1, 2)).mean()  # of particles alone
    for label, placement in enumerate(scene.placements, start=1):
        assert {scene.class_names[i] for i in classes[scene.labels == label]} == {placement.particle}


def test_of_two_boxes_beside_each_other_one_has_a_centre_that_lies_between_them() -> None:
    table = [Placement(str(x), np.array([8.0, 8.0, x]), np.eye(3)) for x in (0.0, 15.9, 16.0, 31.9)]
    sides = slice(0, 16), slice(16, 32)
    found = [placements_within(table, (sides[0], sides[0], side)) for side in sides]
    assert [[p.particle for p in each] for each in found] == [["0.0", "15.9"], ["16.0", "31.9"]]
    assert [p.position[2] for p in found[1]] == pytest.approx([0.0, 15.9])


def test_the_lipids_of_a_vesicle_are_as_dense_as_they_are_asked_to_be(particles: list[Particle]) -> None:
    densities = []
    for lipids in (1.0, 0.5):
        scene = made(particles, shape=(32, 32, 32), count=1, membrane_density=lipids, **SMALL_VESICLES)
        label = next(i for i, p in enumerate(scene.placements, start=1) if p.particle == "vesicle")
        densities.append(scene.density[scene.labels == label].mean())
    assert densities[1] == pytest.approx(densities[0] / 2, rel=0.05)


def test_densities_do_not_hang_on_what_else_is_there(particles: list[Particle]) -> None:
    """Gold, vacuum and other particles beside it leave a particle as it is: the unit is that of bulk protein."""
    one = made(particles, count=1, shape=(40, 40, 40), abundance={"phantom:2": 0})
    crowd = made(particles, count=12, shape=(40, 40, 40), fiducials=2, fiducial_diameter=50.0, ice=300.0)
    for scene in (one, crowd):
        numbers = [i for i, p in enumerate(scene.placements, start=1) if p.particle == "phantom:1"]
        peaks = [scene.density[scene.labels == i].max() for i in numbers]
        assert np.median(peaks) == pytest.approx(0.95, abs=0.1)


def test_a_vesicle_is_a_bilayer_of_the_right_size(particles: list[Particle]) -> None:
    scene = made(
        particles, shape=(70, 70, 70), voxel_size=4.0, resolution=8.0, count=1, vesicles=1, vesicle_diameter=160.0
    )  # fmt: skip
    label = next(i for i, p in enumerate(scene.placements, start=1) if p.particle == "vesicle")
    z, y, x = np.rint(scene.placements[label - 1].position).astype(int)
    shell = np.where(scene.labels == label, scene.density, 0)
    assert ndimage.label(scene.labels == label)[1] == 1
    assert shell[z, y, x] == 0  # hollow
    with_proteins = made(
        particles, shape=(70, 70, 70), voxel_size=4.0, resolution=8.0, count=1, vesicles=1, vesicle_diameter=160.0,
        membrane_proteins=8.0,
    )  # fmt: skip
    assert with_proteins.class_names == scene.class_names
    label = next(i for i, p in enumerate(with_proteins.placements, start=1) if p.particle == "vesicle")
    assert (with_proteins.labels == label).sum() > (shell > 0).sum()  # all of them are the vesicle's
    label = next(i for i, p in enumerate(scene.placements, start=1) if p.particle == "vesicle")
    for line in (shell[:, y, x], shell[z, :, x], shell[z, y, :]):
        peaks = [i for i in range(1, 69) if line[i] > line[i - 1] and line[i] >= line[i + 1] and line[i] > 0.2]
        assert len(peaks) == 4  # two ridges on each side
        for inner, outer in (peaks[:2], peaks[2:]):
            assert 36 <= 4 * (outer - inner) <= 52  # 40 Å and more, where the line is not perpendicular
            assert line[inner:outer].min() < 0.8 * min(line[inner], line[outer])
        across = 4 * (sum(peaks[2:]) - sum(peaks[:2])) / 2
        assert 0.65 * 160 <= across <= 165


def test_gold_is_round_and_far_denser_than_protein(particles: list[Particle]) -> None:
    scene = made(particles, shape=(40, 40, 40), count=2, fiducials=1)
    label = next(i for i, p in enumerate(scene.placements, start=1) if p.particle == "fiducial")
    bead = np.where(scene.labels == label, scene.density, 0)
    assert 7.2 < bead.max() < 7.9  # 7.4, and the ripples of the cut
    whole = scene.density.copy()
    whole[~ndimage.binary_dilation(bead > 0, iterations=4)] = 0
    assert whole.sum() / GOLD * 1000 == pytest.approx(np.pi / 6 * 100**3, rel=0.05)
    assert scene.density[ndimage.distance_transform_edt(scene.labels != label) > 3].max() < 2
    np.testing.assert_allclose(ndimage.center_of_mass(bead), scene.placements[label - 1].position, atol=0.05)


def test_particles_lie_in_the_ice_and_vacuum_around_it(particles: list[Particle]) -> None:
    scene = made(particles, shape=(40, 32, 32), ice=225.0)
    generator = torch.Generator().manual_seed(0)
    torch.rand(3, generator=generator, dtype=torch.float64), draw_seed(generator)  # of the surfaces
    ice = Scene((22, 32, 32), 10.0, 20.0, particles, SceneContents(count=6)).make(generator)
    assert np.array_equal(scene.labels[9:31], ice.labels)  # 22 whole sections of 10 Å
    assert not scene.labels[:9].any()
    assert not scene.labels[31:].any()
    np.testing.assert_allclose(scene.density[13:27], ice.density[4:18], atol=0.03)
    assert scene.density[0].mean() == pytest.approx(VACUUM, rel=0.01)
    assert scene.density[0].std() < 0.01
    levels = np.median(scene.density, axis=(1, 2))  # a surface is 0.9 resolutions wide, and lies in sections 8 and 31
    np.testing.assert_allclose(levels[[8, 31]], 0.75 * VACUUM, atol=0.25)
    assert scene.occupancy == pytest.approx(ice.occupancy)


def test_a_map_is_a_particle_of_a_scene() -> None:
    ball = (np.square(np.indices((15, 15, 15)) - 7).sum(0) < 25).astype(np.float32)
    scene = made([DensityMap("ball", 250 * ball, 10.0)], count=3)
    assert 0.7 < scene.density.max() < 1.3  # whatever its unit was
    assert [p.particle for p in scene.placements] == ["ball"] * 3


def test_nothing_knows_where_voxels_are(particles: list[Particle]) -> None:
    """Centres lie anywhere between voxels, and the density lies where the table says."""
    scene = made(particles, shape=(60, 60, 60), count=20, fiducials=3)
    parts = np.array([p.position for p in scene.placements]) % 1
    assert len(np.unique(parts)) == parts.size
    assert 0.2 < parts.mean() < 0.8
    for label, placement in enumerate(scene.placements, start=1):
        if placement.particle == "fiducial":
            bead = ndimage.binary_dilation(scene.labels == label)
            centre = ndimage.center_of_mass(np.where(bead, scene.density, 0))
            np.testing.assert_allclose(centre, placement.position, atol=0.06)


def test_filaments_cross_a_scene_and_are_cut_by_its_borders(particles: list[Particle]) -> None:
    scene = made(particles, shape=(64, 64, 64), count=20, microtubules=1, actin=1)
    assert {p.particle for p in scene.placements} >= {"microtubule", "actin"}
    borders = np.ones(scene.labels.shape, np.bool_)
    borders[1:-1, 1:-1, 1:-1] = False
    for label, placement in enumerate(scene.placements, start=1):
        if placement.particle not in ("microtubule", "actin"):
            continue
        there = scene.labels == label
        assert ndimage.label(there & borders)[1] >= 2  # in, and out
        # It lies along its axis, through where the table says.
        away = (np.argwhere(there) - placement.position)[:, ::-1]
        axis = placement.rotation[:, 2]
        apart = np.linalg.norm(away - np.outer(away @ axis, axis), axis=1) * 10
        assert apart.max() < (150 if placement.particle == "microtubule" else 70)
        assert np.ptp(away @ axis) > 30


def test_filaments_lie_in_a_slab_of_ice(particles: list[Particle]) -> None:
    for seed in range(3):
        scene = made(particles, seed, shape=(60, 60, 60), count=1, microtubules=1, actin=1, ice=420.0)
        names = [p.particle for p in scene.placements]
        assert "microtubule" in names
        assert not scene.labels[:9].any()
        assert not scene.labels[51:].any()


def test_particles_lie_between_uneven_surfaces(particles: list[Particle]) -> None:
    scenes = [
        made(particles, seed, shape=(48, 40, 40), count=30, ice=(260.0, 340.0), ice_slope=10.0, ice_waves=20.0)
        for seed in range(4)
    ]
    for scene in scenes:
        there = scene.labels > 0
        assert there.sum() > 500
        assert scene.density[there].min() > -0.1  # not in vacuum
        assert not there[scene.density < -0.5].any()
    thickness = [(scene.density.clip(max=0).sum(axis=0) / -VACUUM).mean() for scene in scenes]
    assert np.ptp(thickness) > 0.5  # drawn for each
    within = [np.ptp(np.median(scene.density.clip(max=0).sum(axis=0), axis=0)) for scene in scenes]
    assert max(within) > 2  # and uneven within each


def test_where_waves_leave_no_ice_there_is_none(particles: list[Particle]) -> None:
    uneven = {"shape": (40, 28, 32), "count": 1, "ice": 240.0, "ice_waves": 600.0}
    scenes = [made(particles, seed, **uneven) for seed in range(6)]
    assert any((scene.density < 0.99 * VACUUM).all() and not scene.placements for scene in scenes)
    assert all(scene.density.min() > 1.05 * VACUUM for scene in scenes)  # nothing is less than nothing


def test_large_membranes_cross_a_scene_and_end_where_ice_does(particles: list[Particle]) -> None:
    scene = made(particles, shape=(56, 60, 60), count=20, membranes=2, ice=460.0)
    names = [p.particle for p in scene.placements]
    assert names.count("membrane") == 2
    assert "phantom:1" in names
    for label, placement in enumerate(scene.placements, start=1):
        if placement.particle == "membrane":
            there = scene.labels == label
            assert not there[:5].any()
            assert not there[51:].any()
            assert there[[5, 50]].any() or there[:, [0, -1]].any() or there[:, :, [0, -1]].any()
            middle = np.rint(placement.position).astype(int)
            if 8 < middle[0] < 48:
                assert there[tuple(middle.clip(0, np.array(there.shape) - 1))]
    assert np.abs(scene.density[0] - VACUUM).max() < 0.02  # no lipids in vacuum
