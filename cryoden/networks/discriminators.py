"""Networks that tell clean volumes from denoised ones."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from cryoden.errors import CryodenError
from cryoden.networks.base import DiscriminatorNetwork
from cryoden.networks.blocks import NormName, make_norm, make_vector_norm


class SimpleDiscriminator(DiscriminatorNetwork):
    """The thesis's conditional discriminator: four strided convolutions, four linear layers, one logit.

    3,104,817 parameters with 48 channels and a box of 64.

    Args:
        channels: Channels of the first three convolutions.
        box: Voxels along each axis, a multiple of 16: the first linear layer is made for it.
        norm: "batch" (the thesis's), "instance" or "group"; in these two, linear layers get a layer norm.
    """

    def __init__(self, channels: int = 48, box: int = 64, norm: NormName = "batch") -> None:
        super().__init__()
        if box <= 0 or box % 16:
            raise CryodenError(f"SimpleDiscriminator's box must be a multiple of 16 voxels, got {box}")
        self.channels = channels
        self.box = box
        self.norm = norm
        widths = [2, channels, channels, channels, 64]
        features = [64 * (box // 16) ** 3, 512, 64, 8]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Conv3d(a, b, 5, 2, padding=2), nn.LeakyReLU(0.2), make_norm(norm, b)]
        layers.append(nn.Flatten())
        for a, b in pairwise(features):
            layers += [nn.Linear(a, b), nn.LeakyReLU(0.2), make_vector_norm(norm, b)]
        self.layers = nn.Sequential(*layers, nn.Linear(features[-1], 1))

    def forward(self, degraded: Tensor, candidate: Tensor) -> Tensor:
        """Score candidates beside degraded volumes, both (B, 1, box, box, box): raw logits (B, 1)."""
        expected = (1, self.box, self.box, self.box)
        for name, volumes in (("degraded", degraded), ("candidate", candidate)):
            if tuple(volumes.shape[1:]) != expected:
                raise CryodenError(
                    f"SimpleDiscriminator(box={self.box}) takes {name} volumes of shape (batch, "
                    f"{', '.join(map(str, expected))}), got {tuple(volumes.shape)}: give it the data's box"
                )
        logits: Tensor = self.layers(torch.cat([degraded, candidate], dim=1))
        return logits
