"""A network of one's own: dilated convolutions that look 15 voxels far without halving the box."""

from torch import Tensor, nn

from cryoden.networks.base import DenoisingNetwork


class Dilated(DenoisingNetwork):
    """Four convolutions with kernel 3, each twice as wide as the one before, and a last one that starts at zero.

    Args:
        channels: of each but the last.
    """

    reach = 15  # 1 + 2 + 4 + 8: tiles of a tomogram overlap by as much

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.channels = channels  # each argument is kept, so that a checkpoint can build the network again
        layers: list[nn.Module] = []
        for inputs, wide in zip((1, *[channels] * 3), (1, 2, 4, 8), strict=True):
            layers += [nn.Conv3d(inputs, channels, 3, padding=wide, dilation=wide), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*layers, last := nn.Conv3d(channels, 1, 1))
        nn.init.zeros_(last.weight)

    def forward(self, volumes: Tensor) -> Tensor:
        """Denoise (B, 1, D, H, W) volumes."""
        return self.layers(volumes)
