"""No step along a gradient that is not finite: training stops with a reason, or goes back to where it was good."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from cryoden.errors import CryodenError

if TYPE_CHECKING:
    from cryoden.modules.denoiser import Denoiser

_MOST_ROLLBACKS = 5  # in one epoch: by then the learning rate is 1/32 of what it was


class NonFiniteError(CryodenError):
    """Training met a gradient that is not finite; the weights are those before the step."""


class Safeguard:
    """Checks and clips every gradient before its step.

    Args:
        clip: the largest norm of a gradient, or None.
        rollback: go back to the state last kept and halve the learning rate, rather than stop.
    """

    def __init__(self, clip: float | None, *, rollback: bool) -> None:
        if clip is not None and not clip > 0:
            raise CryodenError(f"gradient_clip: got {clip}; it must be above 0, or null for none")
        self.clip = clip
        self.rollback = rollback
        self.terms: dict[str, Tensor] = {}
        self._entries: list[str] = []
        self._good: tuple[dict[str, Tensor], list[dict[str, Any]]] | None = None
        self._broken = ""
        self._rollbacks = 0

    def keep(self, module: Denoiser) -> None:
        """Remember weights and optimizers as the state to go back to."""
        if self.rollback:
            weights = {name: value.detach().clone() for name, value in module.state_dict().items()}
            self._good = weights, [copy.deepcopy(optimizer.state_dict()) for optimizer in module.trainer.optimizers]
            self._rollbacks = 0

    def begin(self, batch: dict[str, Any]) -> None:
        """Remember which particles a batch shows."""
        self._entries = sorted(set(batch.get("entry", [])))

    def check(self, module: Denoiser, optimizer: Optimizer) -> None:
        """Clip the gradients of an optimizer's parameters; if they are not finite, stop, or let the step do nothing.

        Raises:
            NonFiniteError: they are not finite, and going back was not asked for.
        """
        if module.trainer.precision == "16-mixed":
            return  # its loss scale makes infinite gradients on purpose, and skips their steps
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        if norm.isfinite():
            if self.clip is not None:
                clip_grads_with_norm_(parameters, self.clip, norm)
            return
        reason = self._reason(module, parameters)
        if self._good is None:
            raise NonFiniteError(
                f"{reason}; nothing was changed, and the last checkpoint is good. Lower the learning rate, set "
                "gradient_clip (1.0, say), or let nonfinite be 'rollback'"
            )
        self._broken = self._broken or reason
        for parameter in parameters:
            parameter.grad = None

    def end(self, module: Denoiser) -> None:
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
        self._go_back(module, *self._good)
        rank_zero_warn(f"{reason}; back to the start of the epoch, with half the learning rate")

    def _go_back(self, module: Denoiser, weights: dict[str, Tensor], states: list[dict[str, Any]]) -> None:
        module.load_state_dict(weights)
        for optimizer, state in zip(module.trainer.optimizers, states, strict=True):
            optimizer.load_state_dict(copy.deepcopy(state))
        schedulers = module.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            if scheduler is not None:
                scheduler.base_lrs = [rate / 2 for rate in scheduler.base_lrs]
                for group in scheduler.optimizer.param_groups:
                    group["lr"] /= 2

    def _reason(self, module: Denoiser, parameters: list[torch.nn.Parameter]) -> str:
        broken = [
            f"the loss term {name!r} is {value.item()}" for name, value in self.terms.items() if not _finite(value)
        ]
        if not broken:
            bad = {id(p) for p in parameters if p.grad is not None and not _finite(p.grad)}
            names = [name for name, parameter in module.named_parameters() if id(parameter) in bad]
            terms = ", ".join(f"{name} {value.item():.4g}" for name, value in self.terms.items())
            broken = [f"the gradient of {names[0] if names else 'all parameters together'} is not finite ({terms})"]
        where = f"epoch {module.current_epoch}, batch {module.trainer.fit_loop.batch_idx}"
        return f"training broke down in {where} ({', '.join(self._entries) or 'unnamed volumes'}): {broken[0]}"


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())
