"""Tomograms in, tomograms out: a trained model on a volume of any size.

A plan refuses what cannot be done; then tile after tile goes through the network into a file, so that the memory needed
does not depend on the volume's size.
"""

from __future__ import annotations

import hashlib
import logging
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoden.denoiser import Denoiser
from cryoden.errors import CryodenError
from cryoden.files import check_output
from cryoden.hardware import choose_device, choose_precision
from cryoden.inference.normalisation import normalised_alike
from cryoden.inference.plan import Plan, Settings, make_plan
from cryoden.inference.preview import write_preview
from cryoden.inference.resampling import resample
from cryoden.inference.tiling import TileGrid, out_of_memory, tell, tiled
from cryoden.scaling import Scale, standardize
from cryoden.version import __version__
from cryoden.volume import Volume, measure, open_volume, sections, write_volume

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
AnyVolume = TypeVar("AnyVolume", Volume, NDArray[Any], Tensor)

_FLIPS = [axes for count in range(4) for axes in combinations((2, 3, 4), count)]
_SCRATCH = np.dtype(np.float64)
_FOREIGN = (".tif", ".tiff", ".png", ".jpg", ".em", ".hdf", ".h5", ".zarr", ".npy", ".npz", ".nii")
_SAMPLE, _SAMPLE_EDGE = 32, 96  # tiles, and their edge, that tell what the norms of a network are going to see


def denoise(
    volume: AnyVolume,
    model: Denoiser,
    *,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> AnyVolume:
    """Denoises a volume in memory by overlapping tiles that all have the grey scale of the whole.

    A model trained with `standardize` gives back the grey scale of its input, and its mean unless it was trained on
    noise that has one.

    Args:
        volume: A Volume, or an array or tensor (D, H, W), axes z, y, x; any unit. Arrays and tensors are taken to have
            the voxel size of the model's training, unless `voxel_size` is given.
        model: A trained model. It is used in evaluation mode and left as it was.
        device: Where the network runs; by default the choice of `choose_device`.
        progress: Called with the number of tiles done and their total.
        settings: See `Settings`: contrast, voxel_size, rescale, augment, tile, overlap, batch_size.

    Returns:
        The denoised volume, (D, H, W) float32, of the kind that was given: a Volume with the header of the input, an
        array, or a tensor on the same device.

    Raises:
        CryodenError: The volume is constant, has NaN, or its contrast or voxel size is in doubt; a setting is out of
            range; or the network gives NaN.

    Examples:
        >>> import numpy as np
        >>> from cryoden import CompactUnetAE, denoise
        >>> noise = np.random.default_rng(0).normal(size=(24, 40, 32))
        >>> denoise(noise, CompactUnetAE(channels=4), contrast="bright", tile=16).shape
        (24, 40, 32)
    """
    if isinstance(volume, Volume):
        given = volume
    else:
        data = volume.detach().cpu().numpy() if isinstance(volume, Tensor) else np.asarray(volume)
        if data.ndim != 3 or data.dtype.kind not in "iuf":
            raise CryodenError(f"a volume is (D, H, W) real numbers; got shape {data.shape} of {data.dtype}")
        given = Volume(data, settings.get("voxel_size") or model.voxel_size or 1.0)
    plan = make_plan(given, model, Settings(**settings))
    result = np.empty(given.data.shape, _SCRATCH)
    _carry_out(plan, model, result, choose_device()[0] if device is None else torch.device(device), progress)
    denoised = result.astype(np.float32)
    if isinstance(volume, Volume):
        return replace(plan.volume, data=denoised)
    return torch.from_numpy(denoised).to(volume.device) if isinstance(volume, Tensor) else denoised


def denoise_file(
    path_in: Path | str,
    path_out: Path | str,
    model: Denoiser,
    *,
    overwrite: bool = False,
    float16: bool = False,
    preview: bool = False,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Volume:
    """Denoises an MRC file of any size into another that opens at the same place and scale.

    Args:
        path_in: The volume to denoise.
        path_out: The file to write; it appears when it is complete. Until then, a nameless file beside it takes 8 bytes
            a voxel.
        model: A trained model.
        overwrite: Whether `path_out` may exist.
        float16: Write mode 12, half the size, instead of mode 2.
        preview: Also write a picture of slices before and after, under the same name with .png.
        device: Where the network runs; by default the choice of `choose_device`.
        progress: Called with the number of tiles done and their total.
        settings: See `Settings`: contrast, voxel_size, rescale, augment, tile, overlap, batch_size.

    Returns:
        The denoised volume, mapped from the file.

    Raises:
        CryodenError: A file cannot be read or written, or the volume cannot be denoised; nothing is written.
    """
    plan = plan_file(path_in, path_out, model, Settings(**settings), overwrite=overwrite, float16=float16)
    write_denoised(
        plan, path_out, model, overwrite=overwrite, float16=float16, preview=preview, device=device, progress=progress
    )
    return open_volume(path_out)


def plan_file(
    path_in: Path | str,
    path_out: Path | str,
    model: Denoiser,
    settings: Settings,
    *,
    overwrite: bool = False,
    float16: bool = False,
) -> Plan:
    """Looks at all that `denoise_file` needs, without writing anything; arguments and errors are its own."""
    if Path(path_out).suffix.lower() in _FOREIGN:
        raise CryodenError(f"cannot write {path_out}: the result is an MRC file; give a name that ends in .mrc")
    check_output(path_out, overwrite=overwrite)
    volume = open_volume(path_in)
    size = volume.data.size * (_SCRATCH.itemsize + (2 if float16 else 4))
    check_output(path_out, overwrite=overwrite, size=size)
    plan = make_plan(volume, model, settings, str(path_in))
    largest = max(abs(plan.statistics.minimum), abs(plan.statistics.maximum))
    if float16 and largest > float(np.finfo(np.float16).max):
        raise CryodenError(f"{path_in}: has values up to {largest:.3g}, and float16 ends at 65504; write float32")
    return plan


def write_denoised(
    plan: Plan,
    path: Path | str,
    model: Denoiser,
    *,
    overwrite: bool = False,
    float16: bool = False,
    preview: bool = False,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> None:
    """Carries out what `plan_file` planned; arguments and errors are those of `denoise_file`."""
    path = Path(path)
    device = choose_device()[0] if device is None else torch.device(device)
    with scratch(path.parent, plan.volume.data.shape) as result:
        _carry_out(plan, model, result, device, progress)
        denoised = replace(plan.volume, data=result)
        label = output_label(model, plan.settings, plan.contrast)
        write_volume(path, denoised, overwrite=overwrite, label=label, dtype=np.float16 if float16 else np.float32)
        if preview:
            write_preview(path.with_suffix(".png"), plan.volume, denoised, path.name)


@contextmanager
def scratch(folder: Path, shape: tuple[int, ...]) -> Iterator[NDArray[np.float64]]:
    """A mapped array of zeros in a file without a name, of which nothing is left whatever happens."""
    with tempfile.TemporaryFile(dir=folder) as file:
        yield np.memmap(file, _SCRATCH, mode="w+", shape=shape)


def output_label(model: Denoiser, settings: Settings, contrast: str = "") -> str:
    """What a denoised file says of itself: the network, a digest of its weights, and how it was used."""
    digest = hashlib.sha256()
    for name, value in model.generator.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    used = f"{', augmented' * settings.augment}{', rescaled' * settings.rescale}"
    network = f"{type(model.generator).__name__} {digest.hexdigest()[:8]}"
    return f"cryoden {__version__}: denoised by {network}{used}, {contrast}".removesuffix(", ")


def _carry_out(
    plan: Plan, model: Denoiser, result: NDArray[np.float64], device: torch.device, progress: Progress | None
) -> None:
    """Denoises into `result`; where a single tile does not fit into the memory, begins again with smaller ones."""
    smaller: Plan | None = plan
    while smaller is not None:
        plan = smaller
        smaller = _attempt(plan, model, result, device, progress)
    if model.standardize:
        # a network's density is measured from the background, which is somewhere below the mean
        mean, factor = measure(result).mean - model.offset, plan.statistics.std
        shift = plan.statistics.mean
    else:
        mean, factor, shift = 0.0, 1.0, 0.0
    if plan.contrast == "dark":
        factor = -factor
    for section in sections(result):
        section[...] = (section - mean) * factor + shift


def _attempt(
    plan: Plan, model: Denoiser, result: NDArray[np.float64], device: torch.device, progress: Progress | None
) -> Plan | None:
    """Density of bright protein, in the network's unit, into `result`; or a plan that needs less memory."""
    precision = (
        choose_precision(device) if plan.settings.precision == "auto" else getattr(torch, plan.settings.precision)
    )
    try:
        network = _Network(plan, model, device, precision)
        with (
            _evaluating(model.generator, device, precision),
            # a single tile's own statistics are those of the whole
            normalised_alike(model.generator, lambda: network.show(_sample(plan, model.generator.multiple)))
            if len(plan.grid) > 1
            else nullcontext(),
        ):
            tiled(
                network,
                plan.volume.data,
                tile=plan.grid.tile,
                overlap=plan.grid.overlap,
                batch_size=plan.settings.batch_size,
                result=result,
                progress=progress,
            )
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        told = str(error)
    else:
        return None
    smaller = plan.halved(model)
    if smaller is None:
        raise CryodenError(
            f"{plan.name}: no memory on {device} for even one tile of {tell(plan.network_tile)} voxels "
            f"({told.split('.')[0]})"
        )
    _log.warning(
        "out of memory with a tile of %s voxels: beginning again with %s",
        tell(plan.grid.tile),
        tell(smaller.grid.tile),
    )
    return smaller


def _sample(plan: Plan, multiple: int) -> Iterator[Tensor]:
    """Tiles (1, 1, D, H, W) from all over the volume, no larger than they need be to tell of it."""
    smaller = [min(edge, math.ceil(_SAMPLE_EDGE / multiple) * multiple) for edge in plan.network_tile]
    z, y, x = (round(edge * plan.ratio) for edge in smaller)
    overlap = plan.grid.overlap if plan.grid.overlap < min(z, y, x) else min(z, y, x) // 3
    grid = TileGrid(plan.grid.shape, (z, y, x), overlap)
    tiles = list(grid)
    for i in np.random.default_rng(0).permutation(len(tiles))[:_SAMPLE]:
        yield torch.from_numpy(grid.cut(plan.volume.data, tiles[i])[None, None])


class _Network:
    """A model as a function of tiles as they are in the file."""

    def __init__(self, plan: Plan, model: Denoiser, device: torch.device, precision: torch.dtype) -> None:
        self.name, self.model = plan.name, model
        self.device, self.precision = device, precision
        self.sign = -1.0 if plan.contrast == "dark" else 1.0
        self.flips = _FLIPS if plan.settings.augment else _FLIPS[:1]
        statistics = torch.tensor([self.sign * plan.statistics.mean, plan.statistics.std], dtype=torch.float64)
        mean, std = statistics.view(2, 1, 1, 1, 1, 1)
        self.scale = Scale(mean, std) if model.standardize else None
        self.ratio = plan.ratio

    @torch.no_grad()
    def show(self, batches: Iterator[Tensor]) -> None:
        """Runs the network on batches of tiles for its norms to see them, in one orientation."""
        for boxes in batches:
            self._generate(self._prepare(boxes))

    def __call__(self, boxes: Tensor) -> Tensor:
        """(B, 1, D, H, W) as in the file to density of bright protein in the network's unit, of the same shape."""
        tiles = self._prepare(boxes)
        density = torch.zeros_like(tiles)
        for axes in self.flips:
            density += self._generate(tiles.flip(axes)).flip(axes)
        density /= len(self.flips)
        if density.shape != boxes.shape:
            density = resample(density, boxes.shape[2:])
        if not density.isfinite().all():
            raise CryodenError(
                f"{self.name}: the network gives NaN or infinite values; its training has failed: use another model"
            )
        return density

    def _prepare(self, boxes: Tensor) -> Tensor:
        tiles = self.sign * boxes
        if self.scale is not None:
            tiles = standardize(tiles, self.scale)
        tiles = tiles.to(self.device)
        if self.ratio != 1:
            multiple = self.model.generator.multiple
            tiles = resample(tiles, [round(edge / self.ratio / multiple) * multiple for edge in tiles.shape[2:]])
        if self.precision == torch.bfloat16:
            tiles = tiles.to(memory_format=torch.channels_last_3d)
        return tiles

    def _generate(self, tiles: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            return self.model.density(tiles)


@contextmanager
def _evaluating(network: nn.Module, device: torch.device, precision: torch.dtype) -> Iterator[None]:
    """A network in evaluation mode on a device, and afterwards as and where it was."""
    training = network.training
    home = next((parameter.device for parameter in network.parameters()), device)
    try:
        network.to(device).eval()
        if precision == torch.bfloat16:  # only there are channels last the faster layout
            network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stubs lack it
        yield
    finally:
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        network.to(home).train(training)
