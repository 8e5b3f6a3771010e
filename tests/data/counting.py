"""A cached dataset that counts what it makes; apart, so that a process to be killed starts quickly."""

from pathlib import Path

from cryoden.data.cache import CachedDataset
from cryoden.data.particles import ParticleDataset
from cryoden.particles import load_particle
from cryoden.simulation.degradation import GaussianNoise


class Counting(ParticleDataset):
    made = 0

    def make(self, index, generator):
        Counting.made += 1
        return super().make(index, generator)


def counting(folder: Path, copies: int = 4, **arguments) -> CachedDataset:
    given = {"degradation": [GaussianNoise(1.3)], "box": 24, "voxel_size": 14.0, "resolution": 28.0, "seed": [0]}
    particles = arguments.pop("particles", None) or [load_particle("phantom:1")]
    dataset = Counting(particles, copies, **{"fresh": False, "degrade": True, **given, **arguments})
    Counting.made = 0
    return CachedDataset(dataset, folder)
