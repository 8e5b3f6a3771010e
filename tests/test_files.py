"""Files are written whole or not at all, and nothing is replaced unasked."""

import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cryoden.errors import CryodenError
from cryoden.files import claimed, refuse_existing, tell_size, whole_file, write_text
from cryoden.signals import Stopped


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.txt"
    with whole_file(path, overwrite=False) as partial:
        partial.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half"
    assert list(path.parent.iterdir()) == [path]


def test_what_was_there_stays_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with whole_file(path, overwrite=True) as partial:
            partial.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [Stopped(signal.SIGTERM), OSError(errno.ENOSPC, "No space left")])
def test_a_store_stays_where_what_replaces_it_is_stopped_between_two_moves(tmp_path, monkeypatch, error) -> None:
    path = tmp_path / "a.zarr"
    path.mkdir()
    (path / "zarr.json").write_text("old")
    replace = Path.replace

    def and_stop(source: Path, target: Path) -> None:
        replace(source, target)
        if source == path:
            raise error

    monkeypatch.setattr(Path, "replace", and_stop)
    with pytest.raises((Stopped, CryodenError)), whole_file(path, overwrite=True) as partial:
        partial.mkdir()
    assert (path / "zarr.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old", overwrite=False)
    with pytest.raises(CryodenError, match=r"a\.txt exists; choose another name or allow overwriting"):
        write_text(path, "new", overwrite=False)
    assert path.read_text() == "old"
    write_text(path, "new", overwrite=True)
    assert path.read_text() == "new"


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    refuse_existing(tmp_path, overwrite=False)
    (tmp_path / "a.txt").touch()
    with pytest.raises(CryodenError, match="is a folder that is not empty; choose another name"):
        refuse_existing(tmp_path, overwrite=False)
    refuse_existing(tmp_path, overwrite=True)


def test_a_disk_that_refuses_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CryodenError, match=r"cannot make the folder .*file: File exists"):
        write_text(tmp_path / "file" / "a.txt", "", overwrite=False)


def test_leftovers_of_killed_processes_go_and_those_of_living_ones_and_other_machines_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with whole_file(tmp_path / "x", overwrite=False) as partial:
        partial.touch()
        pattern = partial.name.replace(str(os.getpid()), "{}").replace(".x.", ".{}.")
    (tmp_path / "x").unlink()
    for name in ("a.txt", "b[1].txt"):
        (tmp_path / pattern.format(name, dead.pid)).touch()
    for name in ("c.zarr", "d.zarr"):  # killed between two moves, and after them
        (tmp_path / pattern.format(name, dead.pid).replace(".part", ".before")).mkdir()
    (tmp_path / "d.zarr").touch()
    elsewhere = [f".a.txt.othermachine.{dead.pid}.part", ".a.part", f".a.{'9' * 30}.part", ".rsync.part"]
    for name in elsewhere:
        (tmp_path / name).touch()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        theirs = pattern.format("a.txt", alive.pid)
        (tmp_path / theirs).touch()
        write_text(tmp_path / "a.txt", "", overwrite=False)
        assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "c.zarr", "d.zarr", theirs, *elsewhere}
        assert (tmp_path / "d.zarr").is_file()
        alive.communicate(b"\n")


CLAIM = """
import sys, time
from pathlib import Path
from cryoden.files import claimed
with claimed(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_makes_a_file_and_a_killed_one_hinders_nobody(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with subprocess.Popen([sys.executable, "-c", CLAIM, str(path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with claimed(path, wait=False) as free:
            assert not free
        other.kill()
        with claimed(path) as free:
            assert free
    assert list(tmp_path.iterdir()) == []


def test_what_several_let_go_of_and_take_again_is_had_by_each(tmp_path: Path) -> None:
    """Often enough that one looks for a lock that another is just removing."""

    def take(number: int) -> None:
        for _ in range(1500):
            with claimed(tmp_path / "a.txt"):
                held.append(number)
                assert held == [number]
                held.clear()

    held: list[int] = []
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(take, range(4)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_a_file_system_has_no_locks_nothing_is_refused(tmp_path: Path, monkeypatch, number: int) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("cryoden.files.fcntl.flock", flock)
    with claimed(tmp_path / "a.txt") as ours, claimed(tmp_path / "a.txt", wait=False) as ours_too:
        assert ours
        assert ours_too
    assert list(tmp_path.iterdir()) == []
    number = errno.EIO
    with pytest.raises(CryodenError, match=r"cannot write .*a\.txt: Input/output error"), claimed(tmp_path / "a.txt"):
        pass


def test_sizes_in_words() -> None:
    told = [tell_size(size) for size in (0, 999, 161280, 3_000_000_000, 10**15)]
    assert told == ["0 bytes", "999 bytes", "161.28 kB", "3 GB", "1000 TB"]
