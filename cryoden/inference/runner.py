"""Many tomograms one after another: what is done is skipped, and what fails does not stop the rest."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from cryoden.errors import CryodenError
from cryoden.files import check_output, claimed, made_folder, refuse_existing
from cryoden.inference.begun import scratch
from cryoden.inference.denoise import plan_file, with_tilts, write_denoised
from cryoden.inference.engine import Engine
from cryoden.inference.engine import Progress as TileProgress
from cryoden.inference.halves import average, check_contrasts, check_halves, see_halves
from cryoden.inference.jobs import Job, picture_of
from cryoden.inference.memory import peak_memory
from cryoden.inference.origin import Origin
from cryoden.inference.plan import Plan
from cryoden.inference.quality import Quality, judge, quality_table, reading, write_quality
from cryoden.inference.settings import Settings
from cryoden.metrics.halves import Halves
from cryoden.volume import Volume, look_at, open_volume, write_volume

_MEAN = ", mean of halves"


@dataclass(frozen=True, eq=False)
class Runner:
    """How all tomograms of a run are denoised.

    Attributes:
        engine: The trained model and where it runs.
        settings: The same for all.
        overwrite: Replace existing results.
        float16: Write mode 12.
        preview: Write a picture beside each result.
        make_folders: Make the folders of the results where they are missing.
        name: Of the model, for tables.
        quality: The table of what halves tell of the results; None where none is written.
    """

    engine: Engine
    settings: Settings
    overwrite: bool = False
    float16: bool = False
    preview: bool = False
    make_folders: bool = False
    name: str = "model"
    quality: Path | None = None

    def run(self, job: Job) -> Iterator[str]:
        """Denoises one tomogram, or its two halves and their average, when no other process is at it any more.

        Yields:
            Lines that tell what was done.

        Raises:
            CryodenError: It cannot be done; what exists is as it was.
        """
        with ExitStack() as held:
            for place in sorted(job.results):  # in one order, so that no two wait for each other
                held.enter_context(self._folder(place))
                if place.parent.is_dir():
                    held.enter_context(claimed(place))
            yield from self._for(job)._make(job)  # which says so where there is no folder

    def _folder(self, place: Path) -> AbstractContextManager[None]:
        """The folder of a result, made if that was asked for."""
        return made_folder(place.parent) if self.make_folders else nullcontext()

    def is_taken(self, job: Job) -> bool:
        """Whether another process is at a job right now, as far as can be told: `run` tells why it cannot."""
        with ExitStack() as held, suppress(CryodenError):
            places = [place for place in sorted(job.results) if place.parent.is_dir()]
            return not all(held.enter_context(claimed(place, wait=False)) for place in places)
        return False

    def _for(self, job: Job, *, tilts: bool = True) -> Runner:
        """This runner with what is told of one tomogram: its voxel size, and its tilts."""
        settings = replace(self.settings, voxel_size=self.settings.voxel_size or job.voxel_size)
        return replace(self, settings=with_tilts(settings, job.inputs[0], job.tilts) if tilts else settings)

    def _make(self, job: Job) -> Iterator[str]:
        if not self.overwrite and self.is_done(job):
            yield f"{job.name}: done already, {job.results[-1]}"
            return
        plans, halves = self._plan(job)
        for path, output, plan in zip(job.inputs, job.outputs, plans, strict=True):
            if not self.overwrite and self._is_whole(output, [path]):
                continue
            yield f"{path}: {plan.describe()}"
            with _progress(path.name) as progress:
                told = write_denoised(
                    self.engine,
                    plan,
                    path,
                    output,
                    overwrite=self._may_replace(output, [path]),
                    float16=self.float16,
                    preview=self.preview,
                    progress=progress,
                )
            yield f"wrote {output}" + (f" and {picture_of(output)}" if self.preview else "")
            yield from (f"  {line}" for line in told)
        if halves is not None:
            yield from self._finish_halves(job, plans, halves)

    def dry_run(self, job: Job) -> Iterator[str]:
        """What `run` would do, in lines; nothing is written.

        Raises:
            CryodenError: It could not be done.
        """
        if not self.overwrite and self.is_done(job):
            yield f"{job.name}: done already, {job.results[-1]}"
            return
        for path, output, plan in zip(job.inputs, job.outputs, self._for(job)._plan(job)[0], strict=True):
            memory = peak_memory(self.engine.denoiser.generator, plan.settings.batch_size, plan.network_tile)
            yield f"{path} -> {output}"
            yield f"  {plan.describe()}; {memory / 1e9:.2g} GB of memory for the network on {self.engine.device}"
        if job.average is not None:
            yield f"  and their average -> {job.average}"

    def _plan(self, job: Job) -> tuple[list[Plan], Halves | None]:
        """A plan for each input; and two halves, which must suit each other."""
        plans = []
        for path, output in zip(job.inputs, job.outputs, strict=True):
            place, overwrite = output, self._may_replace(output, [path])
            if self.make_folders and not output.parent.is_dir():  # room and rights are those of the nearest folder
                folder = next(each for each in output.absolute().parents if each.is_dir())
                place, overwrite = folder / output.name, True
            wanted = {"overwrite": overwrite, "float16": self.float16, "preview": self.preview}
            plans.append(plan_file(self.engine, path, place, self.settings, **wanted))
        if len(plans) == 2:
            check_halves(plans[0].volume, plans[1].volume, job.inputs)
            remedy = ", and give --contrast bright or --contrast dark"
            check_contrasts([plan.contrast for plan in plans], job.inputs, remedy)
        if job.average is None:
            return plans, None
        if self.preview:
            refuse_existing(picture_of(job.average), overwrite=self._may_replace(job.average, job.inputs))
        return plans, see_halves(plans[0].volume, plans[1].volume, job.inputs)

    def _finish_halves(self, job: Job, plans: list[Plan], halves: Halves) -> Iterator[str]:
        assert job.average is not None
        first, second = (open_volume(path) for path in job.outputs)
        size = first.data.size * (8 + (2 if self.float16 else 4))
        check_output(job.average, overwrite=self._may_replace(job.average, job.inputs), size=size)
        result = scratch(job.average.parent, first.data.shape)
        average(first.data, second.data, result)
        contrast = f"{plans[0].contrast}{_MEAN}"
        denoised = replace(plans[0].volume, data=result)
        given = plans[0].volume.data, plans[1].volume.data
        found = [] if halves.flaw else judge(halves, given, [(self.name, (first.data, second.data))])
        size, time = (sum(each) for each in zip(*(plan.seen for plan in plans), strict=True))
        key = self.engine.key(self.settings, contrast, float16=self.float16)
        origin = Origin.of(job.inputs, key, (size, time))
        if self.quality is not None:  # before the average, by which the next run knows that nothing is left to do
            name = job.average.absolute().relative_to(self.quality.parent.absolute())  # others may be called alike
            write_quality(self.quality, str(name), found)
        write_volume(
            job.average,
            denoised,
            overwrite=True,
            label=(origin.label, self.engine.label(self.settings, contrast)),
            dtype=np.float16 if self.float16 else np.float32,
        )
        yield f"wrote {job.average}, the average of the two"
        if halves.flaw:
            yield f"no score from the halves: {halves.flaw}"
        else:
            yield from quality_table(halves, found)
            yield from reading(found, str(job.average))
        if found and self.quality is not None:
            yield f"wrote {self.quality}"
        if self.preview:
            self._show(job.average, plans, denoised, found)
            yield f"wrote {picture_of(job.average)}"

    def _show(self, average_path: Path, plans: list[Plan], denoised: Volume, found: Sequence[Quality]) -> None:
        """A picture of the averages of both halves, before and after."""
        from cryoden.inference.preview import write_preview  # with matplotlib, half a second that few need

        voxels = f"voxels of {denoised.voxel_size:.4g} Å, protein {plans[0].contrast}, mean of both halves"
        told = ", ".join(f"{each.method} {each.score.nrmse}" for each in found) or "unknown"
        title = f"{average_path.name}: {voxels}\n{self.engine.label(self.settings)}\nNRMSE by the halves: {told}"
        given = scratch(average_path.parent, denoised.data.shape)
        average(plans[0].volume.data, plans[1].volume.data, given)
        write_preview(picture_of(average_path), replace(denoised, data=given), denoised, title)

    def is_done(self, job: Job) -> bool:
        """Whether all results of a job exist as `run` would make them now."""
        try:
            runner = self._for(job, tilts=self.settings.measured_only)  # else they change nothing
        except CryodenError:
            return False
        halves = zip(job.outputs, job.inputs, strict=True)
        return all(runner._is_whole(output, [path]) for output, path in halves) and (
            job.average is None or runner._is_whole(job.average, job.inputs)
        )

    def _may_replace(self, output: Path, sources: Sequence[Path]) -> bool:
        """Whether a result may be written where one is: that is this run's own, or it was asked for."""
        return self.overwrite or self._is_done(output, sources)

    def _is_whole(self, output: Path, sources: Sequence[Path]) -> bool:
        """Whether a result exists, and its picture if one is wanted."""
        return self._is_done(output, sources) and not (self.preview and not picture_of(output).exists())

    def _is_done(self, output: Path, sources: Sequence[Path]) -> bool:
        """Whether a result exists that this very model made, in this very way, of these very files.

        Which contrast was found does not matter, where it is to be told from the voxels; nor does the version.
        """
        if not output.exists():
            return False
        try:
            origin = Origin.told_by(look_at(output).labels)
            contrasts = ("bright", "dark") if self.settings.contrast == "auto" else (self.settings.contrast,)
            kind = _MEAN if len(sources) == 2 else ""
            keys = [self.engine.key(self.settings, f"{each}{kind}", float16=self.float16) for each in contrasts]
            return origin is not None and origin.key in keys and origin.is_of(sources)
        except CryodenError:
            return False


def one_by_one(runner: Runner, jobs: Sequence[Job], *, dry_run: bool = False) -> Generator[str, None, int]:
    """Denoises all; of several, one that fails is told of, and the rest go on.

    Args:
        runner: How.
        jobs: Which.
        dry_run: Only tell what would be done.

    Yields:
        Lines that tell what was done.

    Returns:
        How many failed.

    Raises:
        CryodenError: The only one cannot be done.
    """
    failed = 0
    remaining = list(jobs)
    while remaining:
        # what another run is at comes last, when it is done
        free = (number for number, job in enumerate(remaining) if dry_run or not runner.is_taken(job))
        job = remaining.pop(next(free, 0))
        try:
            yield from runner.dry_run(job) if dry_run else runner.run(job)
        except CryodenError as error:
            if len(jobs) == 1:
                raise
            print(f"cryoden: error: {error}", file=sys.stderr)
            failed += 1
    return failed


class _Speed(ProgressColumn):
    """Tiles per second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.2f} tiles/s")


@contextmanager
def _progress(name: str) -> Iterator[TileProgress]:
    """A bar on a terminal, with tiles per second and the time left; elsewhere nothing."""
    # 100 columns hold all of it
    short = Column(max_width=36, no_wrap=True, overflow="ellipsis")
    columns = (
        TextColumn("{task.description}", table_column=short),
        BarColumn(bar_width=20),
        TextColumn("{task.completed}/{task.total} tiles"),
    )
    console = Console(stderr=True)
    with Progress(*columns, _Speed(), TimeRemainingColumn(), console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
