"""From a volume to its projections at the angles of a tilt series, and back by weighted back-projection.

The tilt axis is y and the beam z, so each y section is a problem of its own in two dimensions. There a wave along x
projects to a wave across the image: the central slice theorem, for which a specimen is taken as a sum of waves along x,
each the sum of its sections with their phases. All that is needed are products with small matrices of phases. Nothing
is interpolated and nothing lost between projecting and back-projecting: each voxel is a point of which an image keeps
the frequencies that its pixels can carry. Along z the same goes for tilts beyond 45°.

torch-fourier-slice wants cubes, and interpolates in Fourier space.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cryoden.errors import CryodenError

Filter = Literal["ramp", "exact"]

_BESIDE = 16  # pixels beside an image from which what repeats itself no longer reaches into it
_FAST = 15  # periods are odd multiples of it, so that their transforms are fast and none has a wave at Nyquist
_TOGETHER = 64  # sections at a time, which bounds the memory


def project(
    volumes: Tensor,
    angles: Sequence[float],
    columns: int | None = None,
    *,
    mirrored: bool = False,
) -> Tensor:
    """(..., D, H, W) volumes to their (..., T, H, columns) projections along the beam.

    Tilting the specimen by t about +y (right-handed) brings voxel (z, x), counted from the centre, to x cos t + z sin t
    across the image, so that its Fourier transform is that of the volume along (kx, kz) = (cos t, sin t).

    Args:
        volumes: (..., D, H, W).
        angles: (T,) tilts in degrees, in any order.
        columns: pixels across the tilt axis; by default W. What falls beside them is lost.
        mirrored: the volume goes on along x beyond both sides, mirrored there again and again, so that a tilted camera
            sees specimen everywhere; tilts are then below 90°. Otherwise there is nothing beside it.

    Returns:
        (..., T, H, columns): sums over voxels, in the volumes' unit times one voxel. Voxel N // 2 of each axis, the
        centre, falls on pixel `columns // 2`.
    """
    *batch, depth, height, width = volumes.shape
    columns = columns or width
    images = volumes.new_empty(math.prod(batch), len(angles), height, columns)
    for waves in _all_waves(angles, (depth, width), columns, volumes, mirrored):
        twice = torch.full_like(waves.across[0, 0].real, 2 / waves.period)  # each wave stands for itself and for -k
        twice[0] /= 2
        across = waves.across * twice
        # volume by volume, so that an image does not depend on the batch
        for image, volume in zip(images, volumes.reshape(-1, depth, height, width), strict=True):
            for part, sections in zip(image.split(_TOGETHER, 1), volume.split(_TOGETHER, 1), strict=True):
                seen = sections.transpose(0, 2) if waves.steep else sections
                whole = torch.cat([seen, seen.flip(-1)], dim=-1) if mirrored else seen
                spectrum = torch.fft.rfft(whole, n=waves.period).permute(2, 0, 1)
                through = (waves.through @ spectrum).transpose(0, 1)
                part[waves.tilts] = (across.real @ through.real - across.imag @ through.imag).transpose(-1, -2)
    return images.reshape(*batch, len(angles), height, columns)


def back_project(
    images: Tensor,
    angles: Sequence[float],
    shape: tuple[int, int],
    weighting: Filter = "ramp",
    iterations: int = 0,
    *,
    thickness: float | None = None,
    roll_off: tuple[float, float] | None = None,
) -> Tensor:
    """(..., T, H, columns) projections to (..., D, H, W) volumes, by weighted back-projection.

    Args:
        images: (..., T, H, columns), as from `project`.
        angles: (T,) tilts in degrees, in any order, no two the same.
        shape: (D, W) of the volumes in voxels: the slab to reconstruct. H is that of the images.
        weighting: "ramp" weights each image by the frequency across the tilt axis, as if tilts were evenly spaced;
            "exact" by how many images share that frequency, for the angles as they are (Harauz and van Heel 1986): in a
            specimen of some thickness each image fills a sheet 1 / thickness thick of Fourier space, and counts in
            inverse proportion to the number of sheets that overlap there. So it does not raise noise at frequencies
            where the sheets no longer touch, beyond Crowther's limit.
        iterations: damp high frequencies as so many iterations of SIRT would, see `sirt_like`; 0: not at all.
        thickness: voxels; of the specimen, which "exact" goes by; by default D.
        roll_off: (cut-off, width) in cycles per pixel: the weights stay what they are at the cut-off and fall beyond it
            by a Gaussian of this standard deviation, as RADIAL does in IMOD; None: they do not.

    Returns:
        (..., D, H, W), in the unit of a volume of which `images` are the projections.

    Raises:
        CryodenError: two angles are the same, or their number is not that of the images.
    """
    tilts, columns, depth = images.shape[-3], images.shape[-1], shape[0]
    if tilts != len(angles) or len(set(angles)) != tilts:
        raise CryodenError(
            f"angles: got {tilts} images and {len(set(angles))} different angles; one for each is needed"
        )
    if weighting not in ("ramp", "exact"):
        raise CryodenError(f"weighting: got {weighting!r}; allowed are 'ramp' and 'exact'")
    padded = 2 * columns  # or the filter would wrap around the edges
    by = weights(angles, padded, weighting, iterations, thickness=thickness or depth, roll_off=roll_off)
    spectrum = torch.fft.rfft(images, n=padded)
    filtered = torch.fft.irfft(spectrum * by.to(images)[:, None, :], n=padded)[..., :columns]
    return _spread(filtered, angles, shape)


def weights(
    angles: Sequence[float],
    columns: int,
    weighting: Filter = "ramp",
    iterations: int = 0,
    *,
    thickness: float,
    roll_off: tuple[float, float] | None = None,
) -> Tensor:
    """By what the weighted back-projection of images multiplies their frequencies across the tilt axis.

    Args:
        angles: (T,) tilts in degrees.
        columns: pixels across the tilt axis.
        weighting: see `back_project`, as all others.
        iterations: of SIRT.
        thickness: voxels.
        roll_off: (cut-off, width).

    Returns:
        (T or 1, F) float64, for the F frequencies of `torch.fft.rfftfreq(columns)`; 1 where all images have the same.
    """
    by = _ramp(angles, columns) if weighting == "ramp" else _exact(angles, columns, thickness)
    frequency = torch.fft.rfftfreq(columns, dtype=torch.float64)
    if iterations:
        by = by * sirt_like(frequency, iterations)
    if roll_off is not None:
        cut_off, width = roll_off
        last = (frequency <= cut_off).sum() - 1
        fallen = torch.exp(-0.5 * ((frequency - cut_off).clamp(min=0) / width).square())
        by = by[:, torch.arange(len(frequency)).clamp(max=last)] * fallen
    return by


def _spread(images: Tensor, angles: Sequence[float], shape: tuple[int, int]) -> Tensor:
    """(..., T, H, columns) images to (..., D, H, W), the adjoint of `project`: each pixel along its ray."""
    *batch, _, height, columns = images.shape
    volumes = images.new_zeros(math.prod(batch), shape[0], height, shape[1])
    for waves in _all_waves(angles, shape, columns, images):
        across, through = waves.across.mH, waves.through.mH
        for volume, image in zip(volumes, images.reshape(-1, *images.shape[-3:]), strict=True):
            for sections, part in zip(volume.split(_TOGETHER, 1), image.split(_TOGETHER, 1), strict=True):
                spectrum = through @ (across @ part[waves.tilts].mT.to(across.dtype)).transpose(0, 1)
                seen = sections.transpose(0, 2) if waves.steep else sections
                seen += torch.fft.irfft(spectrum.permute(1, 2, 0), n=waves.period)[..., : seen.shape[-1]]
    return volumes.reshape(*batch, shape[0], height, shape[1])


def sirt_like(frequency: Tensor, iterations: int) -> Tensor:
    """What is left of each frequency after a few iterations of SIRT: 1 - (1 - a / f)^n (Zeng 2012).

    With this factor on its ramp a weighted back-projection looks like SIRT, the "SIRT-like filter" of IMOD: full
    contrast at low frequencies, and noise that is nearly white, for the ramp ends near n a. The numbers are IMOD's,
    where more than 15 iterations count for less and less.

    Args:
        frequency: cycles per pixel across the tilt axis, any shape.
        iterations: as IMOD counts them.

    Returns:
        Of the same shape, between 0 and 1.
    """
    n = min(iterations, 15 + 0.8 * (iterations - 15), 27 + 0.6 * (iterations - 30))
    lost = (1 - 0.00195 / frequency.abs().clamp(min=1e-6)).clamp(min=0)
    return 1 - lost ** (n + 0.3)


class _Waves(NamedTuple):
    """The phases of M waves along one axis of the volume, x or for steep tilts z, and of what tilts make of them.

    Attributes:
        tilts: (T,), which of the angles.
        steep: waves run along z.
        period: voxels after which the volume repeats itself.
        through: (M, T, N), at the voxels of the other axis: their sum is what the wave projects to.
        across: (T, columns, M), at the pixels, times 1 / cos t, and 0 beyond the frequencies that pixels can carry.
    """

    tilts: list[int]
    steep: bool
    period: int
    through: Tensor
    across: Tensor


def _all_waves(
    angles: Sequence[float], shape: tuple[int, int], columns: int, like: Tensor, mirrored: bool = False
) -> list[_Waves]:
    """The waves for all angles of volumes of this (D, W)."""
    found = []
    for steep in (False, True):
        tilts = [i for i, angle in enumerate(angles) if (abs(angle) > 45 and not mirrored) == steep]
        if tilts:
            # x cos t + z sin t is z cos (90° - t) + x sin (90° - t)
            turned = torch.tensor([90 - angles[i] if steep else angles[i] for i in tilts], dtype=torch.float64)
            plane = shape[::-1] if steep else shape
            found.append(_waves(tilts, steep, turned.deg2rad(), plane, columns, like, mirrored))
    return found


def _waves(
    tilts: list[int],
    steep: bool,
    angles: Tensor,
    shape: tuple[int, int],
    columns: int,
    like: Tensor,
    mirrored: bool,
) -> _Waves:
    depth, width = shape
    cos, tan = angles.cos(), angles.tan()
    period = 2 * width
    if not mirrored:  # so long that no image reaches into the next copy
        reach = ((columns / 2 + _BESIDE + depth / 2 * angles.sin().abs()) / cos.abs()).max().item()
        period = _FAST * (2 * math.ceil(((width / 2 + reach) / _FAST - 1) / 2) + 1)
    waves = torch.arange(period // 2 + 1, dtype=torch.float64) / period
    frequency = waves / cos[:, None]
    # Half of the wave at Nyquist is within, in power: it is weighted on the way there and on the way back.
    share = ((0.5 - frequency.abs()) * period * cos.abs()[:, None] + 0.5).clamp(0, 1).sqrt() / cos.abs()[:, None]
    origin = torch.polar(share, (2 * torch.pi * waves * (width // 2)).expand_as(share))
    origin = origin.to(like.device, like.dtype.to_complex())
    through, across = _phases(-waves[:, None] * tan, depth, like), _phases(frequency, columns, like)
    return _Waves(tilts, steep, period, through, (across * origin[..., None]).mT)


def _phases(turns: Tensor, places: int, like: Tensor) -> Tensor:
    """(..., places): exp(2πi n turns) of (...) turns, at n from -(places // 2) up."""
    turns = turns.to(like)  # not every device has float64, and single precision does
    steps = math.isqrt(places) + 1
    n = torch.arange(steps, device=like.device, dtype=like.dtype)
    # few sines and many products, which are faster
    coarse, fine = (2 * torch.pi * turns[..., None] * at for at in (steps * n - places // 2, n))
    coarse, fine = (torch.polar(torch.ones_like(phase), phase) for phase in (coarse, fine))
    return (coarse[..., None] * fine[..., None, :]).flatten(-2)[..., :places]


def _ramp(angles: Sequence[float], padded: int) -> Tensor:
    """(1, F): |s| dθ. From its values in space, which keep the mean right (Kak and Slaney 1988, chapter 3)."""
    n = torch.fft.fftfreq(padded, 1 / padded, dtype=torch.float64)
    kernel = torch.where(n % 2 == 1, -1 / (torch.pi * n).square(), 0.0)
    kernel[0] = 0.25
    spacing = math.radians(max(angles) - min(angles)) / (len(angles) - 1) if len(angles) > 1 else math.pi
    weights: Tensor = torch.fft.rfft(kernel).real * spacing
    return weights[None]


def _exact(angles: Sequence[float], padded: int, thickness: float) -> Tensor:
    """(T, F): the share that each image has in the sheets 1 / thickness thick that overlap at each frequency."""
    tilts = torch.tensor(angles, dtype=torch.float64).deg2rad()
    apart = torch.sin(tilts[:, None] - tilts).abs()[..., None] * torch.fft.rfftfreq(padded, dtype=torch.float64)
    overlap: Tensor = (1 - thickness * apart).clamp(min=0).sum(dim=1)
    return 1 / (thickness * overlap)
