"""Training losses, each relative to the clean volume's own power.

Most of a box is empty, and particles differ in size: a plain mean over voxels is tiny, lets large particles dominate,
and pulls a network towards zeros. Divided by the same measure of the clean volume itself, a volume of zeros scores
exactly 1, whatever the particle, so that a training curve says at a glance whether anything was learnt.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

from cryoden.errors import CryodenError, one_line
from cryoden.metrics import functional
from cryoden.metrics.fsc import fourier_shell_correlation, multiplicity, power, shell_sums

Loss = Callable[[Tensor, Tensor], Tensor]
"""(denoised, clean), each (B, 1, D, H, W) → scalar."""

LossMixture = str | dict[str, float]
"""A loss by name, one of yours by its import path ("my_losses.huber"), or several: {"mse": 1.0, "ssim": 0.2}."""

_VOXELS = (1, 2, 3, 4)


def l1(denoised: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute error over the mean absolute clean density, averaged over the batch.

    Args:
        denoised: (B, C, D, H, W).
        clean: (B, C, D, H, W), not all zero.

    Returns:
        Scalar; zeros score 1.
    """
    return ((denoised - clean).abs().mean(_VOXELS) / clean.abs().mean(_VOXELS)).mean()


def mse(denoised: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error over the mean squared clean density, averaged over the batch: the square of NRMSE.

    Args:
        denoised: (B, C, D, H, W).
        clean: (B, C, D, H, W), not all zero.

    Returns:
        Scalar; zeros score 1.
    """
    return ((denoised - clean).square().mean(_VOXELS) / clean.square().mean(_VOXELS)).mean()


def pooled_mse(denoised: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error of the batch over its mean squared clean density: a volume counts by what is in it.

    Where volumes differ in that, as boxes of a tomogram do, the mean of their own errors goes by those that are nearly
    empty, and teaches a network to draw too faintly.

    Args:
        denoised: (B, C, D, H, W).
        clean: (B, C, D, H, W), not all zero.

    Returns:
        Scalar; zeros score 1.
    """
    return (denoised - clean).square().mean() / clean.square().mean()


def ssim(denoised: Tensor, clean: Tensor) -> Tensor:
    """What is missing to a structural similarity of 1, over what zeros miss, averaged over the batch.

    Zhao et al. 2017, "Loss Functions for Image Restoration with Neural Networks"; the SSIM is that of
    `cryoden.metrics.functional.ssim`.

    Args:
        denoised: (B, C, D, H, W), each axis at least 7 voxels.
        clean: (B, C, D, H, W), not all zero, with values between 0 and 1.

    Returns:
        Scalar; zeros score 1.
    """
    missed = 1 - functional.ssim(denoised, clean)
    return (missed / (1 - functional.ssim(torch.zeros_like(clean), clean))).mean()


def fsc(denoised: Tensor, clean: Tensor) -> Tensor:
    """1 minus the Fourier shell correlation, averaged over shells (but for the mean of the volume) and the batch.

    Every resolution counts the same, however little power it holds. It does not see the scale of density, so it needs
    another loss beside it: {"mse": 1.0, "fsc": 0.1}.

    Args:
        denoised: (B, 1, D, H, W).
        clean: (B, 1, D, H, W).

    Returns:
        Scalar; zeros score 1.
    """
    return 1 - fourier_shell_correlation(denoised, clean)[:, 1:].mean()


LOSSES: dict[str, Loss] = {"l1": l1, "mse": mse, "pooled_mse": pooled_mse, "ssim": ssim, "fsc": fsc}


def make_loss(mixture: LossMixture) -> Loss:
    """A loss, or the weighted sum of several.

    Args:
        mixture: a name or an import path, or several with weights.

    Returns:
        The loss; of those named here zeros score the sum of the weights.

    Raises:
        CryodenError: an unknown name, nothing under an import path, no name, or a weight not above 0 or not finite.
    """
    weights = {mixture: 1.0} if isinstance(mixture, str) else mixture
    known = all(name in LOSSES or "." in name for name in weights)
    if not weights or not known or not all(0 < weight < math.inf for weight in weights.values()):
        raise CryodenError(
            f"loss: got {mixture!r}; allowed is one of {', '.join(LOSSES)}, one of yours by its import path, such as "
            "my_losses.huber, or several with weights above 0, such as {mse: 1.0, ssim: 0.2}"
        )
    losses = {name: LOSSES[name] if name in LOSSES else _imported(name) for name in weights}
    return _Mixture(tuple((weights[name], loss) for name, loss in losses.items()))


@dataclass(frozen=True)
class _Mixture:
    """A sum of losses with weights: an object, as a closure could not follow a module into another process."""

    terms: tuple[tuple[float, Loss], ...]

    def __call__(self, denoised: Tensor, clean: Tensor) -> Tensor:
        return torch.stack([weight * loss(denoised, clean) for weight, loss in self.terms]).sum()


def _imported(path: str) -> Loss:
    """The function under an import path, which must give a scalar."""
    module, _, name = path.rpartition(".")
    try:
        loss = getattr(import_module(module), name, None)
    except Exception as error:  # whatever that file does
        raise CryodenError(f"loss {path}: cannot import {module}: {one_line(error)}") from error
    if not callable(loss):
        raise CryodenError(f"loss {path}: {module} has no function {name}; write one that takes (denoised, clean)")
    return _Checked(path, loss)


@dataclass(frozen=True)
class _Checked:
    """A loss of someone's, which must give a scalar: an object, as `_Mixture` is."""

    path: str
    loss: Loss

    def __call__(self, denoised: Tensor, clean: Tensor) -> Tensor:
        value = self.loss(denoised, clean)
        if value.ndim:
            raise CryodenError(f"loss {self.path}: gave shape {tuple(value.shape)}, not a scalar; end it in .mean()")
        return value


def data_consistency(denoised: Tensor, clean: Tensor, degraded: Tensor, measured: Tensor) -> Tensor:
    """How far denoised volumes contradict what was measured, by more than the noise can explain.

    In each shell of Fourier space, within the measured part, the power of denoised - degraded should not exceed that of
    clean - degraded, which is the noise: what exceeds it is density that the microscope did not see, or did see and
    that is missing. The loss is one-sided: a volume as noisy as the input contradicts nothing.

    Args:
        denoised: (B, 1, D, H, W).
        clean: (B, 1, D, H, W), not all zero, in the same unit.
        degraded: (B, 1, D, H, W), in the same unit.
        measured: Bool, broadcastable to (B, D, H, W // 2 + 1), in the layout of `torch.fft.rfftn`.

    Returns:
        Scalar: the excess over the clean volume's own power in the measured part, averaged over the batch; zeros score
        about 1.
    """
    spectra = [
        torch.fft.rfftn(volumes[:, 0].float(), dim=(-3, -2, -1)) for volumes in (denoised - degraded, clean - degraded)
    ]
    weight = multiplicity(clean) * measured
    residual, noise, signal = (
        shell_sums(power(spectrum) * weight, clean.shape[2:])
        for spectrum in (*spectra, torch.fft.rfftn(clean[:, 0].float(), dim=(-3, -2, -1)))
    )
    return ((residual - noise).clamp(min=0).sum(1) / signal.sum(1)).mean()


def feature_matching(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """How far a discriminator's features of denoised volumes are from those of clean ones.

    Wang et al. 2018 (arXiv:1711.11585); with the discriminator's own features it is the 3D counterpart of a perceptual
    loss (Yang et al. 2018, arXiv:1708.00961), for which there is no network trained on volumes.

    Args:
        fake: the features of each stage, (B, ...), of denoised volumes.
        real: the same of the clean volumes; no gradient flows to them.

    Returns:
        Scalar: the mean absolute difference over the mean absolute feature, averaged over stages.
    """
    differences = [
        (a - b.detach()).abs().mean() / b.detach().abs().mean().clamp(min=torch.finfo(torch.float32).tiny)
        for a, b in zip(fake, real, strict=True)
    ]
    return torch.stack(differences).mean()
