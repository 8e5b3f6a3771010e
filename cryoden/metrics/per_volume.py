"""The measures as torchmetrics that keep one value per volume, for percentiles over volumes."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from cryoden.metrics.measures import MEASURES, Measure, Pair

QUALITY = ("nrmse", "psnr", "ssim", "mse")
WEDGE = ("wedge_power", "invented")
"""Of `MEASURES`, what a training looks at: in the whole box, and in the missing wedge."""


class PerVolume(Metric):
    """A measure of every volume seen; `compute` gives all values, from all processes.

    Args:
        measure: what is measured.
    """

    full_state_update = False
    values: list[Tensor]

    def __init__(self, measure: Measure) -> None:
        super().__init__()
        self.measure = measure
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, pair: Pair) -> None:
        """Add a batch.

        Args:
            pair: a denoised volume that is not finite is infinitely bad, so that no percentile hides it.
        """
        worst = -math.inf if self.measure.better > 0 else math.inf
        self.values.append(self.measure.of(pair).detach().where(pair.finite, worst))

    def compute(self) -> Tensor:
        """The value of every volume seen so far (n,), nan where it has none."""
        return dim_zero_cat([*self.values, torch.zeros(0, device=self.device)])


class TrainingMetrics(MetricCollection):
    """What is measured of a network while it is trained: `compute` gives name → (n,) for `QUALITY` and `WEDGE`.

    Args:
        prefix: put before each name, for example "val/".
    """

    def __init__(self, prefix: str = "") -> None:
        metrics: dict[str, Metric | MetricCollection] = {name: PerVolume(MEASURES[name]) for name in (*QUALITY, *WEDGE)}
        super().__init__(metrics, prefix=prefix, compute_groups=False)

    def update(self, denoised: Tensor, clean: Tensor, measured: Tensor) -> None:  # type: ignore[override]
        """Add a batch; what several measures need of it is made once.

        Args:
            denoised: (B, 1, D, H, W).
            clean: (B, 1, D, H, W), in the same unit.
            measured: bool, see `cryoden.metrics.Pair`.
        """
        super().update(Pair(denoised, clean, measured))
