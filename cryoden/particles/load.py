"""A particle by what a user calls it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cryoden.errors import CryodenError
from cryoden.particles.density_map import DensityMap, read_density_map
from cryoden.particles.structure import Structure, read_structure

Particle = Structure | DensityMap

_MAP_AND_MASS = re.compile(r"(.*\.(?:mrc|map)(?:\.gz)?)(?::(\d+(?:\.\d+)?))?", re.IGNORECASE)
_ASSEMBLY = re.compile(r"[-_]assembly-?\d+$")  # which the archive puts behind an entry
_STRUCTURES = re.compile(r"\.(?:cif|mmcif|ent|pdb\d*)")  # pdb1 is what the archive calls an assembly


def load_particle(
    spec: str,
    *,
    structure_dir: Path | None = None,
    assembly: str | None = None,
    hydrogens: bool = False,
    ligands: bool = True,
) -> Particle:
    """Get a particle by what a user calls it.

    Args:
        spec: a PDB ID (`1bxn`), downloaded if need be, or the name of a file in `structure_dir`; a path to a
            structure (.cif, .pdb or .ent) or a map (.mrc or .map), each also .gz; or `phantom:` and a number. A map's
            mass in kDa may follow it, as in `ribosome.mrc:2600`.
        structure_dir: the folder that is searched for entries first; default: $CRYODEN_STRUCTURE_DIR.
        assembly: of a structure: the biological assembly to build, such as "1"; null keeps the deposited atoms.
        hydrogens: of a structure: keep hydrogen atoms.
        ligands: of a structure: keep what is not polymer.

    Raises:
        CryodenError: there is no such particle, or its file is not sound.
    """
    kind, _, seed = spec.partition(":")
    if kind == "phantom":
        from cryoden.particles.phantom import phantom

        if not seed.isdecimal():
            raise CryodenError(f"{spec}: a phantom is called phantom: and a whole number, such as phantom:7")
        return phantom(int(seed))
    given = _MAP_AND_MASS.fullmatch(spec)
    if given:
        return read_density_map(Path(given[1]).expanduser(), float(given[2]) if given[2] else None)
    path = Path(spec).expanduser()
    name = None
    if is_archive_entry(spec):
        from cryoden.particles.archive import find_or_fetch

        path, name = find_or_fetch(spec, structure_dir), spec
    return read_structure(path, name, assembly=assembly, hydrogens=hydrogens, ligands=ligands)


def canonical_name(spec: str) -> str:
    """What a particle is called by all who mean the same one, however they spell it: for comparing, not for loading.

    A PDB ID is one in any case and in its long form, and so is a file that is named by it (`a/1bxn.pdb.gz`), be it the
    entry's atoms, an assembly of it or its map: to a network they are the same particle. A phantom goes by its number,
    another file by its whole path, without the mass behind a map.

    Args:
        spec: as in `load_particle`; there need be no such particle.
    """
    from cryoden.particles.archive import as_pdb_id

    kind, _, seed = spec.partition(":")
    if kind == "phantom" and seed.isdecimal():
        return f"phantom:{int(seed)}"
    given = _MAP_AND_MASS.fullmatch(spec)
    path = Path(given[1] if given else spec).expanduser()
    stem = _ASSEMBLY.sub("", path.name.split(".")[0].lower())
    entry = as_pdb_id(stem) or as_pdb_id(stem.removeprefix("pdb"))  # pdb1bxn.ent is the wwPDB's own name
    if entry is not None:
        return entry
    return spec.lower() if is_archive_entry(spec) else str(path.resolve())


def check_distinct(**given: Sequence[str]) -> None:
    """Check that each particle is given once.

    Args:
        given: lists of particles, each by what an argument is called, for the error.

    Raises:
        CryodenError: two of a list are the same, however they are spelt.
    """
    for argument, specs in given.items():
        for first, second, _ in _called_alike(specs, map(canonical_name, specs)):
            raise CryodenError(
                f"{argument}: {first} and {second} are the same particle, and each is given once, however many are "
                "made of it: leave one out, or rename the file if it is of another"
            )


def check_names(entries: Sequence[str], names: Iterable[str]) -> None:
    """Check that the names of particles in files, batches and tables tell them apart.

    Args:
        entries: particles by what a user calls them.
        names: what each is called there.

    Raises:
        CryodenError: two are called alike.
    """
    for first, second, name in _called_alike(entries, names):
        raise CryodenError(f"entries: {first} and {second} would both be called {name}; rename a file")


def _called_alike(specs: Sequence[str], names: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Each that has the name of one before it: that one, this one, and the name."""
    named: dict[str, str] = {}
    for spec, name in zip(specs, names, strict=True):
        if name in named:
            yield named[name], spec, name
        named.setdefault(name, spec)


def is_archive_entry(spec: str) -> bool:
    """Whether `load_particle` looks a particle up by its ID, not by a path, and does not make a phantom."""
    if spec.startswith("phantom:") or _MAP_AND_MASS.fullmatch(spec):
        return False
    path = Path(spec).expanduser()
    return not (_STRUCTURES.fullmatch(Path(path.name.lower().removesuffix(".gz")).suffix) or path.is_file())
