"""How the networks are trained; importing this room makes its systems known to the command line."""

from cryoden.modules.autoencoder import Autoencoder
from cryoden.modules.dragan import DRAGAN
from cryoden.modules.gan import GAN
from cryoden.modules.noise2noise import Noise2Noise
from cryoden.modules.recipes import (
    CompactUnetAE,
    OriginalUnetAE,
    SimpleAE,
    UnetAE,
    UpsampleUnetAE,
    UpsampleUnetDRAGAN,
    UpsampleUnetGAN,
    UpsampleUnetWGAN,
    UpsampleUnetWGANGP,
)
from cryoden.modules.training import Training
from cryoden.modules.wgan import WGAN, WGANGP

__all__ = [
    "DRAGAN",
    "GAN",
    "WGAN",
    "WGANGP",
    "Autoencoder",
    "CompactUnetAE",
    "Noise2Noise",
    "OriginalUnetAE",
    "SimpleAE",
    "Training",
    "UnetAE",
    "UpsampleUnetAE",
    "UpsampleUnetDRAGAN",
    "UpsampleUnetGAN",
    "UpsampleUnetWGAN",
    "UpsampleUnetWGANGP",
]
