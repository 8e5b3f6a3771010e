"""The verb `export`."""

from collections.abc import Iterator

from cryoden.console import loading
from cryoden.models import find_checkpoint


def export(output: str, *, model: str, module: str | None = None, overwrite: bool = False) -> Iterator[str]:
    """Write a trained model's weights as safetensors, with all that is needed to build its network inside.

    Args:
        output: the file to write, ending in .safetensors.
        model: a run's folder or a checkpoint.
        module: a module of yours to import first, whose networks the model may be of, such as mine for mine.py.
        overwrite: replace an existing output.

    Yields:
        What it wrote.
    """
    checkpoint = find_checkpoint(model)
    with loading():
        from cryoden.checkpoint import export_weights, import_module_of_networks, load_denoiser
    import_module_of_networks(module)
    export_weights(load_denoiser(checkpoint), output, overwrite=overwrite)
    yield f"wrote {output}"
