"""The grey scale of a volume: its specimen's, taken away before a network sees it and given back afterwards.

Tomograms come in any unit and with any offset, and hold what is no specimen: margins and sections that a program filled
with one value, beads of gold, hot and dead voxels. So a network works on volumes whose background is 0 and whose spread
is 1, both read off the middle of the grey values of what is specimen. Whatever it does in between, the answer follows
the grey scale of its input: f(a x + b) = a f(x) + b for every a > 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

BOUND = 6.0  # spreads; to what judges a whole volume, what is further is this far: a few beads do not decide alone
RUN = 8  # voxels in a line of exactly one value are no noise: a margin, a missing section, a saturated bead
_SAMPLE = 2**16  # voxels tell a quantile to half a hundredth of the spread
_LEAST = 0.05  # a share; where less is specimen, what seems filled is the empty background of a simulation
_NORMAL = 1.349  # from the first to the third quartile of a normal distribution, in standard deviations
_NEAR = 4.0  # spreads from the background in which noise lies; what is further is gold, vacuum or protein
_ROUNDS = 6  # until which voxels are near no longer changes
_TAILS = 32.0  # spreads in which the middle 95 % lies: where there is hardly any noise, the specimen makes the spread
_HOT = 16.0  # spreads by which a voxel exceeds the brightest of its neighbours, or falls below the darkest
_FURTHEST = 64.0  # spreads from the background; nothing of a specimen is further away


@dataclass(frozen=True, eq=False)
class Scale:
    """The grey scale of each volume of a batch.

    Attributes:
        level: (B, 1, 1, 1, 1) float64, the background, in the volumes' unit.
        spread: (B, 1, 1, 1, 1) float64, in the volumes' unit, never zero: the standard deviation, where it is noise.
        masked: (B, 1, 1, 1, 1) bool, whether filled voxels were left out.
    """

    level: Tensor
    spread: Tensor
    masked: Tensor

    @classmethod
    def of(cls, volumes: Tensor) -> Scale:
        """Measures volumes, on rows spread over all of each.

        The background is the median, and the spread comes from the quartiles, of what lies around the shortest interval
        that holds half of the voxels: gold, hot voxels and vacuum, which are far from it, do not move them. What is
        `filled` is left out.

        Args:
            volumes: (B, 1, D, H, W), any unit.
        """
        volumes = volumes.detach()[:, 0]
        chosen = torch.from_numpy(sampled_rows(tuple(volumes.shape[1:]))).to(volumes.device)
        rows, same = (each.flatten(1, 2)[:, chosen] for each in (volumes, filled(volumes)))
        return cls.of_rows(rows, same)

    @classmethod
    def of_rows(cls, rows: Tensor, same: Tensor) -> Scale:
        """Measures volumes of which only some rows are at hand.

        Args:
            rows: (B, R, W), those that `sampled_rows` names.
            same: (B, R, W) bool, which of their voxels are `filled`.
        """
        wide = _widest(rows)
        rows = rows if rows.is_floating_point() else rows.to(wide)
        rounding = torch.finfo(torch.promote_types(rows.dtype, torch.float32))
        specimen = ~same.flatten(1)
        masked = specimen.float().mean(1, keepdim=True) >= _LEAST
        specimen = specimen | ~masked
        # Without a question to the device: what is left out is sorted to the end.
        values = rows.flatten(1).masked_fill(~specimen, torch.inf).sort(1).values.to(wide)
        last = specimen.sum(1, keepdim=True) - 1

        def quantile(share: float, first: Tensor, last: Tensor) -> Tensor:
            place = first + share * (last - first)
            return (values.gather(1, place.floor().long()) + values.gather(1, place.ceil().long())) / 2

        none = torch.zeros_like(last)
        least = (quantile(0.975, none, last) - quantile(0.025, none, last)) / _TAILS
        begin, width = _shortest_half(values, last)
        level, spread = begin + width / 2, torch.maximum(width / _NORMAL, least)
        for _ in range(_ROUNDS):
            # of NaN, which is what comes out of it, the place would be none
            first = torch.searchsorted(values, level - _NEAR * spread).minimum(last)
            end = torch.searchsorted(values, level + _NEAR * spread, right=True) - 1
            lower, level, upper = (quantile(share, first, end) for share in (0.25, 0.5, 0.75))
            spread = torch.maximum((upper - lower) / _NORMAL, least)
        spread = torch.maximum(spread, level.abs() * rounding.eps + rounding.tiny)
        level, spread, masked = (each.view(-1, 1, 1, 1, 1) for each in (level, spread, masked))
        return cls(level, spread, masked)

    def left_out(self, volumes: Tensor) -> Tensor:
        """Which voxels are no specimen, but filled with one value: (B, 1, D, H, W) bool of volumes of this scale."""
        return filled(volumes) & self.masked.to(volumes.device)

    def standardize(self, volumes: Tensor, left_out: Tensor) -> Tensor:
        """Brings volumes to background 0 and spread 1.

        What is left out becomes background. A hot or dead voxel becomes like the nearest of its four neighbours in the
        section, and what is further from the background than any specimen is brought to the limit.

        Args:
            volumes: (B, 1, D, H, W), any unit; or tiles of a volume of this scale.
            left_out: (B, 1, D, H, W) bool, see `left_out`.

        Returns:
            (B, 1, D, H, W) float32, dimensionless.
        """
        calm, _ = without_hot(self.relative(volumes).masked_fill(left_out, 0.0))
        return calm.clamp(-_FURTHEST, _FURTHEST)

    def relative(self, volumes: Tensor) -> Tensor:
        """Volumes (B, 1, D, H, W) in spreads from the background, whatever they hold; float32."""
        level, spread = self.level.to(volumes.device), self.spread.to(volumes.device)
        return ((volumes - level) / spread).float()

    def restore(self, density: Tensor) -> Tensor:
        """Gives an answer the grey scale of the volumes: density (B, 1, D, H, W) in spreads above the background."""
        level, spread = self.level.to(density.device), self.spread.to(density.device)
        return (density * spread.to(density.dtype)) + level.to(density.dtype)


def _shortest_half(values: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Where the shortest interval begins that holds half of the values, and its length.

    Args:
        values: (B, N), ascending.
        last: (B, 1), the number of the last that counts.

    Returns:
        (B, 1) and (B, 1).
    """
    half = last // 2
    index = torch.arange(values.shape[1], device=values.device)[None]
    widths = values.gather(1, (index + half).minimum(last)) - values
    width, first = widths.masked_fill(index + half > last, torch.inf).min(1, keepdim=True)
    return values.gather(1, first), width


@lru_cache(maxsize=16)
def sampled_rows(shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """Which rows along x of a volume its grey scale is read off.

    Args:
        shape: (D, H, W) in voxels.

    Returns:
        (R,) int64, numbers of rows, counted through all sections, upwards; all, where the volume is small.
    """
    depth, height, width = shape
    count = -(-_SAMPLE // width)
    if count >= depth * height:
        return np.arange(depth * height)
    return np.sort(np.random.default_rng(0).choice(depth * height, count, replace=False))


def filled(volumes: Tensor) -> Tensor:
    """Which voxels lie in a line of eight or more that are exactly the same, along x or y: no noise does.

    Args:
        volumes: (..., H, W), any unit.

    Returns:
        (..., H, W) bool.
    """
    rows = _in_run(volumes[..., 1:] == volumes[..., :-1], -1)
    columns = _in_run(volumes[..., 1:, :] == volumes[..., :-1, :], -2)
    return rows | columns


def _in_run(equal: Tensor, axis: int) -> Tensor:
    """Which voxels lie in a run, from which of them equal the next along an axis."""
    equal = equal.movedim(axis, -1)
    if equal.shape[-1] < RUN - 1:
        inside = equal.new_zeros((*equal.shape[:-1], equal.shape[-1] + 1))
    else:
        begins = _along(equal, RUN - 1, torch.logical_and)
        inside = _along(F.pad(begins, (RUN - 1, RUN - 1)), RUN, torch.logical_or)
    return inside.movedim(-1, axis)


def _along(mask: Tensor, size: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """All or any of each `size` neighbours (..., W) along the last axis: (..., W - size + 1), by doubling."""
    done = 1
    while done < size:
        step = min(done, size - done)
        mask = combine(mask[..., :-step], mask[..., step:])
        done += step
    return mask


def without_hot(volumes: Tensor) -> tuple[Tensor, Tensor]:
    """Lets no voxel stand out alone of its section.

    Args:
        volumes: (..., H, W), standardized.

    Returns:
        The same with each hot or dead voxel like the nearest of its four neighbours, and which voxels these are.
    """
    around = [F.pad(volumes, (1, 1, 1, 1), value=value) for value in (-torch.inf, torch.inf)]
    bright, dark = (
        (each[..., :-2, 1:-1], each[..., 2:, 1:-1], each[..., 1:-1, :-2], each[..., 1:-1, 2:]) for each in around
    )
    brightest = torch.maximum(torch.maximum(bright[0], bright[1]), torch.maximum(bright[2], bright[3]))
    darkest = torch.minimum(torch.minimum(dark[0], dark[1]), torch.minimum(dark[2], dark[3]))
    hot = (volumes > brightest + _HOT) & (brightest > -torch.inf)
    dead = (volumes < darkest - _HOT) & (darkest < torch.inf)
    return torch.where(hot, brightest, torch.where(dead, darkest, volumes)), hot | dead


def _widest(tensor: Tensor) -> torch.dtype:
    """The widest float of the tensor's device: Apple's has no float64."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
