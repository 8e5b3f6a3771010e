"""All that is measured of a denoised volume, by name: what tables, figures and reports are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cryoden.metrics.fsc import fourier_shell_correlation, resolution_at, wedge_correlation, wedge_energy
from cryoden.metrics.functional import mse, nrmse, particle_mask, psnr, ssim


@dataclass(frozen=True)
class Measure:
    """How a measure is shown, and what it means.

    Args:
        heading: with its unit.
        about: one sentence.
        better: +1 where more is better, -1 where less is, 0 where neither is.
        factor: what a value is multiplied by before it is shown.
        digits: after the point.
    """

    heading: str
    about: str
    better: int
    factor: float = 1.0
    digits: int = 3

    def show(self, value: float) -> str:
        """A value as text; a dash where there is none."""
        return f"{value * self.factor:.{self.digits}f}" if np.isfinite(value) else "–"


MEASURES = {
    "nrmse": Measure("NRMSE", "RMS error over the RMS of the clean volume; an empty volume scores 1", -1),
    "masked_nrmse": Measure(
        "NRMSE in mask", "NRMSE where the particle is (density above 5 % of the maximum, grown by 2 voxels)", -1
    ),
    "psnr": Measure("PSNR dB", "peak signal-to-noise ratio, data range 1", 1, 1.0, 2),
    "mse": Measure("MSE ×10⁻³", "mean squared error", -1, 1000.0, 3),
    "ssim": Measure("SSIM", "structural similarity; an empty volume scores 0.95 or more", 1),
    "masked_ssim": Measure("SSIM in mask", "SSIM where the particle is, so that empty space does not flatter", 1),
    "fsc_area": Measure("FSC area", "mean Fourier shell correlation from the first shell to Nyquist", 1),
    "resolution_0.5": Measure(
        "res. at 0.5, Å", "where the Fourier shell correlation with the clean volume falls below 0.5", -1, 1.0, 1
    ),
    "resolution_0.143": Measure("res. at 0.143, Å", "where it falls below 0.143", -1, 1.0, 1),
    "fsc_measured": Measure("FSC measured", "mean FSC outside the missing wedge: what was denoised", 1),
    "fsc_wedge": Measure("FSC in wedge", "mean FSC inside the missing wedge: what was filled in", 1),
    "wedge_power": Measure(
        "filled in", "power inside the missing wedge, over that of the clean volume there: 1 is as much as belongs", 0
    ),
    "invented": Measure(
        "invented", "share of that power that the clean volume does not have: 1 - correlation² inside the wedge", -1
    ),
}
CURVES = ("fsc", "fsc_measured", "fsc_wedge")

_FILLED = 1e-4  # with less of the clean volume's power in the wedge than this, nothing was filled in


def measure(
    denoised: Tensor, clean: Tensor, measured: Tensor, voxel_size: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Measure denoised volumes against the clean ones.

    Args:
        denoised: (B, 1, D, H, W).
        clean: (B, 1, D, H, W), in the same unit; background 0, maximum 1.
        measured: bool, broadcastable to (B, D, H, W // 2 + 1), in the layout of `torch.fft.rfftn`: True where the
            degraded volumes hold something of the clean ones, as `measured_by_all` gives it.
        voxel_size: Å.

    Returns:
        One value per volume (B,) for each of `MEASURES`, and one curve per volume (B, S) for each of `CURVES`, at the
        frequencies of `shell_frequencies`; all on the CPU. nan where there is nothing to measure, such as a missing
        wedge of a volume that has none; a resolution is infinite where not even the first shell is resolved.
    """
    shape = tuple(clean.shape[2:])
    mask = particle_mask(clean)
    fsc = fourier_shell_correlation(denoised, clean)
    wedge_power = wedge_energy(denoised, measured) / wedge_energy(clean, measured)
    in_wedge = fourier_shell_correlation(denoised, clean, ~measured)
    empty = (wedge_power <= _FILLED)[:, None] & ~in_wedge.isnan()  # of all but rounding, which correlates with nothing
    curves = {
        "fsc": fsc,
        "fsc_measured": fourier_shell_correlation(denoised, clean, measured),
        "fsc_wedge": in_wedge.masked_fill(empty, 0.0),
    }
    invented = (1 - wedge_correlation(denoised, clean, measured).square()).clamp(min=0)
    values = {
        "nrmse": nrmse(denoised, clean),
        "masked_nrmse": nrmse(denoised, clean, mask),
        "psnr": psnr(denoised, clean),
        "mse": mse(denoised, clean),
        "ssim": ssim(denoised, clean),
        "masked_ssim": ssim(denoised, clean, mask=mask),
        "fsc_area": _area(fsc),
        "resolution_0.5": resolution_at(fsc, 0.5, voxel_size, shape),  # type: ignore[arg-type]
        "resolution_0.143": resolution_at(fsc, 0.143, voxel_size, shape),  # type: ignore[arg-type]
        "fsc_measured": _area(curves["fsc_measured"]),
        "fsc_wedge": _area(curves["fsc_wedge"]),
        "wedge_power": wedge_power.where(wedge_power.isfinite(), torch.nan),
        "invented": invented.where(wedge_power > _FILLED, torch.nan),
    }
    return {k: v.cpu() for k, v in values.items()}, {k: v.cpu() for k, v in curves.items()}


def _area(curves: Tensor) -> Tensor:
    """The mean over shells; shell 0 is the mean of the volume, which says nothing of its shape."""
    return curves[:, 1:].nanmean(dim=1)


def spread(values: ArrayLike, q: Sequence[float] = (5, 50, 95)) -> list[float]:
    """Percentiles over volumes, of those that have a value.

    Args:
        values: (n,); nan is left out.
        q: percentages.

    Returns:
        One number for each percentage: interpolated linearly, but the nearest value where one is infinite, as a
        resolution may be; nan where no volume has a value.

    Examples:
        >>> spread([1.0, 2.0, float("nan")])
        [1.05, 1.5, 1.95]
    """
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    if array.size == 0:
        return [float("nan")] * len(q)
    method = "linear" if np.isfinite(array).all() else "nearest"
    return [round(float(v), 12) for v in np.percentile(array, q, method=method)]  # type: ignore[call-overload]


def present(scores: Mapping[str, Mapping[str, ArrayLike]]) -> list[str]:
    """The measures that at least one volume of one method has a value for, in the order of `MEASURES`."""
    return [name for name in MEASURES if any(np.isfinite(np.asarray(method[name])).any() for method in scores.values())]
