"""What a network put into the missing wedge, where nothing was measured, as torchmetrics classes."""

from torch import Tensor
from torchmetrics import Metric, MetricCollection

from cryoden.metrics import fsc
from cryoden.metrics.image import PerVolume


class WedgeEnergy(PerVolume):
    """Energy in the missing wedge over the clean volume's: 0 left it empty, 1 put in as much as belongs there."""

    def update(self, denoised: Tensor, clean: Tensor, measured: Tensor) -> None:
        """Add a batch.

        Args:
            denoised: (B, 1, D, H, W).
            clean: (B, 1, D, H, W), in the same unit.
            measured: see `cryoden.metrics.fsc.wedge_energy`.
        """
        self.values.append((fsc.wedge_energy(denoised, measured) / fsc.wedge_energy(clean, measured)).detach())


class WedgeCorrelation(PerVolume):
    """Correlation with the clean volume in the missing wedge: 1 is the truth, 0 is invention, or nothing."""

    def update(self, denoised: Tensor, clean: Tensor, measured: Tensor) -> None:
        """Add a batch.

        Args:
            denoised: (B, 1, D, H, W).
            clean: (B, 1, D, H, W).
            measured: see `cryoden.metrics.fsc.wedge_correlation`.
        """
        self.values.append(fsc.wedge_correlation(denoised, clean, measured).detach())


def wedge_metrics(prefix: str = "") -> MetricCollection:
    """Both figures as one metric.

    Args:
        prefix: Put before each name, for example "val/".

    Returns:
        A collection whose `compute` gives {"wedge_energy", "wedge_correlation"} → (n,).
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "wedge_energy": WedgeEnergy(),
        "wedge_correlation": WedgeCorrelation(),
    }
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)
