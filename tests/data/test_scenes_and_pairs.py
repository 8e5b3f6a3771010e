from pathlib import Path

import numpy as np
import pytest
import torch

from cryoden import CryodenError, PairDataModule, SceneContents, SceneDataModule, Volume, write_volume
from cryoden.data.pairs import read_pair
from cryoden.evaluation.baselines import gaussian_filter
from cryoden.simulation.degradation import MissingWedge

SCENES = {"box": 32, "voxel_size": 10.0, "resolution": 20.0, "batch_size": 2, "scenes": 6}


def scenes(**arguments) -> SceneDataModule:
    made = SceneDataModule(
        **{"entries": ["phantom:1", "phantom:2"], "val_fraction": 0.34, "num_workers": 0, **SCENES, **arguments},
        contents=SceneContents(count=(1, 4)),
    )
    made.setup()
    return made


def first_epochs(module, n: int = 2) -> list[list[dict]]:
    loader = module.train_dataloader()
    result = []
    for epoch in range(n):
        loader.sampler.set_epoch(epoch)
        result.append([module.on_after_batch_transfer(batch, 0) for batch in loader])
    return result


def test_scenes_do_not_depend_on_the_workers_and_are_fresh() -> None:
    ours, theirs = first_epochs(scenes()), first_epochs(scenes(num_workers=2))
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a["clean"], b["clean"])
            assert torch.equal(a["degraded"], b["degraded"])
    assert not any(torch.equal(a["clean"], b["clean"]) for a in ours[0] for b in ours[1])


def test_a_batch_of_scenes_has_a_table_of_its_particles() -> None:
    batch = first_epochs(scenes(holdout=["phantom:2"]), 1)[0][0]
    assert set(batch) == {"clean", "degraded", "measured", "entry", "parameters", "placements"}
    assert batch["clean"].shape == (2, 1, 32, 32, 32)
    assert batch["entry"] == ["scene", "scene"]
    for volume, table in zip(batch["clean"], batch["placements"], strict=True):
        assert 1 <= len(table) <= 4
        for placement in table:
            assert placement.particle == "phantom:1"
            assert placement.rotation.shape == (3, 3)
            z, y, x = placement.position
            assert volume[0, z - 3 : z + 4, y - 3 : y + 4, x - 3 : x + 4].max() > 0.1
    held_out = scenes(holdout=["phantom:2"]).test_volumes()[0, 0]["placements"]
    assert {placement.particle for placement in held_out} == {"phantom:2"}


def test_scenes_need_enough_of_each_split() -> None:
    with pytest.raises(
        CryodenError, match=r"scenes 2 with val_fraction 0\.2 gives 2 training and 0 validation volumes;"
    ):
        SceneDataModule(entries=["phantom:1"], scenes=2)


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    clean = gaussian_filter((torch.rand(1, 1, 20, 28, 32, generator=generator) > 0.995).float(), 1.5)
    noise = torch.randn(clean.shape, generator=generator) * clean.std()
    return clean[0, 0].numpy(), noise[0, 0].numpy()


def put(path: Path, data: np.ndarray, voxel_size: float = 10.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, Volume(data.astype(np.float32), voxel_size))
    return path


@pytest.mark.parametrize("gain", [3.0, -250.0])
def test_a_pair_comes_to_the_clean_volumes_grey_scale(gain: float, blobs, tmp_path: Path) -> None:
    clean, noise = blobs
    paths = (
        put(tmp_path / "a_degraded.mrc", gain * (clean + noise) + 1000),
        put(tmp_path / "a_clean.mrc", 7 * clean + 5),
    )
    pair = read_pair("a", *paths)
    assert pair.clean.max() == 1
    assert np.median(pair.clean) == pytest.approx(0, abs=1e-6)
    scale = 1 / (clean.max() - np.median(clean))
    rest = pair.degraded - pair.clean
    np.testing.assert_allclose(rest, scale * (noise - noise.mean()), atol=0.1)  # the noise, on the clean volume's scale
    assert abs(np.corrcoef(rest.ravel(), pair.clean.ravel())[0, 1]) < 1e-4


def test_a_missing_wedge_does_not_change_the_scale(blobs, tmp_path: Path) -> None:
    clean, noise = blobs
    wedge = MissingWedge((-50, 50))
    pair = torch.from_numpy(clean + noise)[None, None]
    left = wedge.apply(pair, [wedge.sample(torch.Generator())])[0, 0].numpy()
    paths = put(tmp_path / "a_degraded.mrc", -3 * left), put(tmp_path / "a_clean.mrc", clean)
    scale = 1 / (clean.max() - np.median(clean))
    found = read_pair("a", *paths, wedge)
    assert found.degraded.std() == pytest.approx(scale * left.std(), rel=0.05)
    assert read_pair("a", *paths).degraded.std() > 1.3 * found.degraded.std()  # as if the rest had shrunk, not gone


@pytest.mark.parametrize("thick", ["degraded", "clean"])
@pytest.mark.parametrize("offset", [-1, 0, 2])
def test_a_slab_is_found_in_a_thicker_volume(offset: int, thick: str, blobs, tmp_path: Path) -> None:
    clean, noise = blobs
    whole = np.random.default_rng(0).normal(size=(60, 28, 32)).astype(np.float32) * noise.std()
    whole *= 1 if thick == "degraded" else 0.1
    whole[20 + offset : 40 + offset] += clean
    paths = {"degraded": -(clean + noise), "clean": clean} | {thick: -whole if thick == "degraded" else whole}
    pair = read_pair("a", *(put(tmp_path / f"a_{kind}.mrc", data) for kind, data in paths.items()))
    assert pair.degraded.shape == pair.clean.shape == (20, 28, 32)
    assert np.corrcoef(pair.degraded.ravel(), pair.clean.ravel())[0, 1] > 0.5


def pairs(folder: Path, **arguments) -> PairDataModule:
    return PairDataModule(str(folder), **{"box": 16, "boxes": 3, "batch_size": 2, "num_workers": 0, **arguments})


@pytest.fixture(scope="module")
def folder(blobs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for i, name in enumerate("abc"):
        put(folder / f"{name}_clean.mrc", np.roll(blobs[0], i, axis=2))
        put(folder / f"{name}_degraded.mrc", np.roll(blobs[0], i, axis=2) + blobs[1])
    return folder


def test_boxes_are_cut_from_the_same_place_of_both(folder: Path) -> None:
    module = pairs(folder, tilt_range=(-60, 60))
    module.setup("fit")
    assert module.voxel_size == 10
    (first,), (other,) = ([torch.cat([b["clean"] for b in e])] for e in first_epochs(module))
    assert first.shape == (6, 1, 16, 16, 16)
    assert not torch.equal(first, other)
    batch = first_epochs(module, 1)[0][0]
    assert set(batch) == {"clean", "degraded", "measured", "entry", "parameters"}
    assert 0.5 < batch["measured"].float().mean() < 0.8
    assert {e for epoch in first_epochs(module) for b in epoch for e in b["entry"]} == {"a", "b"}
    for volume, truth in zip(batch["degraded"], batch["clean"], strict=True):
        assert np.corrcoef(volume.flatten(), truth.flatten())[0, 1] > 0.5
    test = module.test_volumes()
    assert [test[0, i]["entry"] for i in range(len(test))] == ["c"] * 3
    assert torch.equal(test[0, 1]["clean"], test[5, 1]["clean"])
    assert not torch.equal(test[0, 1]["clean"], module.validation_volumes()[0, 1]["clean"])


def test_one_pair_is_enough_to_test_on(blobs, tmp_path: Path) -> None:
    put(tmp_path / "only_clean.mrc", blobs[0])
    put(tmp_path / "only_degraded.mrc", blobs[0] + blobs[1])
    module = pairs(tmp_path)
    module.setup("test")
    assert module.test_volumes()[0, 0]["entry"] == "only"
    with pytest.raises(CryodenError, match="nothing left to train on: only held out"):
        pairs(tmp_path).setup("fit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nothing", "no pairs; they are NAME_degraded.mrc beside NAME_clean.mrc$"),
        ("folder", "nowhere: no such folder"),
        ("shrec", "no pairs; .*; a SHREC data set is read by ShrecDataModule"),
        ("alone", "pair a: there is no .*a_clean.mrc"),
        ("shape", r"have \(20, 28, 32\) and \(20, 28, 30\) voxels"),
        ("constant", "all voxels are 3; a constant volume"),
        ("other", "have a correlation of .*: they do not show the same thing"),
        ("voxels", "voxels of 10 Å in a_degraded.mrc and 5 Å in a_clean.mrc"),
        ("small", "hold no box of 24; use a smaller box"),
        ("holdout", "holdout: no pair z in .*; there are a"),
    ],
)
def test_bad_pairs(change: str, message: str, blobs, tmp_path: Path) -> None:
    clean, noise = blobs
    cleans = {
        "shape": clean[..., :30],
        "constant": np.full_like(clean, 3),
        "other": np.random.default_rng(1).random(clean.shape),
    }
    if change == "shrec":
        (tmp_path / "model_0").mkdir()
    elif change not in ("nothing", "folder"):
        put(tmp_path / "a_degraded.mrc", noise if change == "other" else clean + noise)
    if change not in ("nothing", "folder", "shrec", "alone"):
        put(tmp_path / "a_clean.mrc", cleans.get(change, clean), 5.0 if change == "voxels" else 10.0)
    arguments = {"small": {"box": 24}, "holdout": {"holdout": ["z"]}}.get(change, {})
    with pytest.raises(CryodenError, match=message):
        pairs(tmp_path / "nowhere" if change == "folder" else tmp_path, **arguments).setup("test")
