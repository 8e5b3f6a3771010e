"""cryoden: denoise cryo-electron tomograms with networks trained on volumes simulated from protein structures."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryoden.checkpoint import export_weights, load_denoiser
    from cryoden.data.datamodule import ParticleDataModule
    from cryoden.data.pairs import PairDataModule
    from cryoden.data.scenes import SceneDataModule
    from cryoden.data.shrec import ShrecDataModule
    from cryoden.errors import CryodenError
    from cryoden.inference.denoise import denoise, denoise_file
    from cryoden.modules.autoencoder import Autoencoder
    from cryoden.modules.denoiser import Denoiser
    from cryoden.modules.dragan import DRAGAN
    from cryoden.modules.gan import GAN
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
    from cryoden.modules.wgan import WGAN, WGANGP
    from cryoden.simulation.degradation import GaussianNoise, MissingWedge, SaltAndPepper
    from cryoden.simulation.scene import Scene
    from cryoden.simulation.tilt_series import TiltSeriesDegradation
    from cryoden.volume import Volume, open_volume, read_volume, write_volume

# Where each public name lives. Loaded on first use, so that `import cryoden` stays light.
_HOMES = {
    "Autoencoder": "modules.autoencoder",
    "CompactUnetAE": "modules.recipes",
    "CryodenError": "errors",
    "DRAGAN": "modules.dragan",
    "Denoiser": "modules.denoiser",
    "GAN": "modules.gan",
    "GaussianNoise": "simulation.degradation",
    "MissingWedge": "simulation.degradation",
    "OriginalUnetAE": "modules.recipes",
    "PairDataModule": "data.pairs",
    "ParticleDataModule": "data.datamodule",
    "SaltAndPepper": "simulation.degradation",
    "Scene": "simulation.scene",
    "SceneDataModule": "data.scenes",
    "ShrecDataModule": "data.shrec",
    "SimpleAE": "modules.recipes",
    "TiltSeriesDegradation": "simulation.tilt_series",
    "UnetAE": "modules.recipes",
    "UpsampleUnetAE": "modules.recipes",
    "UpsampleUnetDRAGAN": "modules.recipes",
    "UpsampleUnetGAN": "modules.recipes",
    "UpsampleUnetWGAN": "modules.recipes",
    "UpsampleUnetWGANGP": "modules.recipes",
    "Volume": "volume",
    "WGAN": "modules.wgan",
    "WGANGP": "modules.wgan",
    "denoise": "inference.denoise",
    "denoise_file": "inference.denoise",
    "export_weights": "checkpoint",
    "load_denoiser": "checkpoint",
    "open_volume": "volume",
    "read_volume": "volume",
    "write_volume": "volume",
}

__all__ = [  # noqa: RUF022 - in the order of _HOMES; a test holds the two equal
    "Autoencoder",
    "CompactUnetAE",
    "CryodenError",
    "DRAGAN",
    "Denoiser",
    "GAN",
    "GaussianNoise",
    "MissingWedge",
    "OriginalUnetAE",
    "PairDataModule",
    "ParticleDataModule",
    "SaltAndPepper",
    "Scene",
    "SceneDataModule",
    "ShrecDataModule",
    "SimpleAE",
    "TiltSeriesDegradation",
    "UnetAE",
    "UpsampleUnetAE",
    "UpsampleUnetDRAGAN",
    "UpsampleUnetGAN",
    "UpsampleUnetWGAN",
    "UpsampleUnetWGANGP",
    "Volume",
    "WGAN",
    "WGANGP",
    "__version__",
    "denoise",
    "denoise_file",
    "export_weights",
    "load_denoiser",
    "open_volume",
    "read_volume",
    "write_volume",
]

__version__ = version("cryoden")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cryoden' has no attribute {name!r}")
    return getattr(import_module(f"cryoden.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
