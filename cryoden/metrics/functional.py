"""Image quality of volumes, one value per volume, equal to scikit-image's."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cryoden.errors import CryodenError

_VOXELS = (1, 2, 3, 4)
_WINDOW = 7  # scikit-image's default
_MASK_THRESHOLD = 0.05
_MASK_DILATION = 2


def mse(denoised: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error of each volume.

    Args:
        denoised: (B, C, D, H, W).
        clean: (B, C, D, H, W), in the same unit.

    Returns:
        (B,), in that unit squared; at least float32.

    Raises:
        CryodenError: The shapes differ, or are not five-dimensional.

    Examples:
        >>> clean = torch.ones(2, 1, 8, 8, 8)
        >>> mse(clean + 0.5, clean)
        tensor([0.2500, 0.2500])
    """
    denoised, clean = as_pair(denoised, clean)
    return (denoised - clean).square().mean(_VOXELS)


def nrmse(denoised: Tensor, clean: Tensor, mask: Tensor | None = None) -> Tensor:
    """Root mean squared error of each volume over the root mean square of the clean one.

    This is scikit-image's "euclidean" normalisation; a volume of zeros scores exactly 1.

    Args:
        denoised: (B, C, D, H, W).
        clean: (B, C, D, H, W), in the same unit.
        mask: (B, C, D, H, W) bool; where to look, for example `particle_mask(clean)`. By default everywhere.

    Returns:
        (B,), without unit; at least float32. nan where the clean volume is all zero: nothing to compare with.

    Raises:
        CryodenError: The shapes differ, or are not five-dimensional.
    """
    denoised, clean = as_pair(denoised, clean, mask)
    if mask is not None:  # the number of voxels cancels in the ratio
        denoised, clean = denoised * mask, clean * mask
    power = clean.square().mean(_VOXELS)
    return ((denoised - clean).square().mean(_VOXELS) / power.where(power > 0, torch.nan)).sqrt()


def psnr(denoised: Tensor, clean: Tensor, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio of each volume.

    Args:
        denoised: (B, C, D, H, W).
        clean: (B, C, D, H, W), in the same unit.
        data_range: Largest minus smallest possible value, in that unit.

    Returns:
        (B,), in dB; at least float32. inf where the volumes are equal.

    Raises:
        CryodenError: The shapes differ, or are not five-dimensional.
    """
    return 10 * torch.log10(data_range**2 / mse(denoised, clean))


def ssim(denoised: Tensor, clean: Tensor, data_range: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Mean structural similarity of each volume, as scikit-image computes it by default.

    Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", with a
    uniform window of 7 x 7 x 7 voxels and sample variances, averaged over the windows that lie inside the volume.
    An empty box is similar to any other: beside a lone particle, a volume of zeros scores 0.95 in 64 voxels
    cubed, and 0.79 in 32, which hold less emptiness.

    Args:
        denoised: (B, C, D, H, W), each axis at least 7 voxels.
        clean: (B, C, D, H, W), in the same unit.
        data_range: Largest minus smallest possible value, in that unit.
        mask: (B, C, D, H, W) bool; only windows whose centre lies in it count. By default all.

    Returns:
        (B,), at most 1; at least float32. nan where no window is left.

    Raises:
        CryodenError: The shapes differ, are not five-dimensional, or the window does not fit.
    """
    denoised, clean = as_pair(denoised, clean, mask)
    if min(clean.shape[2:]) < _WINDOW:
        raise CryodenError(f"SSIM needs axes of at least {_WINDOW} voxels, got {tuple(clean.shape[2:])}")
    # In sum s and difference d of the two volumes, with window means m and variances v, SSIM is
    # (1 - 2 m_d² / (m_s² + m_d² + 2 C1)) (1 - 2 v_d / (v_s + v_d + 2 C2)):
    # four window means instead of five, and nothing cancels where the volumes are nearly equal.
    total, difference = denoised + clean, denoised - clean
    # A constant offset would cancel in the variances: it is added again to the means only.
    level = total.mean(_VOXELS, keepdim=True)
    shift = difference.mean(_VOXELS, keepdim=True)
    mean_s, var_s = _window_moments(total - level)
    mean_d, var_d = _window_moments(difference - shift)
    power_s, power_d = (mean_s + level).square(), (mean_d + shift).square()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = 1 - 2 * power_d / (power_s + power_d + 2 * c1)
    structure = 1 - 2 * var_d / (var_s + var_d + 2 * c2)
    similarity = luminance * structure
    if mask is None:
        return similarity.mean(_VOXELS)
    edge = _WINDOW // 2
    centres = mask[..., edge:-edge, edge:-edge, edge:-edge].to(similarity.dtype)
    return (similarity * centres).sum(_VOXELS) / centres.sum(_VOXELS)


def particle_mask(clean: Tensor, threshold: float = _MASK_THRESHOLD, dilation: int = _MASK_DILATION) -> Tensor:
    """Where the particle is: density above a share of the volume's maximum, and some voxels around it.

    Args:
        clean: (B, C, D, H, W), particles bright on a background of 0.
        threshold: Share of each volume's maximum.
        dilation: Voxels by which the mask grows along each axis (a cube of 2 dilation + 1).

    Returns:
        (B, C, D, H, W) bool; all false where a volume has nothing above 0.

    Examples:
        >>> clean = torch.zeros(1, 1, 9, 9, 9)
        >>> clean[..., 4, 4, 4] = 1
        >>> particle_mask(clean).sum()
        tensor(125)
    """
    mask = clean > threshold * clean.amax(_VOXELS, keepdim=True).clamp(min=0)
    return F.max_pool3d(mask.to(torch.float32), 2 * dilation + 1, stride=1, padding=dilation) > 0


def as_pair(denoised: Tensor, clean: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Both in float32 or better; half precision would lose the small errors that are measured here."""
    if mask is not None and mask.shape != clean.shape:
        raise CryodenError(f"mask: got shape {tuple(mask.shape)}; it must be that of the volumes, {tuple(clean.shape)}")
    if denoised.shape != clean.shape or clean.ndim != 5:
        raise CryodenError(
            f"metrics compare two batches of shape (batch, channel, D, H, W), "
            f"got {tuple(denoised.shape)} and {tuple(clean.shape)}"
        )
    dtype = torch.promote_types(torch.promote_types(denoised.dtype, clean.dtype), torch.float32)
    return denoised.to(dtype), clean.to(dtype)


def _window_moments(volumes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sample variance in every 7-voxel window that lies inside the volume."""
    count = _WINDOW**3
    mean = _window_sum(volumes) / count
    return mean, (_window_sum(volumes.square()) - count * mean.square()) / (count - 1)


def _window_sum(volumes: Tensor) -> Tensor:
    """Sums over 7 x 7 x 7 windows, by doubling (1, 2, 4, then 4 + 2 + 1): running sums would round more."""
    for axis in (2, 3, 4):
        n = volumes.shape[axis]
        two = volumes.narrow(axis, 0, n - 1) + volumes.narrow(axis, 1, n - 1)
        four = two.narrow(axis, 0, n - 3) + two.narrow(axis, 2, n - 3)
        inside = n - 6
        six = four.narrow(axis, 0, inside) + two.narrow(axis, 4, inside)
        volumes = six + volumes.narrow(axis, 6, inside)
    return volumes
