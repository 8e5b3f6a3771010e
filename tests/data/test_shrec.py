from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoden import CryodenError, ShrecDataModule, Volume, write_volume
from cryoden.data.pairs import Pair
from cryoden.data.shrec import ShrecDataset, find_models
from cryoden.particles import load_particle
from cryoden.simulation.degradation import MissingWedge
from cryoden.simulation.scene import Placement, Scene, SceneContents, SceneVolume
from cryoden.simulation.tables import write_shrec_table

DEPTH, WHOLE = 24, 64


@pytest.fixture(scope="module")
def scenes() -> list[SceneVolume]:
    particles = [load_particle("phantom:1"), load_particle("phantom:2")]
    contents = SceneContents(count=14, fiducials=1, fiducial_diameter=50.0)
    scene = Scene((DEPTH, 48, 48), 10.0, 20.0, particles, contents)
    return [scene.make(torch.Generator().manual_seed(seed)) for seed in range(2)]


def put(path: Path, data: np.ndarray) -> None:
    write_volume(path, Volume(data.astype(np.float32), 10.0))


def build(folder: Path, scenes: list[SceneVolume], whole: str, year: int = 2021, table: str = "slab") -> Path:
    """A small SHREC data set, the volumes named in `whole` with more sections than the slab, and particles dark."""
    above = (WHOLE - DEPTH) // 2
    for number, scene in enumerate(scenes):
        model = folder / f"model_{number}"
        model.mkdir(parents=True)
        clean = np.zeros((WHOLE, 48, 48), np.float32)
        clean[above : above + DEPTH] = 300 * scene.density + 40
        clean[:above] = clean[above + DEPTH :] = 40
        wedge = MissingWedge()
        noise = np.random.default_rng(number).normal(size=clean.shape).astype(np.float32) * clean.std()
        tomogram = torch.from_numpy(clean + noise)[None, None]
        degraded = 1000 - wedge.apply(tomogram, [wedge.sample(torch.Generator())])[0, 0].numpy()
        cut = slice(above, above + DEPTH)
        put(model / "reconstruction.mrc", degraded if "reconstruction" in whole else degraded[cut])
        name = "grandmodel_noisefree" if year == 2020 else "grandmodel"
        put(model / f"{name}.mrc", clean if "model" in whole else clean[cut])
        if year == 2020:
            put(model / "grandmodel.mrc", (clean + noise if "model" in whole else (clean + noise)[cut]))
        offset = np.array([above if table == "whole" else 0, 0, 0])
        moved = [p._replace(position=p.position + offset) for p in scene.placements]
        write_shrec_table(model / "particle_locations.txt", moved)
    return folder


def module(folder: Path, **arguments) -> ShrecDataModule:
    made = ShrecDataModule(str(folder), **{"box": 16, "boxes": 4, "batch_size": 2, "num_workers": 0, **arguments})
    made.setup("fit")
    return made


@pytest.mark.parametrize("table", ["slab", "whole"])
@pytest.mark.parametrize(
    ("whole", "year"), [("reconstruction", 2020), ("", 2021), ("reconstruction model", 2021), ("model", 2021)]
)
def test_each_layout_gives_the_same_boxes(
    whole: str, year: int, table: str, scenes: list[SceneVolume], tmp_path: Path
) -> None:
    made = module(build(tmp_path, scenes, whole, year, table))
    scene = scenes[0]
    dataset = made.training_volumes()
    assert len(dataset) == 4
    names = [p.particle for p in scene.placements]
    assert [p.particle for p in made.tables["model_0"]] == names
    (pair,) = dataset.pairs
    # Sections without particles may be left out, so the pair may begin below the slab.
    moved = scene.placements[0].position - made.tables["model_0"][0].position
    offset = moved.round().astype(int)
    assert offset[1:].tolist() == [0, 0]
    assert abs(offset[0]) <= 3 if whole != "" else 0 <= offset[0] <= 3
    for p, q in zip(scene.placements, made.tables["model_0"], strict=True):
        np.testing.assert_allclose(p.position - q.position, offset, atol=0.0051)  # tables have hundredths
        np.testing.assert_allclose(p.rotation, q.rotation, atol=1e-5)
    common = scene.density[max(0, offset[0]) :][: pair.clean.shape[0]]
    ours = pair.clean[max(0, -offset[0]) :][: len(common)]
    np.testing.assert_allclose(ours / pair.clean.max(), common[: len(ours)] / scene.density.max(), atol=1e-3)
    for index in range(4):
        item = dataset[0, index]
        assert item["clean"].shape == item["degraded"].shape == (1, 16, 16, 16)
        assert item["entry"] in names
        assert item["entry"] in [p.particle for p in item["placements"]]
        assert all(((p.position >= 0) & (p.position < 16)).all() for p in item["placements"])
        assert np.corrcoef(item["clean"].flatten(), item["degraded"].flatten())[0, 1] > 0.3  # bright in both


def test_batches_are_as_those_of_pairs_and_models_are_held_out(scenes: list[SceneVolume], tmp_path: Path) -> None:
    made = module(build(tmp_path, scenes, "reconstruction"))
    batch = next(iter(made.train_dataloader()))
    batch = made.on_after_batch_transfer(batch, 0)
    assert set(batch) == {"clean", "degraded", "measured", "entry", "parameters", "placements"}
    assert 0.5 < batch["measured"].float().mean() < 0.8
    assert made.holdout == ["model_1"]
    assert made.voxel_size == 10
    assert [pair.name for pair in made.test_volumes().pairs] == ["model_1"]
    held_out = made.test_volumes(), made.validation_volumes()
    whole = made.pairs["model_1"].clean
    assert np.array_equal(np.concatenate([each.pairs[0].clean for each in held_out], axis=1), whole)
    for dataset in held_out:  # a half each, with the particles that are in it
        for placement in dataset.tables[0]:
            z, y, x = np.rint(placement.position - 0.01).astype(int)
            assert dataset.pairs[0].clean[z - 1 : z + 2, max(0, y - 1) : y + 2, x - 1 : x + 2].max() > 0.1
        assert all(dataset[0, i]["placements"] for i in range(len(dataset)))
    assert sum(len(each.tables[0]) for each in held_out) == len(made.tables["model_1"])
    assert torch.equal(made.validation_volumes()[0, 1]["clean"], made.validation_volumes()[3, 1]["clean"])
    assert not torch.equal(made.training_volumes()[0, 1]["clean"], made.training_volumes()[1, 1]["clean"])


def test_a_box_has_the_particle_that_it_was_cut_around_in_its_inner_half() -> None:
    placed = Placement("it", np.array([20.0, 21.0, 22.0]), np.eye(3))
    volume = np.zeros((44, 44, 44), np.float32)
    dataset = ShrecDataset(
        [Pair("a", volume, volume, 10.0)], [[placed]], 40, 16, degradation=[], seed=[0], fresh=True, degrade=False
    )
    places = np.array([dataset[0, index]["placements"][0].position for index in range(40)])
    assert (places.min(), places.max()) == (4, 11)


def test_the_tenth_model_comes_after_the_ninth(scenes: list[SceneVolume], tmp_path: Path) -> None:
    build(tmp_path, scenes[:1] * 11, "")
    assert list(find_models(tmp_path)) == [f"model_{number}" for number in range(11)]


def remove(name: str) -> Callable[[Path], None]:
    return lambda model: (model / name).unlink()


def other_table(model: Path) -> None:
    (model / "particle_locations.txt").write_text("1bxn 1 1 1 0 0 0\n1bxn 46 1 22 0 0 0\n")


def far_table(model: Path) -> None:
    (model / "particle_locations.txt").write_text("1bxn 100 1 1 0 0 0\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("reconstruction.mrc"), "model_1: there is no .*model_1/reconstruction.mrc; add it"),
        (remove("grandmodel.mrc"), "model_1: there is no .*model_1/grandmodel.mrc"),
        (remove("particle_locations.txt"), "model_1: there is no .*model_1/particle_locations.txt"),
        (other_table, "model_1/particle_locations.txt: the model is not bright where its particles should be"),
        (far_table, r"outside of the model of 24 × 48 × 48 voxels"),
    ],
)
def test_what_is_missing_or_wrong_is_named(damage, message: str, scenes: list[SceneVolume], tmp_path: Path) -> None:
    build(tmp_path, scenes, "")
    damage(tmp_path / "model_1")
    with pytest.raises(CryodenError, match=message):
        module(tmp_path)


def test_a_folder_without_models_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        CryodenError, match=r"no SHREC data set; it has folders model_0, model_1 \.\.\., each with recon"
    ):
        module(tmp_path)
