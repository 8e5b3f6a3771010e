"""Two halves of a tomogram: whether they belong together, their average, and what they agree on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoden.errors import CryodenError
from cryoden.metrics.fsc import fourier_shell_correlation, resolution_at, shell_frequencies
from cryoden.volume import Volume, central, release

_ROWS = 8
_SAME = 0.9999
_THRESHOLDS = (0.5, 0.143)


def check_halves(first: Volume, second: Volume, names: tuple[Path, ...]) -> None:
    """Refuses two volumes that cannot be the halves of one tomogram.

    Raises:
        CryodenError: Shape or voxel size differ.
    """
    for what, a, b in (
        ("shape (z, y, x)", first.data.shape, second.data.shape),
        ("voxel size in Å", round(first.voxel_size, 3), round(second.voxel_size, 3)),
    ):
        if a != b:
            raise CryodenError(f"{names[0]} and {names[1]} are no two halves: their {what} is {a} and {b}")


def correlation(first: NDArray[Any], second: NDArray[Any]) -> Tensor:
    """Fourier shell correlation of the centres of two volumes, faded out towards their faces.

    Args:
        first: (D, H, W), any unit; may be mapped.
        second: The same.

    Returns:
        (S,), S = n // 2 + 1 with n the shortest axis, at most 192.
    """
    return fourier_shell_correlation(_centre(first), _centre(second))[0]


def fsc_table(raw: Tensor, denoised: Tensor, volume: Volume) -> list[str]:
    """The two correlations beside each other, in a few lines.

    Args:
        raw: (S,), between the halves as they were.
        denoised: (S,), between the denoised halves.
        volume: One of them.
    """
    depth, height, width = central(volume.data).shape
    shape = depth, height, width
    frequencies = shell_frequencies(shape)
    chosen = sorted({round(place) for place in np.linspace(1, len(frequencies) - 1, _ROWS)})
    lines = [f"{'FSC between the halves':>24}  {'raw':>8}  {'denoised':>8}"]
    for shell in chosen:
        length = volume.voxel_size / float(frequencies[shell])
        lines.append(f"{length:>22.1f} Å  {float(raw[shell]):>8.3f}  {float(denoised[shell]):>8.3f}")
    for threshold in _THRESHOLDS:
        both = (resolution_at(curve[None], threshold, volume.voxel_size, shape) for curve in (raw, denoised))
        told = (f"{float(value):>6.1f} Å" if value.isfinite() else f"{'none':>8}" for value in both)
        lines.append(f"{f'above {threshold} down to':>24}  {'  '.join(told)}")
    return lines


def refuse_copies(raw: Tensor, names: tuple[Path, ...]) -> None:
    """Refuses halves that hold the same: their agreement would prove nothing.

    Raises:
        CryodenError: The correlation (S,) of the raw halves is 1 in every shell.
    """
    if bool((raw[1:] > _SAME).all()):
        raise CryodenError(f"{names[0]} and {names[1]} hold the same voxels; they must be two independent halves")


def average(first: NDArray[Any], second: NDArray[Any], result: NDArray[np.float64]) -> None:
    """Writes the mean of two volumes (D, H, W) into a third, a section at a time."""
    for z in range(len(result)):
        result[z] = (first[z].astype(np.float64) + second[z]) / 2
        for data in (first, second, result):
            release(data)


def _centre(data: NDArray[Any]) -> Tensor:
    """(1, 1, d, h, w) float32: the middle, less its mean, faded out so that no cut shows in Fourier space."""
    values = torch.from_numpy(central(data).astype(np.float32))
    release(data)
    values -= values.mean()
    for axis, size in enumerate(values.shape):
        window = torch.hann_window(size + 2, periodic=False)[1:-1]
        values *= window.view([-1 if each == axis else 1 for each in range(3)])
    return values[None, None]
