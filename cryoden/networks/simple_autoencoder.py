"""The thesis's simple auto-encoder."""

import math
from itertools import pairwise

from torch import Tensor, nn

from cryoden.errors import CryodenError, check_whole
from cryoden.networks.base import LARGEST, DenoisingNetwork
from cryoden.networks.blocks import Block, Doubling, NormName, UpBlock, make_norm, start_at

_START = 0.05


class SimpleAutoEncoder(DenoisingNetwork):
    """Strided convolutions down to a sixteenth of the box and transposed ones back, without skips.

    4,370,275 parameters with 4 channels. The strided decoder leaves a checkerboard (Odena et al. 2016,
    "Deconvolution and Checkerboard Artifacts"), and without skips a particle comes out as a blob.

    Args:
        channels: Channels after the first block; each of the three below has four times as many.
        norm: "batch" (the thesis's), "instance" or "group".
        output_range: The largest density it can answer, up to 4096: the sigmoid is multiplied by this. In a
            standardised volume a particle peaks at 20 to 60; 1.0 is the thesis's, for volumes in [0, 1].

    Raises:
        CryodenError: An argument is out of its range.
    """

    multiple = 16
    nonnegative = True

    def __init__(self, channels: int = 4, norm: NormName = "batch", output_range: float = 64.0) -> None:
        super().__init__()
        check_whole(1, LARGEST, channels=channels)
        if not _START < output_range <= LARGEST:
            raise CryodenError(
                f"SimpleAutoEncoder's output_range must be above {_START}, its start, and at most {LARGEST}, got "
                f"{output_range}"
            )
        self.channels = channels
        self.norm = norm
        self.output_range = output_range
        self.reach = 60 if norm == "batch" else None  # 2 (1 + 2 + 4 + 8) down and again up
        widths = [channels * 4**level for level in range(4)]
        last = Doubling(channels, 1)
        start_at(math.log(_START / (output_range - _START)), last)
        self.layers = nn.Sequential(
            make_norm(norm, 1),
            *(Block(a, b, kernel=5, stride=2, norm=norm) for a, b in pairwise([1, *widths])),
            *(UpBlock(b, a, norm=norm) for a, b in reversed(list(pairwise(widths)))),
            last,
            nn.Sigmoid(),
        )

    def forward(self, volumes: Tensor) -> Tensor:
        """Denoise (B, 1, D, H, W) volumes."""
        self.check_box(volumes)
        denoised: Tensor = self.output_range * self.layers(volumes)
        return denoised
