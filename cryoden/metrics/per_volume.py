"""The measures as torchmetrics that keep one value per volume, for percentiles over volumes."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from cryoden.metrics.measures import MEASURES, Measure

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

    def update(self, denoised: Tensor, clean: Tensor, measured: Tensor) -> None:
        """Add a batch.

        Args:
            denoised: (B, 1, D, H, W); one that is not finite is infinitely bad, so that no percentile hides it.
            clean: (B, 1, D, H, W), in the same unit.
            measured: bool, see `cryoden.metrics.Pair`.
        """
        values = self.measure(denoised, clean, measured).detach()
        worst = -math.inf if self.measure.better > 0 else math.inf
        self.values.append(values.where(denoised.isfinite().flatten(1).all(1), worst))

    def compute(self) -> Tensor:
        """The value of every volume seen so far (n,), nan where it has none."""
        return dim_zero_cat([*self.values, torch.zeros(0, device=self.device)])


def training_metrics(prefix: str = "") -> MetricCollection:
    """What is measured of a network while it is trained, as one metric.

    Args:
        prefix: put before each name, for example "val/".

    Returns:
        A collection whose `compute` gives name → (n,), for the names in `QUALITY` and `WEDGE`.
    """
    metrics: dict[str, Metric | MetricCollection] = {name: PerVolume(MEASURES[name]) for name in (*QUALITY, *WEDGE)}
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)
