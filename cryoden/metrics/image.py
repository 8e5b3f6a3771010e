"""Image quality as torchmetrics classes that keep one value per volume, for percentiles over volumes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from cryoden.errors import CryodenError
from cryoden.metrics import functional


class PerVolume(Metric):
    """Keeps one value per volume; `compute` gives all of them, from all processes, in (n,)."""

    full_state_update = False
    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def compute(self) -> Tensor:
        """The value of every volume seen so far (n,)."""
        return dim_zero_cat([*self.values, torch.zeros(0, device=self.device)])


class VolumeMetric(PerVolume, ABC):
    """Scores denoised volumes by their clean ones alone."""

    @abstractmethod
    def score(self, denoised: Tensor, clean: Tensor) -> Tensor:
        """One value per volume (B,) of denoised and clean (B, C, D, H, W)."""

    def update(self, denoised: Tensor, clean: Tensor) -> None:
        """Add a batch.

        Args:
            denoised: (B, C, D, H, W).
            clean: (B, C, D, H, W), in the same unit.
        """
        self.values.append(self.score(denoised, clean).detach())


class MSE(VolumeMetric):
    """Mean squared error; see `cryoden.metrics.functional.mse`."""

    higher_is_better = False
    is_differentiable = True

    def score(self, denoised: Tensor, clean: Tensor) -> Tensor:
        """One value per volume (B,)."""
        return functional.mse(denoised, clean)


class NRMSE(VolumeMetric):
    """Root mean squared error over the clean volume's RMS; see `cryoden.metrics.functional.nrmse`."""

    higher_is_better = False
    is_differentiable = True

    def score(self, denoised: Tensor, clean: Tensor) -> Tensor:
        """One value per volume (B,)."""
        return functional.nrmse(denoised, clean)


class PSNR(VolumeMetric):
    """Peak signal-to-noise ratio in dB; see `cryoden.metrics.functional.psnr`.

    Args:
        data_range: Largest minus smallest possible value, in the volumes' unit.
    """

    higher_is_better = True
    is_differentiable = True

    def __init__(self, data_range: float = 1.0) -> None:
        super().__init__()
        self.data_range = data_range

    def score(self, denoised: Tensor, clean: Tensor) -> Tensor:
        """One value per volume (B,)."""
        return functional.psnr(denoised, clean, self.data_range)


class SSIM(VolumeMetric):
    """Structural similarity; see `cryoden.metrics.functional.ssim`.

    Args:
        data_range: Largest minus smallest possible value, in the volumes' unit.
    """

    higher_is_better = True
    is_differentiable = True

    def __init__(self, data_range: float = 1.0) -> None:
        super().__init__()
        self.data_range = data_range

    def score(self, denoised: Tensor, clean: Tensor) -> Tensor:
        """One value per volume (B,)."""
        return functional.ssim(denoised, clean, self.data_range)


def quality_metrics(prefix: str = "") -> MetricCollection:
    """The thesis's four figures, as one metric.

    Args:
        prefix: Put before each name, for example "val/".

    Returns:
        A collection whose `compute` gives {"mse", "nrmse", "psnr", "ssim"} → (n,).
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "mse": MSE(),
        "nrmse": NRMSE(),
        "psnr": PSNR(),
        "ssim": SSIM(),
    }
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)


def percentiles(values: Tensor, q: Sequence[float] = (5.0, 50.0, 95.0)) -> Tensor:
    """Percentiles over volumes, interpolated linearly as numpy does.

    Args:
        values: (n,), at least one.
        q: Percentages between 0 and 100.

    Returns:
        (len(q),), float32.

    Raises:
        CryodenError: There are no values.

    Examples:
        >>> percentiles(torch.arange(101.0))
        tensor([ 5., 50., 95.])
    """
    if values.numel() == 0:
        raise CryodenError("percentiles need at least one volume, got none: no volume has been scored")
    return torch.quantile(values.float().reshape(-1), torch.tensor(q, dtype=torch.float32, device=values.device) / 100)
