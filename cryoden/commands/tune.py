"""The verb `tune`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from cryoden.console import loading
from cryoden.errors import CryodenError
from cryoden.files import check_folder, check_output
from cryoden.inference.star import find_halves
from cryoden.models import find_checkpoint

# What a tuning leaves in its folder from its first epoch on, and from its first checkpoint on.
_BEGUN = {"scenes", "log", "best.safetensors"}
_LAST = "last.ckpt"
_GOES_ON = {*_BEGUN, _LAST, "report.html", "quality.csv", "figures"}


def tune(
    inputs: list[str],
    *,
    output: str,
    model: str | None = None,
    halves: bool = False,
    tilt_range: tuple[float, float] | str | None = None,
    from_scratch: bool = False,
    contrast: Literal["auto", "bright", "dark"] = "auto",
    voxel_size: float | None = None,
    epochs: int = 20,
    seed: int = 0,
    overwrite: bool = False,
) -> Iterator[str]:
    """Tune a model on half tomograms of your own; what it learns is kept only where they say that it helps.

    cryoden tune tomograms --halves --output mine.safetensors, where tomograms is a folder, or a RELION 5
    tomograms.star.

    A part of each tomogram is held out. There each half judges what was made of the other, before and after: if the
    tuned model is no nearer to what both show, mine.safetensors is the model that it started from. Both stand beside
    each other in mine/report.html and mine/quality.csv. Stopped, the same command goes on where it was; with other
    halves, another model or other settings, except for more epochs, it refuses to.

    Args:
        inputs: files, folders or 'patterns*' of half tomograms; or one RELION 5 tomograms.star. Where
            TOMOGRAM_mask.mrc lies beside the halves, it is learnt and judged where that is above 0.
        output: the model that is written, a name that ends in .safetensors. Of mine.safetensors, all else goes to the
            folder mine, which must hold nothing but what this very tuning left there.
        model: what to start from: a run's folder, a checkpoint, weights, or the name of a model that comes with
            cryoden; by default the one of these that is nearest in voxel size.
        halves: pair half tomograms by name (_EVN/_ODD, _half1/_half2, even/ and odd/); there is no other way.
        tilt_range: degrees, '[-60, 60]', or a file that tells them: .tlt, .rawtlt, .mdoc, .aln, Warp's .xml or
            .tomostar, RELION's .star of a tilt series; by default one of the tomogram's name beside it, or what the
            star file names.
        from_scratch: start with random weights, of the same network; they are kept whatever comes out.
        contrast: what protein looks like; auto tells from the voxels.
        voxel_size: angstrom, where headers have none or a wrong one.
        epochs: of 50 steps, at most: it ends when the score has not improved for 6.
        seed: of everything random.
        overwrite: replace an existing model and files in its folder, and begin anew.

    Yields:
        What it runs on, how the score goes, and what was kept.

    Raises:
        CryodenError: the halves or the model cannot be used, or the output exists, or its folder is another's.
    """
    target = Path(output)
    if target.suffix != ".safetensors":
        raise CryodenError(f"output {output}: a model is written as safetensors; give a name that ends in .safetensors")
    if not halves:
        raise CryodenError("tune learns one half from the other: give --halves, by which they are paired by name")
    if epochs < 1:
        raise CryodenError(f"epochs: got {epochs}; allowed is a whole number from 1 up")
    check_output(target, overwrite=overwrite)
    used = [path for job in find_halves(inputs) for path in job.inputs]
    used += [find_checkpoint(model)] if model else []
    used += [Path(tilt_range)] if isinstance(tilt_range, str) else []
    _check_folder(target, used, overwrite=overwrite)
    with loading():
        from cryoden.commands.tuning import Tuning
    settings = {"tilt_range": tilt_range, "contrast": contrast, "voxel_size": voxel_size, "seed": seed}
    tuning = Tuning(inputs, target, model, epochs, from_scratch=from_scratch, overwrite=overwrite, settings=settings)
    yield from tuning.run()


def _check_folder(target: Path, used: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse a name whose folder holds what is not this tuning's to replace.

    Args:
        target: the model that is written.
        used: what it is made of; no flag lets that be replaced.
        overwrite: replace all else.

    Raises:
        CryodenError: it does.
    """
    folder = target.with_suffix("")
    place = folder.resolve()
    for path in used:
        there = path.resolve()
        if place == there or place in there.parents or there in place.parents:
            raise CryodenError(
                f"output {target}: report and checkpoints go to the folder {folder}, where the input {path} lies; give "
                "another name"
            )
    check_folder(folder, overwrite=True)
    if overwrite or not folder.is_dir():
        return
    own = _GOES_ON if (folder / _LAST).is_file() else _BEGUN
    others = sorted(each.name for each in folder.iterdir() if each.name not in own and not each.name.startswith("."))
    if others:
        raise CryodenError(
            f"output {target}: report and checkpoints go to the folder {folder}, which holds {others[0]}, of no tuning "
            "that could be gone on with; give another name or allow overwriting (--overwrite)"
        )
