"""Supervised training: the network's output is compared with the clean volume, voxel by voxel."""

from typing import Any, Literal

from torch import Tensor
from torch.optim import AdamW

from cryoden.batch import Batch
from cryoden.errors import CryodenError, check_above_zero
from cryoden.losses import LossMixture, make_loss
from cryoden.modules.muon import Muon
from cryoden.modules.training import Training
from cryoden.networks.base import DenoisingNetwork


class Autoencoder(Training):
    """A network trained to turn a degraded volume into its clean volume.

    Args:
        generator: the network.
        loss: what is minimised, relative to the clean volume's own power: l1, mse, pooled_mse, ssim, fsc, or several
            with their weights, such as {mse: 1.0, ssim: 0.2}.
        optimizer: adamw, or muon, which learns as much from fewer steps, see `cryoden.modules.muon`.
        learning_rate: of the optimizer.
        kwargs: see Training.

    Raises:
        CryodenError: an argument is out of its range.
    """

    def __init__(
        self,
        generator: DenoisingNetwork,
        *,
        loss: LossMixture = "mse",
        optimizer: Literal["adamw", "muon"] = "adamw",
        learning_rate: float = 2.0e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, **kwargs)
        check_above_zero(learning_rate=learning_rate)
        self.loss = make_loss(loss)
        self.optimizer = optimizer
        self.learning_rate = learning_rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step on a batch of pairs."""
        loss = self.total(self.supervised(batch, self(batch["degraded"]), self.loss))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["clean"]))
        return loss

    @property
    def _asked(self) -> dict[str, str]:
        return {"reconstruction": "loss", **super()._asked}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the same optimizer, too.

        Raises:
            CryodenError: the checkpoint is of another system, network or optimizer.
        """
        super().on_load_checkpoint(checkpoint)
        states = [state for each in checkpoint.get("optimizer_states", []) for state in each["state"].values()]
        kept = "muon" if any("momentum" in state for state in states) else "adamw"
        if self._goes_on and states and kept != self.optimizer:
            raise CryodenError(
                f"the checkpoint is of another optimizer, {kept}; this run's is {self.optimizer}: give "
                f"--model.optimizer {kept}, or the configuration that the checkpoint was trained with (config.yaml in "
                "its run's folder)"
            )

    def configure_optimizers(self) -> Any:
        """The optimizer with the schedule of Training."""
        made = {"adamw": AdamW, "muon": Muon}[self.optimizer]
        optimizer = made(self.generator.parameters(), lr=self.learning_rate, fused=self.fused)
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)}
