"""Finds PDB entries: in the user's own folder, in the cache, or in the Protein Data Bank.

A file enters the cache under its final name only after it was parsed and found to hold atoms: what lies there
can be trusted, whatever was interrupted, truncated or wrong, and with other processes fetching at once.
"""

import gzip
import io
import os
import re
import shutil
import sys
import threading
import zlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from secrets import token_hex
from urllib.parse import urlsplit

import gemmi
from rich.console import Console
from rich.progress import Progress

from cryoden.download import FAILURES, cache_dir, reason, transfer
from cryoden.errors import CryodenError
from cryoden.files import clear_leftovers, unfinished

MIRRORS = (
    "https://files.rcsb.org/download/{id}.cif.gz",
    "https://www.ebi.ac.uk/pdbe/entry-files/download/{id}.cif",  # PDBe offers no compressed form here
)
"""URL templates of the archives, tried in this order; `{id}` is the PDB ID in lower case."""

_WORKERS = 4
_LARGEST_TEXT = 4 * 10**9  # bytes, unpacked
_NOT_FOUND = "HTTP 404"
_MISPRINTS = {"3qml": "3qm1"}


class _UnreachableError(CryodenError):
    """No mirror gave the entry, but one of them may have it."""


def find_or_fetch(entry: str, structure_dir: Path | str | None = None) -> Path:
    """Finds the structure file of one entry, and downloads it where it is not yet at hand.

    Args:
        entry: PDB ID in any case ("1bxn", "pdb_00001bxn"), or the name without suffix of a file in
            `structure_dir` ("4v4r_30S").
        structure_dir: Folder searched first; None takes the environment variable CRYODEN_STRUCTURE_DIR.

    Returns:
        Path of the PDB or mmCIF file, perhaps gzipped.

    Raises:
        CryodenError: The entry cannot be had; the message says why and what to do.
    """
    return fetch([entry], structure_dir=structure_dir)[entry]


def fetch(entries: Sequence[str], *, structure_dir: Path | str | None = None, progress: bool = True) -> dict[str, Path]:
    """Finds the structure files of entries, and downloads those not yet at hand, several at once.

    Every entry is tried, whatever happens to the others.

    Args:
        entries: As in `find_or_fetch`.
        structure_dir: Folder searched first, for ID.cif, ID.pdb, ID.ent and pdbID.ent, each also with .gz and
            in any case; None takes the environment variable CRYODEN_STRUCTURE_DIR.
        progress: Shows the downloads on standard error if that is a terminal.

    Returns:
        The path of each entry, in the order given.

    Raises:
        CryodenError: Some entries cannot be had; the message says why, for each. The others stay cached.
    """
    local, cache = _local_dir(structure_dir), cache_dir()
    results: dict[str, Path | CryodenError] = {}
    missing: dict[str, str] = {}
    for entry in entries:
        pdb_id = as_pdb_id(entry)
        if path := _search(local, entry) or (_search(cache, pdb_id) if pdb_id else None):
            results[entry] = path
        elif pdb_id:
            missing[entry] = pdb_id
        else:
            results[entry] = CryodenError(
                f"no structure file of this name in structure_dir ({local or 'not set'}), and not a PDB ID "
                "(a digit and three letters or digits, as 1bxn, or the long form, as pdb_00001bxn)"
            )
    downloads = _download_all(sorted(set(missing.values())), cache, progress)
    results |= {entry: downloads[pdb_id] for entry, pdb_id in missing.items()}
    results = {entry: results[entry] for entry in entries}  # in their order
    if failures := {entry: error for entry, error in results.items() if isinstance(error, CryodenError)}:
        raise CryodenError(_message(failures))
    return {entry: path for entry, path in results.items() if isinstance(path, Path)}


def _local_dir(structure_dir: Path | str | None) -> Path | None:
    """The user's own folder, if there is one."""
    named = structure_dir or os.environ.get("CRYODEN_STRUCTURE_DIR")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise CryodenError(
            f"structure_dir {folder} is not a folder: "
            "correct the argument structure_dir or the environment variable CRYODEN_STRUCTURE_DIR"
        )
    return folder


def as_pdb_id(entry: str) -> str | None:
    """The PDB ID as the archives write it, or None for a name of another form."""
    entry = entry.lower().removeprefix("pdb_0000")
    return entry if re.fullmatch(r"[0-9][0-9a-z]{3}|pdb_[0-9a-z]{8}", entry, re.ASCII) else None


def _search(folder: Path | None, entry: str) -> Path | None:
    """The file of an entry in a folder, mmCIF before PDB format."""
    if folder is None or not folder.is_dir():
        return None
    files = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_file()}
    pdb_id = as_pdb_id(entry) or entry.lower()
    names = [f"{stem}.{suffix}" for stem in (entry.lower(), pdb_id) for suffix in ("cif", "pdb", "ent")]
    names.append(f"pdb{pdb_id}.ent")  # the wwPDB's own name
    return next((files[name + gz] for name in names for gz in ("", ".gz") if name + gz in files), None)


def _message(failures: dict[str, CryodenError]) -> str:
    """One line of all failures, those with the same reason together, and the ways out."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for entry, error in failures.items():
        correct = _MISPRINTS.get(entry.lower())
        hint = f" (in the 2019 thesis probably a misprint of {correct})" if correct else ""
        reasons[f"{error}{hint}"].append(entry)
    message = "; ".join(f"{', '.join(entries)}: {reason}" for reason, entries in reasons.items())
    unreachable = [entry for entry, error in failures.items() if isinstance(error, _UnreachableError)]
    if unreachable:
        files = ", ".join(f"{entry}.cif" for entry in unreachable)
        message += (
            f"; connect to the network and run `cryoden fetch {' '.join(unreachable)}`, "
            f"or put {files} into structure_dir (or the folder named by CRYODEN_STRUCTURE_DIR)"
        )
    return message


def _download_all(pdb_ids: Sequence[str], cache: Path, progress: bool) -> dict[str, Path | CryodenError]:
    """Downloads entries into the cache, several at once; each gives its path or what went wrong."""
    if not pdb_ids:
        return {}
    try:
        cache.mkdir(parents=True, exist_ok=True)
        clear_leftovers(cache)
        folder = unfinished(cache / f"incoming-{token_hex(4)}")
        folder.mkdir()
    except OSError as error:
        raise CryodenError(
            f"cannot write to the cache {cache} ({error.strerror}): set CRYODEN_CACHE to a folder you can write to"
        ) from None
    results: dict[str, Path | CryodenError] = {}
    stop = threading.Event()
    visible = progress and sys.stderr.isatty()
    display = Progress(console=Console(stderr=True), transient=True, disable=not visible)
    try:
        with display, ThreadPoolExecutor(_WORKERS) as pool:
            overall = display.add_task("PDB entries", total=len(pdb_ids))
            futures = {pool.submit(_download, i, folder / i, cache, display, stop): i for i in pdb_ids}
            try:
                for future in as_completed(futures):
                    try:
                        results[futures[future]] = future.result()
                    except CryodenError as error:
                        results[futures[future]] = error
                    display.advance(overall)
            finally:  # after Ctrl-C the running downloads end at their next chunk or timeout, no other starts
                stop.set()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return results


def _download(pdb_id: str, temporary: Path, cache: Path, display: Progress, stop: threading.Event) -> Path:
    """Downloads one entry from the first mirror that gives a sound file."""
    problems: list[tuple[str, str]] = []
    for mirror in MIRRORS:
        if stop.is_set():
            raise KeyboardInterrupt
        url = mirror.format(id=pdb_id)
        task = display.add_task(pdb_id, total=None)
        try:
            for size, total in transfer(url, temporary):
                if stop.is_set():
                    raise KeyboardInterrupt
                display.update(task, total=total, advance=size)
            path = cache / f"{pdb_id}{_verify(temporary, pdb_id)}"
            temporary.replace(path)
            return path
        except FAILURES as error:
            problems.append((urlsplit(url).netloc, reason(error)))
        finally:
            display.remove_task(task)
    if all(problem == _NOT_FOUND for _, problem in problems):
        raise CryodenError("the PDB has no entry of this ID: check the ID")
    answers = ", ".join(f"{host}: {problem}" for host, problem in problems)
    raise _UnreachableError(f"not in the cache {cache}, and not to be downloaded ({answers})")


def _verify(path: Path, pdb_id: str) -> str:
    """Parses a download; returns its suffix by its content, since servers may unpack what they send."""
    content = path.read_bytes()
    gzipped = content.startswith(b"\x1f\x8b")
    try:
        text = gzip.GzipFile(fileobj=io.BytesIO(content)).read(_LARGEST_TEXT + 1) if gzipped else content
        if len(text) > _LARGEST_TEXT:
            raise CryodenError(f"more than {_LARGEST_TEXT / 1e9:g} GB when unpacked")
        block = gemmi.cif.read_string(text).sole_block()
        structure = gemmi.make_structure_from_block(block)
    except CryodenError:
        raise
    except (EOFError, OSError, zlib.error):
        raise CryodenError("damaged gzip file") from None
    except (ValueError, IndexError, RuntimeError):
        raise CryodenError("not an mmCIF file") from None
    if not any(model.count_atom_sites() for model in structure):
        raise CryodenError("an mmCIF file without atoms")
    # half a file parses where it ends between two rows; the archive's own end each table by a line with a mark
    if not text.rstrip().endswith(b"#") and block[-1].loop is not None and "_atom_site" in block[-1].loop.tags[0]:
        raise CryodenError("an mmCIF file that ends among its atoms")
    its_own = as_pdb_id(gemmi.cif.as_string(block.find_value("_entry.id") or ""))
    if its_own not in (None, pdb_id):
        raise CryodenError(f"another entry, {its_own}")
    return ".cif.gz" if gzipped else ".cif"
