"""Where a model that comes along fails: one specimen through microscopes of which all but the first ask too much.

    python experiments/failures.py --output failures.png --results failures.json

The specimen is made of structures that no model was trained on, with a vesicle and gold. What is drawn: the tomogram,
the Gaussian filter that is best on it, the model's answer, the truth, in the section and the plane where the failure
shows. What is told: NRMSE after an affine fit, without gold and what is around it, of each, beside the input and zeros.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from held_out import AROUND
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter
from tuning import error

from cryoden import denoise, load_denoiser
from cryoden.data.dataset import item_generator
from cryoden.denoiser import Denoiser
from cryoden.evaluation.baselines import FILTERS
from cryoden.evaluation.results import plain_numbers, provenance
from cryoden.files import write_text
from cryoden.particles import load_particle
from cryoden.pictures import save_figure
from cryoden.simulation.background import Background
from cryoden.simulation.scene import Scene, SceneContents
from cryoden.simulation.tilt_series import Exposure, Optics, TiltScheme, TiltSeriesDegradation
from cryoden.simulation.units import BRIGHTEST

ENTRIES = ("1bxn", "4yvs", "7pbl", "3wip", "1f2n")
SHAPE = (96, 192, 192)
MODEL, VOXEL_SIZE = "cryoden-10A", 10.0
SEED = 5

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A way to ask too much.

    Args:
        name: what it is.
        changes: of the microscope that suits the model.
        plane: 0, a section; 1, the plane along the beam and across the tilt axis.
        voxel_size: Å, of which the model is told nothing.
        smoothed: voxels, the width of a Gaussian filter that somebody used before.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    plane: int = 0
    voxel_size: float = VOXEL_SIZE
    smoothed: float = 0.0


CASES = (
    Case("as it was trained for"),
    Case("along the beam", plane=1),
    Case("±30° of tilts", {"scheme": TiltScheme((-30.0, 30.0))}, plane=1),
    Case("10 e/Å², 350 nm", {"exposure": Exposure(dose=10.0, thickness=350.0)}),
    Case("sharpened", {"radial_gain": (0.03, 0.1, 0.3, 0.7, 1.0, 1.5, 2.0, 2.5, 3.0)}),
    Case("voxels of 6 Å, taken for 10", voxel_size=6.0),
    Case("filtered before", smoothed=1.5),
)


def microscope(case: Case) -> TiltSeriesDegradation:
    """What shows the specimen."""
    suits: dict[str, Any] = {
        "voxel_size": case.voxel_size,
        "optics": Optics(defocus=3.0, b_factor=100.0),
        "exposure": Exposure(dose=100.0, thickness=150.0),
        "correction": "phase_flip",
        "weighting": "exact",
    }
    return TiltSeriesDegradation(**suits | case.changes)


def specimen(voxel_size: float) -> tuple[Array, Array]:
    """(D, H, W) the truth, and what is imaged."""
    contents = SceneContents(
        occupancy=0.1,
        vesicles=1,
        vesicle_diameter=400.0,
        fiducials=1,
        background=Background(proteins=10.0, solutes=0.02),
    )
    particles = [load_particle(entry) for entry in ENTRIES]
    made = Scene(SHAPE, voxel_size, 2 * voxel_size, particles, contents).make(item_generator((SEED,), 0, 0))
    assert made.background is not None
    return made.density, made.density + made.background


def tried(case: Case, model: Denoiser) -> tuple[dict[str, Array], dict[str, float]]:
    """What is drawn of a case, (D, H, W) each, and what is told."""
    clean, seen = specimen(case.voxel_size)
    step = microscope(case)
    parameters = step.sample(item_generator((SEED,), 0, 1))
    degraded = step.apply(torch.from_numpy(seen)[None, None], [parameters])
    if case.smoothed:
        degraded = torch.from_numpy(gaussian_filter(degraded[0, 0].numpy(), case.smoothed))[None, None]
    gaussian = FILTERS[0]
    there = ~binary_dilation(clean > BRIGHTEST, iterations=AROUND)

    def further(volume: Array) -> float:
        return error(*(each[there].astype(np.float64) for each in (volume, clean)))

    filtered = [gaussian(degraded, setting)[0, 0].numpy() for setting in gaussian.candidates]
    shown = {
        "tomogram": degraded[0, 0].numpy(),
        "Gaussian filter": min(filtered, key=further),
        MODEL: denoise(degraded[0, 0].numpy(), model, contrast="bright"),
        "truth": clean.clip(max=BRIGHTEST),
    }
    told = {name: further(volume) for name, volume in shown.items() if name != "truth"}
    return shown, told | {"zeros": 1.0}


def cut(case: Case, shown: dict[str, Array]) -> Iterator[Array]:
    """The slice of each volume in which the failure shows."""
    for volume in shown.values():
        yield np.take(volume, volume.shape[case.plane] // 2, axis=case.plane)


def figure(rows: list[tuple[Case, dict[str, Array], dict[str, float]]]) -> Figure:
    """A row for each case; the grey scale of each picture is its own, from its 1st to its 99.5th percentile."""
    heights = [SHAPE[1 if case.plane == 0 else 0] / SHAPE[2] for case, _, _ in rows]
    names = list(rows[0][1])
    made = Figure(figsize=(2.6 * len(names), 2.6 * sum(heights) + 0.35 * len(rows)), layout="constrained")
    grid = made.subplots(len(rows), len(names), squeeze=False, height_ratios=heights)
    for axes, (case, shown, told) in zip(grid, rows, strict=True):
        for axis, name, piece in zip(axes, names, cut(case, shown), strict=True):
            low, high = np.percentile(piece, (1, 99.5))
            axis.imshow(piece, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(f"{name}, {told[name]:.2f}" if name in told else name, fontsize=9)
        axes[0].set_ylabel(case.name, fontsize=10)
    return made


def main() -> None:
    """Draw, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the picture")
    parser.add_argument("--results", type=Path, required=True, help="the numbers")
    arguments = parser.parse_args()
    model = load_denoiser(MODEL)
    rows = []
    for case in CASES:
        shown, told = tried(case, model)
        rows.append((case, shown, told))
        print(f"{case.name}: " + ", ".join(f"{name} {value:.3f}" for name, value in told.items()), flush=True)
    save_figure(figure(rows), arguments.output, overwrite=True)
    kept = {
        "title": f"failures of {MODEL}",
        "commands": [f"python {shlex.join(sys.argv)}"],
        **{key: value for key, value in provenance().items() if key != "command"},
        "nrmse": {case.name: {name: round(value, 4) for name, value in told.items()} for case, _, told in rows},
    }
    text = json.dumps(plain_numbers(kept), indent=1, ensure_ascii=False) + "\n"
    write_text(arguments.results, text, overwrite=True)


if __name__ == "__main__":
    main()
