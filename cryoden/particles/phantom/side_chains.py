"""Side chains of a random sequence, which fill the space between backbones."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cryoden.particles.phantom.geometry import Array, five_atoms, place

_ROTAMERS = 36  # that are tried
_NEAR, _CLOSE, _CLASH = 5.0, 3.3, 2.7  # Å: atoms that attract, that repel, and that may not be

Rows = NDArray[np.int64]

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


@dataclass(frozen=True)
class Residues:
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
        atoms[atom] = place(atoms[a], atoms[b], atoms[c], float(length), np.radians(float(angle)), np.radians(degrees))
    return {atom: xyz for atom, xyz in atoms.items() if atom not in backbone}


def _later_of_clashing(side_chains: Array, owner: Rows, n_owners: int) -> NDArray[np.bool_]:
    """(n_owners,), whether a side chain clashes with an earlier one, or a copy of it, among some (M, atoms, 3)."""
    number = np.repeat(np.arange(len(side_chains)), side_chains.shape[1])
    i, j = number[cKDTree(side_chains.reshape(-1, 3)).query_pairs(_CLASH, output_type="ndarray").T]
    later = np.zeros(n_owners, dtype=bool)
    later[np.maximum(owner[i], owner[j])[i != j]] = True
    return later


def add_side_chains(rng: np.random.Generator, chains: list[Array], operators: list[Array]) -> list[Residues]:
    """Give the residues a random sequence, and each side chain the rotamer with the fewest contacts.

    A side chain that clashes in each rotamer is replaced by the next smaller one, down to alanine.
    """
    five = np.concatenate([five_atoms(chain) for chain in chains])
    backbone = dict(zip(("N", "CA", "C", "O", "CB"), np.moveaxis(five, 1, 0), strict=True))
    bonded = np.stack([*backbone.values(), np.roll(backbone["C"], 1, axis=0)])  # to which a side chain's atoms are near
    own = cKDTree(backbone["CB"])
    within_reach = [own.query(backbone["CB"] @ turn.T, distance_upper_bound=14.0)[0] < 14 for turn in operators]

    def copies(xyz: Array, rows: Rows) -> tuple[Array, Rows]:
        """Return the atoms (R, ..., 3) of some residues with their copies near the protomer, and whose they are."""
        near = [np.flatnonzero(within[rows]) for within in within_reach]
        there = [xyz[i] @ turn.T for i, turn in zip(near, operators, strict=True)]
        return np.concatenate(there), np.concatenate(near)

    everyone = np.arange(len(backbone["CA"]))
    occupied = [copies(xyz, everyone)[0] for xyz in backbone.values()]
    crowd = cKDTree(np.concatenate(occupied)).query_ball_point(backbone["CB"], 7.0, return_length=True)
    drawn = rng.choice(len(_TABLE), size=len(crowd), p=_FREQUENCIES)
    size = np.array([len(atoms) for atoms in _SIDE_CHAINS.values()])[drawn] + rng.normal(0, 3, len(drawn))
    names = np.empty(len(drawn), dtype=object)
    names[np.argsort(-crowd, kind="stable")] = np.array(list(_SIDE_CHAINS))[drawn[np.argsort(size)]]
    atoms: list[dict[str, Array]] = [{atom: xyz[i] for atom, xyz in backbone.items()} for i in everyone]
    for i in np.flatnonzero(names == "GLY"):
        del atoms[i]["CB"]

    waiting = np.zeros(len(names), dtype=bool)
    for name in sorted(_SIDE_CHAINS, key=lambda name: -len(_SIDE_CHAINS[name])):  # the large ones have least choice
        if name == "GLY":
            continue
        rows = np.flatnonzero((names == name) | waiting)
        names[rows], waiting[:] = name, False
        if not len(rows) or not _SIDE_CHAINS[name]:
            continue
        built = _build_side_chains(rng, name, {atom: xyz[rows] for atom, xyz in backbone.items()}, _ROTAMERS)
        tree = cKDTree(np.concatenate(occupied))
        near, close, clashes = (
            sum(
                tree.query_ball_point(xyz, reach, return_length=True)
                - (np.linalg.norm(bonded[:, None, rows] - xyz, axis=-1) < reach).sum(axis=0)
                for xyz in built.values()
            )
            for reach in (_NEAR, _CLOSE, _CLASH)
        )
        best = np.argmin(4 * close + 100 * clashes - near, axis=0), np.arange(len(rows))
        chosen = np.stack([xyz[best] for xyz in built.values()], axis=1)
        fits = clashes[best] == 0
        fits[fits] = ~_later_of_clashing(*copies(chosen[fits], rows[fits]), fits.sum())
        waiting[rows[~fits]] = True
        for atom, xyz in zip(built, np.moveaxis(chosen[fits], 1, 0), strict=True):
            occupied.append(copies(xyz, rows[fits])[0])
            for i, position in zip(rows[fits], xyz, strict=True):
                atoms[i][atom] = position
    bounds = np.cumsum([0] + [len(chain) for chain in chains])
    return [Residues(list(names[a:b]), atoms[a:b]) for a, b in itertools.pairwise(bounds)]
