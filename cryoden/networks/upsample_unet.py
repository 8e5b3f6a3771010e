"""The thesis's U-Net with nearest-neighbour upsampling."""

import torch
from torch import Tensor

from cryoden.errors import check_whole
from cryoden.networks.base import LARGEST, DenoisingNetwork
from cryoden.networks.blocks import Block, DensityHead, NormName, UpsampleBlock


class UpsampleUnet(DenoisingNetwork):
    """U-Net of constant width whose levels share weights, upsampled by nearest neighbour: no checkerboard.

    415,441 parameters with 48 channels. Upsampling, then convolution, leaves no checkerboard: Odena et al.
    2016, "Deconvolution and Checkerboard Artifacts".

    Args:
        channels: Channels of every level.
        norm: "batch" (the thesis's), "instance" or "group".
        nonnegative: End in a Softplus, as in the thesis; otherwise the last convolution's answer stands.

    Raises:
        CryodenError: An argument is out of its range.
    """

    multiple = 8

    def __init__(self, channels: int = 48, norm: NormName = "batch", nonnegative: bool = True) -> None:
        super().__init__()
        check_whole(1, LARGEST, channels=channels)
        self.channels = channels
        self.norm = norm
        self.nonnegative = nonnegative
        # first 1, narrow 2 (1 + 2 + 4), widen 1 + 2 + 4, head 1, to the far end of a voxel of the coarsest level 7
        self.reach = 30 if norm == "batch" else None
        self.first = Block(1, channels, kernel=3, norm=norm)
        self.narrow = Block(channels, channels, kernel=5, stride=2, norm=norm, levels=3)
        self.widen = UpsampleBlock(channels, channels, channels, norm=norm, levels=3)
        self.head = DensityHead(channels, nonnegative=nonnegative)

    def end_linearly(self) -> None:
        """Drop the Softplus: answers may fall below 0, as with nonnegative=False."""
        self.head.end_linearly()
        self.nonnegative = False

    def forward(self, volumes: Tensor) -> Tensor:
        """Denoise (B, 1, D, H, W) volumes."""
        self.check_box(volumes)
        volumes = volumes.to(memory_format=torch.channels_last_3d)  # every layer keeps it so, the fastest there is
        full = self.first(volumes)
        half = self.narrow(full, level=0)
        quarter = self.narrow(half, level=1)
        decoded = self.narrow(quarter, level=2)
        for level, skip in enumerate((quarter, half, full)):
            decoded = self.widen(decoded, skip, level)
        denoised: Tensor = self.head(decoded)
        return denoised
