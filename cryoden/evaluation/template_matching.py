"""Finding particles by what they look like: what a denoised tomogram is for, and so a test of it."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryoden.data import SceneDataModule
from cryoden.data.base import TEST
from cryoden.data.dataset import collate
from cryoden.evaluation.evaluate import Method, spaced
from cryoden.particles import Particle
from cryoden.simulation.density import clean_volume, smallest_box
from cryoden.simulation.scene import Placement

_AXES = (-3, -2, -1)
_APART = 0.4  # of a particle's diameter: no two finds are nearer to each other
_TOLERANCE = 0.25  # of a particle's diameter: a find this near its centre is right
_FLOOR = 0.1  # of the volume's standard deviation: an emptier neighbourhood does not score higher for being empty


@dataclass(frozen=True)
class Detection:
    """A particle that was found.

    Attributes:
        particle: its name.
        position: (3,), z, y, x of its centre, in voxels.
        rotation: (3, 3), the orientation of the template that fits best; acts on xyz.
        score: normalised cross-correlation, at most 1.
    """

    particle: str
    position: NDArray[np.float64]
    rotation: NDArray[np.float64]
    score: float


def orientation_grid(n: int) -> NDArray[np.float64]:
    """Rotations spread evenly over all orientations, the same for the same number.

    Alexa 2022, "Super-Fibonacci spirals: fast, low-discrepancy sampling of SO(3)". Neighbours are about
    (8 π² / n)^(1/3) radians apart: 30° for 550, 20° for 1860.

    Args:
        n: how many.

    Returns:
        (n, 3, 3), acting on xyz column vectors.
    """
    s = np.arange(n) + 0.5
    phi, psi = np.sqrt(2.0), 1.533751168755204288118041
    r, big = np.sqrt(s / n), np.sqrt(1 - s / n)
    alpha, beta = 2 * np.pi * s / phi, 2 * np.pi * s / psi
    quaternions = np.stack([r * np.sin(alpha), r * np.cos(alpha), big * np.sin(beta), big * np.cos(beta)], axis=-1)
    rotations: NDArray[np.float64] = Rotation.from_quat(quaternions).as_matrix()
    return rotations


def match_template(
    volumes: Tensor,
    particle: Particle,
    rotations: NDArray[np.float64],
    *,
    voxel_size: float,
    resolution: float,
    measured: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Normalised cross-correlation of a particle in many orientations with every place of volumes.

    Roseman 2003, "Particle finding in electron micrographs using a fast local correlation algorithm": in Fourier space,
    with a ball around the particle as the mask.

    Args:
        volumes: (B, 1, D, H, W), particles bright.
        particle: what to look for.
        rotations: (R, 3, 3), acting on xyz.
        voxel_size: Å.
        resolution: Å.
        measured: bool, broadcastable to (B, D, H, W // 2 + 1), in the layout of `torch.fft.rfftn`: what a tilt series
            left of each volume, and so takes from its template too; by default all.

    Returns:
        The highest score over rotations at each voxel (B, D, H, W), and the index of its rotation.
    """
    data = volumes[:, 0] - volumes[:, 0].mean(_AXES, keepdim=True)
    shape = tuple(data.shape[1:])
    box = min(smallest_box(particle, voxel_size, resolution), *shape)
    offset = torch.arange(box, device=data.device) - box // 2
    distance = (offset[:, None, None] ** 2 + offset[:, None] ** 2 + offset**2).sqrt()
    ball = (distance <= box / 2 - 1).to(data.dtype)
    count = ball.sum()

    def spectrum(template: Tensor) -> Tensor:
        """Of templates (..., box, box, box), each in a volume of zeros, its centre on voxel 0."""
        placed = data.new_zeros(*template.shape[:-3], *shape)
        placed[..., :box, :box, :box] = template
        transformed: Tensor = torch.fft.rfftn(placed.roll((-(box // 2),) * 3, dims=_AXES), dim=_AXES)
        return transformed

    def correlate(a: Tensor, b: Tensor) -> Tensor:
        correlation: Tensor = torch.fft.irfftn(a * b.conj(), s=shape, dim=_AXES)
        return correlation

    seen, ball_spectrum = torch.fft.rfftn(data, dim=_AXES), spectrum(ball)
    mean = correlate(seen, ball_spectrum) / count
    square = correlate(torch.fft.rfftn(data.square(), dim=_AXES), ball_spectrum) / count
    floor = _FLOOR * data.std(_AXES, keepdim=True)
    local = torch.maximum((square - mean.square()).clamp(min=0).sqrt(), floor)
    best = torch.full_like(data, -1)
    index = torch.zeros_like(data, dtype=torch.int32)
    for i, rotation in enumerate(rotations):
        density = clean_volume(
            particle, rotation, smallest_box(particle, voxel_size, resolution), voxel_size, resolution
        )
        cut = (density.shape[0] // 2) - box // 2
        template = torch.from_numpy(density)[cut : cut + box, cut : cut + box, cut : cut + box].to(data)
        if measured is not None:
            whole = torch.fft.irfftn(spectrum(template) * measured, s=shape, dim=_AXES)
            template = whole.roll((box // 2,) * 3, dims=_AXES)[..., :box, :box, :box]
        template = (template - (template * ball).sum(_AXES, keepdim=True) / count) * ball
        template = template / template.square().sum(_AXES, keepdim=True).sqrt()
        score = correlate(seen, spectrum(template)) / (local * count.sqrt())
        better = score > best
        best = torch.where(better, score, best)
        index = index.masked_fill(better, i)
    return best, index


def find_peaks(
    scores: Mapping[str, tuple[Tensor, Tensor]],
    rotations: NDArray[np.float64],
    radii: Mapping[str, float],
    most: int,
) -> list[Detection]:
    """The highest scores of one volume, whichever the particle, and none within another's radius.

    Args:
        scores: particle → (D, H, W) scores and indices of rotations.
        rotations: (R, 3, 3).
        radii: particle → voxels around a find in which no other is made.
        most: how many at most.

    Returns:
        The finds, best first.
    """
    names = list(scores)
    left = torch.stack([scores[name][0] for name in names]).cpu().numpy().copy()
    grid = np.indices(left.shape[1:])
    found = []
    for _ in range(most):
        which, *place = np.unravel_index(int(left.argmax()), left.shape)
        score = float(left[(which, *place)])
        if score <= 0:
            break
        position = np.array(place, np.float64)
        rotation = rotations[int(scores[names[which]][1][tuple(place)])]
        found.append(Detection(names[which], position, rotation, score))
        near = np.square(grid - position[:, None, None, None]).sum(0) < radii[names[which]] ** 2
        left[:, near] = -1
    return found


@dataclass(frozen=True)
class Matches:
    """Finds against the truth, of one or more scenes.

    Attributes:
        precision: share of the finds that are particles.
        recall: share of the particles that were found.
        f1: harmonic mean of the two.
        position_error: Å, median over what was found; nan where nothing was.
        right_particle: share of what was found that was also named rightly; nan where nothing was.
    """

    precision: float
    recall: float
    f1: float
    position_error: float
    right_particle: float


def match_detections(
    found: Sequence[Sequence[Detection]],
    truth: Sequence[Sequence[Placement]],
    tolerance: Mapping[str, float],
    voxel_size: float,
) -> Matches:
    """Compare finds with where particles are, scene by scene: each particle is found once, by the best find near it.

    Args:
        found: the finds of each scene.
        truth: the particles of each scene.
        tolerance: particle → voxels that a find may lie off its centre.
        voxel_size: Å.
    """
    errors, named = [], []
    for finds, placements in zip(found, truth, strict=True):
        free = list(placements)
        for find in sorted(finds, key=lambda find: -find.score):
            distances = [float(np.linalg.norm(find.position - p.position)) for p in free]
            near = [i for i, p in enumerate(free) if distances[i] <= tolerance[p.particle]]
            if near:
                nearest = min(near, key=distances.__getitem__)
                errors.append(distances[nearest] * voxel_size)
                named.append(free.pop(nearest).particle == find.particle)
    finds_in_all = sum(map(len, found))
    precision = len(errors) / finds_in_all if finds_in_all else 0.0
    recall = len(errors) / max(1, sum(map(len, truth)))
    f1 = 2 * precision * recall / (precision + recall) if errors else 0.0
    nothing = float("nan")
    return Matches(
        precision,
        recall,
        f1,
        float(np.median(errors)) if errors else nothing,
        float(np.mean(named)) if named else nothing,
    )


def best_threshold(
    found: Sequence[Sequence[Detection]],
    truth: Sequence[Sequence[Placement]],
    tolerance: Mapping[str, float],
    voxel_size: float,
) -> float:
    """The score above which finds have the highest F1: halfway down to the next lower find, so that it generalises."""
    scores = sorted({find.score for finds in found for find in finds})
    if not scores:
        return 0.0
    f1 = [match_detections(above(found, least), truth, tolerance, voxel_size).f1 for least in scores]
    best = int(np.argmax(f1))
    return (scores[best] + (scores[best - 1] if best > 0 else 0.0)) / 2


def above(found: Sequence[Sequence[Detection]], least: float) -> list[list[Detection]]:
    """Those finds that score at least so much."""
    return [[find for find in finds if find.score >= least] for finds in found]


def match_scenes(
    methods: Mapping[str, Method],
    module: SceneDataModule,
    scenes: int,
    device: torch.device,
    progress: Callable[[int, int], None],
    orientations: int = 550,
) -> dict[str, Matches]:
    """Find the particles in test scenes as denoised by several methods, and in the clean scenes.

    Each method's threshold is the one with the best F1 on validation scenes. Templates for the input lack what its tilt
    series lacks, scene by scene; those for denoised volumes are whole.

    Args:
        methods: name → method; "input" is the degraded scene.
        module: where scenes come from.
        scenes: how many test scenes, and as many validation scenes.
        device: where it runs.
        progress: called with the number of searches done and their total.
        orientations: of the grid; 550 are 30° apart.
    """
    rotations = orientation_grid(orientations)
    particles = module.particles(TEST)
    validation, test = module.validation_volumes(), module.test_volumes()
    items = [dataset[0, i] for dataset in (validation, test) for i in spaced(len(dataset), scenes)]
    wanted = {particle.name for particle in particles}  # not vesicles, nor gold
    truth = [[placement for placement in item["placements"] if placement.particle in wanted] for item in items]
    tuning = len(spaced(len(validation), scenes))
    batch = collate(items)
    degraded, clean, measured = batch["degraded"].to(device), batch["clean"].to(device), batch["measured"].to(device)
    volumes = {"clean": clean}
    for name, method in methods.items():
        with torch.inference_mode():
            volumes[name] = torch.cat([method(part) for part in torch.split(degraded, module.batch_size)])
    wedge = measured[:1] if bool((measured == measured[:1]).all()) else measured  # one template for all scenes, or each
    # What a template lacks, and which volumes it is for.
    searches = [(wedge, ["input"]), (None, [name for name in volumes if name != "input"])]
    scores: dict[str, dict[str, tuple[Tensor, Tensor]]] = {name: {} for name in volumes}
    for done, (particle, (left, names)) in enumerate(itertools.product(particles, searches)):
        data = torch.cat([volumes[name] for name in names])
        best, index = match_template(
            data, particle, rotations, voxel_size=module.voxel_size, resolution=module.resolution, measured=left
        )
        parts = zip(names, torch.split(best, len(items)), torch.split(index, len(items)), strict=True)
        for name, one, other in parts:
            scores[name][particle.name] = one.cpu(), other.cpu()
        progress(done + 1, len(particles) * len(searches))
    across = {particle.name: particle.diameter / module.voxel_size for particle in particles}
    radii = {name: _APART * voxels for name, voxels in across.items()}
    tolerance = {name: _TOLERANCE * voxels for name, voxels in across.items()}
    most = 2 * max(map(len, truth))
    results = {}
    for name, found_in in scores.items():
        finds = [
            find_peaks({p: (best[i], index[i]) for p, (best, index) in found_in.items()}, rotations, radii, most)
            for i in range(len(items))
        ]
        least = best_threshold(finds[:tuning], truth[:tuning], tolerance, module.voxel_size)
        results[name] = match_detections(above(finds[tuning:], least), truth[tuning:], tolerance, module.voxel_size)
    return results
