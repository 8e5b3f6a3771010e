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
        degraded: (1, D, H, W) float32, only where it comes from a file, degraded already.
        rotation: (3, 3) float64, only of a particle alone in its box: how it lies; acts on xyz column vectors.
        placements: only of scenes: the objects in the box.
    """

    clean: Tensor
    entry: str
    degraded: NotRequired[Tensor]
    rotation: NotRequired[Tensor]
    placements: NotRequired["list[Placement]"]


class Item(Specimen):
    """A specimen and what the microscope does to it. Only training leaves `degraded` to the device.

    Where `degraded` is there, `clean` is what a network is asked for: nothing of it is brighter than BRIGHTEST.

    Attributes:
        parameters: one mapping for each step of the degradation, as `Degradation.sample` drew it.
        measured: bool, broadcastable to (D, H, W // 2 + 1), in the layout of `torch.fft.rfftn`: which part of Fourier
            space was measured.
    """

    parameters: "Sequence[Parameters]"
    measured: Tensor


class Batch(TypedDict):
    """Items together, as a module sees them.

    Attributes:
        clean: (B, 1, D, H, W) float32; protein bright, in bulk 1; ice 0; at most BRIGHTEST, be it of gold.
        degraded: (B, 1, D, H, W) float32, in the unit of `clean`.
        measured: bool, broadcastable to (B, D, H, W // 2 + 1), in the layout of `torch.fft.rfftn`: which part of
            Fourier space was measured.
        entry: what each volume shows.
        parameters: for each volume, one mapping for each step of the degradation.
        rotation: (B, 3, 3) float64, only of particles alone in their boxes: how they lie; acts on xyz column vectors.
        placements: only of scenes: for each volume the objects in it.
    """

    clean: Tensor
    degraded: Tensor
    measured: Tensor
    entry: list[str]
    parameters: "Sequence[Sequence[Parameters]]"
    rotation: NotRequired[Tensor]
    placements: NotRequired["list[list[Placement]]"]
