"""What a network put into the missing wedge, where nothing was measured, as torchmetrics classes."""

from torch import Tensor
from torchmetrics import Metric, MetricCollection

from cryoden.metrics import fsc
from cryoden.metrics.image import PerVolume


class WedgeEnergy(PerVolume):
    """Energy in the missing wedge over the clean volume's: 0 left it empty, 1 put in as much as belongs there."""

    def update(self, denoised: Tensor, clean: Tensor, measured: Tensor) -> None:
        """Add the volumes of a batch of which something was not measured.

        Args:
            denoised: (B, 1, D, H, W).
            clean: (B, 1, D, H, W), in the same unit.
            measured: (B, ...), see `cryoden.metrics.fsc.wedge_energy`.
        """
        some = _missing(measured)
        if some.any():  # not every backend transforms a batch of none
            energy, whole = (fsc.wedge_energy(volumes[some], measured[some]) for volumes in (denoised, clean))
            self.values.append((energy / whole).detach())


class WedgeCorrelation(PerVolume):
    """Correlation with the clean volume in the missing wedge: 1 is the truth, 0 is invention, or nothing."""

    def update(self, denoised: Tensor, clean: Tensor, measured: Tensor) -> None:
        """Add the volumes of a batch of which something was not measured.

        Args:
            denoised: (B, 1, D, H, W).
            clean: (B, 1, D, H, W).
            measured: (B, ...), see `cryoden.metrics.fsc.wedge_correlation`.
        """
        some = _missing(measured)
        if some.any():
            self.values.append(fsc.wedge_correlation(denoised[some], clean[some], measured[some]).detach())


def _missing(measured: Tensor) -> Tensor:
    """Which volumes of a batch (B,) have a missing wedge."""
    return ~measured.flatten(1).all(1)


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
