"""What else is in the ice: small proteins, solutes and lumps that a microscope images, and that nobody asks for.

Without them ice is empty, and simulated particles stand several times higher above it than real ones, above all at low
frequencies, where counting noise is faint.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from cryoden.simulation.bodies import blur_of
from cryoden.simulation.ranges import Range, WholeRange, bounds, check_range, check_whole_range, draw, draw_seed
from cryoden.simulation.sampling import sample_everywhere
from cryoden.simulation.units import PROTEIN_VOLUME

_PER_LITRE = 1 / 1350  # share of the volume that one gram of protein in a litre fills

_SHAPES = 24  # different proteins in a scene
_BEAD = 4.0  # Å, standard deviation: of 1 kDa of protein each
_ELONGATION = 0.2  # standard deviation of the logarithms of a protein's axes
_ROUNDS = 12  # in which proteins are tried that found no room


@dataclass(frozen=True)
class Background:
    """What is in the ice beside the objects of a scene; imaged, but no part of the truth.

    Args:
        proteins: grams in a litre of ice, of proteins too small to be anyone's target; a number or a range. A purified
            sample has next to none, cytosol 200 to 300; above 150 some find no room.
        protein_mass: kDa, of each one; a number or a range.
        solutes: standard deviation of the density of all that is smaller, at full resolution; a number or a range.
        solute_size: angstrom, over which that is alike: its correlation falls to 1/e; a number or a range.
        lumps: crystals of ice and dirt, six-sided, which lie in the ice as particles do; a number or a range.
        lump_diameter: angstrom; a number or a range.
        lump_density: above ice; protein in bulk is 1; a number or a range.
    """

    proteins: Range = (0.0, 100.0)
    protein_mass: Range = (10.0, 60.0)
    solutes: Range = (0.0, 0.1)
    solute_size: Range = (10.0, 40.0)
    lumps: WholeRange = 0
    lump_diameter: Range = (200.0, 600.0)
    lump_density: Range = (0.3, 1.5)

    def __post_init__(self) -> None:
        check_range("proteins", self.proteins, lambda v: 0 <= v <= 300, "of grams in a litre from 0 to 300")
        check_range("protein_mass", self.protein_mass, lambda v: 5 <= v <= 100, "of kDa from 5 to 100")
        check_range("solutes", self.solutes, lambda v: v >= 0, "from 0 up")
        check_range("solute_size", self.solute_size, lambda v: v > 0, "of angstrom above 0")
        check_whole_range("lumps", self.lumps, 0)
        check_range("lump_diameter", self.lump_diameter, lambda v: v > 0, "of angstrom above 0")
        check_range("lump_density", self.lump_density, lambda v: v > 0, "above 0")

    def fill(
        self,
        free: NDArray[np.bool_],
        density: NDArray[np.float32],
        voxel_size: float,
        resolution: float,
        generator: torch.Generator,
    ) -> NDArray[np.float32]:
        """Proteins and solutes where there is room for them; lumps are objects that a scene places.

        Both go on periodically beyond the borders, where proteins are cut.

        Args:
            free: (D, H, W), where nothing else is.
            density: (D, H, W), of what is there; where that is not ice there are no solutes.
            voxel_size: Å.
            resolution: Å, at least two voxels.
            generator: where all randomness comes from.

        Returns:
            (D, H, W), above ice; as `scattering_density` without waves that voxels cannot hold.
        """
        concentration, deviation = draw(self.proteins, generator), draw(self.solutes, generator)
        size = draw(self.solute_size, generator)
        rng = np.random.default_rng(draw_seed(generator))
        volume = np.zeros(free.shape, np.float32)
        if concentration:
            beads = self._beads(concentration, free, voxel_size, rng)
            weights = np.full(len(beads), PROTEIN_VOLUME, np.float32)
            width = float(np.hypot(_BEAD, blur_of(resolution)))
            volume += sample_everywhere(beads, weights, free.shape, voxel_size, width)
        if deviation:
            ice = np.clip(1 - np.abs(density), 0, 1)
            volume += ice * _fluctuation(free.shape, voxel_size, deviation, size, blur_of(resolution), rng)
        return volume

    def _beads(
        self, concentration: float, free: NDArray[np.bool_], voxel_size: float, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """(n, 3), z, y, x in Å from the first voxel: proteins as beads of 1 kDa, in places where they touch nothing."""
        masses = np.maximum(rng.uniform(*bounds(self.protein_mass), _SHAPES).round().astype(int), 1)
        shapes = [_globule(mass, rng) for mass in masses]
        wanted = concentration * _PER_LITRE * np.count_nonzero(free) * voxel_size**3 / (masses.mean() * PROTEIN_VOLUME)
        kinds = rng.integers(_SHAPES, size=rng.poisson(wanted))
        radii = (3 / (4 * np.pi) * PROTEIN_VOLUME * masses) ** (1 / 3)
        centres, kinds = _apart(radii, kinds, free, voxel_size, rng)
        turns = Rotation.random(len(kinds), random_state=rng).as_matrix()
        placed = [
            (shape @ turns[kinds == kind] + centres[kinds == kind, None]).reshape(-1, 3)
            for kind, shape in enumerate(shapes)
        ]
        return np.concatenate(placed).astype(np.float32)


def _globule(mass: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(mass, 3), Å: a compact body of random shape, a bead for each kDa."""
    step = PROTEIN_VOLUME ** (1 / 3)
    lattice = (np.indices((13, 13, 13)).reshape(3, -1).T - 6 + rng.uniform(-0.5, 0.5, 3)) * step
    stretch = np.exp(rng.normal(0, _ELONGATION, 3))
    nearest = np.argsort(np.linalg.norm(lattice / stretch * np.prod(stretch) ** (1 / 3), axis=1))[:mass]
    beads: NDArray[np.float64] = lattice[nearest] + rng.normal(0, 0.15 * step, (mass, 3))
    beads -= beads.mean(axis=0)
    return beads


def _apart(
    radii: NDArray[np.float64],
    kinds: NDArray[np.int64],
    free: NDArray[np.bool_],
    voxel_size: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Places where spheres overlap neither each other nor what is there, and their kinds; some find none.

    All at once, in rounds: the first of two that overlap stays.
    """
    side = np.array(free.shape) * voxel_size
    probes = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
    centres, placed = np.zeros((0, 3)), kinds[:0]
    left = kinds
    for _ in range(_ROUNDS):
        tried = rng.uniform(0, side, (len(left), 3))
        around = (tried[:, None] + probes * radii[left, None, None]) / voxel_size
        z, y, x = np.moveaxis(np.floor(around).astype(np.int64) % free.shape, -1, 0)
        fits = free[z, y, x].all(axis=1)
        points = np.concatenate([centres, tried[fits]])
        all_kinds = np.concatenate([placed, left[fits]])
        pairs = cKDTree(points, boxsize=side).query_pairs(2 * radii.max(), output_type="ndarray")
        apart = np.abs(points[pairs[:, 0]] - points[pairs[:, 1]])
        distance = np.linalg.norm(np.minimum(apart, side - apart), axis=1)
        overlapping = pairs[distance < radii[all_kinds[pairs]].sum(axis=1)].max(axis=1)
        stays = np.ones(len(points), np.bool_)
        stays[overlapping] = False
        left = np.concatenate([left[~fits], all_kinds[~stays]])
        centres, placed = points[stays], all_kinds[stays]
        if not len(left):
            break
    return centres, placed


def _fluctuation(
    shape: tuple[int, ...], voxel_size: float, deviation: float, size: float, blur: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """A Gaussian random density whose correlation falls exponentially with distance (Debye & Bueche 1949).

    Args:
        shape: (D, H, W).
        voxel_size: Å.
        deviation: standard, before the blur.
        size: Å, where the correlation is 1/e.
        blur: Å, standard deviation of a Gaussian.
        rng: where the randomness comes from.
    """
    noise = fft.rfftn(rng.standard_normal(shape, np.float32))
    waves = [fft.fftfreq(n, voxel_size) for n in shape[:2]]
    z, y, x = np.ix_(*waves, fft.rfftfreq(shape[2], voxel_size))
    squared = (z**2 + y**2 + x**2).astype(np.float32)
    squared *= 4 * np.pi**2
    # The square root of a spectrum whose integral over all of Fourier space is one.
    noise *= (8 * np.pi * (size / voxel_size) ** 3) ** 0.5 / (1 + size**2 * squared) * np.exp(-squared * blur**2 / 2)
    fluctuation: NDArray[np.float32] = fft.irfftn(noise, shape)
    return np.float32(deviation) * fluctuation
