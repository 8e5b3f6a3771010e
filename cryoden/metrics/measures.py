"""All that is measured of a denoised volume, by name: the one vocabulary of training, tables, figures and reports."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cryoden.errors import CryodenError
from cryoden.metrics import functional
from cryoden.metrics.fsc import Spectra, resolution_at, shell_sums

PERCENTILES = (5, 50, 95)
_FILLED = 1e-4  # with less of the clean volume's power in the wedge than this, nothing was filled in


@dataclass(frozen=True, eq=False)
class Pair:
    """Denoised volumes beside the clean ones, with what several measures need of them: each made once, when asked for.

    Attributes:
        denoised: (B, 1, D, H, W).
        clean: (B, 1, D, H, W), in the same unit; background 0.
        measured: bool, broadcastable to (B, D, H, W // 2 + 1), in the layout of `torch.fft.rfftn`: True where the
            degraded volumes hold something of the clean ones, as `measured_by_all` gives it.
        voxel_size: Å; by default it is not known, and then no resolution is.
    """

    denoised: Tensor
    clean: Tensor
    measured: Tensor
    voxel_size: float = math.nan

    @cached_property
    def finite(self) -> Tensor:
        """(B,) bool, which denoised volumes are."""
        return self.denoised.isfinite().flatten(1).all(1)

    @cached_property
    def mask(self) -> Tensor:
        """(B, 1, D, H, W) bool, where the particle is."""
        return functional.particle_mask(self.clean)

    @cached_property
    def spectra(self) -> Spectra:
        """Both in Fourier space."""
        return Spectra.of(self.denoised, self.clean)

    @cached_property
    def fsc(self) -> Tensor:
        """(B, S), Fourier shell correlation everywhere."""
        return self.spectra.shell_correlation()

    @cached_property
    def fsc_measured(self) -> Tensor:
        """(B, S), Fourier shell correlation outside the missing wedge; nan where nothing was measured."""
        return self.spectra.shell_correlation(self.measured)

    @cached_property
    def fsc_wedge(self) -> Tensor:
        """(B, S), Fourier shell correlation inside the missing wedge; nan where all was measured."""
        correlation = self.spectra.shell_correlation(~self.measured)
        empty = (self.wedge_power <= _FILLED)[:, None] & ~correlation.isnan()
        return correlation.masked_fill(empty, 0.0)  # the rounding of a Fourier transform correlates with nothing

    @cached_property
    def wedge_power(self) -> Tensor:
        """(B,), power inside the missing wedge over the clean volume's; nan where all was measured."""
        return self.spectra.power_ratio(~self.measured)

    def resolution(self, threshold: float) -> Tensor:
        """(B,), Å up to which the Fourier shell correlation stays above a threshold."""
        depth, height, width = self.clean.shape[2:]
        return resolution_at(self.fsc, threshold, self.voxel_size, (depth, height, width))


Function = Callable[[Pair], Tensor]
"""Pair → one value per volume (B,); nan where there is nothing to measure, such as a wedge where all was measured."""


@dataclass(frozen=True)
class Measure:
    """What is measured, how it is shown, and what it means.

    Args:
        of: what computes it.
        heading: with its unit.
        about: one sentence.
        better: +1 where more is better, -1 where less is, 0 where neither is.
        factor: what a value is multiplied by before it is shown.
        digits: after the point.
    """

    of: Function
    heading: str
    about: str
    better: int
    factor: float = 1.0
    digits: int = 3

    def __call__(self, denoised: Tensor, clean: Tensor, measured: Tensor, voxel_size: float = math.nan) -> Tensor:
        """One value per volume (B,) of volumes (B, 1, D, H, W); see `Pair`."""
        return self.of(Pair(denoised, clean, measured, voxel_size))

    @property
    def column(self) -> str:
        """The heading, and an arrow to where it is better."""
        return self.heading + {-1: " ↓", 0: "", 1: " ↑"}[self.better]

    def show(self, value: float) -> str:
        """A value as text, with at most four digits that count; a dash where there is none."""
        shown = value * self.factor
        if not math.isfinite(shown):
            return "–"
        whole = len(str(int(abs(shown))))
        return f"{shown:.{max(0, min(self.digits, 4 - whole))}f}"


MEASURES: dict[str, Measure] = {}
"""By name, in the order of tables. NRMSE comes first, since SSIM flatters an empty box."""


def as_measure(
    heading: str, better: int, *, factor: float = 1.0, digits: int = 3, name: str = ""
) -> Callable[[Function], Function]:
    """Make a function one of the `MEASURES`, so that tables, results and reports show it.

    Args:
        heading: with its unit.
        better: +1 where more is better, -1 where less is, 0 where neither is.
        factor: what a value is multiplied by before it is shown.
        digits: after the point.
        name: in results; by default the function's. Its docstring says in one sentence what it means.

    Returns:
        A decorator of a function of a `Pair` that gives one value per volume (B,).

    Raises:
        CryodenError: there is a measure of this name.
    """

    def add(of: Function) -> Function:
        key = name or of.__name__
        if key in MEASURES:
            raise CryodenError(f"measure {key}: there is one of this name; choose another")
        about = (of.__doc__ or "").rstrip(".")
        MEASURES[key] = Measure(of, heading, about, better, factor, digits)
        return of

    return add


@as_measure("NRMSE", -1)
def nrmse(pair: Pair) -> Tensor:
    """RMS error over the RMS of the clean volume; an empty volume scores 1."""
    return functional.nrmse(pair.denoised, pair.clean)


@as_measure("NRMSE in mask", -1)
def masked_nrmse(pair: Pair) -> Tensor:
    """NRMSE where the particle is (density above 5 % of the maximum, grown by 2 voxels)."""
    return functional.nrmse(pair.denoised, pair.clean, pair.mask)


@as_measure("PSNR dB", 1, digits=2)
def psnr(pair: Pair) -> Tensor:
    """Peak signal-to-noise ratio, data range 1."""
    return functional.psnr(pair.denoised, pair.clean)


@as_measure("MSE ×10⁻³", -1, factor=1000.0)
def mse(pair: Pair) -> Tensor:
    """Mean squared error."""
    return functional.mse(pair.denoised, pair.clean)


@as_measure("SSIM", 1)
def ssim(pair: Pair) -> Tensor:
    """Structural similarity; the emptier a box, the nearer to 1 an empty volume scores."""
    return functional.ssim(pair.denoised, pair.clean)


@as_measure("SSIM in mask", 1)
def masked_ssim(pair: Pair) -> Tensor:
    """SSIM where the particle is, so that empty space does not flatter."""
    return functional.ssim(pair.denoised, pair.clean, mask=pair.mask)


@as_measure("FSC area", 1)
def fsc_area(pair: Pair) -> Tensor:
    """Mean Fourier shell correlation from the first shell to Nyquist."""
    return _area(pair.fsc)


@as_measure("res. at 0.5, Å", -1, digits=1, name="resolution_0.5")
def resolution_half(pair: Pair) -> Tensor:
    """Where the Fourier shell correlation with the clean volume falls below 0.5."""
    return pair.resolution(0.5)


@as_measure("res. at 0.143, Å", -1, digits=1, name="resolution_0.143")
def resolution_seventh(pair: Pair) -> Tensor:
    """Where it falls below 0.143."""
    return pair.resolution(0.143)


@as_measure("sharpness", 0)
def sharpness(pair: Pair) -> Tensor:
    """Power above half of Nyquist, over that of the clean volume there: less than 1 is smoother than the truth."""
    spectra = pair.spectra
    fine = min(spectra.shape) // 4 + 1
    ours, theirs = (shell_sums(power, spectra.shape)[:, fine:].sum(1) for power in (spectra.denoised, spectra.clean))
    return ours / theirs.where(theirs > 0, torch.nan)


@as_measure("FSC measured", 1)
def fsc_measured(pair: Pair) -> Tensor:
    """Mean FSC outside the missing wedge: what was denoised."""
    return _area(pair.fsc_measured)


@as_measure("FSC in wedge", 1)
def fsc_wedge(pair: Pair) -> Tensor:
    """Mean FSC inside the missing wedge: what was filled in."""
    return _area(pair.fsc_wedge)


@as_measure("filled in", 0)
def wedge_power(pair: Pair) -> Tensor:
    """Power inside the missing wedge, over that of the clean volume there: 1 is as much as belongs."""
    return pair.wedge_power


@as_measure("invented", -1)
def invented(pair: Pair) -> Tensor:
    """Share of that power that the clean volume does not have: 1 - correlation² inside the wedge."""
    correlation = pair.spectra.correlation(~pair.measured).clamp(0, 1)  # of the wrong sign nothing is right
    return (1 - correlation.square()).where(pair.wedge_power > _FILLED, torch.nan)


CURVES: dict[str, Function] = {
    "fsc": lambda pair: pair.fsc,
    "fsc_measured": lambda pair: pair.fsc_measured,
    "fsc_wedge": lambda pair: pair.fsc_wedge,
}
"""By name: pair → one curve per volume (B, S), at the frequencies of `shell_frequencies`."""


def measure(
    denoised: Tensor, clean: Tensor, measured: Tensor, voxel_size: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Measure denoised volumes against the clean ones, in every way there is.

    Args:
        denoised: (B, 1, D, H, W).
        clean: (B, 1, D, H, W), in the same unit; background 0, maximum 1.
        measured: bool, broadcastable to (B, D, H, W // 2 + 1), as in `Pair`.
        voxel_size: Å.

    Returns:
        One value per volume (B,) for each of `MEASURES`, and one curve per volume (B, S) for each of `CURVES`; all on
        the CPU. nan where there is nothing to measure, such as a missing wedge of a volume that has none; a resolution
        is infinite where not even the first shell is resolved.
    """
    pair = Pair(denoised, clean, measured, voxel_size)
    values = {name: each.of(pair).cpu() for name, each in MEASURES.items()}
    return values, {name: of(pair).cpu() for name, of in CURVES.items()}


def percentiles(values: ArrayLike, q: Sequence[float] = PERCENTILES) -> list[float]:
    """Percentiles over volumes, of those that have a value.

    Args:
        values: (n,); nan is left out.
        q: percentages.

    Returns:
        One number for each percentage: interpolated linearly, but the nearest value where one is infinite, as a
        resolution may be; nan where no volume has a value.

    Examples:
        >>> percentiles([1.0, 2.0, float("nan")])
        [1.05, 1.5, 1.95]
    """
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    if array.size == 0:
        return [math.nan] * len(q)
    method = "linear" if np.isfinite(array).all() else "nearest"
    return [round(float(v), 12) for v in np.percentile(array, q, method=method)]  # type: ignore[call-overload]


def _area(curves: Tensor) -> Tensor:
    """The mean over shells; shell 0 is the mean of the volume, which says nothing of its shape."""
    return curves[:, 1:].nanmean(dim=1)
