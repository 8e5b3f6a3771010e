"""Supervised training: the network's output is compared with the clean volume, voxel by voxel."""

from typing import Any

from torch import Tensor
from torch.optim import AdamW

from cryoden.batch import Batch
from cryoden.losses import LossMixture, make_loss
from cryoden.modules.training import Training
from cryoden.networks.base import DenoisingNetwork


class Autoencoder(Training):
    """A network trained to turn a degraded volume into its clean volume.

    Args:
        generator: the network.
        loss: what is minimised, relative to the clean volume's own power: l1, mse, pooled_mse, ssim, fsc, or several
            with their weights, such as {mse: 1.0, ssim: 0.2}.
        learning_rate: of AdamW.
        kwargs: see Training.
    """

    def __init__(
        self,
        generator: DenoisingNetwork,
        *,
        loss: LossMixture = "mse",
        learning_rate: float = 2.0e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, **kwargs)
        self.loss = make_loss(loss)
        self.learning_rate = learning_rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step on a batch of pairs."""
        loss = self.total(self.supervised(batch, self(batch["degraded"]), self.loss))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["clean"]))
        return loss

    @property
    def _asked(self) -> dict[str, str]:
        return {"reconstruction": "loss", **super()._asked}

    def configure_optimizers(self) -> Any:
        """AdamW with the schedule of Training."""
        optimizer = AdamW(self.generator.parameters(), lr=self.learning_rate, fused=self.fused)
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)}
