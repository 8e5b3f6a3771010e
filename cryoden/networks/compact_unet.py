"""A small U-Net that learns in minutes on a CPU."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from cryoden.errors import check_whole
from cryoden.networks.base import LARGEST, DenoisingNetwork
from cryoden.networks.blocks import Convolution, NormName, make_norm
from cryoden.networks.cpu.convolutions import halve

_SLOPE = 0.1  # of the activation below zero

# By which the first convolution amplifies, where nothing is normalised. A particle is many times the spread bright, and
# features as bright let a head that starts at zero get there sooner: after 300 steps NRMSE of a phantom is 0.364
# instead of 0.400, in much noise 0.378 instead of 0.395.
_AMPLIFICATION = 4.0

_REFINED = 2  # levels, the finest

_DEEPEST = 8  # then boxes are multiples of 256 voxels, and the network sees 1531 of them at once, more than there are


class CompactUnet(DenoisingNetwork):
    """U-Net of LeakyReLU convolutions without norms, with a linear output that starts at exactly zero.

    Made for a CPU, with 581,361 parameters: at full resolution there is one convolution on the way down and one on the
    way up, and skips are added to the decoder's features, narrowed before they are upsampled, where a U-Net
    concatenates. Below, two convolutions a level on the way down. After Ronneberger et al. 2015, "U-Net: Convolutional
    Networks for Biomedical Image Segmentation".

    It is local: an answer depends on what lies within the network's reach and on nothing else in the tomogram, be that
    a bead, a crowd or an empty margin. In place of norms the weights start so that features keep their scale through
    the depth (He et al. 2015, "Delving Deep into Rectifiers", arXiv:1502.01852).

    Args:
        channels: Channels at full resolution; they double at each level below, up to four times as many.
        levels: How often the box is halved, 1 to 8 times; boxes are multiples of 2**levels.
        norm: None, or "batch" (local once it is trained), "group" or "instance" (which divide by what is in the whole
            volume).
        refinements: Convolutions more at the two finest levels on the way up, where details are drawn. With one, a step
            on an H100 takes a third longer.

    Raises:
        CryodenError: An argument is out of its range.
    """

    def __init__(self, channels: int = 16, levels: int = 3, norm: NormName | None = None, refinements: int = 0) -> None:
        super().__init__()
        check_whole(1, LARGEST, channels=channels)
        check_whole(1, _DEEPEST, levels=levels)
        check_whole(0, refinements=refinements)
        self.channels = channels
        self.levels = levels
        self.norm = norm
        self.refinements = refinements
        self.multiple = 2**levels
        # encoder 1 + 2 (2 + 4 + ...), decoder 1 + 2 + ..., and to the far end of a voxel of the coarsest level
        refined = refinements * sum(2**level for level in range(min(levels, _REFINED)))
        self.reach = 6 * self.multiple - 5 + refined if norm in (None, "batch") else None
        widths = [channels * min(2**level, 4) for level in range(levels + 1)]
        below = list(pairwise(widths))
        self.encoder = nn.ModuleList(
            [
                _convolution(1, channels, norm, _AMPLIFICATION),
                *(nn.Sequential(_convolution(a, b, norm), _convolution(b, b, norm)) for a, b in below),
            ]
        )
        narrow = [nn.Conv3d(b, a, 1) for a, b in reversed(below)]
        self.narrow = nn.ModuleList(narrow)
        self.decoder = nn.ModuleList(_convolution(a, a, norm, 0.5**0.5) for a, _ in reversed(below))
        self.refined = nn.ModuleList(
            nn.Sequential(*(_convolution(a, a, norm) for _ in range(refinements if level < _REFINED else 0)))
            for level, a in zip(reversed(range(levels)), reversed(widths[:-1]), strict=True)
        )
        self.head = nn.Conv3d(channels, 1, 1)
        if norm is None:
            for convolution in narrow:
                _start(convolution, 1.0)
        _start(self.head, 0.0)

    def forward(self, volumes: Tensor) -> Tensor:
        """Denoise (B, 1, D, H, W) volumes."""
        self.check_box(volumes)
        skips: list[Tensor] = []
        decoded = volumes
        for level, block in enumerate(self.encoder):
            decoded = block(halve(decoded) if level else decoded)
            skips.append(decoded)
        skips.pop()
        for narrow, block, refined in zip(self.narrow, self.decoder, self.refined, strict=True):
            decoded = F.interpolate(narrow(decoded), scale_factor=2)
            decoded += skips.pop()
            decoded = block(decoded)  # one after the other, so that what went in is let go
            decoded = refined(decoded)
        denoised: Tensor = self.head(decoded)
        return denoised


def _convolution(in_channels: int, out_channels: int, norm: NormName | None, gain: float = 1.0) -> nn.Sequential:
    """Convolution, norm and activation; without a norm, features start `gain` times as bright as what it takes."""
    convolution = Convolution(in_channels, out_channels, 3, padding=1, bias=norm is None)
    activation = nn.LeakyReLU(_SLOPE, inplace=True)
    if norm is not None:
        return nn.Sequential(convolution, make_norm(norm, out_channels), activation)
    _start(convolution, gain * (2 / (1 + _SLOPE**2)) ** 0.5)
    return nn.Sequential(convolution, activation)


def _start(convolution: nn.Conv3d, gain: float) -> None:
    """Draw weights by which the root mean square of features grows `gain` times, and begin without a bias."""
    nn.init.normal_(convolution.weight, std=gain / convolution.weight[0].numel() ** 0.5)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
