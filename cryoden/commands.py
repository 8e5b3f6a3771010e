"""The tools of the command line. Each function's signature and docstring are its help; each yields lines to print."""

from collections.abc import Iterator
from pathlib import Path

from cryoden.checkpoint import export_weights, load_denoiser
from cryoden.data.dataset import ParticleDataset
from cryoden.errors import CryodenError
from cryoden.evaluation.figures import save_figure, slice_figure
from cryoden.particles import archive, load_particle
from cryoden.simulation.degradation import Degradation, default_degradation
from cryoden.simulation.density import check_fits
from cryoden.volume import Volume, write_volume


def fetch(entries: list[str], structure_dir: str | None = None) -> Iterator[str]:
    """Download PDB entries into the cache, so that they are there without a network.

    Args:
        entries: PDB entries.
        structure_dir: a folder searched first; default: $CRYODEN_STRUCTURE_DIR.

    Yields:
        Where each entry lies.
    """
    for entry, path in archive.fetch(entries, structure_dir=structure_dir).items():
        yield f"{entry}: {path}"


def simulate(
    entries: list[str],
    output: str = "simulated",
    copies: int = 1,
    box: int = 64,
    voxel_size: float = 6.0,
    resolution: float = 12.0,
    degradation: list[Degradation] | None = None,
    structure_dir: str | None = None,
    assembly: str | None = None,
    hydrogens: bool = False,
    ligands: bool = True,
    seed: int = 0,
    overwrite: bool = False,
) -> Iterator[str]:
    """Write clean and degraded volumes of particles in random orientations as MRC files, and a picture of each pair.

    Args:
        entries: PDB entries ("1u6g"), structure or map files, or phantoms ("phantom:7").
        output: the folder to write to.
        copies: orientations of each particle.
        box: voxels along each side.
        voxel_size: angstrom.
        resolution: angstrom; the density holds no finer detail.
        degradation: the steps from clean to degraded; by default noise at snr 1.3, then a ±60° missing wedge.
        structure_dir: a folder searched for structure files first; default: $CRYODEN_STRUCTURE_DIR.
        assembly: null for the deposited model, or the name of a biological assembly, such as "1".
        hydrogens: keep hydrogen atoms.
        ligands: keep ligands.
        seed: of orientations and noise.
        overwrite: replace existing files.

    Yields:
        Each file that was written.

    Raises:
        CryodenError: a particle cannot be had or does not fit, or a file exists already.
    """
    folder = Path(structure_dir) if structure_dir else None
    particles = [
        load_particle(entry, structure_dir=folder, assembly=assembly, hydrogens=hydrogens, ligands=ligands)
        for entry in entries
    ]
    for particle in particles:
        check_fits(particle, box, voxel_size, resolution)
    dataset = ParticleDataset(
        particles,
        copies,
        default_degradation() if degradation is None else degradation,
        box=box,
        voxel_size=voxel_size,
        resolution=resolution,
        seed=[seed],
        fresh=False,
        degrade=True,
    )
    names = [f"{_file_name(particle.name)}_{copy}" for particle in particles for copy in range(copies)]
    kinds = ("clean.mrc", "degraded.mrc", "slices.png")
    existing = [path for name in names for kind in kinds if (path := Path(output, f"{name}_{kind}")).exists()]
    if existing and not overwrite:
        raise CryodenError(f"{existing[0]}: exists already; choose another --output, or give --overwrite")
    Path(output).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        item = dataset[0, index]
        volumes = {kind: item[kind][0].numpy() for kind in ("degraded", "clean")}
        for kind, data in volumes.items():
            path = Path(output, f"{name}_{kind}.mrc")
            write_volume(path, Volume(data, voxel_size), overwrite=overwrite, label=f"cryoden simulate {kind}")
            yield str(path)
        path = Path(output, f"{name}_slices.png")
        save_figure(slice_figure(volumes, voxel_size, item["entry"]), path)
        yield str(path)


def export(output: str, *, model: str, overwrite: bool = False) -> Iterator[str]:
    """Write a trained model's weights as safetensors, with all that is needed to build its network inside.

    Args:
        output: the file to write, ending in .safetensors.
        model: a run's folder or a checkpoint.
        overwrite: replace an existing output.

    Yields:
        What it wrote.
    """
    export_weights(load_denoiser(model), output, overwrite=overwrite)
    yield f"wrote {output}"


def _file_name(entry: str) -> str:
    return Path(entry).name.split(".")[0].replace(":", "-")
