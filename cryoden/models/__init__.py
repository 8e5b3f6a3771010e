"""Trained models that come with cryoden. Of each, side by side in this folder: weights, a card, and a test of them.

NAME.safetensors are the weights, NAME.md the card, which begins with what programs need to know of it, and
NAME.check.safetensors a volume and what the model answers to it.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from cryoden.errors import CryodenError, closest

FOLDER = Path(__file__).parent

_SAME_SIZE = 0.1  # a network hardly notices voxels that are larger or smaller by this share of their size
_ROUNDING = 1e-6  # what float32, in which headers tell it, makes of a size

ALLOWED = (
    "give a run's folder, a .ckpt that `cryoden fit` wrote, a .safetensors that `cryoden export` wrote, a name of "
    "`cryoden models`, or URL#sha256=HEX"
)
"""What stands for a model, for errors."""


@dataclass(frozen=True)
class ShippedModel:
    """A trained model that comes with cryoden.

    Attributes:
        name: what `--model` calls it.
        about: a line about what it is for.
        expects: what a tomogram must be like.
        voxel_size: Å, that it was trained at.
        voxel_sizes: Å, the smallest and the largest that it is for.
        card: Markdown; how it was made, and how well it does.
    """

    name: str
    about: str
    expects: str
    voxel_size: float
    voxel_sizes: tuple[float, float]
    card: str

    @property
    def weights(self) -> Path:
        """The weights, as `cryoden export` writes them."""
        return FOLDER / f"{self.name}.safetensors"

    @property
    def check(self) -> Path:
        """A volume, "degraded" (D, H, W), and the answer of the model in float32, "denoised"."""
        return FOLDER / f"{self.name}.check.safetensors"

    @property
    def range(self) -> str:
        """The voxel sizes that it is for, in words."""
        low, high = self.voxel_sizes
        return f"trained at {self.voxel_size:g} Å, for {low:g}–{high:g} Å, beyond {100 * _SAME_SIZE:g} % with --rescale"


@cache
def shipped_models() -> dict[str, ShippedModel]:
    """Name → model, from the smallest voxels to the largest."""
    models = [_read(path) for path in FOLDER.glob("*.md")]
    return {model.name: model for model in sorted(models, key=lambda model: model.voxel_size)}


def nearest_model(voxel_size: float) -> ShippedModel:
    """The model for tomograms of this voxel size: the one trained at the size that is nearest as a ratio.

    Args:
        voxel_size: Å, above 0.
    """
    return min(shipped_models().values(), key=lambda model: abs(math.log(model.voxel_size / voxel_size)))


def suits(voxel_size: float, trained: float) -> bool:
    """Whether voxels are so near in size to those that a network was trained at that it takes them as they are.

    Args:
        voxel_size: Å.
        trained: Å.
    """
    return abs(voxel_size / trained - 1) <= _SAME_SIZE + _ROUNDING


def find_checkpoint(run: Path | str) -> Path:
    """The checkpoint that a name, a run, or a path to a checkpoint stands for: a run's best, else its last.

    Args:
        run: a path; or, as a text, the name of a model that comes with cryoden, whatever lies in the working folder
            (./NAME is what lies there), or URL#sha256=HEX of one that is downloaded, once.

    Raises:
        CryodenError: there is no such file, or no checkpoint in the folder.
    """
    if "://" in str(run):
        from cryoden.download import fetch_stated  # with requests, which takes long to import, and few need it

        return fetch_stated(str(run))
    shipped = shipped_models().get(str(run))
    if shipped and (isinstance(run, str) or not run.exists()):
        return shipped.weights
    run = Path(run)
    if run.is_file():
        return run
    if not run.exists():
        close = closest(str(run), shipped_models())
        meant = f"did you mean {close}? " if close else ""
        raise CryodenError(f"model {run}: no such file or folder; {meant}{ALLOWED}")
    for folder in (run, run / "checkpoints"):
        for pattern in ("best*.ckpt", "last*.ckpt", "*.safetensors"):
            if found := kept(folder, pattern):
                return found
    raise CryodenError(f"model {run}: no best*.ckpt, last*.ckpt or *.safetensors in this folder; {ALLOWED}")


def kept(folder: Path, pattern: str) -> Path | None:
    """The one that counts of the files of a run that are called alike: the newest, or which that knows to be the best.

    A run that keeps several of its best epochs writes of each which had been the best by then.
    """
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    if len(found) > 1 and pattern.startswith("best"):
        import torch  # which takes long, and few need it here

        try:
            states = torch.load(found[-1], map_location="cpu", weights_only=True, mmap=True)["callbacks"].values()
        except Exception:  # whoever reads it will say what is wrong with it
            return found[-1]
        best = {Path(state.get("best_model_path", "")).name for state in states}
        found += [path for path in found if path.name in best]
    return found[-1] if found else None


def _read(path: Path) -> ShippedModel:
    _, head, card = path.read_text(encoding="utf-8").split("---\n", 2)
    fields = yaml.safe_load(head)
    low, high = fields["voxel_sizes"]
    return ShippedModel(
        path.stem,
        fields["about"],
        fields["expects"],
        fields["voxel_size"],
        (low, high),
        card.strip(),
    )
