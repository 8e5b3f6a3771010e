"""The verb `export`."""

from collections.abc import Iterator

from cryoden.checkpoint import export_weights, load_denoiser


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
