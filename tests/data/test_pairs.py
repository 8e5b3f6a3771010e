import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoden import CryodenError, PairDataModule, Volume, write_volume
from cryoden.data.base import TEST, TRAIN, VALIDATION
from cryoden.data.pairs import particle_level, read_pair
from cryoden.evaluation.baselines import gaussian_filter
from cryoden.particles import load_particle
from cryoden.simulation.degradation import MissingWedge
from cryoden.simulation.scene import FIDUCIAL, Scene, SceneContents, SceneVolume
from tests.data.made import epochs


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
    assert particle_level(pair.clean) == pytest.approx(1)
    assert np.median(pair.clean) == pytest.approx(0, abs=1e-6)
    scale = 1 / particle_level(clean - np.median(clean))
    rest = pair.degraded - pair.clean
    np.testing.assert_allclose(rest, scale * (noise - noise.mean()), atol=0.1)  # the noise, on the clean volume's scale
    specimen = pair.clean < 2
    assert abs(np.corrcoef(rest[specimen], pair.clean[specimen])[0, 1]) < 1e-4


def test_a_missing_wedge_does_not_change_the_scale(blobs, tmp_path: Path) -> None:
    clean, noise = blobs
    wedge = MissingWedge((-50, 50))
    pair = torch.from_numpy(clean + noise)[None, None]
    left = wedge.apply(pair, [wedge.sample(torch.Generator())])[0, 0].numpy()
    paths = put(tmp_path / "a_degraded.mrc", -3 * left), put(tmp_path / "a_clean.mrc", clean)
    scale = 1 / particle_level(clean - np.median(clean))
    found = read_pair("a", *paths, (-50.0, 50.0))
    assert found.degraded.std() == pytest.approx(scale * left.std(), rel=0.05)
    assert read_pair("a", *paths).degraded.std() > 1.3 * found.degraded.std()  # as if the rest had shrunk, not gone


WEDGE = MissingWedge()


def tilted(density: np.ndarray) -> np.ndarray:
    """What a tilt series measures of it."""
    batch = torch.from_numpy(density)[None, None]
    return WEDGE.apply(batch, [WEDGE.sample(torch.Generator())])[0, 0].numpy()


@pytest.fixture(scope="module")
def scene() -> SceneVolume:
    """Particles in a slab of ice between vacuum, and gold."""
    contents = SceneContents(occupancy=0.1, fiducials=2, fiducial_diameter=60.0, ice=300.0)
    particles = [load_particle("phantom:1"), load_particle("phantom:2")]
    return Scene((40, 64, 64), 10.0, 20.0, particles, contents).make(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("disturbed", ["gold", "gold that a camera shows fainter", "vacuum", "margins", "all"])
def test_particles_alone_set_the_scale(disturbed: str, scene: SceneVolume, tmp_path: Path) -> None:
    """Each disturbance leaves the particles' grey values in both volumes as they are without it."""
    gold = np.isin(scene.classes, scene.class_names.index(FIDUCIAL))
    vacuum = scene.density < -0.5
    noise = np.random.default_rng(0).normal(size=scene.density.shape).astype(np.float32) * 0.3

    def pair(*kinds: str):
        clean = np.where(gold & ("gold" not in kinds), 0, np.where(vacuum & ("vacuum" not in kinds), 0, scene.density))
        shown = np.where(gold, clean / 2, clean) if "faint" in kinds else clean
        degraded = 1000 - 50 * (tilted(shown.astype(np.float32)) + noise)
        if "margins" in kinds:
            degraded[:, :10] = degraded[:, :, -8:] = 0
        paths = (put(tmp_path / f"{kind}.mrc", data) for kind, data in (("d", degraded), ("c", 77 * clean + 5)))
        (found := read_pair("a", *paths, (-60.0, 60.0)), *((tmp_path / f"{kind}.mrc").unlink() for kind in "dc"))
        return found

    kinds = {
        "gold that a camera shows fainter": ("gold", "faint"),
        "all": ("gold", "faint", "vacuum", "margins"),
    }.get(disturbed, (disturbed,))
    expected, found = pair(), pair(*kinds)
    specimen = np.zeros(scene.density.shape, bool)
    specimen[10:30, 10:, :-8] = True
    protein = specimen & ~gold & (scene.density > 0.5 * particle_level(np.clip(scene.density, 0, None)))
    assert found.clean[protein] == pytest.approx(expected.clean[protein], rel=0.05)
    one, other = (each.degraded[specimen & ~gold] for each in (expected, found))
    gain, offset = np.polyfit(one, other, 1)
    assert gain == pytest.approx(1, abs=0.05)
    assert offset == pytest.approx(0, abs=0.05)
    assert np.median(found.clean[specimen]) == pytest.approx(0, abs=0.01)


def test_a_filled_margin_is_background_in_both(scene: SceneVolume, tmp_path: Path) -> None:
    degraded = scene.density + np.random.default_rng(0).normal(size=scene.density.shape)
    degraded[:, :10] = 7
    paths = put(tmp_path / "d.mrc", degraded), put(tmp_path / "c.mrc", scene.density)
    pair = read_pair("a", *paths)
    assert not pair.clean[:, :10].any()
    assert not pair.degraded[:, :10].any()
    assert pair.clean[:, 10:].any(axis=(0, 2)).all()


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
    (first,), (other,) = ([torch.cat([b["clean"] for b in e])] for e in epochs(module))
    assert first.shape == (6, 1, 16, 16, 16)
    assert not torch.equal(first, other)
    batch = epochs(module, 1)[0][0]
    assert set(batch) == {"clean", "degraded", "measured", "entry", "parameters"}
    assert 0.5 < batch["measured"].float().mean() < 0.8
    assert {entry for epoch in epochs(module) for b in epoch for entry in b["entry"]} == {"a", "b"}
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


def places(module: PairDataModule, split: int, whole: np.ndarray) -> np.ndarray:
    """(n, 3), where in a pair the boxes of a split lie."""
    windows = np.lib.stride_tricks.sliding_window_view(whole, (module.box,) * 3)
    boxes = (module._dataset(split)[0, i]["clean"][0].numpy() for i in range(len(module._dataset(split))))
    return np.concatenate([np.argwhere((windows == box).all((3, 4, 5))) for box in boxes])


def test_one_pair_that_is_held_out_validates_in_one_half_and_tests_in_the_other(folder: Path) -> None:
    module = pairs(folder, boxes=12)
    module.setup("fit")
    whole = module.pairs["c"].clean.clip(max=2)
    x = [places(module, split, whole)[:, 2] for split in (TEST, VALIDATION)]
    assert [len(each) for each in x] == [12, 12]
    assert x[0].max() + 16 <= 16 <= x[1].min()


def test_by_default_the_last_fifth_is_held_out(blobs, tmp_path: Path) -> None:
    for name in "abcdefghij":
        put(tmp_path / f"{name}_clean.mrc", blobs[0])
        put(tmp_path / f"{name}_degraded.mrc", blobs[0] + blobs[1])
    module = pairs(tmp_path)
    module.setup("fit")
    assert {split: "".join(share) for split, share in module.shares.items()} == {
        TRAIN: "abcdefgh",
        TEST: "i",
        VALIDATION: "j",
    }


def test_several_pairs_that_are_held_out_are_shared_out(folder: Path) -> None:
    for holdout, tests, validates in ((["a", "c"], {"a"}, {"c"}), (["c", "b"], {"c"}, {"b"})):
        module = pairs(folder, holdout=holdout)
        module.setup("fit")
        for split, expected in ((TEST, tests), (VALIDATION, validates), (TRAIN, {*"abc"} - {*holdout})):
            dataset = module._dataset(split)
            assert {dataset[0, i]["entry"] for i in range(len(dataset))} == expected
            assert len(dataset) == 3 * len(expected)


def test_a_pair_of_the_boxs_size_is_shown_once_and_one_alone_is_told_to_be_too_small(
    blobs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = blobs[0][:16, :28, :16]
    for name, depth in (("a", 16), ("b", 18), ("c", 16)):
        cut = whole[:, :depth].copy()
        put(tmp_path / f"{name}_clean.mrc", cut)
        put(tmp_path / f"{name}_degraded.mrc", cut + blobs[1][:16, :depth, :16])
    module = pairs(tmp_path, boxes=100)
    with caplog.at_level(logging.WARNING):
        module.setup("fit")
    assert "pair c: it alone is held out, and has no two halves with room for a box of 16" in caplog.text
    dataset = module._dataset(TRAIN)
    assert [dataset[0, i]["entry"] for i in range(len(dataset))] == ["a", "b", "b", "b"]  # three places along y
    assert len(module.test_volumes()) == len(module.validation_volumes()) == 1
    caplog.clear()
    pairs(tmp_path, holdout=["a", "c"]).setup("fit")
    assert not caplog.text


def test_halves_of_which_one_shows_nothing_are_not_taken(blobs, tmp_path: Path, caplog) -> None:
    clean = blobs[0].copy()
    clean[..., 16:] = 0
    for name in "ab":
        put(tmp_path / f"{name}_clean.mrc", clean)
        put(tmp_path / f"{name}_degraded.mrc", clean + blobs[1])
    module = pairs(tmp_path)
    module.setup("fit")
    assert "validation and test see the same places" in caplog.text
    assert module.test_volumes().pairs[0].clean.shape == module.validation_volumes().pairs[0].clean.shape == clean.shape


def test_each_pair_has_the_wedge_that_is_told_beside_it(blobs, tmp_path: Path) -> None:
    told = {"a": '{"tilt_range": [-30, 40]}', "b": '{"tilt_range": null}', "c": None}
    for name, text in told.items():
        put(tmp_path / f"{name}_clean.mrc", blobs[0])
        put(tmp_path / f"{name}_degraded.mrc", blobs[0] + blobs[1])
        if text:
            (tmp_path / f"{name}_degradation.json").write_text(text)

    def seen(**arguments) -> dict[str, float]:
        module = pairs(tmp_path, holdout=["c"], boxes=1, **arguments)
        module.setup("fit")
        items = [
            dataset[0, i] for dataset in (module.training_volumes(), module.test_volumes()) for i in range(len(dataset))
        ]
        return {item["entry"]: float(item["measured"].float().mean()) for item in items}

    own = seen()
    assert 0.3 < own["a"] < 0.5
    assert own["b"] == own["c"] == 1
    of_all = seen(tilt_range=(-60, 60))
    assert 0.5 < of_all["a"] == of_all["b"] == of_all["c"] < 0.8
    (tmp_path / "a_degradation.json").write_text('{"tilt_range": [30]}')
    with pytest.raises(CryodenError, match=r"30 to 30 \(a_degradation.json\): allowed are degrees between"):
        seen()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nothing", "no pairs; they are NAME_degraded.mrc beside NAME_clean.mrc$"),
        ("folder", "nowhere: no such folder"),
        ("shrec", "no pairs; .*; a SHREC data set is read by ShrecDataModule"),
        ("alone", "pair a: there is no .*a_clean.mrc"),
        ("shape", r"have \(20, 28, 32\) and \(20, 28, 30\) voxels"),
        ("constant", "all voxels are 3; a constant volume"),
        ("dark", "a_clean.mrc: nothing is brighter than its background; invert it"),
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
        "dark": np.where(clean > 0.5 * clean.max(), -1.0, 0.0),
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
