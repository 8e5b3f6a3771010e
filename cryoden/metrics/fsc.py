"""Agreement of volumes frequency by frequency, in all of Fourier space or in the part that was never measured."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoden.metrics.functional import as_pair

_FOURIER = (-3, -2, -1)


@dataclass(frozen=True, eq=False)
class Spectra:
    """Two volumes frequency by frequency, in the layout of `torch.fft.rfftn`: one transform, and all that follows.

    Attributes:
        cross: (B, D, H, W // 2 + 1), cross power; what stands for two frequencies is counted twice.
        denoised: (B, D, H, W // 2 + 1), power of the denoised volumes.
        clean: (B, D, H, W // 2 + 1), power of the clean ones.
        weight: (1, D, H, W // 2 + 1), how many frequencies each value stands for.
        shape: (D, H, W) of the volumes in voxels.
    """

    cross: Tensor
    denoised: Tensor
    clean: Tensor
    weight: Tensor
    shape: tuple[int, ...]

    @classmethod
    def of(cls, denoised: Tensor, clean: Tensor) -> "Spectra":
        """Transform volumes.

        Args:
            denoised: (B, 1, D, H, W).
            clean: (B, 1, D, H, W), in any unit.

        Raises:
            CryodenError: The shapes differ, or are not five-dimensional.
        """
        denoised, clean = as_pair(denoised, clean)
        weight = multiplicity(clean).expand(1, *clean.shape[2:4], -1)
        a, b = (torch.fft.rfftn(volumes[:, 0], dim=_FOURIER, norm="ortho") for volumes in (denoised, clean))
        cross = (a.real * b.real + a.imag * b.imag) * weight
        return cls(cross, power(a) * weight, power(b) * weight, weight, tuple(clean.shape[2:]))

    def shell_correlation(self, region: Tensor | None = None) -> Tensor:
        """(B, S), see `fourier_shell_correlation`."""
        parts = (self.cross, self.denoised, self.clean, self.weight)
        cross, power_a, power_b, count = (
            shell_sums(values if region is None else values * region, self.shape) for values in parts
        )
        return (cross / _geometric_mean(power_a, power_b)).where(count > 0, torch.nan)

    def correlation(self, region: Tensor) -> Tensor:
        """Whether what the denoised volumes hold in a region is the truth.

        Args:
            region: Bool, broadcastable to (B, D, H, W // 2 + 1), such as `~measured` for the missing wedge.

        Returns:
            (B,), the correlation of the two there: 1 is the truth, 0 has nothing to do with it, or nothing is there but
            what the rounding of a Fourier transform leaves.
        """
        cross, power_a, power_b = (
            (values * region).sum(_FOURIER) for values in (self.cross, self.denoised, self.clean)
        )
        rounding = torch.finfo(power_a.dtype).eps ** 2 * self.denoised.sum(_FOURIER)
        return (cross / _geometric_mean(power_a, power_b)).where(power_a > 100 * rounding, 0.0)

    def power_ratio(self, region: Tensor) -> Tensor:
        """Power of the denoised volumes in a region over that of the clean ones.

        Args:
            region: Bool, broadcastable to (B, D, H, W // 2 + 1), such as `~measured` for the missing wedge.

        Returns:
            (B,); nan where the clean volume has nothing there.
        """
        power_a, power_b = ((values * region).sum(_FOURIER) for values in (self.denoised, self.clean))
        return power_a / power_b.where(power_b > 0, torch.nan)


def fourier_shell_correlation(denoised: Tensor, clean: Tensor, region: Tensor | None = None) -> Tensor:
    """Fourier shell correlation of each pair of volumes.

    Harauz and van Heel 1986, "Exact filters for general geometry three dimensional reconstruction". Shells are
    1 / n cycles per voxel wide, n the shortest axis, and centred on the frequencies that `shell_frequencies` gives.

    Args:
        denoised: (B, 1, D, H, W).
        clean: (B, 1, D, H, W), in any unit.
        region: Bool, broadcastable to (B, D, H, W // 2 + 1), in the layout of `torch.fft.rfftn`: True where to look,
            for instance `~measured` for the missing wedge. By default everywhere.

    Returns:
        (B, S) float32 or better, between -1 and 1, S = n // 2 + 1. A shell in which one of the volumes holds nothing
        has 0, a shell outside the region nan.

    Raises:
        CryodenError: The shapes differ, or are not five-dimensional.
    """
    return Spectra.of(denoised, clean).shell_correlation(region)


def shell_frequencies(shape: tuple[int, int, int]) -> Tensor:
    """The frequencies at the middle of the shells.

    Args:
        shape: (D, H, W) in voxels.

    Returns:
        (S,) float32 in cycles per voxel, from 0 to Nyquist, S = min(shape) // 2 + 1.

    Examples:
        >>> shell_frequencies((4, 8, 8))
        tensor([0.0000, 0.2500, 0.5000])
    """
    n = min(shape)
    return torch.arange(n // 2 + 1) / n


def resolution_at(correlation: Tensor, threshold: float, voxel_size: float, shape: tuple[int, int, int]) -> Tensor:
    """The resolution up to which a Fourier shell correlation stays above a threshold.

    Args:
        correlation: (B, S), from `fourier_shell_correlation`.
        threshold: Where to read it off: 0.5 against the truth, 0.143 between two halves (Rosenthal and Henderson 2003).
        voxel_size: Å.
        shape: (D, H, W) of the volumes in voxels.

    Returns:
        (B,) in Å, interpolated linearly between shells; two voxels (Nyquist) where it never falls below, infinite
        where it is below from the first shell on.
    """
    frequencies = shell_frequencies(shape).to(correlation)
    # shell 0 is the mean of the volume, which says nothing of its shape
    curve = torch.where(correlation.isnan(), -1.0, correlation)[:, 1:]
    below = curve < threshold
    first = below.int().argmax(dim=1)
    rows = torch.arange(len(curve), device=curve.device)
    high, low = curve[rows, (first - 1).clamp(min=0)], curve[rows, first]
    place = frequencies[1:][first] - (threshold - low) / (high - low).clamp(min=1e-12) / min(shape)
    place = torch.where(first == 0, 0.0, place)
    return voxel_size / torch.where(below.any(dim=1), place, 0.5)


def shell_sums(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sums over shells of frequencies.

    Args:
        values: (B, D, H, W // 2 + 1), in the layout of `torch.fft.rfftn`; what stands for two frequencies, as
            `multiplicity` tells, is counted once.
        shape: (D, H, W) in voxels.

    Returns:
        (B, S), S = min(shape) // 2 + 1; frequencies beyond Nyquist, in the corners, are left out.
    """
    n = min(shape)
    shell = shell_numbers(shape).to(values.device).flatten()
    sums = values.new_zeros(len(values), n // 2 + 2)
    return sums.index_add(1, shell, values.flatten(1))[:, :-1]


def shell_numbers(shape: tuple[int, ...]) -> Tensor:
    """In which shell each frequency lies.

    Args:
        shape: (D, H, W) in voxels.

    Returns:
        (D, H, W // 2 + 1) int64 on the CPU, in the layout of `torch.fft.rfftn`: from 0 to min(shape) // 2, and one more
        for all that is beyond Nyquist, in the corners.
    """
    n = min(shape)
    z, y, x = torch.fft.fftfreq(shape[0]), torch.fft.fftfreq(shape[1]), torch.fft.rfftfreq(shape[2])
    radius = (z[:, None, None].square() + y[:, None].square() + x.square()).sqrt()
    shells: Tensor = (radius * n).round().long().clamp(max=n // 2 + 1)
    return shells


def multiplicity(volumes: Tensor) -> Tensor:
    """How many frequencies each column of `torch.fft.rfftn` stands for.

    Args:
        volumes: (..., W), real.

    Returns:
        (W // 2 + 1,) of the volumes' dtype: 2, but 1 for the columns 0 and, in an even box, Nyquist.
    """
    width = volumes.shape[-1]
    count = torch.full((width // 2 + 1,), 2.0, dtype=volumes.dtype, device=volumes.device)
    count[0] = 1
    if width % 2 == 0:
        count[-1] = 1
    return count


def power(spectrum: Tensor) -> Tensor:
    """The squared magnitude of complex values, differentiable at 0."""
    return spectrum.real.square() + spectrum.imag.square()


def _geometric_mean(power_a: Tensor, power_b: Tensor) -> Tensor:
    """Never zero, and its two roots apart, so that the product of two small powers does not underflow."""
    tiny = torch.finfo(power_a.dtype).tiny
    return power_a.clamp(min=tiny).sqrt() * power_b.clamp(min=tiny).sqrt()
