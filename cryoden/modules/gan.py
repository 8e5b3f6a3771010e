"""A conditional generative adversarial network, with the controls that keep its two players in balance."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cryoden.batch import Batch
from cryoden.errors import check_numbers, check_weights
from cryoden.modules.adversarial import Adversarial, Standing
from cryoden.networks.base import DenoisingNetwork, DiscriminatorNetwork
from cryoden.scaling import Scale


class GAN(Adversarial):
    """A generator against a discriminator that tells clean volumes from denoised ones.

    Goodfellow et al. 2014 (arXiv:1406.2661), with the non-saturating generator loss.

    Args:
        generator: the denoising network.
        discriminator: gives raw logits, positive for "clean".
        label_smoothing: the discriminator is taught 1 - label_smoothing for clean volumes: it never grows certain;
            from 0.5 on it would be taught to call them denoised.
        instance_noise: standard deviation of noise added to what the discriminator compares, in units of the degraded
            volume's spread (`cryoden.scaling`); it falls linearly to zero over the training (Sønderby et al. 2017,
            arXiv:1610.04490).
        kwargs: see Adversarial and Training.

    Raises:
        CryodenError: an argument is out of its range.
    """

    def __init__(
        self,
        generator: DenoisingNetwork,
        discriminator: DiscriminatorNetwork,
        *,
        label_smoothing: float = 0.1,
        instance_noise: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, discriminator, **kwargs)
        check_numbers(lambda share: 0 <= share < 0.5, "a number from 0 to below 0.5", label_smoothing=label_smoothing)
        check_weights(instance_noise=instance_noise)
        self.label_smoothing = label_smoothing
        self.instance_noise = instance_noise

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Steps of both players on a batch of pairs."""
        clean, degraded = batch["clean"], batch["degraded"]
        denoised = self._generate(degraded)

        for optimizer in self._discriminator_turns():
            real, fake = self._judge(degraded, clean), self._judge(degraded, denoised.detach())
            loss = (cross_entropy(real, 1 - self.label_smoothing) + cross_entropy(fake, 0)) / 2
            self._optimize(optimizer, {"discriminator": loss})

        for optimizer, candidate in self._generator_turns(degraded, denoised):
            features = self._features(degraded, candidate)
            loss = cross_entropy(features[-1], 1)
            self._optimize(optimizer, {"adversarial": loss, **self._supervision(batch, candidate, features)})

        self._finish(batch, Standing("discriminator_accuracy", accuracy(real, fake)))

    def _features(self, degraded: Tensor, candidate: Tensor) -> list[Tensor]:
        """What the discriminator sees through instance noise."""
        return super()._features(degraded, self._blurred(degraded, candidate))

    def _blurred(self, degraded: Tensor, candidate: Tensor) -> Tensor:
        level = self.instance_noise * (1 - self._progress)
        unit = Scale.of(degraded).spread.to(candidate) if self.denoiser.standardize else 1.0
        noise = torch.empty_like(candidate).normal_(generator=self.random)
        return candidate + level * unit * noise


def cross_entropy(logits: Tensor, target: float) -> Tensor:
    """Binary cross entropy of raw logits (B, ...) with one target for all."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def accuracy(real: Tensor, fake: Tensor) -> Tensor:
    """The share of logits on the right side of 0: positive for clean volumes, negative for denoised ones."""
    return torch.cat([real > 0, fake < 0]).float().mean()
