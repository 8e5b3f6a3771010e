"""Domains: helices and strands laid out as layers or as a barrel, in the order in which the chain passes them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from cryoden.particles.phantom.geometry import Array, five_atoms, ideal_segment, turn_about

_RISE = {"H": 1.50, "E": 3.3}  # Å per residue
_SPACING = {"H": 8.0, "E": 4.8}  # Å between neighbours in a layer: near, since what clashes settles apart
_LAYER_GAP = 8.0  # Å
_APART, _BONDED = 3.3, 2.8  # Å: no atoms of two segments are nearer, and no N and O
_ROUNDS = 60

# Layers of helices (H) and strands (E), and the two barrels, with roughly their shares of the PDB.
_ARCHITECTURES = {
    **{"HEH": 0.28, "HE": 0.14, "EE": 0.16, "HH": 0.12, "HHH": 0.12, "HEEH": 0.06},
    **{"barrel": 0.04, "tim": 0.08},
}


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
                turn_about(0, twist * x) @ np.array([x, y, rng.normal(0, 1.0)]),
                turn_about(0, twist * x) @ turn_about(1, rng.normal(0, 0.08)),
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
        turn = turn_about(2, 2 * np.pi * (i + phase) / n_strands)
        frame = turn @ turn_about(1, -tilt)
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


def domain_segments(rng: np.random.Generator, n_residues: int) -> list[Array]:
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
        ideal = ideal_segment(site.kind, max(6 if site.kind == "H" else 4, round(site.height / _RISE[site.kind])))
        spin = turn_about(2, rng.uniform(0, 2 * np.pi)) if site.kind == "H" else np.eye(3)
        turn = site.frame @ (flip if i % 2 else np.eye(3)) @ spin
        segments.append(ideal @ turn.T + site.middle)
    return _settled(segments)


def _settled(segments: list[Array]) -> list[Array]:
    """Move helices and strands apart, each as it is, until their atoms clash no more."""
    atoms = [five_atoms(segment).reshape(-1, 3) for segment in segments]
    owner = np.repeat(np.arange(len(atoms)), [len(each) for each in atoms])
    polar = np.concatenate([np.arange(len(each)) % 5 for each in atoms])  # 0 is N, 3 is O: these bond
    for _ in range(_ROUNDS):
        xyz = np.concatenate(atoms)
        i, j = cKDTree(xyz).query_pairs(_APART, output_type="ndarray").T
        least = np.where(polar[i] + polar[j] + 3 * (polar[i] == polar[j]) == 3, _BONDED, _APART)
        apart = xyz[i] - xyz[j]
        distance = np.linalg.norm(apart, axis=1)
        close = (owner[i] != owner[j]) & (distance < least)
        if not close.any():
            break
        i, j = i[close], j[close]
        push = apart[close] * ((least - distance)[close] / np.maximum(distance[close], 0.1) / 2)[:, None]
        for number, each in enumerate(atoms):
            middle = each.mean(axis=0)
            forces = np.concatenate([push[owner[i] == number], -push[owner[j] == number]])
            places = np.concatenate([xyz[i[owner[i] == number]], xyz[j[owner[j] == number]]]) - middle
            if len(forces):
                turn = np.cross(places, forces).sum(axis=0) / np.square(each - middle).sum() * len(each) / len(forces)
                moved = Rotation.from_rotvec(turn).apply(each - middle) + middle + forces.mean(axis=0)
                atoms[number] = moved
    return [each.reshape(-1, 5, 3)[:, :3] for each in atoms]
