"""Training losses, each relative to the clean volume's own power.

Most of a box is empty, and particles differ in size: a plain mean over voxels is tiny, lets large particles dominate,
and pulls a network towards zeros. Divided by the same measure of the clean volume itself, a volume of zeros scores
exactly 1, whatever the particle, so that a training curve says at a glance whether anything was learnt.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
LossName = Literal["l1", "mse"]

_VOXELS = (1, 2, 3, 4)


def l1(denoised: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute error over the mean absolute clean density, averaged over the batch.

    Args:
        denoised: (B, C, D, H, W).
        clean: (B, C, D, H, W), not all zero.

    Returns:
        Scalar; zeros score 1.
    """
    return ((denoised - clean).abs().mean(_VOXELS) / clean.abs().mean(_VOXELS)).mean()


def mse(denoised: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error over the mean squared clean density, averaged over the batch: the square of NRMSE.

    Args:
        denoised: (B, C, D, H, W).
        clean: (B, C, D, H, W), not all zero.

    Returns:
        Scalar; zeros score 1.
    """
    return ((denoised - clean).square().mean(_VOXELS) / clean.square().mean(_VOXELS)).mean()


LOSSES: dict[LossName, Loss] = {"l1": l1, "mse": mse}
