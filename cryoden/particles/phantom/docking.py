"""Docking: domains into a protomer, and protomers into a ring or two stacked rings."""

import itertools

import numpy as np
from scipy.spatial import cKDTree

from cryoden.particles.phantom.domains import domain_segments
from cryoden.particles.phantom.geometry import Array, beta_carbons, random_rotation, turn_about, unit
from cryoden.particles.phantom.loops import join

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


def fold_protomer(rng: np.random.Generator, n_residues: int) -> list[Array]:
    """Make the domains of a protomer, dock each to those before it and link them to one or more chains."""
    n_domains = max(1, round(n_residues / float(np.clip(rng.lognormal(np.log(170), 0.3), 90, 280))))
    shares = rng.uniform(0.6, 1.4, n_domains)
    groups = [domain_segments(rng, int(share)) for share in n_residues * shares / shares.sum()]
    far = np.array([1e3, 0, 0])  # keeps domains apart until they dock, so that all loops close in one batch
    segments = [segment + i * far for i, group in enumerate(groups) for segment in group]
    owner = np.repeat(np.arange(n_domains), [len(group) for group in groups])
    domains: list[list[Array]] = [[] for _ in groups]
    for first, chain in join(rng, segments, list(owner[1:] == owner[:-1])):
        domains[owner[first]].append(chain - owner[first] * far)

    elongation = rng.triangular(-9.0, -5.0, 0.5)
    placed = [domains[0]]
    for domain in domains[1:]:
        body = np.concatenate([beta_carbons(chain) for placed_one in placed for chain in placed_one])
        target = np.concatenate(placed[-1]).mean(axis=(0, 1))
        middle = np.concatenate(domain).mean(axis=(0, 1))
        options: list[tuple[float, int, list[Array]]] = []
        for _ in range(24):
            rotation, step = random_rotation(rng), unit(rng.normal(size=3))
            turned = [(chain - middle) @ rotation.T + target for chain in domain]
            points = np.concatenate([beta_carbons(chain) for chain in turned])
            shift = step * _approach(points, body, step)
            distance = np.linalg.norm(target + shift - body.mean(axis=0))
            gap = max(0.0, float(np.linalg.norm(turned[0][0, 0] + shift - placed[-1][-1][-1, 2])) - 12)
            score = _contacts(points + shift, body) + elongation * distance - gap
            options.append((float(score), len(options), [chain + shift for chain in turned]))
        placed.append(max(options)[2])
    chains = [chain for domain in placed for chain in domain]
    last = np.cumsum([len(domain) for domain in placed]) - 1  # of each domain, which the next may be linked to
    gaps = [np.linalg.norm(b[0, 0] - a[-1, 2]) for a, b in itertools.pairwise(chains)]
    return [chain for _, chain in join(rng, chains, [bool(gap < 30) and i in last for i, gap in enumerate(gaps)])]


def pack(rng: np.random.Generator, protomer: list[Array], symmetry: str) -> tuple[list[Array], list[Array]]:
    """Move the protomer to where its copies under a point group touch; return the group's rotations too."""
    order = int(symmetry[1:])
    ring = [turn_about(2, 2 * np.pi * k / order) for k in range(order)]
    centre = np.concatenate(protomer).mean(axis=(0, 1))
    chains = [chain - centre for chain in protomer]
    if symmetry == "C1":
        return chains, ring
    points = np.concatenate([beta_carbons(chain) for chain in chains])

    out, tallness = np.array([1.0, 0, 0]), rng.normal(0, 3)
    options: list[tuple[float, int, Array, Array]] = []
    for _ in range(40):
        turn = random_rotation(rng)
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
    up, across = np.array([0, 0, 1.0]), turn_about(0, np.pi)
    stacks: list[tuple[float, int, Array, Array]] = []
    for i in range(16):
        turned = turn_about(2, rng.uniform(0, 2 * np.pi)) @ (across if i % 2 else np.eye(3))
        near = points @ turned.T
        height = max(_approach(near, near @ (r @ across).T, 2 * up) for r in ring)
        moved = near + height * up
        stacks.append((sum(_contacts(moved, moved @ (r @ across).T) for r in ring), i, turned, height * up))
    turned, lift = max(stacks)[2:]
    moved_chains = [(chain @ turn.T + shift) @ turned.T + lift for chain in chains]
    return moved_chains, ring + [r @ across for r in ring]
