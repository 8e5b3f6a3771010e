"""cryoden: denoise cryo-electron tomograms with networks trained on volumes simulated from protein structures."""

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The public names, each once. Type checkers and editors read these lines as they stand, `_homes` reads them too, and a
# module is only imported when one of its names is first asked for, so that `import cryoden` stays light.
if TYPE_CHECKING:
    from cryoden.checkpoint import export_weights as export_weights
    from cryoden.checkpoint import load_denoiser as load_denoiser
    from cryoden.data import HalvesDataModule as HalvesDataModule
    from cryoden.data import PairDataModule as PairDataModule
    from cryoden.data import ParticleDataModule as ParticleDataModule
    from cryoden.data import SceneDataModule as SceneDataModule
    from cryoden.data import ShrecDataModule as ShrecDataModule
    from cryoden.denoiser import Denoiser as Denoiser
    from cryoden.errors import CryodenError as CryodenError
    from cryoden.inference.denoise import denoise as denoise
    from cryoden.inference.denoise import denoise_file as denoise_file
    from cryoden.modules import DRAGAN as DRAGAN
    from cryoden.modules import GAN as GAN
    from cryoden.modules import WGAN as WGAN
    from cryoden.modules import WGANGP as WGANGP
    from cryoden.modules import Autoencoder as Autoencoder
    from cryoden.modules import CompactUnetAE as CompactUnetAE
    from cryoden.modules import Noise2Noise as Noise2Noise
    from cryoden.modules import OriginalUnetAE as OriginalUnetAE
    from cryoden.modules import SimpleAE as SimpleAE
    from cryoden.modules import Training as Training
    from cryoden.modules import UnetAE as UnetAE
    from cryoden.modules import UpsampleUnetAE as UpsampleUnetAE
    from cryoden.modules import UpsampleUnetDRAGAN as UpsampleUnetDRAGAN
    from cryoden.modules import UpsampleUnetGAN as UpsampleUnetGAN
    from cryoden.modules import UpsampleUnetWGAN as UpsampleUnetWGAN
    from cryoden.modules import UpsampleUnetWGANGP as UpsampleUnetWGANGP
    from cryoden.simulation import GaussianNoise as GaussianNoise
    from cryoden.simulation import MissingWedge as MissingWedge
    from cryoden.simulation import SaltAndPepper as SaltAndPepper
    from cryoden.simulation import Scene as Scene
    from cryoden.simulation import SceneContents as SceneContents
    from cryoden.simulation import TiltSeriesDegradation as TiltSeriesDegradation
    from cryoden.version import __version__ as __version__
    from cryoden.volume import Volume as Volume
    from cryoden.volume import open_volume as open_volume
    from cryoden.volume import read_volume as read_volume
    from cryoden.volume import write_volume as write_volume
else:

    def __getattr__(name: str) -> Any:
        if name == "__all__":
            return list(_homes())
        if name not in _homes():
            raise AttributeError(f"module 'cryoden' has no attribute {name!r}")
        return getattr(import_module(_homes()[name]), name)


@cache
def _homes() -> dict[str, str]:
    """Public name → the module that has it, in the order of the names."""
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return dict(sorted((alias.name, str(node.module)) for node in imports for alias in node.names))


def __dir__() -> list[str]:
    return list(_homes())
