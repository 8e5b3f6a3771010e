import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoden import CryodenError, HalvesDataModule
from cryoden.data.halves import HalfTomogram, HalvesDataset
from cryoden.inference.star import find_halves
from cryoden.volume import Volume, write_volume
from tests.data.half_tomograms import SHAPE, blobs, write_halves


def made(folder: Path, **given: object) -> HalvesDataModule:
    arguments = {"contrast": "dark", "box": 32, "boxes": 6, "batch_size": 2, "simulated_batch_size": 0, **given}
    return HalvesDataModule([str(folder)], **arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("halves")
    for number in (1, 2):
        write_halves(folder, f"TS_{number}", seed=number, noise=0.5)
    (folder / "TS_2.tlt").write_text("-50\n0\n40\n")
    return folder


def test_boxes_are_cut_at_one_place_from_both_halves_on_the_networks_grey_scale(folder: Path) -> None:
    data = made(folder)
    data.setup()
    boxes = [data.train_dataloader()["halves"].dataset[0, index] for index in range(6)]
    assert {box["entry"] for box in boxes} == {"TS_1.mrc", "TS_2.mrc"}
    for box in boxes:
        given, other = box["given"], box["other"]
        assert given.shape == other.shape == (1, 32, 32, 32)
        assert abs(float(given.median())) < 0.3  # the background is 0
        assert torch.corrcoef(torch.stack([given.flatten(), other.flatten()]))[0, 1] > 0.6
        assert given.max() > 1.5 * -given.min()  # and protein bright, which is dark in the file
    again = data.train_dataloader()["halves"].dataset[0, 3]
    assert torch.equal(again["given"], boxes[3]["given"])
    fresh = data.train_dataloader()["halves"].dataset[1, 3]
    assert not torch.equal(fresh["given"], boxes[3]["given"])


def test_either_half_is_given(folder: Path) -> None:
    data = made(folder)
    data.setup()
    (tomogram, _) = data.tomograms
    whole, _ = tomogram.cut((slice(0, 40), slice(0, 112), slice(0, 40)))
    first = {float(value) for value in whole[0].flatten()}
    dataset = HalvesDataset([tomogram], 12, 32, 0)
    from_first = [float(dataset[0, index]["given"][0, 0, 0, 0]) in first for index in range(12)]
    assert 0 < sum(from_first) < 12


def test_nothing_is_learnt_where_it_is_judged(folder: Path) -> None:
    data = made(folder)
    data.setup()
    (tomogram, _) = data.tomograms
    assert tomogram.held_out == SHAPE[1] - 48
    dataset = HalvesDataset([tomogram], 200, 32, 0)
    generator = torch.Generator().manual_seed(0)
    places = [dataset._place(tomogram, generator) for _ in range(200)]
    assert {place[1].start for place in places} == set(range(SHAPE[1] - 48 - 32 + 1))
    (part, _) = data.judged()
    whole, _ = tomogram.cut((slice(0, 40), slice(64, 112), slice(0, 40)))
    assert torch.equal(part["first"], whole[0][0])


def test_a_fourth_of_a_tomogram_judges_and_of_a_long_one_less(folder: Path) -> None:
    data = made(folder)
    data.setup()
    for height, judging in ((112, 48), (240, 60), (1000, 96)):
        half = np.broadcast_to(np.float32(0), (8, height, 8))
        assert replace(data.tomograms[0], data=(half, half)).held_out == height - judging


def test_each_tomogram_has_its_own_wedge(folder: Path) -> None:
    data = made(folder)
    data.setup()
    without, tilted = (each.measured(32) for each in data.tomograms)
    assert without.all()
    assert tilted.shape == (32, 1, 17)
    assert 0.4 < tilted.float().mean() < 0.6  # 90 of 180°
    stated = made(folder, tilt_range=(-60.0, 60.0))
    stated.setup()
    assert {each.tilts.low for each in stated.tomograms if each.tilts} == {-60.0}


def test_boxes_come_from_where_there_is_specimen(tmp_path: Path) -> None:
    """A slab of it, of which noise is on both sides."""
    write_halves(tmp_path, shape=(96, 112, 40), noise=1.0)
    truth = blobs(0, (96, 112, 40))
    rng = np.random.default_rng(5)
    truth[:40] = truth[64:] = 0
    for half in ("even", "odd"):
        noise = rng.normal(size=truth.shape)
        write_volume(tmp_path / half / "TS_1.mrc", Volume((truth + noise).astype(np.float32), 10.0), overwrite=True)
    tomogram = HalfTomogram.of(find_halves([str(tmp_path)])[0], None, "bright")
    assert 36 <= tomogram.sections[0] <= 41
    assert 63 <= tomogram.sections[1] <= 68


def test_boxes_come_from_the_mask_that_lies_beside_and_it_is_judged_there(tmp_path: Path) -> None:
    shape = 40, 160, 80
    mask = np.zeros(shape, np.float32)
    mask[:, :, 48:] = 1
    rng = np.random.default_rng(0)
    for half in ("even", "odd"):
        seen = blobs(0, shape) + rng.normal(size=shape).astype(np.float32)
        (tmp_path / half).mkdir()
        write_volume(tmp_path / half / "TS_1.mrc", Volume(np.where(mask > 0, seen, 0.05 * seen), 10.0))
    write_volume(tmp_path / "TS_1_mask.mrc", Volume(mask, 10.0))
    data = HalvesDataModule([str(tmp_path)], contrast="bright", box=24, boxes=20, simulated_batch_size=0)
    data.setup()
    (tomogram,) = data.tomograms
    boxes = HalvesDataset(data.tomograms, 20, 24, 0)
    spreads = [float(boxes[0, number]["given"].std()) for number in range(20)]
    assert min(spreads) > 0.4 * max(spreads)  # at least half of each is specimen
    part = tomogram.judged(10.0)
    assert part["mask"] is not None
    np.testing.assert_array_equal(part["mask"].numpy(), mask[:, tomogram.held_out :] > 0)
    write_volume(tmp_path / "TS_1_mask.mrc", Volume(mask[1:], 10.0), overwrite=True)
    with pytest.raises(
        CryodenError, match=r"TS_1_mask.mrc: 80 × 160 × 39 voxels \(x, y, z\), and the halves have 80 × 160"
    ):
        HalfTomogram.of(find_halves([str(tmp_path)])[0], None, "bright")


def test_halves_are_mapped(folder: Path) -> None:
    data = made(folder)
    data.setup()
    assert all(isinstance(half, np.memmap) for each in data.tomograms for half in each.data)


def test_contrast_is_told_from_both_halves_together(tmp_path: Path) -> None:
    write_halves(tmp_path, noise=0.5)
    data = made(tmp_path, contrast="auto")
    data.setup()
    assert data.tomograms[0].contrast == "dark"


def test_simulated_boxes_have_the_tomograms_voxels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryoden.data.halves._SCENE", (32, 40, 40))
    data = made(folder, simulated_batch_size=1, scenes=3, entries=["phantom:1"], num_workers=0)
    data.setup()
    assert data.beside is not None
    assert data.beside.voxel_size == 10.0
    loaders = data.train_dataloader()
    assert len(loaders["halves"]) == len(loaders["simulated"]) == 3  # so that no epoch ends before its time
    boxes = list(loaders["simulated"])
    assert {float(box["clean"].max()) > 0.1 for box in boxes} == {True}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"box": 48}, r"TS_1.mrc: of its 40 × 112 × 40 voxels \(x, y, z\) 40 × 64 × 40 are learnt from.*smaller box"),
        ({"tilt_range": (60.0, -60.0)}, "tilt range 60 to -60"),
        ({"boxes": 0}, "boxes: got 0"),
        ({"box": 31}, "box: got 31; it must be even"),
    ],
)
def test_what_cannot_be_used_is_refused(folder: Path, given: dict[str, object], told: str) -> None:
    with pytest.raises(CryodenError, match=told):
        made(folder, **given).setup()


def test_a_checkpoint_goes_on_with_the_tomograms_that_it_learnt_of(folder: Path) -> None:
    data = made(folder)
    data.setup()
    data.load_state_dict({"tomograms": ["TS_1.mrc", "TS_2.mrc"]})
    with pytest.raises(CryodenError, match=r"learnt of 1 tomograms \(TS_7.mrc\), and there are 2"):
        data.load_state_dict({"tomograms": ["TS_7.mrc"]})


def test_a_checkpoint_does_not_go_on_with_other_tomograms_of_the_same_names(folder: Path, tmp_path: Path) -> None:
    data = made(folder)
    data.setup()
    state = data.state_dict()
    shutil.copytree(folder, tmp_path / "moved")
    moved = made(tmp_path / "moved")
    moved.setup()
    moved.load_state_dict(state)
    for number in (1, 2):
        write_halves(tmp_path / "other", f"TS_{number}", seed=number + 5, noise=0.5)
    for each, told in (
        (made(tmp_path / "other"), "TS_1.mrc: the checkpoint learnt of halves .* mask none, protein dark, tilts unk"),
        (made(folder, contrast="bright"), "protein dark, tilts unknown, and there are halves .* protein bright"),
        (made(folder, tilt_range=(-60.0, 60.0)), "tilts unknown, and there are .* tilts -60 to 60°: give the same"),
    ):
        each.setup()
        with pytest.raises(CryodenError, match=told):
            each.load_state_dict(state)
    write_volume(tmp_path / "moved" / "TS_2_mask.mrc", Volume(np.ones(SHAPE, np.float32), 10.0))
    masked = made(tmp_path / "moved")
    masked.setup()
    with pytest.raises(CryodenError, match=r"TS_2.mrc: .* mask none, .* mask [0-9a-f]{8}, "):
        masked.load_state_dict(state)


def test_tomograms_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for day in ("d1", "d2"):
        write_halves(tmp_path / day, noise=0.5)
    write_halves(tmp_path / "d2", "TS_2", noise=0.5)
    data = made(tmp_path)
    data.setup()
    assert [each.name for each in data.tomograms] == ["d1/TS_1.mrc", "d2/TS_1.mrc", "TS_2.mrc"]


def test_tomograms_of_one_training_have_one_voxel_size(tmp_path: Path) -> None:
    for number, size in enumerate((10.0, 12.0)):
        write_halves(tmp_path, f"TS_{number}", voxel_size=size)
    with pytest.raises(CryodenError, match=r"TS_0.mrc and TS_1.mrc: voxels of 10 and 12 Å"):
        made(tmp_path).setup()
    data = made(tmp_path, voxel_size=11.0)
    data.setup()
    assert data.voxel_size == 11.0


def test_tomograms_are_named_by_files_or_a_table(folder: Path, tmp_path: Path) -> None:
    rows = "\n".join(f"TS_{n} {folder}/even/TS_{n}.mrc {folder}/odd/TS_{n}.mrc" for n in (1, 2))
    columns = ("rlnTomoName", "rlnTomoReconstructedTomogramHalf1", "rlnTomoReconstructedTomogramHalf2")
    star = tmp_path / "tomograms.star"
    star.write_text("data_global\n\nloop_\n" + "".join(f"_{each}\n" for each in columns) + rows + "\n")
    assert [job.inputs for job in find_halves([str(star)])] == [job.inputs for job in find_halves([str(folder)])]
    with pytest.raises(CryodenError, match="stands for all its tomograms"):
        find_halves([str(star), str(folder)])
    star.write_text(star.read_text().replace("Half1", "").replace("Half2\n", "Else\n"))
    with pytest.raises(CryodenError, match="no row has two halves"):
        find_halves([str(star)])
    with pytest.raises(CryodenError, match="inputs: none given"):
        find_halves([])
