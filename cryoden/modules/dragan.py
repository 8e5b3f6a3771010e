"""DRAGAN: a GAN whose discriminator is kept from growing steep around clean volumes."""

from typing import Any

import torch
from torch import Tensor

from cryoden.batch import Batch
from cryoden.errors import check_weights
from cryoden.modules.adversarial import Adversarial, Standing, refuse_batch_norm, slopes
from cryoden.modules.gan import accuracy, cross_entropy
from cryoden.networks.base import DenoisingNetwork, DiscriminatorNetwork


class DRAGAN(Adversarial):
    """A generator against a discriminator with a gradient penalty around clean volumes.

    Kodali et al. 2017, "On Convergence and Stability of GANs" (arXiv:1705.07215): steep slopes around real samples are
    where the game gets stuck.

    Args:
        generator: the denoising network.
        discriminator: gives raw logits, positive for "clean"; without batch normalisation.
        penalty_weight: of the gradient penalty, the paper's lambda.
        perturbation: the largest noise added to clean volumes where the slope is measured, in units of the clean
            volumes' standard deviation.
        kwargs: see Adversarial and Training.

    Raises:
        CryodenError: an argument is out of its range.
    """

    def __init__(
        self,
        generator: DenoisingNetwork,
        discriminator: DiscriminatorNetwork,
        *,
        penalty_weight: float = 10.0,
        perturbation: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, discriminator, **kwargs)
        refuse_batch_norm(discriminator)
        check_weights(penalty_weight=penalty_weight, perturbation=perturbation)
        self.penalty_weight = penalty_weight
        self.perturbation = perturbation

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Steps of both players on a batch of pairs."""
        clean, degraded = batch["clean"], batch["degraded"]
        denoised = self._generate(degraded)

        for optimizer in self._discriminator_turns():
            real, fake = self._judge(degraded, clean), self._judge(degraded, denoised.detach())
            loss = (cross_entropy(real, 1) + cross_entropy(fake, 0)) / 2
            penalty = self.penalty_weight * self._penalty(degraded, clean)
            self._optimize(optimizer, {"discriminator": loss, "penalty": penalty})

        for optimizer, candidate in self._generator_turns(degraded, denoised):
            features = self._features(degraded, candidate)
            loss = cross_entropy(features[-1], 1)
            self._optimize(optimizer, {"adversarial": loss, **self._supervision(batch, candidate, features)})

        self._finish(batch, Standing("discriminator_accuracy", accuracy(real, fake)))

    def _penalty(self, degraded: Tensor, clean: Tensor) -> Tensor:
        """How far the discriminator's slope is from 1 at perturbed clean volumes."""
        noise = torch.empty_like(clean).uniform_(generator=self.random)
        perturbed = clean + self.perturbation * clean.std() * noise
        return (slopes(self._judge, degraded, perturbed, clean) - 1).square().mean()
