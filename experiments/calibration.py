"""Which arguments of a tilt series bring its tomogram closer to a real one? A microtubule of its true size in ice.

Writes a tomogram for each variant, prints how far its spectrum is from the real one's, and how its noise correlates.
The real one shall show a microtubule, or much the same amount of protein: python calibration.py REAL.mrc --output DIR
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from cryoden.evaluation.calibration import describe, spectral_distance
from cryoden.simulation.tilt_series import Detector, Exposure, Misalignment, Optics, TiltSeriesDegradation
from cryoden.volume import Volume, read_volume, write_volume

_FILLED = 0.82  # of a solid tube: what 1430 kDa in each 80 Å of a microtubule take of it


def microtubule(shape: tuple[int, int, int], voxel_size: float) -> torch.Tensor:
    """A tube, 17 nm and 25 nm across inside and out, lying in the section at 17° to y."""
    z, y, x = torch.meshgrid(*(torch.arange(n) - n / 2 for n in shape), indexing="ij")
    radius = torch.hypot(x * 0.956 + y * 0.292, z) * voxel_size
    return _FILLED * ((125 - radius) / voxel_size + 0.5).clamp(0, 1) * ((radius - 85) / voxel_size + 0.5).clamp(0, 1)


def main() -> None:
    """Print a row for each variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("real", type=Path)
    parser.add_argument("--output", type=Path, default=Path("calibration"))
    arguments = parser.parse_args()
    volume = read_volume(arguments.real)
    real = describe(volume, str(arguments.real))
    depth, height, width = volume.data.shape
    # the slab is larger than what is cut out of it, as the real one's is
    pad = max(0, (100 - depth) // 2), 16, width // 2
    density = microtubule((depth + 2 * pad[0], height + 2 * pad[1], width + 2 * pad[2]), volume.voxel_size)
    plain = TiltSeriesDegradation(
        voxel_size=volume.voxel_size,
        optics=Optics(defocus=3.0),
        exposure=Exposure(dose=100.0, thickness=150.0),
    )
    sirt = replace(plain, sirt_like=10)
    variants = {
        "default": plain,
        "exact filter": replace(plain, weighting="exact"),
        "phase_flip": replace(plain, correction="phase_flip"),
        "roll-off 0.35": replace(plain, roll_off=(0.35, 0.035)),
        "exact, roll-off 0.35": replace(plain, weighting="exact", roll_off=(0.35, 0.035)),
        "dose weighting": replace(plain, dose_weighting=True),
        "deconvolution": replace(plain, correction="deconvolution"),
        "dose 50": replace(plain, exposure=replace(plain.exposure, dose=50.0)),
        "b_factor 500": replace(plain, optics=replace(plain.optics, b_factor=500.0)),
        "binning 1": replace(plain, detector=Detector(binning=1.0)),
        "shift 10": replace(plain, misalignment=Misalignment(shift=10.0)),
        "sirt_like 10": sirt,
        "sirt_like 10, dose 50": replace(sirt, exposure=replace(plain.exposure, dose=50.0)),
        "sirt_like 10, dose 200": replace(sirt, exposure=replace(plain.exposure, dose=200.0)),
        "sirt_like 10, defocus 5": replace(sirt, optics=Optics(defocus=5.0)),
        "sirt_like 30": replace(plain, sirt_like=30),
        "sirt_like 30, dose 50": replace(plain, sirt_like=30, exposure=replace(plain.exposure, dose=50.0)),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    print(f"{'':26s} spectrum   noise of neighbours along z, y, x   skewness, kurtosis")
    for name, step in {"real": None, **variants}.items():
        it = real
        if step is not None:
            made = step.tomograms(density, step.sample(torch.Generator().manual_seed(0))).full.numpy()
            made = made[pad[0] : pad[0] + depth, pad[1] : pad[1] + height, pad[2] : pad[2] + width].copy()
            path = arguments.output / f"{name.replace(', ', '_').replace(' ', '')}.mrc"
            write_volume(
                path, Volume(made, volume.voxel_size), overwrite=True, label="cryoden experiments/calibration.py"
            )
            it = describe(read_volume(path), name)
        near = "  ".join(f"{value:5.2f}" for value in it.noise[:, 1])
        print(f"{name:26s} {spectral_distance(it, real):5.1f} dB   {near}   {it.skewness:16.2f}  {it.kurtosis:5.2f}")


if __name__ == "__main__":
    main()
