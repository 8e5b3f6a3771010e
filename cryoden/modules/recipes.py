"""The systems of the 2019 thesis by name, and our own: defaults only, no logic.

What each departs from the thesis in, and the measurements behind it, stand in docs/training.md.
"""

from typing import Any

from cryoden.losses import LossMixture
from cryoden.modules.autoencoder import Autoencoder
from cryoden.modules.dragan import DRAGAN
from cryoden.modules.gan import GAN
from cryoden.modules.wgan import WGAN, WGANGP
from cryoden.networks.blocks import NormName
from cryoden.networks.compact_unet import CompactUnet
from cryoden.networks.discriminators import DraganDiscriminator, Pix2PixDiscriminator, SimpleDiscriminator
from cryoden.networks.original_unet import OriginalUnet
from cryoden.networks.simple_autoencoder import SimpleAutoEncoder
from cryoden.networks.unet import Unet
from cryoden.networks.upsample_unet import UpsampleUnet


class SimpleAE(Autoencoder):
    """The thesis's simple auto-encoder: no skip connections, so that fine detail does not survive its 4^3 bottleneck.

    Args:
        channels: of the first level; each further one has four times as many.
        norm: normalisation of every block.
        loss: the thesis's is mse.
        kwargs: see Autoencoder and Training.
    """

    def __init__(self, channels: int = 4, norm: NormName = "batch", loss: LossMixture = "mse", **kwargs: Any) -> None:
        super().__init__(SimpleAutoEncoder(channels=channels, norm=norm), loss=loss, **kwargs)


class UnetAE(Autoencoder):
    """The thesis's Unet48 auto-encoder, whose strided decoder leaves a checkerboard.

    Args:
        channels: of every level.
        norm: normalisation of every block.
        loss: the thesis's is l1.
        kwargs: see Autoencoder and Training.
    """

    def __init__(
        self,
        channels: int = 48,
        norm: NormName = "batch",
        loss: LossMixture = "l1",
        **kwargs: Any,
    ) -> None:
        super().__init__(Unet(channels=channels, norm=norm), loss=loss, **kwargs)


class UpsampleUnetAE(Autoencoder):
    """The thesis's UpsampleUnet48 auto-encoder: it upsamples and convolves, which leaves no checkerboard.

    Args:
        channels: of every level.
        norm: normalisation of every block.
        loss: the thesis's is l1.
        kwargs: see Autoencoder and Training.
    """

    def __init__(
        self,
        channels: int = 48,
        norm: NormName = "batch",
        loss: LossMixture = "l1",
        **kwargs: Any,
    ) -> None:
        super().__init__(UpsampleUnet(channels=channels, norm=norm), loss=loss, **kwargs)


class OriginalUnetAE(Autoencoder):
    """The thesis's adaptation of the original U-Net, as an auto-encoder.

    Args:
        channels: at full resolution; each level below has twice as many. With the paper's 64 it needs a large GPU.
        norm: normalisation of every block.
        loss: the thesis's is l1.
        kwargs: see Autoencoder and Training.
    """

    def __init__(
        self,
        channels: int = 64,
        norm: NormName = "batch",
        loss: LossMixture = "l1",
        **kwargs: Any,
    ) -> None:
        super().__init__(OriginalUnet(channels=channels, norm=norm), loss=loss, **kwargs)


class UpsampleUnetGAN(GAN):
    """The thesis's best system: UpsampleUnet48 against a discriminator that sees the degraded volume too.

    Args:
        channels: of every level of the generator and the discriminator.
        norm: normalisation of every block of both.
        box: voxels along each side of the volumes; the discriminator is made for one size.
        kwargs: see GAN, Adversarial and Training.
    """

    def __init__(self, channels: int = 48, norm: NormName = "batch", box: int = 64, **kwargs: Any) -> None:
        super().__init__(
            UpsampleUnet(channels=channels, norm=norm),
            SimpleDiscriminator(channels=channels, box=box, norm=norm),
            **kwargs,
        )


class UpsampleUnetWGAN(WGAN):
    """UpsampleUnet48 against a critic with clipped weights, which the thesis could not keep stable.

    Args:
        channels: of every level of the generator.
        norm: normalisation of the generator's blocks.
        critic_channels: of the Pix2PixDiscriminator's first convolution.
        kwargs: see WGAN, Adversarial and Training.
    """

    def __init__(
        self,
        channels: int = 48,
        norm: NormName = "batch",
        critic_channels: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            UpsampleUnet(channels=channels, norm=norm),
            Pix2PixDiscriminator(channels=critic_channels),
            **kwargs,
        )


class UpsampleUnetWGANGP(WGANGP):
    """UpsampleUnet48 against the patch critic of pix2pix, with a gradient penalty.

    Args:
        channels: of every level of the generator.
        norm: normalisation of the generator's blocks.
        critic_channels: of the Pix2PixDiscriminator's first convolution.
        kwargs: see WGANGP, Adversarial and Training.
    """

    def __init__(
        self,
        channels: int = 48,
        norm: NormName = "batch",
        critic_channels: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            UpsampleUnet(channels=channels, norm=norm),
            Pix2PixDiscriminator(channels=critic_channels),
            **kwargs,
        )


class UpsampleUnetDRAGAN(DRAGAN):
    """UpsampleUnet48 against DRAGAN's discriminator, with DRAGAN's gradient penalty.

    Args:
        channels: of every level of the generator.
        norm: normalisation of the generator's blocks.
        critic_channels: of the discriminator's first convolution.
        box: voxels along each side of the volumes; the discriminator is made for one size.
        kwargs: see DRAGAN, Adversarial and Training.
    """

    def __init__(
        self,
        channels: int = 48,
        norm: NormName = "batch",
        critic_channels: int = 64,
        box: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            UpsampleUnet(channels=channels, norm=norm),
            DraganDiscriminator(channels=critic_channels, box=box),
            **kwargs,
        )


class CompactUnetAE(Autoencoder):
    """Our own: a small U-Net without norms, local for that, which trains in minutes on a CPU.

    Args:
        channels: of the first level; each further one has twice as many.
        levels: how often the volume is halved.
        refinements: convolutions more at the two finest levels on the way up.
        learning_rate: of the optimizer. Nothing normalises what a step does here: a higher one may not converge.
        kwargs: see Autoencoder and Training.
    """

    def __init__(
        self,
        channels: int = 16,
        levels: int = 3,
        refinements: int = 0,
        learning_rate: float = 1.0e-3,
        **kwargs: Any,
    ) -> None:
        network = CompactUnet(channels=channels, levels=levels, refinements=refinements)
        super().__init__(network, learning_rate=learning_rate, **kwargs)
