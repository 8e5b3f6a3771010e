"""The 3-kernel convolution of the generators, with a weight gradient that is fast on any CPU.

On CPUs without AVX-512, oneDNN computes the weight gradient of a 3D convolution through a copy of 27 shifted inputs:
measured at 64^3 it takes 5 to 10 times as long as the forward pass. As nine matrix products over views of one padded
copy it takes less than half of that; `experiments/benchmarks/convolution.py` measures both.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv3d_input


class Convolution(nn.Conv3d):
    """Convolution with kernel 3, stride 1 and padding 1; a plain `nn.Conv3d` but for its speed on a CPU.

    Its gradient cannot be differentiated again, so it has no place in a critic with a gradient penalty.

    Args:
        in_channels: channels in.
        out_channels: channels out.
        bias: add a bias per channel.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) to (B, out_channels, D, H, W)."""
        plain = input.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
        if plain or not (torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(input)
        output: Tensor = _Convolve.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]  # torch's
        return output


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(input, weight)
        return F.conv3d(input, weight, bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        input, weight = ctx.saved_tensors
        to_input, to_weight, to_bias = ctx.needs_input_grad
        return (
            conv3d_input(input.shape, weight, gradient, padding=1) if to_input else None,  # type: ignore[no-untyped-call]
            weight_gradient(input, gradient) if to_weight else None,
            gradient.sum(dim=(0, 2, 3, 4)) if to_bias else None,
        )


def weight_gradient(input: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of a 3-kernel, stride 1, padding 1 convolution with respect to its weight.

    In a padded volume laid out flat, a shift by (dz, dy, dx) voxels is a shift by one number of elements: each tap of
    the kernel is a product of the output's gradient with a view of the input, and nothing is copied. The padding of the
    gradient is zero, so that what a shift wraps around does not count.

    Args:
        input: (B, I, D, H, W).
        gradient: (B, O, D, H, W), of the output.

    Returns:
        (O, I, 3, 3, 3).
    """
    row = input.shape[4] + 2
    section = row * (input.shape[3] + 2)
    padded = F.pad(input, (1, 1, 1, 1, 1, 1)).flatten(2)
    length = padded.shape[2] - 2 * section - 2 * row - 2  # what the furthest shift leaves
    outputs = F.pad(gradient, (0, 2, 0, 2, 0, 2)).flatten(2)[:, :, :length]
    # The three shifts along x side by side: three times fewer, larger products.
    reach = length + 2 * section + 2 * row
    columns = torch.stack([padded[:, :, dx : dx + reach] for dx in range(3)], dim=2).flatten(1, 2)
    taps = [
        torch.bmm(outputs, columns[:, :, dz * section + dy * row :][:, :, :length].mT).sum(dim=0)
        for dz in range(3)
        for dy in range(3)
    ]
    out_channels, in_channels = gradient.shape[1], input.shape[1]
    return torch.stack(taps, dim=1).view(out_channels, 3, 3, in_channels, 3).permute(0, 3, 1, 2, 4)
