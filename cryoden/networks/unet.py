"""The thesis's U-Net with strided convolutions and weights shared between levels."""

import torch
from torch import Tensor

from cryoden.errors import check_whole
from cryoden.networks.base import LARGEST, DenoisingNetwork
from cryoden.networks.blocks import Block, DensityHead, MergeBlock, NormName, UpBlock


class Unet(DenoisingNetwork):
    """U-Net of constant width whose levels share weights; its strided decoder leaves a checkerboard.

    1,348,225 parameters with 48 channels. After Ronneberger et al. 2015, "U-Net: Convolutional Networks for
    Biomedical Image Segmentation".

    Args:
        channels: Channels of every level.
        norm: "batch" (the thesis's), "instance" or "group".
        nonnegative: End in a Softplus, as in the thesis; otherwise the last convolution's answer stands.

    Raises:
        CryodenError: An argument is out of its range.
    """

    multiple = 16

    def __init__(self, channels: int = 48, norm: NormName = "batch", nonnegative: bool = True) -> None:
        super().__init__()
        check_whole(1, LARGEST, channels=channels)
        self.channels = channels
        self.norm = norm
        self.nonnegative = nonnegative
        # 2 (1 + 2 + 4 + 8) down and again up, 1 + 2 + 4 + 8 to merge, 1 in the head
        self.reach = 76 if norm == "batch" else None
        self.first = Block(1, channels, kernel=5, stride=2, norm=norm)
        self.narrow = Block(channels, channels, kernel=5, stride=2, norm=norm, levels=2)
        self.bottleneck = Block(channels, channels, kernel=5, stride=2, norm=norm)
        self.widen_bottleneck = UpBlock(channels, channels, norm=norm)
        self.merge = MergeBlock(channels, channels, channels, norm=norm, levels=3)
        self.widen = UpBlock(channels, channels, norm=norm, levels=3)
        self.last = MergeBlock(channels, 1, channels, norm=norm)
        self.head = DensityHead(channels, nonnegative=nonnegative)

    def end_linearly(self) -> None:
        """Drop the Softplus: answers may fall below 0, as with nonnegative=False."""
        self.head.end_linearly()
        self.nonnegative = False

    def forward(self, volumes: Tensor) -> Tensor:
        """Denoise (B, 1, D, H, W) volumes."""
        self.check_box(volumes)
        volumes = volumes.to(memory_format=torch.channels_last_3d)  # every layer keeps it so, the fastest there is
        half = self.first(volumes)
        quarter = self.narrow(half, level=0)
        eighth = self.narrow(quarter, level=1)
        decoded = self.widen_bottleneck(self.bottleneck(eighth))
        for level, skip in enumerate((eighth, quarter, half)):
            decoded = self.widen(self.merge(decoded, skip, level), level)
        denoised: Tensor = self.head(self.last(decoded, volumes))
        return denoised
