"""Tomograms in, tomograms out: a trained model on a volume of any size.

A plan refuses what cannot be done; then an engine carries it out.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoden.denoiser import denoiser_of
from cryoden.errors import CryodenError
from cryoden.files import check_output, claimed
from cryoden.inference.begun import begun, kept_bytes
from cryoden.inference.engine import Engine, Precision, Progress
from cryoden.inference.jobs import Job, check_jobs, picture_of
from cryoden.inference.origin import Origin, size_and_time
from cryoden.inference.plan import Plan, require_kept
from cryoden.inference.removed import structure_removed, tell_removed
from cryoden.inference.settings import Settings
from cryoden.inference.tilts import find_tilts
from cryoden.inference.wedge import tell_wedge
from cryoden.volume import Volume, format_of, open_volume, write_volume

_log = logging.getLogger(__name__)

AnyVolume = TypeVar("AnyVolume", Volume, NDArray[Any], Tensor)

_RESULT = np.dtype(np.float64)  # while it is made


def denoise(
    volume: AnyVolume,
    model: nn.Module,
    *,
    device: torch.device | str | None = None,
    precision: Precision = "auto",
    progress: Progress | None = None,
    **settings: Any,
) -> AnyVolume:
    """Denoises a volume in memory, tile by tile, as the model's own `forward` would denoise it whole.

    The answer has the grey scale of the input: its background, and density above it. What is filled with one value, as
    margins are, stays as it was.

    Args:
        volume: A Volume, or an array or tensor (D, H, W), axes z, y, x; any unit. Arrays and tensors are taken to have
            the voxel size of the model's training, unless `voxel_size` is given.
        model: A trained model: a Denoiser, or a training that has one. It is used in evaluation mode and left as it
            was.
        device: Where the network runs; by default the choice of `choose_device`.
        precision: Of the network; "auto" takes bfloat16 where the device computes in it.
        progress: Called with the number of tiles done and their total.
        settings: See `Settings`: contrast, voxel_size, rescale, augment, tile, overlap, batch_size, measured_only,
            tilt_range.

    Returns:
        The denoised volume, (D, H, W) float32, of the kind that was given: a Volume with the header of the input, an
        array, or a tensor on the same device.

    Raises:
        CryodenError: The volume is constant, has NaN, or its contrast or voxel size is in doubt; float32 keeps too
            little of it; a setting is out of range; or the network gives NaN.

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
        if isinstance(volume, Tensor):
            data = (volume.float() if volume.dtype == torch.bfloat16 else volume).detach().cpu().numpy()
        else:
            data = np.asarray(volume)
        if data.ndim != 3 or data.dtype.kind not in "iuf":
            raise CryodenError(f"a volume is (D, H, W) real numbers; got shape {data.shape} of {data.dtype}")
        given = Volume(data, settings.get("voxel_size") or denoiser_of(model).voxel_size or 1.0)
    engine = Engine.of(model, device, precision)
    plan = engine.plan(given, Settings(**settings))
    if plan.trace:
        _log.warning("%s: %s", plan.name, plan.trace)
    result = np.empty(given.data.shape, _RESULT)
    engine.run(plan, result, progress)
    denoised = result.astype(np.float32)
    if isinstance(volume, Volume):
        return replace(plan.volume, data=denoised)
    return torch.from_numpy(denoised).to(volume.device) if isinstance(volume, Tensor) else denoised


def denoise_file(
    path_in: Path | str,
    path_out: Path | str,
    model: nn.Module,
    *,
    overwrite: bool = False,
    float16: bool = False,
    preview: bool = False,
    device: torch.device | str | None = None,
    precision: Precision = "auto",
    progress: Progress | None = None,
    **settings: Any,
) -> Volume:
    """Denoises a file of any size, MRC, TIFF or OME-Zarr, into another that opens at the same place and scale.

    Args:
        path_in: The volume to denoise.
        path_out: The file to write, in the format that its name tells; it appears when it is complete. Until then, a
            hidden file beside it takes 8 bytes a voxel; where it is stopped, that stays, and the next call goes on.
        model: A trained model: a Denoiser, or a training that has one.
        overwrite: Whether `path_out` may exist.
        float16: Write mode 12, half the size, instead of mode 2.
        preview: Also write a picture of slices before and after, under the same name with .png.
        device: Where the network runs; by default the choice of `choose_device`.
        precision: Of the network; "auto" takes bfloat16 where the device computes in it.
        progress: Called with the number of tiles done and their total.
        settings: See `Settings`: contrast, voxel_size, rescale, augment, tile, overlap, batch_size, measured_only,
            tilt_range, which is looked for beside `path_in` where it is not given.

    Returns:
        The denoised volume, mapped from the file.

    Raises:
        CryodenError: A file cannot be read or written, or the volume cannot be denoised; nothing is written.
    """
    path_in, path_out = Path(path_in), Path(path_out)
    check_jobs([Job(str(path_in), (path_in,), (path_out,))], pictures=preview)
    engine = Engine.of(model, device, precision)
    wanted = with_tilts(Settings(**settings), path_in)
    output = {"overwrite": overwrite, "float16": float16, "preview": preview}
    check_output(path_out, overwrite=overwrite)
    with claimed(path_out):
        plan = plan_file(engine, path_in, path_out, wanted, **output)
        if plan.trace:
            _log.warning("%s: %s", plan.name, plan.trace)
        write_denoised(engine, plan, path_in, path_out, **output, progress=progress)
    return open_volume(path_out)


def plan_file(
    engine: Engine,
    path_in: Path | str,
    path_out: Path | str,
    settings: Settings,
    *,
    overwrite: bool = False,
    float16: bool = False,
    preview: bool = False,
) -> Plan:
    """Looks at all that `denoise_file` needs, without writing anything; arguments and errors are its own."""
    format_of(path_out, np.float16 if float16 else np.float32)
    check_output(path_out, overwrite=overwrite)
    if preview:
        check_output(picture_of(path_out), overwrite=overwrite)
    seen = size_and_time([Path(path_in)])
    volume = open_volume(path_in, settings.voxel_size, near=engine.denoiser.voxel_size)
    if Origin.is_result(volume.labels):
        _log.warning("%s was denoised by cryoden before, as its label says; give the tomogram it was made of", path_in)
    size = volume.data.size * (_RESULT.itemsize + (2 if float16 else 4)) - kept_bytes(Path(path_out))
    check_output(path_out, overwrite=overwrite, size=max(0, size))
    plan = engine.plan(volume, settings, str(path_in))
    if float16:
        require_kept(plan.name, plan.statistics, plan.grey.scale, np.float16, "write float32, or another scale")
    return replace(plan, seen=seen)


def with_tilts(settings: Settings, path: Path, table: Path | None = None) -> Settings:
    """Settings for a tomogram, with the tilt range that a file tells, see `find_tilts`, unless it is stated.

    Raises:
        CryodenError: A file tells no tilts, and they are needed.
    """
    if settings.tilt_range is not None:
        return settings
    try:
        return replace(settings, tilt_range=find_tilts(path, table))
    except CryodenError as error:
        if settings.measured_only:
            raise
        _log.warning("%s; so nothing is told of the missing wedge", error)
        return settings


def write_denoised(
    engine: Engine,
    plan: Plan,
    source: Path,
    path: Path,
    *,
    overwrite: bool = False,
    float16: bool = False,
    preview: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Carries out what `plan_file` planned; arguments and errors are those of `denoise_file`.

    Returns:
        What is to be told of the result, in lines: how much structure was taken away, and what is in the missing wedge.
    """
    origin = Origin.of([source], engine.key(plan.settings, plan.contrast, float16=float16), plan.seen)
    tiles = engine.tiles_key(plan)
    key = f"{origin.digest} {tiles}" if tiles else ""
    with begun(path, plan.volume.data.shape, key) as made:
        done, result = made.done, made.data
        in_wedge = engine.run(plan, result, progress, made)
        origin.require_untouched([source])
        denoised = replace(plan.volume, data=result)
        label = (origin.label, engine.label(plan.settings, plan.contrast))
        write_volume(path, denoised, overwrite=overwrite, label=label, dtype=np.float16 if float16 else np.float32)
        removed, tilts = structure_removed(plan.volume.data, result), plan.settings.tilts
        told = []
        if in_wedge is not None and tilts is not None:
            told.append(tell_wedge(in_wedge, tilts, removed=plan.settings.measured_only))
        if preview:
            from cryoden.inference.preview import write_preview  # with matplotlib, half a second that few need

            voxels = f"voxels of {plan.volume.voxel_size:.4g} Å, protein {plan.contrast}"
            lines = (f"{path.name}: {voxels}", engine.label(plan.settings), tell_removed(removed, "below"), *told)
            write_preview(picture_of(path), plan.volume, denoised, "\n".join(lines))
    went_on = [f"went on from {done} of {len(plan.grid)} tiles, where it was stopped"] if done else []
    return [*went_on, tell_removed(removed), *told]
