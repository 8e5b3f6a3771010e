"""Tomograms in, tomograms out: a trained model on a volume of any size that fits in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoden.errors import CryodenError
from cryoden.inference.tiling import tiled
from cryoden.scaling import Scale, restore, standardize
from cryoden.volume import Volume, check_output, read_volume, write_volume

if TYPE_CHECKING:
    from cryoden.modules.denoiser import Denoiser

Contrast = Literal["bright", "dark"]
Progress = Callable[[int, int], None]

_TILE = 64


def denoise_volume(
    volume: Volume,
    model: Denoiser,
    *,
    contrast: Contrast = "bright",
    tile: int | None = None,
    overlap: int | None = None,
    batch_size: int = 4,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Volume:
    """Denoises a volume by overlapping tiles that all have the grey scale of the whole.

    A model trained with `standardize` gives back the mean and the grey scale of its input.

    Args:
        volume: The volume; its voxel size should be that of the model's training.
        model: A trained model. It is used in evaluation mode and left as it was.
        contrast: Whether protein is brighter or darker than its surroundings. Models are trained on bright
            protein: a dark volume is inverted for the network and the result inverted back.
        tile: Edge of a tile in voxels, a multiple of `model.generator.multiple`; by default the edge of the
            volumes the model was trained on, or about 64.
        overlap: Voxels shared by neighbouring tiles; by default about a quarter of a tile. Networks that
            halve their volumes leave least of a grid where `tile - overlap` is a multiple of
            `model.generator.multiple`: then all tiles are halved at the same voxels.
        batch_size: Tiles denoised at once: more are faster on a GPU and need more of its memory.
        device: Where the network runs; by default the choice of `choose_device`.
        progress: Called with the number of tiles done and their total.

    Returns:
        The denoised volume, with the header of the input.

    Raises:
        CryodenError: The volume is constant, an argument is out of range, or the network gives NaN.
    """
    if contrast not in ("bright", "dark"):
        raise CryodenError(f"contrast {contrast!r} is unknown; it is 'bright' or 'dark', as the protein is")
    if volume.data.min() == volume.data.max():
        raise CryodenError(
            f"every voxel is {volume.data.flat[0]:g}, so there is nothing to denoise; is this the right file?"
        )
    tile = _tile_for(model) if tile is None else tile
    if tile < 1 or tile % model.generator.multiple:
        raise CryodenError(f"tile {tile} does not suit the network: take a multiple of {model.generator.multiple}")
    device = choose_device()[0] if device is None else torch.device(device)
    data = volume.data if contrast == "bright" else -volume.data
    scale = _measure(data)

    def network(tiles: Tensor) -> Tensor:
        if model.standardize:
            tiles = standardize(tiles, scale)
        denoised: Tensor = model.generator(tiles.to(device)).float().cpu()
        if not denoised.isfinite().all():
            raise CryodenError(
                "the network gives NaN or infinite values: its training has failed; use another checkpoint"
            )
        return denoised

    with _evaluating(model.generator, device):
        density = tiled(
            network,
            torch.from_numpy(data) if data.flags.writeable else torch.tensor(data),
            tile=tile,
            overlap=_overlap_for(tile, model.generator.multiple) if overlap is None else overlap,
            batch_size=batch_size,
            progress=progress,
        )
    if model.standardize:
        density = restore(density[None, None], scale)[0, 0]
    return replace(volume, data=density.numpy() if contrast == "bright" else -density.numpy())


def denoise_file(
    path_in: Path | str,
    path_out: Path | str,
    model: Denoiser,
    *,
    overwrite: bool = False,
    contrast: Contrast = "bright",
    tile: int | None = None,
    overlap: int | None = None,
    batch_size: int = 4,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Volume:
    """Denoises an MRC file into another that opens at the same place and scale.

    Args:
        path_in: The volume to denoise.
        path_out: The file to write, of mode 2; it appears when it is complete.
        model: A trained model.
        overwrite: Whether `path_out` may exist.
        contrast: As in `denoise_volume`, like all that follow.
        tile: Edge of a tile in voxels.
        overlap: Voxels shared by neighbouring tiles.
        batch_size: Tiles denoised at once.
        device: Where the network runs.
        progress: Called with the number of tiles done and their total.

    Returns:
        The denoised volume.

    Raises:
        CryodenError: A file cannot be read or written, or the volume cannot be denoised; nothing is written.
    """
    check_output(path_out, overwrite=overwrite)
    volume = read_volume(path_in)
    try:
        denoised = denoise_volume(
            volume,
            model,
            contrast=contrast,
            tile=tile,
            overlap=overlap,
            batch_size=batch_size,
            device=device,
            progress=progress,
        )
    except CryodenError as error:
        raise CryodenError(f"cannot denoise {path_in}: {error}") from error
    label = f"cryoden {version('cryoden')}: denoised by {type(model).__name__} ({type(model.generator).__name__})"
    write_volume(path_out, denoised, overwrite=overwrite, label=label)
    return denoised


def choose_device() -> tuple[torch.device, str]:
    """The fastest device of this machine, and why it was chosen, for people to read."""
    if torch.cuda.is_available():
        return torch.device("cuda"), f"the GPU {torch.cuda.get_device_name()}"
    if torch.backends.mps.is_available():
        return torch.device("mps"), "the GPU of this Mac"
    if torch.version.cuda is None:
        return torch.device("cpu"), f"the CPU, because torch {torch.__version__} is built without CUDA"
    return torch.device("cpu"), "the CPU, because torch sees no GPU: check the driver with nvidia-smi"


def _tile_for(model: Denoiser) -> int:
    """The edge of the volumes a model was trained on, or about 64, as a multiple that the network takes."""
    multiple = model.generator.multiple
    box: int | None = getattr(model, "box", None)
    return math.ceil((box or _TILE) / multiple) * multiple


def _overlap_for(tile: int, multiple: int) -> int:
    """About a quarter of a tile, such that the steps between tiles are multiples, if a tile has room for it."""
    overlap = math.ceil(tile / (4 * multiple)) * multiple
    return overlap if overlap < tile else tile // 4


def _measure(data: NDArray[np.float32]) -> Scale:
    """The scale of a whole volume (D, H, W), section by section: float64 copies of tomograms are large."""
    mean = data.mean(dtype=np.float64)
    variance = sum(float(np.square(section - mean).sum()) for section in data) / data.size
    shape = (1, 1, 1, 1, 1)
    return Scale(torch.full(shape, mean, dtype=torch.float64), torch.full(shape, variance**0.5, dtype=torch.float64))


@contextmanager
def _evaluating(network: nn.Module, device: torch.device) -> Iterator[None]:
    """A network in evaluation mode on a device, and afterwards as and where it was."""
    training = network.training
    home = next((parameter.device for parameter in network.parameters()), device)
    try:
        network.to(device).eval()
        yield
    finally:
        network.to(home).train(training)
