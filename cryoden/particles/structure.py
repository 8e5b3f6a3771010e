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
from scipy.spatial import cKDTree

from cryoden.errors import CryodenError

logger = logging.getLogger("cryoden")

_ZINC, _HALOGENS = 30, ("F", "Cl", "Br", "I")

_MARKERS = "DUM"  # residues that mark where a membrane lies, as those of OPM do
_NOWHERE = 9999.0  # Å; what programs write for an atom whose place is unknown
_FURTHEST = 1e5  # Å; no structure reaches as far

# A serial number of six digits that pushes all columns behind it one to the right, where gemmi would read other values:
# the point of x, which stands in column 35, is then in column 36.
_SIX_DIGITS = re.compile(r"^(ATOM  |HETATM)\d(\d{5}.{23}\.\d{3}.{4}\.)", re.MULTILINE)

# What amino acids and nucleotides are made of; MSE is methionine with selenium.
_BIOLOGICAL = {"H", "D", "C", "N", "O", "P", "S", "Se"}
# Of other residues: elements whose symbols do not begin the names of carbon, nitrogen or hydrogen atoms.
_UNMISTAKABLE = {"FE", "MG", "ZN", "CL", "BR", "MN", "CU", "NI", "SE"}

# Columns that gemmi cannot do without, though a structure can: what stands for them.
_COLUMNS = {"label_alt_id": ".", "type_symbol": "?", "label_asym_id": "A", "id": "0"}

_CLASH = 1.0  # Å; atoms of two molecules are further apart
_MASSES = 5.0, 1e5  # kDa; smaller is a peptide or less, larger than any virus that is known by its atoms
_WIDEST = 3000.0  # Å
_SAME = 0.01  # Å; files have thousandths, and centroids are rounded
_CARBON = 0.35, 0.8  # of the atoms that are not hydrogen: RNA has 0.44, protein 0.63, lipids up to 0.8

# A list of chains that runs on without the words that gemmi looks for.
_WRAPPED_CHAINS = re.compile(r"^REMARK 350 +(\w(?:, *\w)*,?) *\r?$", re.MULTILINE)


@dataclass(frozen=True)
class Structure:
    """The atoms of one particle.

    Args:
        name: what errors, tables and figures call it.
        model: the atoms, with their centroid at the origin, every occupancy 1 and every B factor 0.
        notes: what was left out of what was read, and what was guessed, in words.
    """

    name: str
    model: gemmi.Model
    notes: tuple[str, ...] = ()

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
        """Keep what a particle is made of: no water, the first alternate conformation, of an ensemble the first model.

        Models that stand side by side are an assembly, of which all are kept; models in one place are an ensemble.

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
        if not any(model.count_atom_sites() for model in structure):
            raise CryodenError(f"{name}: no atoms")
        taken = _take_models(structure, merge=assembly is None)
        notes = [*_name_elements(structure[0]), *taken]
        structure.setup_entities()
        if assembly is not None:
            _build_assembly(structure, assembly, name)
        model = structure[0]
        count = model.count_atom_sites()

        def left_out(what: str) -> None:
            nonlocal count
            before, count = count, model.count_atom_sites()
            if count < before:
                notes.append(f"{before - count} {what} left out")

        _remove_what_is_none(model, name)  # not before: an assembly names its waters
        structure.remove_waters()
        left_out("of water, of markers and nowhere")
        if ligands:
            _remove_ions(structure)
            left_out("of ions and heavy metals")
        else:
            structure.remove_ligands_and_waters()
            left_out("of ligands")
        if not hydrogens:
            structure.remove_hydrogens()
            left_out("hydrogens")
        structure.remove_alternative_conformations()
        left_out("of alternate conformations")
        if model.count_atom_sites() == 0:
            raise CryodenError(f"{name}: no atoms are left without water{'' if ligands else ' and ligands'}")
        for atom in _atoms(model):
            atom.occ, atom.b_iso, atom.aniso = 1.0, 0.0, gemmi.SMat33f(0, 0, 0, 0, 0, 0)
        centroid = _positions(model).mean(axis=0)
        model.transform_pos_and_adp(gemmi.Transform(gemmi.Mat33(), gemmi.Vec3(*-centroid)))
        return cls(name, model, tuple(notes))

    def turned(self, rotation: NDArray[np.float64]) -> "Structure":
        """The same particle in another orientation.

        Args:
            rotation: (3, 3), acts on xyz column vectors: x' = R x.
        """
        model = self.model.clone()
        model.transform_pos_and_adp(gemmi.Transform(gemmi.Mat33(rotation.tolist()), gemmi.Vec3(0, 0, 0)))
        return Structure(self.name, model, self.notes)

    @cached_property
    def diameter(self) -> float:
        """Å; twice the largest distance of an atom from the centroid."""
        return 2 * float(np.linalg.norm(_positions(self.model), axis=1).max())

    @cached_property
    def mass(self) -> float:
        """kDa; of the atoms that are kept."""
        return float(self.model.calculate_mass()) / 1000

    def is_same(self, other: object) -> bool:
        """Whether another particle has atoms of the same elements in the same places, whatever it is called."""
        if not isinstance(other, Structure) or self.model.count_atom_sites() != other.model.count_atom_sites():
            return False
        ours, theirs = ([atom.element.atomic_number for atom in _atoms(each.model)] for each in (self, other))
        places = _positions(self.model), _positions(other.model)
        return ours == theirs and np.allclose(*places, rtol=0, atol=_SAME)

    def summary(self) -> str:
        """What it is, in one line, so that a file that was read wrongly shows."""
        chains = len({chain.name for chain in self.model})
        told = f"{self.model.count_atom_sites()} atoms, {self.mass:.3g} kDa, {chains} chain{'s' * (chains > 1)}"
        return "; ".join([f"{self.name}: {told}, {self.diameter:.0f} Å across", *self.notes])

    def doubts(self) -> list[str]:
        """What tells that this is no macromolecule, or one that was read wrongly."""
        least, most = _MASSES
        elements = [atom.element.name for atom in _atoms(self.model) if not atom.is_hydrogen()]
        carbon = elements.count("C") / max(1, len(elements))
        found = [] if least <= self.mass <= most else [f"its mass is {self.mass:.3g} kDa, not {least:g} to {most:g}"]
        if self.diameter > _WIDEST:
            found.append(f"it is {self.diameter:.0f} Å across, more than {_WIDEST:g}")
        if not _CARBON[0] <= carbon <= _CARBON[1]:
            usual = " to ".join(f"{share:.0%}" for share in _CARBON)
            found.append(f"{carbon:.0%} of its atoms without hydrogen are carbon, not {usual}")
        if "X" in elements:
            found.append(f"the elements of {elements.count('X')} atoms are unknown")
        return found


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
        structure = _read_cif(text, wrong) or gemmi.read_structure_string(_WRAPPED_CHAINS.sub(_unwrap_chains, text))
    except CryodenError:
        raise
    except (RuntimeError, ValueError) as error:  # what gemmi raises for every kind of malformed file
        raise CryodenError(f"{wrong}: {' '.join(str(error).split())[:100]}") from error
    if all(model.count_atom_sites() == 0 for model in structure):
        raise CryodenError(f"{wrong}: it has no atoms and starts with {text.split(maxsplit=1)[0][:40]!r}")
    read = Structure.from_gemmi(
        structure, name or path.name.split(".")[0], assembly=assembly, hydrogens=hydrogens, ligands=ligands
    )
    if doubts := read.doubts():
        logger.warning("%s: is this a macromolecule? %s", path, "; ".join(doubts))
    return read


def _read_cif(text: str, wrong: str) -> gemmi.Structure | None:
    """The structure of an mmCIF file that has atoms, whichever block they are in; None: it is no such file.

    Args:
        text: of the file.
        wrong: how errors begin.

    Raises:
        CryodenError: several blocks have atoms, or a column is missing that nothing can stand for.
    """
    if "_atom_site." not in text:
        return None
    document = gemmi.cif.read_string(text)
    blocks = [block for block in document if block.find_mmcif_category("_atom_site.")]
    if len(blocks) > 1:
        names = ", ".join(block.name for block in blocks)
        raise CryodenError(f"{wrong}: it holds {len(blocks)} structures ({names}); give each a file of its own")
    table = blocks[0].find_mmcif_category("_atom_site.") if blocks else None
    if table is None or table.loop is None:
        return None
    here = [tag.partition(".")[2] for tag in table.loop.tags]
    missing = [name for name in ("Cartn_x", "Cartn_y", "Cartn_z") if name not in here]
    if missing:
        raise CryodenError(f"{wrong}: its table of atoms has no column {', '.join(missing)}")
    for name, value in _COLUMNS.items():
        if name not in here:
            table.loop.add_columns([f"_atom_site.{name}"], value)
    if "label_asym_id" not in here and "auth_asym_id" in here:
        chains = list(blocks[0].find_loop("_atom_site.auth_asym_id"))
        column = blocks[0].find_loop("_atom_site.label_asym_id")
        for row, chain in enumerate(chains):
            column[row] = chain
    return gemmi.make_structure_from_block(blocks[0])


def _name_elements(model: gemmi.Model) -> list[str]:
    """Name the element of each atom that has none, or one that its residue cannot have, from the atom's name.

    Returns:
        What was guessed, in words.
    """
    guessed = 0
    for chain in model:
        for residue in chain:
            known = gemmi.find_tabulated_residue(residue.name)
            polymer = known.is_standard() or residue.name == "MSE"
            for atom in residue:
                if atom.element.name in _BIOLOGICAL or (atom.element.name != "X" and not polymer):
                    continue
                letters = atom.name.lstrip("0123456789'\"").upper()
                whole = not polymer and (letters[:2] in _UNMISTAKABLE or len(residue) == 1)
                element = gemmi.Element(
                    "SE" if residue.name == "MSE" and letters == "SE" else letters[: 2 if whole else 1]
                )
                guessed += element.name not in ("X", atom.element.name)
                atom.element = element
    return [f"{guessed} elements guessed from names"] if guessed else []


def _take_models(structure: gemmi.Structure, *, merge: bool) -> list[str]:
    """Make one model of several: all together where they stand side by side, the first where they are in one place.

    Args:
        structure: is changed.
        merge: models side by side are all kept.

    Returns:
        Which it was, in words.
    """
    several = len(structure)
    if several == 1:
        return []
    first, *others = (_places(model) for model in structure if model.count_atom_sites())
    tree = cKDTree(first)
    together = any((tree.query(places, distance_upper_bound=_CLASH)[0] < np.inf).mean() > 0.01 for places in others)
    if merge and not together:
        for model in list(structure)[1:]:
            for chain in model:
                structure[0].add_chain(chain, unique_name=True)
    del structure[1:]
    if together:
        return [f"the first of {several} models in one place"]
    return [f"{several} models side by side taken together" if merge else f"the first of {several} models side by side"]


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
    text = text.encode("ascii", errors="replace").decode()  # as the formats have it, and gemmi cuts
    return _SIX_DIGITS.sub(r"\1\2", text.replace("\r\n", "\n").replace("\r", "\n"))


def _unwrap_chains(match: re.Match[str]) -> str:
    """As gemmi expects them: each line says that it goes on, and ends by column 80, where gemmi stops."""
    chains = re.findall(r"\w", match[1])
    rows = [", ".join(chains[i : i + 10]) for i in range(0, len(chains), 10)]
    return "\n".join(f"REMARK 350{'AND CHAINS: ':>32}{row}" for row in rows)


def _places(model: gemmi.Model) -> NDArray[np.float64]:
    """(n, 3), xyz, Å: where atoms are whose coordinates are numbers."""
    positions = _positions(model)
    return positions[np.isfinite(positions).all(axis=1)]


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
        CryodenError: An atom has coordinates that are no numbers, or is further away than any structure reaches.
    """
    markers = nowhere = 0
    for chain in model:
        for number in reversed(range(len(chain))):
            residue = chain[number]
            for atom in reversed(residue):
                place = atom.pos.tolist()
                if not all(abs(each) < _FURTHEST for each in place):
                    where = f"{atom.name} of {residue.name} {residue.seqid} in chain {chain.name}"
                    raise CryodenError(
                        f"{name}: atom {where} is at {place}, which is no place; correct its line or delete it"
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
