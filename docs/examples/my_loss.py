"""A loss of one's own."""

from torch import Tensor


def charbonnier(denoised: Tensor, clean: Tensor) -> Tensor:
    """An absolute error that is smooth at zero (Charbonnier et al. 1994), relative to the clean volumes; zeros score 1.

    Args:
        denoised: (B, 1, D, H, W).
        clean: (B, 1, D, H, W).

    Returns:
        Scalar.
    """
    smooth = 0.01
    return ((denoised - clean).square() + smooth**2).sqrt().mean() / (clean.square() + smooth**2).sqrt().mean()
