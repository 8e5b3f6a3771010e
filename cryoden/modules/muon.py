"""Muon: AdamW whose steps for convolutions change all directions alike."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

_MOMENTUM = 0.95
_RMS = 0.2  # of the entries of a step at a learning rate of 1, about what AdamW's have
_POLYNOMIAL = (3.4445, -4.7750, 2.0315)  # of Jordan et al.; five times take singular values of 0.01 and more near 1
_TIMES = 5


class Muon(AdamW):
    """Momentum whose step for each convolution has all its singular values about 1; AdamW for what is no matrix.

    A gradient points along the few directions that are easiest to learn, and an Adam follows it voxel by voxel of a
    kernel; this learns the other directions as fast. Jordan et al. 2024, "Muon: An optimizer for hidden layers in
    neural networks"; steps are as large as AdamW's, so that its learning rates hold (Liu et al. 2025, "Muon is
    Scalable for LLM Training", arXiv:2502.16982). Biases, and layers with a single channel on either side, take AdamW's
    steps.

    Args:
        parameters: of a network.
        lr: of both kinds.
        kwargs: of AdamW; its weight decay is of both kinds.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, **kwargs: Any) -> None:
        super().__init__(parameters, lr=lr, **kwargs)
        self._step_supports_amp_scaling = False  # a fused AdamW would undo the scale of its own gradients alone

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step along the gradients that there are, or that `closure` makes."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients: list[tuple[nn.Parameter, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.ndim > 1 and min(parameter.shape[:2]) > 1:
                    self._turn(parameter, parameter.grad, group["lr"], group["weight_decay"])
                    gradients.append((parameter, parameter.grad))
                    parameter.grad = None  # not for AdamW
        super().step()
        for parameter, gradient in gradients:
            parameter.grad = gradient
        return loss

    def _turn(self, parameter: nn.Parameter, gradient: Tensor, rate: float, decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # AdamW wants to see it in what it loads
            state["momentum"] = torch.zeros_like(parameter)
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
        ahead = gradient.lerp(momentum, _MOMENTUM).flatten(1)  # Nesterov's
        step = orthogonal(ahead).mul_(_RMS * max(ahead.shape) ** 0.5)
        parameter.mul_(1 - rate * decay).sub_(step.view(parameter.shape), alpha=rate)


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix with orthonormal rows or columns, whichever are fewer: singular values of 0.7 to 1.2.

    Args:
        matrix: (N, M).

    Returns:
        (N, M); a matrix of zeros stays so.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.t()).t()
    a, b, c = _POLYNOMIAL
    tiny = torch.finfo(matrix.dtype).tiny
    turned: Tensor = matrix / matrix.abs().amax().clamp(min=tiny)  # whose squares neither vanish nor overflow
    turned = turned / turned.norm().clamp(min=tiny)
    for _ in range(_TIMES):
        square = turned @ turned.t()
        turned = a * turned + (b * square + c * square @ square) @ turned
    return turned
