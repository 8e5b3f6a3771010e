"""A phantom from its seed: its size and symmetry, its chains, and the gemmi structure of them."""

import itertools
import string
from collections.abc import Iterator
from functools import lru_cache

import gemmi
import numpy as np

from cryoden.errors import CryodenError
from cryoden.particles.phantom.docking import fold_protomer, pack
from cryoden.particles.phantom.domains import domain_segments
from cryoden.particles.phantom.geometry import Array
from cryoden.particles.phantom.loops import join
from cryoden.particles.phantom.side_chains import Residues, add_side_chains
from cryoden.particles.structure import Structure

_MEAN_RESIDUE_MASS = 0.111  # kDa
_SYMMETRIES = {
    **{"C1": 0.20, "C2": 0.16, "C3": 0.08, "C4": 0.07, "C5": 0.05, "C6": 0.07, "C7": 0.05, "C8": 0.04},
    **{"D2": 0.10, "D3": 0.07, "D4": 0.05, "D5": 0.03, "D6": 0.04, "D7": 0.05},
}
_MASS_RANGE = (33.0, 640.0)  # kDa, drawn log-uniformly
_PROTOMER_RANGE = (12.0, 95.0)  # kDa; a C1 particle may be twice that


def phantom(seed: int) -> Structure:
    """Make the phantom of a seed, as a particle named ``phantom:SEED``."""
    return Structure.from_gemmi(_made(seed), f"phantom:{seed}")  # which copies it


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
    symmetry, n_residues = draw_symmetry_and_size(rng)
    protomer = fold_protomer(rng, n_residues)
    chains, operators = pack(rng, protomer, symmetry)
    return _to_gemmi(f"phantom:{seed}", symmetry, add_side_chains(rng, chains, operators), operators)


_made = lru_cache(maxsize=32)(make_phantom)  # takes a second


def make_domain(seed: int, n_residues: int) -> gemmi.Structure:
    """Make a single compact domain, as the subunits of filaments are, the same for the same seed.

    Args:
        seed: Any integer from 0 up.
        n_residues: About how many; helices and strands that the chain does not reach are left out.
    """
    rng = np.random.default_rng(seed)
    segments = domain_segments(rng, n_residues)
    chains = [chain for _, chain in join(rng, segments, [True] * (len(segments) - 1))]
    return _to_gemmi(f"domain:{seed}", "C1", add_side_chains(rng, chains, [np.eye(3)]), [np.eye(3)])


def draw_symmetry_and_size(rng: np.random.Generator) -> tuple[str, int]:
    """Draw a point group, such as D7, and the number of residues of one of its protomers."""
    mass = np.exp(rng.uniform(*np.log(_MASS_RANGE)))
    low, high = _PROTOMER_RANGE
    weights = np.array(
        [
            weight * (low <= mass / order_of(name) <= (2 * high if name == "C1" else high))
            for name, weight in _SYMMETRIES.items()
        ]
    )
    symmetry = str(rng.choice(list(_SYMMETRIES), p=weights / weights.sum()))
    return symmetry, round(mass / order_of(symmetry) / _MEAN_RESIDUE_MASS)


def order_of(symmetry: str) -> int:
    """The number of protomers in a point group."""
    return int(symmetry[1:]) * (2 if symmetry[0] == "D" else 1)


def _chain_names() -> Iterator[str]:
    letters = string.ascii_uppercase + string.ascii_lowercase
    yield from letters
    yield from ("".join(pair) for pair in itertools.product(letters, letters))


def _to_gemmi(name: str, symmetry: str, chains: list[Residues], operators: list[Array]) -> gemmi.Structure:
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
