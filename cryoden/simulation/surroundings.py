"""What surrounds a particle in its box: others above, below and beside it, and what else is in the ice."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations, product
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from cryoden.particles import Particle
from cryoden.simulation.background import Background
from cryoden.simulation.degradation import Margin
from cryoden.simulation.density import clean_volume, smallest_box
from cryoden.simulation.ranges import Range, check_range, draw, seed_of
from cryoden.simulation.rotation import random_rotation
from cryoden.simulation.sampling import where_they_meet
from cryoden.simulation.units import Sampling

_ORIENTATIONS = 8  # of each particle that are worked out; on all sides of a cube they are 24 times as many
_BESIDE = 3  # voxels on each side of a neighbour to which what the cut at Nyquist leaves there is followed
_VISIBLE = 0.2  # of its maximum; where its density is above this, no other may be
_TRIES = 10  # positions, before a neighbour is left out
_BACKGROUNDS = 4  # that are worked out
_PERIOD = 128  # voxels, after which a background goes on as it began, so that any part of it can lie anywhere

_Kind = TypeVar("_Kind", np.float32, np.bool_)


@dataclass(frozen=True)
class Surroundings:
    """What lies around a particle's box, where a degradation sees it. What reaches into the box is part of it.

    Args:
        occupancy: the share of the ice that other particles fill, of the same entries; a value, or a range. It
            counts visible density, as in a scene.
        background: what else is in the ice, imaged but no part of the truth, but for lumps; null: nothing.
    """

    occupancy: Range = (0.0, 0.2)
    background: Background | None = None

    def __post_init__(self) -> None:
        check_range("Surroundings.occupancy", self.occupancy, lambda v: 0 <= v < 0.5, "from 0 to below 0.5")


class _Body(NamedTuple):
    """A neighbour in a box of its own, of an odd number of voxels, with its centre in the middle.

    Attributes:
        density: (N, N, N).
        visible: (N, N, N), where no other may be.
    """

    density: NDArray[np.float32]
    visible: NDArray[np.bool_]


@dataclass(frozen=True)
class Neighbours:
    """Puts boxes into their surroundings.

    A box has tens of neighbours, which would cost more than all else, so a few orientations of each are worked out once
    and turned to the sides of a cube, which moves voxels to voxels; likewise a few backgrounds are moved and mirrored.

    Args:
        particles: what to draw from, each as often as the others.
        surroundings: how many, and what else.
        voxel_size: Å.
        resolution: Å.
        sampling: see `clean_volume`.
        seed: of the orientations and of the backgrounds.
    """

    particles: Sequence[Particle]
    surroundings: Surroundings
    voxel_size: float
    resolution: float
    sampling: Sampling
    seed: Sequence[int]

    def around(
        self, box: NDArray[np.float32], margin: Margin, generator: torch.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Draw what surrounds a box; neighbours overlap neither each other nor what is in the box.

        Args:
            box: (D, H, W), density.
            margin: voxels along z, y, x, on either side of it.
            generator: where the randomness comes from.

        Returns:
            Two of (D, H, W) with the margin: the density, and the background, None where there is none.
        """
        density = np.pad(box, [(m, m) for m in margin])
        self._place(density, generator)
        if self.surroundings.background is None:
            return density, None
        made = self._backgrounds[int(torch.randint(_BACKGROUNDS, (), generator=generator))]
        turned = _turned(made, int(torch.randint(len(_SIDES), (), generator=generator)))
        start = torch.randint(_PERIOD, (3,), generator=generator).tolist()
        part = turned[np.ix_(*((s + np.arange(n)) % _PERIOD for s, n in zip(start, density.shape, strict=True)))]
        return density, part * np.clip(1 - np.abs(density), 0, 1)

    def _place(self, density: NDArray[np.float32], generator: torch.Generator) -> None:
        """Add neighbours to what is there; the border cuts some."""
        taken = _visible(density)
        filled = np.mean([np.count_nonzero(body.visible) for body in self._bodies])
        number = round(draw(self.surroundings.occupancy, generator) * density.size / float(filled))
        which = torch.randint(len(self._bodies), (number,), generator=generator).tolist()
        turns = torch.randint(len(_SIDES), (number,), generator=generator).tolist()
        tries = torch.rand((number, _TRIES, 3), generator=generator, dtype=torch.float64).numpy()
        centres = (tries * density.shape).astype(np.int64)
        for index, turn, tried in zip(which, turns, centres, strict=True):
            body = self._bodies[index]
            size = body.density.shape[0]
            whole, visible = _turned(body.density, turn), _turned(body.visible, turn)
            for corner in (tried - size // 2).tolist():
                into, part = where_they_meet(corner, size, density.shape)
                if (taken[into] & visible[part]).any():
                    continue
                taken[into] |= visible[part]
                density[into] += whole[part]
                break

    @cached_property
    def _bodies(self) -> list[_Body]:
        generator = self._generator(0)
        bodies = []
        for particle in self.particles:
            box = (smallest_box(particle, self.voxel_size, self.resolution) + 2 * _BESIDE) | 1
            for _ in range(_ORIENTATIONS):
                rotation = random_rotation(generator).numpy()
                density = clean_volume(particle, rotation, box, self.voxel_size, self.resolution, self.sampling)
                bodies.append(_Body(density, _visible(density)))
        return bodies

    @cached_property
    def _backgrounds(self) -> list[NDArray[np.float32]]:
        fill = (self.surroundings.background or Background()).fill
        ice, resolution = np.zeros((_PERIOD,) * 3, np.float32), max(self.resolution, 2 * self.voxel_size)
        generator = self._generator(1)
        return [fill(ice == 0, ice, self.voxel_size, resolution, generator) for _ in range(_BACKGROUNDS)]

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed_of(*self.seed, number))


def _visible(density: NDArray[np.float32]) -> NDArray[np.bool_]:
    there: NDArray[np.bool_] = density > _VISIBLE * density.max()
    return there


def _parity(order: tuple[int, ...]) -> int:
    return sum(a > b for i, a in enumerate(order) for b in order[i + 1 :]) % 2


# The 24 rotations that take a cube to itself: the order of the axes, and which of them are reversed.
_SIDES = [
    (order, reversed_)
    for order in permutations(range(3))
    for reversed_ in product((False, True), repeat=3)
    if _parity(order) == sum(reversed_) % 2
]


def _turned(volume: NDArray[_Kind], turn: int) -> NDArray[_Kind]:
    order, reversed_ = _SIDES[turn]
    return volume.transpose(order)[tuple(slice(None, None, -1 if each else 1) for each in reversed_)]
