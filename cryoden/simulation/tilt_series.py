"""From a volume to a tilt series as a microscope would record it, and to the tomogram that a lab makes of it.

The chain, tilt by tilt: projected potential → phase shift → what radiation left of it → contrast transfer → detector →
electrons counted, with their Poisson noise → weighted back-projection. All of it is linear but for the counting.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cryoden.errors import CryodenError
from cryoden.simulation.degradation import Degradation, MissingWedge, Parameters
from cryoden.simulation.optics import contrast_transfer, damage, interaction_constant
from cryoden.simulation.projection import Filter, back_project, project, sirt_like
from cryoden.simulation.ranges import Range, check_range, draw, draw_seed
from cryoden.simulation.units import BRIGHTEST, VACUUM, VOLTS, Sampling

_SURFACE = 4  # sections beyond which a surface of the ice is no longer seen
_STRIPS = 9  # nodes across the image between which contrast transfer is interpolated where defocus changes


@dataclass(frozen=True)
class TiltScheme:
    """At which angles, and in which order, a tilt series is recorded.

    Args:
        tilt_range: (lowest, highest) tilt in degrees, within -80 and 80, further than which stages do not go.
        step: degrees from one tilt to the next.
        order: "dose_symmetric" begins at the tilt nearest 0 and goes outwards on both sides, 0, +3, -3, -6, +6, +9 ...
            (Hagen, Wan and Briggs 2017); "bidirectional" goes from there to the highest, then to the lowest;
            "ascending" from the lowest to the highest. What comes later has seen more radiation.
        jitter: degrees; the standard deviation of what a stage misses the angle by. The reconstruction does not know.
    """

    tilt_range: tuple[float, float] = (-60.0, 60.0)
    step: float = 3.0
    order: Literal["dose_symmetric", "bidirectional", "ascending"] = "dose_symmetric"
    jitter: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.tilt_range
        if not -80 <= low < high <= 80:
            raise CryodenError(
                f"TiltScheme.tilt_range: got ({low}, {high}); allowed are two angles between -80 and 80 degrees, "
                "the first below the second"
            )
        if not 0 < self.step <= high - low:
            raise CryodenError(
                f"TiltScheme.step: got {self.step}; allowed is a number of degrees above 0, up to {high - low:g}"
            )
        if self.order not in ("dose_symmetric", "bidirectional", "ascending"):
            raise CryodenError(
                f"TiltScheme.order: got {self.order!r}; allowed are 'dose_symmetric', 'bidirectional' and 'ascending'"
            )
        _check_number("TiltScheme.jitter", self.jitter, lambda v: v >= 0, "of degrees from 0 up")

    @property
    def angles(self) -> list[float]:
        """The tilts in degrees, from the lowest up: the order of a stack and of its .tlt file."""
        low, high = self.tilt_range
        return [low + i * self.step for i in range(int((high - low) / self.step + 1e-6) + 1)]

    @property
    def recorded(self) -> list[float]:
        """The tilts in degrees, in the order in which they are recorded."""
        angles = self.angles
        start = min(range(len(angles)), key=lambda i: abs(angles[i]))
        if self.order == "ascending":
            return angles
        if self.order == "bidirectional":
            return [*angles[start:], *angles[:start][::-1]]
        steps = [0, *(step for n in range(1, len(angles)) for step in ((n, -n) if n % 2 else (-n, n)))]
        return [angles[start + n] for n in steps if 0 <= start + n < len(angles)]


@dataclass(frozen=True)
class Optics:
    """The microscope.

    Args:
        voltage: kV.
        defocus: µm under focus; a value, or a (low, high) range to draw from for each tilt series.
        spherical_aberration: mm.
        amplitude_contrast: the fraction of contrast that is not of phase.
        b_factor: Å²; signal falls by exp(-B k² / 4) on top of all else, for what is not modelled (drift, coherence).
        defocus_gradient: let defocus change across each image as the tilted plane does. It matters for wide tomograms:
            0.4 µm at 60° and 0.25 µm from the axis. The side that is tilted up, along +z, is less under focus.
    """

    voltage: float = 300.0
    defocus: Range = (2.0, 4.0)
    spherical_aberration: float = 2.7
    amplitude_contrast: float = 0.07
    b_factor: float = 0.0
    defocus_gradient: bool = False

    def __post_init__(self) -> None:
        _check_number("Optics.voltage", self.voltage, lambda v: 80 <= v <= 400, "between 80 and 400 kV")
        check_range("Optics.defocus", self.defocus, lambda v: 0 <= v <= 20, "between 0 and 20 µm under focus")
        _check_number(
            "Optics.spherical_aberration", self.spherical_aberration, lambda v: 0 <= v <= 10, "between 0 and 10 mm"
        )
        _check_number("Optics.amplitude_contrast", self.amplitude_contrast, lambda v: 0 <= v <= 1, "between 0 and 1")
        _check_number("Optics.b_factor", self.b_factor, lambda v: v >= 0, "of Å² from 0 up")


@dataclass(frozen=True)
class Exposure:
    """The electrons, and the ice they go through.

    Args:
        dose: electrons per Å² over the whole series, shared evenly by the tilts; a value, or a (low, high) range.
        radiation_damage: let each tilt lose the detail that the dose so far has destroyed (Grant and Grigorieff 2015).
        thickness: nm of ice, untilted; a value, or a (low, high) range. Of the electrons, exp(-thickness / (mean free
            path * cos tilt)) reach the detector: high tilts are noisier.
        mean_free_path: nm between inelastic scattering, which an energy filter takes away: 395 at 300 kV (Rice et al.
            2018, "Routine determination of ice thickness for cryo-EM grids").
    """

    dose: Range = 120.0
    radiation_damage: bool = True
    thickness: Range = 200.0
    mean_free_path: float = 395.0

    def __post_init__(self) -> None:
        check_range("Exposure.dose", self.dose, lambda v: v > 0, "of electrons per Å² above 0")
        check_range("Exposure.thickness", self.thickness, lambda v: 0 <= v <= 2000, "between 0 and 2000 nm")
        _check_number("Exposure.mean_free_path", self.mean_free_path, lambda v: v > 0, "of nm above 0")


@dataclass(frozen=True)
class Detector:
    """A camera that counts each electron in the pixel it hits.

    Its signal falls by sinc(f), f in cycles per pixel of the camera, its noise is white, so that its quantum efficiency
    is DQE(f) = dqe * sinc²(f) (McMullan et al. 2009, "Detective quantum efficiency of electron area detectors in
    electron microscopy").

    Args:
        dqe: the fraction of electrons that is counted, 0 to 1: 0.9 for today's cameras.
        binning: pixels of the camera that were averaged into one voxel, along a side.
    """

    dqe: float = 0.9
    binning: float = 4.0

    def __post_init__(self) -> None:
        _check_number("Detector.dqe", self.dqe, lambda v: 0 < v <= 1, "above 0, up to 1")
        _check_number("Detector.binning", self.binning, lambda v: v >= 1, "from 1 up")


@dataclass(frozen=True)
class Misalignment:
    """What the alignment of the tilt series left wrong, drawn anew for each image.

    Args:
        shift: Å, the standard deviation along each axis of the image.
        rotation: degrees in the plane of the image, the standard deviation.
    """

    shift: float = 0.0
    rotation: float = 0.0

    def __post_init__(self) -> None:
        _check_number("Misalignment.shift", self.shift, lambda v: v >= 0, "of Å from 0 up")
        _check_number("Misalignment.rotation", self.rotation, lambda v: v >= 0, "of degrees from 0 up")


@dataclass(frozen=True, eq=False)
class TiltSeries:
    """Images as the camera gave them, from the lowest tilt to the highest.

    Attributes:
        counts: (T, H, columns), electrons counted per pixel.
        expected: (T, H, columns), the same without noise.
        blank: (T, 1, 1), the electrons expected where there is nothing but ice.
        angles: (T,), degrees, nominal.
        exposures: (T,), electrons per Å² that the specimen had seen before each image.
        transfer: (S, T, H, columns // 2 + 1), contrast transfer in S strips across the image.
        gain: (), signal in the reconstruction over signal in the volume, where measured, of all but gold; see
            TiltSeriesDegradation.
    """

    counts: Tensor
    expected: Tensor
    blank: Tensor
    angles: list[float]
    exposures: list[float]
    transfer: Tensor
    gain: Tensor


@dataclass(frozen=True, eq=False)
class Tomograms:
    """What a lab would make of a tilt series: protein is dark.

    Attributes:
        series: the images.
        full: (D, H, W), from all tilts.
        even: (D, H, W), from tilts 0, 2, 4 ... of the stack.
        odd: (D, H, W), from the others: its noise is independent.
        noise_free: (D, H, W), from all tilts without counting noise.
    """

    series: TiltSeries
    full: Tensor
    even: Tensor
    odd: Tensor
    noise_free: Tensor


@dataclass(frozen=True)
class TiltSeriesDegradation(Degradation):
    """A tilt series and its weighted back-projection, instead of noise and a wedge.

    Grey values match the clean volume's: background 0, protein bright, and the signal that was measured as strong as it
    is in the clean volume (its variance; contrast transfer and damage change its spectrum). Images are of weak phase
    objects: 1 - 2 CTF φ of the electrons of empty ice are expected, φ = interaction constant * projected potential.

    Args:
        voxel_size: Å. It must be that of the data.
        scheme: angles and their order.
        optics: voltage, defocus and what else contrast depends on.
        exposure: dose, damage and ice.
        detector: the camera.
        misalignment: what alignment left wrong.
        potential: volts above ice per unit of density, for volumes in a unit of their own: with the thesis's sampling
            about 7.5 at 6 Å voxels and 4.8 at 10 Å; null: 3.42, for what is simulated has protein in bulk at 1.
        phase_flip: correct the signs of contrast transfer, as most programs do.
        weighting: of the back-projection, "ramp" or "exact".
        sirt_like: iterations of SIRT to imitate by a filter, as IMOD does: 5 to 30 for tomograms to look at; 0: none.
    """

    voxel_size: float = 6.0
    scheme: TiltScheme = field(default_factory=TiltScheme)
    optics: Optics = field(default_factory=Optics)
    exposure: Exposure = field(default_factory=Exposure)
    detector: Detector = field(default_factory=Detector)
    misalignment: Misalignment = field(default_factory=Misalignment)
    potential: float | None = None
    phase_flip: bool = False
    weighting: Filter = "ramp"
    sirt_like: int = 0

    def __post_init__(self) -> None:
        _check_number("TiltSeriesDegradation.voxel_size", self.voxel_size, lambda v: v > 0, "of Å above 0")
        if self.potential is not None:
            _check_number("TiltSeriesDegradation.potential", self.potential, lambda v: v > 0, "of volts above 0")
        if self.weighting not in ("ramp", "exact"):
            raise CryodenError(
                f"TiltSeriesDegradation.weighting: got {self.weighting!r}; allowed are 'ramp' and 'exact'"
            )
        _check_number("TiltSeriesDegradation.sirt_like", self.sirt_like, lambda v: v >= 0, "of iterations from 0 up")

    def check_volumes(self, voxel_size: float, sampling: Sampling = "band-limited") -> None:
        """Refuse volumes with voxels of another size, or in a unit that has no volts."""
        if abs(voxel_size / self.voxel_size - 1) > 1e-3:
            raise CryodenError(
                f"TiltSeriesDegradation.voxel_size: got {self.voxel_size:g} Å for data of {voxel_size:g} Å; give both "
                "the same"
            )
        if sampling == "thesis" and self.potential is None:
            raise CryodenError(
                "TiltSeriesDegradation.potential: got null for sampling 'thesis', whose density has no unit; give the "
                "volts above ice of its maximum, or use sampling 'band-limited'"
            )

    def sample(self, generator: torch.Generator) -> dict[str, float]:
        """Draw the parameters for one volume."""
        return {
            "defocus": draw(self.optics.defocus, generator),
            "dose": draw(self.exposure.dose, generator),
            "thickness": draw(self.exposure.thickness, generator),
            "seed": draw_seed(generator),
        }

    def apply(self, volumes: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Damage (B, C, D, H, W) volumes."""
        return self._degrade(volumes, parameters, [slice(None)])[0]

    def halves(self, volumes: Tensor, parameters: Sequence[Parameters]) -> tuple[Tensor, Tensor]:
        """The same tilt series as `apply`'s, of which even and odd tilts are reconstructed apart.

        Args:
            volumes: (B, C, D, H, W), density.
            parameters: what `sample` gave, one mapping per volume.

        Returns:
            Two of (B, C, D, H, W): the same signal, and noise that is independent.
        """
        even, odd = self._degrade(volumes, parameters, [slice(0, None, 2), slice(1, None, 2)])
        return even, odd

    def measured(self, volumes: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Where these volumes' tilt series measured: between the lowest and the highest tilt."""
        angles = self.scheme.angles
        ends: dict[str, float] = {"tilt_min": angles[0], "tilt_max": angles[-1]}
        return MissingWedge((-60.0, 60.0)).measured(volumes, [ends for _ in parameters])

    def tomograms(self, volume: Tensor, parameters: Parameters) -> Tomograms:
        """Tilt series and tomograms of a volume, as a lab would get them: protein is dark.

        Args:
            volume: (D, H, W), density. The camera is as wide as the volume; a slab of 180 × 512 × 512 takes 2 GB.
            parameters: what `sample` gave.

        Returns:
            Images and tomograms; `-full` has the grey values of `apply`'s output.
        """
        series = self.record(volume, parameters)
        depth, _, width = volume.shape

        def reconstructed(images: Tensor, tilts: slice) -> Tensor:
            return self._reconstruct(series, images, tilts, (depth, width)).neg_()

        return Tomograms(
            series,
            full=reconstructed(series.counts, slice(None)),
            even=reconstructed(series.counts, slice(0, None, 2)),
            odd=reconstructed(series.counts, slice(1, None, 2)),
            noise_free=reconstructed(series.expected, slice(None)),
        )

    def record(self, volume: Tensor, parameters: Parameters, columns: int | None = None) -> TiltSeries:
        """Take the images of a tilt series.

        Args:
            volume: (D, H, W), density.
            parameters: what `sample` gave.
            columns: pixels across the tilt axis; by default W.

        Returns:
            (T, H, columns) images and what is known of them.
        """
        volume = _without_vacuum(volume)
        random = torch.Generator().manual_seed(int(parameters["seed"]))
        angles = self.scheme.angles
        missed = torch.randn(len(angles), generator=random, dtype=torch.float64)
        true = [angle + self.scheme.jitter * float(off) for angle, off in zip(angles, missed, strict=True)]
        density = self._misplace(project(volume, true, columns, keep=not self.scheme.jitter), random)

        recorded = self.scheme.recorded
        per_tilt = parameters["dose"] / len(angles)
        exposures = [per_tilt * recorded.index(angle) for angle in angles]
        transfer = self._transfer(density, parameters["defocus"])
        frequency = self._frequency(density)
        envelope = torch.exp(-self.optics.b_factor / 4 * frequency.square())
        for size, dim in ((density.shape[-2], -2), (density.shape[-1], -1)):
            cycles = torch.fft.fftfreq(size) if dim == -2 else torch.fft.rfftfreq(size)
            falloff = torch.sinc(cycles / self.detector.binning).to(density)
            envelope = envelope * (falloff[:, None] if dim == -2 else falloff)
        if self.exposure.radiation_damage:
            seen = torch.tensor(exposures, dtype=torch.float64) + per_tilt / 2
            envelope = envelope * damage(frequency, seen.to(density)[:, None, None], self.optics.voltage)

        spectrum = torch.fft.rfft2(density)
        images = self._unite([spectrum * (strip * envelope) for strip in transfer], density.shape)
        tilts = torch.tensor(angles, dtype=torch.float64).deg2rad()
        transmitted = torch.exp(-parameters["thickness"] / (self.exposure.mean_free_path * tilts.cos()))
        blank = (per_tilt * self.voxel_size**2 * self.detector.dqe * transmitted).to(density)[:, None, None]
        expected = blank * (1 - self._contrast * images).clamp(min=0)
        on_device = torch.Generator(volume.device).manual_seed(draw_seed(random))
        counts = torch.poisson(expected, generator=on_device)
        kept = transfer[len(transfer) // 2] * envelope
        if self.sirt_like:
            kept = kept * sirt_like(torch.fft.rfftfreq(density.shape[-1]).to(density), self.sirt_like)
        # The gain is that of protein: gold, of other frequencies, would change its scale.
        protein = torch.where(volume <= BRIGHTEST, volume, 0.0)
        seen = spectrum if torch.equal(protein, volume) else torch.fft.rfft2(project(protein, angles, columns))
        return TiltSeries(counts, expected, blank, angles, exposures, transfer, _gain(seen, kept))

    @property
    def _contrast(self) -> float:
        """Twice the phase shift of one voxel of density 1."""
        volts = VOLTS if self.potential is None else self.potential
        return 2 * interaction_constant(self.optics.voltage) * volts * self.voxel_size / 10

    def _degrade(self, volumes: Tensor, parameters: Sequence[Parameters], parts: Sequence[slice]) -> list[Tensor]:
        """Bright volumes (B, C, D, H, W) from parts of the tilts, one after the other: the batch does not matter."""
        depth, _, width = volumes.shape[-3:]
        columns = _columns(self.scheme.angles, depth, width)
        out = [torch.empty_like(volumes) for _ in parts]
        for i, values in enumerate(parameters):
            for channel in range(volumes.shape[1]):
                series = self.record(volumes[i, channel], values, columns)
                for part, result in zip(parts, out, strict=True):
                    result[i, channel] = self._reconstruct(series, series.counts, part, (depth, width))
        return out

    def _reconstruct(self, series: TiltSeries, images: Tensor, tilts: slice, shape: tuple[int, int]) -> Tensor:
        """(D, H, W) in the unit of density, protein bright, of images in counts."""
        bright = (1 - images / series.blank) / (self._contrast * series.gain)
        if self.phase_flip:
            spectrum = torch.fft.rfft2(bright)
            bright = self._unite([spectrum * strip.sign() for strip in series.transfer], bright.shape)
        return back_project(bright[tilts], series.angles[tilts], shape, self.weighting, self.sirt_like)

    def _misplace(self, images: Tensor, random: torch.Generator) -> Tensor:
        """Turn and shift each image."""
        tilts, height, width = images.shape
        drawn = torch.randn(3, tilts, generator=random, dtype=torch.float64)
        if self.misalignment.rotation:
            turn = (self.misalignment.rotation * drawn[0]).deg2rad()
            cos, sin = turn.cos(), turn.sin()
            # affine_grid counts from the middle, in halves of an image
            rows = [cos, -sin * height / width, sin * 0, sin * width / height, cos, sin * 0]
            grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3).to(images), [tilts, 1, height, width], False)
            images = F.grid_sample(images[:, None], grid, "bicubic", "zeros", False)[:, 0]
        if self.misalignment.shift:
            y, x = (self.misalignment.shift / self.voxel_size * drawn[1:]).to(images)[..., None, None]
            ky, kx = torch.fft.fftfreq(height).to(images)[:, None], torch.fft.rfftfreq(width).to(images)
            phase = -2 * torch.pi * (y * ky + x * kx)
            spectrum = torch.fft.rfft2(images) * torch.polar(torch.ones_like(phase), phase)
            images = torch.fft.irfft2(spectrum, s=(height, width))
        return images

    def _frequency(self, images: Tensor) -> Tensor:
        """(H, columns // 2 + 1), 1/Å."""
        height, width = images.shape[-2:]
        ky, kx = torch.fft.fftfreq(height).to(images)[:, None], torch.fft.rfftfreq(width).to(images)
        return torch.hypot(ky, kx) / self.voxel_size

    def _transfer(self, images: Tensor, defocus: float) -> Tensor:
        """(S, T, H, columns // 2 + 1): contrast transfer in strips across the image, one where defocus is the same."""
        tilts = torch.tensor(self.scheme.angles, dtype=torch.float64).deg2rad()
        strips = torch.zeros(1, dtype=torch.float64)
        if self.optics.defocus_gradient:
            strips = torch.linspace(-0.5, 0.5, _STRIPS, dtype=torch.float64) * images.shape[-1]
        # a point at u across the image lies -u tan(tilt) along the beam, and what lies higher is less under focus
        values = defocus + strips[:, None] * self.voxel_size * tilts.tan() / 1e4
        return contrast_transfer(
            self._frequency(images),
            values.to(images)[..., None, None],
            self.optics.voltage,
            self.optics.spherical_aberration,
            self.optics.amplitude_contrast,
        ).expand(-1, len(tilts), -1, -1)

    def _unite(self, strips: Sequence[Tensor], shape: torch.Size) -> Tensor:
        """(T, H, columns) from the spectra of each strip, interpolated linearly between the strips' middles."""
        images: list[Tensor] = [torch.fft.irfft2(strip, s=shape[-2:]) for strip in strips]
        if len(images) == 1:
            return images[0]
        place = torch.linspace(0, len(images) - 1, shape[-1] + 1)[:-1].to(images[0])
        shares = [(1 - (place - i).abs()).clamp(min=0) for i in range(len(images))]
        united: Tensor = sum(image * share for image, share in zip(images, shares, strict=True))  # type: ignore[assignment]
        return united


def _check_number(name: str, value: float, allowed: Callable[[float], bool], words: str) -> None:
    if not allowed(value):
        raise CryodenError(f"{name}: got {value}; allowed is a number {words}")


def _without_vacuum(volume: Tensor) -> Tensor:
    """(D, H, W) with ice for vacuum above and below: that goes on beyond the volume, whose sides would be edges.

    Endless and flat, it shows in no image. The surfaces of the ice are blurred, so the sections next to vacuum are
    levelled too.
    """
    levels = volume.flatten(1).median(dim=1).values
    vacuum = (levels < VACUUM / 2).to(levels)
    near = F.max_pool1d(vacuum[None], 2 * _SURFACE + 1, stride=1, padding=_SURFACE)[0]
    return volume - (levels * near)[:, None, None]


def _columns(angles: Sequence[float], depth: int, width: int) -> int:
    """Pixels on which a whole box falls at all tilts: a multiple of 16, so that its transforms are fast."""
    tilts = [math.radians(angle) for angle in angles]
    widest = max(width * math.cos(tilt) + depth * abs(math.sin(tilt)) for tilt in tilts)
    return 16 * math.ceil(widest / 16)


def _gain(spectrum: Tensor, transfer: Tensor) -> Tensor:
    """Root of the share of the signal's power that is kept, as the reconstruction weights it."""
    weight = torch.arange(spectrum.shape[-1], device=spectrum.device)
    tiny = 1e-20  # an empty volume has the gain of white noise
    power = (spectrum.real.square() + spectrum.imag.square() + tiny) * weight
    share = (power * transfer.square()).sum() / power.sum()
    gain: Tensor = share.sqrt()
    return gain
