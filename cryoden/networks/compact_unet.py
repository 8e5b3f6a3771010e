"""A small U-Net that learns in minutes on a CPU."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from cryoden.networks.base import DenoisingNetwork
from cryoden.networks.blocks import Convolution, NormName, make_norm


def _convolution(in_channels: int, out_channels: int, norm: NormName) -> nn.Sequential:
    return nn.Sequential(
        Convolution(in_channels, out_channels, 3, padding=1, bias=False),
        make_norm(norm, out_channels),
        nn.LeakyReLU(0.1, inplace=True),
    )


class CompactUnet(DenoisingNetwork):
    """U-Net with normalised LeakyReLU convolutions and a linear output that starts at exactly zero.

    Made for a CPU, with 581,809 parameters: at full resolution there is one convolution on the way down and one on the
    way up, and skips are added to the decoder's features, narrowed before they are upsampled, where a U-Net
    concatenates. Below, two convolutions a level on the way down. After Ronneberger et al. 2015, "U-Net: Convolutional
    Networks for Biomedical Image Segmentation".

    Args:
        channels: Channels at full resolution; they double at each level below, up to four times as many.
        levels: How often the box is halved; boxes are multiples of 2**levels.
        norm: "group", "instance" or "batch".
    """

    nonnegative = False

    def __init__(self, channels: int = 16, levels: int = 3, norm: NormName = "group") -> None:
        super().__init__()
        self.channels = channels
        self.levels = levels
        self.norm = norm
        self.multiple = 2**levels
        # encoder 1 + 2 (2 + 4 + ...), decoder 1 + 2 + ..., and to the far end of a voxel of the coarsest level
        self.reach = 6 * self.multiple - 5 if norm == "batch" else None
        widths = [channels * min(2**level, 4) for level in range(levels + 1)]
        below = list(pairwise(widths))
        self.encoder = nn.ModuleList(
            [
                _convolution(1, channels, norm),
                *(nn.Sequential(_convolution(a, b, norm), _convolution(b, b, norm)) for a, b in below),
            ]
        )
        self.narrow = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in reversed(below))
        self.decoder = nn.ModuleList(_convolution(a, a, norm) for a, _ in reversed(below))
        self.head = nn.Conv3d(channels, 1, 1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, volumes: Tensor) -> Tensor:
        """Denoise (B, 1, D, H, W) volumes."""
        self.check_box(volumes)
        skips: list[Tensor] = []
        decoded = volumes
        for level, block in enumerate(self.encoder):
            decoded = block(F.avg_pool3d(decoded, 2) if level else decoded)
            skips.append(decoded)
        skips.pop()
        for narrow, block in zip(self.narrow, self.decoder, strict=True):
            decoded = block(F.interpolate(narrow(decoded), scale_factor=2) + skips.pop())
        denoised: Tensor = self.head(decoded)
        return denoised
