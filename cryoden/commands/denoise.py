"""The verb `denoise`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryoden.console import loading
from cryoden.errors import CryodenError
from cryoden.files import check_output
from cryoden.inference.copick import copick_jobs
from cryoden.inference.jobs import SEARCHED, Job, check_jobs, find_files, half_jobs, passed_over, single_jobs
from cryoden.inference.settings import Settings
from cryoden.inference.star import check_star, star_jobs, write_star
from cryoden.inference.tilts import read_tilts
from cryoden.models import find_checkpoint, nearest_model, shipped_models, suits
from cryoden.volume import VolumeFile, format_of, look_at

_NAMED = 3  # files of many, where each is like the others


def denoise(
    inputs: list[str],
    *,
    model: str | None = None,
    output: str | None = None,
    module: str | None = None,
    contrast: Literal["auto", "bright", "dark"] = "auto",
    voxel_size: float | None = None,
    rescale: bool = False,
    augment: bool = False,
    halves: bool = False,
    float16: bool = False,
    preview: bool = False,
    tile: int | None = None,
    overlap: int | None = None,
    batch_size: int = 1,
    measured_only: bool = False,
    tilt_range: tuple[float, float] | str | None = None,
    tomo_type: str | None = None,
    devices: int = 1,
    nodes: int = 1,
    dry_run: bool = False,
    overwrite: bool = False,
) -> Iterator[str]:
    """Denoise tomograms of any size; place, voxel size, grey scale and sign are kept.

    Formats are MRC (.mrc, .rec, .map, also .gz or .bz2), TIFF (.tif) and OME-Zarr (.zarr); a result has that of its
    name, in a folder that of its input.
    One tomogram: cryoden denoise IN.mrc OUT.mrc.
    Many: cryoden denoise FILES --output FOLDER, where FILES are files, folders, patterns in quotes, or a RELION 5
    tomograms.star. Of a copick project: cryoden denoise copick.json --tomo-type wbp.
    Results that this model made before are skipped.

    Args:
        inputs: IN.mrc OUT.mrc; or, with --output, any number of files, folders, 'patterns*' or one tomograms.star; or a
            copick project's .json.
        model: a run's folder, a checkpoint (.ckpt), weights (.safetensors), URL#sha256=HEX, or the name of a model that
            comes with cryoden, see `cryoden models`; by default the one of these that is nearest in voxel size.
        output: the folder for the results.
        module: a module of yours to import first, whose networks the model may be of, such as mine for mine.py.
        contrast: what protein looks like in the input, and will in the output; auto tells from the voxels.
        voxel_size: angstrom, where the header has none or a wrong one.
        rescale: resample to the voxel size the model was trained at, and the result back.
        augment: average over 8 orientations; 8 times slower.
        halves: pair half tomograms by name (_EVN/_ODD, _half1/_half2, even/ and odd/), denoise both and average; what
            halves of frames tell of the error is printed, and written to quality.csv.
        float16: write mode 12, half the size, instead of mode 2.
        preview: also write a picture of slices before and after.
        tile: largest edge, in voxels, of the tiles that the network sees; by default what 2.2 GB hold, at most 256.
        overlap: voxels over which neighbouring tiles share; by default as far as the network reaches.
        batch_size: tiles that the network sees at once.
        measured_only: write nothing outside the measured part of Fourier space, so that nothing is filled in.
        tilt_range: degrees, '[-60, 60]', or a file that tells them: .tlt, .rawtlt, .mdoc, .aln, Warp's .xml or
            .tomostar, RELION's .star of a tilt series; by default one of the tomogram's name beside it, or what the
            star file names.
        tomo_type: of a copick project's tomograms; results go to its overlay, or --output, as TYPE-denoised.
        devices: GPUs, or processes on a machine without, that share the tomograms.
        nodes: machines that share the tomograms, started by the cluster as for a training.
        dry_run: only print what would be done.
        overwrite: replace existing results.

    Yields:
        What it runs on and what it wrote.

    Raises:
        CryodenError: the input cannot be used, or some of the tomograms could not be denoised.
    """
    if devices < 1 or nodes < 1:
        raise CryodenError(f"devices {devices}, nodes {nodes}: each must be at least 1")
    tilts = read_tilts(tilt_range) if isinstance(tilt_range, str) else tilt_range
    settings = Settings(contrast, voxel_size, rescale, augment, tile, overlap, batch_size, measured_only, tilts)
    jobs, folder, star = _jobs(inputs, output, halves, tomo_type)
    check_jobs([*jobs, *([star.job] if star else [])], folder, pictures=preview)
    if star is not None:
        check_star(star.target, overwrite=overwrite)
    if folder is None:
        format_of(jobs[0].outputs[0])
        check_output(jobs[0].outputs[0], overwrite=True)  # what is there may be done already
    looked_at = _first_that_opens(jobs, voxel_size)
    model, why = (model, "") if model else _nearest(looked_at)
    checkpoint = find_checkpoint(model)
    with loading():  # when all is refused that can be at a look, since torch takes seconds
        from cryoden.checkpoint import import_module_of_networks, load_denoiser
        from cryoden.hardware import choose_device, keep_freed_memory, require_devices
        from cryoden.inference.engine import Engine
        from cryoden.inference.quality import QUALITY, read_quality
        from cryoden.inference.runner import Runner, one_by_one
    device, reason = choose_device()
    require_devices(devices, device)
    kept = device.type == "cpu" and not dry_run and keep_freed_memory()
    import_module_of_networks(module)
    engine = Engine.of(load_denoiser(model), device)
    alone = devices * nodes == 1
    # others run all this, too; whoever is alone is the first, whatever a cluster's shell says
    first = alone or all(os.environ.get(rank, "0") == "0" for rank in ("LOCAL_RANK", "NODE_RANK"))
    if first:
        used = f"in {str(engine.precision).removeprefix('torch.')}{', keeping freed memory' * kept}"
        many = "" if alone else f", {devices * nodes} processes"
        name = model if model in shipped_models() else checkpoint
        yield f"model {name}{why} on {device} ({reason}), {used}{many}"
        if len(jobs) > 1 or halves:
            yield from (f"  {' + '.join(map(str, job.inputs))} -> {job.average or job.outputs[0]}" for job in jobs)
    quality = Path(output, QUALITY) if output and any(job.average for job in jobs) else None
    if quality:
        read_quality(quality)  # to be refused now, not after an hour, if it is another's
    runner = Runner(engine, settings, overwrite, float16, preview, folder is not None, model, quality)
    if dry_run:
        failed = yield from one_by_one(runner, jobs, dry_run=True)
    elif alone:
        failed = yield from one_by_one(runner, jobs)
    else:
        from cryoden.inference.distribute import together  # with Lightning, which one device does without

        failed = together(runner, jobs, devices, nodes)
    if star is not None and first and not dry_run:
        done = {row: job for row, job in star.rows.items() if runner.is_done(job)}
        if done:
            write_star(star.path, star.target, done)
            yield f"wrote {star.target}"
    if failed and first:
        rest = "" if failed == len(jobs) else "; the rest are done" if not dry_run else "; the rest could be done"
        raise CryodenError(f"{failed} of {len(jobs)} tomograms failed, as told above{rest}")


@dataclass(frozen=True)
class _Star:
    """A table of tomograms, where it is written again, and the jobs of its rows."""

    path: Path
    target: Path
    rows: dict[int, Job]

    @property
    def job(self) -> Job:
        """The writing of the table, for the gate that all jobs pass."""
        return Job(str(self.path), (self.path,), (self.target,))


def _first_that_opens(jobs: Sequence[Job], voxel_size: float | None) -> VolumeFile:
    """The first tomogram that can be read: of many, those that cannot are told of in their turn.

    Raises:
        CryodenError: None can; what is wrong with the first.
    """
    wrong: list[CryodenError] = []
    for job in jobs:
        try:
            return look_at(job.inputs[0], voxel_size or job.voxel_size)
        except CryodenError as error:
            wrong.append(error)
    raise wrong[0]


def _nearest(file: VolumeFile) -> tuple[str, str]:
    """The name of the model that comes with cryoden for tomograms like this one, and why it is that."""
    if not file.voxel_size > 0:
        raise CryodenError(
            f"{file.path}: has no voxel size, by which a model is chosen; give --voxel-size, or a --model"
        )
    model = nearest_model(file.voxel_size)
    way = "" if suits(file.voxel_size, model.voxel_size) else ", beyond 10 % with --rescale"
    return model.name, f" (trained at {model.voxel_size:g} Å, the nearest to {file.voxel_size:.4g} Å{way})"


def _jobs(
    inputs: Sequence[str], output: str | None, halves: bool, tomo_type: str | None
) -> tuple[list[Job], Path | None, _Star | None]:
    """What is to be done, the folder of the results unless each was named, and the star file it came from."""
    projects = [Path(word) for word in inputs if word.endswith(".json")]
    if projects or tomo_type is not None:
        if len(inputs) != 1 or not projects or halves:
            raise CryodenError("a copick project's .json is given alone, with --tomo-type and without --halves")
        jobs, folder = copick_jobs(projects[0], tomo_type, Path(output) if output else None)
        return jobs, folder, None
    if output is None:
        if len(inputs) != 2 or halves:
            names = f"{len(inputs)} name{'s' * (len(inputs) > 1)}{' and --halves' * halves}"
            raise CryodenError(
                f"{names} without --output: give IN.mrc OUT.mrc, or any number of files with --output FOLDER"
            )
        path, result = map(Path, inputs)
        return [Job(str(path), (path,), (result,))], None, None
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise CryodenError(f"--output {folder} is a file; with --output all names are input, and this is their folder")
    stars = [Path(word) for word in inputs if word.endswith(".star")]
    if stars:
        if len(inputs) > 1:
            raise CryodenError(f"{stars[0]} stands for all its tomograms: give it alone")
        rows, told = star_jobs(stars[0], folder)
        for line in told:
            print(line, file=sys.stderr)
        return list(rows.values()), folder, _Star(stars[0], folder / stars[0].name, rows)
    files = find_files(inputs, folder)
    other = passed_over(inputs, folder)
    if other:
        more = f" and {len(other) - _NAMED} more" if len(other) > _NAMED else ""
        named = ", ".join(map(str, other[:_NAMED]))
        count = f"{len(other)} file{'s' * (len(other) > 1)}"
        print(
            f"passed over {count} that {'are' if len(other) > 1 else 'is'} no {SEARCHED}: {named}{more}",
            file=sys.stderr,
        )
    if not halves:
        return single_jobs(files, folder), folder, None
    jobs, others = half_jobs(files, folder)
    for path in others:
        print(f"{path}: no half, left out", file=sys.stderr)
    return jobs, folder, None
