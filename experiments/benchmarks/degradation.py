"""Noise and a missing wedge on a batch of volumes, on a CPU: ours against numpy volume by volume, results compared.

Freed memory is kept, as in `cryoden fit`, for both; `MALLOC_TOP_PAD_=131072` (its default) turns that off.
"""

import argparse
import time

import numpy as np
import torch
from timing import hardware, medians

from cryoden.hardware import keep_freed_memory
from cryoden.simulation.degradation import MissingWedge, apply_all, default_degradation, sample_all
from cryoden.wedge import wedge_mask

TILT_RANGE = (-60.0, 60.0)


def with_numpy(volume: np.ndarray, snr: float, random: np.random.Generator) -> np.ndarray:
    """Noise, then the wedge: what one writes down first."""
    noisy = volume + random.normal(0, np.sqrt(volume.var() / snr), volume.shape)
    return without_wedge(noisy)


def without_wedge(volume: np.ndarray) -> np.ndarray:
    """The volume with what no tilt within the range measures set to zero, in a transform over all three axes."""
    depth, _, width = volume.shape
    kz = np.fft.fftfreq(depth)[:, None, None]
    kx = np.fft.fftfreq(width)[None, None, :]
    angle = np.degrees(np.arctan2(np.abs(kz), np.abs(kx)))
    return np.fft.ifftn(np.fft.fftn(volume) * (angle <= TILT_RANGE[1] + 1e-9)).real


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--cpu_time", action="store_true", help="count CPU seconds: for one thread on a busy machine")
    arguments = parser.parse_args()
    kept = keep_freed_memory()
    degradation = default_degradation()
    generator = torch.Generator().manual_seed(0)
    volumes = torch.rand(arguments.batch, 1, *[arguments.box] * 3, generator=generator)
    parameters = [sample_all(degradation, generator) for _ in volumes]
    random = np.random.default_rng(0)

    wedge = MissingWedge(tilt_range=TILT_RANGE)
    ours = wedge.apply(volumes[:1], [wedge.sample(generator)])[0, 0].numpy()
    theirs = without_wedge(volumes[0, 0].numpy())
    difference = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert difference < 1e-5, difference
    assert wedge_mask((arguments.box, arguments.box), TILT_RANGE).float().mean() < 0.75  # there is a wedge to compare

    seconds = medians(
        {
            "ours": lambda: apply_all(degradation, volumes, parameters),
            "numpy": lambda: [with_numpy(v[0].numpy(), 1.3, random) for v in volumes],
        },
        arguments.runs,
        time.process_time if arguments.cpu_time else time.perf_counter,
    )
    print(hardware(), f"batch of {arguments.batch} at {arguments.box}^3; difference {difference:.0e}", sep="\n")
    print("freed memory is", "kept" if kept else "given back")
    for name, value in seconds.items():
        print(f"{name:6s} {1000 * value:7.1f} ms a batch, {value / seconds['ours']:5.1f} times ours")


if __name__ == "__main__":
    main()
