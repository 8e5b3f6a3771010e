"""What the grey values of a tomogram tell: its scale, what is no specimen, and whether protein is bright or dark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoden.scaling import BOUND, RUN, Scale, filled, sampled_rows, without_hot
from cryoden.volume import native, release

Contrast = Literal["bright", "dark"]

_BIN = 2  # voxels along each axis: averages out the noise of single voxels, and no protein
_SURE = 5.0  # standard errors
_LEAST = 0.03  # however many voxels there are: uneven ice is skewed a little, too


@dataclass(frozen=True, eq=False)
class GreyValues:
    """What a pass over a volume tells.

    Attributes:
        scale: Of the volume, as a batch of one.
        voxels: Of all.
        left_out: Those that are filled with one value.
        hot: Those that stand out alone of their section.
        skewness: Of the volume binned by 2, about the mean of each two sections, what is left out not counted; above 0
            where the few extreme voxels are bright. Vacuum on both sides of the ice is no extreme, then.
        bins: That it was told from.
    """

    scale: Scale
    voxels: int
    left_out: int
    hot: int
    skewness: float
    bins: int

    @property
    def contrast(self) -> Contrast | None:
        """Bright or dark protein: it is rare, and stands out from ice and noise on one side.

        None where the skewness is no larger than chance makes it.
        """
        if self.bins == 0 or abs(self.skewness) < max(_LEAST, _SURE * math.sqrt(6 / self.bins)):
            return None
        return "bright" if self.skewness > 0 else "dark"

    def describe(self, left_out: str = "stay as they are") -> str:
        """What was left out and what becomes of it, in words; nothing where nothing was."""
        told = []
        if self.left_out:
            share = 100 * self.left_out / self.voxels
            told.append(f"{self.left_out} voxels ({share:.2g} %) are filled with one value and {left_out}")
        if self.hot == 1:
            told.append("1 hot or dead voxel counts as one of its neighbours")
        elif self.hot:
            told.append(f"{self.hot} hot or dead voxels count as one of their neighbours")
        return "; ".join(told)


def look(data: NDArray[Any]) -> GreyValues:
    """Passes over a volume, two sections at a time.

    Args:
        data: (D, H, W), any unit, real; may be mapped from a file.
    """
    scale = scale_of(data)
    squares, cubes, bins, left_out, hot = 0.0, 0.0, 0, 0, 0
    for first in range(0, len(data), _BIN):
        slab = torch.from_numpy(native(data[first : first + _BIN]))[None, None]
        release(data)
        empty = scale.left_out(slab)
        _, alone = without_hot(scale.relative(slab).masked_fill(empty, 0.0))
        left_out, hot = left_out + int(empty.sum()), hot + int(alone.sum())
        values = _binned(scale.standardize(slab, empty)[0, 0], ~empty[0, 0])
        if len(values):
            values = values - values.mean()
            squares, cubes = squares + float(values.square().sum()), cubes + float(values.pow(3).sum())
            bins += len(values)
    skewness = math.sqrt(bins) * cubes / squares**1.5 if squares > 0 else 0.0
    return GreyValues(scale, data.size, left_out, hot, skewness, bins)


def scale_of(data: NDArray[Any]) -> Scale:
    """As `Scale.of`, of which it reads what that needs: some rows, and around them what tells what is filled.

    Args:
        data: (D, H, W), any unit, real; may be mapped from a file.
    """
    height = data.shape[1]
    z, y = np.divmod(sampled_rows(data.shape), height)
    size = min(2 * RUN - 1, height)  # what tells whether a row's voxels are filled
    first = np.clip(y - RUN + 1, 0, height - size)
    around = torch.from_numpy(native(data[z[:, None], first[:, None] + np.arange(size)]))
    release(data)
    rows = torch.arange(len(y)), torch.from_numpy(y - first)
    return Scale.of_rows(around[rows][None], filled(around)[rows][None])


def _binned(slab: Tensor, specimen: Tensor) -> Tensor:
    """(2, H, W) to the means over 2 x 2 x 2 voxels that are all specimen, in float64; none of a last odd section."""
    depth, height, width = (size // _BIN for size in slab.shape)
    if 0 in (depth, height, width):
        return slab.new_zeros(0, dtype=torch.float64)

    def means(values: Tensor) -> Tensor:
        cut = values[:, : height * _BIN, : width * _BIN].double()
        return cut.view(_BIN, height, _BIN, width, _BIN).mean(dim=(0, 2, 4))

    return means(slab)[means(specimen) == 1].clamp(-BOUND, BOUND)
