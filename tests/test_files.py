"""Files are written whole or not at all, and nothing is replaced unasked."""

import subprocess
import sys
from pathlib import Path

import pytest

from cryoden.errors import CryodenError
from cryoden.files import refuse_existing, whole_file, write_text


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
    with pytest.raises(CryodenError, match=r"cannot write .*a\.txt: ."):
        write_text(tmp_path / "file" / "a.txt", "", overwrite=False)


def test_leftovers_of_a_killed_process_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leftover, other = tmp_path / f".a.txt.{dead.pid}.part", tmp_path / f".b.txt.{dead.pid}.part"
    leftover.touch()
    other.touch()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        theirs = tmp_path / f".a.txt.{alive.pid}.part"
        theirs.touch()
        write_text(tmp_path / "a.txt", "", overwrite=False)
        assert {path.name for path in tmp_path.iterdir()} == {"a.txt", theirs.name, other.name}
        alive.communicate(b"\n")
