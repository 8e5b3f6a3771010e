"""Trained models on disk: Lightning's checkpoints in, safetensors weights in and out."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cryoden.denoiser import Denoiser, denoiser_of
from cryoden.errors import CryodenError, one_line
from cryoden.files import whole_file
from cryoden.models import ALLOWED, find_checkpoint, shipped_models

_KEY = "cryoden"


def load_denoiser(run: Path | str) -> Denoiser:
    """Load a trained model for denoising.

    Args:
        run: a run's folder, a checkpoint, or a weights file made by `export_weights`.

    Returns:
        The model on the CPU in evaluation mode: its generator and how to scale volumes for it, without whatever else
        trained it.

    Raises:
        CryodenError: not a model of cryoden's, or damaged.
    """
    return read_model(run)[0]


def read_model(run: Path | str) -> tuple[Denoiser, dict[str, Any]]:
    """As `load_denoiser`, with what the file says of it: "system", "version" and so on, as `Denoiser.record` wrote it.

    Args:
        run: a run's folder, a checkpoint, or a weights file made by `export_weights`.

    Raises:
        CryodenError: not a model of cryoden's, or damaged.
    """
    path = find_checkpoint(run)
    record, weights = _read_weights(path) if path.suffix == ".safetensors" else _generator_of(path)
    try:
        denoiser = Denoiser.from_record(record, weights, path.stat().st_size)
    except CryodenError as error:
        raise CryodenError(f"model {path}: {error}") from error
    denoiser.name = next((name for name, model in shipped_models().items() if model.weights == path), denoiser.name)
    return denoiser.eval(), record


def import_module_of_networks(name: str | None) -> None:
    """Import a module of the user's own, so that models may be of its networks: nothing else imports one for a model.

    Args:
        name: as Python names it, such as mine for a mine.py in the working folder; None: none.

    Raises:
        CryodenError: there is none, or it cannot be imported.
    """
    if name is None:
        return
    try:
        import_module(name)
    except Exception as error:  # whatever the module does when it is imported
        raise CryodenError(f"module {name}: cannot be imported: {one_line(error)}") from error


def export_weights(model: nn.Module, path: Path | str, *, overwrite: bool = False) -> None:
    """Write a model's generator as safetensors, with all that is needed to build it again in the file's metadata.

    Args:
        model: a denoiser, or a training of one.
        path: a name that ends in .safetensors.
        overwrite: replace an existing file.

    Raises:
        CryodenError: the file exists, or has another ending.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CryodenError(f"{path}: weights are written as safetensors; give a name that ends in .safetensors")
    denoiser = denoiser_of(model)
    weights = {name: tensor.contiguous() for name, tensor in denoiser.generator.state_dict().items()}
    content = save(weights, metadata={_KEY: json.dumps(denoiser.record())})
    with whole_file(path, overwrite=overwrite) as partial:
        partial.write_bytes(content)  # whose errors say what the disk refuses, where safetensors' own say less


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, without running code in it.

    Args:
        path: a file that `cryoden fit` wrote.

    Raises:
        CryodenError: there is none, or it is damaged or not of cryoden's.
    """
    if not path.is_file():
        raise CryodenError(f"checkpoint {path}: no such file; {ALLOWED}")
    unreadable = f"model {path}: not a readable checkpoint, or cut short or damaged; {ALLOWED}"
    try:
        # torch's own check of its archive is none: another weight for each flipped bit
        with ZipFile(path) as archive:
            plain = all(each.compress_type == ZIP_STORED for each in archive.infolist())
            if not plain or archive.testzip() is not None:
                raise CryodenError(unreadable)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch says of a file that is something else; it may be anyone's
        raise CryodenError(unreadable) from error
    if not isinstance(checkpoint, dict) or _KEY not in checkpoint:
        raise CryodenError(f"model {path}: a checkpoint, but not of cryoden's; {ALLOWED}")
    return checkpoint


def _generator_of(path: Path) -> tuple[Any, dict[str, Tensor]]:
    checkpoint = read_checkpoint(path)
    state = checkpoint.get("state_dict")
    prefix = "denoiser.generator."
    weights = {
        name.removeprefix(prefix): value
        for name, value in (state.items() if isinstance(state, dict) else ())
        if isinstance(name, str) and name.startswith(prefix) and isinstance(value, Tensor)
    }
    return checkpoint[_KEY], weights


def _read_weights(path: Path) -> tuple[Any, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            record = (file.metadata() or {}).get(_KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except Exception as error:  # SafetensorError, and whatever else it says of a file that is something else
        raise CryodenError(f"model {path}: not a readable safetensors file, or cut short; {ALLOWED}") from error
    if record is None:
        raise CryodenError(f"model {path}: safetensors, but without cryoden's description of the network; {ALLOWED}")
    try:
        return json.loads(record), weights
    except (ValueError, RecursionError) as error:
        raise CryodenError(
            f"model {path}: its description cannot be read, so the file is damaged; {ALLOWED}"
        ) from error
