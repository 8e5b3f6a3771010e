"""A crowded piece of a specimen: particles, vesicles and gold in ice, where and as they happen to lie.

Densities are those of electron scattering above ice, see units.py: ice is 0, protein in bulk 1, whatever else there is.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cryoden.errors import CryodenError
from cryoden.particles import DensityMap, Particle
from cryoden.simulation import bodies, ice
from cryoden.simulation.background import Background
from cryoden.simulation.bodies import CENTRED, Offset, blur_of
from cryoden.simulation.density import check_fits, smallest_box
from cryoden.simulation.filaments import ACTIN, MICROTUBULE, Course, draw_course, outer_radius, render
from cryoden.simulation.membranes import distance_from, proteins_in, sheet
from cryoden.simulation.points import points_of
from cryoden.simulation.ranges import (
    Range,
    WholeRange,
    bounds,
    check_range,
    check_whole_range,
    draw,
    draw_seed,
    draw_whole,
)
from cryoden.simulation.rotation import random_rotation
from cryoden.simulation.sampling import sample_points, where_they_meet
from cryoden.simulation.thesis import thesis_density
from cryoden.simulation.units import VACUUM, Sampling

BACKGROUND, VESICLE, FIDUCIAL, LUMP, MEMBRANE = "background", "vesicle", "fiducial", "lump", "membrane"

_COUNT = (4, 8)  # particles, where neither their number nor their occupancy is given
_BESIDE = 10  # voxels on each side of an object to which what the cut at Nyquist leaves there is followed
_TRIES = (256, 4096, 16384)  # positions that are tried, in turns, before an object is left out
_PROBES = (8, 64)  # voxels of an object by which most positions are ruled out, before all of them are looked at

_COURSES = 100  # that are tried, before what crosses a scene is left out
_LARGE = (7.3, 9.2)  # logarithm of the radius of a large membrane in Å: 1500 to 10,000
_ALONG = 0.35  # the largest part along z of the direction of a filament in a slab of ice

_ROUND = 0.7  # the shortest axis of a vesicle is at least this times the longest


class Placement(NamedTuple):
    """Where an object lies in a scene.

    Attributes:
        particle: the particle's name, or "vesicle" or "fiducial".
        position: (3,), z, y, x of its centre, in voxels, and parts of them.
        rotation: (3, 3), acts on xyz column vectors: x' = R x.
    """

    particle: str
    position: NDArray[np.float64]
    rotation: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SceneVolume:
    """A scene that has been made.

    Attributes:
        density: (D, H, W) float32, axes z, y, x; ice is 0, protein in bulk 1, gold 7.4, vacuum on both sides of the
            ice, if there is any, -1.3. With the thesis's sampling the maximum is 1.
        background: (D, H, W) float32: what else is in the ice, in the same unit; it is imaged together with the
            density, but no part of the truth. None: nothing is.
        labels: (D, H, W) int32; 0 in the background, i + 1 where the object of `placements[i]` is. The order means
            nothing.
        placements: the objects: particles, vesicles and fiducials.
        class_names: "background", each particle's name, "vesicle" and "fiducial".
        occupancy: the share of the ice's volume where a particle is.
    """

    density: NDArray[np.float32]
    background: NDArray[np.float32] | None
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


class _Room(NamedTuple):
    """What an object keeps for itself.

    Attributes:
        visible: of its height, its maximum or that of a membrane; where its density is above this, no other may be.
            Beside a particle the cut at Nyquist leaves less.
        rim: voxels between this and the border, in which there is still faint density.
    """

    visible: float
    rim: int


_ROOM: dict[Sampling, _Room] = {"band-limited": _Room(0.2, 1), "thesis": _Room(0.05, 0)}


class _Object(NamedTuple):
    """Something to be placed: its density on a cube of its own, with its centre on voxel box // 2 and a part of one.

    It is part of the background where it has no name. Its height is what `_Room.visible` is a part of.
    """

    name: str | None
    offset: Offset
    rotation: NDArray[np.float64]
    density: NDArray[np.float32]
    height: float


class _Crossing(NamedTuple):
    """Something that crosses a scene: its density there, of what height, and what the table tells of it."""

    density: NDArray[np.float32]
    height: float
    position: NDArray[np.float64]
    rotation: NDArray[np.float64]


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
        membranes: pieces of large ones, nearly flat, which cross the scene and end at its borders and at surfaces of
            the ice; a number or a range.
        membrane_density: of lipids, as a multiple of phosphatidylcholine's; a number or a range.
        membrane_proteins: in 1000 nm² of a membrane, phantoms of 40 to 130 kDa that stand in it; a number or a range.
        fiducials: beads of gold; a number or a range.
        fiducial_diameter: angstrom; a number or a range.
        microtubules: of 13 protofilaments; they cross the scene in any direction, or along a slab of ice; a number or
            a range.
        actin: filaments of it, likewise; a number or a range.
        ice: angstrom; the thickness of the ice, which lies in the middle of the scene, across z, between vacuum on both
            sides; a number or a range; null: all ice.
        ice_slope: degrees between its surfaces, along a random direction; a number or a range.
        ice_waves: angstrom; the standard deviation of the height of each surface, in waves of 1000 to 4000; a number or
            a range.
        background: what else is in the ice, imaged but no part of the truth; null: nothing.
    """

    count: WholeRange | None = None
    occupancy: Range | None = None
    abundance: dict[str, float] | None = None
    vesicles: WholeRange = 0
    vesicle_diameter: Range = (400.0, 1000.0)
    membranes: WholeRange = 0
    membrane_density: Range = (0.8, 1.5)
    membrane_proteins: Range = 0.0
    fiducials: WholeRange = 0
    fiducial_diameter: Range = 100.0
    microtubules: WholeRange = 0
    actin: WholeRange = 0
    ice: Range | None = None
    ice_slope: Range = 0.0
    ice_waves: Range = 0.0
    background: Background | None = None

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
        if not all(0 <= weight < math.inf for weight in weights):
            raise CryodenError(f"abundance: got {self.abundance}; allowed are numbers from 0 up")
        for name, number, diameter in self.bodies:
            check_whole_range(f"{name}s", number, 0)
            check_range(f"{name}_diameter", diameter, lambda v: v > 0, "of angstrom above 0")
        check_range("membrane_density", self.membrane_density, lambda v: v > 0, "above 0")
        check_range("membrane_proteins", self.membrane_proteins, lambda v: v >= 0, "from 0 up")
        check_whole_range("membranes", self.membranes, 0)
        check_whole_range("microtubules", self.microtubules, 0)
        check_whole_range("actin", self.actin, 0)
        if self.ice is not None:
            check_range("ice", self.ice, lambda v: v > 0, "of angstrom above 0, null for all ice")
        check_range("ice_slope", self.ice_slope, lambda v: 0 <= v <= 30, "of degrees from 0 to 30")
        check_range("ice_waves", self.ice_waves, lambda v: v >= 0, "of angstrom from 0 up")

    @property
    def crossing(self) -> tuple[tuple[str, WholeRange], ...]:
        """What crosses the scene: its name, and how many."""
        return (MEMBRANE, self.membranes), (MICROTUBULE, self.microtubules), (ACTIN, self.actin)

    @property
    def bodies(self) -> tuple[tuple[str, WholeRange, Range], ...]:
        """What is no particle: its name, how many, and how wide in angstrom."""
        lumps = [] if self.background is None else [(LUMP, self.background.lumps, self.background.lump_diameter)]
        return (
            (VESICLE, self.vesicles, self.vesicle_diameter),
            (FIDUCIAL, self.fiducials, self.fiducial_diameter),
            *lumps,
        )


@dataclass(frozen=True)
class Scene:
    """Particles at random positions and in random orientations that do not overlap, in one volume.

    Two objects overlap where both have visible density (20 % of the maximum), not where the spheres around them do, so
    that they may nestle. Each lies whole within the ice and within the volume; cut ones are found in boxes that are cut
    from a larger scene. The large are placed before the small, so that more find room. Particles may lie in vesicles.
    Density is as in `scattering_density`, and likewise holds nothing that voxels cannot, gold and the ice's surfaces
    included.

    Args:
        shape: (D, H, W) in voxels.
        voxel_size: Å.
        resolution: Å.
        particles: what to draw from.
        contents: how many of what.
        sampling: how density becomes voxels, see `clean_volume`; "thesis" knows structures in endless ice alone.
    """

    shape: tuple[int, int, int]
    voxel_size: float
    resolution: float
    particles: Sequence[Particle]
    contents: SceneContents = SceneContents()
    sampling: Sampling = "band-limited"

    def __post_init__(self) -> None:
        if not self.particles:
            raise CryodenError("particles: got none; a scene needs at least one to draw from")
        if self.sampling == "thesis" and (
            any(bounds(number)[1] for _, number, _ in self.contents.bodies)
            or any(bounds(number)[1] for _, number in self.contents.crossing)
            or self.contents.ice is not None
            or self.contents.background is not None
            or any(isinstance(particle, DensityMap) for particle in self.particles)
        ):
            raise CryodenError(
                "sampling: got 'thesis' for a scene with vesicles, fiducials, filaments, surfaces of the ice, a "
                "background or density maps; the thesis had none: use 'band-limited'"
            )
        depth, *sides = self.shape
        if self.contents.ice is not None:
            thinnest, thickest = bounds(self.contents.ice)
            if thickest > depth * self.voxel_size:
                raise CryodenError(
                    f"ice: got {self.contents.ice} Å; allowed is a thickness up to the volume's "
                    f"{depth * self.voxel_size:g} Å in z"
                )
            half = np.array(thinnest / 2)
            depth = int(ice.within(-half, half, depth, self.voxel_size).sum())
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
        names = dict.fromkeys(particle.name for particle in self.particles)
        return BACKGROUND, *names, VESICLE, FIDUCIAL, MEMBRANE, MICROTUBULE, ACTIN

    def make(self, generator: torch.Generator) -> SceneVolume:
        """Make a scene, the same for the same state of the generator.

        Args:
            generator: on the CPU; where all randomness comes from.
        """
        density = np.zeros(self.shape, np.float32)
        background = np.zeros(self.shape, np.float32)
        labels = np.zeros(self.shape, np.int32)
        surfaces = self._surfaces(generator)
        inside = np.ones(self.shape, np.bool_)
        if surfaces is not None:
            inside &= ice.within(*surfaces, self.shape[0], self.voxel_size)
            vacuum = ice.vacuum(*surfaces, self.shape[0], self.voxel_size, self._resolution)
        room = int(inside.sum())
        sections = np.flatnonzero(inside.any(axis=(1, 2)) | (room == 0))  # where waves leave no ice there is all vacuum
        top, bottom = int(sections[0]), int(sections[-1]) + 1
        search = _Search(~inside[top:bottom], _ROOM[self.sampling].rim)
        placements: list[Placement] = []
        filled = 0
        for name, number in self.contents.crossing:
            for _ in range(draw_whole(number, generator) if bounds(number)[1] else 0):
                made = (
                    self._membrane(labels, generator)
                    if name == MEMBRANE
                    else self._filament(name, search, top, generator)
                )
                if made is None:
                    continue
                volume, height, position, rotation = made
                if surfaces is not None:
                    volume *= 1 - vacuum / np.float32(VACUUM)
                visible = self._visible(volume, height) & inside & (labels == 0)
                density += volume
                search.taken |= visible[top:bottom]
                labels[visible] = len(placements) + 1
                placements.append(Placement(name, position, rotation))
        for thing in self._objects(room, generator):
            visible = self._visible(thing.density, thing.height)
            corner = search.place(visible, generator)
            if corner is None:
                continue
            corner[0] += top
            box = thing.density.shape[0]
            # The box reaches beyond the volume where nothing of it is visible; what is left out there is faint.
            into, part = where_they_meet(corner, box, self.shape)
            if thing.name is None:
                background[into] += thing.density[part]
                continue
            density[into] += thing.density[part]
            labels[into][visible[part]] = len(placements) + 1
            filled += 0 if thing.name in (VESICLE, FIDUCIAL) else int(np.count_nonzero(visible))
            placements.append(Placement(thing.name, corner + box // 2 + np.array(thing.offset), thing.rotation))
        # Nobody should learn from a label that large objects were placed first.
        order = torch.randperm(len(placements), generator=generator).numpy()
        renamed = np.zeros(len(placements) + 1, np.int32)
        renamed[order + 1] = np.arange(1, len(placements) + 1)
        if self.sampling == "thesis":
            density /= density.max() or 1
        if surfaces is not None:
            density += vacuum
        if self.contents.background is not None:
            free = np.zeros(self.shape, np.bool_)
            free[top:bottom] = ~search.taken
            there = density + background
            background += self.contents.background.fill(free, there, self.voxel_size, self._resolution, generator)
        return SceneVolume(
            density,
            None if self.contents.background is None else background,
            renamed[labels],
            [placements[i] for i in order],
            self.class_names,
            filled / max(room, 1),
        )

    def _membrane(self, labels: NDArray[np.int32], generator: torch.Generator) -> _Crossing | None:
        """A piece of a large membrane that crosses no other; None: no room was found."""
        few = (slice(None, None, 3),) * 3
        taken = labels[few] > 0
        side = np.array(self.shape[::-1]) * self.voxel_size
        for _ in range(_COURSES):
            rotation = random_rotation(generator).numpy()
            middle = side * torch.rand(3, generator=generator, dtype=torch.float64).numpy()
            radius = float(np.exp(draw(_LARGE, generator)))
            centre = middle - radius * rotation[:, 2]
            if taken.any():
                distance, _ = distance_from(centre, radius, taken.shape, 3 * self.voxel_size)
                if taken[np.abs(distance) < bodies.vesicle_rim(self._resolution)].any():
                    continue
            lipids, number = (
                draw(r, generator) for r in (self.contents.membrane_density, self.contents.membrane_proteins)
            )
            rng = np.random.default_rng(draw_seed(generator))
            volume = sheet(
                centre, radius, self.shape, self.voxel_size, self._resolution, density=lipids, number=number, rng=rng
            )
            return _Crossing(volume, lipids * bodies.HEADS, middle[::-1] / self.voxel_size, rotation)
        return None

    def _filament(self, name: str, search: "_Search", top: int, generator: torch.Generator) -> _Crossing | None:
        """A microtubule or actin; None: no room was found."""
        course = self._course(name, search, top, generator)
        if course is None:
            return None
        volume = render(name, course, self.shape, self.voxel_size, self._resolution)
        return _Crossing(volume, float(volume.max()), course.middle[::-1] / self.voxel_size, course.rotation)

    def _course(self, name: str, search: "_Search", top: int, generator: torch.Generator) -> Course | None:
        """Where a filament may cross the scene, in Å from its first voxel; None: no room was found."""
        depth = len(search.taken)
        side = np.array([*self.shape[:0:-1], depth]) * self.voxel_size
        reach = outer_radius(name) + blur_of(self._resolution)
        for _ in range(_COURSES):
            course = draw_course(side, 1.0 if self.contents.ice is None else _ALONG, generator)
            z, y, x = np.floor(course.around(reach, 2 * self.voxel_size).T[::-1] / self.voxel_size).astype(int)
            beside = (y >= 0) & (y < self.shape[1]) & (x >= 0) & (x < self.shape[2])
            out = (z < 0) | (z >= depth)
            if self.contents.ice is not None and out[beside].any():
                continue
            there = beside & ~out
            if not search.taken[z[there], y[there], x[there]].any():
                return replace(course, middle=course.middle + np.array([0, 0, top * self.voxel_size]))
        return None

    def _surfaces(self, generator: torch.Generator) -> ice.Surfaces | None:
        """Of the ice, (H, W), or (1, 1) where they are flat."""
        if self.contents.ice is None:
            return None
        thickness = draw(self.contents.ice, generator)
        slope, waves = draw(self.contents.ice_slope, generator), draw(self.contents.ice_waves, generator)
        rng = np.random.default_rng(draw_seed(generator))
        shape = self.shape if slope or waves else (self.shape[0], 1, 1)
        return ice.surfaces(thickness, slope, waves, shape, self.voxel_size, rng)

    @property
    def _resolution(self) -> float:
        return max(self.resolution, 2 * self.voxel_size)

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
        return np.array([np.count_nonzero(self._visible(volume, float(volume.max()))) for volume in volumes])

    def _visible(self, density: NDArray[np.float32], height: float) -> NDArray[np.bool_]:
        """Where in its box an object is."""
        there: NDArray[np.bool_] = density > np.float32(_ROOM[self.sampling].visible) * np.float32(height)
        return there

    def _density(
        self, particle: Particle, rotation: NDArray[np.float64], offset: Offset = CENTRED
    ) -> NDArray[np.float32]:
        """A particle in a box of its own."""
        box = smallest_box(particle, self.voxel_size, self.resolution)
        if self.sampling == "thesis":
            return thesis_density(particle, rotation, box, self.voxel_size, self.resolution)
        points = points_of(particle, self.voxel_size, self._resolution)
        return sample_points(points, rotation, box + 2 * _BESIDE, self.voxel_size, offset=offset, endless=True)

    def _draw(self, room: int, generator: torch.Generator) -> NDArray[np.int64]:
        """Which particles to place: an index for each."""
        if self.contents.occupancy is None:
            number = draw_whole(_COUNT if self.contents.count is None else self.contents.count, generator)
        else:
            wanted = draw(self.contents.occupancy, generator) * room
            mean = float(np.average(self._sizes, weights=self._weights.numpy()))
            # As many as fill it on average: stopping where it is full would favour what comes last, the large.
            number = max(1, round(wanted / mean))
        drawn: NDArray[np.int64] = torch.multinomial(self._weights, number, True, generator=generator).numpy()
        return drawn

    def _objects(self, room: int, generator: torch.Generator) -> Iterator[_Object]:
        """What is to be placed in so many voxels, the large first, each made when its turn comes."""
        if self.contents.background is not None:
            for _ in range(draw_whole(self.contents.background.lumps, generator)):
                diameter = draw(self.contents.background.lump_diameter, generator)
                height = draw(self.contents.background.lump_density, generator)
                rotation = random_rotation(generator).numpy()
                box = self._box(LUMP, diameter) + 2 * _BESIDE
                offset = self._offset(generator)
                crystal = bodies.crystal(diameter, rotation, box, self.voxel_size, self._resolution, offset)
                yield _Object(None, offset, rotation, height * crystal, height)
        for _ in range(draw_whole(self.contents.vesicles, generator)):
            rotation = random_rotation(generator).numpy()
            longest = draw(self.contents.vesicle_diameter, generator) / 2
            shares = torch.rand(3, generator=generator, dtype=torch.float64).numpy() * (1 - _ROUND) + _ROUND
            axes = longest * shares / shares.max()
            box = self._box(VESICLE, 2 * longest) + 2 * _BESIDE
            offset = self._offset(generator)
            number = draw(self.contents.membrane_proteins, generator)
            rng = np.random.default_rng(draw_seed(generator))
            lipids = draw(self.contents.membrane_density, generator)
            density = bodies.vesicle(
                axes,
                rotation,
                box,
                self.voxel_size,
                self._resolution,
                offset,
                density=lipids,
                proteins=proteins_in(axes, number, self.voxel_size, self._resolution, rng) if number else (),
            )
            yield _Object(VESICLE, offset, rotation, density, lipids * bodies.HEADS)
        for _ in range(draw_whole(self.contents.fiducials, generator)):
            diameter = draw(self.contents.fiducial_diameter, generator)
            box = self._box(FIDUCIAL, diameter) + 2 * _BESIDE
            offset = self._offset(generator)
            density = bodies.fiducial(diameter, box, self.voxel_size, self._resolution, offset)
            yield _Object(FIDUCIAL, offset, np.eye(3), density, float(density.max()))
        drawn = self._draw(room, generator)
        for index in drawn[np.argsort(-self._sizes[drawn], kind="stable")]:
            particle = self.particles[index]
            rotation = random_rotation(generator).numpy()
            offset = self._offset(generator)
            density = self._density(particle, rotation, offset)
            yield _Object(particle.name, offset, rotation, density, float(density.max()))

    def _offset(self, generator: torch.Generator) -> Offset:
        """Of an object from the centre of a voxel: nothing in a specimen knows where voxels are."""
        if self.sampling == "thesis":
            return CENTRED
        z, y, x = (torch.rand(3, generator=generator, dtype=torch.float64) - 0.5).tolist()
        return z, y, x

    def _box(self, name: str, diameter: float) -> int:
        """The voxels along each side of the smallest box for what is no particle."""
        rim = bodies.vesicle_rim(self._resolution) if name == VESICLE else bodies.surface_rim(self._resolution)
        return int(np.ceil((diameter + 2 * rim) / self.voxel_size + 1))


class _Search:
    """Finds room in a volume that fills up.

    Args:
        taken: (D, H, W), where something is; it grows.
        rim: voxels at the border that stay empty.
    """

    def __init__(self, taken: NDArray[np.bool_], rim: int) -> None:
        self.shape = taken.shape
        self.rim = rim
        self.taken = np.ascontiguousarray(taken)

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
        room = np.array(self.shape) - voxels.max(axis=0) - 2 * self.rim
        if room.min() < 1:
            return None
        taken = self.taken.reshape(-1)
        strides = np.array([self.shape[1] * self.shape[2], self.shape[2], 1])
        offsets = voxels @ strides
        # A few voxels rule out most positions at little cost; of the rest the first that is free is taken.
        samples = [offsets[np.linspace(0, len(offsets) - 1, min(n, len(offsets))).astype(int)] for n in _PROBES]
        for tries in _TRIES:
            drawn = torch.rand((tries, 3), generator=generator, dtype=torch.float64).numpy()
            starts = (drawn * room).astype(np.int64) + self.rim
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
