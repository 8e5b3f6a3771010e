"""From a particle to its clean volume, and on to what the microscope leaves of it."""

from cryoden.simulation.background import Background
from cryoden.simulation.degradation import Degradation, GaussianNoise, MissingWedge, SaltAndPepper
from cryoden.simulation.scene import Placement, Scene, SceneContents, SceneVolume
from cryoden.simulation.surroundings import Surroundings
from cryoden.simulation.tilt_series import (
    Detector,
    Exposure,
    Misalignment,
    Optics,
    TiltScheme,
    TiltSeries,
    TiltSeriesDegradation,
    Tomograms,
)

__all__ = [
    "Background",
    "Degradation",
    "Detector",
    "Exposure",
    "GaussianNoise",
    "Misalignment",
    "MissingWedge",
    "Optics",
    "Placement",
    "SaltAndPepper",
    "Scene",
    "SceneContents",
    "SceneVolume",
    "Surroundings",
    "TiltScheme",
    "TiltSeries",
    "TiltSeriesDegradation",
    "Tomograms",
]
