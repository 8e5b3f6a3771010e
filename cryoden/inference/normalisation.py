"""Normalisation inside a network by the whole tomogram: for the thesis's systems, where they have group norm.

A group norm divides each tile by what is in that very tile: empty ice is blown up to the contrast of protein, and the
grid of the tiles shows. Here all tiles of a tomogram are normalised alike, by statistics over a sample of them. Batch
norms, whose statistics come from the training, need nothing; nor do networks without norms, which are made for this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def has_group_norm(network: nn.Module) -> bool:
    """Whether a network normalises by what the volume at hand holds; an instance norm is one of one channel a group."""
    return any(isinstance(module, nn.GroupNorm) for module in network.modules())


@contextmanager
def normalised_alike(network: nn.Module, show_sample: Callable[[], None]) -> Iterator[None]:
    """Within it, each group norm of a network uses the same statistics for whatever it is given.

    Args:
        network: In evaluation mode; its norms are themselves again afterwards.
        show_sample: Runs the network on a sample of what it is going to see; called once.
    """
    norms = [_SharedNorm(module) for module in network.modules() if isinstance(module, nn.GroupNorm)]
    try:
        for shared in norms:
            shared.norm.forward = shared.forward  # type: ignore[method-assign]
        if norms:
            show_sample()
        for shared in norms:
            shared.settle()
        yield
    finally:
        for shared in norms:
            del shared.norm.forward


class _SharedNorm:
    """Stands in for the forward of a group norm: normalises by each batch and gathers, then by what was gathered."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        self.norm = norm
        self.gathered: list[Tensor] = []
        self.moments: Tensor | None = None

    def settle(self) -> None:
        """From now on, normalise by the mean of what was gathered."""
        self.moments = torch.stack(self.gathered).mean(dim=0)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, D, H, W) to the same."""
        moments = self.moments
        if moments is None:
            groups = input.float().transpose(0, 1).reshape(self.norm.num_groups, -1)
            moments = torch.stack([groups.mean(dim=1), groups.square().mean(dim=1)])
            self.gathered.append(moments)
        mean, square = moments.repeat_interleave(self.norm.num_channels // self.norm.num_groups, dim=1)
        factor = (square - mean.square() + self.norm.eps).rsqrt()
        shift = -mean * factor
        if self.norm.affine:
            factor, shift = factor * self.norm.weight, shift * self.norm.weight + self.norm.bias
        column = (1, -1, 1, 1, 1)
        return torch.addcmul(shift.view(column).to(input.dtype), input, factor.view(column).to(input.dtype))
