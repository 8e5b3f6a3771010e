"""Phantoms: procedural protein assemblies, so that everything works offline, on any number of particles.

A phantom is made as a protein is made, from the inside out. Helices and strands with ideal bond lengths,
angles and torsions are laid out as the layers or the barrel of a domain; loops with the same geometry join them;
domains dock into a protomer; the protomer, into a ring or two stacked rings; side chains of a random sequence
fill the space between. The result is an ordinary gemmi structure.
"""

import itertools
import string
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gemmi
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cryoden.errors import CryodenError
from cryoden.particles.structure import Structure

Array = NDArray[np.float64]
Bool = NDArray[np.bool_]

# Backbone geometry (Engh & Huber 1991), in the order in which atoms are placed: N, CA, C.
_LENGTHS = np.array([1.329, 1.458, 1.525])  # C-N, N-CA, CA-C
_ANGLES = np.radians([117.2, 121.7, 111.0])  # CA-C-N, C-N-CA, N-CA-C
_HELIX, _STRAND = np.radians([-63.0, -42.0]), np.radians([-120.0, 132.0])  # phi, psi
_LOOP_BASINS = np.radians([(-65, -40), (-70, 145), (-120, 130), (-90, 0), (-65, 145), (57, 40)])
_RISE = {"H": 1.50, "E": 3.3}  # Å per residue
_SPACING = {"H": 9.8, "E": 4.8}  # Å between neighbours in a layer
_LAYER_GAP = 10.0  # Å
_MEAN_RESIDUE_MASS = 0.111  # kDa

# Layers of helices (H) and strands (E), and the two barrels, with roughly their shares of the PDB.
_ARCHITECTURES = {
    **{"HEH": 0.28, "HE": 0.14, "EE": 0.16, "HH": 0.12, "HHH": 0.12, "HEEH": 0.06},
    **{"barrel": 0.04, "tim": 0.08},
}
_SYMMETRIES = {
    **{"C1": 0.20, "C2": 0.16, "C3": 0.08, "C4": 0.07, "C5": 0.05, "C6": 0.07, "C7": 0.05, "C8": 0.04},
    **{"D2": 0.10, "D3": 0.07, "D4": 0.05, "D5": 0.03, "D6": 0.04, "D7": 0.05},
}
_MASS_RANGE = (33.0, 640.0)  # kDa, drawn log-uniformly
_PROTOMER_RANGE = (12.0, 95.0)  # kDa; a C1 particle may be twice that

# Frequency (%) of each residue, then its side chain beyond CB: atom, the three atoms it hangs on, bond length
# in Å, bond angle and torsion in degrees (r to u: staggered, p: free, with an offset; or a number).
_RESIDUES = """
ALA 8.3
ARG 5.5 CG N CA CB 1.52 114 r; CD CA CB CG 1.52 111 s; NE CB CG CD 1.46 112 t; CZ CG CD NE 1.33 124 180; \
NH1 CD NE CZ 1.33 120 0; NH2 CD NE CZ 1.33 120 180
ASN 4.1 CG N CA CB 1.52 113 r; OD1 CA CB CG 1.23 121 p; ND2 CA CB CG 1.33 117 p+180
ASP 5.5 CG N CA CB 1.52 113 r; OD1 CA CB CG 1.25 118 p; OD2 CA CB CG 1.25 118 p+180
CYS 1.4 SG N CA CB 1.81 114 r
GLN 3.9 CG N CA CB 1.52 114 r; CD CA CB CG 1.52 113 s; OE1 CB CG CD 1.23 121 p; NE2 CB CG CD 1.33 117 p+180
GLU 6.7 CG N CA CB 1.52 114 r; CD CA CB CG 1.52 113 s; OE1 CB CG CD 1.25 118 p; OE2 CB CG CD 1.25 118 p+180
GLY 7.1
HIS 2.3 CG N CA CB 1.50 114 r; ND1 CA CB CG 1.38 123 p; CD2 CA CB CG 1.35 131 p+180; \
CE1 CB CG ND1 1.32 109 180; NE2 CB CG CD2 1.37 107 180
ILE 5.9 CG1 N CA CB 1.53 110 r; CG2 N CA CB 1.53 111 r-123; CD1 CA CB CG1 1.51 114 s
LEU 9.7 CG N CA CB 1.53 116 r; CD1 CA CB CG 1.52 111 s; CD2 CA CB CG 1.52 111 s+122
LYS 5.8 CG N CA CB 1.52 114 r; CD CA CB CG 1.52 111 s; CE CB CG CD 1.52 111 t; NZ CG CD CE 1.49 112 u
MET 2.4 CG N CA CB 1.52 114 r; SD CA CB CG 1.80 113 s; CE CB CG SD 1.79 101 t
PHE 3.9 CG N CA CB 1.50 114 r; CD1 CA CB CG 1.38 121 p; CD2 CA CB CG 1.38 121 p+180; \
CE1 CB CG CD1 1.38 121 180; CE2 CB CG CD2 1.38 121 180; CZ CG CD1 CE1 1.38 120 0
PRO 4.7 CG N CA CB 1.49 104 28; CD CA CB CG 1.50 105 -36
SER 6.6 OG N CA CB 1.42 111 r
THR 5.3 OG1 N CA CB 1.43 109 r; CG2 N CA CB 1.52 111 r-121
TRP 1.1 CG N CA CB 1.50 114 r; CD1 CA CB CG 1.37 127 p; CD2 CA CB CG 1.43 127 p+180; \
NE1 CB CG CD1 1.37 110 180; CE2 CB CG CD2 1.41 107 180; CE3 CB CG CD2 1.40 134 0; \
CZ2 CG CD2 CE2 1.39 122 180; CZ3 CG CD2 CE3 1.38 119 180; CH2 CD2 CE2 CZ2 1.37 117 0
TYR 2.9 CG N CA CB 1.51 114 r; CD1 CA CB CG 1.39 121 p; CD2 CA CB CG 1.39 121 p+180; \
CE1 CB CG CD1 1.38 121 180; CE2 CB CG CD2 1.38 121 180; CZ CG CD1 CE1 1.38 120 0; OH CD1 CE1 CZ 1.38 120 180
VAL 6.9 CG1 N CA CB 1.52 111 r; CG2 N CA CB 1.52 111 r+122
"""
_TABLE = [line.split(maxsplit=2) for line in _RESIDUES.strip().splitlines()]
_SIDE_CHAINS = {name: [atom.split() for atom in rest[0].split(";")] if rest else [] for name, _, *rest in _TABLE}
_FREQUENCIES = np.array([float(row[1]) for row in _TABLE]) / sum(float(row[1]) for row in _TABLE)


def phantom(seed: int) -> Structure:
    """Make the phantom of a seed, as a particle named ``phantom:SEED``."""
    return Structure.from_gemmi(make_phantom(seed), f"phantom:{seed}")


def make_phantom(seed: int) -> gemmi.Structure:
    """Make a protein assembly of 30 to 700 kDa, the same for the same seed.

    Args:
        seed: Any integer from 0 up.

    Returns:
        One model, its symmetry axis along z and its two-fold axes, if any, in the xy plane. The title
        (``info["_struct.title"]``) ends with the point group, such as ``D7``.

    Raises:
        CryodenError: If the seed is negative.
    """
    if seed < 0:
        raise CryodenError(f"a phantom's seed must be 0 or more, got {seed}: write phantom:0, phantom:1 and so on")
    rng = np.random.default_rng(seed)
    symmetry, n_residues = _draw_symmetry_and_size(rng)
    protomer = _fold_protomer(rng, n_residues)
    chains, operators = _pack(rng, protomer, symmetry)
    return _to_gemmi(f"phantom:{seed}", symmetry, _add_side_chains(rng, chains, operators), operators)


def _draw_symmetry_and_size(rng: np.random.Generator) -> tuple[str, int]:
    mass = np.exp(rng.uniform(*np.log(_MASS_RANGE)))
    low, high = _PROTOMER_RANGE
    weights = np.array(
        [
            weight * (low <= mass / _order(name) <= (2 * high if name == "C1" else high))
            for name, weight in _SYMMETRIES.items()
        ]
    )
    symmetry = str(rng.choice(list(_SYMMETRIES), p=weights / weights.sum()))
    return symmetry, round(mass / _order(symmetry) / _MEAN_RESIDUE_MASS)


def _order(symmetry: str) -> int:
    return int(symmetry[1:]) * (2 if symmetry[0] == "D" else 1)


# --- geometry -------------------------------------------------------------------------------------


def _unit(vectors: Array) -> Array:
    lengths: Array = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths


def _place(a: Array, b: Array, c: Array, length: float, angle: float, torsion: Array | float) -> Array:
    """Return the atom bonded to c with angle b-c-atom and torsion a-b-c-atom (radians); arrays (..., 3)."""
    x = _unit(c - b)
    z = _unit(np.cross(b - a, x))
    y = np.cross(z, x)
    cos, sin = np.cos(torsion)[..., None], np.sin(torsion)[..., None]
    atom: Array = c + length * (np.sin(angle) * (cos * y + sin * z) - np.cos(angle) * x)
    return atom


def _extend(start: Array, torsions: Array) -> tuple[Array, Array]:
    """Extend chains from their last residue (natural extension reference frame, Parsons et al. 2005).

    Args:
        start: N, CA, C of the last residue, (B, 3, 3) in Å.
        torsions: (B, R, 3) psi of the residue before, omega, phi, in radians.

    Returns:
        The new residues (B, R, 3, 3) and the unit bond each torsion turns about (B, R, 3, 3).
    """
    batch, n_residues, _ = torsions.shape
    x = _unit(start[:, 2] - start[:, 1])
    z = _unit(np.cross(start[:, 1] - start[:, 0], x))
    frame = np.stack([x, np.cross(z, x), z], axis=-1)
    cos, sin = np.cos(torsions), np.sin(torsions)
    bend_cos, bend_sin = np.broadcast_arrays(-np.cos(_ANGLES), np.sin(_ANGLES), cos)[:2]
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


def _segment(kind: str, n_residues: int) -> Array:
    """Return an ideal helix or strand (R, 3, 3), centred, axis along z; a strand's C=O point along ±x."""
    phi, psi = _HELIX if kind == "H" else _STRAND
    start = np.array([[[1.458 * np.cos(_ANGLES[2]), 1.458 * np.sin(_ANGLES[2]), 0], [0, 0, 0], [1.525, 0, 0]]])
    new, _ = _extend(start, np.tile([psi, np.pi, phi], (1, n_residues, 1)))
    atoms = new[0] - new[0].mean(axis=(0, 1))
    ca = atoms[:, 1]
    period = 4 if kind == "H" else 2  # the mean of so many CA lies on the axis
    z = _unit(ca[-period:].mean(axis=0) - ca[:period].mean(axis=0))
    outward = _beta_carbons(atoms) - ca
    outward -= (outward @ z)[:, None] * z
    y = _unit((outward * (-1.0) ** np.arange(n_residues)[:, None]).sum(axis=0)) if kind == "E" else _unit(outward[0])
    aligned: Array = atoms @ np.stack([np.cross(y, z), y, z], axis=-1)
    return aligned


def _beta_carbons(backbone: Array) -> Array:
    n, ca, c = np.moveaxis(backbone, -2, 0)
    return _place(c, n, ca, 1.53, np.radians(110.4), np.full(n.shape[:-1], np.radians(-122.6)))


def _carbonyl_oxygens(backbone: Array) -> Array:
    n, ca, c = np.moveaxis(backbone, -2, 0)
    following = np.concatenate([n[1:], _place(n[-1:], ca[-1:], c[-1:], 1.329, _ANGLES[0], np.radians([-45.0]))])
    return _place(following, ca, c, 1.231, np.radians(120.4), np.full(len(n), np.pi))


def _random_rotation(rng: np.random.Generator) -> Array:
    w, x, y, z = _unit(rng.normal(size=4))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _turn(axis: int, angle: float) -> Array:
    """Return the (3, 3) rotation by an angle in radians about x (0), y (1) or z (2)."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[[i, j, i, j], [i, j, j, i]] = np.cos(angle), np.cos(angle), -np.sin(angle), np.sin(angle)
    return matrix


# --- domains --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Site:
    """Where a helix or strand lies: its middle, and its frame (columns: along the layer, out of it, axis)."""

    kind: str
    middle: Array
    frame: Array
    height: float


def _layer_sites(rng: np.random.Generator, architecture: str, n_residues: int) -> list[_Site]:
    """Lay helices and strands out in twisted layers, filled from the middle until the domain has its size."""
    side = (135 * n_residues) ** (1 / 3)  # 135 Å³ a residue
    height = float(np.clip(side * rng.uniform(0.75, 1.0) - 4, 14, 34))
    twist = np.radians(-20 / 4.8) * rng.uniform(0.6, 1.0) if "E" in architecture else rng.uniform(-0.025, 0.025)
    places = []
    for row, kind in enumerate(architecture):
        offset = rng.uniform(-0.5, 0.5) * _SPACING[kind]
        y = (row - (len(architecture) - 1) / 2) * _LAYER_GAP
        places += [(kind, offset + i * _SPACING[kind], y) for i in range(-12, 13)]
    places.sort(key=lambda place: abs(place[1]))
    sites, total = [], 0.0
    for kind, x, y in places:
        sites.append(
            _Site(
                kind,
                _turn(0, twist * x) @ np.array([x, y, rng.normal(0, 1.0)]),
                _turn(0, twist * x) @ _turn(1, rng.normal(0, 0.08)),
                height * rng.uniform(0.85, 1.15),
            )
        )
        total += height / _RISE[kind] + 3.5
        if total >= n_residues:
            break
    return sites


def _barrel_sites(rng: np.random.Generator, architecture: str, n_residues: int) -> list[_Site]:
    """Lay strands out as a closed barrel, for a TIM barrel with a helix outside each strand."""
    n_strands = 8 if architecture == "tim" else int(np.clip(n_residues // 12, 6, 12))
    tilt = np.radians(36.0)
    radius = _SPACING["E"] / (2 * np.sin(np.pi / n_strands) * np.cos(tilt))
    per_strand = n_residues / n_strands - 3.5 * (2 if architecture == "tim" else 1)
    if architecture == "tim":
        rings = [
            ("E", radius, 0.0, 22.0),
            ("H", radius + _LAYER_GAP, 0.5, (per_strand - 22 / _RISE["E"]) * _RISE["H"]),
        ]
    else:
        rings = [("E", radius, 0.0, per_strand * _RISE["E"])]
    sites = []
    for i, (kind, distance, phase, height) in itertools.product(range(n_strands), rings):
        turn = _turn(2, 2 * np.pi * (i + phase) / n_strands)
        frame = turn @ _turn(1, -tilt)
        middle = turn @ np.array([0, distance, rng.normal(0, 0.5)])
        sites.append(_Site(kind, middle, frame, float(np.clip(height, 12, 36))))
    return sites


def _tour(rng: np.random.Generator, sites: Sequence[_Site]) -> list[_Site]:
    """Order the sites as the chain passes them, leaving out those it could only reach through the others."""
    left = list(sites)
    path = [left.pop(int(rng.integers(len(left))))]
    while left:  # to a near neighbour, which in a mixed domain is of the other kind: beta-alpha-beta
        distances = np.array([np.linalg.norm(site.middle - path[-1].middle) for site in left])
        same = np.array([site.kind == path[-1].kind for site in left])
        nearest = int(np.argmin(distances + 9 * same + rng.normal(0, 2, len(left))))
        if distances[nearest] > 16:
            break
        path.append(left.pop(nearest))
    return path


def _domain_segments(rng: np.random.Generator, n_residues: int) -> list[Array]:
    """Return the helices and strands of a domain, in the order and the directions in which the chain runs."""
    weights = np.array(list(_ARCHITECTURES.values()))
    fits = {"HHH": n_residues >= 100, "HEEH": n_residues >= 140}
    fits |= {"barrel": n_residues <= 160, "tim": 190 <= n_residues <= 300}
    weights *= [fits.get(name, True) for name in _ARCHITECTURES]
    architecture = str(rng.choice(list(_ARCHITECTURES), p=weights / weights.sum()))
    make = _barrel_sites if architecture in ("tim", "barrel") else _layer_sites
    sites = make(rng, architecture, n_residues)
    path = max((_tour(rng, sites) for _ in range(6)), key=len)
    flip = np.diag([1.0, -1.0, -1.0])
    segments = []
    for i, site in enumerate(path):
        ideal = _segment(site.kind, max(6 if site.kind == "H" else 4, round(site.height / _RISE[site.kind])))
        spin = _turn(2, rng.uniform(0, 2 * np.pi)) if site.kind == "H" else np.eye(3)
        turn = site.frame @ (flip if i % 2 else np.eye(3)) @ spin
        segments.append(ideal @ turn.T + site.middle)
    return segments


# --- loops ----------------------------------------------------------------------------------------


def _close_loops(rng: np.random.Generator, start: Array, end: Array, n_residues: int) -> tuple[Array, Array, Array]:
    """Find loops from one residue to another by damped least squares on the torsions.

    Args:
        rng: Source of the starting torsions.
        start: N, CA, C of the residue before each loop, (B, 3, 3).
        end: N, CA, C of the residue after each loop, (B, 3, 3).
        n_residues: Residues in each loop.

    Returns:
        The loops (B, R, 3, 3), the largest distance in Å of the atoms of the residue after from where they
        should be (B,), and the number of positive phi (B,).
    """
    basins = rng.choice(len(_LOOP_BASINS), size=(len(start), n_residues + 2), p=[0.3, 0.25, 0.2, 0.1, 0.1, 0.05])
    angles = _LOOP_BASINS[basins] + rng.normal(0, 0.25, (*basins.shape, 2))
    torsions = np.stack([angles[:, :-1, 1], np.full(basins[:, 1:].shape, np.pi), angles[:, 1:, 0]], axis=-1)
    for _ in range(14):
        residues, bonds = _extend(start, torsions)
        error = (end - residues[:, -1]).reshape(-1, 9)
        pivots = np.concatenate([start[:, 2:], residues.reshape(len(start), -1, 3)[:, :-1]], axis=1)
        axes = bonds.reshape(len(start), -1, 3)
        free = np.arange(pivots.shape[1]) % 3 != 1  # omega stays at 180°
        lever = residues[:, -1][:, None] - pivots[:, free][:, :, None]
        jacobian = np.cross(axes[:, free][:, :, None], lever).reshape(len(start), -1, 9)
        square = jacobian.swapaxes(1, 2) @ jacobian + (1e-2 + 0.03 * (error**2).sum(axis=-1))[:, None, None] * np.eye(9)
        step = (jacobian @ np.linalg.solve(square, error[..., None]))[..., 0]
        torsions.reshape(len(start), -1)[:, free] += np.clip(step, -0.5, 0.5)
    residues, _ = _extend(start, torsions)
    miss = np.linalg.norm(end - residues[:, -1], axis=-1).max(axis=-1)
    return residues[:, :-1], miss, (np.sin(torsions[..., 2]) > 0).sum(axis=-1)


_TRIALS = 16
_BONDED = 6  # pairs of backbone atoms of a loop and of the residues next to it that bonds keep within 2.8 Å


def _join(rng: np.random.Generator, segments: Sequence[Array], linked: Sequence[bool]) -> list[Array]:
    """Join each segment to the next one where linked, by the least crowded of a number of loops.

    A loop that clashes is tried again one residue longer, once; one that cannot close, until it does.
    """
    occupied = [points for a in segments for points in (a.reshape(-1, 3), _beta_carbons(a))]
    gaps = [np.linalg.norm(b[0, 0] - a[-1, 2]) for a, b in itertools.pairwise(segments)]
    lengths = {i: max(3, int(gap / 3.1) + int(rng.integers(1, 4))) for i, gap in enumerate(gaps) if linked[i]}
    loops: dict[int, Array] = {}
    for attempt in itertools.count():
        batches = defaultdict(list)
        for i, length in lengths.items():
            batches[length].append(i)
        for length, members in sorted(batches.items()):
            start = np.repeat([segments[i][-1] for i in members], _TRIALS, axis=0)
            end = np.repeat([segments[i + 1][0] for i in members], _TRIALS, axis=0)
            atoms, miss, penalty = _close_loops(rng, start, end, length)
            for row, i in enumerate(members):
                rows = slice(_TRIALS * row, _TRIALS * (row + 1))
                tree = cKDTree(np.concatenate(occupied))
                points = atoms[rows].reshape(_TRIALS, -1, 3)
                near, clash = (tree.query_ball_point(points, r, return_length=True).sum(axis=-1) for r in (4.5, 2.8))
                cost = near + 10 * clash + penalty[rows] + np.where(miss[rows] < 0.02, 0, np.inf)
                best = int(np.argmin(cost))
                if np.isfinite(cost[best]) and (clash[best] <= _BONDED or attempt >= 1):
                    loops[i] = atoms[rows][best]
                    occupied.append(loops[i].reshape(-1, 3))
        lengths = {i: length + 1 for i, length in lengths.items() if i not in loops}
        if not lengths:
            break
    chains = [[segments[0]]]
    for i, segment in enumerate(segments[1:]):
        if i in loops:
            chains[-1] += [loops[i], segment]
        else:
            chains.append([segment])
    return [np.concatenate(parts) for parts in chains]


# --- docking --------------------------------------------------------------------------------------


_CONTACT = 5.0  # Å, the least distance between CB atoms of docked bodies


def _approach(moving: Array, fixed: Array, step: Array) -> float:
    """Return the t at which points p + t * step, as t falls from infinity, first touch other points."""
    speed = float(np.linalg.norm(step))
    along = step / speed
    a, b = ((points, points @ along) for points in (moving, fixed))
    flat_a, flat_b = (points - np.outer(height, along) for points, height in (a, b))
    pairs = cKDTree(flat_a).sparse_distance_matrix(cKDTree(flat_b), _CONTACT, output_type="ndarray")
    lead = b[1][pairs["j"]] - a[1][pairs["i"]]
    return float(np.max(lead + np.sqrt(_CONTACT**2 - pairs["v"] ** 2), initial=0.0)) / speed


def _contacts(a: Array, b: Array) -> int:
    return int(cKDTree(a).count_neighbors(cKDTree(b), 9.0))


def _fold_protomer(rng: np.random.Generator, n_residues: int) -> list[Array]:
    """Make the domains of a protomer, dock each to those before it and link them to one or more chains."""
    n_domains = max(1, round(n_residues / float(np.clip(rng.lognormal(np.log(170), 0.3), 90, 280))))
    shares = rng.uniform(0.6, 1.4, n_domains)
    groups = [_domain_segments(rng, int(share)) for share in n_residues * shares / shares.sum()]
    far = np.array([1e3, 0, 0])  # keeps domains apart until they dock, so that all loops close in one batch
    segments = [segment + i * far for i, group in enumerate(groups) for segment in group]
    owner = np.repeat(np.arange(n_domains), [len(group) for group in groups])
    domains = [chain - i * far for i, chain in enumerate(_join(rng, segments, list(owner[1:] == owner[:-1])))]

    elongation = rng.triangular(-9.0, -5.0, 0.5)
    placed = [domains[0]]
    for domain in domains[1:]:
        body = np.concatenate([_beta_carbons(chain) for chain in placed])
        options: list[tuple[float, int, Array]] = []
        for _ in range(24):
            turned = (domain - domain.mean(axis=(0, 1))) @ _random_rotation(rng).T
            points = _beta_carbons(turned)
            step = _unit(rng.normal(size=3))
            target = placed[-1].mean(axis=(0, 1))
            turned += target + step * _approach(points + target, body, step)
            distance = np.linalg.norm(turned.mean(axis=(0, 1)) - body.mean(axis=0))
            gap = max(0.0, float(np.linalg.norm(turned[0, 0] - placed[-1][-1, 2])) - 12)
            score = _contacts(_beta_carbons(turned), body) + elongation * distance - gap
            options.append((float(score), len(options), turned))
        placed.append(max(options)[2])
    gaps = [np.linalg.norm(b[0, 0] - a[-1, 2]) for a, b in itertools.pairwise(placed)]
    return _join(rng, placed, [bool(gap < 30) for gap in gaps])


def _pack(rng: np.random.Generator, protomer: list[Array], symmetry: str) -> tuple[list[Array], list[Array]]:
    """Move the protomer to where its copies under a point group touch; return the group's rotations too."""
    order = int(symmetry[1:])
    ring = [_turn(2, 2 * np.pi * k / order) for k in range(order)]
    centre = np.concatenate(protomer).mean(axis=(0, 1))
    chains = [chain - centre for chain in protomer]
    if symmetry == "C1":
        return chains, ring
    points = np.concatenate([_beta_carbons(chain) for chain in chains])

    out, tallness = np.array([1.0, 0, 0]), rng.normal(0, 3)
    options: list[tuple[float, int, Array, Array]] = []
    for _ in range(40):
        turn = _random_rotation(rng)
        near = points @ turn.T
        radius = max(_approach(near, near @ r.T, out - r @ out) for r in ring[1 : order // 2 + 1])
        moved = near + radius * out
        size = np.sqrt((moved**2).sum(axis=1).mean())
        score = _contacts(moved, moved @ ring[1].T) + tallness * np.std(moved[:, 2]) - 6 * size
        options.append((score, len(options), turn, radius * out))
    turn, shift = max(options)[2:]
    if symmetry[0] == "C":
        return [chain @ turn.T + shift for chain in chains], ring

    points = points @ turn.T + shift
    up, across = np.array([0, 0, 1.0]), _turn(0, np.pi)
    stacks: list[tuple[float, int, Array, Array]] = []
    for i in range(16):
        turned = _turn(2, rng.uniform(0, 2 * np.pi)) @ (across if i % 2 else np.eye(3))
        near = points @ turned.T
        height = max(_approach(near, near @ (r @ across).T, 2 * up) for r in ring)
        moved = near + height * up
        stacks.append((sum(_contacts(moved, moved @ (r @ across).T) for r in ring), i, turned, height * up))
    turned, lift = max(stacks)[2:]
    moved_chains = [(chain @ turn.T + shift) @ turned.T + lift for chain in chains]
    return moved_chains, ring + [r @ across for r in ring]


# --- side chains and output -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Residues:
    """A chain: residue names, and for each residue its atoms' names and positions in Å."""

    names: list[str]
    atoms: list[dict[str, Array]]


def _build_side_chains(
    rng: np.random.Generator, name: str, backbone: dict[str, Array], n_rotamers: int
) -> dict[str, Array]:
    """Build rotamers of one kind of side chain: atom name to (rotamers, residues, 3) in Å."""
    shape = (n_rotamers, len(backbone["CA"]))
    chi = {letter: rng.choice([-65.0, 180.0, 62.0], size=shape, p=[0.5, 0.35, 0.15]) for letter in "rstu"}
    chi["p"] = rng.uniform(-180, 180, shape)
    atoms = {atom: np.broadcast_to(xyz, (*shape, 3)) for atom, xyz in backbone.items()}
    for atom, a, b, c, length, angle, torsion in _SIDE_CHAINS[name]:
        letter = torsion[0] if torsion[0] in chi else ""
        degrees = chi.get(letter, np.zeros(shape)) + float(torsion[len(letter) :] or 0)
        atoms[atom] = _place(atoms[a], atoms[b], atoms[c], float(length), np.radians(float(angle)), np.radians(degrees))
    return {atom: xyz for atom, xyz in atoms.items() if atom not in backbone}


def _add_side_chains(rng: np.random.Generator, chains: list[Array], operators: list[Array]) -> list[_Residues]:
    """Give the residues a random sequence, and each side chain the rotamer of twelve that clashes least."""
    backbone = {
        **dict(zip(("N", "CA", "C"), np.moveaxis(np.concatenate(chains), 1, 0), strict=True)),
        "O": np.concatenate([_carbonyl_oxygens(chain) for chain in chains]),
        "CB": np.concatenate([_beta_carbons(chain) for chain in chains]),
    }
    own = cKDTree(backbone["CB"])
    close = [own.query(backbone["CB"] @ turn.T, distance_upper_bound=14.0)[0] < 14 for turn in operators]

    def copies(xyz: Array, members: Bool) -> Array:
        return np.concatenate([xyz[near[members]] @ turn.T for turn, near in zip(operators, close, strict=True)])

    everyone = np.ones(len(backbone["CA"]), dtype=bool)
    occupied = [copies(xyz, everyone) for xyz in backbone.values()]
    crowd = cKDTree(np.concatenate(occupied)).query_ball_point(backbone["CB"], 7.0, return_length=True)
    drawn = rng.choice(len(_TABLE), size=len(crowd), p=_FREQUENCIES)
    size = np.array([len(atoms) for atoms in _SIDE_CHAINS.values()])[drawn] + rng.normal(0, 3, len(drawn))
    names = np.empty(len(drawn), dtype=object)
    names[np.argsort(-crowd, kind="stable")] = np.array(list(_SIDE_CHAINS))[drawn[np.argsort(size)]]
    atoms: list[dict[str, Array]] = [{atom: xyz[i] for atom, xyz in backbone.items()} for i in range(len(names))]
    for name in sorted(_SIDE_CHAINS, key=lambda name: -len(_SIDE_CHAINS[name])):  # the large ones have least choice
        members = names == name
        rows = np.flatnonzero(members)
        if name == "GLY":
            for i in rows:
                del atoms[i]["CB"]
        if not len(rows) or not _SIDE_CHAINS[name]:
            continue
        built = _build_side_chains(rng, name, {atom: xyz[members] for atom, xyz in backbone.items()}, 12)
        tree = cKDTree(np.concatenate(occupied))
        clashes = sum(tree.query_ball_point(xyz, 3.3, return_length=True) for xyz in built.values())
        best = np.argmin(clashes, axis=0)
        for atom, options in built.items():
            xyz = options[best, np.arange(len(rows))]
            occupied.append(copies(xyz, members))
            for i, position in zip(rows, xyz, strict=True):
                atoms[i][atom] = position
    bounds = np.cumsum([0] + [len(chain) for chain in chains])
    return [_Residues(list(names[a:b]), atoms[a:b]) for a, b in itertools.pairwise(bounds)]


def _chain_names() -> Iterator[str]:
    letters = string.ascii_uppercase + string.ascii_lowercase
    yield from letters
    yield from ("".join(pair) for pair in itertools.product(letters, letters))


def _to_gemmi(name: str, symmetry: str, chains: list[_Residues], operators: list[Array]) -> gemmi.Structure:
    protomer = gemmi.Model(1)
    for residues in chains:
        chain = gemmi.Chain("")
        for number, (residue_name, atoms) in enumerate(zip(residues.names, residues.atoms, strict=True), start=1):
            residue = gemmi.Residue()
            residue.name, residue.seqid = str(residue_name), gemmi.SeqId(str(number))
            for atom_name, xyz in atoms.items():
                atom = gemmi.Atom()
                atom.name, atom.element, atom.pos = (
                    atom_name,
                    gemmi.Element(atom_name[0]),
                    gemmi.Position(*xyz),
                )
                residue.add_atom(atom)
            chain.add_residue(residue)
        protomer.add_chain(chain)

    structure = gemmi.Structure()
    structure.name = name
    structure.info["_struct.title"] = f"Procedural protein assembly of symmetry {symmetry}"
    model, chain_names = gemmi.Model(1), _chain_names()
    for operator in operators:
        copy = protomer.clone()
        copy.transform_pos_and_adp(gemmi.Transform(gemmi.Mat33(operator.tolist()), gemmi.Vec3(0, 0, 0)))
        for chain in copy:
            chain.name = next(chain_names)
            model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    return structure
