import math
from functools import partial

import numpy as np
import pytest
import torch

from cryoden import SceneContents, SceneDataModule
from cryoden.evaluation import template_matching
from cryoden.evaluation.template_matching import (
    Detection,
    above,
    best_threshold,
    find_peaks,
    match_detections,
    match_scenes,
    match_template,
    orientation_grid,
)
from cryoden.particles import load_particle
from cryoden.simulation.degradation import MissingWedge
from cryoden.simulation.density import clean_volume, smallest_box
from cryoden.simulation.rotation import random_rotation
from cryoden.simulation.scene import Placement
from cryoden.wedge import wedge_mask
from tests.data.made import made


def angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Degrees between rotations."""
    return np.degrees(np.arccos(np.clip((np.einsum("...ij,...ij", a, b) - 1) / 2, -1, 1)))


def test_the_grid_leaves_no_orientation_far_away() -> None:
    grid = orientation_grid(550)
    np.testing.assert_allclose(grid @ grid.swapaxes(-1, -2), np.broadcast_to(np.eye(3), grid.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(grid), 1)
    generator = torch.Generator().manual_seed(0)
    nearest = [angle(grid, random_rotation(generator).numpy()).min() for _ in range(300)]
    assert max(nearest) < 30
    assert np.array_equal(grid, orientation_grid(550))


@pytest.fixture(scope="module")
def scene() -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """A particle in a known place and orientation, in noise."""
    rotations = orientation_grid(20)
    particle = load_particle("phantom:1")
    box = smallest_box(particle, 10.0, 20.0)
    volume = torch.randn(1, 1, 28, 30, 32, generator=torch.Generator().manual_seed(0)) * 0.02
    position = np.array([12, 17, 15])
    corner = position - box // 2
    part = tuple(slice(c, c + box) for c in corner)
    volume[0, 0][part] += torch.from_numpy(clean_volume(particle, rotations[7], box, 10.0, 20.0))
    return volume, position, rotations


def test_scores_equal_the_definition_and_find_the_particle(scene) -> None:
    volume, position, rotations = scene
    particle = load_particle("phantom:1")
    scores, index = match_template(volume, particle, rotations, voxel_size=10.0, resolution=20.0)
    assert scores.shape == index.shape == (1, 28, 30, 32)
    place = np.unravel_index(int(scores[0].argmax()), scores.shape[1:])
    assert tuple(position) == place
    assert index[0][place] == 7
    box = smallest_box(particle, 10.0, 20.0)
    offset = np.arange(box) - box // 2
    ball = np.sqrt(offset[:, None, None] ** 2 + offset[:, None] ** 2 + offset**2) <= box / 2 - 1
    for where in (position, position + np.array([1, -1, 0])):
        seen = volume[0, 0].double().numpy()[tuple(slice(w - box // 2, w - box // 2 + box) for w in where)]
        expected = max(
            np.corrcoef(seen[ball], clean_volume(particle, rotation, box, 10.0, 20.0)[ball])[0, 1]
            for rotation in rotations
        )
        assert scores[0][tuple(where)].item() == pytest.approx(expected, abs=1e-3)
    assert scores.max() <= 1 + 1e-5
    scaled, _ = match_template(50 * volume + 7, particle, rotations, voxel_size=10.0, resolution=20.0)
    torch.testing.assert_close(scaled, scores, atol=1e-3, rtol=0)


def test_each_volume_has_templates_of_its_own_wedge(scene) -> None:
    volume, _, rotations = scene
    particle = load_particle("phantom:1")
    wedges = [wedge_mask((28, 32), (-tilt, tilt))[None, :, None] for tilt in (40.0, 66.0)]
    degraded = torch.cat([torch.fft.irfftn(torch.fft.rfftn(volume[:, 0]) * w, s=(28, 30, 32))[:, None] for w in wedges])
    search = partial(match_template, particle=particle, rotations=rotations[6:8], voxel_size=10.0, resolution=20.0)
    together = search(degraded, measured=torch.cat(wedges))
    for i, wedge in enumerate(wedges):
        for ours, alone in zip(together, search(degraded[i : i + 1], measured=wedge), strict=True):
            torch.testing.assert_close(ours[i : i + 1], alone)


@pytest.mark.parametrize("tilts", [((-66.0, -40.0), (40.0, 66.0)), (-60.0, 60.0)], ids=["drawn", "one"])
def test_the_input_is_searched_with_the_wedge_of_each_scene(tilts, monkeypatch: pytest.MonkeyPatch) -> None:
    module = made(
        SceneDataModule,
        entries=["phantom:1"],
        contents=SceneContents(count=2),
        degradation=[MissingWedge(tilts)],
        scenes=4,
        val_fraction=0.5,
        voxel_size=20.0,
        resolution=40.0,
    )
    given = []

    def found(volumes: torch.Tensor, *_, measured: torch.Tensor | None, **__) -> tuple[torch.Tensor, torch.Tensor]:
        given.append(measured)
        return volumes[:, 0], torch.zeros(volumes[:, 0].shape, dtype=torch.int32)

    monkeypatch.setattr(template_matching, "match_template", found)
    match_scenes({"input": lambda v: v}, module, 2, torch.device("cpu"), lambda *_: None, orientations=1)
    items = [dataset[0, i] for dataset in (module.validation_volumes(), module.test_volumes()) for i in range(2)]
    wedges = torch.stack([item["measured"] for item in items])
    assert given[1] is None
    assert len(given[0]) == (1 if tilts == (-60.0, 60.0) else 4)
    assert torch.equal(given[0].expand_as(wedges), wedges)


def test_thresholds_are_those_of_validation_scenes_and_distances_shares_of_a_diameter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = made(
        SceneDataModule,
        entries=["phantom:1"],
        contents=SceneContents(count=2),
        scenes=4,
        val_fraction=0.5,
        voxel_size=20.0,
        resolution=40.0,
    )
    apart: list = []
    tuned: list = []

    def nothing(volumes: torch.Tensor, *_, **__) -> tuple[torch.Tensor, torch.Tensor]:
        return volumes[:, 0], torch.zeros(volumes[:, 0].shape, dtype=torch.int32)

    monkeypatch.setattr(template_matching, "match_template", nothing)
    monkeypatch.setattr(template_matching, "find_peaks", lambda _, __, radii, most: apart.append((radii, most)) or [])
    monkeypatch.setattr(template_matching, "best_threshold", lambda *given: tuned.append(given) or 0.0)
    match_scenes({"input": lambda v: v}, module, 2, torch.device("cpu"), lambda *_: None, orientations=1)
    across = load_particle("phantom:1").diameter / 20
    assert apart == [({"phantom:1": pytest.approx(0.4 * across)}, 4)] * 8
    for found, truth, tolerance, voxel_size in tuned:
        assert found == [[], []]
        validation = [module.validation_volumes()[0, i]["placements"] for i in range(2)]
        assert [[p.position.tolist() for p in scene] for scene in truth] == [
            [p.position.tolist() for p in scene] for scene in validation
        ]
        assert (tolerance, voxel_size) == ({"phantom:1": pytest.approx(across / 4)}, 20)


def test_peaks_are_apart_and_best_first() -> None:
    scores = torch.zeros(8, 8, 8)
    scores[2, 2, 2], scores[2, 2, 3], scores[6, 6, 6] = 0.5, 0.9, 0.7
    other = torch.zeros(8, 8, 8)
    other[6, 5, 6] = 0.8
    index = torch.zeros(8, 8, 8, dtype=torch.int32)
    rotations = np.eye(3)[None]
    found = find_peaks({"a": (scores, index), "b": (other, index)}, rotations, {"a": 3.0, "b": 3.0}, most=10)
    assert [(f.particle, tuple(f.position)) for f in found] == [("a", (2, 2, 3)), ("b", (6, 5, 6))]
    assert len(find_peaks({"a": (scores, index)}, rotations, {"a": 0.5}, most=2)) == 2


def find(particle: str, position: tuple[int, int, int], score: float) -> Detection:
    return Detection(particle, np.array(position), np.eye(3), score)


def test_finds_are_counted_as_they_should_be() -> None:
    truth = [[Placement("a", np.array(p), np.eye(3)) for p in ((5, 5, 5), (15, 15, 15), (25, 25, 25))]]
    found = [
        [find("a", (5, 5, 7), 0.9), find("a", (5, 5, 5), 0.8), find("b", (15, 15, 15), 0.7), find("a", (0, 0, 0), 0.2)]
    ]
    result = match_detections(found, truth, {"a": 3.0}, 10.0)
    assert (result.precision, result.recall) == (
        2 / 4,
        2 / 3,
    )  # the second find near the first particle counts as false
    assert result.f1 == pytest.approx(4 / 7)
    assert result.position_error == 10.0  # of 20 and 0
    assert result.right_particle == 0.5
    assert best_threshold(found, truth, {"a": 3.0}, 10.0) == pytest.approx((0.7 + 0.2) / 2)
    nothing = match_detections(above(found, 1.0), truth, {"a": 3.0}, 10.0)
    assert (nothing.precision, nothing.recall, nothing.f1) == (0, 0, 0)
    assert math.isnan(nothing.position_error)


def test_particles_are_found_in_clean_scenes_and_in_none_that_is_empty() -> None:
    module = SceneDataModule(
        entries=["phantom:1", "phantom:2"],
        contents=SceneContents(count=(3, 5)),
        scenes=4,
        val_fraction=0.5,
        box=32,
        num_workers=0,
    )
    module.setup()
    methods = {"input": lambda v: v, "zeros": torch.zeros_like}
    found = match_scenes(methods, module, 2, torch.device("cpu"), lambda done, total: None, orientations=60)
    assert list(found) == ["clean", "input", "zeros"]
    assert found["clean"].f1 > 0.85
    assert found["clean"].position_error <= 10
    assert found["clean"].f1 >= found["input"].f1 > 0.5
    assert found["zeros"].f1 == 0
