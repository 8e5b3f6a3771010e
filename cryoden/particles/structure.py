"""Particles made of atoms: PDB and mmCIF files, read with gemmi."""

import gzip
import logging
import re
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from cryoden.errors import CryodenError

logger = logging.getLogger("cryoden")

_ZINC, _HALOGENS = 30, ("F", "Cl", "Br", "I")

_MARKERS = "DUM"  # residues that mark where a membrane lies, as those of OPM do
_NOWHERE = 9999.0  # Å; what programs write for an atom whose place is unknown

# A serial number of six digits that pushes all columns behind it one to the right, where gemmi would read other values:
# the point of x, which stands in column 35, is then in column 36.
_SIX_DIGITS = re.compile(r"^(ATOM  |HETATM)\d(\d{5}.{23}\.\d{3}.{4}\.)", re.MULTILINE)

# A list of chains that runs on without the words that gemmi looks for.
_WRAPPED_CHAINS = re.compile(r"^REMARK 350 +(\w(?:, *\w)*,?) *\r?$", re.MULTILINE)


@dataclass(frozen=True)
class Structure:
    """The atoms of one particle.

    Args:
        name: what errors, tables and figures call it.
        model: the atoms, with their centroid at the origin, every occupancy 1 and every B factor 0.
    """

    name: str
    model: gemmi.Model

    @classmethod
    def from_gemmi(
        cls,
        structure: gemmi.Structure,
        name: str,
        *,
        assembly: str | None = None,
        hydrogens: bool = False,
        ligands: bool = True,
    ) -> "Structure":
        """Keep what a particle is made of: the first model, no water, the first alternate conformation.

        Args:
            structure: as gemmi reads it; it is left as it is.
            name: what errors, tables and figures call it.
            assembly: the biological assembly to build, by its name in the file; None keeps what is deposited.
            hydrogens: keep hydrogen atoms.
            ligands: keep what is bound to polymers: cofactors, sugars. Lone ions, and what has metals beyond zinc, are
                left out in any case: crystals are grown and solved with them.

        Raises:
            CryodenError: no atoms are left, or the file has no such assembly.
        """
        structure = structure.clone()
        if len(structure) == 0:
            raise CryodenError(f"{name}: no atoms")
        structure.setup_entities()
        if assembly is not None:
            _build_assembly(structure, assembly, name)
        _remove_what_is_none(structure[0], name)  # not before: an assembly names its waters
        if ligands:
            structure.remove_waters()
            _remove_ions(structure)
        else:
            structure.remove_ligands_and_waters()
        if not hydrogens:
            structure.remove_hydrogens()
        structure.remove_alternative_conformations()
        if structure[0].count_atom_sites() == 0:
            raise CryodenError(f"{name}: no atoms are left without water{'' if ligands else ' and ligands'}")
        model = structure[0]
        for atom in _atoms(model):
            atom.occ, atom.b_iso, atom.aniso = 1.0, 0.0, gemmi.SMat33f(0, 0, 0, 0, 0, 0)
        centroid = _positions(model).mean(axis=0)
        model.transform_pos_and_adp(gemmi.Transform(gemmi.Mat33(), gemmi.Vec3(*-centroid)))
        return cls(name, model)

    def turned(self, rotation: NDArray[np.float64]) -> "Structure":
        """The same particle in another orientation.

        Args:
            rotation: (3, 3), acts on xyz column vectors: x' = R x.
        """
        model = self.model.clone()
        model.transform_pos_and_adp(gemmi.Transform(gemmi.Mat33(rotation.tolist()), gemmi.Vec3(0, 0, 0)))
        return Structure(self.name, model)

    @cached_property
    def diameter(self) -> float:
        """Å; twice the largest distance of an atom from the centroid."""
        return 2 * float(np.linalg.norm(_positions(self.model), axis=1).max())

    @cached_property
    def mass(self) -> float:
        """kDa; of the atoms that are kept."""
        return float(self.model.calculate_mass()) / 1000


def read_structure(
    path: str | Path,
    name: str | None = None,
    *,
    assembly: str | None = None,
    hydrogens: bool = False,
    ligands: bool = True,
) -> Structure:
    """Read a PDB or mmCIF file, plain or gzip-compressed; what it is shows in its content, not in its name.

    Args:
        path: the file.
        name: what errors, tables and figures call the particle; by default the file's name to its first dot.
        assembly: the biological assembly to build, by its name in the file; None keeps what is deposited.
        hydrogens: keep hydrogen atoms.
        ligands: keep what is bound to polymers: cofactors, sugars; ions never.

    Raises:
        CryodenError: the file cannot be read, is no structure, or has no atoms or no such assembly.
    """
    path = Path(path)
    text = _read_text(path)
    wrong = f"{path}: not a structure file (PDB or mmCIF, plain or .gz)"
    if not text.strip():
        raise CryodenError(f"{wrong}: it is empty")
    try:
        structure = gemmi.read_structure_string(_WRAPPED_CHAINS.sub(_unwrap_chains, text))
    except (RuntimeError, ValueError) as error:  # what gemmi raises for every kind of malformed file
        raise CryodenError(f"{wrong}: {' '.join(str(error).split())[:100]}") from error
    if all(model.count_atom_sites() == 0 for model in structure):
        raise CryodenError(f"{wrong}: it has no atoms and starts with {text.split(maxsplit=1)[0][:40]!r}")
    return Structure.from_gemmi(
        structure, name or path.name.split(".")[0], assembly=assembly, hydrogens=hydrogens, ligands=ligands
    )


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CryodenError(f"{path}: the gzip file is damaged or cut short: {error}; get it again") from error
    except OSError as error:
        raise CryodenError(f"{path}: cannot be read: {error.strerror}") from error
    text = content.decode("utf-8-sig", errors="replace")
    return _SIX_DIGITS.sub(r"\1\2", text.replace("\r\n", "\n").replace("\r", "\n"))


def _unwrap_chains(match: re.Match[str]) -> str:
    """As gemmi expects them: each line says that it goes on, and ends by column 80, where gemmi stops."""
    chains = re.findall(r"\w", match[1])
    rows = [", ".join(chains[i : i + 10]) for i in range(0, len(chains), 10)]
    return "\n".join(f"REMARK 350{'AND CHAINS: ':>32}{row}" for row in rows)


def _build_assembly(structure: gemmi.Structure, assembly: str, name: str) -> None:
    """Turn the deposited atoms into a biological assembly, and say so where that takes atoms away."""
    known = [known.name for known in structure.assemblies]
    if assembly not in known:
        names = ", ".join(known) or "none"
        raise CryodenError(f"{name}: no assembly {assembly!r}; allowed are null (as deposited) and: {names}")
    deposited = _count_dry(structure[0])
    try:
        structure.transform_to_assembly(assembly, gemmi.HowToNameCopiedChain.AddNumber)
    except RuntimeError as error:
        raise CryodenError(f"{name}: assembly {assembly!r} cannot be built: {error}; use null") from error
    built = _count_dry(structure[0])
    if built < deposited:
        logger.warning(
            "%s: assembly %r has %d atoms, the deposited model %d (without water): right if the crystal "
            "holds several copies, wrong if the file's list of chains is cut short; assembly null keeps all",
            name, assembly, built, deposited,
        )  # fmt: skip


def _remove_what_is_none(model: gemmi.Model, name: str) -> None:
    """Take away what is no part of a specimen: water under any name, marker atoms, and atoms that are nowhere.

    Raises:
        CryodenError: An atom has coordinates that are no numbers.
    """
    markers = nowhere = 0
    for chain in model:
        for number in reversed(range(len(chain))):
            residue = chain[number]
            for atom in reversed(residue):
                place = atom.pos.tolist()
                if not np.isfinite(place).all():
                    where = f"{atom.name} of {residue.name} {residue.seqid} in chain {chain.name}"
                    raise CryodenError(
                        f"{name}: atom {where} is at {place}, which are no numbers; correct its line or delete it"
                    )
                if min(map(abs, place)) >= _NOWHERE - 1e-3:
                    residue.remove_atom(atom.name, atom.altloc, atom.element)
                    nowhere += 1
            heavy = [atom.element.name for atom in residue if not atom.is_hydrogen() and atom.element.name != "X"]
            markers += len(residue) if residue.name == _MARKERS else 0
            if not heavy or heavy == ["O"] or residue.name == _MARKERS:  # an oxygen alone is water's
                del chain[number]
    for count, what in ((markers, "marker atoms (DUM)"), (nowhere, f"atoms at {_NOWHERE:g} Å, where nothing is,")):
        if count:
            logger.warning("%s: %d %s left out", name, count, what)


def _remove_ions(structure: gemmi.Structure) -> None:
    """Take away lone metals and halogens, and what has a metal beyond zinc, where they are no part of a polymer."""
    for chain in structure[0]:
        for number in reversed(range(len(chain))):
            residue = chain[number]
            elements = {atom.name: atom.element for atom in residue}.values()
            heavy = any(element.is_metal and element.atomic_number > _ZINC for element in elements)
            ion = len(elements) == 1 and any(element.is_metal or element.name in _HALOGENS for element in elements)
            if residue.entity_type != gemmi.EntityType.Polymer and (heavy or ion):
                del chain[number]
    structure.remove_empty_chains()


def _count_dry(model: gemmi.Model) -> int:
    return sum(len(residue) for chain in model for residue in chain if not residue.is_water())


def _atoms(model: gemmi.Model) -> list[gemmi.Atom]:
    return [atom for chain in model for residue in chain for atom in residue]


def _positions(model: gemmi.Model) -> NDArray[np.float64]:
    """(n, 3), xyz, Å."""
    return np.array([atom.pos.tolist() for atom in _atoms(model)])
