"""Side chains of a random sequence, which fill the space between backbones."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cryoden.particles.phantom.geometry import Array, beta_carbons, carbonyl_oxygens, place

Bool = NDArray[np.bool_]

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


def add_side_chains(rng: np.random.Generator, chains: list[Array], operators: list[Array]) -> list[Residues]:
    """Give the residues a random sequence, and each side chain the rotamer of twelve that clashes least."""
    backbone = {
        **dict(zip(("N", "CA", "C"), np.moveaxis(np.concatenate(chains), 1, 0), strict=True)),
        "O": np.concatenate([carbonyl_oxygens(chain) for chain in chains]),
        "CB": np.concatenate([beta_carbons(chain) for chain in chains]),
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
    return [Residues(list(names[a:b]), atoms[a:b]) for a, b in itertools.pairwise(bounds)]
