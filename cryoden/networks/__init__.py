"""Networks: plain `torch.nn.Module`s, without a word on how they are trained."""

from cryoden.networks.base import DenoisingNetwork, DiscriminatorNetwork
from cryoden.networks.compact_unet import CompactUnet
from cryoden.networks.discriminators import DraganDiscriminator, Pix2PixDiscriminator, SimpleDiscriminator
from cryoden.networks.original_unet import OriginalUnet
from cryoden.networks.simple_autoencoder import SimpleAutoEncoder
from cryoden.networks.unet import Unet
from cryoden.networks.upsample_unet import UpsampleUnet

__all__ = [
    "CompactUnet",
    "DenoisingNetwork",
    "DiscriminatorNetwork",
    "DraganDiscriminator",
    "OriginalUnet",
    "Pix2PixDiscriminator",
    "SimpleAutoEncoder",
    "SimpleDiscriminator",
    "Unet",
    "UpsampleUnet",
]
