"""The U-Net as it was published, in 3D."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cryoden.errors import check_whole
from cryoden.networks.base import LARGEST, DenoisingNetwork
from cryoden.networks.blocks import Block, DensityHead, NormName


class OriginalUnet(DenoisingNetwork):
    """Four halvings by max-pooling, two convolutions a level, channels doubling from `channels` to 16 times as many.

    Ronneberger et al. 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation", with 3D convolutions,
    padded so that the box is kept, and with the thesis's order of convolution, ReLU, normalisation. 90,304,449
    parameters with the paper's 64 channels, which did not fit the thesis's 6 GB card; 5,647,857 with 16.

    Args:
        channels: Channels at full resolution.
        norm: "batch" (the thesis's), "instance" or "group".
        nonnegative: End in a Softplus, as the thesis's networks do; otherwise the last convolution's answer stands.

    Raises:
        CryodenError: An argument is out of its range.
    """

    multiple = 16

    def __init__(self, channels: int = 64, norm: NormName = "batch", nonnegative: bool = True) -> None:
        super().__init__()
        check_whole(1, LARGEST, channels=channels)
        self.channels = channels
        self.norm = norm
        self.nonnegative = nonnegative
        # encoder 2 (1 + 2 + 4 + 8 + 16), decoder 2 (1 + 2 + 4 + 8), to the far end of a voxel of the coarsest level 15
        self.reach = 107 if norm == "batch" else None
        widths = [channels * 2**level for level in range(5)]
        self.encoder = nn.ModuleList(_level(a, b, norm) for a, b in pairwise([1, *widths]))
        self.widen = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, 2) for a, b in reversed(list(pairwise(widths))))
        self.decoder = nn.ModuleList(_level(2 * width, width, norm) for width in reversed(widths[:-1]))
        self.head = DensityHead(channels, kernel=1, nonnegative=nonnegative)

    def end_linearly(self) -> None:
        """Drop the Softplus: answers may fall below 0, as with nonnegative=False."""
        self.head.end_linearly()
        self.nonnegative = False

    def forward(self, volumes: Tensor) -> Tensor:
        """Denoise (B, 1, D, H, W) volumes."""
        self.check_box(volumes)
        skips: list[Tensor] = []
        decoded = volumes
        for level, block in enumerate(self.encoder):
            decoded = block(F.max_pool3d(decoded, 2) if level else decoded)
            skips.append(decoded)
        skips.pop()
        for widen, block in zip(self.widen, self.decoder, strict=True):
            decoded = block(torch.cat([skips.pop(), widen(decoded)], dim=1))
        denoised: Tensor = self.head(decoded)
        return denoised


def _level(in_channels: int, out_channels: int, norm: NormName) -> nn.Sequential:
    return nn.Sequential(
        Block(in_channels, out_channels, kernel=3, norm=norm), Block(out_channels, out_channels, kernel=3, norm=norm)
    )
