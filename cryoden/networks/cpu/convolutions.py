"""Convolutions of volumes, each computed in the fastest way found for it."""

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cryoden.networks.cpu.schemes import (
    DOUBLING,
    HALVING,
    SAME,
    UPSAMPLING,
    autocast,
    convolve_by,
    is_channels_last_on_cpu,
    pays,
)
from cryoden.networks.cpu.switch import plain


def carefully(convolve: Callable[..., Tensor], *volumes: Tensor) -> Tensor:
    """`convolve(*volumes)`, but in float32 for tiny volumes under a CPU's autocast.

    There oneDNN's bfloat16 gradient of the weights is garbage where the output is two voxels wide (kernels of 3 to 5,
    any number of channels; seen with torch 2.13 on a CPU with avx512_bf16): at the bottom of a network, where float32
    costs nothing.

    Args:
        convolve: Takes the volumes.
        volumes: Each (B, C, D, H, W).

    Returns:
        (B, O, ...).
    """
    on_cpu = volumes[0].device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if not on_cpu or min(size for each in volumes for size in each.shape[2:]) > 4:
        return convolve(*volumes)
    with torch.autocast("cpu", enabled=False):
        return convolve(*(each.float() for each in volumes))


def convolve(
    volumes: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 1
) -> Tensor:
    """`conv3d(volumes, weight, bias, stride, padding)`: by fewer products on a CPU where that pays.

    Args:
        volumes: (B, C, D, H, W).
        weight: (O, C, K, K, K).
        bias: (O,), or None.
        stride: Of all axes.
        padding: Zeros at both ends of all axes.

    Returns:
        (B, O, ...).
    """
    kind = (weight.shape[2], stride, padding)
    scheme = {(3, 1, 1): SAME, (5, 2, 2): HALVING}.get(kind)
    if scheme and pays(scheme, volumes, weight):
        return convolve_by(scheme, volumes, weight, bias)
    if kind == (3, 1, 1) and len(weight) == 1 and is_channels_last_on_cpu(volumes):
        return _convolve_to_one(volumes, weight, bias)
    return F.conv3d(volumes, weight, bias, stride, padding)


def convolve_doubling(volumes: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The thesis's transposed convolution, kernel 5 and stride 2, by fewer products on a CPU where that pays.

    Args:
        volumes: (B, C, D, H, W).
        weight: (C, O, 5, 5, 5).
        bias: (O,), or None.

    Returns:
        (B, O, 2D, 2H, 2W).
    """
    if pays(DOUBLING, volumes, weight):
        return convolve_by(DOUBLING, volumes, weight, bias)
    return F.conv_transpose3d(volumes, weight, bias, stride=2, padding=2, output_padding=1)


def halve(volumes: Tensor) -> Tensor:
    """`avg_pool3d(volumes, 2)`, on a CPU by a convolution where channels come last.

    Pooling brings them first, and under autocast takes a copy of the whole in float32: most of the memory that a
    network needed, and fifty times as long (one core of an AMD EPYC, torch 2.13, 32 channels of 96³ in bfloat16).

    Args:
        volumes: (B, C, D, H, W), even.

    Returns:
        (B, C, D / 2, H / 2, W / 2).
    """
    if not is_channels_last_on_cpu(volumes):
        return F.avg_pool3d(volumes, 2)
    channels = volumes.shape[1]
    mean = volumes.new_full((channels, 1, 2, 2, 2), 1 / 8)
    return F.conv3d(volumes, mean, stride=2, groups=channels)


def convolve_concatenated(decoded: Tensor, skip: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`conv3d(cat([decoded, skip]), weight, bias, padding=1)`, without the concatenation.

    A convolution is linear, so its two halves may be computed apart and added. Nothing is copied or kept twice, and
    the gradients come as whole volumes: a slice of concatenated channels makes the backward pass of the norm before it
    several times slower.

    Args:
        decoded: (B, C, D, H, W).
        skip: (B, S, D, H, W).
        weight: (O, C + S, 3, 3, 3).
        bias: (O,), or None.

    Returns:
        (B, O, D, H, W).
    """
    if plain():
        return F.conv3d(torch.cat([decoded, skip], dim=1), weight, bias, padding=1)
    channels = decoded.shape[1]
    return convolve(decoded, weight[:, :channels], bias).add_(convolve(skip, weight[:, channels:]))


def convolve_upsampled(decoded: Tensor, skip: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`conv3d(cat([upsample(decoded), skip]), weight, bias, padding=1)`, without the upsampled volume.

    Its two halves are computed apart, as in `convolve_concatenated`. Seen from the coarse voxels, nearest neighbour
    upsampling followed by a convolution with kernel 3 is one transposed convolution with kernel 4 and stride 2: 8
    products per voxel and pair of channels where the plain form takes 27. Exact up to rounding, borders too: what lies
    outside is zero in both.

    Args:
        decoded: (B, C, D, H, W).
        skip: (B, S, 2D, 2H, 2W).
        weight: (O, C + S, 3, 3, 3).
        bias: (O,), or None.

    Returns:
        (B, O, 2D, 2H, 2W).
    """
    if plain():
        return convolve_concatenated(F.interpolate(decoded, scale_factor=2.0), skip, weight, bias)
    channels = decoded.shape[1]
    to_decoded = weight[:, :channels]
    if pays(UPSAMPLING, decoded, to_decoded):
        upsampled = convolve_by(UPSAMPLING, decoded, _upsampling_kernel(to_decoded, axes=2), None)
    else:
        upsampled = F.conv_transpose3d(decoded, _upsampling_kernel(to_decoded, axes=3), stride=2, padding=1)
    return convolve(skip, weight[:, channels:], bias).add_(upsampled)


def _upsampling_kernel(weight: Tensor, axes: int) -> Tensor:
    """(O, C, 3, 3, 3) of a convolution to (C, O, ...) of the transposed one that upsamples the last `axes` x2 first.

    Along each of them the mirrored kernel, three taps, is convolved with a box of 2, the two fine voxels that a coarse
    one fills: four taps.
    """
    kernel = weight.transpose(0, 1)
    for axis in range(5 - axes, 5):
        mirrored = kernel.flip(axis).movedim(axis, -1)
        kernel = (F.pad(mirrored, (1, 0)) + F.pad(mirrored, (0, 1))).movedim(-1, axis)
    return kernel


def _convolve_to_one(volumes: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`conv3d(volumes, weight, bias, padding=1)` for one channel out.

    oneDNN computes 16 channels for the one that is wanted. A matrix product gives what each voxel adds to each of the
    27 voxels around it, and those are added up.
    """
    rows, taps = autocast(volumes.permute(0, 2, 3, 4, 1), weight[0].flatten(1).t())
    answer: Tensor = _ToOne.apply(rows, taps)  # type: ignore[no-untyped-call]
    return answer if bias is None else answer + bias.to(answer.dtype)


class _ToOne(torch.autograd.Function):
    """(B, D, H, W, C) volumes and (27, C) taps to (B, 1, D, H, W)."""

    @staticmethod
    def forward(ctx: Any, volumes: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(volumes, taps)
        batch, *box, channels = volumes.shape
        precise = torch.promote_types(volumes.dtype, torch.float32)
        answer = volumes.new_zeros((batch, *(size + 2 for size in box)), dtype=precise)
        there = [
            tuple(slice(offset, offset + size) for offset, size in zip(offsets, box, strict=True))
            for offsets in product((2, 1, 0), repeat=3)
        ]
        for volume, to_volume in zip(volumes, answer, strict=True):
            for added, where in zip(taps @ volume.reshape(-1, channels).t(), there, strict=True):
                to_volume[where] += added.view(box)
        return answer[:, None, 1:-1, 1:-1, 1:-1].to(volumes.dtype).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        volumes, taps = ctx.saved_tensors
        _, *box, channels = volumes.shape
        around = F.pad(gradient[:, 0], (1,) * 6)
        for axis, size in enumerate(box, 1):
            around = around.unfold(axis, size, 1)
        # (B, 3, 3, 3, D, H, W): where a tap looks forwards its gradient comes from behind, hence the flips.
        around = around.flatten(1, 3).transpose(0, 1).reshape(27, -1)
        to_volumes = (around.t() @ taps.flip(0)).view(volumes.shape)
        return to_volumes, (around @ volumes.reshape(-1, channels)).flip(0)
