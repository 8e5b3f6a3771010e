"""The systems of the 2019 thesis by name, and our own: defaults only, no logic.

What each departs from the thesis in, and the measurements behind it, stand in docs/training.md.
"""

from typing import Any

from cryoden.losses import LossName
from cryoden.modules.autoencoder import Autoencoder
from cryoden.modules.gan import GAN
from cryoden.networks.autoencoder import SimpleAutoEncoder
from cryoden.networks.blocks import NormName
from cryoden.networks.compact_unet import CompactUnet
from cryoden.networks.discriminators import SimpleDiscriminator
from cryoden.networks.unet import Unet
from cryoden.networks.upsample_unet import UpsampleUnet


class SimpleAE(Autoencoder):
    """The thesis's simple auto-encoder: no skip connections, so that fine detail does not survive its 4^3 bottleneck.

    Args:
        channels: of the first level; each further one has four times as many.
        norm: normalisation of every block.
        loss: the thesis's is mse.
        kwargs: see Autoencoder and Denoiser.
    """

    def __init__(self, channels: int = 4, norm: NormName = "batch", loss: LossName = "mse", **kwargs: Any) -> None:
        super().__init__(SimpleAutoEncoder(channels=channels, norm=norm), loss=loss, **kwargs)


class UnetAE(Autoencoder):
    """The thesis's Unet48 auto-encoder, whose strided decoder leaves a checkerboard.

    Args:
        channels: of every level.
        norm: normalisation of every block.
        loss: the thesis's is l1.
        kwargs: see Autoencoder and Denoiser.
    """

    def __init__(self, channels: int = 48, norm: NormName = "batch", loss: LossName = "l1", **kwargs: Any) -> None:
        super().__init__(Unet(channels=channels, norm=norm), loss=loss, **kwargs)


class UpsampleUnetAE(Autoencoder):
    """The thesis's UpsampleUnet48 auto-encoder: it upsamples and convolves, which leaves no checkerboard.

    Args:
        channels: of every level.
        norm: normalisation of every block.
        loss: the thesis's is l1.
        kwargs: see Autoencoder and Denoiser.
    """

    def __init__(self, channels: int = 48, norm: NormName = "batch", loss: LossName = "l1", **kwargs: Any) -> None:
        super().__init__(UpsampleUnet(channels=channels, norm=norm), loss=loss, **kwargs)


class UpsampleUnetGAN(GAN):
    """The thesis's best system: UpsampleUnet48 against a discriminator that sees the degraded volume too.

    Args:
        channels: of every level of the generator and the discriminator.
        norm: normalisation of every block of both.
        box: voxels along each side of the volumes; the discriminator is made for one size.
        kwargs: see GAN and Denoiser.
    """

    def __init__(self, channels: int = 48, norm: NormName = "batch", box: int = 64, **kwargs: Any) -> None:
        super().__init__(
            UpsampleUnet(channels=channels, norm=norm),
            SimpleDiscriminator(channels=channels, box=box, norm=norm),
            **kwargs,
        )


class CompactUnetAE(Autoencoder):
    """Our own: a plain, normalised U-Net that trains in minutes on a CPU.

    Args:
        channels: of the first level; each further one has twice as many.
        levels: how often the volume is halved.
        kwargs: see Autoencoder and Denoiser.
    """

    def __init__(self, channels: int = 16, levels: int = 3, **kwargs: Any) -> None:
        super().__init__(CompactUnet(channels=channels, levels=levels), **kwargs)
