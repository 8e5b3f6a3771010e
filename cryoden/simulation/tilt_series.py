"""From a volume to a tilt series as a microscope would record it, and to the tomogram that a lab makes of it.

The chain, tilt by tilt: projected potential → phase shift → what radiation, coherence and the camera leave of it → wave
behind the specimen → lens → electrons counted, with their Poisson noise → weighted back-projection.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from cryoden.errors import CryodenError
from cryoden.simulation.degradation import Degradation, Margin, MissingWedge, Parameters, without_margin
from cryoden.simulation.optics import (
    aberration,
    contrast_transfer,
    damage,
    deconvolution,
    exit_wave,
    interaction_constant,
    mean_free_path,
    wavelength,
)
from cryoden.simulation.projection import Filter, back_project, project, weights
from cryoden.simulation.ranges import (
    Range,
    WholeRange,
    bounds,
    check_choice,
    check_range,
    check_whole_range,
    choices,
    draw,
    draw_choice,
    draw_seed,
    draw_whole,
)
from cryoden.simulation.units import BRIGHTEST, VACUUM, VOLTS, Sampling
from cryoden.volume import LONGEST, SHORTEST, is_length

Correction = Literal["none", "phase_flip", "deconvolution"]
Binning = Literal["cropping", "averaging"]

_SURFACE = 4  # sections beyond which a surface of the ice is no longer seen
_APART = 0.5  # rad at Nyquist, the most between nodes across an image where defocus changes: between them it is linear
_FAST = 16  # sizes of images are multiples of it, so that their transforms are fast
_AROUND = (160.0, 320.0)  # Å along z and x beyond a box that are imaged with it; docs/tilt-series.md has what it costs
_COLOUR = 6  # nodes from 0 to Nyquist of a random gain


@dataclass(frozen=True)
class TiltScheme:
    """At which angles, and in which order, a tilt series is recorded.

    Args:
        tilt_range: (lowest, highest) tilt in degrees, within -80 and 80, further than which stages do not go; each a
            value, or a (low, high) range to draw from for each tilt series.
        step: degrees from one tilt to the next; a value, or a range.
        order: "dose_symmetric" begins at the tilt nearest 0 and goes outwards on both sides, 0, +3, -3, -6, +6, +9 ...
            (Hagen, Wan and Briggs 2017); "bidirectional" goes from there to the highest, then to the lowest;
            "ascending" from the lowest to the highest. What comes later has seen more radiation.
        jitter: degrees; the standard deviation of what a stage misses the angle by. The reconstruction does not know.
        dropped: images that were recorded and are of no use, as many as that, any of them; a number, or a range.
    """

    tilt_range: tuple[Range, Range] = (-60.0, 60.0)
    step: Range = 3.0
    order: Literal["dose_symmetric", "bidirectional", "ascending"] = "dose_symmetric"
    jitter: float = 0.0
    dropped: WholeRange = 0

    def __post_init__(self) -> None:
        low, high = self.tilt_range
        narrowest = bounds(high)[0] - bounds(low)[1]
        if not (-80 <= bounds(low)[0] <= bounds(low)[1] < bounds(high)[0] <= bounds(high)[1] <= 80):
            raise CryodenError(
                f"TiltScheme.tilt_range: got ({low}, {high}); allowed are two angles between -80 and 80 degrees, "
                "the first below the second"
            )
        check_range(
            "TiltScheme.step", self.step, lambda v: 0 < v <= narrowest, f"of degrees above 0, up to {narrowest:g}"
        )
        if self.order not in ("dose_symmetric", "bidirectional", "ascending"):
            raise CryodenError(
                f"TiltScheme.order: got {self.order!r}; allowed are 'dose_symmetric', 'bidirectional' and 'ascending'"
            )
        _check_number("TiltScheme.jitter", self.jitter, lambda v: 0 <= v <= 90, "of degrees from 0 to 90")
        check_whole_range("TiltScheme.dropped", self.dropped, 0)
        fewest = int(narrowest / bounds(self.step)[1] + 1e-6) + 1
        if bounds(self.dropped)[1] > fewest - 2:
            raise CryodenError(
                f"TiltScheme.dropped: got {self.dropped} of {fewest} images; at least 2 must be left: drop fewer"
            )

    @property
    def angles(self) -> list[float]:
        """The tilts in degrees, from the lowest up; of ranges, of those with the most images."""
        low, high = bounds(self.tilt_range[0])[0], bounds(self.tilt_range[1])[1]
        step = bounds(self.step)[0]
        return [low + i * step for i in range(int((high - low) / step + 1e-6) + 1)]

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

    def left(self, generator: torch.Generator) -> list[float]:
        """The tilts in degrees, from the lowest up, without those that are dropped: the order of a stack."""
        angles = self.angles
        order = torch.randperm(len(angles), generator=generator).tolist()
        return [angles[i] for i in sorted(order[int(bounds(self.dropped)[1]) :])]


@dataclass(frozen=True)
class Optics:
    """The microscope.

    Args:
        voltage: kV.
        defocus: µm under focus; a value, or a (low, high) range to draw from for each tilt series.
        defocus_scatter: µm; the standard deviation of defocus from tilt to tilt, which its estimate knows; a value, or
            a range.
        spherical_aberration: mm.
        amplitude_contrast: the fraction of contrast that is not of phase.
        b_factor: Å²; signal falls by exp(-B k² / 4) on top of all else, for what is not modelled (drift, coherence); a
            value, or a range.
        defocus_gradient: let defocus change across each image as the tilted plane does. It matters for wide tomograms:
            0.4 µm at 60° and 0.25 µm from the axis. The side that is tilted up, along +z, is less under focus.
    """

    voltage: float = 300.0
    defocus: Range = (2.0, 4.0)
    defocus_scatter: Range = 0.0
    spherical_aberration: float = 2.7
    amplitude_contrast: float = 0.07
    b_factor: Range = 0.0
    defocus_gradient: bool = False

    def __post_init__(self) -> None:
        _check_number("Optics.voltage", self.voltage, lambda v: 80 <= v <= 400, "between 80 and 400 kV")
        check_range("Optics.defocus", self.defocus, lambda v: 0 <= v <= 20, "between 0 and 20 µm under focus")
        check_range("Optics.defocus_scatter", self.defocus_scatter, lambda v: 0 <= v <= 2, "between 0 and 2 µm")
        _check_number(
            "Optics.spherical_aberration", self.spherical_aberration, lambda v: 0 <= v <= 10, "between 0 and 10 mm"
        )
        _check_number("Optics.amplitude_contrast", self.amplitude_contrast, lambda v: 0 <= v <= 1, "between 0 and 1")
        check_range("Optics.b_factor", self.b_factor, lambda v: 0 <= v <= 1e5, "of Å² from 0 to 100,000")


@dataclass(frozen=True)
class Exposure:
    """The electrons, and the ice they go through.

    Args:
        dose: electrons per Å² over the whole series, shared evenly by the tilts; a value, or a (low, high) range.
        radiation_damage: the share of the damage that Grant and Grigorieff (2015) measured: each tilt has lost the
            detail that the dose so far has destroyed. 1: as they measured it, which is more than tomography programs
            assume; 0: none; a value, or a range.
        thickness: nm of ice, untilted; a value, or a (low, high) range. Of the electrons, exp(-thickness / (mean free
            path * cos tilt)) reach the detector: high tilts are noisier.
        mean_free_path: nm between inelastic scattering, which an energy filter takes away; null: as voltage has it, see
            `cryoden.simulation.optics.mean_free_path`.
    """

    dose: Range = 120.0
    radiation_damage: Range = 1.0
    thickness: Range = 200.0
    mean_free_path: float | None = None

    def __post_init__(self) -> None:
        check_range("Exposure.dose", self.dose, lambda v: 0 < v <= 1e12, "of electrons per Å² above 0, up to 1e12")
        check_range("Exposure.radiation_damage", self.radiation_damage, lambda v: 0 <= v <= 2, "between 0 and 2")
        check_range("Exposure.thickness", self.thickness, lambda v: 0 <= v <= 2000, "between 0 and 2000 nm")
        if self.mean_free_path is not None:
            _check_number("Exposure.mean_free_path", self.mean_free_path, lambda v: v > 0, "of nm above 0")


@dataclass(frozen=True)
class Detector:
    """A camera that counts each electron in the pixel it hits.

    Its signal falls by sinc(f), f in cycles per pixel of the camera, its noise is white, so that its quantum efficiency
    is DQE(f) = dqe * sinc²(f) (McMullan et al. 2009, "Detective quantum efficiency of electron area detectors in
    electron microscopy").

    Args:
        dqe: the fraction of electrons that is counted, 0 to 1: 0.9 for today's cameras.
        binning: pixels of the camera in one voxel, along a side.
        binned_by: "cropping" images in Fourier space, as most programs do, which leaves the camera's sinc alone; or
            "averaging" pixels, which lowers the signal by the sinc of the voxel; or both, to draw from.
    """

    dqe: float = 0.9
    binning: float = 4.0
    binned_by: Binning | tuple[Binning, ...] = "cropping"

    def __post_init__(self) -> None:
        _check_number("Detector.dqe", self.dqe, lambda v: 0 < v <= 1, "above 0, up to 1")
        _check_number("Detector.binning", self.binning, lambda v: 1 <= v <= 1e9, "from 1 to a billion")
        check_choice("Detector.binned_by", self.binned_by, ("cropping", "averaging"))


@dataclass(frozen=True)
class Misalignment:
    """What the alignment of the tilt series left wrong, drawn anew for each image.

    Args:
        shift: Å, the standard deviation along each axis of the image; a value, or a (low, high) range.
        rotation: degrees in the plane of the image, the standard deviation; a value, or a range.
    """

    shift: Range = 0.0
    rotation: Range = 0.0

    def __post_init__(self) -> None:
        check_range("Misalignment.shift", self.shift, lambda v: 0 <= v <= 1e4, "of Å from 0 to 10,000")
        check_range("Misalignment.rotation", self.rotation, lambda v: 0 <= v <= 180, "of degrees from 0 to 180")


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
        seed: of what is still to be drawn.
    """

    counts: Tensor
    expected: Tensor
    blank: Tensor
    angles: list[float]
    exposures: list[float]
    transfer: Tensor
    gain: Tensor
    seed: int

    @cached_property
    def frames(self) -> tuple[Tensor, Tensor]:
        """Two of (T, H, columns): the electrons counted in the first and in the second half of each exposure.

        Each electron came in one of them, as likely as in the other, so that both are Poisson's and independent.
        """
        generator = torch.Generator(self.counts.device).manual_seed(self.seed)
        first = torch.binomial(self.counts, torch.full_like(self.counts, 0.5), generator)
        return first, self.counts - first


@dataclass(frozen=True, eq=False)
class Tomograms:
    """What a lab would make of a tilt series: protein is dark.

    Attributes:
        series: the images.
        full: (D, H, W), from all tilts.
        even: (D, H, W), from tilts 0, 2, 4 ... of the stack.
        odd: (D, H, W), from the others: its noise is independent, and it holds other planes of Fourier space.
        first: (D, H, W), from all tilts, of the first half of each exposure.
        second: (D, H, W), of the second half: its noise is independent, and its signal the same.
        noise_free: (D, H, W), from all tilts without counting noise.
    """

    series: TiltSeries
    full: Tensor
    even: Tensor
    odd: Tensor
    first: Tensor
    second: Tensor
    noise_free: Tensor


@dataclass(frozen=True)
class TiltSeriesDegradation(Degradation):
    """A tilt series and its weighted back-projection, instead of noise and a wedge.

    Grey values match the clean volume's: background 0, protein bright, and the signal that was measured as strong as it
    is in the clean volume (its variance; contrast transfer and damage change its spectrum). Images are of phase
    objects, weak or strong: of the electrons of empty ice, |L(exp(i φ e^{ia}))|² are expected, where φ = interaction
    constant * projected potential, L is the lens, and sin a the amplitude contrast. Beside a volume the specimen goes
    on as its mirror image.

    Args:
        voxel_size: Å. It must be that of the data; with a (low, high) range around it, to draw from for each tilt
            series, the microscope's is another one.
        scheme: angles and their order.
        optics: voltage, defocus and what else contrast depends on.
        exposure: dose, damage and ice.
        detector: the camera.
        misalignment: what alignment left wrong.
        potential: volts above ice per unit of density, for volumes in a unit of their own: with the thesis's sampling
            about 7.5 at 6 Å voxels and 4.8 at 10 Å; null: 3.42, for what is simulated has protein in bulk at 1.
        contrast: the share of the contrast that theory has which there is; a value, or a range.
        correction: of contrast transfer in each image: "none"; "phase_flip" mends its signs, as most programs do;
            "deconvolution" also its size, as Warp does (see `cryoden.simulation.optics.deconvolution`); or several of
            these, to draw from.
        dose_weighting: weigh each image by the share of the signal that is left at its dose, frequency by frequency
            (Grant and Grigorieff 2015); or both, to draw from.
        weighting: of the back-projection, "ramp" or "exact", see `cryoden.simulation.projection.back_project`; or both.
        roll_off: (cut-off, width) in cycles per pixel, beyond which the weights fall, such as (0.35, 0.035); null: they
            do not. The cut-off is a value, or a range: 0.5 and more does nothing.
        sirt_like: iterations of SIRT to imitate by a filter, as IMOD does: 5 to 30 for tomograms to look at; 0: none; a
            number, or several to draw from.
        colour: the standard deviation of the logarithm of a smooth random gain, frequency by frequency, by which the
            tomogram is multiplied, for whatever else a lab's programs do to its spectrum; a value, or a range.
        radial_gain: the same, but given: amplitudes at equally spaced frequencies from 0 to Nyquist, such as
            `cryoden calibrate` tells.
    """

    voxel_size: Range = 6.0
    scheme: TiltScheme = field(default_factory=TiltScheme)
    optics: Optics = field(default_factory=Optics)
    exposure: Exposure = field(default_factory=Exposure)
    detector: Detector = field(default_factory=Detector)
    misalignment: Misalignment = field(default_factory=Misalignment)
    potential: float | None = None
    contrast: Range = 1.0
    correction: Correction | tuple[Correction, ...] = "none"
    dose_weighting: bool | tuple[bool, ...] = False
    weighting: Filter | tuple[Filter, ...] = "ramp"
    roll_off: tuple[Range, float] | None = None
    sirt_like: int | tuple[int, ...] = 0
    colour: Range = 0.0
    radial_gain: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        lengths = f"of Å from {SHORTEST:g} to {LONGEST:g}"
        check_range("TiltSeriesDegradation.voxel_size", self.voxel_size, is_length, lengths)
        if self.potential is not None:
            _check_number(
                "TiltSeriesDegradation.potential",
                self.potential,
                lambda v: 0 < v <= 1000,
                "of volts above 0, up to 1000",
            )
        check_range("TiltSeriesDegradation.contrast", self.contrast, lambda v: 0 < v <= 2, "above 0, up to 2")
        check_choice("TiltSeriesDegradation.correction", self.correction, ("none", "phase_flip", "deconvolution"))
        check_choice("TiltSeriesDegradation.dose_weighting", self.dose_weighting, (True, False))
        check_choice("TiltSeriesDegradation.weighting", self.weighting, ("ramp", "exact"))
        if self.roll_off is not None:
            cut_off, width = self.roll_off
            check_range("TiltSeriesDegradation.roll_off", cut_off, lambda v: 0.05 <= v <= 1, "from 0.05 to 1")
            _check_number("TiltSeriesDegradation.roll_off", width, lambda v: v > 0, "of cycles per pixel above 0")
        for iterations in choices(self.sirt_like) or (-1,):
            check_whole_range("TiltSeriesDegradation.sirt_like", iterations, 0)
        check_range("TiltSeriesDegradation.colour", self.colour, lambda v: 0 <= v <= 2, "between 0 and 2")
        gains = self.radial_gain
        if gains is not None and not (len(gains) >= 2 and all(0 <= gain < math.inf for gain in gains)):
            raise CryodenError(
                f"TiltSeriesDegradation.radial_gain: got {gains}; allowed are at least two numbers from 0 up"
            )

    def check_volumes(self, voxel_size: float, sampling: Sampling = "band-limited") -> None:
        """Refuse volumes with voxels of another size, or in a unit that has no volts."""
        low, high = bounds(self.voxel_size)
        if not low * (1 - 1e-3) <= voxel_size <= high * (1 + 1e-3):
            got = f"{low:g}" if low == high else f"{low:g} to {high:g}"
            raise CryodenError(
                f"TiltSeriesDegradation.voxel_size: got {got} Å for data of {voxel_size:g} Å; give both the same"
            )
        if sampling == "thesis" and self.potential is None:
            raise CryodenError(
                "TiltSeriesDegradation.potential: got null for sampling 'thesis', whose density has no unit; give the "
                "volts above ice of its maximum, or use sampling 'band-limited'"
            )

    def sample(self, generator: torch.Generator) -> dict[str, float]:
        """Draw the parameters for one volume; of kinds, which of the several."""
        low, high = self.scheme.tilt_range
        return {
            "voxel_size": draw(self.voxel_size, generator),
            "tilt_min": draw(low, generator),
            "tilt_max": draw(high, generator),
            "step": draw(self.scheme.step, generator),
            "dropped": draw_whole(self.scheme.dropped, generator),
            "defocus": draw(self.optics.defocus, generator),
            "defocus_scatter": draw(self.optics.defocus_scatter, generator),
            "b_factor": draw(self.optics.b_factor, generator),
            "dose": draw(self.exposure.dose, generator),
            "radiation_damage": draw(self.exposure.radiation_damage, generator),
            "thickness": draw(self.exposure.thickness, generator),
            "binned_by": draw_choice(self.detector.binned_by, generator),
            "shift": draw(self.misalignment.shift, generator),
            "rotation": draw(self.misalignment.rotation, generator),
            "contrast": draw(self.contrast, generator),
            "correction": draw_choice(self.correction, generator),
            "dose_weighting": draw_choice(self.dose_weighting, generator),
            "weighting": draw_choice(self.weighting, generator),
            "roll_off": draw(self.roll_off[0] if self.roll_off else 1.0, generator),
            "sirt_like": choices(self.sirt_like)[draw_choice(self.sirt_like, generator)],
            "colour": draw(self.colour, generator),
            "seed": draw_seed(generator),
        }

    def drawn(self, parameters: Parameters) -> Self:
        """What made one tomogram: the same with what was drawn for it in place of ranges and of several kinds.

        Args:
            parameters: what `sample` gave.
        """
        p = parameters
        return replace(
            self,
            voxel_size=p["voxel_size"],
            scheme=replace(
                self.scheme, tilt_range=(p["tilt_min"], p["tilt_max"]), step=p["step"], dropped=int(p["dropped"])
            ),
            optics=replace(
                self.optics, defocus=p["defocus"], defocus_scatter=p["defocus_scatter"], b_factor=p["b_factor"]
            ),
            exposure=replace(
                self.exposure, dose=p["dose"], radiation_damage=p["radiation_damage"], thickness=p["thickness"]
            ),
            detector=replace(self.detector, binned_by=choices(self.detector.binned_by)[int(p["binned_by"])]),
            misalignment=replace(self.misalignment, shift=p["shift"], rotation=p["rotation"]),
            contrast=p["contrast"],
            correction=choices(self.correction)[int(p["correction"])],
            dose_weighting=choices(self.dose_weighting)[int(p["dose_weighting"])],
            weighting=choices(self.weighting)[int(p["weighting"])],
            roll_off=self.roll_off and (p["roll_off"], self.roll_off[1]),
            sirt_like=int(p["sirt_like"]),
            colour=p["colour"],
        )

    def angles(self, parameters: Parameters) -> list[float]:
        """The tilts of one tomogram in degrees, from the lowest up."""
        generator = torch.Generator().manual_seed(int(parameters["seed"]) + 1)
        return self.drawn(parameters).scheme.left(generator)

    @property
    def context(self) -> Margin:
        """What is imaged with a box: what lies above, below and beside it, and as far as contrast transfer reaches."""
        voxel_size = bounds(self.voxel_size)[0]
        z, x = (math.ceil(reach / voxel_size) for reach in _AROUND)
        return z, self._reach, x

    @property
    def _reach(self) -> int:
        """Voxels over which contrast transfer spreads what it transfers at Nyquist."""
        voxel_size, defocus = bounds(self.voxel_size)[0], bounds(self.optics.defocus)[1]
        return math.ceil(wavelength(self.optics.voltage) * defocus * 1e4 / (2 * voxel_size) / voxel_size)

    def apply(self, volumes: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Damage (B, C, D, H, W) volumes."""
        return self.apply_within(volumes, parameters, (0, 0, 0))

    def apply_within(self, volumes: Tensor, parameters: Sequence[Parameters], margin: Margin) -> Tensor:
        """Damage boxes of which the surroundings are imaged, too; only the boxes are reconstructed."""
        return self._degrade(volumes, parameters, margin, [_ALL])[0]

    def halves(
        self, volumes: Tensor, parameters: Sequence[Parameters], kind: Literal["tilts", "frames"] = "tilts"
    ) -> tuple[Tensor, Tensor]:
        """The same tilt series as `apply`'s, of which two halves are reconstructed apart: their noise is independent.

        Args:
            volumes: (B, C, D, H, W), density.
            parameters: what `sample` gave, one mapping per volume.
            kind: even and odd "tilts", which measure different planes of Fourier space; or the "frames" of the first
                and of the second half of each exposure, whose signal is the same.

        Returns:
            Two of (B, C, D, H, W).
        """
        parts = [_EVEN, _ODD] if kind == "tilts" else [_FIRST, _SECOND]
        one, other = self._degrade(volumes, parameters, (0, 0, 0), parts)
        return one, other

    def measured(self, volumes: Tensor, parameters: Sequence[Parameters]) -> Tensor:
        """Where these volumes' tilt series measured: between the lowest and the highest tilt, as far as pixels hold."""
        ends: list[dict[str, float]] = []
        for each in parameters:
            angles = self.angles(each)
            ends.append({"tilt_min": angles[0], "tilt_max": angles[-1]})
        depth, _, width = volumes.shape[-3:]
        kz = torch.fft.fftfreq(depth, device=volumes.device)[:, None, None]
        held = torch.hypot(kz, torch.fft.rfftfreq(width, device=volumes.device)) <= 0.5
        return MissingWedge((-60.0, 60.0)).measured(volumes, ends) & held

    def tomograms(self, volume: Tensor, parameters: Parameters) -> Tomograms:
        """Tilt series and tomograms of a volume, as a lab would get them: protein is dark.

        Args:
            volume: (D, H, W), density. The camera is as wide as the volume; a slab of 180 × 512 × 512 takes 2.2 GB.
            parameters: what `sample` gave.

        Returns:
            Images and tomograms; `-full` has the grey values of `apply`'s output.
        """
        series = self.record(volume, parameters)
        depth, _, width = volume.shape
        first, second, noise_free, even, odd = (
            self._reconstruct(series, part, (depth, width), parameters).neg_()
            for part in (_FIRST, _SECOND, _EXPECTED, _EVEN, _ODD)
        )
        return Tomograms(series, (first + second) / 2, even, odd, first, second, noise_free)

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
        depth, height, width = volume.shape
        columns = columns or width
        random = torch.Generator().manual_seed(int(parameters["seed"]))
        scheme, angles = self.drawn(parameters).scheme, self.angles(parameters)
        missed = torch.randn(len(angles), generator=random, dtype=torch.float64)
        true = [angle + scheme.jitter * float(off) for angle, off in zip(angles, missed, strict=True)]
        # What contrast transfer brings in from beside the image is imaged, too.
        tall, wide = (_FAST * math.ceil((size + 2 * self._reach) / _FAST) for size in (height, columns))

        def projected(volume: Tensor) -> Tensor:
            return _mirrored(project(volume, true, wide, mirrored=True), tall)

        density = self._misplace(projected(volume), parameters, random)
        per_tilt = parameters["dose"] / len(scheme.angles)
        exposures = [per_tilt * scheme.recorded.index(angle) for angle in angles]
        scatter = torch.randn(len(angles), generator=random, dtype=torch.float64)
        defocus = parameters["defocus"] + parameters["defocus_scatter"] * scatter
        device = volume.device
        lens = self._aberration((tall, wide), angles, defocus, parameters, device)
        envelope = self._envelope((tall, wide), exposures, per_tilt, parameters, device)
        spectrum = torch.fft.rfft2(density)
        left_of_it = torch.fft.irfft2(spectrum * envelope, s=density.shape[-2:])
        amplitude = self.optics.amplitude_contrast
        wave = torch.fft.fft2(exit_wave(self._contrast(parameters) / 2 * left_of_it, amplitude))
        images = _united([_seen(wave, strip) for strip in lens])
        top, left = tall // 2 - height // 2, wide // 2 - columns // 2
        images = images[..., top : top + height, left : left + columns]

        tilts = torch.tensor(angles, dtype=torch.float64).deg2rad()
        free_path = self.exposure.mean_free_path or mean_free_path(self.optics.voltage)
        transmitted = torch.exp(-parameters["thickness"] / (free_path * tilts.cos()))
        blank = per_tilt * parameters["voxel_size"] ** 2 * self.detector.dqe * transmitted
        blank = blank.to(density)[:, None, None]
        expected = blank * images
        on_device = torch.Generator(device).manual_seed(draw_seed(random))
        counts = torch.poisson(expected, generator=on_device)

        # The gain is that of protein: gold, of other frequencies, would change its scale.
        protein = torch.where(volume <= BRIGHTEST, volume, 0.0)
        seen = spectrum if torch.equal(protein, volume) else torch.fft.rfft2(projected(protein))
        middle = contrast_transfer(lens[len(lens) // 2], amplitude)
        kept = middle * envelope * self._filter(wide, depth, parameters).to(density)
        corrected = self._corrected((tall, wide), middle[None], exposures, per_tilt, parameters)
        if corrected is not None:
            kept = kept * corrected[0]
        gain = _gain(seen, kept)
        lens = self._aberration((height, columns), angles, defocus, parameters, device)
        transfer = contrast_transfer(lens, amplitude)
        return TiltSeries(counts, expected, blank, angles, exposures, transfer, gain, draw_seed(random))

    def _contrast(self, parameters: Parameters) -> float:
        """Twice the phase shift of one voxel of density 1."""
        volts = (VOLTS if self.potential is None else self.potential) * parameters["contrast"]
        return 2 * interaction_constant(self.optics.voltage) * volts * parameters["voxel_size"] / 10

    def _degrade(
        self, volumes: Tensor, parameters: Sequence[Parameters], margin: Margin, parts: Sequence["_Part"]
    ) -> list[Tensor]:
        """Bright volumes (B, C, D, H, W) from parts of the images, one after the other: the batch does not matter."""
        out = [torch.empty_like(without_margin(volumes, margin)) for _ in parts]
        depth, _, width = out[0].shape[-3:]
        for i, values in enumerate(parameters):
            columns = _columns(self.angles(values), depth, width)
            for channel in range(volumes.shape[1]):
                series = self.record(volumes[i, channel], values, columns)
                for part, result in zip(parts, out, strict=True):
                    made = self._reconstruct(series, part, (depth, width), values)
                    result[i, channel] = without_margin(made, (0, margin[1], 0))
        return out

    def _reconstruct(self, series: TiltSeries, part: "_Part", shape: tuple[int, int], parameters: Parameters) -> Tensor:
        """(D, H, W) in the unit of density, protein bright, of a part of the images."""
        bright = 1 - part.images(series) / (part.share * series.blank)
        bright = bright / (self._contrast(parameters) * series.gain)
        per_tilt = parameters["dose"] / len(self.drawn(parameters).scheme.angles)
        size = (bright.shape[-2], bright.shape[-1])
        corrected = self._corrected(size, series.transfer, series.exposures, per_tilt, parameters)
        if corrected is not None:
            spectrum = torch.fft.rfft2(bright)
            bright = _united([torch.fft.irfft2(spectrum * strip, s=size) for strip in corrected])
        filtering = self._filtering(parameters, shape[0])
        made = back_project(bright[part.tilts], series.angles[part.tilts], shape, **filtering)
        return self._coloured(made, parameters)

    def _corrected(
        self,
        size: tuple[int, int],
        transfer: Tensor,
        exposures: Sequence[float],
        per_tilt: float,
        parameters: Parameters,
    ) -> Tensor | None:
        """By what images are multiplied before they are back-projected, as `transfer` (S, T, H, F); None: nothing."""
        kind = choices(self.correction)[int(parameters["correction"])]
        weighted = choices(self.dose_weighting)[int(parameters["dose_weighting"])]
        if kind == "none" and not weighted:
            return None
        frequency = _frequency(size, parameters["voxel_size"], transfer.device)
        factor = torch.ones_like(transfer)
        if kind != "none":
            factor = transfer.sign() if kind == "phase_flip" else deconvolution(frequency, transfer)
        if weighted:
            seen = torch.tensor(exposures, dtype=torch.float64) + per_tilt / 2
            factor = factor * damage(frequency, seen.to(transfer)[:, None, None], self.optics.voltage)
        return factor

    def _filtering(self, parameters: Parameters, depth: int) -> dict[str, Any]:
        """How the back-projection of a slab of some sections weights images, as `weights` takes it."""
        return {
            "weighting": choices(self.weighting)[int(parameters["weighting"])],
            "iterations": int(parameters["sirt_like"]),
            "thickness": parameters["thickness"] * 10 / parameters["voxel_size"] or depth,
            "roll_off": self.roll_off and (parameters["roll_off"], self.roll_off[1]),
        }

    def _filter(self, columns: int, depth: int, parameters: Parameters) -> Tensor:
        """(T or 1, 1, F): what the back-projection leaves of each frequency across the tilt axis, beside a ramp."""
        angles = self.angles(parameters)
        ramp = weights(angles, columns, thickness=depth)
        return (weights(angles, columns, **self._filtering(parameters, depth)) / ramp)[:, None]

    def _coloured(self, volume: Tensor, parameters: Parameters) -> Tensor:
        """(D, H, W) with the gains, which depend on the size of a frequency alone."""
        if not parameters["colour"] and self.radial_gain is None:
            return volume
        frequency = _size_of_frequency(volume)
        gain = torch.ones_like(frequency)
        if parameters["colour"]:
            generator = torch.Generator().manual_seed(int(parameters["seed"]) + 2)
            nodes = torch.randn(_COLOUR, generator=generator)
            gain = gain * _between((parameters["colour"] * (nodes - nodes.mean())).exp(), frequency)
        if self.radial_gain is not None:
            gain = gain * _between(torch.tensor(self.radial_gain), frequency)
        coloured: Tensor = torch.fft.irfftn(torch.fft.rfftn(volume) * gain, s=volume.shape)
        return coloured

    def _misplace(self, images: Tensor, parameters: Parameters, random: torch.Generator) -> Tensor:
        """Turn and shift each image."""
        tilts, height, width = images.shape
        drawn = torch.randn(3, tilts, generator=random, dtype=torch.float64)
        if parameters["rotation"]:
            turn = (parameters["rotation"] * drawn[0]).deg2rad()
            cos, sin = turn.cos(), turn.sin()
            # affine_grid counts from the middle, in halves of an image
            rows = [cos, -sin * height / width, sin * 0, sin * width / height, cos, sin * 0]
            grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3).to(images), [tilts, 1, height, width], False)
            images = F.grid_sample(images[:, None], grid, "bicubic", "zeros", False)[:, 0]
        if parameters["shift"]:
            y, x = (parameters["shift"] / parameters["voxel_size"] * drawn[1:]).to(images)[..., None, None]
            ky, kx = torch.fft.fftfreq(height).to(images)[:, None], torch.fft.rfftfreq(width).to(images)
            phase = -2 * torch.pi * (y * ky + x * kx)
            spectrum = torch.fft.rfft2(images) * torch.polar(torch.ones_like(phase), phase)
            images = torch.fft.irfft2(spectrum, s=(height, width))
        return images

    def _envelope(
        self,
        size: tuple[int, int],
        exposures: Sequence[float],
        per_tilt: float,
        parameters: Parameters,
        device: torch.device,
    ) -> Tensor:
        """(T, H, F): what is left of the signal by all that blurs it: coherence, the camera, and radiation."""
        frequency = _frequency(size, parameters["voxel_size"], device)
        envelope = torch.exp(-parameters["b_factor"] / 4 * frequency.square())
        averaged = choices(self.detector.binned_by)[int(parameters["binned_by"])] == "averaging"
        for dim, cycles in (((slice(None), None), torch.fft.fftfreq(size[0])), ((None,), torch.fft.rfftfreq(size[1]))):
            envelope = envelope * torch.sinc(cycles if averaged else cycles / self.detector.binning)[dim].to(device)
        seen = torch.tensor(exposures, device=device)[:, None, None] + per_tilt / 2
        return envelope * damage(frequency, parameters["radiation_damage"] * seen, self.optics.voltage)

    def _aberration(
        self,
        size: tuple[int, int],
        angles: Sequence[float],
        defocus: Tensor,
        parameters: Parameters,
        device: torch.device | None = None,
    ) -> Tensor:
        """(S, T, H, F): of the lens, in strips across the image, one where defocus (T,) is the same in all."""
        tilts = torch.tensor(angles, dtype=torch.float64).deg2rad()
        strips = torch.zeros(1, dtype=torch.float64)
        if self.optics.defocus_gradient:
            rise = size[1] * parameters["voxel_size"] * tilts.tan().abs().max()  # Å, from one side to the other
            turn = torch.pi * wavelength(self.optics.voltage) * rise * (0.5 / parameters["voxel_size"]) ** 2
            strips = torch.linspace(-0.5, 0.5, 2 * math.ceil(turn / 2 / _APART) + 1, dtype=torch.float64) * size[1]
        # a point at u across the image lies -u tan(tilt) along the beam, and what lies higher is less under focus
        values = defocus + strips[:, None] * parameters["voxel_size"] * tilts.tan() / 1e4
        return aberration(
            _frequency(size, parameters["voxel_size"], device),
            values.to(device, torch.float32)[..., None, None],
            self.optics.voltage,
            self.optics.spherical_aberration,
        ).expand(-1, len(tilts), -1, -1)


class _Part(NamedTuple):
    """Some of the images of a tilt series.

    Attributes:
        images: (T, H, columns), of a series.
        share: of the electrons that are in them.
        tilts: which of them.
    """

    images: Callable[[TiltSeries], Tensor]
    share: float = 1.0
    tilts: slice = slice(None)


_ALL = _Part(lambda series: series.counts)
_EXPECTED = _Part(lambda series: series.expected)
_FIRST = _Part(lambda series: series.frames[0], 0.5)
_SECOND = _Part(lambda series: series.frames[1], 0.5)
_EVEN = _ALL._replace(tilts=slice(0, None, 2))
_ODD = _ALL._replace(tilts=slice(1, None, 2))


def _seen(wave: Tensor, lens: Tensor) -> Tensor:
    """(T, H, W) intensities of the spectra (T, H, W) of waves behind a lens of this aberration, (T, H, W // 2 + 1)."""
    half = torch.polar(torch.ones_like(lens), lens)
    image = torch.fft.ifft2(wave * torch.cat([half, half[..., 1 : wave.shape[-1] - half.shape[-1] + 1].flip(-1)], -1))
    seen: Tensor = image.real.square() + image.imag.square()
    return seen


def _united(strips: Sequence[Tensor]) -> Tensor:
    """(T, H, columns) images of each strip, interpolated linearly between the strips' middles."""
    if len(strips) == 1:
        return strips[0]
    place = torch.linspace(0, len(strips) - 1, strips[0].shape[-1] + 1)[:-1].to(strips[0])
    shares = [(1 - (place - i).abs()).clamp(min=0) for i in range(len(strips))]
    united: Tensor = sum(image * share for image, share in zip(strips, shares, strict=True))  # type: ignore[assignment]
    return united


def _frequency(size: tuple[int, int], voxel_size: float, device: torch.device | None = None) -> Tensor:
    """(H, W // 2 + 1), 1/Å, of images of this size."""
    height, width = torch.fft.fftfreq(size[0], device=device), torch.fft.rfftfreq(size[1], device=device)
    return torch.hypot(height[:, None], width) / voxel_size


def _size_of_frequency(volume: Tensor) -> Tensor:
    """(D, H, W // 2 + 1), cycles per voxel."""
    depth, height, width = volume.shape
    kz, ky = (torch.fft.fftfreq(size).to(volume).square() for size in (depth, height))
    kx = torch.fft.rfftfreq(width).to(volume).square()
    size: Tensor = (kz[:, None, None] + ky[:, None] + kx).sqrt()
    return size


def _between(nodes: Tensor, frequency: Tensor) -> Tensor:
    """Values at frequencies, of those given at equal steps from 0 to Nyquist; beyond, the last."""
    place = (2 * frequency).clamp(max=1) * (len(nodes) - 1)
    before = place.floor().clamp(max=len(nodes) - 2).long()
    nodes = nodes.to(frequency)
    return torch.lerp(nodes[before], nodes[before + 1], place - before)


def _mirrored(images: Tensor, height: int) -> Tensor:
    """(T, H, columns) to (T, height, columns): beyond both ends of y images go on mirrored; their middles agree."""
    size = images.shape[-2]
    rows = (torch.arange(height, device=images.device) - height // 2 + size // 2) % (2 * size)
    return images.index_select(-2, torch.minimum(rows, 2 * size - 1 - rows))


def _check_number(name: str, value: float, allowed: Callable[[float], bool], words: str) -> None:
    if not (math.isfinite(value) and allowed(value)):
        raise CryodenError(f"{name}: got {value}; allowed is a number {words}")


def _without_vacuum(volume: Tensor) -> Tensor:
    """(D, H, W) with ice for vacuum above and below: that goes on beyond the volume, whose sides would be edges.

    Endless and flat, it shows in no image. The surfaces of the ice are blurred, so the sections next to vacuum are
    levelled too.
    """
    vacuum = (volume < VACUUM / 2).flatten(1).float().mean(1) > 0.5
    near = F.max_pool1d(vacuum[None].to(volume), 2 * _SURFACE + 1, stride=1, padding=_SURFACE)[0].bool()
    levels = volume.new_zeros(len(volume), 1, 1)
    levels[near] = volume[near].flatten(1).median(dim=1).values[:, None, None]
    return volume - levels


def _columns(angles: Sequence[float], depth: int, width: int) -> int:
    """Pixels on which a whole box falls at all tilts: a multiple of 16, so that its transforms are fast."""
    tilts = [math.radians(angle) for angle in angles]
    widest = max(width * math.cos(tilt) + depth * abs(math.sin(tilt)) for tilt in tilts)
    return _FAST * math.ceil(widest / _FAST)


def _gain(spectrum: Tensor, transfer: Tensor) -> Tensor:
    """Root of the share of the signal's power that is kept, as the reconstruction weights it."""
    weight = torch.arange(spectrum.shape[-1], device=spectrum.device)
    tiny = 1e-20  # an empty volume has the gain of white noise
    power = (spectrum.real.square() + spectrum.imag.square() + tiny) * weight
    share = (power * transfer.square()).sum() / power.sum()
    gain: Tensor = share.sqrt()
    return gain
