"""The missing wedge: what of Fourier space a tilt series measures."""

from typing import Literal

import torch
from torch import Tensor


def wedge_mask(shape: tuple[int, int], tilt_range: tuple[float, float], tilt_axis: Literal["x", "y"] = "y") -> Tensor:
    """Where a tilt series measures, in the plane across the tilt axis.

    Args:
        shape: voxels along (z, x) for tilt axis y; along (z, y) for tilt axis x.
        tilt_range: (min, max) in degrees.
        tilt_axis: the axis the specimen is tilted about.

    Returns:
        (shape[0], shape[1] // 2 + 1) bool on the CPU, in the layout of `torch.fft.rfft2`: True where measured.
    """
    depth, width = shape
    kz = torch.fft.fftfreq(depth, dtype=torch.float64)[:, None]
    kx = torch.fft.rfftfreq(width, dtype=torch.float64)[None, :]
    sign = 1.0 if tilt_axis == "y" else -1.0

    def measured(angle: Tensor) -> Tensor:
        tolerance = 1e-9  # a frequency exactly on the edge counts as measured
        # angle and angle ± 180° are the same line through the origin; on kx = 0 both signs of kz are +90° and -90°
        lines = torch.stack([angle, angle - 180, angle + 180])
        return ((lines >= tilt_range[0] - tolerance) & (lines <= tilt_range[1] + tolerance)).any(dim=0)

    mask, mirrored = (measured(torch.rad2deg(torch.atan2(sign * kz, each))) for each in (kx, -kx))
    # the fastest wave of an even axis stands for +Nyquist and -Nyquist at once: measured where either is
    if depth % 2 == 0:
        mask[depth // 2] |= mirrored[depth // 2]
    if width % 2 == 0:
        mask[:, -1] |= mirrored[:, -1]
    mask[0, 0] = True  # the mean is in every projection
    return mask
