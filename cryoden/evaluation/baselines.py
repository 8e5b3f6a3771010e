"""What a network has to beat: classical filters, each at its best setting."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle
from torch import Tensor

from cryoden.data import VolumeDataModule
from cryoden.errors import CryodenError
from cryoden.evaluation.evaluate import Progress, pairs, spaced
from cryoden.metrics.functional import nrmse

SIGMAS = (0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.25, 1.5, 2.0)
_TRUNCATE = 4.0  # scipy's default
_TUNING_VOLUMES = 10


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


@dataclass(frozen=True)
class Filter:
    """A classical denoiser with one setting.

    Args:
        name: what tables and figures call it.
        setting: what the number is, with its unit.
        candidates: what to choose from.
        run: (degraded (B, C, D, H, W), setting) → denoised (B, C, D, H, W), in the same unit.
    """

    name: str
    setting: str
    candidates: tuple[float, ...]
    run: Callable[[Tensor, float], Tensor]

    def __call__(self, degraded: Tensor, setting: float) -> Tensor:
        """Denoise (B, C, D, H, W), then clip at 0, the background of a clean volume."""
        return self.run(degraded, setting).clamp(min=0)

    def at(self, setting: float) -> Callable[[Tensor], Tensor]:
        """The filter with its setting fixed."""
        return lambda degraded: self(degraded, setting)


def best_setting(filter: Filter, degraded: Tensor, clean: Tensor) -> float:
    """The setting at which a filter does best: a baseline that nobody can call badly tuned.

    Args:
        filter: what to tune.
        degraded: (B, C, D, H, W).
        clean: (B, C, D, H, W), in the same unit.

    Returns:
        The candidate with the lowest median NRMSE.
    """
    return min(filter.candidates, key=lambda setting: nrmse(filter(degraded, setting), clean).median().item())


def tuned_filters(module: VolumeDataModule, progress: Progress) -> list[tuple[Filter, float]]:
    """Each filter at its best setting on ten validation volumes.

    Args:
        module: where the volumes come from.
        progress: called with the number of filters done and their total.
    """
    dataset = module.validation_volumes()
    degraded, clean = pairs(dataset, spaced(len(dataset), _TUNING_VOLUMES), module.batch_size, module.num_workers)
    tuned = []
    for done, filter in enumerate(FILTERS, start=1):
        tuned.append((filter, best_setting(filter, degraded, clean)))
        progress(done, len(FILTERS))
    return tuned


def _each(run: Callable[[NDArray[Any], float], Any]) -> Callable[[Tensor, float], Tensor]:
    """A filter of one volume (D, H, W) of standard deviation 1, for a batch in any unit on any device."""

    def run_all(degraded: Tensor, setting: float) -> Tensor:
        volumes = degraded.detach().float().cpu().numpy()
        filtered = np.empty_like(volumes)
        for index in np.ndindex(volumes.shape[:2]):
            scale = float(volumes[index].std()) or 1.0
            filtered[index] = run(volumes[index] / scale, setting) * scale
        return torch.from_numpy(filtered).to(degraded.device)

    return run_all


FILTERS = (
    Filter("Gaussian filter", "σ in voxels", SIGMAS, gaussian_filter),
    Filter("median filter", "width in voxels", (2.0, 3.0, 4.0, 5.0), _each(lambda v, n: median_filter(v, round(n)))),
    Filter(
        "total variation",  # Chambolle 2004
        "weight in standard deviations of the input",
        (0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0),
        _each(denoise_tv_chambolle),
    ),
    Filter(
        "non-local means",  # Buades et al. 2005; a patch distance of 5 gains 0.01 of NRMSE and takes four times as long
        "h in standard deviations of the input",
        (0.3, 0.5, 0.7, 1.0, 1.4),
        _each(lambda v, h: denoise_nl_means(v, patch_size=3, patch_distance=3, h=h, fast_mode=True)),
    ),
)
