"""What a volume holds in the missing wedge, where nothing was measured: how much that is, and a volume without it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cryoden.inference.tilts import TiltRange
from cryoden.volume import release
from cryoden.wedge import wedge_mask

_MEMORY = 1 << 25  # bytes of rows that are transformed at once


def see_wedge(volume: NDArray[np.float64], tilts: TiltRange, *, remove: bool = False) -> float:
    """How much of a volume lies in the missing wedge of its tilt series.

    The wedge is the same at every frequency along the tilt axis, y, so that this axis needs no transform: planes of z
    and x go through memory a few at a time, and the volume may be mapped.

    Args:
        volume: (D, H, W), any unit.
        tilts: Of the series, about y; the beam is along z.
        remove: Take out of the volume, in place, what lies there. What was measured, and the mean, stay as they are.

    Returns:
        The share of the power of all waves, from 0 to 1, before it was taken out; 0 for a constant volume.
    """
    depth, height, width = volume.shape
    measured = wedge_mask((depth, width), (tilts.low, tilts.high))[:, None]
    twice = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)  # each wave and its mirror image
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    rows = max(1, _MEMORY // (depth * width * volume.itemsize))
    total = outside = mean = 0.0
    for start in range(0, height, rows):
        part = np.s_[:, start : start + rows]
        planes = torch.from_numpy(volume[part].astype(np.float64))
        mean += float(planes.sum()) / volume.size
        waves = torch.fft.rfftn(planes, dim=(0, 2), norm="ortho")
        power = waves.abs().square_().mul_(twice)
        total += float(power.sum())
        outside += float(power.mul_(~measured).sum())
        if remove:
            volume[part] = torch.fft.irfftn(waves.mul_(measured), s=(depth, width), dim=(0, 2), norm="ortho").numpy()
        release(volume)
    return outside / power_of_waves if (power_of_waves := total - volume.size * mean**2) > 0 else 0.0


def tell_wedge(share: float, tilts: TiltRange, *, removed: bool) -> str:
    """What `see_wedge` found, in words."""
    where = f"beyond the tilts of {tilts.low:.4g} to {tilts.high:.4g}°, where nothing was measured"
    power = f"{100 * share:.2g} % of the answer's power"
    return f"{power} lay {where}, and was taken out" if removed else f"{power} lies {where}"
