"""The verb `compare`: runs in; tables, figures, numbers and one page of verdict out."""

from collections.abc import Iterator
from pathlib import Path

from cryoden.console import loading
from cryoden.errors import CryodenError
from cryoden.files import check_folder, find_experiment
from cryoden.inference.jobs import find_files, half_jobs
from cryoden.models import find_checkpoint


def compare(
    runs: list[str],
    output: str = "comparison",
    *,
    data: str | None = None,
    halves: str | None = None,
    module: str | None = None,
    volumes: int = 200,
    sensitivity: int = 0,
    matching: int = 0,
    overwrite: bool = False,
) -> Iterator[str]:
    """Compare trained models with each other and with classical filters on the same test volumes.

    Writes results.json (every number), tables.md and tables.csv (the thesis's numbers beside), figures as PNG and SVG,
    and report.html, one page that says in plain words which model to trust, and how far. Each filter is set on
    validation volumes. A model that cannot be used is reported and left out.

    Args:
        runs: runs' folders, checkpoints (.ckpt) or weights (.safetensors).
        output: the folder to write to.
        data: a YAML file whose `data:` says what to test on, such as experiments/quick.yaml; by default the config.yaml
            of the first run that has one. A run may be anyone's, so that its config.yaml imports nothing that was not
            imported before, and its cache is left alone.
        halves: a folder of half tomograms of yours (_EVN/_ODD, _half1/_half2, even/ and odd/) to compare on instead of
            test volumes: each half judges the answers to the other, see docs/halves.md. Only report.html, its curves
            and quality.csv are written.
        module: a module of yours to import first, such as mine for mine.py: the runs may be of its networks and data,
            and its measures are shown.
        volumes: how many of the test volumes to take, evenly spaced over them.
        sensitivity: test volumes at each point of curves against signal-to-noise ratio (0.1 to 5) and tilt range (±40°
            to ±70°); 0 draws none.
        matching: test scenes in which particles are looked for by template matching, before and after denoising, and as
            many validation scenes that set its thresholds; only where the data are scenes. 0 looks for none.
        overwrite: replace the files of an earlier comparison.

    Yields:
        What it does and finds.

    Raises:
        CryodenError: no model can be used, or there is nothing to test on, or the output exists.
    """
    folder = Path(output)
    check_folder(folder, overwrite=overwrite)
    for name, number, least in (("volumes", volumes, 1), ("sensitivity", sensitivity, 0), ("matching", matching, 0)):
        if number < least:
            raise CryodenError(f"{name}: got {number}; it must be at least {least}")
    if halves is not None:
        for name, given in (("data", data), ("sensitivity", sensitivity), ("matching", matching)):
            if given:
                raise CryodenError(f"{name} needs volumes whose truth is known, and halves have none: leave one out")
    missing: dict[str, str] = {}
    for run in runs:
        try:
            find_checkpoint(run)
        except CryodenError as error:
            missing[run] = str(error)
    if len(missing) == len({*runs}):
        yield from (f"left out: {run}: {why}" for run, why in missing.items())
        raise CryodenError("none of the runs can be used, so there is nothing to compare; see above")
    if data is not None:
        find_experiment(data)
    jobs = [] if halves is None else half_jobs(find_files([halves]), folder)[0]
    with loading():  # when all is refused that can be at a look, since torch and Lightning take seconds
        from cryoden.checkpoint import import_module_of_networks
        from cryoden.commands.comparison import on_halves, on_volumes
    import_module_of_networks(module)
    if halves is None:
        yield from on_volumes(runs, data, folder, volumes=volumes, sensitivity=sensitivity, matching=matching)
    else:
        yield from on_halves(runs, halves, jobs, folder)
