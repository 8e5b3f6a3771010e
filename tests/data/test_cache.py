import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoden import CryodenError, GaussianNoise, ParticleDataModule, SceneDataModule
from cryoden.data.base import TRAIN, VALIDATION
from cryoden.particles import DensityMap, load_particle
from tests.data.counting import Counting, counting
from tests.data.made import made


def equal(one: dict, other: dict) -> bool:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name]), name
            assert value.dtype == other[name].dtype
        elif name == "placements":
            for a, b in zip(value, other[name], strict=True):
                assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
                assert all(x.dtype == y.dtype for x, y in zip(a[1:], b[1:], strict=True))
        else:
            assert value == other[name], name
    return True


@pytest.mark.parametrize("kind", [ParticleDataModule, SceneDataModule])
def test_cached_items_are_the_uncached_ones_of_the_first_epoch(kind: type, tmp_path: Path) -> None:
    plain, kept = made(kind, fresh=False), made(kind, cache=str(tmp_path))
    for split in (TRAIN, VALIDATION):
        expected, cached = plain._dataset(split), kept._dataset(split)
        expected.degrade = True
        assert len(expected) == len(cached)
        for index in range(len(expected)):
            assert equal(expected[0, index], cached[0, index])  # made
            assert equal(expected[0, index], cached[3, index])  # read
    batch = next(iter(kept.train_dataloader()))
    assert "degraded" in kept.on_after_batch_transfer(batch, 0)


def test_the_second_use_reads_and_makes_nothing(tmp_path: Path) -> None:
    first = counting(tmp_path)
    first.fill()
    assert Counting.made == 4
    again = counting(tmp_path)
    again.fill()
    assert [again[epoch, 2]["entry"] for epoch in range(3)] == ["phantom:1"] * 3
    assert Counting.made == 0
    assert isinstance(np.load(again.folder / "000002" / "clean.npy", mmap_mode="r"), np.memmap)
    changed = again[0, 2]["clean"].fill_(7)  # a private copy
    assert not torch.equal(changed, again[0, 2]["clean"])


ball = (np.square(np.indices((15, 15, 15)) - 7).sum(0) < 25).astype(np.float32)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": [1]},
        {"resolution": 30.0},
        {"degradation": [GaussianNoise(1.4)]},
        {"degradation": []},
        {"degrade": False},
        {"particles": [load_particle("phantom:2")]},
        {"particles": [DensityMap("phantom:1", ball, 10.0)]},
    ],
)
def test_changed_settings_are_not_served_old_volumes(change: dict, tmp_path: Path) -> None:
    counting(tmp_path).fill()
    changed = counting(tmp_path, **change)
    changed.fill()
    assert Counting.made == 4
    assert len({path.name for path in tmp_path.iterdir()}) == 2
    settings = [json.loads((path / "settings.json").read_text()) for path in tmp_path.iterdir()]
    assert settings[0] != settings[1]


def test_a_moved_atom_or_a_residue_of_another_name_is_a_changed_setting(tmp_path: Path) -> None:
    before, again, moved, named = (load_particle("phantom:1") for _ in range(4))
    moved.model[0][0][0].pos.x += 0.5
    named.model[0][0].name = "GLY"
    folders = [counting(tmp_path, particles=[particle]).folder for particle in (before, again, moved, named)]
    assert folders[0] == folders[1]
    assert len(set(folders)) == 3


OWN = """
from dataclasses import dataclass
from cryoden.simulation.degradation import GaussianNoise

STRENGTH = 1.0

class Base(GaussianNoise):
    def apply(self, volumes, parameters):
        return STRENGTH * super().apply(volumes, parameters)

@dataclass(frozen=True)
class Own(Base):
    pass
"""


def test_a_degradation_of_ones_own_that_was_edited_is_not_served_old_volumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file that is edited within a second is read again

    def volume(text: str) -> tuple[Path, torch.Tensor]:
        (tmp_path / "of_ones_own.py").write_text(text)
        importlib.invalidate_caches()
        sys.modules.pop("of_ones_own", None)
        own = importlib.import_module("of_ones_own").Own(1.3)
        cached = counting(tmp_path / "cache", degradation=[own])
        return cached.folder, cached[0, 1]["degraded"]

    (first, before), (same, _), (other, after) = map(
        volume, (OWN, OWN, OWN.replace("STRENGTH = 1.0", "STRENGTH = 9.0"))
    )
    assert first == same != other
    assert torch.allclose(after, 9 * before)


def test_a_class_that_no_file_defines_finds_its_volumes_in_the_same_process_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def typed() -> GaussianNoise:
        names: dict = {"__name__": "__nowhere__"}
        exec(OWN, names)
        return names["Own"](1.3)

    own = typed()
    folders = [counting(tmp_path, degradation=[each]).folder for each in (own, own, typed())]
    assert folders[0] == folders[1] != folders[2]
    assert "Own: no file tells what this class does, so a cache keeps its volumes for this process alone" in caplog.text


def test_a_class_of_cryodens_is_told_by_its_name_and_the_version(tmp_path: Path) -> None:
    data = made(ParticleDataModule, cache=str(tmp_path))
    described = json.loads((data.test_volumes().folder / "settings.json").read_text())
    assert described["class"] == "cryoden.data.particles.ParticleDataset"
    assert "class source" not in json.dumps(described)


def test_workers_fill_it_together(tmp_path: Path) -> None:
    cached = counting(tmp_path)
    cached.fill(num_workers=2, first=3)
    assert Counting.made == 0  # others made them
    for index in range(4):
        assert equal(cached.dataset[0, index], cached[0, index])


KILLED = """
import os, signal, sys
import numpy as np
from cryoden.data import cache
from tests.data.counting import counting

saved = 0
save = np.save
def dying(path, array):
    global saved
    saved += 1
    if saved == 6:  # four arrays an item: in the middle of the second
        path.write_bytes(b"half an array")
        os.kill(os.getpid(), signal.SIGKILL)
    save(path, array)
cache.np.save = dying
counting(sys.argv[1]).fill()
"""


def test_a_killed_writer_leaves_nothing_half_written(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[2])
    assert run.returncode == -signal.SIGKILL
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.glob("00*"))) == 1
    assert len(list(folder.glob(".*.part"))) == 1
    cached = counting(tmp_path)
    assert not list(folder.glob(".*.part"))
    cached.fill()
    assert Counting.made == 3  # what was finished counts
    for index in range(4):
        assert equal(cached.dataset[0, index], cached[0, index])


def test_the_parts_of_a_living_writer_are_left_alone(tmp_path: Path) -> None:
    cached = counting(tmp_path)
    ours = cached.folder / ".somewhere-else~1~abc.part"
    ours.mkdir()
    counting(tmp_path)
    assert ours.is_dir()


def test_what_a_killed_process_of_our_number_left_is_replaced(tmp_path: Path) -> None:
    """A container that starts again has the same host name, and the same numbers of processes."""
    cached = counting(tmp_path)
    left = cached.folder / f".{socket.gethostname()}~{os.getpid()}~000001.part"
    left.mkdir()
    (left / "clean.npy").write_bytes(b"half an array")
    assert equal(cached[0, 1], cached.dataset[0, 1])
    assert not left.exists()


def test_two_writers_of_one_item_do_not_mind(tmp_path: Path) -> None:
    cached = counting(tmp_path)
    item = cached[0, 1]
    cached._keep(cached._place(1), cached.dataset[0, 1])
    assert equal(item, cached[0, 1])
    assert not list(cached.folder.glob(".*.part"))


def test_a_damaged_item_and_a_bad_folder_are_told(tmp_path: Path) -> None:
    cached = counting(tmp_path / "a")
    cached.fill()
    (cached.folder / "000001" / "clean.npy").write_bytes(b"")
    with pytest.raises(CryodenError, match=r"000001: cannot be read: .*; delete it, and it is made again"):
        cached[0, 1]
    (tmp_path / "file").touch()
    with pytest.raises(CryodenError, match=r"cache .*file: cannot be written to: "):
        counting(tmp_path / "file")
