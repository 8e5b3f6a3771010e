"""What is asked for when volumes are denoised: checked without torch, so that nobody waits to learn of a mistake."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from cryoden.errors import CryodenError
from cryoden.inference.tilts import TiltRange
from cryoden.volume import check_length


@dataclass(frozen=True)
class Settings:
    """How volumes are denoised.

    Args:
        contrast: Whether protein is brighter or darker than its surroundings; "auto" tells from the voxels. Models
            are trained on bright protein: a dark volume is inverted for the network, and the result inverted back.
        voxel_size: Å, instead of what the file says.
        rescale: Resample tiles to the voxel size of the model's training, and the result back.
        augment: Denoise each tile in the 8 orientations that flips make and average the results: all flips keep the
            beam and the tilt axis in place. Takes 8 times as long.
        tile: Largest edge of a tile in the network's voxels, a multiple of `model.generator.multiple`; by default what
            the network takes in 2.2 GB of float32, half of that in bfloat16, and at most 256.
        overlap: The network's voxels shared by neighbouring tiles, which fade into each other. By default, twice what
            the network reaches, and nothing fades, since nothing tells where tiles met; where nothing is known of its
            reach, or that would cost too much, 32 or a third of `tile`.
        batch_size: Tiles denoised at once: more are faster on a GPU and need more of its memory.
        measured_only: Take out of the answer what lies in the missing wedge, where nothing was measured; needs
            `tilt_range`. Margins become background, since their edges have waves of any direction.
        tilt_range: The lowest and the highest tilt in degrees, about y. What the answer has beyond them is told.
    """

    contrast: Literal["auto", "bright", "dark"] = "auto"
    voxel_size: float | None = None
    rescale: bool = False
    augment: bool = False
    tile: int | None = None
    overlap: int | None = None
    batch_size: int = 1
    measured_only: bool = False
    tilt_range: tuple[float, float] | TiltRange | None = None

    def __post_init__(self) -> None:
        if self.contrast not in ("auto", "bright", "dark"):
            raise CryodenError(f"contrast {self.contrast!r} is unknown; it is 'auto', 'bright' or 'dark'")
        for name in ("tile", "overlap", "batch_size"):
            value = getattr(self, name)
            if value is None and name != "batch_size":
                continue
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise CryodenError(f"{name}: got {value!r}; allowed is a whole number")
        if self.voxel_size is not None:
            if not _is_number(self.voxel_size):
                raise CryodenError(f"voxel_size: got {self.voxel_size!r}; allowed is a number, in Å")
            check_length("voxel_size", self.voxel_size)
        ends = self.tilt_range
        if ends is not None and not (
            isinstance(ends, TiltRange)
            or (isinstance(ends, tuple | list) and len(ends) == 2 and all(map(_is_number, ends)))
        ):
            raise CryodenError(f"tilt_range: got {ends!r}; allowed are two numbers in degrees, such as (-60, 60)")
        if self.batch_size < 1:
            raise CryodenError(f"batch size {self.batch_size} is too small: at least 1 tile at once is needed")
        if self.tilts is not None:
            self.tilts.check()

    @property
    def tilts(self) -> TiltRange | None:
        """Between which tilts the volume was measured, if that is known."""
        return None if self.tilt_range is None else TiltRange(*self.tilt_range)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
