"""A conditional generative adversarial network, with the controls that keep its two players in balance."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam

from cryoden.losses import LOSSES, LossName
from cryoden.modules.denoiser import Batch, Denoiser
from cryoden.networks.base import DenoisingNetwork, DiscriminatorNetwork
from cryoden.scaling import Scale, standardize


class GAN(Denoiser):
    """A generator trained against a discriminator that sees the degraded volume beside a clean or a denoised one.

    Goodfellow et al. 2014 (arXiv:1406.2661), with the non-saturating generator loss; conditioned as in Isola et al.
    2017 (arXiv:1611.07004), who also add the reconstruction term.

    Args:
        generator: the denoising network.
        discriminator: gives raw logits, positive for "clean".
        reconstruction_loss: compares denoised with clean, relative to the clean volume's own power.
        reconstruction_weight: its weight; the adversarial loss has weight 1.
        discriminator_steps: optimizer steps of the discriminator on each batch.
        generator_steps: optimizer steps of the generator on each batch.
        label_smoothing: the discriminator is taught 1 - label_smoothing for clean volumes: it never grows certain.
        instance_noise: standard deviation of noise added to what the discriminator compares, in units of the degraded
            volume's standard deviation; it falls linearly to zero over the training (Sønderby et al. 2017,
            arXiv:1610.04490).
        learning_rate: of the generator's Adam.
        discriminator_learning_rate: of the discriminator's Adam.
        betas: of both.
        kwargs: see Denoiser.
    """

    def __init__(
        self,
        generator: DenoisingNetwork,
        discriminator: DiscriminatorNetwork,
        *,
        reconstruction_loss: LossName = "mse",
        reconstruction_weight: float = 10.0,
        discriminator_steps: int = 1,
        generator_steps: int = 1,
        label_smoothing: float = 0.1,
        instance_noise: float = 0.5,
        learning_rate: float = 2.0e-3,
        discriminator_learning_rate: float = 2.0e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, **kwargs)
        self.automatic_optimization = False
        self.discriminator = discriminator
        self.reconstruction_loss = reconstruction_loss
        self.reconstruction_weight = reconstruction_weight
        self.discriminator_steps = discriminator_steps
        self.generator_steps = generator_steps
        self.label_smoothing = label_smoothing
        self.instance_noise = instance_noise
        self.learning_rate = learning_rate
        self.discriminator_learning_rate = discriminator_learning_rate
        self.betas = betas

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Steps of both players on a batch of pairs."""
        optimizer_g, optimizer_d = self.optimizers()  # type: ignore[attr-defined]  # a list of two
        clean, degraded = batch["clean"], batch["degraded"]
        denoised = self(degraded)

        self.toggle_optimizer(optimizer_d)
        for _ in range(self.discriminator_steps):
            real = self._judge(degraded, clean)
            fake = self._judge(degraded, denoised.detach())
            loss_d = (_cross_entropy(real, 1 - self.label_smoothing) + _cross_entropy(fake, 0)) / 2
            self._optimize(optimizer_d, loss_d)
        self.untoggle_optimizer(optimizer_d)

        self.toggle_optimizer(optimizer_g)
        for step in range(self.generator_steps):
            if step > 0:
                denoised = self(degraded)
            reconstruction = LOSSES[self.reconstruction_loss](denoised, clean)
            adversarial = _cross_entropy(self._judge(degraded, denoised), 1)
            self._optimize(optimizer_g, adversarial + self.reconstruction_weight * reconstruction)
        self.untoggle_optimizer(optimizer_g)

        for scheduler in self.lr_schedulers():  # type: ignore[union-attr]  # a list of two
            scheduler.step()
        self.log_dict(
            {
                "train/loss_discriminator": loss_d,
                "train/loss_adversarial": adversarial,
                "train/loss_reconstruction": reconstruction,
                "train/discriminator_accuracy": torch.cat([real > 0, fake < 0]).float().mean(),
            },
            prog_bar=True,
            batch_size=len(clean),
        )

    def _judge(self, degraded: Tensor, candidate: Tensor) -> Tensor:
        """The discriminator's logits, seen in the grey scale of the degraded volume and through instance noise."""
        if self.standardize:
            scale = Scale.of(degraded)
            degraded, candidate = standardize(degraded, scale), standardize(candidate, scale)
        level = self.instance_noise * (1 - self._progress())
        logits: Tensor = self.discriminator(degraded, candidate + level * torch.randn_like(candidate))
        return logits

    def _progress(self) -> float:
        """The share of the training that is done, 0 to 1; 0 where the end is not known."""
        return min(1.0, self.trainer.fit_loop.total_batch_idx / float(self.trainer.estimated_stepping_batches))

    def configure_optimizers(self) -> Any:
        """An Adam for each player, both with the schedule of Denoiser."""
        optimizers = [
            Adam(self.generator.parameters(), lr=self.learning_rate, betas=self.betas),
            Adam(self.discriminator.parameters(), lr=self.discriminator_learning_rate, betas=self.betas),
        ]
        return optimizers, [self._schedule(optimizer) for optimizer in optimizers]


def _cross_entropy(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
