"""Supervised training: the network's output is compared with the clean volume, voxel by voxel."""

from typing import Any

from torch import Tensor
from torch.optim import AdamW

from cryoden.losses import LOSSES, LossName
from cryoden.modules.denoiser import Batch, Denoiser
from cryoden.networks.base import DenoisingNetwork


class Autoencoder(Denoiser):
    """A network trained to turn a degraded volume into its clean volume.

    Args:
        generator: the network.
        loss: what is minimised, relative to the clean volume's own power.
        learning_rate: of AdamW.
        kwargs: see Denoiser.
    """

    def __init__(
        self,
        generator: DenoisingNetwork,
        *,
        loss: LossName = "mse",
        learning_rate: float = 2.0e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, **kwargs)
        self.loss = loss
        self.learning_rate = learning_rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step on a batch of pairs."""
        loss = LOSSES[self.loss](self(batch["degraded"]), batch["clean"])
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["clean"]))
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW with the schedule of Denoiser."""
        optimizer = AdamW(self.generator.parameters(), lr=self.learning_rate)
        return {"optimizer": optimizer, "lr_scheduler": self._schedule(optimizer)}
