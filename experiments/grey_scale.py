"""How a denoised tomogram correlates with the truth, without and with gold, margins, vacuum and bad voxels.

    cryoden simulate phantom:0 phantom:1 --shape [48,96,96] --contents.count 14 --voxel_size 8 --resolution 16
    python experiments/grey_scale.py MODEL simulated/scene_0_clean.mrc simulated/scene_0_degraded.mrc

Each disturbance is laid over the degraded volume, bright and dark. The correlation is that of all voxels that are not
disturbed themselves. The table is printed, and written to results/grey_scale.json beside this file.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from cryoden import denoise, load_denoiser, read_volume
from cryoden.denoiser import Denoiser
from cryoden.inference.contrast import look

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

MEAN, DEVIATION = 100.0, 10.0  # of the undisturbed volume, far from 0
GOLD = 40.0  # deviations that a bead stands out
BEAD = 100.0  # Å across
AROUND = 50.0  # Å around a bead, in which a network that sees it answers for the bead, too
VACUUM = -0.1  # deviations; nearly all that it is darker by lies in the missing wedge of a lamella
RESULTS = Path(__file__).parent / "results" / "grey_scale.json"


@dataclass(frozen=True, eq=False)
class Tomogram:
    """A simulated tomogram, protein bright.

    Attributes:
        clean: (D, H, W), the truth: ice 0.
        degraded: (D, H, W), of mean `MEAN` and standard deviation `DEVIATION`.
        voxel_size: Å.
    """

    clean: Array
    degraded: Array
    voxel_size: float

    @classmethod
    def of(cls, clean: Array, degraded: Array, voxel_size: float) -> "Tomogram":
        """From volumes of any grey scale; where the tomogram is dark, it is turned round."""
        sign = np.sign(np.corrcoef(clean.ravel(), degraded.ravel())[0, 1])
        standard = sign * (degraded - degraded.mean()) / degraded.std()
        return cls(clean, (MEAN + DEVIATION * standard).astype(np.float32), voxel_size)


Disturbance = Callable[[Tomogram, np.random.Generator], tuple[Array, Mask]]


def _filled(value: float, where: Callable[[Mask], None]) -> Disturbance:
    def disturb(tomogram: Tomogram, random: np.random.Generator) -> tuple[Array, Mask]:
        changed = np.zeros(tomogram.degraded.shape, bool)
        where(changed)
        return np.where(changed, np.float32(value), tomogram.degraded), changed

    return disturb


def _margin(changed: Mask) -> None:
    edge = max(2, changed.shape[1] // 24)
    for side in (slice(edge), slice(-edge, None)):
        changed[:, side] = changed[:, :, side] = True


def _one_section(changed: Mask) -> None:
    changed[0] = True


def _a_third_of_the_sections(changed: Mask) -> None:
    third = len(changed) // 6
    changed[:third] = changed[-third:] = True


def _voxels(share: float, *deviations: float) -> Disturbance:
    """Single voxels, so far from the mean; at least one."""

    def disturb(tomogram: Tomogram, random: np.random.Generator) -> tuple[Array, Mask]:
        data = tomogram.degraded.copy()
        places = random.choice(data.size, max(1, round(share * data.size)), replace=False)
        for part, far in zip(np.array_split(places, len(deviations)), deviations, strict=True):
            data.flat[part] = MEAN + far * DEVIATION
        changed = np.zeros(data.shape, bool)
        changed.flat[places] = True
        return data, changed

    return disturb


def _gold(share: float) -> Disturbance:
    """Beads of 10 nm, at least one."""

    def disturb(tomogram: Tomogram, random: np.random.Generator) -> tuple[Array, Mask]:
        grid = np.indices(tomogram.degraded.shape)
        distance = np.full(tomogram.degraded.shape, np.inf)  # Å to the middle of the nearest bead
        while (beads := distance <= BEAD / 2).mean() < share or not beads.any():
            centre = random.uniform(0, beads.shape)[:, None, None, None]
            distance = np.minimum(distance, tomogram.voxel_size * np.linalg.norm(grid - centre, axis=0))
        bright = gaussian_filter(beads.astype(np.float32), 0.7)
        return tomogram.degraded + np.float32(GOLD * DEVIATION) * bright, distance <= BEAD / 2 + AROUND

    return disturb


def _vacuum(tomogram: Tomogram, random: np.random.Generator) -> tuple[Array, Mask]:
    """A sixth of the sections above and as many below a lamella: as noisy as ice, and empty."""
    outside = np.zeros(tomogram.degraded.shape, bool)
    _a_third_of_the_sections(outside)
    signal = tomogram.clean - tomogram.clean.mean()
    signal *= (signal * tomogram.degraded).sum() / np.square(signal).sum()
    empty = tomogram.degraded - signal + np.float32(VACUUM * DEVIATION)
    return np.where(outside, empty, tomogram.degraded), binary_dilation(outside, iterations=4)


def _integers(tomogram: Tomogram, random: np.random.Generator) -> tuple[Array, Mask]:
    """Bytes of a fifth of a deviation; a thousandth of the voxels saturates at each end."""
    low, high = np.quantile(tomogram.degraded, (0.001, 0.999))
    step = DEVIATION / 5
    return (tomogram.degraded.clip(low, high) / step).round().astype(np.float32), np.zeros(tomogram.clean.shape, bool)


DISTURBANCES: dict[str, Disturbance] = {
    "a margin of zeros": _filled(0, _margin),
    "a margin of the mean": _filled(MEAN, _margin),
    "an empty section": _filled(0, _one_section),
    "a third of the sections empty": _filled(0, _a_third_of_the_sections),
    "one hot voxel": _voxels(0, 1000.0),
    "hot and dead voxels, 0.1 %": _voxels(1e-3, 1000.0, -1000.0),
    "gold, one bead": _gold(0),
    "gold, 0.2 %": _gold(2e-3),
    "gold, 2 %": _gold(0.02),
    "vacuum on both sides": _vacuum,
    "integers that saturate": _integers,
}


def measure(model: Denoiser, tomogram: Tomogram, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of the table, one for each disturbance and contrast.

    Args:
        model: What denoises.
        tomogram: That is disturbed.
        seed: Of places.
    """
    settings: dict[str, Any] = {"voxel_size": tomogram.voxel_size, "precision": "float32"}
    plain = denoise(tomogram.degraded, model, contrast="bright", **settings)
    for name, disturb in DISTURBANCES.items():
        data, changed = disturb(tomogram, np.random.default_rng(seed))
        truth = tomogram.clean[~changed]
        without = float(np.corrcoef(plain[~changed], truth)[0, 1])
        for sign, contrast in ((1, "bright"), (-1, "dark")):
            grey = look(sign * data)
            answer = sign * denoise(sign * data, model, contrast=contrast, **settings)
            yield {
                "disturbance": name,
                "contrast": contrast,
                "told": grey.contrast,
                "left_out": grey.left_out + grey.hot,
                "without": without,
                "with": float(np.corrcoef(answer[~changed], truth)[0, 1]),
            }


def main() -> None:
    """Print a row for each disturbance and contrast."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("clean", type=Path)
    parser.add_argument("degraded", type=Path)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    clean, degraded = (read_volume(path) for path in (arguments.clean, arguments.degraded))
    tomogram = Tomogram.of(clean.data, degraded.data, clean.voxel_size)
    print(f"{'':32s} {'':6s} {'told':6s} {'left out':>8s} {'without':>8s} {'with':>8s}")
    rows = []
    for row in measure(load_denoiser(arguments.model), tomogram):
        rows.append(row)
        print(
            f"{row['disturbance']:32s} {row['contrast']:6s} {row['told'] or 'none':6s} {row['left_out']:8d} "
            f"{row['without']:8.3f} {row['with']:8.3f}",
            flush=True,
        )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    shown = [{name: round(it, 4) if isinstance(it, float) else it for name, it in row.items()} for row in rows]
    arguments.output.write_text(json.dumps({"model": str(arguments.model), "rows": shown}, indent=1) + "\n")


if __name__ == "__main__":
    main()
