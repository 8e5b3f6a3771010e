"""What every system shares: a generator, grey-scale handling, validation and checkpoints."""

import math
import warnings
from typing import Any, TypeVar

from lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MetricCollection

import cryoden
from cryoden.errors import CryodenError
from cryoden.metrics.image import percentiles, quality_metrics
from cryoden.networks.base import DenoisingNetwork, network_record
from cryoden.scaling import Scale, restore, standardize

Batch = dict[str, Any]
_T = TypeVar("_T")


class Denoiser(LightningModule):
    """A network that denoises volumes, with what all training methods share.

    Args:
        generator: the network.
        standardize: show the network volumes of mean 0 and standard deviation 1, and give the output the grey scale and
            the mean of the input: f(a x + b) = a f(x) + b for a > 0.
        warmup_steps: batches over which the learning rate rises to its value.
        cosine: let the learning rate fall to zero along a cosine over the whole training; otherwise it stays.
    """

    generator: DenoisingNetwork

    def __init__(
        self, generator: DenoisingNetwork, *, standardize: bool = True, warmup_steps: int = 0, cosine: bool = True
    ) -> None:
        super().__init__()
        with warnings.catch_warnings():
            # Lightning advises to leave networks and optimizers out by name; then a checkpoint of the command line's
            # could not be loaded. on_save_checkpoint leaves out whatever is not plain.
            warnings.simplefilter("ignore")
            self.save_hyperparameters()
        self.generator = generator
        self.standardize = standardize
        self.warmup_steps = warmup_steps
        self.cosine = cosine
        self.voxel_size: float | None = None
        self.val_metrics = quality_metrics("val/")
        self.test_metrics = quality_metrics("test/")

    def forward(self, degraded: Tensor) -> Tensor:
        """Denoise volumes.

        Args:
            degraded: (B, 1, D, H, W), any unit.

        Returns:
            (B, 1, D, H, W), float32, in the unit of `degraded`.
        """
        if not self.standardize:
            raw: Tensor = self.generator(degraded)
            return raw.float()
        scale = Scale.of(degraded)
        return restore(self.generator(standardize(degraded, scale)).float(), scale)

    def setup(self, stage: str) -> None:
        """Learn from the data module at which voxel size this model is trained; a checkpoint carries it."""
        self.voxel_size = getattr(getattr(self.trainer, "datamodule", None), "voxel_size", self.voxel_size)

    def validation_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Score a batch; the denoised volumes are for callbacks."""
        return self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Score a batch; the denoised volumes are for callbacks."""
        return self._evaluate(batch, self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Denoise a batch."""
        denoised: Tensor = self(batch["degraded"])
        return denoised

    def on_validation_epoch_end(self) -> None:
        """Log the percentiles over volumes: the median under the metric's own name."""
        self._log_percentiles(self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log the percentiles over volumes: the median under the metric's own name."""
        self._log_percentiles(self.test_metrics)

    def _evaluate(self, batch: Batch, metrics: MetricCollection) -> Batch:
        denoised = self(batch["degraded"])
        metrics.update(denoised, batch["clean"])
        return {"denoised": denoised}

    def _log_percentiles(self, metrics: MetricCollection) -> None:
        for name, values in metrics.compute().items():
            low, median, high = percentiles(values)
            self.log_dict({name: median, f"{name}_p5": low, f"{name}_p95": high}, sync_dist=True)
        metrics.reset()

    def _optimize(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def _schedule(self, optimizer: Optimizer) -> dict[str, Any]:
        """The learning rate over all batches of the training, as Lightning takes it."""
        total = float(self.trainer.estimated_stepping_batches)
        if self.cosine and not math.isfinite(total):
            raise CryodenError("cosine: needs to know where training ends; set trainer.max_epochs, or cosine to false")

        def factor(step: int) -> float:
            if step < self.warmup_steps:
                return (step + 1) / (self.warmup_steps + 1)
            done = (step - self.warmup_steps) / max(1.0, total - self.warmup_steps)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done))) if self.cosine else 1.0

        return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only plain values, so that every checkpoint loads without unpickling code, and describe the network."""
        for name in ("hyper_parameters", "datamodule_hyper_parameters"):
            if name in checkpoint:
                checkpoint[name] = plain(checkpoint[name])
        checkpoint["cryoden"] = self.record()

    def record(self) -> dict[str, Any]:
        """All that is needed, beside the weights, to build this model again for denoising; plain values."""
        return {
            "version": cryoden.__version__,
            "system": type(self).__name__,
            "network": network_record(self.generator),
            "standardize": self.standardize,
            "voxel_size": self.voxel_size,
        }


def plain(value: Any) -> Any:
    """`value` with whatever is not a number, text, None, or a list or mapping of these left out.

    >>> plain({"channels": 48, "generator": object(), "betas": (0.5, 0.9)})
    {'channels': 48, 'betas': [0.5, 0.9]}
    """
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items() if _is_plain(v)}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value if _is_plain(v)]
    return value


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple | dict)
