"""The grey scale of a volume: taken away before a network sees it and given back afterwards.

Tomograms come in any unit and with any offset, so a network works on volumes of mean 0 and standard
deviation 1. Whatever a network does in between, `restore(network(standardize(x, scale)), scale)` with
`scale = Scale.of(x)` follows the grey scale of its input: f(a x + b) = a f(x) + b for every a > 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_FLOAT32 = torch.finfo(torch.float32)


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean and standard deviation of each volume of a batch.

    Attributes:
        mean: (B, 1, 1, 1, 1), in the volumes' unit.
        std: (B, 1, 1, 1, 1), in the volumes' unit, never zero.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, volumes: Tensor) -> Scale:
        """Measures volumes over their channels and voxels, in float64 where the device has it.

        Args:
            volumes: (B, C, D, H, W), any unit.

        Returns:
            The scale of each volume. The standard deviation of a constant volume is the resolution of float32
            at its value, so that it standardizes to zeros and not to NaN.
        """
        wide = volumes.detach().to(_widest(volumes))
        std, mean = torch.std_mean(wide, dim=(1, 2, 3, 4), correction=0, keepdim=True)
        return cls(mean, torch.maximum(std, mean.abs() * _FLOAT32.eps + _FLOAT32.tiny))


def standardize(volumes: Tensor, scale: Scale) -> Tensor:
    """Brings volumes to mean 0 and standard deviation 1.

    Args:
        volumes: (B, C, D, H, W), any unit.
        scale: Their scale, or that of the tomogram they were cut from; in float64 nothing of a large offset
            is lost.

    Returns:
        (B, C, D, H, W) of the volumes' dtype, dimensionless.
    """
    return ((volumes - scale.mean) / scale.std).to(volumes.dtype)


def restore(density: Tensor, scale: Scale, offset: float = 0.0) -> Tensor:
    """Gives a network's output the grey scale of its input.

    A network's density is measured from the background, which is somewhere below the input's mean, so the
    scaled density is shifted to the input's mean.

    Args:
        density: (B, C, D, H, W), in units of the input's standard deviation.
        scale: The scale of the volumes the network was given.
        offset: How far the mean of a clean volume lies from that of the degraded one, in standard deviations of the
            latter. It is 0 unless noise has a mean, as salt and pepper has.

    Returns:
        (B, C, D, H, W) of the density's dtype, in the volumes' unit; the mean of each volume is
        `scale.mean + offset * scale.std`.
    """
    mean = density.mean(dim=(1, 2, 3, 4), keepdim=True, dtype=_widest(density))
    shift = scale.mean + (offset - mean) * scale.std
    return density * scale.std.to(density.dtype) + shift.to(density.dtype)


def offset_of(degraded: Tensor, clean: Tensor) -> Tensor:
    """How far means of clean volumes lie from those of degraded ones, in standard deviations of the latter.

    Args:
        degraded: (B, C, D, H, W), any unit.
        clean: (B, C, D, H, W), in the same.

    Returns:
        (), the mean over the batch.
    """
    scale = Scale.of(degraded)
    mean = clean.mean(dim=(1, 2, 3, 4), keepdim=True, dtype=_widest(clean))
    return ((mean - scale.mean) / scale.std).mean()


def _widest(tensor: Tensor) -> torch.dtype:
    """The widest float of the tensor's device: Apple's has no float64."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
