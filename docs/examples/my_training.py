"""A training method of one's own: a specimen that is turned over must come out turned over."""

from typing import Any

from torch import Tensor

from cryoden.batch import Batch
from cryoden.modules import Autoencoder


class Symmetric(Autoencoder):
    """An auto-encoder whose answer should not change by half a turn about the tilt axis, which keeps the wedge.

    Args:
        symmetry_weight: of that term of the loss.
        kwargs: see Autoencoder and Training.
    """

    def __init__(self, *args: Any, symmetry_weight: float = 0.1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.symmetry_weight = symmetry_weight

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step on a batch of pairs."""
        denoised, turned = self(batch["degraded"]), self(batch["degraded"].flip(2, 4)).flip(2, 4)
        terms = self.supervised(batch, denoised, self.loss)  # by --model.loss and --model.data_consistency
        terms["symmetry"] = self.symmetry_weight * (denoised - turned).square().mean() / batch["clean"].square().mean()
        return self.total(terms)
