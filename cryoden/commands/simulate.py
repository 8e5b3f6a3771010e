"""The verb `simulate`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoden.batch import Specimen
from cryoden.data.dataset import ParticleDataset, VolumeDataset
from cryoden.data.scenes import SceneDataset
from cryoden.errors import CryodenError
from cryoden.files import write_text
from cryoden.hardware import choose_device
from cryoden.particles import load_particle
from cryoden.pictures import save_figure, slice_figure
from cryoden.simulation.degradation import Degradation, apply_all, default_degradation
from cryoden.simulation.density import check_fits
from cryoden.simulation.scene import Scene, SceneContents, SceneVolume
from cryoden.simulation.tables import write_relion_table, write_shrec_table
from cryoden.simulation.tilt_series import TiltSeries, TiltSeriesDegradation
from cryoden.volume import Volume, write_volume

_ALWAYS = ("clean.mrc", "degraded.mrc", "slices.png")
_OF_SCENES = ("labels.mrc", "classes.mrc", "particles.star", "particle_locations.txt")
_OF_TILT_SERIES = ("EVN.mrc", "ODD.mrc", "noisefree.mrc", "tilts.st", "tilts.tlt")


@dataclass(frozen=True)
class SceneSettings:
    """A crowded scene instead of a single particle; see cryoden.Scene.

    Args:
        shape: voxels along z, y, x.
        count: how many particles, a number or a range; or give `occupancy`.
        occupancy: the share of the ice that particles fill, such as 0.2, or a range.
        abundance: how frequent each entry is relative to the others; 1 for those that are not named.
        vesicles: closed membranes, a number or a range.
        vesicle_diameter: angstrom; a number or a range.
        fiducials: beads of gold, a number or a range.
        fiducial_diameter: angstrom; a number or a range.
        ice: angstrom; the thickness of the ice in the middle of the volume, between vacuum in z; null: all ice.
    """

    shape: tuple[int, int, int] = (128, 256, 256)
    count: int | tuple[int, int] | None = None
    occupancy: float | tuple[float, float] | None = None
    abundance: dict[str, float] | None = None
    vesicles: int | tuple[int, int] = 0
    vesicle_diameter: float | tuple[float, float] = (400.0, 1000.0)
    fiducials: int | tuple[int, int] = 0
    fiducial_diameter: float | tuple[float, float] = 100.0
    ice: float | None = None


def simulate(
    entries: list[str],
    output: str = "simulated",
    copies: int = 1,
    box: int = 64,
    voxel_size: float = 6.0,
    resolution: float = 12.0,
    scene: SceneSettings | None = None,
    degradation: list[Degradation] | None = None,
    structure_dir: str | None = None,
    assembly: str | None = None,
    hydrogens: bool = False,
    ligands: bool = True,
    seed: int = 0,
    overwrite: bool = False,
) -> Iterator[str]:
    """Write clean and degraded volumes as MRC files: particles in random orientations, or crowded scenes.

    Every volume gets NAME_clean.mrc, NAME_degraded.mrc and a picture, NAME_slices.png. With `scene` there are also
    instance and class labels (NAME_labels.mrc, NAME_classes.mrc), and the particles as a RELION star file
    (NAME_particles.star) and in SHREC's layout (NAME_particle_locations.txt). Where the degradation is a
    TiltSeriesDegradation, tomograms are as a lab gets them, protein dark, and there are also half tomograms
    (NAME_EVN.mrc, NAME_ODD.mrc), the tomogram of images without noise (NAME_noisefree.mrc), and the tilt series with
    its angles (NAME_tilts.st, NAME_tilts.tlt). Train on the output with PairDataModule; denoise its halves
    with `cryoden denoise --halves`.

    Args:
        entries: PDB entries ("1u6g"), structure or map files, or phantoms ("phantom:7").
        output: the folder to write to.
        copies: orientations of each particle; with `scene`, how many scenes.
        box: voxels along each side; a scene has a shape instead.
        voxel_size: angstrom.
        resolution: angstrom; the density holds no finer detail.
        scene: a crowded scene of all entries instead of a volume for each: --scene.shape, --scene.occupancy and so on.
        degradation: the steps from clean to degraded; by default noise at snr 1.3, then a ±60° missing wedge.
        structure_dir: a folder searched for structure files first; default: $CRYODEN_STRUCTURE_DIR.
        assembly: null for the deposited model, or the name of a biological assembly, such as "1".
        hydrogens: keep hydrogen atoms.
        ligands: keep ligands.
        seed: of orientations, places and noise.
        overwrite: replace existing files.

    Yields:
        Each file that was written.

    Raises:
        CryodenError: a particle cannot be had or does not fit, two would be written to one file, or a file exists.
    """
    if copies < 1:
        raise CryodenError(f"copies: got {copies}; allowed is a whole number from 1 up")
    folder = Path(structure_dir) if structure_dir else None
    particles = [
        load_particle(entry, structure_dir=folder, assembly=assembly, hydrogens=hydrogens, ligands=ligands)
        for entry in entries
    ]
    steps = default_degradation() if degradation is None else degradation
    series = steps[0] if len(steps) == 1 and isinstance(steps[0], TiltSeriesDegradation) else None
    for step in steps:
        step.check_voxel_size(voxel_size)
    randomness: dict[str, Any] = {"seed": [seed], "fresh": False, "degrade": False}
    specimens: VolumeDataset
    if scene is None:
        for particle in particles:
            check_fits(particle, box, voxel_size, resolution)
        specimens = ParticleDataset(
            particles, copies, steps, box=box, voxel_size=voxel_size, resolution=resolution, **randomness
        )
        files = [_file_name(particle.name) for particle in particles]
        for number, file in enumerate(files):
            first = files.index(file)
            if first < number:
                raise CryodenError(
                    f"entries: {entries[first]} and {entries[number]} would both be written to {file}_0_clean.mrc; "
                    "rename a file, or ask for more --copies of one"
                )
        names = [f"{file}_{copy}" for file in files for copy in range(copies)]
    else:
        contents = {name: value for name, value in vars(scene).items() if name != "shape"}
        made = Scene(scene.shape, voxel_size, resolution, particles, SceneContents(**contents))
        specimens = _Scenes(made, copies, degradation=steps, **randomness)
        names = [f"scene_{number}" for number in range(copies)]
    kinds = (*_ALWAYS, *(_OF_SCENES if scene else ()), *(_OF_TILT_SERIES if series else ()))
    existing = [path for name in names for kind in kinds if (path := Path(output, f"{name}_{kind}")).exists()]
    if existing and not overwrite:
        raise CryodenError(f"{existing[0]}: exists already; choose another --output, or give --overwrite")
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CryodenError(f"output {output}: cannot be made a folder: {error.strerror or error}") from error
    device = torch.device("cpu")
    if series:
        device, reason = choose_device()
        yield f"tilt series of {len(series.scheme.angles)} images on {device} ({reason})"
    for index, name in enumerate(names):
        writer = _Writer(Path(output), name, voxel_size, overwrite)
        item: Any = specimens[0, index]
        if scene:
            yield from writer.scene(item["scene"])
        clean = item["clean"].to(device)
        if series:
            tomograms = series.tomograms(clean[0], item["parameters"][0])
            yield from writer.series(tomograms.series)
            halves = {"EVN": tomograms.even, "ODD": tomograms.odd, "noisefree": tomograms.noise_free}
            yield from writer.volumes(halves)
            degraded, shown = tomograms.full, -tomograms.full
        else:
            degraded = shown = apply_all(steps, clean[None], [item["parameters"]])[0, 0]
        yield from writer.volumes({"degraded": degraded, "clean": clean[0]})
        # gold would leave nothing else to see
        yield writer.picture({"degraded": shown, "clean": clean[0].clamp(max=1)}, item["entry"])


class _Scenes(SceneDataset):
    """Scenes with all that is known of them: an item also holds the `scene`, a SceneVolume."""

    def make(self, index: int, generator: torch.Generator) -> Specimen:
        made = self.scene.make(generator)
        specimen = {"clean": torch.from_numpy(made.density)[None], "entry": f"scene {index}", "scene": made}
        return cast(Specimen, specimen)


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


def _file_name(entry: str) -> str:
    return Path(entry).name.split(".")[0].replace(":", "-")
