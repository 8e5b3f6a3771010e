"""No step along a gradient that is not finite, no statistics of one process alone, and no checkpoint half written."""

import copy
import math
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from cryoden.errors import CryodenError
from cryoden.files import whole_file

_MOST_ROLLBACKS = 5  # in one epoch: by then the learning rate is 1/32 of what it was


class NonFiniteError(CryodenError):
    """Training met a gradient that is not finite; the weights are those before the step."""


class Safeguard(Callback):
    """Checks and clips every gradient before its step: training stops with a reason, or goes back to where it was good.

    What went wrong it tells from the module's `terms`, where it keeps them: name → (), of the loss of the batch.

    Args:
        clip: the largest norm of a gradient, or None.
        rollback: go back to the start of the epoch and halve the learning rate, rather than stop.

    Raises:
        CryodenError: the norm is not above 0, or not finite.
    """

    def __init__(self, clip: float | None, *, rollback: bool) -> None:
        if clip is not None and not 0 < clip < math.inf:
            raise CryodenError(f"gradient_clip: got {clip}; it must be above 0 and finite, or null for none")
        self.clip = clip
        self.rollback = rollback
        self._entries: list[str] = []
        self._good: tuple[dict[str, Tensor], list[dict[str, Any]]] | None = None
        self._broken = ""
        self._rollbacks = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a precision whose gradients are scaled, and infinite on purpose.

        Raises:
            CryodenError: clipping or going back is asked for, in 16-mixed.
        """
        if trainer.precision == "16-mixed" and (self.clip is not None or self.rollback):
            raise CryodenError(
                "gradient_clip, and nonfinite rollback, do nothing in precision 16-mixed, which scales gradients and "
                "skips steps by itself: take bf16-mixed or 32, or leave them out"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where a training begins: what is gone on with from within an epoch has no start of one."""
        self._remember(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember weights and optimizers as the state to go back to."""
        self._remember(trainer, pl_module)

    def _remember(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.rollback:
            weights = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
            self._good = weights, [copy.deepcopy(optimizer.state_dict()) for optimizer in trainer.optimizers]
            self._rollbacks = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember which particles a batch shows."""
        self._entries = sorted(set(batch.get("entry", [])))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Clip the gradients of an optimizer's parameters; if they are not finite, stop, or let the step do nothing.

        Raises:
            NonFiniteError: they are not finite, and going back was not asked for.
        """
        if trainer.precision == "16-mixed":
            return  # its loss scale makes infinite gradients on purpose, and skips their steps
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        if norm.isfinite():
            if self.clip is not None:
                clip_grads_with_norm_(parameters, self.clip, norm)
            return
        reason = self._reason(trainer, pl_module, parameters)
        if self._good is None:
            raise NonFiniteError(
                f"{reason}; nothing was changed, and the last checkpoint is good. Lower the learning rate, set "
                "gradient_clip (1.0, say), or let nonfinite be 'rollback'"
            )
        self._broken = self._broken or reason
        for parameter in parameters:
            parameter.grad = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Go back, now that no graph of the batch is needed any more, if its gradients were not finite.

        Raises:
            NonFiniteError: going back has not helped.
        """
        if not self._broken or self._good is None:
            return
        reason, self._broken = self._broken, ""
        if self._rollbacks == _MOST_ROLLBACKS:
            raise NonFiniteError(f"{reason}, after {_MOST_ROLLBACKS} times back to the start of the epoch; stopped")
        self._rollbacks += 1
        self._go_back(trainer, pl_module, *self._good)
        rank_zero_warn(f"{reason}; back to the start of the epoch, with half the learning rate")

    def _go_back(
        self, trainer: Trainer, module: LightningModule, weights: dict[str, Tensor], states: list[dict[str, Any]]
    ) -> None:
        module.load_state_dict(weights)
        for optimizer, state in zip(trainer.optimizers, states, strict=True):
            optimizer.load_state_dict(copy.deepcopy(state))
        schedulers = module.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            if scheduler is not None:
                scheduler.base_lrs = [rate / 2 for rate in scheduler.base_lrs]
                for group in scheduler.optimizer.param_groups:  # its rate is that of the epoch's first step again
                    group["lr"] /= 2**self._rollbacks

    def _reason(self, trainer: Trainer, module: LightningModule, parameters: list[torch.nn.Parameter]) -> str:
        terms: dict[str, Tensor] = getattr(module, "terms", {})
        broken = [f"the loss term {name!r} is {value.item()}" for name, value in terms.items() if not _finite(value)]
        if not broken:
            bad = {id(p) for p in parameters if p.grad is not None and not _finite(p.grad)}
            names = [name for name, parameter in module.named_parameters() if id(parameter) in bad]
            told = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
            broken = [f"the gradient of {names[0] if names else 'all parameters together'} is not finite ({told})"]
        where = f"epoch {module.current_epoch}, batch {trainer.fit_loop.batch_idx}"
        return f"training broke down in {where} ({', '.join(self._entries) or 'unnamed volumes'}): {broken[0]}"


class AverageBuffers(Callback):
    """Lets all processes hold the same running statistics, of which each has seen other batches.

    Before they are used, in validation, and before they are kept, after the last step.
    """

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Average them."""
        self._average(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Average them."""
        self._average(trainer, pl_module)

    def _average(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.world_size > 1:
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(trainer.strategy.reduce(buffer.clone(), reduce_op="mean"))


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints under a temporary name and moves them, so that an old one stays until the new is complete."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            CryodenError: it cannot be written; what was there is still there.
        """
        try:
            with whole_file(Path(path), overwrite=True) as partial, partial.open("wb") as file:
                torch.save(checkpoint, file)
        except (CryodenError, RuntimeError) as error:  # torch's writer tells of a full disk by a RuntimeError
            raise CryodenError(
                f"checkpoint {path}: cannot be written ({' '.join(str(error).split())[:200]}); earlier checkpoints are "
                "untouched. Free some space or choose another folder, and resume with --ckpt-path"
            ) from error


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())
