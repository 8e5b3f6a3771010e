"""What the systems with two players share; how each player learns stands in gan.py, wgan.py and dragan.py."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Adam, Optimizer

from cryoden.batch import Batch
from cryoden.errors import CryodenError, check_above_zero, check_numbers, check_weights, check_whole
from cryoden.losses import LossMixture, feature_matching, make_loss
from cryoden.modules.training import Training
from cryoden.networks.base import DenoisingNetwork, DiscriminatorNetwork
from cryoden.scaling import Scale

Player = LightningOptimizer | Optimizer


@dataclass(frozen=True, eq=False)
class Standing:
    """How the two players stand after a batch.

    Attributes:
        name: what is measured: the share of logits on the right side of 0, or how much higher a critic scores clean
            volumes than denoised ones.
        value: (), of this batch.
    """

    name: Literal["discriminator_accuracy", "critic_gap"]
    value: Tensor


class Adversarial(Training):
    """A generator trained against a discriminator (or critic) that sees the degraded volume beside the candidate.

    Conditioned on the degraded volume, and with a reconstruction term, as in Isola et al. 2017 (arXiv:1611.07004).

    Args:
        generator: the denoising network.
        discriminator: gives raw logits, higher for "clean".
        reconstruction_loss: compares denoised with clean, relative to the clean volume's own power: l1, mse,
            pooled_mse, ssim, fsc, or several with their weights, such as {mse: 1.0, ssim: 0.2}.
        reconstruction_weight: its weight; the adversarial loss has weight 1.
        feature_matching: weight of a loss on the discriminator's features of denoised and clean volumes.
        discriminator_steps: optimizer steps of the discriminator on each batch.
        generator_steps: optimizer steps of the generator on each batch.
        critic_warmup_steps: batches at the start on which the discriminator learns alone.
        accumulate: batches whose gradients are summed for one step; then each player takes one step a batch.
        learning_rate: of the generator's optimizer.
        discriminator_learning_rate: of the discriminator's optimizer.
        betas: of both Adams.
        kwargs: see Training.

    Raises:
        CryodenError: an argument is out of its range.

    Attributes:
        standing: how the players stand after the last batch.
    """

    standing: Standing | None = None

    def __init__(
        self,
        generator: DenoisingNetwork,
        discriminator: DiscriminatorNetwork,
        *,
        reconstruction_loss: LossMixture = "mse",
        reconstruction_weight: float = 10.0,
        feature_matching: float = 0.0,
        discriminator_steps: int = 1,
        generator_steps: int = 1,
        critic_warmup_steps: int = 0,
        accumulate: int = 1,
        learning_rate: float = 2.0e-3,
        discriminator_learning_rate: float = 2.0e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, **kwargs)
        self.automatic_optimization = False
        check_weights(reconstruction_weight=reconstruction_weight, feature_matching=feature_matching)
        check_whole(0, critic_warmup_steps=critic_warmup_steps)
        check_above_zero(learning_rate=learning_rate, discriminator_learning_rate=discriminator_learning_rate)
        check_numbers(_are_betas, "two numbers from 0 to below 1, such as [0.5, 0.999]", betas=betas)
        _check_steps(discriminator_steps=discriminator_steps, generator_steps=generator_steps, accumulate=accumulate)
        self.discriminator = discriminator
        self.reconstruction_loss = make_loss(reconstruction_loss)
        self.reconstruction_weight = reconstruction_weight
        self.feature_matching = feature_matching
        self.discriminator_steps = discriminator_steps
        self.generator_steps = generator_steps
        self.critic_warmup_steps = critic_warmup_steps
        self.accumulate = accumulate
        self.learning_rate = learning_rate
        self.discriminator_learning_rate = discriminator_learning_rate
        self.betas = betas

    def setup(self, stage: str) -> None:
        """Check what would only fail in the first step, in others' words."""
        super().setup(stage)
        made_for, box = self.discriminator.box, getattr(getattr(self.trainer, "datamodule", None), "box", None)
        if made_for and box and made_for != box:
            raise CryodenError(
                f"box: got {made_for} for the model and {box} for the data; give both the same: --model.box {box}"
            )
        arguments = getattr(self.trainer.strategy, "_ddp_kwargs", {})
        if self.trainer.world_size > 1 and not arguments.get("find_unused_parameters", False):
            raise CryodenError(
                "two players on several devices take turns, and each leaves the other's parameters unused: give "
                "--trainer.strategy=ddp_find_unused_parameters_true"
            )

    def on_train_start(self) -> None:
        """Warn where the discriminator learns alone to the end.

        Raises:
            CryodenError: see Training.
        """
        super().on_train_start()
        batches = self.trainer.estimated_stepping_batches
        if self.critic_warmup_steps >= batches:
            rank_zero_warn(
                f"critic_warmup_steps: got {self.critic_warmup_steps}, and this training has {batches:g} batches, so "
                "that the generator learns nothing; give fewer, or train for longer"
            )

    def on_validation_model_zero_grad(self) -> None:
        """Leave gradients: those that wait for the batches of their step are not Lightning's to drop."""

    def _generate(self, degraded: Tensor) -> Tensor:
        """The denoised batch; without a gradient while the discriminator learns alone."""
        with torch.set_grad_enabled(not self._alone):
            denoised: Tensor = self(degraded)
        return denoised

    def _discriminator_turns(self) -> Iterator[Player]:
        """The discriminator's optimizer, as often as it steps on this batch; only its parameters take gradients."""
        optimizer = self.optimizers()[1]  # type: ignore[index]  # a list of two
        with self.toggled_optimizer(optimizer):
            for _ in range(self.discriminator_steps):
                yield optimizer

    def _generator_turns(self, degraded: Tensor, denoised: Tensor) -> Iterator[tuple[Player, Tensor]]:
        """The generator's optimizer and its candidates, as often as it steps; never while the discriminator is alone.

        Args:
            degraded: of the batch.
            denoised: what the generator made of it, with its graph: its first candidates.
        """
        if self._alone:
            return
        optimizer = self.optimizers()[0]  # type: ignore[index]  # a list of two
        with self.toggled_optimizer(optimizer):
            for step in range(self.generator_steps):
                yield optimizer, self(degraded) if step else denoised

    def _optimize(self, optimizer: Player, terms: Mapping[str, Tensor]) -> None:
        """One backward pass over the sum of the terms, and one step when enough batches are accumulated."""
        self.manual_backward(self.total(terms) / self.accumulate)
        if (self.trainer.fit_loop.batch_idx + 1) % self.accumulate == 0 or self.trainer.is_last_batch:
            optimizer.step()
            optimizer.zero_grad()

    def _features(self, degraded: Tensor, candidate: Tensor) -> list[Tensor]:
        """What the discriminator sees, in the grey scale of the degraded volume; last, its logits, in float32."""
        if self.denoiser.standardize:
            scale = Scale.of(degraded)
            degraded, candidate = scale.relative(degraded), scale.relative(candidate)
        *features, logits = self.discriminator.features(degraded, candidate)
        return [*features, logits.float()]  # a gap between two means is lost in the eight bits of bfloat16

    def _judge(self, degraded: Tensor, candidate: Tensor) -> Tensor:
        """The discriminator's logits."""
        return self._features(degraded, candidate)[-1]

    def _supervision(self, batch: Batch, denoised: Tensor, features: list[Tensor]) -> dict[str, Tensor]:
        """The generator's terms beside the adversarial one; `features` are the discriminator's of denoised volumes."""
        terms = self.supervised(batch, denoised, self.reconstruction_loss)
        terms["reconstruction"] = self.reconstruction_weight * terms["reconstruction"]
        if self.feature_matching:
            with torch.no_grad():
                real = self._features(batch["degraded"], batch["clean"])
            terms["feature_matching"] = self.feature_matching * feature_matching(features[:-1], real[:-1])
        return terms

    def _finish(self, batch: Batch, standing: Standing) -> None:
        """Turn the schedules, and log the weighted terms of both players and how they stand."""
        for scheduler in self.lr_schedulers():  # type: ignore[union-attr]  # a list of two
            scheduler.step()
        self.standing = standing
        volumes = len(batch["clean"])
        self.log_dict({f"train/loss_{name}": term for name, term in self.terms.items()}, batch_size=volumes)
        self.log(f"train/{standing.name}", standing.value.detach(), prog_bar=True, batch_size=volumes)

    @property
    def _asked(self) -> dict[str, str]:
        if self._alone:  # the generator has no loss
            return {}
        matching = {"feature_matching": "feature_matching"} if self.feature_matching else {}
        return {"reconstruction": "reconstruction_loss", **matching, **super()._asked}

    @property
    def _alone(self) -> bool:
        """Whether the discriminator learns alone."""
        return self.trainer.fit_loop.total_batch_idx < self.critic_warmup_steps

    @property
    def _progress(self) -> float:
        """The share of the training that is done, 0 to 1; 0 where the end is not known."""
        return min(1.0, self.trainer.fit_loop.total_batch_idx / float(self.trainer.estimated_stepping_batches))

    def configure_optimizers(self) -> Any:
        """An optimizer for each player, both with the schedule of Training."""
        optimizers = self._optimizers()
        return list(optimizers), [self.schedule(optimizer) for optimizer in optimizers]

    def _optimizers(self) -> tuple[Optimizer, Optimizer]:
        players = ((self.generator, self.learning_rate), (self.discriminator, self.discriminator_learning_rate))
        first, second = (Adam(p.parameters(), lr=rate, betas=self.betas, fused=self.fused) for p, rate in players)
        return first, second


def _are_betas(betas: Sequence[float]) -> bool:
    return len(betas) == 2 and all(0 <= beta < 1 for beta in betas)


def _check_steps(*, accumulate: int, **steps: int) -> None:
    check_whole(1, accumulate=accumulate, **steps)
    if accumulate > 1 and max(steps.values()) > 1:
        raise CryodenError(
            f"accumulate: got {accumulate} batches for a step, and more than one step on a batch; choose one: "
            "accumulate 1, or one step of each player"
        )


def slopes(critic: Callable[[Tensor, Tensor], Tensor], degraded: Tensor, candidate: Tensor, unit: Tensor) -> Tensor:
    """How steep a critic is at candidates, in float32 whatever the precision around it.

    Distances are relative to the clean volumes: between a clean volume and zeros it is 1, whatever the box, the
    particle and the grey scale. So a critic of slope 1 sees a gap no larger than the NRMSE.

    Args:
        critic: gives logits (B, ...) of (degraded, candidate), each of one volume alone.
        degraded: (B, 1, D, H, W).
        candidate: (B, 1, D, H, W).
        unit: (B, 1, D, H, W), the clean volumes.

    Returns:
        (B,), differentiable once more, also where the slope is zero.
    """
    candidate = candidate.detach().float().requires_grad_()
    with torch.autocast(candidate.device.type, enabled=False):
        logits = critic(degraded.float(), candidate).reshape(len(candidate), -1).mean(1)
        (gradient,) = torch.autograd.grad(logits.sum(), candidate, create_graph=True)
        steepness = (gradient * _norm(unit)).flatten(1)
        return (steepness.square().sum(1) + 1e-12).sqrt()


def refuse_batch_norm(critic: DiscriminatorNetwork) -> None:
    """A gradient penalty is about one volume alone.

    Raises:
        CryodenError: the critic holds a batch normalisation, which mixes volumes.
    """
    if any(isinstance(module, _BatchNorm) for module in critic.modules()):
        raise CryodenError(
            f"{type(critic).__name__} with norm 'batch' makes the score of a volume depend on the others of its batch, "
            "which a gradient penalty must not have; take norm 'instance' or 'group'"
        )


def _norm(volumes: Tensor) -> Tensor:
    return volumes.float().square().sum(dim=(1, 2, 3, 4), keepdim=True).sqrt()
