"""Tables of what is where in a scene: SHREC's particle_locations.txt and RELION 5's particle star file.

Both hold a rotation as three angles in degrees. Here R is the matrix that turns a reference to how the particle lies,
x' = R x with column vectors xyz, and Rx, Ry, Rz are right-handed turns about fixed axes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryoden.errors import CryodenError
from cryoden.files import write_text
from cryoden.simulation.scene import Placement

_COLUMNS = "class X Y Z rotZ1 rotX rotZ2"


def write_shrec_table(path: str | Path, placements: Sequence[Placement], *, overwrite: bool = False) -> None:
    """Write a table in the layout of SHREC's particle_locations.txt: class X Y Z rotZ1 rotX rotZ2, without a header.

    Positions are in voxels, from 0. The object is turned as SHREC's generator (PyTom's simulator, which calls voltools
    with the order "szxz") turns it: R = Rz(rotZ1) Rx(rotX) Rz(rotZ2), scipy's `Rotation.from_euler("ZXZ", [rotZ1, rotX,
    rotZ2])`.

    Args:
        path: the file.
        placements: of a `SceneVolume`.
        overwrite: replace an existing file.

    Raises:
        CryodenError: the file exists, or a name has a blank in it.
    """
    lines = []
    for (name, position, _), angles in zip(placements, _angles(placements, "ZXZ"), strict=True):
        lines.append(f"{one_word(name)} {_numbers(position[::-1], '.2f')} {_numbers(angles, '.4f')}\n")
    write_text(Path(path), "".join(lines), overwrite=overwrite)


def read_shrec_table(path: str | Path) -> list[Placement]:
    """Read a table as `write_shrec_table` writes it; angles that are missing are 0.

    Args:
        path: the file.

    Raises:
        CryodenError: the file cannot be read, or a line is something else.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CryodenError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    placements = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, *rest = line.split()
        try:
            values = [float(value) for value in rest]
            if len(values) not in (3, 6) or not np.isfinite(values).all():
                raise ValueError
        except ValueError:
            raise CryodenError(
                f"{path}, line {number}: {line.strip()[:60]!r} is not a particle; its columns are {_COLUMNS}"
            ) from None
        x, y, z, *angles = values
        rotation = Rotation.from_euler("ZXZ", angles or [0, 0, 0], degrees=True).as_matrix()
        placements.append(Placement(name, np.array([z, y, x]), rotation))
    if not placements:
        raise CryodenError(f"{path}: no particles in it; its columns are {_COLUMNS}")
    return placements


def write_relion_table(
    path: str | Path,
    placements: Sequence[Placement],
    *,
    tomogram: str,
    class_names: Sequence[str],
    overwrite: bool = False,
) -> None:
    """Write particles as RELION 5 imports them: their tomogram, coordinates, angles and class numbers.

    Coordinates are in voxels of the scene, from 0, which RELION takes for pixels of the unbinned tilt series. Its
    angles turn the particle back to the reference: R = (Rz(rot) Ry(tilt) Rz(psi))^T, scipy's
    `Rotation.from_euler("ZYZ", [rot, tilt, psi]).inv()`.

    Args:
        path: the file.
        placements: of a `SceneVolume`.
        tomogram: its rlnTomoName.
        class_names: of the `SceneVolume`; a class's number is its place in it, and both are listed in a comment.
        overwrite: replace an existing file.

    Raises:
        CryodenError: the file exists, or the tomogram's name has a blank in it.
    """
    columns = [
        "TomoName",
        "CoordinateX",
        "CoordinateY",
        "CoordinateZ",
        "AngleRot",
        "AngleTilt",
        "AnglePsi",
        "ClassNumber",
    ]
    classes = "".join(f"# class {number}: {name}\n" for number, name in enumerate(class_names) if number)
    header = f"# cryoden\n{classes}\ndata_particles\n\nloop_\n"
    header += "".join(f"_rln{column} #{number}\n" for number, column in enumerate(columns, start=1))
    inverse = [p._replace(rotation=p.rotation.T) for p in placements]
    rows = [
        f"{one_word(tomogram)} {_numbers(position[::-1], '.2f')} {_numbers(angles, '.4f')} {class_names.index(name)}\n"
        for (name, position, _), angles in zip(placements, _angles(inverse, "ZYZ"), strict=True)
    ]
    write_text(Path(path), header + "".join(rows) + "\n", overwrite=overwrite)


def _angles(placements: Sequence[Placement], order: str) -> NDArray[np.float64]:
    """(n, 3), degrees."""
    if not placements:
        return np.zeros((0, 3))
    rotations = np.stack([placement.rotation for placement in placements])
    angles: NDArray[np.float64] = Rotation.from_matrix(rotations).as_euler(order, degrees=True, suppress_warnings=True)
    return angles


def _numbers(values: NDArray[np.float64], form: str) -> str:
    return " ".join(format(float(value), form) for value in values)


def one_word(name: str) -> str:
    """A name as tables take it.

    Raises:
        CryodenError: it has a blank in it.
    """
    if len(name.split()) != 1:
        raise CryodenError(f"{name!r}: a name in a table must be one word; rename the file or the tomogram")
    return name
