"""What a network has to beat: the Gaussian filter."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cryoden.errors import CryodenError
from cryoden.metrics.functional import nrmse

SIGMAS = (0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.25, 1.5, 2.0)
_TRUNCATE = 4.0  # scipy's default


def gaussian_filter(volumes: Tensor, sigma: float) -> Tensor:
    """Smooth volumes with a Gaussian, cut at 4 sigma and reflected at the borders, as scipy does.

    Args:
        volumes: (B, C, D, H, W), any unit, any device.
        sigma: Standard deviation of the Gaussian in voxels, above 0.

    Returns:
        (B, C, D, H, W), in the same unit.

    Raises:
        CryodenError: sigma is not above 0.
    """
    if not 0 < sigma < math.inf:
        raise CryodenError(f"sigma of a Gaussian filter must be above 0 voxels, got {sigma}")
    radius = int(_TRUNCATE * sigma + 0.5)
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    weights = [weight / sum(weights) for weight in weights]
    for axis in (2, 3, 4):
        n = volumes.shape[axis]
        # The border voxel is repeated (dcba|abcd|dcba); a box narrower than the radius is reflected again.
        index = torch.arange(-radius, n + radius, device=volumes.device) % (2 * n)
        padded = volumes.index_select(axis, torch.minimum(index, 2 * n - 1 - index))
        # Sums of shifted volumes, not a convolution: a GPU would round a convolution to TF32.
        volumes = padded.narrow(axis, 0, n) * weights[0]
        for offset, weight in enumerate(weights[1:], start=1):
            volumes = volumes.add(padded.narrow(axis, offset, n), alpha=weight)
    return volumes


def gaussian_baseline(degraded: Tensor, sigma: float) -> Tensor:
    """The Gaussian filter as a denoiser: smoothed, then clipped at 0, the background of a clean volume.

    Args:
        degraded: (B, C, D, H, W), particles bright on a background of 0.
        sigma: Standard deviation of the Gaussian in voxels.

    Returns:
        (B, C, D, H, W), in the same unit.
    """
    return gaussian_filter(degraded, sigma).clamp(min=0)


def best_gaussian_sigma(degraded: Tensor, clean: Tensor, sigmas: Sequence[float] = SIGMAS) -> float:
    """The width at which the Gaussian filter does best: a baseline that nobody can call badly tuned.

    Args:
        degraded: (B, C, D, H, W).
        clean: (B, C, D, H, W), in the same unit.
        sigmas: What to choose from, in voxels.

    Returns:
        The sigma with the lowest median NRMSE.
    """
    return min(sigmas, key=lambda sigma: nrmse(gaussian_baseline(degraded, sigma), clean).median().item())
