"""The verb `fetch`."""

from collections.abc import Iterator

from cryoden.particles import archive


def fetch(entries: list[str], structure_dir: str | None = None) -> Iterator[str]:
    """Download PDB entries into the cache, so that they are there without a network.

    Args:
        entries: PDB entries.
        structure_dir: a folder searched first; default: $CRYODEN_STRUCTURE_DIR.

    Yields:
        Where each entry lies.
    """
    for entry, path in archive.fetch(entries, structure_dir=structure_dir).items():
        yield f"{entry}: {path}"
