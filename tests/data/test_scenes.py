from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoden import CryodenError, GaussianNoise, MissingWedge, SceneContents, SceneDataModule, TiltSeriesDegradation
from cryoden.data.base import TRAIN
from cryoden.data.scenes import SceneDataset
from cryoden.simulation import Background, Degradation, TiltScheme
from cryoden.simulation.presets import PRESETS
from cryoden.simulation.units import BRIGHTEST
from tests.data.made import epochs, made


def test_scenes_do_not_depend_on_the_workers_and_are_fresh() -> None:
    ours, theirs = epochs(made(SceneDataModule)), epochs(made(SceneDataModule, num_workers=2))
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a["clean"], b["clean"])
            assert torch.equal(a["degraded"], b["degraded"])
    assert not any(torch.equal(a["clean"], b["clean"]) for a in ours[0] for b in ours[1])


def test_a_batch_of_scenes_has_a_table_of_its_particles() -> None:
    batch = epochs(made(SceneDataModule, holdout=["phantom:2"]), 1)[0][0]
    assert set(batch) == {"clean", "degraded", "measured", "entry", "parameters", "placements"}
    assert batch["clean"].shape == (2, 1, 24, 24, 24)
    assert batch["entry"] == ["scene", "scene"]
    for volume, table in zip(batch["clean"], batch["placements"], strict=True):
        assert 1 <= len(table) <= 3
        for placement in table:
            assert placement.particle == "phantom:1"
            assert placement.rotation.shape == (3, 3)
            z, y, x = placement.position.round().astype(int)
            assert volume[0, z - 3 : z + 4, y - 3 : y + 4, x - 3 : x + 4].max() > 0.1
    held_out = made(SceneDataModule, holdout=["phantom:2"]).test_volumes()[0, 0]["placements"]
    assert {placement.particle for placement in held_out} == {"phantom:2"}


def test_scenes_need_enough_of_each_split() -> None:
    with pytest.raises(
        CryodenError, match=r"scenes 2 with val_fraction 0\.2 gives 2 training and 0 validation volumes;"
    ):
        SceneDataModule(entries=["phantom:1"], scenes=2)


@pytest.mark.parametrize("shape", [None, (24, 36, 36)])
def test_gold_is_degraded_as_bright_as_it_is_and_asked_for_no_brighter_than_the_limit(shape: tuple | None) -> None:
    contents = SceneContents(count=1, fiducials=1, fiducial_diameter=80.0)
    data = made(SceneDataModule, contents=contents, shape=shape, crops=4, degradation=[MissingWedge()])
    batch = epochs(data, 1)[0][0]
    item = data.test_volumes()[0, 0]
    for clean, degraded in ((batch["clean"], batch["degraded"]), (item["clean"], item["degraded"])):
        assert clean.max() == BRIGHTEST
        assert degraded.max() > 1.5 * BRIGHTEST


CROPS = {"shape": (24, 60, 48), "scenes": 3, "crops": 5, "contents": SceneContents(count=12), "fresh": True}


def test_crops_come_from_a_larger_scene(tmp_path: Path) -> None:
    data = made(SceneDataModule, **CROPS, cache=str(tmp_path))
    dataset, validation = data._dataset(TRAIN), data.validation_volumes()
    scenes = dataset.scenes
    assert (len(scenes), len(dataset), len(validation)) == (2, 10, 5)
    assert not torch.equal(dataset[0, 3]["clean"], dataset[1, 3]["clean"])
    assert torch.equal(validation[0, 3]["degraded"], validation[4, 3]["degraded"])
    for index in (0, 7):
        item = dataset[2, index]
        whole = scenes[0, index // 5]
        windows = np.lib.stride_tricks.sliding_window_view(whole["clean"][0].numpy(), (24, 24, 24))
        (place,) = np.argwhere((windows == item["clean"][0].numpy()).all((3, 4, 5)))
        inside = [p for p in whole["placements"] if (p.position >= place).all() and (p.position < place + 24).all()]
        assert [p.particle for p in item["placements"]] == [p.particle for p in inside]
        for ours, theirs in zip(item["placements"], inside, strict=True):
            assert np.array_equal(ours.position + place, theirs.position)


SERIES = TiltSeriesDegradation(voxel_size=14.0, scheme=TiltScheme(step=20.0))


def test_boxes_of_a_tilt_series_are_cut_from_the_tomogram_of_the_whole_scene(tmp_path: Path) -> None:
    data = made(SceneDataModule, **CROPS, degradation=[SERIES], cache=str(tmp_path))
    dataset = data._dataset(TRAIN)
    for index in (0, 7):
        whole, item = dataset.scenes[0, index // 5], dataset[2, index]
        windows = np.lib.stride_tricks.sliding_window_view(whole["degraded"][0].numpy(), (24, 24, 24))
        ((z, y, x),) = np.argwhere((windows == item["degraded"][0].numpy()).all((3, 4, 5)))
        assert torch.equal(item["clean"], whole["clean"][:, z : z + 24, y : y + 24, x : x + 24])
        assert item["parameters"] == whole["parameters"]
        in_context = SERIES.apply(whole["clean"][None], whole["parameters"])[0]
        assert torch.allclose(whole["degraded"], in_context, atol=1e-4)
    assert not torch.equal(dataset[0, 3]["clean"], dataset[1, 3]["clean"])  # boxes are fresh, scenes are not
    batch = next(iter(data.train_dataloader()))
    assert data.on_after_batch_transfer(batch, 0)["measured"].shape[1:] == (24, 1, 13)


def test_only_a_degradation_that_sees_more_than_a_box_makes_other_scenes(tmp_path: Path) -> None:
    def folders(*steps: Degradation) -> int:
        made(SceneDataModule, **CROPS, degradation=list(steps), cache=str(tmp_path))._dataset(TRAIN)
        return len(list(tmp_path.iterdir()))

    assert folders(GaussianNoise(1.0)) == folders(GaussianNoise(2.0)) == 1
    assert folders(SERIES) == 2
    assert folders(replace(SERIES, contrast=0.5)) == 3
    data = made(SceneDataModule, **CROPS, degradation=[SERIES], cache=str(tmp_path))
    data.test_volumes([replace(SERIES, contrast=0.6)])  # kept nowhere
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("shape", [None, (24, 36, 36)])
def test_a_background_is_imaged_and_no_part_of_what_is_asked_for(shape: tuple | None) -> None:
    contents = SceneContents(count=1, background=Background(proteins=150.0, solutes=0.0))
    settings = {"shape": shape, "crops": 4, "degradation": [MissingWedge((-90.0, 90.0))]}
    data, empty = (
        made(SceneDataModule, contents=each, **settings) for each in (contents, replace(contents, background=None))
    )
    for volumes in (epochs(data, 1)[0][0], data.test_volumes()[0, 0]):
        assert "imaged" not in volumes
        ice = volumes["clean"].abs() < 0.01
        assert volumes["degraded"][ice].std() > 0.02 > 0.005 > volumes["clean"][ice].std()
    volumes = empty.test_volumes()[0, 0]
    assert torch.allclose(volumes["degraded"], volumes["clean"], atol=1e-5)


def test_crops_do_not_depend_on_the_workers_nor_on_the_cache(tmp_path: Path) -> None:
    ours = made(SceneDataModule, **CROPS)
    theirs = made(SceneDataModule, **CROPS, num_workers=2)
    kept = made(SceneDataModule, **CROPS, cache=str(tmp_path))
    for one, two, three in zip(*(m.train_dataloader() for m in (ours, theirs, kept)), strict=True):
        assert torch.equal(one["clean"], two["clean"])
        assert torch.equal(one["clean"], three["clean"])


def test_scenes_for_crops_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    make = SceneDataset.make
    monkeypatch.setattr(SceneDataset, "make", lambda self, i, g: asked.append(i) or make(self, i, g))
    data = made(SceneDataModule, **CROPS)
    for _ in range(2):
        assert len(data._dataset(TRAIN)[0, 4]["clean"][0]) == 24
    assert asked == [0, 1]
    scratch = Path(data._scratch.name)
    assert scratch.is_dir()
    data._scratch.cleanup()


def test_contents_reach_the_scene() -> None:
    crowded = {"occupancy": 0.15, "abundance": {"phantom:2": 0.0}, "fiducials": 1}
    data = made(SceneDataModule, contents=SceneContents(**crowded, fiducial_diameter=80.0, ice=300.0))
    item = data.test_volumes()[0, 0]
    assert {p.particle for p in item["placements"]} == {"phantom:1", "fiducial"}
    assert item["clean"].max() > 1
    assert item["clean"][0, 0].max() < 0
    few = made(SceneDataModule, contents=SceneContents()).test_volumes()[0, 0]
    assert len(few["placements"]) in range(4, 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (20, 60, 60)}, r"shape: got \(20, 60, 60\); boxes of 24 voxels cannot be cut from it"),
        (
            {"contents": SceneContents(abundance={"1bxn": 2.0})},
            "abundance: 1bxn is none of the entries: phantom:1, phantom:2",
        ),
        ({"crops": 0}, "crops: got 0"),
    ],
)
def test_bad_scene_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(CryodenError, match=message):
        made(SceneDataModule, **arguments)


def test_a_preset_gives_what_is_not_given() -> None:
    given = PRESETS["realistic"](14.0, (24, 60, 48))
    data = made(SceneDataModule, preset="realistic", shape=(24, 60, 48), degradation=None, contents=None)
    assert (data.contents, data.degradation, data.shape) == (given.contents, [given.degradation], (24, 60, 48))
    assert SceneDataModule(preset="realistic", entries=["phantom:1"]).shape == PRESETS["realistic"](10.0, None).shape
    few = SceneContents(count=3)
    stated = made(SceneDataModule, preset="realistic", contents=few, degradation=[MissingWedge()], shape=(24, 60, 48))
    assert (stated.contents, stated.degradation) == (few, [MissingWedge()])
