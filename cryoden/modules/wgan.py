"""Wasserstein GANs: a critic scores volumes, and the gap between clean and denoised ones is their distance."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer, RMSprop

from cryoden.batch import Batch
from cryoden.errors import check_above_zero, check_weights
from cryoden.modules.adversarial import Adversarial, Standing, refuse_batch_norm, slopes
from cryoden.networks.base import DenoisingNetwork, DiscriminatorNetwork


class WGAN(Adversarial):
    """A generator against a critic whose weights are clipped, so that its slope is bounded.

    Arjovsky et al. 2017 (arXiv:1701.07875), algorithm 1, with RMSprop for the critic as there; the critic's steps are
    on one batch each time. What keeps it stable is written down in docs/adversarial.md.

    Args:
        generator: the denoising network.
        critic: gives raw scores, higher for "clean".
        discriminator_steps: of the critic on each batch.
        weight_clip: the largest absolute value of the critic's weights.
        discriminator_learning_rate: of the critic's RMSprop.
        kwargs: see Adversarial and Training.

    Raises:
        CryodenError: an argument is out of its range.
    """

    def __init__(
        self,
        generator: DenoisingNetwork,
        critic: DiscriminatorNetwork,
        *,
        discriminator_steps: int = 5,
        weight_clip: float = 0.01,
        discriminator_learning_rate: float = 5.0e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            generator,
            critic,
            discriminator_steps=discriminator_steps,
            discriminator_learning_rate=discriminator_learning_rate,
            **kwargs,
        )
        check_above_zero(weight_clip=weight_clip)
        self.weight_clip = weight_clip

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Steps of both players on a batch of pairs."""
        clean, degraded = batch["clean"], batch["degraded"]
        denoised = self._generate(degraded)

        for optimizer in self._discriminator_turns():
            gap = self._judge(degraded, clean).mean() - self._judge(degraded, denoised.detach()).mean()
            self._optimize(optimizer, {"critic": -gap})
            with torch.no_grad():
                for weight in self.discriminator.parameters():
                    weight.clamp_(-self.weight_clip, self.weight_clip)

        # Clipping bounds the critic's slope, but by a number that nobody knows and that grows over the training:
        # without dividing by it the adversarial term soon outweighs all others.
        slope = slopes(self._judge, degraded, denoised, clean).mean().detach()
        for optimizer, candidate in self._generator_turns(degraded, denoised):
            features = self._features(degraded, candidate)
            loss = -features[-1].mean() / slope
            self._optimize(optimizer, {"adversarial": loss, **self._supervision(batch, candidate, features)})

        self._finish(batch, Standing("critic_gap", gap / slope))

    def _optimizers(self) -> tuple[Optimizer, Optimizer]:
        return (
            Adam(self.generator.parameters(), lr=self.learning_rate, betas=self.betas, fused=self.fused),
            RMSprop(self.discriminator.parameters(), lr=self.discriminator_learning_rate),
        )


class WGANGP(Adversarial):
    """A generator against a critic whose slope is held at 1 between denoised and clean volumes.

    Gulrajani et al. 2017 (arXiv:1704.00028), algorithm 1; the critic's steps are on one batch, each at other points
    between denoised and clean.

    Args:
        generator: the denoising network.
        critic: gives raw scores, higher for "clean"; without batch normalisation.
        discriminator_steps: of the critic on each batch.
        penalty_weight: of the gradient penalty, the paper's lambda.
        discriminator_learning_rate: of the critic's Adam.
        betas: of both Adams.
        kwargs: see Adversarial and Training.

    Raises:
        CryodenError: an argument is out of its range.
    """

    def __init__(
        self,
        generator: DenoisingNetwork,
        critic: DiscriminatorNetwork,
        *,
        discriminator_steps: int = 5,
        penalty_weight: float = 10.0,
        discriminator_learning_rate: float = 1.0e-4,
        betas: tuple[float, float] = (0.0, 0.9),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            generator,
            critic,
            discriminator_steps=discriminator_steps,
            discriminator_learning_rate=discriminator_learning_rate,
            betas=betas,
            **kwargs,
        )
        refuse_batch_norm(critic)
        check_weights(penalty_weight=penalty_weight)
        self.penalty_weight = penalty_weight

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Steps of both players on a batch of pairs."""
        clean, degraded = batch["clean"], batch["degraded"]
        denoised = self._generate(degraded)

        for optimizer in self._discriminator_turns():
            gap = self._judge(degraded, clean).mean() - self._judge(degraded, denoised.detach()).mean()
            penalty = self.penalty_weight * self._penalty(degraded, clean, denoised.detach())
            self._optimize(optimizer, {"critic": -gap, "penalty": penalty})

        for optimizer, candidate in self._generator_turns(degraded, denoised):
            features = self._features(degraded, candidate)
            loss = -features[-1].mean()
            self._optimize(optimizer, {"adversarial": loss, **self._supervision(batch, candidate, features)})

        self._finish(batch, Standing("critic_gap", gap))

    def _penalty(self, degraded: Tensor, clean: Tensor, denoised: Tensor) -> Tensor:
        """How far the critic's slope is from 1 at random points between each pair."""
        place = torch.rand(len(clean), 1, 1, 1, 1, generator=self.random, device=clean.device)
        between = clean + place * (denoised - clean)
        return (slopes(self._judge, degraded, between, clean) - 1).square().mean()
