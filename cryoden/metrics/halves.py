"""How near a denoised tomogram is to the truth that nobody has, told by two halves of it with independent noise.

Halves A and B show one signal x, each with noise of its own. An answer f(A) knows nothing of B's noise, so that, summed
over many frequencies, it agrees with B as it agrees with x, and A agrees with B as x does with itself:

    <f, x> = <f(A), B> = <f(B), A>,    <x, x> = <A, B>,

where <., .> is cross power. With these follow, for the average f of both answers, its Fourier shell correlation with x
and, after one fitted gain for each shell, its error relative to x:

    FSC = <f, x> / sqrt(<f, f> <x, x>),    NRMSE² = 1 - Σ (<f, x>² / <f, f>) / Σ <x, x>,    Σ over shells.

The gain is each shell's own, since a network that answers density free of contrast transfer is not on the tomogram's
scale. The second half and its answer are brought to the first's unit, by the ratio of what they hold where they agree.
So any filter that works on shells has the error of the raw tomogram, that of the best such filter. With one gain for
all shells, it is beside it. The correlation of the two answers with each other is no score: what a network always draws
agrees perfectly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cryoden.errors import CryodenError
from cryoden.metrics.fsc import multiplicity, power, resolution_at, shell_frequencies, shell_sums
from cryoden.scaling import filled
from cryoden.volume import central, native, release

Array = NDArray[Any]

INPUT, GAUSSIAN = "input", "Gaussian filter"

_LARGEST = 384  # voxels along each axis that are looked at, in the middle
_BLOCK = 48  # voxels along the tilt axis that each of the blocks has at least
_FADE = 8  # an eighth of each axis fades out at either end
_QUARTILE, _MEASURED = 0.75, 0.1  # a missing wedge holds less than this share of the power of its ring's quartile
_SAME = 0.9999
_TINY = 1e-30
_SHARED = 0.03  # FSC of halves which, where there is hardly anything but noise, shows that they share some of that
_AT_ONCE = 6  # the sixth part of all shells is taken together to tell whether noise is shared
_APART = 0.3  # root mean square of how much the power of halves differs, cell by cell: 0.06 of frames, 0.7 of tilts
_SURE = 5.0  # deviations by which the halves must agree in a shell that is judged
_COARSE = 0.25  # cycles per voxel; half of Nyquist
_SIGMAS = np.arange(0.3, 4.01, 0.1)  # voxels


@dataclass(frozen=True)
class Estimate:
    """A number, and how far it may be off.

    Attributes:
        value: nan where it cannot be told.
        left_out: The same without each of the blocks along the tilt axis.
    """

    value: float
    left_out: tuple[float, ...]

    @property
    def error(self) -> float:
        """Standard error, by the jackknife: of the specimen's variety, too; nan of a single block."""
        count = len(self.left_out)
        return float(np.std(self.left_out)) * math.sqrt(count - 1) if count > 1 else math.nan

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference; what makes both of them vary from block to block is no error of it."""
        pairs = zip(self.left_out, other.left_out, strict=True)
        return Estimate(self.value - other.value, tuple(one - another for one, another in pairs))

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return "–"
        return f"{self.value:.3f}" + (f" ± {self.error:.3f}" if math.isfinite(self.error) else "")


@dataclass(frozen=True, eq=False)
class HalfScore:
    """What two halves tell of the average of a method's answers to them.

    Neither a missing wedge is judged, nor shells in which the halves agree no more than chance lets them.

    Attributes:
        nrmse: Error relative to the signal, after a gain for each shell: 0 is the truth, 1 has nothing to do with it.
        nrmse_low: The same of waves longer than 4 voxels.
        nrmse_high: The same of shorter ones.
        nrmse_one_gain: The same as `nrmse`, after one gain for all shells.
        fsc_area: Mean of `fsc`.
        fsc: (S,), Fourier shell correlation with the signal; nan in shells that cannot be judged.
        agreement: (S,), of the two answers with each other, which proves nothing.
        resolution_half: Å, where `fsc` falls below 0.5.
    """

    nrmse: Estimate
    nrmse_low: Estimate
    nrmse_high: Estimate
    nrmse_one_gain: Estimate
    fsc_area: Estimate
    fsc: Tensor
    agreement: Tensor
    resolution_half: float


@dataclass(frozen=True, eq=False)
class Halves:
    """Two half tomograms, ready to judge answers to them.

    Attributes:
        voxel_size: Å.
        flaw: Why they cannot, in a sentence; empty if they can.
        judged: (S,) bool, the shells in which the halves agree: only there anything can be told.
    """

    voxel_size: float
    flaw: str
    judged: Tensor
    _shape: tuple[int, ...]
    _blocks: _Blocks
    _region: Tensor
    _unit: float
    _raw: _Sums

    @classmethod
    def of(cls, first: Array, second: Array, voxel_size: float, mask: Array | None = None) -> Halves:
        """Looks at two halves, at the middle of at most 384 voxels along each axis.

        Args:
            first: (D, H, W), any unit; the tilt axis is y, the beam along z. May be mapped.
            second: The same, in its own unit.
            voxel_size: Å.
            mask: (D, H, W), 1 where there is specimen, 0 where there is none. What both halves have filled with one
                value is left out in any case.

        Raises:
            CryodenError: The shapes differ, or the halves hold the same.
        """
        for what, other in (("second half", second), ("mask", mask)):
            if other is not None and other.shape != first.shape:
                raise CryodenError(f"{what}: got shape {other.shape}; it must be that of the first half, {first.shape}")
        cut = None if mask is None else central(mask, _LARGEST)
        blocks = _Blocks(central(first, _LARGEST), central(second, _LARGEST), cut)
        maps = _power_maps(blocks)
        region = _measured(maps[0] + maps[1], blocks.shape)
        raw = _Sums.of(blocks, (blocks.first, blocks.second), region)
        agreement = raw.agreement[1:]
        agreement = agreement[~agreement.isnan()]
        if bool((agreement > _SAME).all()):
            raise CryodenError("the halves hold the same voxels; they must be two independent halves of one tomogram")
        judged = raw.agreement > _SURE / raw.count.sqrt()
        judged[0] = False  # the mean of a volume says nothing of its shape
        flaw, apart = "", _apart(*maps, region, blocks.shape)
        if apart > _APART:
            flaw = (
                "the halves are of different tilts, and hold different signal between these (their power differs by "
                f"{apart:.2f} from place to place in Fourier space, that of frame halves by less than {_APART:g}); "
                "make halves of even and odd frames"
            )
        elif (least := raw.least_agreement) > _SHARED:
            flaw = (
                f"the halves agree by {least:.2f} or more at all frequencies, so that noise in both cannot be told "
                f"from signal (somewhere they must agree by less than {_SHARED:g}); make halves that have no frame in "
                "common, and that are not filtered, of voxels so small that the signal ends before them"
            )
        elif not bool(judged.any()):
            flaw = (
                "the halves agree at no frequency, so that there is nothing to compare with: are they of one tomogram?"
            )
        unit = raw.unit(judged)
        return cls(voxel_size, flaw, judged, first.shape, blocks, region, unit, raw.with_second_in(unit))

    @property
    def frequencies(self) -> Tensor:
        """(S,), at the middle of the shells, in cycles per voxel."""
        return shell_frequencies(self._raw.shape)

    @property
    def resolution(self) -> float:
        """Å, the shortest wave that can be judged."""
        return self.voxel_size / float(self.frequencies[self.judged].max())

    def score(self, first: Array, second: Array) -> HalfScore:
        """Judges a method.

        Args:
            first: (D, H, W), its answer to the first half, in the unit of this half or any multiple. May be mapped.
            second: The same to the second half, in the unit of that.

        Raises:
            CryodenError: No score can be given, see `flaw`.
        """
        for each in (first, second):
            if each.shape != self._shape:
                raise CryodenError(f"an answer has shape {each.shape}; it must be that of the halves, {self._shape}")
        answers = central(first, _LARGEST), central(second, _LARGEST)
        return self._score(_Sums.of(self._blocks, answers, self._region).with_second_in(self._unit))

    def input(self) -> HalfScore:
        """Judges the average of the halves as they are."""
        return self._score(self._raw)

    def gaussian(self) -> tuple[HalfScore, float]:
        """Judges a Gaussian filter at its best after one gain; and its σ in voxels.

        After a gain for each shell it is as good as the input: that gain is a filter itself.
        """
        tried = {
            float(sigma): self._score(self._raw.filtered(torch.exp(-2 * (torch.pi * sigma * self.frequencies) ** 2)))
            for sigma in _SIGMAS
        }
        sigma = min(tried, key=lambda sigma: tried[sigma].nrmse_one_gain.value)
        return tried[sigma], sigma

    def _score(self, sums: _Sums) -> HalfScore:
        if self.flaw:
            raise CryodenError(self.flaw)
        coarse = self.frequencies <= _COARSE
        bands = self.judged, self.judged & coarse, self.judged & ~coarse

        def numbers(cross: Tensor, power: Tensor, signal: Tensor) -> list[float]:
            explained = cross.square() / power.clamp(min=_TINY)
            parts = [(explained[band].sum(), signal[band].sum()) for band in bands]
            parts.append((cross[self.judged].sum().square() / power[1:].sum().clamp(min=_TINY), parts[0][1]))
            errors = [float((1 - share / whole).clamp(min=0).sqrt()) for share, whole in parts]
            return [*errors, float(_correlation(cross, power, signal)[self.judged].nanmean())]

        rows = sums.cross, sums.power, self._raw.cross
        total = [each.sum(0) for each in rows]
        values = numbers(*total)
        without = [
            numbers(*(whole - part for whole, part in zip(total, block, strict=True)))
            for block in zip(*rows, strict=True)
        ]
        nrmse, low, high, one_gain, area = (
            Estimate(float(value), tuple(row[place] for row in without)) for place, value in enumerate(values)
        )
        curve = _correlation(*total).where(self.judged, torch.nan)
        first = int(self.judged.nonzero()[0])  # a defocus may leave nothing in the shells before
        told = torch.cat([curve[first].expand(first), curve[first:]])
        return HalfScore(
            nrmse=nrmse,
            nrmse_low=low,
            nrmse_high=high,
            nrmse_one_gain=one_gain,
            fsc_area=area,
            fsc=curve,
            agreement=sums.agreement,
            resolution_half=float(resolution_at(told[None], 0.5, self.voxel_size, sums.shape)),
        )


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Two halves (D, H, W) and a mask, cut into blocks along the tilt axis."""

    first: Array
    second: Array
    mask: Array | None

    @property
    def count(self) -> int:
        """How many there are."""
        height: int = self.first.shape[1]
        return max(1, height // _BLOCK)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H / K, W) of each."""
        depth, height, width = self.first.shape
        return depth, height // self.count, width

    def transforms(self, *volumes: Array) -> Iterator[list[Tensor]]:
        """Fourier transforms (D, H / K, W // 2 + 1) of volumes (D, H, W), block by block.

        Each is less its mean and faded out towards the faces of the block. What both halves have filled with one value
        counts for nothing, nor does what is outside the mask.
        """
        depth, size, width = self.shape
        fade = _faded(depth)[:, None, None] * _faded(size)[:, None] * _faded(width)
        for block in range(self.count):
            inside = np.s_[:, block * size : (block + 1) * size]
            one, other = (torch.from_numpy(native(half[inside])) for half in (self.first, self.second))
            weight = fade.masked_fill(filled(one) & filled(other), 0.0)
            if self.mask is not None:
                weight = weight * torch.from_numpy(native(self.mask[inside]))
            total = weight.sum().clamp(min=_TINY)
            spectra = []
            for volume in volumes:
                values = torch.from_numpy(native(volume[inside])).float()
                values = (values - (values * weight).sum() / total) * weight
                spectra.append(torch.fft.rfftn(values, norm="ortho"))
                release(volume)
            yield spectra


@dataclass(frozen=True, eq=False)
class _Sums:
    """Cross power of two halves and the answers to them, over shells, for each block along the tilt axis.

    Attributes:
        cross: (K, S), of the average answer and the signal.
        first: (K, S), power of the answer to the first half.
        second: (K, S), of that to the second.
        both: (K, S), of the two answers.
        count: (S,), how many values each shell sums up, over all blocks.
        shape: (D, H, W) of a block.
    """

    cross: Tensor
    first: Tensor
    second: Tensor
    both: Tensor
    count: Tensor
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, blocks: _Blocks, answers: tuple[Array, Array], region: Tensor) -> _Sums:
        """Sums over a region of Fourier space, see `_measured`."""
        depth, height, width = blocks.shape
        weight = region * multiplicity(torch.empty(width, dtype=torch.float64))
        rows = []
        for first, second, one, other in blocks.transforms(blocks.first, blocks.second, *answers):
            cross = (_product(one, second) + _product(other, first)) / 2
            products = torch.stack([cross, power(one), power(other), _product(one, other)])
            rows.append(shell_sums(products.double() * weight, blocks.shape))
        count = shell_sums(weight.expand(1, depth, height, -1), blocks.shape)[0] * len(rows)
        cross, one, other, both = torch.stack(rows, 1)
        return cls(cross, one, other, both, count, blocks.shape)

    @property
    def power(self) -> Tensor:
        """(K, S), of the average answer."""
        return (self.first + self.second + 2 * self.both) / 4

    @property
    def agreement(self) -> Tensor:
        """(S,), Fourier shell correlation of the two answers."""
        return _correlation(*(each.sum(0) for each in (self.both, self.first, self.second)))

    @property
    def least_agreement(self) -> float:
        """The smallest correlation of the two answers, over some neighbouring shells at a time."""
        sums = torch.stack([each.sum(0)[1:] for each in (self.both, self.first, self.second)])
        cross, one, other = F.avg_pool1d(sums, max(1, sums.shape[1] // _AT_ONCE), 1)
        agreement = _correlation(cross, one, other)
        return float(agreement[~agreement.isnan()].min())

    def unit(self, judged: Tensor) -> float:
        """How much larger the second answer is than the first, in the shells (S,) that are judged: there by its signal.

        Shells count by the square of their signal over noise, as the noise of one half may be more.
        """
        if not bool(judged.any()):
            return 1.0
        first, second, agreement = self.first.sum(0)[judged], self.second.sum(0)[judged], self.agreement[judged]
        weight = self.count[judged] * (agreement / (1 - agreement).clamp(min=1 - _SAME)).square()
        return math.exp(float((weight * (second / first).log()).sum() / weight.sum()) / 2)

    def with_second_in(self, unit: float) -> _Sums:
        """The same with the second half, and the answer to it, in this unit."""
        second, cross, both = self.second / unit**2, self.cross / unit, self.both / unit
        return _Sums(cross, self.first, second, both, self.count, self.shape)

    def filtered(self, transfer: Tensor) -> _Sums:
        """The same of answers through a filter: transfer (S,)."""
        gain = transfer.square()
        first, second, both = (each * gain for each in (self.first, self.second, self.both))
        return _Sums(self.cross * transfer, first, second, both, self.count, self.shape)


def half_scores(
    first: Array,
    second: Array,
    answers: Mapping[str, tuple[Array, Array]],
    voxel_size: float,
    mask: Array | None = None,
) -> dict[str, HalfScore]:
    """Judges denoisers by two half tomograms with independent noise, without a truth; see this module's head.

    What both halves share counts as signal: gold and contamination, and noise that is in both. Halves of frames share
    their signal; those of tilts do not, and are refused.

    Args:
        first: (D, H, W), the first half, any unit; the tilt axis is y, the beam along z. May be mapped.
        second: The same of the second half, in its own unit.
        answers: A name → what a method made of the first half, and of the second: each (D, H, W), in the unit of its
            half, or both in the same multiple of it.
        voxel_size: Å.
        mask: (D, H, W), 1 where there is specimen, 0 where there is none; by default all that is not filled with one
            value in both halves.

    Returns:
        A name → its score, that of the average of both answers; before them "input", the average of the halves, and
        "Gaussian filter" at its best.

    Raises:
        CryodenError: Shapes differ, or the halves are the same, of different tilts, or share their noise.
    """
    halves = Halves.of(first, second, voxel_size, mask)
    scores = {INPUT: halves.input(), GAUSSIAN: halves.gaussian()[0]}
    return scores | {name: halves.score(*pair) for name, pair in answers.items()}


def _correlation(cross: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Of power summed over shells (S,); nan where there is none."""
    product = one * other
    return cross / product.where(product > 0, torch.nan).sqrt()


def _faded(size: int) -> Tensor:
    """(N,), 1 in the middle, falling to 0 as a cosine over an eighth at either end."""
    place = (torch.arange(size) + 0.5) / size
    edge = torch.minimum(place, 1 - place) * _FADE
    return 0.5 - 0.5 * torch.cos(torch.pi * edge.clamp(max=1))


def _power_maps(blocks: _Blocks) -> tuple[Tensor, Tensor]:
    """Shares of power of both halves, whatever the unit, summed along the tilt axis's frequencies: (D, W // 2 + 1)."""
    total = torch.zeros(2, blocks.shape[0], blocks.shape[2] // 2 + 1, dtype=torch.float64)
    for spectra in blocks.transforms(blocks.first, blocks.second):
        total += torch.stack([power(each).sum(1) for each in spectra])
    first, second = total / total.sum((1, 2), keepdim=True).clamp(min=_TINY)
    return first, second


def _rings(shape: tuple[int, int, int]) -> Iterator[Tensor]:
    """Where, in a map (D, W // 2 + 1), each ring of one frequency across the tilt axis lies, from coarse to fine."""
    z, x = torch.fft.fftfreq(shape[0])[:, None], torch.fft.rfftfreq(shape[2])
    ring = ((z.square() + x.square()).sqrt() * min(shape[0], shape[2])).round()
    for number in ring.unique():
        yield ring == number


def _measured(total: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Where there is power: (D, 1, W // 2 + 1) bool of a map (D, W // 2 + 1). Tilted images leave a wedge without."""
    region = torch.zeros_like(total, dtype=torch.bool)
    for ring in _rings(shape):
        region |= ring & (total > _MEASURED * total[ring].quantile(_QUARTILE))
    return region[:, None]


def _apart(one: Tensor, other: Tensor, region: Tensor, shape: tuple[int, int, int]) -> float:
    """How much the power of two halves differs from place to place, at more than half of Nyquist: 0 to 1.

    There the planes of two tilts are apart: halves of frames have power on the same ones, those of tilts on their own.
    """
    differences = []
    for ring in list(_rings(shape))[min(shape[0], shape[2]) // 4 :]:
        there = ring & region[:, 0]
        a, b = one[there] / one[there].sum(), other[there] / other[there].sum()
        differences.append((a - b) / (a + b))
    return float(torch.cat(differences).square().nanmean().sqrt())


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Cross power of two transforms."""
    return one.real * other.real + one.imag * other.imag
