"""What data hand to modules and to evaluation: volumes with all that is known of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict

from torch import Tensor

if TYPE_CHECKING:
    from cryoden.simulation.degradation import Parameters
    from cryoden.simulation.scene import Placement


class Specimen(TypedDict):
    """What is in one box, before anything is degraded.

    Attributes:
        clean: (1, D, H, W) float32; protein bright, in bulk 1; ice 0.
        entry: what it shows.
        imaged: what the microscope sees, where that is more than `clean`: the box in the middle of what surrounds it,
            with a background that is no part of the truth. Float32, as large as (1, D, H, W) or larger on both sides of
            each axis; gone when `degraded` is made of it.
        degraded: (1, D, H, W) float32, only where it was degraded before the box was cut.
        parameters: only where it was degraded before: how, one mapping for each step of the degradation.
        rotation: (3, 3) float64, only of a particle in a box of its own: how it lies; acts on xyz column vectors.
        placements: only of scenes: the objects in the box.
    """

    clean: Tensor
    entry: str
    imaged: NotRequired[Tensor]
    degraded: NotRequired[Tensor]
    parameters: NotRequired["Sequence[Parameters]"]
    rotation: NotRequired[Tensor]
    placements: NotRequired["list[Placement]"]


class Item(Specimen):
    """A specimen and what the microscope does to it. Only training leaves `degraded` to the device.

    Where `degraded` is there, `clean` is what a network is asked for: nothing of it is brighter than BRIGHTEST.

    Its `parameters` are always there: one mapping for each step of the degradation, as `Degradation.sample` drew it.

    Attributes:
        measured: bool, broadcastable to (D, H, W // 2 + 1), in the layout of `torch.fft.rfftn`: which part of Fourier
            space was measured.
    """

    measured: Tensor


class Batch(TypedDict):
    """Items together, as a module sees them.

    Attributes:
        clean: (B, 1, D, H, W) float32; protein bright, in bulk 1; ice 0; at most BRIGHTEST, be it of gold.
        degraded: (B, 1, D, H, W) float32, in the unit of `clean`; in training it is made on the device.
        imaged: as in `Specimen`, (B, 1, ...); only until `degraded` is there.
        measured: bool, broadcastable to (B, D, H, W // 2 + 1), in the layout of `torch.fft.rfftn`: which part of
            Fourier space was measured.
        entry: what each volume shows.
        parameters: for each volume, one mapping for each step of the degradation.
        rotation: (B, 3, 3) float64, only of particles in boxes of their own: how they lie; acts on xyz column vectors.
        placements: only of scenes: for each volume the objects in it.
    """

    clean: Tensor
    degraded: Tensor
    imaged: NotRequired[Tensor]
    measured: Tensor
    entry: list[str]
    parameters: "Sequence[Sequence[Parameters]]"
    rotation: NotRequired[Tensor]
    placements: NotRequired["list[list[Placement]]"]


class HalfBoxes(TypedDict):
    """Boxes cut at the same place from both halves of tomograms.

    Attributes:
        given: (B, 1, D, H, W) float32, of the half that a network is shown: background 0, spread 1, protein bright.
        other: the same of the half that it is compared with.
        measured: (B, D, 1, W // 2 + 1) bool, in the layout of `torch.fft.rfftn`: which part of Fourier space was
            measured.
        tomogram: (B,) int64, numbers from 0 up.
        entry: the tomograms' names.
    """

    given: Tensor
    other: Tensor
    measured: Tensor
    tomogram: Tensor
    entry: list[str]


class TuningBatch(TypedDict):
    """What a network is tuned on.

    Attributes:
        halves: a laboratory's own.
        simulated: boxes whose truth is known, where there are any.
    """

    halves: HalfBoxes
    simulated: NotRequired[Batch]


class HeldOut(TypedDict):
    """A part of a tomogram that nothing is learnt from.

    Attributes:
        first: (D, H, W) float32, of the first half: background 0, spread 1, protein bright; the tilt axis is y.
        second: the same of the second half.
        mask: (D, H, W) bool, where there is specimen; None: all over.
        voxel_size: Å.
        entry: the tomogram's name.
    """

    first: Tensor
    second: Tensor
    mask: Tensor | None
    voxel_size: float
    entry: str
