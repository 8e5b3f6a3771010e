"""What Lightning feeds to a module. Importing this registers every data module for the command line."""

from cryoden.data.base import VolumeDataModule
from cryoden.data.halves import HalvesDataModule
from cryoden.data.pairs import PairDataModule
from cryoden.data.particles import ParticleDataModule, ParticleVolumes
from cryoden.data.scenes import SceneDataModule
from cryoden.data.shrec import ShrecDataModule

__all__ = [
    "HalvesDataModule",
    "PairDataModule",
    "ParticleDataModule",
    "ParticleVolumes",
    "SceneDataModule",
    "ShrecDataModule",
    "VolumeDataModule",
]
