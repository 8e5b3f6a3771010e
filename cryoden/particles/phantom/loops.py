"""Loops with the same geometry as all else, which join helices and strands to a chain."""

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cryoden.particles.phantom.geometry import Array, extend, five_atoms

_LOOP_BASINS = np.radians([(-65, -40), (-70, 145), (-120, 130), (-90, 0), (-65, 145), (57, 40)])
_TRIALS = 24  # loops of one length
_LENGTHS = 6  # that are tried
_CLASH = 2.6  # Å, the least distance between atoms of residues that no bond joins


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
        residues, bonds = extend(start, torsions)
        error = (end - residues[:, -1]).reshape(-1, 9)
        pivots = np.concatenate([start[:, 2:], residues.reshape(len(start), -1, 3)[:, :-1]], axis=1)
        axes = bonds.reshape(len(start), -1, 3)
        free = np.arange(pivots.shape[1]) % 3 != 1  # omega stays at 180°
        lever = residues[:, -1][:, None] - pivots[:, free][:, :, None]
        jacobian = np.cross(axes[:, free][:, :, None], lever).reshape(len(start), -1, 9)
        square = jacobian.swapaxes(1, 2) @ jacobian + (1e-2 + 0.03 * (error**2).sum(axis=-1))[:, None, None] * np.eye(9)
        step = (jacobian @ np.linalg.solve(square, error[..., None]))[..., 0]
        torsions.reshape(len(start), -1)[:, free] += np.clip(step, -0.5, 0.5)
    residues, _ = extend(start, torsions)
    miss = np.linalg.norm(end - residues[:, -1], axis=-1).max(axis=-1)
    return residues[:, :-1], miss, (np.sin(torsions[..., 2]) > 0).sum(axis=-1)


def _clashes(atoms: Array, added: NDArray[np.bool_], others: cKDTree) -> Array:
    """Count pairs of clashing atoms.

    Args:
        atoms: of loops with the residues before and after, (B, N, 3), five of each residue.
        added: (N,), which of them the loops bring along.
        others: what is there, the rest of these atoms among it.

    Returns:
        (B,), those that what is added makes with itself and all others, but for bonds.
    """
    residue = np.arange(len(added)) // 5
    within = np.linalg.norm(atoms[:, :, None] - atoms[:, None], axis=-1) < _CLASH
    near = others.query_ball_point(atoms[:, added], _CLASH, return_length=True).sum(axis=-1)
    with_ends = within[:, added][:, :, ~added].sum(axis=(1, 2))  # bonds, but for what the next line counts
    not_bonded = (within & (residue[None] - residue[:, None] > 1)).sum(axis=(1, 2))
    counts: Array = near - with_ends + not_bonded
    return counts


def join(rng: np.random.Generator, segments: Sequence[Array], linked: Sequence[bool]) -> list[tuple[int, Array]]:
    """Join each segment to the next one where linked, by the least crowded of a number of loops.

    A loop that clashes, or cannot close, is tried again one residue longer; one that fits at no length is left
    out, as are the loops that an experiment cannot see: the chain is broken there.

    Returns:
        The chains, each with the number of its first segment.
    """
    occupied = [np.delete(five_atoms(segment).reshape(-1, 3), -2, axis=0) for segment in segments]  # not the last O
    gaps = [np.linalg.norm(b[0, 0] - a[-1, 2]) for a, b in itertools.pairwise(segments)]
    lengths = {i: max(3, int(gap / 3.1) + int(rng.integers(1, 4))) for i, gap in enumerate(gaps) if linked[i]}
    loops: dict[int, Array] = {}
    for _ in range(_LENGTHS):
        batches = defaultdict(list)
        for i, length in lengths.items():
            batches[length].append(i)
        for length, members in sorted(batches.items()):
            start = np.repeat([segments[i][-1] for i in members], _TRIALS, axis=0)
            end = np.repeat([segments[i + 1][0] for i in members], _TRIALS, axis=0)
            atoms, miss, penalty = _close_loops(rng, start, end, length)
            added = np.full(5 * (length + 2), True)
            added[[0, 1, 2, 4]] = added[-5:] = False  # all of the loop, and the O of the residue before it
            for row, i in enumerate(members):
                rows = slice(_TRIALS * row, _TRIALS * (row + 1))
                tree = cKDTree(np.concatenate(occupied))
                whole = five_atoms(np.concatenate([start[rows, None], atoms[rows], end[rows, None]], axis=1))
                five = whole.reshape(_TRIALS, -1, 3)
                crowd = tree.query_ball_point(five[:, added], 4.5, return_length=True).sum(axis=-1)
                fits = (miss[rows] < 0.02) & (_clashes(five, added, tree) == 0)
                best = int(np.argmin(np.where(fits, crowd + penalty[rows], np.inf)))
                if fits[best]:
                    loops[i] = atoms[rows][best]
                    occupied.append(five[best, added])
        lengths = {i: length + 1 for i, length in lengths.items() if i not in loops}
    starts = [i for i in range(len(segments)) if i - 1 not in loops]
    chains = []
    for first, following in itertools.pairwise([*starts, len(segments)]):
        parts = [segments[first]]
        for i in range(first, following - 1):
            parts += [loops[i], segments[i + 1]]
        chains.append((first, np.concatenate(parts)))
    return chains
