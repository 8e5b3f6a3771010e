"""What every way of training shares: a denoiser, its grey scale, schedules, scores and checkpoints."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from lightning import Callback, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning_utilities import apply_to_collection
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cryoden.batch import Batch
from cryoden.checkpoint import load_denoiser
from cryoden.denoiser import Denoiser, digest_of
from cryoden.errors import CryodenError, check_weights, check_whole
from cryoden.losses import Loss, data_consistency
from cryoden.metrics import percentiles
from cryoden.metrics.per_volume import TrainingMetrics
from cryoden.modules.safeguards import AverageBuffers, Safeguard
from cryoden.networks.base import DenoisingNetwork, python_number, with_defaults


class Training(LightningModule):
    """A denoiser in training.

    Args:
        generator: the network.
        standardize: show the network volumes whose background is 0 and whose spread is 1, as `cryoden.scaling` measures
            them on the specimen, and give the answer the grey scale of the input: f(a x + b) = a f(x) + b for a > 0.
        residual: the network predicts the noise, which is taken from the input (Wolterink et al. 2017, "Generative
            Adversarial Networks for Noise Reduction in Low-Dose CT"); it is made to end linearly.
        data_consistency: weight of a loss on density that contradicts what was measured by more than the noise; a guard
            against invention, see `cryoden.losses.data_consistency`.
        warmup_steps: batches over which the learning rate rises to its value.
        cosine: let the learning rate fall to zero along a cosine over the whole training; otherwise it stays.
        gradient_clip: the largest norm of a step's gradient; longer ones are scaled down.
        nonfinite: what to do when a gradient is not finite: stop, or go back to the last good state (the start of the
            epoch) and halve the learning rate.
        init_weights: what to begin with instead of random weights, for fine-tuning: a run's folder, a checkpoint or
            exported weights of the same network.

    Raises:
        CryodenError: an argument is out of its range.

    Attributes:
        denoiser: what is trained; all that is needed to denoise.
        terms: name → (), of the loss of this batch, for the log and for whoever must tell what went wrong.
        random: where the randomness of this batch comes from, on the device.
    """

    random: torch.Generator

    def __init__(
        self,
        generator: DenoisingNetwork,
        *,
        standardize: bool = True,
        residual: bool = False,
        data_consistency: float = 0.0,
        warmup_steps: int = 0,
        cosine: bool = True,
        gradient_clip: float | None = None,
        nonfinite: Literal["stop", "rollback"] = "stop",
        init_weights: str | None = None,
    ) -> None:
        super().__init__()
        check_weights(data_consistency=data_consistency)
        check_whole(0, warmup_steps=warmup_steps)
        with warnings.catch_warnings():
            # Lightning advises to leave networks and optimizers out by name; then a checkpoint of the command line's
            # could not be loaded. on_save_checkpoint leaves out whatever is not plain.
            warnings.simplefilter("ignore")
            self.save_hyperparameters()
        self.denoiser = Denoiser(generator, standardize=standardize, residual=residual, system=type(self).__name__)
        self.data_consistency = data_consistency
        self.warmup_steps = warmup_steps
        self.cosine = cosine
        self.safeguard = Safeguard(gradient_clip, rollback=nonfinite == "rollback")
        self.init_weights = init_weights
        self.terms: dict[str, Tensor] = {}
        self._answered = self._scheduled = self._begun = False
        self.seed = torch.initial_seed()
        self.val_metrics = TrainingMetrics("val/")
        self.test_metrics = TrainingMetrics("test/")

    @property
    def generator(self) -> DenoisingNetwork:
        """The network that is trained to denoise."""
        return self.denoiser.generator

    def forward(self, degraded: Tensor) -> Tensor:
        """Denoise volumes (B, 1, D, H, W), as `Denoiser` does."""
        self._answered = True
        denoised: Tensor = self.denoiser(degraded)
        return denoised

    def configure_callbacks(self) -> list[Callback]:
        """What watches over a training, whoever starts it."""
        return [self.safeguard, AverageBuffers()]

    def setup(self, stage: str) -> None:
        """Learn from the data module at which voxel size this model is trained; a checkpoint carries it.

        Raises:
            CryodenError: its boxes are smaller than what the network takes, or `init_weights` cannot be used.
        """
        data = getattr(self.trainer, "datamodule", None)
        multiple, box = self.generator.multiple, getattr(data, "box", None)
        if stage == "fit" and box is not None and box < multiple:  # most of what it sees would be mirrored
            raise CryodenError(
                f"box: got {box} for the data, and {type(self.generator).__name__} takes multiples of {multiple}; give "
                f"--data.box {multiple} or more, or a network with fewer levels"
            )
        if stage == "fit":  # what it is tested at says nothing of it
            self.denoiser.voxel_size = getattr(data, "voxel_size", self.denoiser.voxel_size)
        if stage == "fit" and self.init_weights is not None and self.trainer.ckpt_path is None and not self._begun:
            self._begin_with(self.init_weights)
            self._begun = True  # a second fit goes on with what it has learnt

    def _begin_with(self, run: str) -> None:
        begun = load_denoiser(run)
        there, here = begun.record(), self.denoiser.record()
        for name in ("network", "standardize", "residual"):
            if there[name] != here[name]:
                raise CryodenError(
                    f"init_weights {run}: {name} is {_words(there[name])} there and {_words(here[name])} here; give "
                    "both the same, or train from the start"
                )
        self.generator.load_state_dict(begun.generator.state_dict())

    def on_train_start(self) -> None:
        """A schedule must be followed, and a cosine must know its end.

        Raises:
            CryodenError: it is not, or does not.
        """
        if (self.cosine or self.warmup_steps) and not self._scheduled:
            raise CryodenError(
                f"cosine and warmup_steps: the optimizers of {type(self).__name__} do not follow them; let its "
                "configure_optimizers give self.schedule(optimizer), or set cosine to false and warmup_steps to 0"
            )
        if self.cosine and not math.isfinite(self.trainer.estimated_stepping_batches):
            raise CryodenError("cosine: needs to know where training ends; set trainer.max_epochs, or cosine to false")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Begin a batch: all its randomness follows from the seed, so that a resumed run goes on as it would have."""
        self.terms = {}
        self._answered = False
        state = np.random.SeedSequence([self.seed, self.trainer.fit_loop.total_batch_idx, self.global_rank])
        self.random = torch.Generator(self.device).manual_seed(int(state.generate_state(1, np.uint64)[0]))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Refuse a training step, maybe someone's own, that would leave out in silence what an argument asks for.

        Raises:
            CryodenError: it does.
        """
        step = f"the training step of {type(self).__name__}"
        for term, argument in self._asked.items():
            if term not in self.terms:
                raise CryodenError(
                    f"{argument}: {step} does not obey it; let its loss be self.total({{**self.supervised(batch, "
                    "denoised, loss), ...}), or derive the class from one that has no such argument"
                )
        if not self._answered:
            raise CryodenError(f"standardize and residual: {step} passes them by; call self(degraded), not a network")

    @property
    def _asked(self) -> dict[str, str]:
        """The terms that the loss of this batch must have, and the arguments that ask for them."""
        return {"data_consistency": "data_consistency"} if self.data_consistency else {}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Score a batch; the denoised volumes are for callbacks."""
        return self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
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

    def _evaluate(self, batch: Batch, metrics: TrainingMetrics) -> dict[str, Tensor]:
        denoised = self(batch["degraded"])
        metrics.update(denoised, batch["clean"], batch["measured"])
        return {"denoised": denoised}

    def _log_percentiles(self, metrics: TrainingMetrics) -> None:
        for name, values in metrics.compute().items():
            low, median, high = percentiles(values.cpu())
            if not math.isnan(median):  # there may be no missing wedge
                self.log_dict({name: median, f"{name}_p5": low, f"{name}_p95": high}, sync_dist=True)
        metrics.reset()

    def supervised(self, batch: Batch, denoised: Tensor, loss: Loss) -> dict[str, Tensor]:
        """The terms of a loss that compare with the clean volumes.

        Args:
            batch: of pairs.
            denoised: (B, 1, D, H, W), what the network made of the degraded ones.
            loss: of (denoised, clean).

        Returns:
            Name → (): the loss, and what `data_consistency` asks for.
        """
        clean = batch["clean"]
        terms = {"reconstruction": loss(denoised, clean)}
        if self.data_consistency:
            contradiction = data_consistency(denoised, clean, batch["degraded"], batch["measured"])
            terms["data_consistency"] = self.data_consistency * contradiction
        return terms

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The sum of a loss's terms, name → (), which are kept under their names until the next batch."""
        self.terms |= {name: term.detach() for name, term in terms.items()}
        return torch.stack(list(terms.values())).sum()

    def schedule(self, optimizer: Optimizer) -> dict[str, Any]:
        """The learning rate over all batches, by `warmup_steps` and `cosine`, as Lightning takes it."""
        self._scheduled = True

        def factor(step: int) -> float:
            if step < self.warmup_steps:
                return (step + 1) / (self.warmup_steps + 1)
            # The length of the training is not asked for before it begins: Lightning would set up the data for it, too
            # soon to resume within an epoch.
            if not self.cosine or step == self.warmup_steps:
                return 1.0
            total = float(self.trainer.estimated_stepping_batches)
            done = (step - self.warmup_steps) / max(1.0, total - self.warmup_steps)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

        return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}

    @property
    def fused(self) -> bool | None:
        """Whether an Adam updates all parameters at once: on a GPU that is one launch for hundreds; None: torch's."""
        return True if self.device.type == "cuda" else None

    @property
    def _goes_on(self) -> bool:
        """Whether a checkpoint that is loaded is one that training goes on from, not one to be tested or used."""
        return self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only plain values, so that every checkpoint loads without unpickling code, and describe the network."""
        for name in ("hyper_parameters", "datamodule_hyper_parameters"):
            if name in checkpoint:
                checkpoint[name] = plain(checkpoint[name])
        for name in ("optimizer_states", "lr_schedulers"):  # a rate, anyone's, may be one of numpy's
            if name in checkpoint:
                checkpoint[name] = apply_to_collection(checkpoint[name], np.generic, python_number)
        # Averages of the weights stand in their place by now, if there are any, and the digest is of what is kept.
        inside = "denoiser.generator."
        kept = {k.removeprefix(inside): v for k, v in checkpoint["state_dict"].items() if k.startswith(inside)}
        record = self.denoiser.record()
        checkpoint["cryoden"] = {**record, "digest": digest_of(record, kept), "seed": self.seed}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the same randomness, if the checkpoint is of the same system.

        Raises:
            CryodenError: it is of another system or network, its network was used otherwise, or its training would go
                on with data or an optimizer of other settings.
        """
        record, own = checkpoint.get("cryoden"), self.denoiser.record()
        if record is None:
            raise CryodenError("the checkpoint is not cryoden's")
        record |= {"network": with_defaults(record["network"], self.generator)}
        for name in ("system", "network", "standardize", "residual"):
            if record[name] != own[name]:
                raise CryodenError(
                    f"the checkpoint is of another {name}, {_words(record[name])}; this run's is {_words(own[name])}: "
                    "give the configuration that the checkpoint was trained with (config.yaml in its run's folder)"
                )
        there, here = record.get("voxel_size"), own["voxel_size"]
        if self._goes_on and there and here and not math.isclose(there, here, rel_tol=0.01):
            raise CryodenError(
                f"the checkpoint is of voxels of {there:g} Å; this run's data have {here:g} Å: give --data.voxel_size "
                f"{there:g}, or begin anew with its weights, --model.init_weights instead of --ckpt-path"
            )
        self.denoiser.voxel_size = there or here
        if self._goes_on:
            self._compare(checkpoint.get("hyper_parameters", {}))
        self.seed = record["seed"]
        self._begun = True  # whatever it began with

    def _compare(self, there: Mapping[str, Any]) -> None:
        """Tell which arguments are others than those of the checkpoint that is gone on from.

        Raises:
            CryodenError: they are an optimizer's, which has its state, and these with it, from the checkpoint.
        """
        here = plain(dict(self.hparams))
        others = [k for k in here if k in there and here[k] != there[k] and k not in _SETTLED and k[0] != "_"]
        for name in others:
            if name in _OPTIMIZERS:
                raise CryodenError(
                    f"{name}: got {here[name]}, and the optimizer would go on with the checkpoint's {there[name]}: "
                    f"give --model.{name} {there[name]}, or begin anew with its weights, --model.init_weights instead "
                    "of --ckpt-path"
                )
        if others:
            told = ", ".join(f"{name} {here[name]} (there {there[name]})" for name in others)
            rank_zero_warn(f"this training goes on with other arguments than the checkpoint's: {told}")


_OPTIMIZERS = ("learning_rate", "discriminator_learning_rate", "betas")
_SETTLED = ("generator", "init_weights")  # the network's record is compared, and whatever was begun with is gone by


def _words(value: Any) -> str:
    """A system's name, or a network as a constructor call."""
    if not isinstance(value, dict):
        return str(value)
    arguments = ", ".join(f"{name}={argument!r}" for name, argument in value["init_args"].items())
    return f"{value['class_path'].rpartition('.')[2]}({arguments})"


def plain(value: Any) -> Any:
    """`value` with whatever is not a number, text, None, or a list or mapping of these left out; numpy's numbers too.

    >>> plain({"channels": 48, "generator": object(), "betas": (0.5, 0.9)})
    {'channels': 48, 'betas': [0.5, 0.9]}
    """
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items() if _is_plain(v)}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value if _is_plain(v)]
    return python_number(value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple | dict | np.generic)
