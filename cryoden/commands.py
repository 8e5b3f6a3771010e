"""The tools of the command line. Each function's signature and docstring are its help; each yields lines to print."""

from collections.abc import Iterator

from cryoden.checkpoint import export_weights, load_denoiser
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


def export(output: str, *, model: str, overwrite: bool = False) -> Iterator[str]:
    """Write a trained model's weights as safetensors, with all that is needed to build its network inside.

    Args:
        output: the file to write, ending in .safetensors.
        model: a run's folder or a checkpoint.
        overwrite: replace an existing output.

    Yields:
        What it wrote.
    """
    export_weights(load_denoiser(model), output, overwrite=overwrite)
    yield f"wrote {output}"
