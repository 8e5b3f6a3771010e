"""Specimens and microscopes by name, so that a configuration needs one line for all of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

from cryoden.simulation.background import Background
from cryoden.simulation.scene import SceneContents
from cryoden.simulation.surroundings import Surroundings
from cryoden.simulation.tilt_series import (
    Detector,
    Exposure,
    Misalignment,
    Optics,
    TiltScheme,
    TiltSeriesDegradation,
)

_SHAPE = (96, 192, 192)  # voxels of a scene: large enough for what is beside a box, and made in ten seconds
_OCCUPANCY = (0.005, 0.12)  # of particles: from a dilute sample to a crowded one
_AROUND = 250.0  # Å that a scene is larger than the largest thing in it
_LEAST = 100.0  # Å across, of what would be a vesicle or a lump


class Preset(NamedTuple):
    """What a name stands for.

    Attributes:
        contents: of a scene.
        shape: (z, y, x), of a scene in voxels.
        surroundings: of a single particle.
        degradation: of both.
    """

    contents: SceneContents
    shape: tuple[int, int, int]
    surroundings: Surroundings
    degradation: TiltSeriesDegradation


def realistic(voxel_size: float, shape: tuple[int, int, int] | None = None) -> Preset:
    """Crowded tomograms, each from another laboratory: what labs choose differently is drawn for each.

    Args:
        voxel_size: Å.
        shape: (z, y, x), of a scene in voxels, where that is given; vesicles and lumps are no larger than it holds.
    """
    shape = shape or _SHAPE
    widest = min(600.0, min(shape) * voxel_size - _AROUND)
    large = widest >= _LEAST
    background = Background(proteins=(0.0, 40.0), solutes=(0.0, 0.04))
    contents = SceneContents(
        occupancy=_OCCUPANCY,
        vesicles=(0, 1) if large else 0,
        vesicle_diameter=(min(300.0, widest), widest) if large else _LEAST,
        membranes=(0, 1) if large else 0,
        membrane_proteins=(0.0, 10.0),
        fiducials=(0, 2),
        fiducial_diameter=(60.0, 150.0) if large else 60.0,
        microtubules=(0, 1) if large else 0,
        actin=(0, 2) if large else 0,
        background=replace(
            background,
            lumps=(0, 1) if large else 0,
            lump_diameter=(min(200.0, widest), min(500.0, widest)) if large else _LEAST,
        ),
    )
    degradation = TiltSeriesDegradation(
        voxel_size=(0.9 * voxel_size, 1.1 * voxel_size),
        scheme=TiltScheme(((-66.0, -40.0), (40.0, 66.0)), (1.5, 4.0), jitter=0.1, dropped=(0, 8)),
        optics=Optics(defocus=(1.5, 8.0), defocus_scatter=(0.0, 0.3), b_factor=(0.0, 400.0), defocus_gradient=True),
        exposure=Exposure(dose=(20.0, 160.0), radiation_damage=(0.3, 1.0), thickness=(80.0, 350.0)),
        detector=Detector(binned_by=("cropping", "averaging")),
        misalignment=Misalignment((0.0, 6.0), (0.0, 0.3)),
        contrast=(0.5, 1.0),
        correction=("none", "phase_flip", "phase_flip", "phase_flip", "deconvolution"),
        dose_weighting=(False, True),
        weighting=("ramp", "exact"),
        roll_off=((0.3, 0.6), 0.05),
        sirt_like=(0, 0, 0, 8, 14, 25),
        colour=(0.0, 0.3),
    )
    return Preset(contents, shape, Surroundings(_OCCUPANCY, background), degradation)


PresetName = Literal["realistic"]
PRESETS: dict[PresetName, Callable[..., Preset]] = {"realistic": realistic}
