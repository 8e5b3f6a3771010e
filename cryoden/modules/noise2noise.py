"""Learning from half tomograms: each tells of the noise in the other, a turned copy of what is in a missing wedge."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW

from cryoden.batch import Batch, HalfBoxes, HeldOut, TuningBatch
from cryoden.errors import CryodenError, check_above_zero, check_numbers, check_weights
from cryoden.inference.denoise import denoise
from cryoden.losses import pooled_mse
from cryoden.metrics.fsc import multiplicity, power, shell_numbers, shell_sums
from cryoden.metrics.halves import HalfScore, Halves
from cryoden.modules.training import Training
from cryoden.networks.base import DenoisingNetwork

_FOURIER = (-3, -2, -1)
_FADING = 0.98  # of what earlier boxes of a tomogram tell of its gain: some 50 count
_FAINTEST = 0.01  # of the power of what is standardised; halves that share less signal are not worth more
_TINY = 1e-9


@dataclass(frozen=True)
class Turn:
    """A rotation that brings a cube onto itself.

    Attributes:
        order: which of the axes z, y, x comes first, second, third.
        flipped: which of them run backwards then.
    """

    order: tuple[int, ...]
    flipped: tuple[int, ...]

    def __call__(self, volumes: Tensor) -> Tensor:
        """Turns cubes (B, C, D, D, D)."""
        return volumes.permute(0, 1, *(2 + axis for axis in self.order)).flip([2 + axis for axis in self.flipped])

    def region(self, region: Tensor) -> Tensor:
        """What becomes of a region of Fourier space: bool (B, D, D, D // 2 + 1), in the layout of `torch.fft.rfftn`."""
        size = region.shape[1]
        rest = region[..., 1 : (size + 1) // 2]
        whole = torch.cat([region, _negated(rest, (1, 2)).flip(3)], 3)  # a real volume has k and -k alike
        turned = whole.permute(0, *(1 + axis for axis in self.order))
        return _negated(turned, [1 + axis for axis in self.flipped])[..., : size // 2 + 1]


def _negated(region: Tensor, axes: Any) -> Tensor:
    """With k for -k along axes of `torch.fft.fftn`."""
    for axis in axes:
        region = region.flip(axis).roll(1, axis)
    return region


def _turns() -> list[Turn]:
    """All 24, the first of which leaves everything as it is."""
    turns = []
    for order, flips in product(permutations(range(3)), product((False, True), repeat=3)):
        if np.linalg.det(np.eye(3)[list(order)]) * (-1) ** sum(flips) > 0:  # others are mirrors
            turns.append(Turn(order, tuple(axis for axis in range(3) if flips[axis])))
    return turns


TURNS = _turns()


class Noise2Noise(Training):
    """A network that learns on half tomograms, where nobody knows the truth; a trained one needs little of it.

    Of two halves with independent noise, the answer to one is compared with the other (Lehtinen et al. 2018,
    "Noise2Noise"; Buchholz et al. 2019, "cryoCARE"). A missing wedge is learnt of turned copies, in which another part
    is taken away, of which something was measured (Wiedemann and Heckel 2024, "DeepDeWedge"); what was not measured is
    filled, as a copy is made, by an average of the network over its last steps, and by noise. The turns are those of a
    cube, exact and without mirrors. Where nothing is missing there are none, and what is left is cryoCARE.

    The network answers density as it is, and a tomogram shows it through contrast transfer. So between the two stands a
    gain for each shell of Fourier space, fitted to each tomogram as it goes. And beside the halves the network is shown
    simulated boxes, whose density is known, lest it learns to draw what else both halves share. Without these there is
    no gain, and what it learns is the tomogram without noise.

    What is scored, kept, and denoises is the average.

    Args:
        generator: the network.
        learning_rate: of AdamW.
        average: how much of the average stays at each step; of the first, less.
        wedge: weight of what was measured in the part that was taken away; all else that was measured has 1.
        simulated: weight of the error of simulated boxes relative to what is in them; that of halves has 1.
        kwargs: see Training.

    Raises:
        CryodenError: an argument is out of its range.
    """

    cross: Tensor
    answered: Tensor
    signal: Tensor
    seen: Tensor

    def __init__(
        self,
        generator: DenoisingNetwork,
        *,
        learning_rate: float = 2.0e-4,
        average: float = 0.99,
        wedge: float = 2.0,
        simulated: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, **kwargs)
        if not self.denoiser.standardize:
            raise CryodenError("standardize: got false; half tomograms come in any unit, and need true")
        check_above_zero(learning_rate=learning_rate)
        check_numbers(lambda share: 0 <= share < 1, "a number from 0 to below 1", average=average)
        check_weights(wedge=wedge, simulated=simulated)
        self.learning_rate = learning_rate
        self.average = average
        self.wedge = wedge
        self.simulated = simulated
        self.learner = copy.deepcopy(self.denoiser)
        self.denoiser.requires_grad_(False)
        self.scores: dict[str, HalfScore] = {}
        self._judges: dict[str, Halves] = {}
        self._products = torch.zeros(3)
        self._steps = 0

    def setup(self, stage: str) -> None:
        """Make room for what is learnt of each tomogram.

        Raises:
            CryodenError: the data are no half tomograms.
        """
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "tomograms"):
            raise CryodenError(f"{type(self).__name__} learns from half tomograms: give it a HalvesDataModule")
        if not hasattr(self, "seen"):
            count, shells = len(data.tomograms), data.box // 2 + 1
            for name in ("cross", "answered", "signal"):
                self.register_buffer(name, torch.zeros(count, shells, device=self.device))
            self.register_buffer("seen", torch.zeros(count, device=self.device))
        if stage == "fit" and self.trainer.ckpt_path is None:
            self.learner.load_state_dict(self.denoiser.state_dict())

    def training_step(self, batch: TuningBatch, batch_idx: int) -> Tensor:
        """One step on boxes of halves, and on simulated ones."""
        terms = {"halves": self._halves(batch["halves"], gained="simulated" in batch)}
        if "simulated" in batch:
            boxes = batch["simulated"]
            terms["simulated"] = self.simulated * pooled_mse(self.learner(boxes["degraded"]), boxes["clean"])
        loss = self.total(terms)
        size = len(batch["halves"]["given"])
        self.log("train/loss", loss, prog_bar=True, batch_size=size)
        self.log_dict({f"train/{name}": term.detach() for name, term in terms.items()}, batch_size=size)
        return loss

    def _halves(self, boxes: HalfBoxes, *, gained: bool) -> Tensor:
        """Error of what is predicted of the other halves, relative to what both share; their noise is part of it.

        Args:
            boxes: of both halves.
            gained: whether answers are density, of which a tomogram shows as much as a gain tells; or else the tomogram
                without noise. Without simulated boxes nothing would tell density from any multiple of it.
        """
        given, other = boxes["given"], boxes["other"]
        shape = given.shape[2:]
        with torch.no_grad():
            measured = boxes["measured"].expand(-1, -1, shape[1], -1)
            answer, first, second = map(_spectrum, (self.denoiser.density(given), given, other))
            gain, signal = self._gain(answer, first, second, measured, boxes["tomogram"])
            gain = gain if gained else _within(shape).to(gain)
            noise = torch.rot90(given - other, 1, (2, 4)).roll(shape[1] // 2, 3) / math.sqrt(2)
            filled = _volume(torch.where(measured, first, gain * answer + _spectrum(noise)), shape)
            turn = self._turn(measured)
            shown = _volume(_spectrum(turn(filled)) * measured, shape)
            wanted = _spectrum(turn(other))
            weight = turn.region(measured) * torch.where(measured, 1.0, self.wedge)
            weight = weight * multiplicity(given) * _within(shape).to(self.device)
        predicted = gain * _spectrum(self.learner.density(shown))
        error = (power(predicted - wanted) * weight).sum(_FOURIER)
        return (error / signal).mean()

    def _turn(self, measured: Tensor) -> Turn:
        """One for this batch; where nothing is missing, none is needed."""
        if bool(measured.all()):
            return TURNS[0]
        return TURNS[int(torch.randint(len(TURNS), (), generator=self.random, device=self.device))]

    def _gain(
        self, answer: Tensor, first: Tensor, second: Tensor, measured: Tensor, tomogram: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What stands between answers and tomograms, by all that was seen of each of late.

        Args:
            answer: (B, D, H, W // 2 + 1), spectrum of the answers to the first halves.
            first: of these.
            second: of the others.
            measured: bool, of the same shape.
            tomogram: (B,), its number.

        Returns:
            The gain at each frequency (B, D, H, W // 2 + 1), 0 beyond Nyquist; and (B,) the power of what both halves
            share in a box of this tomogram on the mean, or in this very box, if that is more: a bead of gold would
            outweigh all else.
        """
        shape = 2 * (answer.shape[3] - 1), answer.shape[1], answer.shape[2]
        weight = measured * multiplicity(torch.empty(shape[0], device=answer.device))
        rows = {"cross": _product(answer, second), "answered": power(answer), "signal": _product(first, second)}
        sums = {name: shell_sums(values * weight, shape) for name, values in rows.items()}
        for row, number in enumerate(tomogram.tolist()):
            self.seen[number] = _FADING * self.seen[number] + 1
            for name, values in sums.items():
                kept = getattr(self, name)
                kept[number] = _FADING * kept[number] + values[row]
        little = (_FAINTEST * self.signal[tomogram]).clamp(min=_TINY)  # so that no answer has a gain of 1
        gain = (self.cross[tomogram] + little) / (self.answered[tomogram] + little)
        least = _FAINTEST * (weight * _within(shape).to(weight.device)).sum(_FOURIER)
        mean = self.signal[tomogram, 1:].sum(1) / self.seen[tomogram]
        signal = torch.maximum(torch.maximum(mean, sums["signal"][:, 1:].sum(1)), least)
        return F.pad(gain, (0, 1))[:, shell_numbers(shape).to(gain.device)], signal

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Remember how many steps were taken."""
        super().on_train_batch_start(batch, batch_idx)
        self._steps = self.global_step

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Let the average follow, if the batch ended in a step.

        Raises:
            CryodenError: an argument asks for what this training does not do.
        """
        self._answered = True  # as `standardize` and `residual` ask for
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.global_step == self._steps:  # its gradient is accumulated
            return
        share = min(self.average, (1 + self.global_step) / (10 + self.global_step))
        with torch.no_grad():
            for mean, value in zip(self.denoiser.parameters(), self.learner.parameters(), strict=True):
                mean.lerp_(value, 1 - share)
            for kept, now in zip(self.denoiser.buffers(), self.learner.buffers(), strict=True):
                kept.copy_(now)

    def on_validation_epoch_start(self) -> None:
        """Begin with nothing."""
        self.scores, self._products = {}, torch.zeros(3)

    def validation_step(  # type: ignore[override]  # it gives nothing that callbacks could set beside a truth
        self, batch: HeldOut | Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Judge the answers to a part of a tomogram that nothing was learnt from, or to simulated boxes.

        Raises:
            CryodenError: the halves tell nothing.
        """
        if dataloader_idx == 0:
            part = cast(HeldOut, batch)
            self.scores[part["entry"]] = self._score(part)
            return
        boxes = cast(Batch, batch)
        answer, truth = self(boxes["degraded"]).float(), boxes["clean"]
        self._products += torch.stack([(answer * truth).sum(), answer.square().sum(), truth.square().sum()]).cpu()

    def _score(self, part: HeldOut) -> HalfScore:
        first, second = (part[name].float().cpu().numpy() for name in ("first", "second"))
        name = part["entry"]
        if name not in self._judges:
            mask = part["mask"]
            whole = None if mask is None else mask.cpu().numpy()
            self._judges[name] = Halves.of(first, second, part["voxel_size"], whole)
        if self._judges[name].flaw:
            raise CryodenError(f"{name}: {self._judges[name].flaw}")
        answers = [denoise(half, self.denoiser, device=self.device, contrast="bright") for half in (first, second)]
        return self._judges[name].score(answers[0], answers[1])

    def on_validation_epoch_end(self) -> None:
        """Log what the halves tell, and how near simulated boxes are to their truth."""
        scores = self.scores.values()
        told = {
            "nrmse": float(np.mean([each.nrmse.value for each in scores])),
            "nrmse_one_gain": float(np.mean([each.nrmse_one_gain.value for each in scores])),
            "fsc_area": float(np.mean([each.fsc_area.value for each in scores])),
        }
        cross, answered, truth = self._products.tolist()
        if truth:  # after one gain: by those of the halves, the scale of density may drift
            told["nrmse_simulated"] = math.sqrt(1 - cross**2 / max(answered * truth, _TINY))
        self.log_dict({f"val/{name}": value for name, value in told.items()}, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW with the schedule of Training."""
        optimizer = AdamW(self.learner.parameters(), lr=self.learning_rate, fused=self.fused)
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)}


def _spectrum(volumes: Tensor) -> Tensor:
    """(B, 1, D, H, W) to (B, D, H, W // 2 + 1)."""
    spectrum: Tensor = torch.fft.rfftn(volumes[:, 0].float(), dim=_FOURIER, norm="ortho")
    return spectrum


def _volume(spectrum: Tensor, shape: Any) -> Tensor:
    """The reverse."""
    volumes: Tensor = torch.fft.irfftn(spectrum, s=tuple(shape), dim=_FOURIER, norm="ortho")[:, None]
    return volumes


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Cross power."""
    return one.real * other.real + one.imag * other.imag


def _within(shape: Any) -> Tensor:
    """Where frequencies are judged: neither the mean nor what is beyond Nyquist."""
    shells = shell_numbers(tuple(shape))
    within: Tensor = (shells > 0) & (shells <= min(shape) // 2)
    return within
