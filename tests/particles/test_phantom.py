"""Phantoms have the geometry, the packing and the variety of proteins."""

import hashlib
import itertools
import subprocess
import sys
from functools import cache

import gemmi
import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from cryoden.errors import CryodenError
from cryoden.particles.phantom import make_phantom, phantom
from cryoden.particles.phantom.assembly import draw_symmetry_and_size, order_of

SEEDS = [0, 1, 2, 3, 7, 8, 11]  # C1, C2, C5, D3, D5 and D6


@cache
def made(seed: int) -> gemmi.Structure:
    return make_phantom(seed)


def drawn_symmetry(seed: int) -> str:
    return draw_symmetry_and_size(np.random.default_rng(seed))[0]


def symmetry_of(structure: gemmi.Structure) -> str:
    return structure.info["_struct.title"].split()[-1]


def positions(model: gemmi.Model, *names: str) -> np.ndarray:
    return np.array([a.atom.pos.tolist() for a in model.all() if not names or a.atom.name in names])


def chain_positions(chain: gemmi.Chain, name: str) -> np.ndarray:
    return np.array([residue.find_atom(name, "*").pos.tolist() for residue in chain])


def angle(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    u, v = a - b, c - b
    return np.degrees(np.arccos((u * v).sum(-1) / np.linalg.norm(u, axis=-1) / np.linalg.norm(v, axis=-1)))


@pytest.mark.parametrize("seed", SEEDS)
def test_backbone_has_ideal_bond_lengths_and_angles(seed):
    for chain in made(seed)[0]:
        n, ca, c, o = (chain_positions(chain, name) for name in ("N", "CA", "C", "O"))
        bonds = {
            1.458: np.linalg.norm(ca - n, axis=1),
            1.525: np.linalg.norm(c - ca, axis=1),
            1.329: np.linalg.norm(n[1:] - c[:-1], axis=1),
            1.231: np.linalg.norm(o - c, axis=1),
            3.80: np.linalg.norm(ca[1:] - ca[:-1], axis=1),  # trans peptides
        }
        for ideal, lengths in bonds.items():
            np.testing.assert_allclose(lengths, ideal, atol=0.05)
        np.testing.assert_allclose(angle(n, ca, c), 111.0, atol=3)
        np.testing.assert_allclose(angle(ca[:-1], c[:-1], n[1:]), 117.2, atol=3)
        np.testing.assert_allclose(angle(c[:-1], n[1:], ca[1:]), 121.7, atol=3)
        np.testing.assert_allclose(angle(o[:-1], c[:-1], n[1:]), 122.4, atol=3)


@pytest.mark.parametrize("seed", SEEDS)
def test_amino_acids_are_left_handed(seed):
    for chain in made(seed)[0]:
        for residue in chain:
            if residue.name != "GLY":
                n, c, cb, ca = (np.array(residue[name][0].pos.tolist()) for name in ("N", "C", "CB", "CA"))
                assert 2.2 < np.dot(np.cross(n - ca, c - ca), cb - ca) < 2.9  # Å³, the chiral volume


@pytest.mark.parametrize("seed", SEEDS)
def test_helices_and_strands_lie_in_their_ramachandran_basins(seed):
    torsions = np.degrees(
        [
            gemmi.calculate_phi_psi(before, residue, after)
            for chain in made(seed)[0]
            for before, residue, after in zip(chain, list(chain)[1:], list(chain)[2:], strict=False)
        ]
    )
    helix = np.abs(torsions - [-63, -42]).max(axis=1) < 2
    strand = np.abs(torsions - [-120, 132]).max(axis=1) < 2
    assert 0.35 < (helix | strand).mean() < 0.85
    runs = [(key, len(list(group))) for key, group in itertools.groupby(helix.astype(int) + 2 * strand)]
    assert max(length for key, length in runs if key) >= 5
    assert (torsions[:, 0] > 0).mean() < 0.15


def test_a_helix_makes_hydrogen_bonds_and_strands_pair():
    """Over all seeds: helices bond O(i) to N(i+4); other O and N at that distance are paired strands."""
    helical = paired = 0
    for seed in SEEDS:
        model = made(seed)[0]
        protomer = list(model)[: len(model) // order_of(symmetry_of(made(seed)))]
        n, o = (np.concatenate([chain_positions(chain, name) for chain in protomer]) for name in "NO")
        distance = np.linalg.norm(o[:, None] - n[None], axis=-1)
        apart = np.arange(len(n))[None] - np.arange(len(n))[:, None]
        bonded = (distance > 2.5) & (distance < 3.4)
        helical += (bonded & (apart == 4)).sum()
        paired += (bonded & (np.abs(apart) > 5)).sum()
    assert helical > 500
    assert paired > 100


@pytest.mark.parametrize("seed", [s for s in SEEDS if drawn_symmetry(s) != "C1"])
def test_symmetry_maps_the_assembly_on_itself(seed):
    symmetry = symmetry_of(made(seed))
    xyz = positions(made(seed)[0])
    turn = 2 * np.pi / int(symmetry[1:])
    operators = [np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])]
    if symmetry[0] == "D":
        operators.append(np.diag([1.0, -1.0, -1.0]))
    for operator in operators:
        distance, partner = cKDTree(xyz).query(xyz @ operator.T)
        assert distance.max() < 1e-6
        assert len(np.unique(partner)) == len(xyz)
    assert len(made(seed)[0]) % order_of(symmetry) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_copies_touch_and_do_not_clash(seed):
    model = made(seed)[0]
    backbone = positions(model, "N", "CA", "C", "O", "CB")
    copies = order_of(symmetry_of(made(seed)))
    per_copy = len(backbone) // copies
    trees = [cKDTree(backbone[i * per_copy : (i + 1) * per_copy]) for i in range(copies)]
    clashes = sum(a.count_neighbors(b, 2.0) for a, b in itertools.combinations(trees, 2))
    assert clashes <= 0.01 * len(backbone)

    contacts = cKDTree(backbone).query_pairs(7.0, output_type="ndarray")
    graph = csr_array((np.ones(len(contacts)), contacts.T), shape=(len(backbone),) * 2)
    assert connected_components(graph)[0] == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_no_more_atoms_clash_than_in_structures_from_experiments(seed):
    """Within 2.6 Å, beyond neighbouring residues: 1.6 to 10 for 1,000 atoms in 1bxn, 3gl1, 1qvr and 2cg9."""
    residues = [
        (number, atom) for number, residue in enumerate(r for c in made(seed)[0] for r in c) for atom in residue
    ]
    number = np.array([number for number, _ in residues])
    xyz = np.array([atom.pos.tolist() for _, atom in residues])
    i, j = cKDTree(xyz).query_pairs(2.6, output_type="ndarray").T
    assert (np.abs(number[i] - number[j]) > 1).sum() < 0.004 * len(xyz)


@pytest.mark.parametrize("seed", SEEDS)
def test_matter_is_as_dense_as_in_proteins(seed):
    """Real: 0.55 to 0.61 Da of heavy atoms in each Å³ within 3.2 Å of an atom; 17 to 22 CA within 10 Å."""
    model = made(seed)[0]
    xyz, ca = positions(model), positions(model, "CA")
    grid = np.stack(
        np.meshgrid(*[np.arange(a, b, 2.5) for a, b in zip(xyz.min(0) - 4, xyz.max(0) + 4, strict=True)]), -1
    )
    inside = cKDTree(xyz).query(grid.reshape(-1, 3), distance_upper_bound=3.2)[0] < 3.2
    assert 0.48 < model.calculate_mass() / (inside.sum() * 2.5**3) < 0.65
    assert 15 < cKDTree(ca).query_ball_point(ca, 10, return_length=True).mean() < 23
    assert 7.3 < len(xyz) / len(ca) < 8.2  # heavy atoms a residue
    radius = np.sqrt(((ca - ca.mean(axis=0)) ** 2).sum(axis=1).mean())
    assert 0.85 < radius / (2.2 * len(ca) ** 0.38) < 1.6


def test_sizes_and_symmetries_vary():
    drawn = [draw_symmetry_and_size(np.random.default_rng(seed)) for seed in range(400)]
    masses = np.array([order_of(symmetry) * n_residues * 0.111 for symmetry, n_residues in drawn])
    assert 30 < masses.min() < 40
    assert 550 < masses.max() < 700
    quarters = np.histogram(np.log(masses), bins=np.linspace(*np.log([33, 640]), 5))[0]
    assert quarters.min() > 70  # log-uniform: 100 each
    assert len({symmetry for symmetry, _ in drawn}) == 14


@pytest.mark.parametrize("seed", SEEDS)
def test_mass_is_within_the_range(seed):
    assert 30 < sum(len(chain) for chain in made(seed)[0]) * 0.111 < 700


def fingerprint(structure: gemmi.Structure) -> str:
    return hashlib.sha256(positions(structure[0]).tobytes()).hexdigest()


def test_the_same_seed_gives_the_same_bytes_in_another_process():
    program = "from tests.particles.test_phantom import fingerprint, made; print(fingerprint(made(8)))"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == fingerprint(made(8)) == fingerprint(make_phantom(8))
    assert fingerprint(made(8)) != fingerprint(made(7))


def test_mmcif_round_trip(tmp_path):
    path = tmp_path / "phantom.cif"
    made(7).make_mmcif_document().write_file(str(path))
    read = gemmi.read_structure(str(path))
    assert [c.name for c in read[0]] == [c.name for c in made(7)[0]]
    assert [a.atom.name for a in read[0].all()] == [a.atom.name for a in made(7)[0].all()]
    assert [a.residue.name for a in read[0].all()] == [a.residue.name for a in made(7)[0].all()]
    np.testing.assert_allclose(positions(read[0]), positions(made(7)[0]), atol=1e-3)


def test_phantom_is_a_particle():
    particle = phantom(8)
    assert particle.name == "phantom:8"
    assert particle.model.count_atom_sites() == len(positions(made(8)[0]))


def test_a_negative_seed_is_refused():
    with pytest.raises(CryodenError, match="0 or more, got -1"):
        make_phantom(-1)
