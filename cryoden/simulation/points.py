"""A particle as points on a lattice, from which each of its orientations is made.

The density of a particle is worked out once, not turned: the potential of its atoms, hydrogens included, less the ice
that it displaces, or a density map brought to the same unit, blurred to a resolution. It holds no wave shorter than the
voxels' corners in Fourier space can carry, so its values on a lattice that is fine enough are all there is to know, and
turning the lattice turns the density exactly.
"""

from functools import lru_cache

import gemmi
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from cryoden.particles import DensityMap, Particle, Structure
from cryoden.simulation.sampling import Points
from cryoden.simulation.units import ICE, PROTEIN, PROTEIN_VOLUME, UNIT

_LEFT_OUT = 3.5e-3  # of the norm of all points: the faintest, which are left out
_EDGE = 0.85  # of the finest wave: from here on waves fade, for a sharp end of them would ring all around
_AROUND = 2.5  # resolutions by which the space around a particle is larger than the particle

_ENVELOPE = 1.5  # Å, standard deviation of the blur of which the envelope is a level
_SURFACE = 0.2, 0.6  # of protein's density, blurred so: where the envelope begins, and where it is whole

# Å³ that an atom displaces (Fraser et al. 1978, Svergun et al. 1995), times 0.983: then proteins have 1.35 g/cm³.
_VOLUMES = {"H": 5.06, "C": 16.16, "N": 2.45, "O": 8.97, "P": 5.63, "S": 19.52}
_OTHER_VOLUME = 10.0  # Å³: metals and halogens, of which there are few

_HYDROGENS = 0.22  # of the scattering of all other atoms: what hydrogens add in a residue that gemmi does not know
_MASS_H, _MASS_WATER = 1.008, 18.015  # Da

# The mean above half of the maximum of proteins blurred to 20 Å, themselves in maps of 3.5 to 10 Å.
_BULK = 0.67


@lru_cache(maxsize=128)
def points_of(particle: Particle, voxel_size: float, resolution: float) -> Points:
    """The points that stand for a particle; made once for each voxel size and resolution.

    Args:
        particle: what is to be sampled.
        voxel_size: Å.
        resolution: Å; a wave of this period keeps 1/e of its height. A map's own blur comes on top.

    Returns:
        Points in the unit of density, see units.py.
    """
    # The corners of the voxels' Fourier space, unless the blur leaves nothing there: exp(-9).
    finest = min(0.5 * 3**0.5 / voxel_size, 3 / resolution)
    side = particle.diameter + _AROUND * resolution
    if isinstance(particle, DensityMap):
        centre = particle.centre[::-1] * particle.voxel_size
        side, spectrum = _spectrum_of_map(particle, side, finest)
    else:
        side = _grid_size(side, finest) / (8**0.5 * finest)  # as wide as the grid that holds it
        spectrum = _spectrum_of_atoms(particle, side, finest, resolution)
        centre = np.full(3, side / 2)
    size = _grid_size(side, finest)
    step = side / size
    density = _on_grid(spectrum, side, size, finest, resolution)
    index = np.indices(density.shape, np.int16)[::-1]  # x, y, z
    on_lattice = ((index[0] ^ index[1]) & 1 == 0) & ((index[1] ^ index[2]) & 1 == 0)
    index, values = index[:, on_lattice], density[on_lattice]
    order = np.argsort(np.abs(values))
    energy = np.cumsum(np.square(values[order], dtype=np.float64))
    kept = np.sort(order[energy > _LEFT_OUT**2 * energy[-1]])
    places = index[:, kept] * step - centre[:, None]
    positions = ((places + side / 2) % side - side / 2).astype(np.float32)
    weights = (4 * step**3 * values[kept]).astype(np.float32)
    return Points(positions, weights, finest, float(np.linalg.norm(positions, axis=0).max()))


def _grid_size(side: float, finest: float) -> int:
    """Samples along each side of the grid of which every fourth point is one of a lattice fine enough.

    A body-centred lattice repeats in Fourier space at no less than 2 ** 0.5 / its edge, which is to be twice the finest
    wave. It has fewer points than a cubic lattice of which that is true. The grid is one of half its edge.
    """
    return 2 * int(fft.next_fast_len(int(np.ceil(2**0.5 * finest * side - 1e-6)), real=True))


def _on_grid(
    spectrum: NDArray[np.complex64], side: float, size: int, finest: float, resolution: float
) -> NDArray[np.float32]:
    """(size, size, size), the blurred density on a grid over the side, from its waves up to the finest."""
    kept = _kept(side, finest)
    frequency = np.sqrt(sum(np.square(times / side) for times in kept))
    fading = np.clip((frequency / finest - _EDGE) / (1 - _EDGE), 0, 1)
    grid = np.zeros((size, size, size // 2 + 1), np.complex64)
    grid[kept] = spectrum * np.exp(-np.square(frequency * resolution)) * (1 + np.cos(np.pi * fading)) / 2
    density: NDArray[np.float32] = fft.irfftn(grid, (size, size, size)) * size**3 / side**3
    return density


def _kept(side: float, finest: float) -> tuple[NDArray[np.intp], ...]:
    """Where `rfftn` has the waves up to the finest along each axis, and how often each fits into the side."""
    most = int(finest * side)
    times = np.concatenate([np.arange(most + 1), np.arange(-most, 0)])
    return np.ix_(times, times, times[: most + 1])


def _spectrum_of_atoms(structure: Structure, side: float, finest: float, resolution: float) -> NDArray[np.complex64]:
    """The Fourier transform of a structure's density in the middle of the side, not blurred."""
    size = 2 * fft.next_fast_len(int(np.ceil(side / min(1.5, resolution / 8) / 2)), real=True)
    width = 0.75 * side / size  # Å: blurred so, atoms are smooth enough for this grid
    model, displaced = _whole(structure.model)
    model.transform_pos_and_adp(gemmi.Transform(gemmi.Mat33(), gemmi.Vec3(side / 2, side / 2, side / 2)))
    calculator = gemmi.DensityCalculatorE()
    calculator.grid.set_unit_cell(gemmi.UnitCell(side, side, side, 90, 90, 90))
    calculator.grid.set_size(size, size, size)
    calculator.blur = 8 * np.pi**2 * width**2
    calculator.add_model_density_to_grid(model)
    atoms = fft.rfftn(calculator.grid.array.T)  # gemmi's array is x, y, z with x fastest in memory
    waves = fft.fftfreq(size, side / size).astype(np.float32)
    squared = waves[:, None, None] ** 2 + waves[:, None] ** 2 + waves[: size // 2 + 1] ** 2

    begins, whole = _SURFACE
    smooth = fft.irfftn(atoms * np.exp(-2 * np.pi**2 * (_ENVELOPE**2 - width**2) * squared), (size, size, size))
    envelope = np.clip((smooth / PROTEIN - begins) / (whole - begins), 0, 1)
    volume = envelope.sum() * (side / size) ** 3
    if volume:
        envelope *= displaced / volume
    kept = _kept(side, finest)
    density = atoms[kept] * np.exp(2 * np.pi**2 * width**2 * squared[kept]) - ICE * fft.rfftn(envelope)[kept]
    spectrum: NDArray[np.complex64] = density * np.float32((side / size) ** 3 / UNIT)
    return spectrum


def _whole(model: gemmi.Model) -> tuple[gemmi.Model, float]:
    """A copy whose atoms scatter with the hydrogens that the file leaves out, and the volume of them all in Å³."""
    model = model.clone()
    volume = 0.0
    for chain in model:
        for residue in chain:
            heavy = [atom for atom in residue if not atom.is_hydrogen()]
            scattering = sum(_scattering(atom.element) for atom in heavy)
            missing = _missing_hydrogens(residue, heavy, scattering)
            for atom in heavy:
                atom.occ = 1 + missing * _scattering(gemmi.Element("H")) / scattering
            volume += missing * _VOLUMES["H"]
            volume += sum(_VOLUMES.get(atom.element.name, _OTHER_VOLUME) for atom in residue)
    return model, volume


def _missing_hydrogens(residue: gemmi.Residue, heavy: list[gemmi.Atom], scattering: float) -> float:
    """How many hydrogens a residue has, in proportion to its other atoms where some of these are missing too."""
    present = len(residue) - len(heavy)
    known = gemmi.find_tabulated_residue(residue.name)
    if not known.found() or known.weight == 0:  # some names of sugars are listed without what they are made of
        return 0.0 if present else _HYDROGENS * scattering / _scattering(gemmi.Element("H"))
    linked = residue.entity_type == gemmi.EntityType.Polymer  # and has lost a water
    count = known.hydrogen_count - 2 * linked
    mass = known.weight - _MASS_WATER * linked - _MASS_H * count
    return max(0.0, count * sum(atom.element.weight for atom in heavy) / mass - present)


def _scattering(element: gemmi.Element) -> float:
    """Å, forward."""
    return float(sum(element.c4322.a))


def _spectrum_of_map(particle: DensityMap, side: float, finest: float) -> tuple[float, NDArray[np.complex64]]:
    """The side, made a multiple of the map's voxels, and the Fourier transform of the map at one end of it."""
    least = max(int(np.ceil(side / particle.voxel_size)), *particle.data.shape)
    size = 2 * fft.next_fast_len((least + 1) // 2, real=True)
    side = size * particle.voxel_size
    kept = _kept(side, finest)
    known = [np.abs(times) < size / 2 for times in kept]  # the map may be coarser than the voxels
    waves = fft.rfftn(particle.data, (size, size, size))[tuple(map(np.multiply, kept, known))]
    spectrum = waves * known[0] * known[1] * known[2]
    if particle.mass is None:
        unit = particle.bulk / _BULK
    else:
        unit = float(particle.data.sum(dtype=np.float64)) * particle.voxel_size**3 / (particle.mass * PROTEIN_VOLUME)
    return side, spectrum * np.float32(particle.voxel_size**3 / unit)
