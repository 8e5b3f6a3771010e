"""The verb `simulate`."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoden.data.base import check_volumes
from cryoden.data.dataset import item_generator
from cryoden.errors import CryodenError
from cryoden.files import check_folder, made_folder, refuse_existing, write_text
from cryoden.hardware import choose_device
from cryoden.particles import Particle, Structure, check_distinct, check_names, load_particle
from cryoden.pictures import save_figure, slice_figure
from cryoden.simulation.degradation import (
    Degradation,
    MissingWedge,
    Parameters,
    apply_all,
    default_degradation,
    sample_all,
)
from cryoden.simulation.density import check_fits, clean_volume
from cryoden.simulation.presets import PRESETS, PresetName
from cryoden.simulation.rotation import random_rotation
from cryoden.simulation.scene import Scene, SceneContents, SceneVolume
from cryoden.simulation.tables import one_word, write_relion_table, write_shrec_table
from cryoden.simulation.tilt_series import TiltSeries, TiltSeriesDegradation
from cryoden.volume import Volume, write_volume

_BOX = 64
_SHAPE = (128, 256, 256)
_ALWAYS = ("clean.mrc", "degraded.mrc", "degradation.json", "slices.png")
_OF_SCENES = ("labels.mrc", "classes.mrc", "particles.star", "particle_locations.txt")
_OF_TILT_SERIES = ("EVN.mrc", "ODD.mrc", "half1.mrc", "half2.mrc", "noisefree.mrc", "tilts.st", "tilts.tlt")


def simulate(
    entries: list[str],
    output: str = "simulated",
    copies: int = 1,
    box: int | None = None,
    voxel_size: float = 6.0,
    resolution: float = 12.0,
    shape: tuple[int, int, int] | None = None,
    contents: SceneContents | None = None,
    preset: PresetName | None = None,
    degradation: list[Degradation] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    **reading: Any,
) -> Iterator[str]:
    """Write clean and degraded volumes as MRC files: particles in random orientations, or crowded scenes.

    Every volume gets NAME_clean.mrc, NAME_degraded.mrc, what was drawn for it (NAME_degradation.json) and a picture,
    NAME_slices.png. With `shape` or `contents` it is
    a scene of all entries, and there are also instance and class labels (NAME_labels.mrc, NAME_classes.mrc), and the
    particles as a RELION star file (NAME_particles.star) and in SHREC's layout (NAME_particle_locations.txt). Where the
    degradation is a TiltSeriesDegradation, tomograms are as a lab gets them, protein dark, and there are also half
    tomograms, of even and odd tilts (NAME_EVN.mrc, NAME_ODD.mrc) and of the first and second half of each exposure
    (NAME_half1.mrc, NAME_half2.mrc), the tomogram of images without noise (NAME_noisefree.mrc), and the tilt series
    with its angles (NAME_tilts.st, NAME_tilts.tlt). Train on the output with PairDataModule; denoise its halves with
    `cryoden denoise --halves`.

    Args:
        entries: PDB entries ("1u6g"), structure or map files, or phantoms ("phantom:7").
        output: the folder to write to.
        copies: orientations of each particle, or how many scenes.
        box: voxels along each side of a single particle's volume, by default 64; a scene has a shape instead.
        voxel_size: angstrom.
        resolution: angstrom; a wave of this period keeps 1/e of its height.
        shape: voxels along z, y, x of a scene; (128, 256, 256) where only its contents are given.
        contents: what is in a scene: --contents.occupancy 0.2 and so on; 4 to 8 particles where only a shape is given.
        preset: "realistic" gives shape, contents and degradation where they are not given: crowded tomograms, each of
            another kind.
        degradation: the steps from clean to degraded; by default noise at snr 1.3, then a ±60° missing wedge.
        seed: of orientations, places and noise.
        overwrite: replace existing files.
        reading: see load_particle.

    Yields:
        Each file that was written.

    Raises:
        CryodenError: a particle cannot be had or does not fit, is given twice, is called like another, or a file
            exists.
    """
    if copies < 1:
        raise CryodenError(f"copies: got {copies}; allowed is a whole number from 1 up")
    check_distinct(entries=entries)
    particles = [load_particle(entry, **reading) for entry in entries]
    files = _file_names(entries, particles)
    for particle in particles:
        if isinstance(particle, Structure):
            yield particle.summary()
    if preset is not None:
        given = PRESETS[preset](voxel_size, shape)
        shape, contents = given.shape, contents or given.contents
        degradation = [given.degradation] if degradation is None else degradation
    if box is not None and (shape or contents):
        raise CryodenError(f"box: got {box} for a scene, which has none; leave it out, or give shape in its place")
    box = _BOX if box is None else box
    steps = default_degradation() if degradation is None else degradation
    if any(isinstance(step, MissingWedge) and step.tilt_axis != "y" for step in steps):
        raise CryodenError("MissingWedge.tilt_axis: got x; files have y, and no other can be told beside them")
    series = steps[0] if len(steps) == 1 and isinstance(steps[0], TiltSeriesDegradation) else None
    check_volumes(steps, voxel_size)
    voxels = math.prod(shape or _SHAPE) if shape or contents else len(particles) * box**3
    check_folder(output, overwrite=True, size=2 * 4 * voxels * copies)  # what is in it stays
    scene = None
    if shape or contents:
        scene = Scene(shape or _SHAPE, voxel_size, resolution, particles, contents or SceneContents())
        for name in scene.class_names:
            one_word(name)  # now, since tables need it and come last
        names = [f"scene_{number}" for number in range(copies)]
    else:
        for particle in particles:
            check_fits(particle, box, voxel_size, resolution)
        names = [f"{file}_{copy}" for file in files for copy in range(copies)]
    generators = [item_generator([seed], 0, index) for index in range(len(names))]
    for kind in (*_ALWAYS, *(_OF_SCENES if scene else ()), *(_OF_TILT_SERIES if series else ())):
        for name in names:
            refuse_existing(Path(output, f"{name}_{kind}"), overwrite=overwrite)
    device = torch.device("cpu")
    if series:
        device, reason = choose_device()
        yield f"tilt series on {device} ({reason})"
    with made_folder(output):
        for index, (name, generator) in enumerate(zip(names, generators, strict=True)):
            writer = _Writer(Path(output), name, voxel_size, overwrite)
            if scene:
                made = scene.make(generator)
                yield from writer.scene(made)
                density, title, background = made.density, f"scene {index}", made.background
            else:
                particle = particles[index // copies]
                rotation = random_rotation(generator).numpy()
                density, title = clean_volume(particle, rotation, box, voxel_size, resolution), particle.name
                background = None
            clean = torch.from_numpy(density).to(device)
            imaged = clean if background is None else clean + torch.from_numpy(background).to(device)
            parameters = sample_all(steps, generator)
            if series:
                tomograms = series.tomograms(imaged, parameters[0])
                drawn, angles = series.drawn(parameters[0]), tomograms.series.angles
                told = {"tilt_range": [angles[0], angles[-1]], "angles": angles, **asdict(drawn)}
                yield _in_words(name, drawn, angles)
                yield from writer.series(tomograms.series)
                halves = {
                    "EVN": tomograms.even,
                    "ODD": tomograms.odd,
                    "half1": tomograms.first,
                    "half2": tomograms.second,
                    "noisefree": tomograms.noise_free,
                }
                yield from writer.volumes(halves)
                degraded, shown = tomograms.full, -tomograms.full
            else:
                degraded = shown = apply_all(steps, imaged[None, None], [parameters])[0, 0]
                told = _told(steps, parameters)
            yield writer.told(told)
            yield from writer.volumes({"degraded": degraded, "clean": clean})
            # gold would leave nothing else to see
            yield writer.picture({"degraded": shown, "clean": clean.clamp(max=1)}, title)


def _in_words(name: str, drawn: TiltSeriesDegradation, angles: Sequence[float]) -> str:
    """One line about a tilt series."""
    return (
        f"{name}: {len(angles)} images from {angles[0]:.1f} to {angles[-1]:.1f} degrees, "
        f"{drawn.exposure.dose:.0f} electrons per Å², {drawn.optics.defocus:.1f} µm under focus, in "
        f"{drawn.exposure.thickness:.0f} nm of ice"
    )


def _told(steps: Sequence[Degradation], parameters: Sequence[Parameters]) -> dict[str, Any]:
    """What was drawn for each step, and between which tilts about y the volume was measured; None: all of it was."""
    drawn = list(zip(steps, parameters, strict=True))
    ranges = [(p["tilt_min"], p["tilt_max"]) for step, p in drawn if isinstance(step, MissingWedge)]
    series = [step.angles(p) for step, p in drawn if isinstance(step, TiltSeriesDegradation)]
    lowest, highest = zip(*ranges, *((angles[0], angles[-1]) for angles in series), (-90.0, 90.0), strict=True)
    return {
        "tilt_range": [max(lowest), min(highest)] if ranges or series else None,
        "steps": [{"step": type(step).__name__, **p} for step, p in drawn],
    }


def _file_names(entries: Sequence[str], particles: Sequence[Particle]) -> list[str]:
    """What each particle's files begin with, and by what the tables and labels of a scene tell it from others.

    Raises:
        CryodenError: two would have the same.
    """
    files = [Path(particle.name).name.split(".")[0].replace(":", "-") for particle in particles]
    check_names(entries, files)
    return files


@dataclass(frozen=True)
class _Writer:
    """Writes what belongs to one volume; each method tells the names of the files."""

    folder: Path
    name: str
    voxel_size: float
    overwrite: bool

    def volumes(self, volumes: dict[str, Tensor]) -> Iterator[str]:
        for kind, data in volumes.items():
            yield self._write(kind, data.cpu().numpy())

    def scene(self, scene: SceneVolume) -> Iterator[str]:
        counts = {name: sum(p.particle == name for p in scene.placements) for name in scene.class_names[1:]}
        told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        yield f"{self.name}: {told or 'nothing'}; particles fill {scene.occupancy:.1%} of the ice"
        # float32 holds whole numbers up to 16 million exactly, and every program reads it
        yield self._write("labels", scene.labels.astype(np.float32))
        yield self._write("classes", scene.classes.astype(np.float32))
        path = self._path("particles.star")
        write_relion_table(
            path, scene.placements, tomogram=self.name, class_names=scene.class_names, overwrite=self.overwrite
        )
        yield str(path)
        path = self._path("particle_locations.txt")
        write_shrec_table(path, scene.placements, overwrite=self.overwrite)
        yield str(path)

    def told(self, drawn: dict[str, Any]) -> str:
        path = self._path("degradation.json")
        write_text(path, json.dumps(drawn, indent=1) + "\n", overwrite=self.overwrite)
        return str(path)

    def series(self, series: TiltSeries) -> Iterator[str]:
        yield self._write("tilts", series.counts.cpu().numpy(), suffix=".st", images=True)
        path = self._path("tilts.tlt")
        write_text(path, "".join(f"{angle:7.2f}\n" for angle in series.angles), overwrite=self.overwrite)
        yield str(path)

    def picture(self, volumes: dict[str, Tensor], title: str) -> str:
        path = self._path("slices.png")
        arrays = {kind: volume.cpu().numpy() for kind, volume in volumes.items()}
        save_figure(slice_figure(arrays, self.voxel_size, title), path, overwrite=self.overwrite)
        return str(path)

    def _write(self, kind: str, data: NDArray[np.float32], suffix: str = ".mrc", images: bool = False) -> str:
        path = self._path(kind + suffix)
        volume = Volume(data, self.voxel_size)
        write_volume(path, volume, overwrite=self.overwrite, label=f"cryoden simulate {kind}", images=images)
        return str(path)

    def _path(self, rest: str) -> Path:
        return self.folder / f"{self.name}_{rest}"
