"""Backbones with ideal bond lengths and angles, and the rigid motions of what is made of them."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]

# Backbone geometry (Engh & Huber 1991), in the order in which atoms are placed: N, CA, C.
_LENGTHS = np.array([1.329, 1.458, 1.525])  # C-N, N-CA, CA-C
ANGLES = np.radians([117.2, 121.7, 111.0])  # CA-C-N, C-N-CA, N-CA-C
_HELIX, _STRAND = np.radians([-63.0, -42.0]), np.radians([-120.0, 132.0])  # phi, psi


def unit(vectors: Array) -> Array:
    """Scale vectors (..., 3) to length 1."""
    lengths: Array = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths


def place(a: Array, b: Array, c: Array, length: float, angle: float, torsion: Array | float) -> Array:
    """Return the atom bonded to c with angle b-c-atom and torsion a-b-c-atom (radians); arrays (..., 3)."""
    x = unit(c - b)
    z = unit(np.cross(b - a, x))
    y = np.cross(z, x)
    cos, sin = np.cos(torsion)[..., None], np.sin(torsion)[..., None]
    atom: Array = c + length * (np.sin(angle) * (cos * y + sin * z) - np.cos(angle) * x)
    return atom


def extend(start: Array, torsions: Array) -> tuple[Array, Array]:
    """Extend chains from their last residue (natural extension reference frame, Parsons et al. 2005).

    Args:
        start: N, CA, C of the last residue, (B, 3, 3) in Å.
        torsions: (B, R, 3) psi of the residue before, omega, phi, in radians.

    Returns:
        The new residues (B, R, 3, 3) and the unit bond each torsion turns about (B, R, 3, 3).
    """
    batch, n_residues, _ = torsions.shape
    x = unit(start[:, 2] - start[:, 1])
    z = unit(np.cross(start[:, 1] - start[:, 0], x))
    frame = np.stack([x, np.cross(z, x), z], axis=-1)
    cos, sin = np.cos(torsions), np.sin(torsions)
    bend_cos, bend_sin = np.broadcast_arrays(-np.cos(ANGLES), np.sin(ANGLES), cos)[:2]
    turns = np.stack(  # turn about x by the torsion, then about z by 180° - angle
        [
            np.stack([bend_cos, -bend_sin, np.zeros_like(cos)], axis=-1),
            np.stack([cos * bend_sin, cos * bend_cos, -sin], axis=-1),
            np.stack([sin * bend_sin, sin * bend_cos, cos], axis=-1),
        ],
        axis=-2,
    ).reshape(batch, 3 * n_residues, 3, 3)
    frames = [frame]
    for i in range(3 * n_residues):
        frames.append(frames[-1] @ turns[:, i])
    bonds = np.stack(frames, axis=1)[..., 0]
    atoms = start[:, 2:] + np.cumsum(bonds[:, 1:] * np.tile(_LENGTHS, n_residues)[:, None], axis=1)
    shape = (batch, n_residues, 3, 3)
    return atoms.reshape(shape), bonds[:, :-1].reshape(shape)


def ideal_segment(kind: str, n_residues: int) -> Array:
    """Return an ideal helix or strand (R, 3, 3), centred, axis along z; a strand's C=O point along ±x."""
    phi, psi = _HELIX if kind == "H" else _STRAND
    start = np.array([[[1.458 * np.cos(ANGLES[2]), 1.458 * np.sin(ANGLES[2]), 0], [0, 0, 0], [1.525, 0, 0]]])
    new, _ = extend(start, np.tile([psi, np.pi, phi], (1, n_residues, 1)))
    atoms = new[0] - new[0].mean(axis=(0, 1))
    ca = atoms[:, 1]
    period = 4 if kind == "H" else 2  # the mean of so many CA lies on the axis
    z = unit(ca[-period:].mean(axis=0) - ca[:period].mean(axis=0))
    outward = beta_carbons(atoms) - ca
    outward -= (outward @ z)[:, None] * z
    y = unit((outward * (-1.0) ** np.arange(n_residues)[:, None]).sum(axis=0)) if kind == "E" else unit(outward[0])
    aligned: Array = atoms @ np.stack([np.cross(y, z), y, z], axis=-1)
    return aligned


def beta_carbons(backbone: Array) -> Array:
    """Return where the CB (..., 3) of residues (..., 3, 3) belong."""
    n, ca, c = np.moveaxis(backbone, -2, 0)
    return place(c, n, ca, 1.53, np.radians(110.4), np.full(n.shape[:-1], np.radians(-122.6)))


def carbonyl_oxygens(backbone: Array) -> Array:
    """Return the O (..., R, 3) of chains (..., R, 3, 3)."""
    n, ca, c = np.moveaxis(backbone, -2, 0)
    last = place(n[..., -1:, :], ca[..., -1:, :], c[..., -1:, :], 1.329, ANGLES[0], np.radians([-45.0]))
    following = np.concatenate([n[..., 1:, :], last], axis=-2)
    return place(following, ca, c, 1.231, np.radians(120.4), np.full(n.shape[:-1], np.pi))


def five_atoms(backbone: Array) -> Array:
    """Return N, CA, C, O, CB (..., R, 5, 3) of chains (..., R, 3, 3)."""
    more = np.stack([carbonyl_oxygens(backbone), beta_carbons(backbone)], axis=-2)
    return np.concatenate([backbone, more], axis=-2)


def random_rotation(rng: np.random.Generator) -> Array:
    """Draw a (3, 3) rotation, uniform on SO(3)."""
    w, x, y, z = rng.normal(size=4)
    matrix: Array = Rotation.from_quat([x, y, z, w]).as_matrix()
    return matrix


def turn_about(axis: int, angle: float) -> Array:
    """Return the (3, 3) rotation by an angle in radians about x (0), y (1) or z (2)."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[[i, j, i, j], [i, j, j, i]] = np.cos(angle), np.cos(angle), -np.sin(angle), np.sin(angle)
    return matrix
