"""What the microscope does to a clean volume: noise, and a wedge of Fourier space never measured.

A degradation draws its random parameters in `sample` (plain numbers, one mapping per volume) and uses them in
`apply` (a whole batch, on any device). So each volume's damage can be stored and replayed, and does not depend on
the batch it happens to be in.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from cryoden.errors import CryodenError
from cryoden.simulation.ranges import Range, bounds, check_range, draw, draw_seed
from cryoden.simulation.units import Sampling
from cryoden.wedge import wedge_mask

Parameters = Mapping[str, float]

Margin = tuple[int, int, int]
"""Voxels along z, y, x, on either side of a box."""


def without_margin(volumes: Tensor, margin: Margin) -> Tensor:
    """(..., D, H, W) volumes without so many voxels on either side."""
    depth, height, width = (slice(m, size - m) for m, size in zip(margin, volumes.shape[-3:], strict=True))
    return volumes[..., depth, height, width]


class Degradation(ABC):
    """One step of damage to a batch of volumes."""

    @abstractmethod
    def sample(self, generator: torch.Generator) -> dict[str, float]:
        """Draw the parameters for one volume, as plain numbers."""

    @abstractmethod
    def apply(self, volumes: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Damage volumes.

        Args:
            volumes: (B, C, D, H, W), density.
            parameters: what `sample` gave, one mapping per volume of the batch.

        Returns:
            (B, C, D, H, W), on the device of `volumes`.
        """

    @property
    def context(self) -> Margin:
        """How far beyond a box this step looks: what lies there must be in the volumes for the box to be right."""
        return 0, 0, 0

    def apply_within(self, volumes: Tensor, parameters: Sequence[Parameters], margin: Margin) -> Tensor:
        """Damage boxes in their surroundings.

        Args:
            volumes: (B, C, D, H, W), density of boxes with a margin around.
            parameters: what `sample` gave, one mapping per volume of the batch.
            margin: voxels along z, y, x, on either side.

        Returns:
            The boxes, without the margin.
        """
        return without_margin(self.apply(volumes, parameters), margin)

    def measured(self, volumes: Tensor, parameters: Sequence[Parameters]) -> Tensor | None:
        """Which part of Fourier space this step leaves.

        Args:
            volumes: (B, C, D, H, W).
            parameters: what `sample` gave, one mapping per volume of the batch.

        Returns:
            Bool, broadcastable to (B, D, H, W // 2 + 1), in the layout of `torch.fft.rfftn`, on the device of
            `volumes`: True where the volume can still be seen. None: everywhere.
        """
        return None

    def check_volumes(  # noqa: B027 - most steps do for any volumes
        self, voxel_size: float, sampling: Sampling = "band-limited"
    ) -> None:
        """Refuse volumes for which this step is not made.

        Args:
            voxel_size: Å, of the volumes.
            sampling: of the volumes, which tells the unit of their density.

        Raises:
            CryodenError: this step is for voxels of another size, or cannot know how dense volumes are.
        """


@dataclass(frozen=True)
class GaussianNoise(Degradation):
    """White Gaussian noise.

    Args:
        snr: var(signal) / var(noise), a power ratio over the whole box; a value, or a (low, high) range to draw from.
    """

    snr: Range = 1.3

    def __post_init__(self) -> None:
        check_range("GaussianNoise.snr", self.snr, lambda v: v > 0, "above 0")

    def sample(self, generator: torch.Generator) -> dict[str, float]:
        """Draw the parameters for one volume."""
        return {"snr": draw(self.snr, generator), "seed": draw_seed(generator)}

    def apply(self, volumes: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Damage (B, C, D, H, W) volumes."""
        degraded = _per_volume(volumes, parameters, Tensor.normal_)
        # One by one, so that sums are added in the same order in any batch; torch.var is far slower on a CPU.
        variance = torch.stack([(volume - volume.mean()).square_().mean() for volume in volumes])
        scale = (variance.view(-1, 1, 1, 1, 1) / _column(volumes, parameters, "snr")).sqrt()
        return degraded.mul_(scale).add_(volumes)


@dataclass(frozen=True)
class MissingWedge(Degradation):
    """A single-axis tilt series measures only the planes it tilts through; the rest of Fourier space is lost.

    Tilting the specimen by an angle t about +y (right-handed) measures the plane through the y axis and the direction
    (kx, kz) = (cos t, sin t); about +x, the plane through the x axis and (ky, kz) = (cos t, -sin t). The beam is z.

    Args:
        tilt_range: (min, max) in degrees, within -90 and 90; each a value, or a (low, high) range to draw from.
        tilt_axis: the axis the specimen is tilted about.
    """

    tilt_range: tuple[Range, Range] = (-60.0, 60.0)
    tilt_axis: Literal["x", "y"] = "y"

    def __post_init__(self) -> None:
        for value in self.tilt_range:
            check_range("MissingWedge.tilt_range", value, lambda v: -90 <= v <= 90, "between -90 and 90 degrees")
        low, high = self.tilt_range
        if bounds(low)[1] >= bounds(high)[0]:
            raise CryodenError(f"MissingWedge.tilt_range: got ({low}, {high}); the first must be below the second")
        if self.tilt_axis not in ("x", "y"):
            raise CryodenError(f"MissingWedge.tilt_axis: got {self.tilt_axis!r}; allowed are 'x' and 'y'")

    def sample(self, generator: torch.Generator) -> dict[str, float]:
        """Draw the parameters for one volume."""
        low, high = self.tilt_range
        return {"tilt_min": draw(low, generator), "tilt_max": draw(high, generator)}

    def apply(self, volumes: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Damage (B, C, D, H, W) volumes."""
        # The wedge is the same at every frequency along the tilt axis, so that axis needs no transform.
        dim = (-3, -1) if self.tilt_axis == "y" else (-3, -2)
        shape = volumes.shape[dim[0]], volumes.shape[dim[1]]
        masks = self._masks(shape, parameters).to(volumes.device)
        masks = masks[:, None, :, None, :] if self.tilt_axis == "y" else masks[:, None, :, :, None]
        remaining = torch.empty_like(volumes)
        # As many volumes at a time as there are threads: they and their transforms stay in a CPU's caches.
        together = torch.get_num_threads() if volumes.device.type == "cpu" else len(volumes)
        parts = (torch.split(batch, together) for batch in (remaining, volumes, masks))
        for result, part, mask in zip(*parts, strict=True):
            result.copy_(torch.fft.irfftn(torch.fft.rfftn(part, dim=dim).mul_(mask), s=shape, dim=dim))
        return remaining

    def measured(self, volumes: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Where these volumes' tilt series measured."""
        depth, height, width = volumes.shape[-3:]
        if self.tilt_axis == "y":
            return self._masks((depth, width), parameters)[:, :, None, :].to(volumes.device)
        half = self._masks((depth, height), parameters)
        # The other half of ky has the opposite sign of kz: a wedge is symmetric about the origin.
        rows = [ky if ky <= height // 2 else height - ky for ky in range(height)]
        other = half.roll(-1, dims=1).flip(1)  # kz → -kz
        lower = torch.arange(height) <= height // 2
        return torch.where(lower, half[..., rows], other[..., rows])[..., None].to(volumes.device)

    def _masks(self, shape: tuple[int, int], parameters: Sequence[Parameters]) -> Tensor:
        return torch.stack([_wedge_mask(shape, (p["tilt_min"], p["tilt_max"]), self.tilt_axis) for p in parameters])


_wedge_mask = lru_cache(maxsize=16)(wedge_mask)  # most degradations have one wedge for all volumes


_FAR = 1e6  # units of density, which no specimen has


@dataclass(frozen=True)
class SaltAndPepper(Degradation):
    """Voxels replaced by a low or a high value, half and half.

    Args:
        probability: chance that a voxel is replaced; a value, or a (low, high) range to draw from.
        low: what half of the replaced voxels become; 0 is ice.
        high: what the other half become; 1 is protein in bulk, and the maximum of the thesis's clean volumes.
    """

    probability: Range = 0.1
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_range("SaltAndPepper.probability", self.probability, lambda v: 0 <= v <= 1, "between 0 and 1")
        for name, value in (("low", self.low), ("high", self.high)):
            if not abs(value) <= _FAR:
                raise CryodenError(f"SaltAndPepper.{name}: got {value}; allowed is a number from {-_FAR:g} to {_FAR:g}")

    def sample(self, generator: torch.Generator) -> dict[str, float]:
        """Draw the parameters for one volume."""
        return {"probability": draw(self.probability, generator), "seed": draw_seed(generator)}

    def apply(self, volumes: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Damage (B, C, D, H, W) volumes."""
        chance = _per_volume(volumes, parameters, Tensor.uniform_)
        probability = _column(volumes, parameters, "probability")
        peppered = torch.where(chance < probability, self.low, volumes)
        return torch.where(chance < probability / 2, self.high, peppered)


def default_degradation() -> list[Degradation]:
    """The thesis's: noise first, then the wedge; on its volumes table 4's input row, PSNR 29 and NRMSE 0.93 on 1bxn."""
    return [GaussianNoise(), MissingWedge()]


def sample_all(degradation: Sequence[Degradation], generator: torch.Generator) -> list[dict[str, float]]:
    """Draw one volume's parameters for each step."""
    return [step.sample(generator) for step in degradation]


def context_of(degradation: Sequence[Degradation]) -> Margin:
    """How far beyond a box all steps together look, in voxels along z, y, x."""
    z, y, x = (sum(sizes) for sizes in zip((0, 0, 0), *(step.context for step in degradation), strict=True))
    return z, y, x


def apply_all(
    degradation: Sequence[Degradation],
    volumes: Tensor,
    parameters: Sequence[Sequence[Parameters]],
    margin: Margin = (0, 0, 0),
) -> Tensor:
    """Apply the steps in order.

    Args:
        degradation: the steps.
        volumes: (B, C, D, H, W), density.
        parameters: for each volume what `sample_all` gave.
        margin: voxels along z, y, x, on either side of the boxes, which are cut off in the end.

    Returns:
        (B, C, D, H, W), without the margin.
    """
    if not any(context_of(degradation)):
        volumes, margin = without_margin(volumes, margin), (0, 0, 0)  # no step looks there, nor may it count for any
    steps = list(zip(degradation, zip(*parameters, strict=True), strict=True))
    for step, of_all in steps[:-1]:
        volumes = step.apply(volumes, of_all)
    for step, of_all in steps[-1:]:
        return step.apply_within(volumes, of_all, margin)
    return volumes


def measured_by_all(
    degradation: Sequence[Degradation], volumes: Tensor, parameters: Sequence[Sequence[Parameters]]
) -> Tensor:
    """The part of Fourier space that all steps leave.

    Args:
        degradation: the steps.
        volumes: (B, C, D, H, W).
        parameters: for each volume what `sample_all` gave.

    Returns:
        Bool, broadcastable to (B, D, H, W // 2 + 1), in the layout of `torch.fft.rfftn`, on the device of `volumes`.
    """
    region = torch.ones(len(volumes), 1, 1, 1, dtype=torch.bool, device=volumes.device)
    for i, step in enumerate(degradation):
        left = step.measured(volumes, [per_step[i] for per_step in parameters])
        region = region if left is None else region & left
    return region


def _per_volume(volumes: Tensor, parameters: Sequence[Parameters], fill: Callable[..., Tensor]) -> Tensor:
    """A random tensor like `volumes`, each volume from its own seed: the batch it is in does not matter."""
    out = torch.empty_like(volumes)
    generator = torch.Generator(volumes.device)
    for volume, values in zip(out, parameters, strict=True):
        fill(volume, generator=generator.manual_seed(int(values["seed"])))
    return out


def _column(volumes: Tensor, parameters: Sequence[Parameters], name: str) -> Tensor:
    values = torch.tensor([p[name] for p in parameters], dtype=volumes.dtype)
    return values.to(volumes.device)[:, None, None, None, None]
