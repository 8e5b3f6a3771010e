"""From a volume to its projections at the angles of a tilt series, and back by weighted back-projection.

The tilt axis is y and the beam z, so each y section is a problem of its own in two dimensions: an image is the product
of a matrix with all sections at once. The matrix holds sinc interpolation: each voxel is a point of which the image
keeps the frequencies that its pixels can carry, so that nothing is lost between projecting and back-projecting.
torch-fourier-slice wants cubes, and its interpolation in Fourier space costs more than these products.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from cryoden.errors import CryodenError

Filter = Literal["ramp", "exact"]

_KEPT = 2**28  # bytes: the matrices of a series that are no larger stay in memory for the next volume
_BESIDE = 8  # pixels beside an image from which what is mirrored still reaches into it


def project(
    volumes: Tensor,
    angles: Sequence[float],
    columns: int | None = None,
    *,
    mirrored: bool = False,
    keep: bool = True,
) -> Tensor:
    """(..., D, H, W) volumes to their (..., T, H, columns) projections along the beam.

    Tilting the specimen by t about +y (right-handed) brings voxel (z, x), counted from the centre, to x cos t + z sin t
    across the image, so that its Fourier transform is that of the volume along (kx, kz) = (cos t, sin t).

    Args:
        volumes: (..., D, H, W).
        angles: (T,) tilts in degrees, in any order.
        columns: pixels across the tilt axis; by default W. What falls beside them is lost.
        mirrored: the volume goes on along x beyond both sides, mirrored there again and again, so that a tilted camera
            sees specimen everywhere; otherwise there is nothing beside it.
        keep: these angles will come again: small matrices stay in memory for the next volume.

    Returns:
        (..., T, H, columns): sums over voxels, in the volumes' unit times one voxel. Voxel N // 2 of each axis, the
        centre, falls on pixel `columns // 2`.
    """
    *batch, depth, height, width = volumes.shape
    columns = columns or width
    images = volumes.new_empty(math.prod(batch), len(angles), height, columns)
    # rows are (z, x), columns y; one product per volume, so that it does not depend on the batch
    flat = [
        volume.permute(0, 2, 1).reshape(depth * width, height) for volume in volumes.reshape(-1, *volumes.shape[-3:])
    ]
    matrices = _Matrices(tuple(angles), (depth, width, columns), volumes, mirrored, keep)
    for tilt in range(len(angles)):
        matrix = matrices[tilt]
        for image, sections in zip(images, flat, strict=True):
            image[tilt] = (matrix @ sections).T
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
    keep: bool = True,
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
        keep: these angles will come again: small matrices stay in memory for the next volume.

    Returns:
        (..., D, H, W), in the unit of a volume of which `images` are the projections.

    Raises:
        CryodenError: two angles are the same, or their number is not that of the images.
    """
    *batch, tilts, height, columns = images.shape
    depth, width = shape
    if tilts != len(angles) or len(set(angles)) != tilts:
        raise CryodenError(
            f"angles: got {tilts} images and {len(set(angles))} different angles; one for each is needed"
        )
    if weighting not in ("ramp", "exact"):
        raise CryodenError(f"weighting: got {weighting!r}; allowed are 'ramp' and 'exact'")
    padded = 2 * columns  # or the filter would wrap around the edges
    weights = _ramp(angles, padded) if weighting == "ramp" else _exact(angles, padded, thickness or depth)
    frequency = torch.fft.rfftfreq(padded, dtype=torch.float64)
    if iterations:
        weights = weights * sirt_like(frequency, iterations)
    if roll_off is not None:
        cut_off = (frequency <= roll_off[0]).sum() - 1
        weights = weights[:, torch.arange(len(frequency)).clamp(max=cut_off)] * _fallen(frequency, roll_off)
    spectrum = torch.fft.rfft(images.reshape(-1, *images.shape[-3:]), n=padded)
    filtered = torch.fft.irfft(spectrum * weights.to(images)[:, None, :], n=padded)[..., :columns]
    volumes = images.new_zeros(len(filtered), depth * width, height)
    matrices = _Matrices(tuple(angles), (depth, width, columns), images, False, keep)
    for tilt in range(tilts):
        matrix = matrices[tilt]
        for volume, image in zip(volumes, filtered, strict=True):
            torch.addmm(volume, matrix.T, image[tilt].T, out=volume)
    return volumes.reshape(*batch, depth, width, height).transpose(-1, -2).contiguous()


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


def rolled_off(frequency: Tensor, roll_off: tuple[float, float]) -> Tensor:
    """What a roll-off leaves of each frequency of a ramp, see `back_project`.

    Args:
        frequency: cycles per pixel across the tilt axis, any shape.
        roll_off: (cut-off, width), cycles per pixel.

    Returns:
        Of the same shape, between 0 and 1.
    """
    return (roll_off[0] / frequency.abs().clamp(min=1e-6)).clamp(max=1) * _fallen(frequency, roll_off)


def _fallen(frequency: Tensor, roll_off: tuple[float, float]) -> Tensor:
    cut_off, width = roll_off
    return torch.exp(-0.5 * ((frequency.abs() - cut_off).clamp(min=0) / width).square())


class _Matrices:
    """The matrix of each tilt, (columns, D * W), kept from earlier where they are small."""

    def __init__(
        self, angles: tuple[float, ...], sizes: tuple[int, int, int], like: Tensor, mirrored: bool, keep: bool
    ) -> None:
        self.angles, self.sizes, self.like, self.mirrored = angles, sizes, like, mirrored
        small = keep and len(angles) * math.prod(sizes) * like.element_size() <= _KEPT
        self.kept = _series(angles, sizes, mirrored, like.dtype, like.device) if small else None

    def __getitem__(self, tilt: int) -> Tensor:
        if self.kept is not None:
            return self.kept[tilt]
        return _matrix(self.angles[tilt], self.sizes, self.mirrored, self.like.dtype, self.like.device)


@lru_cache(maxsize=4)  # whole, and both halves, of one series
def _series(
    angles: tuple[float, ...],
    sizes: tuple[int, int, int],
    mirrored: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> list[Tensor]:
    return [_matrix(angle, sizes, mirrored, dtype, device) for angle in angles]


def _matrix(
    angle: float, sizes: tuple[int, int, int], mirrored: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """How much of each voxel (z, x) falls on each pixel, (columns, D * W)."""
    depth, width, columns = sizes
    z, x = (torch.arange(n, dtype=torch.float64) - n // 2 for n in (depth, width))  # not every device has float64
    tilt = math.radians(angle)
    height = z[:, None] * math.sin(tilt) + columns // 2
    matrix = _falling(x * math.cos(tilt) + height, columns, dtype, device)
    if mirrored:
        # Copy n of the volume begins n W further along x; every second one is turned round.
        beside = columns / 2 + _BESIDE + depth / 2 * abs(math.sin(tilt))
        for n in range(1, math.ceil(beside / (width * math.cos(tilt)) + 0.5)):
            for sign in (-1, 1):
                copy = x + sign * n * width
                place = (copy.flip(0) if n % 2 else copy) * math.cos(tilt) + height
                seen = ((place > -_BESIDE) & (place < columns + _BESIDE)).any(0).nonzero()[:, 0]
                if len(seen):
                    part = slice(int(seen[0]), int(seen[-1]) + 1)
                    matrix[..., part] += _falling(place[:, part], columns, dtype, device)
    return matrix.flatten(1)


def _falling(place: Tensor, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """sinc(pixel - place), (columns, D, W) for places (D, W)."""
    nearest = place.round()
    # sinc(m - r) = -(-1)^m sin(πr) / π(m - r), m whole: one sine per voxel, not per element of the matrix
    rest = place - nearest
    rest = torch.where(rest.abs() < 1e-7, 1e-7, rest)
    numerator = -torch.sin(torch.pi * rest) / torch.pi * (1 - 2 * (nearest % 2))
    pixel = torch.arange(columns, device=device)[:, None, None]
    nearest, rest, numerator = (values.to(device, dtype) for values in (nearest, rest, numerator))
    distance = (pixel - nearest) - rest
    sign = (1 - 2 * (pixel % 2)).to(dtype)
    falling: Tensor = distance.reciprocal_().mul_(numerator).mul_(sign)
    return falling


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
