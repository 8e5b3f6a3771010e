"""Tiles resampled to another number of voxels: what a network trained at another voxel size needs."""

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor


@cache
def resampling_matrix(size: int, new_size: int) -> Tensor:
    """The matrix that resamples one axis, by its cosine transform: as Fourier resampling, of the mirrored axis.

    To more voxels and back is the identity. To fewer voxels, what is finer than they hold is taken out, not folded in.
    Nothing wraps around from one end to the other.

    Args:
        size: Voxels of the axis.
        new_size: Voxels over the same length.

    Returns:
        (new_size, size) float32; each row sums to 1.
    """
    kept = min(size, new_size)
    forward, backward = _cosines(size)[:kept], _cosines(new_size)[:kept]
    return (backward.T @ forward * math.sqrt(new_size / size)).float()


def resample(volumes: Tensor, shape: Sequence[int]) -> Tensor:
    """Resamples all three axes.

    Args:
        volumes: (B, C, D, H, W), any unit.
        shape: Voxels of the three axes afterwards, over the same lengths.

    Returns:
        (B, C, *shape).
    """
    for axis, size in zip((2, 3, 4), shape, strict=True):
        matrix = resampling_matrix(volumes.shape[axis], size).to(volumes.device)
        volumes = (volumes.transpose(axis, -1) @ matrix.T).transpose(axis, -1)
    return volumes.contiguous()


def _cosines(size: int) -> Tensor:
    """(size, size) float64: the orthonormal cosine transform (DCT-II), a frequency per row."""
    place = torch.arange(size, dtype=torch.float64) + 0.5
    rows = torch.cos(torch.pi / size * torch.arange(size, dtype=torch.float64)[:, None] * place)
    rows[0] /= math.sqrt(2)
    return rows * math.sqrt(2 / size)
