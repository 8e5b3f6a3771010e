"""How close a denoised volume is to the clean one: pure functions, and what they measure by name.

`PerVolume` and `TrainingMetrics` are in `cryoden.metrics.per_volume`, since torchmetrics takes long to import.
"""

from cryoden.metrics.fsc import fourier_shell_correlation, resolution_at, shell_frequencies
from cryoden.metrics.functional import mse, nrmse, particle_mask, psnr, ssim
from cryoden.metrics.halves import Estimate, HalfScore, Halves, half_scores
from cryoden.metrics.measures import CURVES, MEASURES, PERCENTILES, Measure, Pair, as_measure, measure, percentiles

__all__ = [
    "CURVES",
    "MEASURES",
    "PERCENTILES",
    "Estimate",
    "HalfScore",
    "Halves",
    "Measure",
    "Pair",
    "as_measure",
    "fourier_shell_correlation",
    "half_scores",
    "measure",
    "mse",
    "nrmse",
    "particle_mask",
    "percentiles",
    "psnr",
    "resolution_at",
    "shell_frequencies",
    "ssim",
]
