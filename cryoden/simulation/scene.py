"""A crowded piece of a specimen: particles, vesicles and gold in ice, where and as they happen to lie.

Densities are those of electron scattering (`scattering_density`), so a particle of twice another's density is twice as
bright. They are seen above vitreous ice, which is 0. What is no particle is set in units of what bulk protein is above
ice, from scattering factors (Peng et al. 1996) and mass densities: protein of 1.35 g/cm³ has 0.166 Å^-2, ice of 0.93
g/cm³ 0.095, gold of 19.3 g/cm³ 0.62, and vacuum 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erf

from cryoden.errors import CryodenError
from cryoden.particles import Particle
from cryoden.simulation.density import PROTEIN_DENSITY, check_fits, scattering_density, smallest_box
from cryoden.simulation.ranges import Range, WholeRange, bounds, check_range, check_whole_range, draw, draw_whole
from cryoden.simulation.rotation import random_rotation

BACKGROUND, VESICLE, FIDUCIAL = "background", "vesicle", "fiducial"

_COUNT = (4, 8)  # particles, where neither their number nor their occupancy is given
_VISIBLE = 0.05  # of an object's maximum: where its density is above this, no other may be
_TRIES = (256, 4096, 16384)  # positions that are tried, in turns, before an object is left out
_PROBES = (8, 64)  # voxels of an object by which most positions are ruled out, before all of them are looked at

# Above ice, in units of what bulk protein is above ice.
_VACUUM, _GOLD = -1.33, 7.4
_HEADS, _TAILS = 1.0, 0.3  # of a lipid bilayer; its tails stand out little
_BILAYER = 40.0  # Å from the middle of one layer of head groups to that of the other (phosphatidylcholine: 37 to 40)
_HEAD_WIDTH = 5.0  # Å, standard deviation
_ROUND = 0.7  # the shortest axis of a vesicle is at least this times the longest


class Placement(NamedTuple):
    """Where an object lies in a scene.

    Attributes:
        particle: the particle's name, or "vesicle" or "fiducial".
        position: (3,), z, y, x of its centre, in voxels.
        rotation: (3, 3), acts on xyz column vectors: x' = R x.
    """

    particle: str
    position: NDArray[np.int64]
    rotation: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SceneVolume:
    """A scene that has been made.

    Attributes:
        density: (D, H, W) float32, axes z, y, x; ice is 0, the maximum of particles and membranes 1, gold more, and the
            vacuum on both sides of the ice, if there is any, negative.
        labels: (D, H, W) int32; 0 in the background, i + 1 where the object of `placements[i]` is. The order means
            nothing.
        placements: the objects: particles, vesicles and fiducials.
        class_names: "background", each particle's name, "vesicle" and "fiducial".
        occupancy: the share of the ice's volume where a particle is.
    """

    density: NDArray[np.float32]
    labels: NDArray[np.int32]
    placements: list[Placement]
    class_names: tuple[str, ...]
    occupancy: float

    @property
    def classes(self) -> NDArray[np.int32]:
        """(D, H, W) int32: for each voxel an index into `class_names`."""
        numbers = [0, *(self.class_names.index(placement.particle) for placement in self.placements)]
        return np.array(numbers, np.int32)[self.labels]


def placements_within(placements: Sequence[Placement], part: Sequence[slice]) -> list[Placement]:
    """Those of a scene whose centres lie in a box that is cut from it, with their positions in the box.

    Args:
        placements: of the scene.
        part: the box's place along z, y, x.
    """
    corner = np.array([cut.start for cut in part])
    end = np.array([cut.stop for cut in part])
    return [
        placement._replace(position=placement.position - corner)
        for placement in placements
        if (placement.position >= corner).all() and (placement.position < end).all()
    ]


class _Object(NamedTuple):
    """Something to be placed: its density on a cube of its own, with its centre on voxel box // 2."""

    name: str
    rotation: NDArray[np.float64]
    density: NDArray[np.float32]


@dataclass(frozen=True)
class SceneContents:
    """What a crowded scene is made of.

    Args:
        count: how many particles, a number or a range to draw from; fewer where there is no room. By default 4 to 8,
            where no occupancy is given.
        occupancy: instead of a count, the share of the ice that particles fill, such as 0.2, or a range; less where
            there is no room. It counts visible density, about 1.3 times the volume of the molecules at 6 Å per voxel,
            1.7 times at 10 Å.
        abundance: how frequent each particle is relative to the others, by its name; 1 for those that are not named.
        vesicles: closed lipid bilayers, spheres and ellipsoids, with two layers of head groups 40 Å apart; a number or
            a range.
        vesicle_diameter: angstrom; the longest one, between the middles of the membrane; a number or a range.
        fiducials: beads of gold; a number or a range.
        fiducial_diameter: angstrom; a number or a range.
        ice: angstrom; the thickness of the ice, which lies in the middle of the scene, its surfaces perpendicular to z,
            between vacuum on both sides; null: all ice.
    """

    count: WholeRange | None = None
    occupancy: Range | None = None
    abundance: dict[str, float] | None = None
    vesicles: WholeRange = 0
    vesicle_diameter: Range = (400.0, 1000.0)
    fiducials: WholeRange = 0
    fiducial_diameter: Range = 100.0
    ice: float | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.occupancy is not None:
            raise CryodenError(
                f"count: got {self.count}, and occupancy: got {self.occupancy}; give one of them: how many particles, "
                "or how much of the ice they fill"
            )
        if self.count is not None:
            check_whole_range("count", self.count, 1)
        if self.occupancy is not None:
            check_range("occupancy", self.occupancy, lambda v: 0 < v < 1, "between 0 and 1")
        weights = (self.abundance or {}).values()
        if min(weights, default=0) < 0:
            raise CryodenError(f"abundance: got {self.abundance}; allowed are numbers from 0 up")
        for name, number, diameter in self.bodies:
            check_whole_range(f"{name}s", number, 0)
            check_range(f"{name}_diameter", diameter, lambda v: v > 0, "of angstrom above 0")
        if self.ice is not None and not self.ice > 0:
            raise CryodenError(f"ice: got {self.ice}; allowed is a number of angstrom above 0, or null for all ice")

    @property
    def bodies(self) -> tuple[tuple[str, WholeRange, Range], ...]:
        """What is no particle: its name, how many, and how wide in angstrom."""
        return (
            (VESICLE, self.vesicles, self.vesicle_diameter),
            (FIDUCIAL, self.fiducials, self.fiducial_diameter),
        )


@dataclass(frozen=True)
class Scene:
    """Particles at random positions and in random orientations that do not overlap, in one volume.

    Two objects overlap where both have visible density (5 % of the maximum), not where the spheres around them do, so
    that they may nestle. Each lies whole within the ice and within the volume; cut ones are found in boxes that are cut
    from a larger scene. The large are placed before the small, so that more find room. Particles may lie in vesicles.
    Gold is 7.4 times as dense as protein in ice, and vacuum as much below ice as ice is denser.

    Args:
        shape: (D, H, W) in voxels.
        voxel_size: Å.
        resolution: Å.
        particles: what to draw from.
        contents: how many of what.
    """

    shape: tuple[int, int, int]
    voxel_size: float
    resolution: float
    particles: Sequence[Particle]
    contents: SceneContents = SceneContents()

    def __post_init__(self) -> None:
        if not self.particles:
            raise CryodenError("particles: got none; a scene needs at least one to draw from")
        depth, *sides = self.shape
        if self.contents.ice is not None:
            if self.contents.ice > depth * self.voxel_size:
                raise CryodenError(
                    f"ice: got {self.contents.ice} Å; allowed is a thickness up to the volume's "
                    f"{depth * self.voxel_size:g} Å in z"
                )
            depth = self._ice[1] - self._ice[0]
        room = min(depth, *sides)
        for particle in self.particles:
            check_fits(particle, room, self.voxel_size, self.resolution)
        for name, number, diameter in self.contents.bodies:
            widest = bounds(diameter)[1]
            if bounds(number)[1] and self._box(name, widest) > room:
                raise CryodenError(
                    f"{name}_diameter: {widest:g} Å do not fit into {room} voxels of {self.voxel_size:g} Å; the "
                    f"largest that fits is about {max(0, (room - self._box(name, 0)) * self.voxel_size):g} Å"
                )
        self._weights  # noqa: B018 - checks them

    @property
    def class_names(self) -> tuple[str, ...]:
        """What class labels stand for: index → name."""
        return BACKGROUND, *dict.fromkeys(particle.name for particle in self.particles), VESICLE, FIDUCIAL

    def make(self, generator: torch.Generator) -> SceneVolume:
        """Make a scene, the same for the same state of the generator.

        Args:
            generator: on the CPU; where all randomness comes from.
        """
        density = np.zeros(self.shape, np.float32)
        labels = np.zeros(self.shape, np.int32)
        top, bottom = self._ice
        within = slice(top, bottom)
        search = _Search(labels[within].shape)
        placements: list[Placement] = []
        gold = np.zeros((0,), np.int64)
        filled = 0
        for thing in self._objects(generator):
            visible = thing.density > _VISIBLE * thing.density.max()
            corner = search.place(visible, generator)
            if corner is None:
                continue
            box = thing.density.shape[0]
            # The box reaches beyond the ice where nothing of it is visible; what is left out there is faint.
            into = tuple(slice(max(c, 0), c + box) for c in corner)
            part = tuple(
                slice(max(-c, 0), min(box, size - c)) for c, size in zip(corner.tolist(), search.shape, strict=True)
            )
            density[within][into] += thing.density[part]
            labels[within][into][visible[part]] = len(placements) + 1
            filled += 0 if thing.name in (VESICLE, FIDUCIAL) else int(np.count_nonzero(visible))
            if thing.name == FIDUCIAL:
                gold = np.append(gold, len(placements) + 1)
            placements.append(Placement(thing.name, corner + box // 2 + np.array([top, 0, 0]), thing.rotation))
        # Nobody should learn from a label that large objects were placed first.
        order = torch.randperm(len(placements), generator=generator).numpy()
        renamed = np.zeros(len(placements) + 1, np.int32)
        renamed[order + 1] = np.arange(1, len(placements) + 1)
        brightest = density[~np.isin(labels, gold)].max() if gold.size else density.max()
        density /= brightest if brightest > 0 else PROTEIN_DENSITY
        self._add_vacuum(density, PROTEIN_DENSITY / brightest if brightest > 0 else 1.0)
        return SceneVolume(
            density,
            renamed[labels],
            [placements[i] for i in order],
            self.class_names,
            filled / labels[within].size,
        )

    @cached_property
    def _ice(self) -> tuple[int, int]:
        """The first section that is wholly in the ice, and the first one after."""
        if self.contents.ice is None:
            return 0, self.shape[0]
        half = self.contents.ice / self.voxel_size / 2
        middle = self.shape[0] / 2
        return int(np.ceil(middle - half - 1e-6)), int(np.floor(middle + half + 1e-6))

    def _add_vacuum(self, density: NDArray[np.float32], protein: float) -> None:
        """Put vacuum on both sides of the ice; a section that a surface cuts has its share of both."""
        if self.contents.ice is None:
            return
        depth = self.shape[0]
        half = self.contents.ice / self.voxel_size / 2
        away = np.abs(np.arange(depth) + 0.5 - depth / 2)
        share = np.clip(away + 0.5 - half, 0, 1)
        density += (share * _VACUUM * protein).astype(np.float32)[:, None, None]

    @cached_property
    def _weights(self) -> torch.Tensor:
        """How frequent each particle is."""
        names = [particle.name for particle in self.particles]
        abundance = self.contents.abundance or {}
        unknown = [name for name in abundance if name not in names]
        if unknown:
            raise CryodenError(f"abundance: no particle {unknown[0]}; there are {', '.join(names)}")
        weights = [abundance.get(name, 1.0) for name in names]
        if not any(weights):
            raise CryodenError(f"abundance: got {abundance}; at least one particle must have a number above 0")
        return torch.tensor(weights, dtype=torch.float64)

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """The voxels that each particle fills."""
        volumes = [self._density(particle, np.eye(3)) for particle in self.particles]
        return np.array([np.count_nonzero(volume > _VISIBLE * volume.max()) for volume in volumes])

    def _density(self, particle: Particle, rotation: NDArray[np.float64]) -> NDArray[np.float32]:
        box = smallest_box(particle, self.voxel_size, self.resolution)
        return scattering_density(particle, rotation, box, self.voxel_size, self.resolution)

    def _draw(self, generator: torch.Generator) -> NDArray[np.int64]:
        """Which particles to place: an index for each."""
        if self.contents.occupancy is None:
            number = draw_whole(_COUNT if self.contents.count is None else self.contents.count, generator)
        else:
            top, bottom = self._ice
            wanted = draw(self.contents.occupancy, generator) * (bottom - top) * self.shape[1] * self.shape[2]
            mean = float(np.average(self._sizes, weights=self._weights.numpy()))
            # As many as fill it on average: stopping where it is full would favour what comes last, the large.
            number = max(1, round(wanted / mean))
        drawn: NDArray[np.int64] = torch.multinomial(self._weights, number, True, generator=generator).numpy()
        return drawn

    def _objects(self, generator: torch.Generator) -> Iterator[_Object]:
        """What is to be placed, the large first, each made when its turn comes."""
        for _ in range(draw_whole(self.contents.vesicles, generator)):
            rotation = random_rotation(generator).numpy()
            longest = draw(self.contents.vesicle_diameter, generator) / 2
            shares = torch.rand(3, generator=generator, dtype=torch.float64).numpy() * (1 - _ROUND) + _ROUND
            axes = longest * shares / shares.max()
            yield _Object(VESICLE, rotation, self._vesicle(axes, rotation))
        for _ in range(draw_whole(self.contents.fiducials, generator)):
            diameter = draw(self.contents.fiducial_diameter, generator)
            yield _Object(FIDUCIAL, np.eye(3), self._fiducial(diameter))
        drawn = self._draw(generator)
        for index in drawn[np.argsort(-self._sizes[drawn], kind="stable")]:
            particle = self.particles[index]
            rotation = random_rotation(generator).numpy()
            yield _Object(particle.name, rotation, self._density(particle, rotation))

    def _box(self, name: str, diameter: float) -> int:
        """The voxels along each side of a box for a vesicle or a fiducial."""
        around = _BILAYER + 6 * self._head_width if name == VESICLE else 2 * self.voxel_size
        return int(np.ceil((diameter + around) / self.voxel_size + 1))

    @property
    def _head_width(self) -> float:
        """Å, standard deviation of a layer of head groups at this resolution."""
        return float(np.hypot(_HEAD_WIDTH, 0.3 * max(self.resolution, 2 * self.voxel_size)))

    def _coordinates(self, box: int) -> NDArray[np.float32]:
        """(3, N, N, N), x, y, z in Å from the centre."""
        z, y, x = (np.indices((box,) * 3, np.float32) - box // 2) * np.float32(self.voxel_size)
        return np.stack([x, y, z])

    def _vesicle(self, axes: NDArray[np.float64], rotation: NDArray[np.float64]) -> NDArray[np.float32]:
        """An ellipsoidal bilayer with these half axes in Å."""
        turned = np.tensordot(rotation.T, self._coordinates(self._box(VESICLE, 2 * axes.max())), 1)
        scaled = turned / axes[:, None, None, None]
        radius = np.linalg.norm(scaled, axis=0)
        slope = np.maximum(np.linalg.norm(scaled / axes[:, None, None, None], axis=0), 1e-9)
        # To first order the distance from the surface, negative inside.
        distance = np.where(radius > 0, radius * (radius - 1) / slope, -axes.min())
        width, half = self._head_width, _BILAYER / 2
        heads = np.exp(-0.5 * ((np.abs(distance) - half) / width) ** 2) * _HEAD_WIDTH / width
        tails = (erf((half - distance) / width / 2**0.5) + erf((half + distance) / width / 2**0.5)) / 2
        profile: NDArray[np.float32] = (PROTEIN_DENSITY * (_HEADS * heads + _TAILS * tails)).astype(np.float32)
        return profile

    def _fiducial(self, diameter: float) -> NDArray[np.float32]:
        """A ball of gold; the voxels on its surface have their share."""
        distance = np.linalg.norm(self._coordinates(self._box(FIDUCIAL, diameter)), axis=0)
        share = np.clip((diameter / 2 - distance) / self.voxel_size + 0.5, 0, 1)
        ball: NDArray[np.float32] = (PROTEIN_DENSITY * _GOLD * share).astype(np.float32)
        return ball


class _Search:
    """Finds room in a volume that fills up.

    Args:
        shape: (D, H, W) in voxels.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._taken = np.zeros(shape, np.bool_)

    def place(self, visible: NDArray[np.bool_], generator: torch.Generator) -> NDArray[np.int64] | None:
        """Put something where it overlaps nothing.

        Args:
            visible: (N, N, N), where it is in its box.
            generator: where the randomness comes from.

        Returns:
            (3,), z, y, x of the box's first voxel, which may lie outside; None: no room was found.
        """
        voxels = np.argwhere(visible)
        first = voxels.min(axis=0)
        voxels -= first
        room = np.array(self.shape) - voxels.max(axis=0)
        if room.min() < 1:
            return None
        taken = self._taken.reshape(-1)
        strides = np.array([self.shape[1] * self.shape[2], self.shape[2], 1])
        offsets = voxels @ strides
        # A few voxels rule out most positions at little cost; of the rest the first that is free is taken.
        samples = [offsets[np.linspace(0, len(offsets) - 1, min(n, len(offsets))).astype(int)] for n in _PROBES]
        for tries in _TRIES:
            starts = (torch.rand((tries, 3), generator=generator, dtype=torch.float64).numpy() * room).astype(np.int64)
            flat = starts @ strides
            for sample in samples:
                free = ~taken[flat[:, None] + sample].any(axis=1)
                flat, starts = flat[free], starts[free]
            for position, start in zip(flat, starts, strict=True):
                if not taken[position + offsets].any():
                    taken[position + offsets] = True
                    corner: NDArray[np.int64] = start - first
                    return corner
        return None
