from pathlib import Path

import numpy as np
import pytest
import starfile
import torch
from scipy.spatial.transform import Rotation

from cryoden.errors import CryodenError
from cryoden.simulation.rotation import random_rotation
from cryoden.simulation.scene import Placement
from cryoden.simulation.tables import read_shrec_table, write_relion_table, write_shrec_table

CLASSES = ("background", "1bxn", "vesicle", "fiducial")


@pytest.fixture
def placements() -> list[Placement]:
    generator = torch.Generator().manual_seed(0)
    rotations = [np.eye(3), Rotation.from_euler("z", 30, degrees=True).as_matrix()]
    rotations += [random_rotation(generator).numpy() for _ in range(6)]
    positions = torch.randint(0, 50000, (8, 3), generator=generator).numpy() / 100  # written to hundredths
    names = ["1bxn", "fiducial", "vesicle", *["1bxn"] * 5]
    return [Placement(*row) for row in zip(names, positions, rotations, strict=True)]


def test_shrec_tables_read_back_what_was_written(placements: list[Placement], tmp_path: Path) -> None:
    path = tmp_path / "particle_locations.txt"
    write_shrec_table(path, placements)
    again = read_shrec_table(path)
    for one, other in zip(placements, again, strict=True):
        assert one.particle == other.particle
        assert np.array_equal(one.position, other.position)
        np.testing.assert_allclose(one.rotation, other.rotation, atol=1e-5)


def test_shrec_angles_are_those_of_its_generator(placements: list[Placement], tmp_path: Path) -> None:
    """PyTom hands them to voltools as "szxz": negated, about fixed axes, a matrix from the output to the input."""
    write_shrec_table(tmp_path / "t.txt", placements)
    for line, placement in zip((tmp_path / "t.txt").read_text().splitlines(), placements, strict=True):
        name, x, y, z, *angles = line.split()
        assert name == placement.particle
        assert [float(z), float(y), float(x)] == placement.position.tolist()
        first, second, third = np.radians([-float(angle) for angle in angles])
        cos, sin = np.cos, np.sin
        about_z = [np.array([[cos(t), -sin(t), 0], [sin(t), cos(t), 0], [0, 0, 1]]) for t in (first, third)]
        about_x = np.array([[1, 0, 0], [0, cos(second), -sin(second)], [0, sin(second), cos(second)]])
        to_input = about_z[1] @ about_x @ about_z[0]
        # What is at R p in the output was at p.
        np.testing.assert_allclose(to_input @ placement.rotation @ [1, 2, 3], [1, 2, 3], atol=1e-4)


def test_relion_tables_give_the_inverse_rotation(placements: list[Placement], tmp_path: Path) -> None:
    write_relion_table(tmp_path / "p.star", placements, tomogram="tomo_1", class_names=CLASSES)
    table = starfile.read(tmp_path / "p.star")
    assert set(table["rlnTomoName"]) == {"tomo_1"}
    zyx = table[["rlnCoordinateZ", "rlnCoordinateY", "rlnCoordinateX"]].to_numpy()
    np.testing.assert_array_equal(zyx, [p.position for p in placements])
    assert [CLASSES[n] for n in table["rlnClassNumber"]] == [p.particle for p in placements]
    rot, tilt, psi = np.radians(table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()).T
    cos, sin, zero, one = np.cos, np.sin, np.zeros_like(rot), np.ones_like(rot)

    def passive_z(a):
        return np.array([[cos(a), sin(a), zero], [-sin(a), cos(a), zero], [zero, zero, one]]).transpose(2, 0, 1)

    passive_y = np.array([[cos(tilt), zero, -sin(tilt)], [zero, one, zero], [sin(tilt), zero, cos(tilt)]])
    # Euler_angles2matrix of RELION turns the axes: about z, the new y, the new z; it takes a reference to the particle.
    matrix = passive_z(psi) @ passive_y.transpose(2, 0, 1) @ passive_z(rot)
    np.testing.assert_allclose(matrix, [p.rotation for p in placements], atol=1e-5)


def test_one_particle_and_none_make_tables_too(placements: list[Placement], tmp_path: Path) -> None:
    for n in (0, 1):
        write_relion_table(tmp_path / f"{n}.star", placements[:n], tomogram="t", class_names=CLASSES)
        write_shrec_table(tmp_path / f"{n}.txt", placements[:n])
        assert len((tmp_path / f"{n}.txt").read_text().splitlines()) == n
    assert starfile.read(tmp_path / "1.star")["rlnClassNumber"].tolist() == [1]


def test_tables_are_not_overwritten_unasked(placements: list[Placement], tmp_path: Path) -> None:
    write_shrec_table(tmp_path / "t.txt", placements)
    with pytest.raises(CryodenError, match=r"t\.txt exists"):
        write_shrec_table(tmp_path / "t.txt", placements)
    write_shrec_table(tmp_path / "t.txt", placements[:1], overwrite=True)
    assert len(read_shrec_table(tmp_path / "t.txt")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "1bxn 1 2 3 0 0 0\n1bxn 1 2 x 0 0 0\n",
            "line 2: '1bxn 1 2 x 0 0 0' is not a particle; its columns are class X Y Z",
        ),
        ("1bxn 1 2 3 0\n", "line 1: .* is not a particle"),
        ("\n", "no particles in it"),
        (None, "cannot be read: No such file"),
    ],
)
def test_bad_tables(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "t.txt").write_text(text)
    with pytest.raises(CryodenError, match=message):
        read_shrec_table(tmp_path / "t.txt")


def test_names_in_tables_are_one_word(placements: list[Placement], tmp_path: Path) -> None:
    with pytest.raises(CryodenError, match="'my protein': a name in a table must be one word"):
        write_shrec_table(tmp_path / "t.txt", [placements[0]._replace(particle="my protein")])
    with pytest.raises(CryodenError, match="must be one word"):
        write_relion_table(tmp_path / "t.star", placements, tomogram="tomo 1", class_names=CLASSES)
