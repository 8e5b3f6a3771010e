from pathlib import Path

import pytest
import starfile

from cryoden.errors import CryodenError
from cryoden.inference.jobs import Job
from cryoden.inference.star import check_star, star_jobs, write_star

HALVES = """data_general

_rlnSomething 7

data_global

loop_
_rlnTomoName #1
_rlnVoltage #2
_rlnTomoReconstructedTomogramHalf1 #3
_rlnTomoReconstructedTomogramHalf2 #4
_anotherProgram #5
TS_1 300.0 Tomograms/job1/rec_TS_1_half1.mrc Tomograms/job1/rec_TS_1_half2.mrc x
TS_2 300.0 Tomograms/job1/rec_TS_2_half1.mrc Tomograms/job1/rec_TS_2_half2.mrc y
"""
COLUMNS = ("rlnTomoReconstructedTomogramHalf1", "rlnTomoReconstructedTomogramHalf2")
WHOLE = """data_global

loop_
_rlnTomoName #1
_rlnTomoReconstructedTomogram #2
TS_1 a.mrc
"""


def project(folder: Path, text: str) -> Path:
    (folder / "Tomograms/job1").mkdir(parents=True)
    for number in (1, 2):
        for half in (1, 2):
            (folder / f"Tomograms/job1/rec_TS_{number}_half{half}.mrc").touch()
    (folder / "Tomograms/job1/tomograms.star").write_text(text)
    return folder / "Tomograms/job1/tomograms.star"


def jobs_of(star: Path) -> list[Job]:
    jobs, told = star_jobs(star, Path("out"))
    assert told == []
    return list(jobs.values())


def rewritten(folder: Path, text: str) -> str:
    star = project(folder, text)
    write_star(star, folder / "new.star", star_jobs(star, Path("out"))[0])
    return (folder / "new.star").read_bytes().decode()


@pytest.mark.parametrize("inside", [True, False])
def test_halves_are_found_from_the_project_folder_or_elsewhere(tmp_path, monkeypatch, inside):
    star = project(tmp_path / "project", HALVES)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / ("project" if inside else "elsewhere"))
    jobs = jobs_of(star)
    assert [job.name for job in jobs] == ["TS_1", "TS_2"]
    assert all(path.exists() for job in jobs for path in job.inputs)
    assert [path.name for path in jobs[1].inputs] == ["rec_TS_2_half1.mrc", "rec_TS_2_half2.mrc"]
    assert jobs[1].average == Path("out/TS_2.mrc")


def test_everything_is_kept_and_a_column_added(tmp_path):
    """As another program reads it."""
    rewritten(tmp_path, HALVES)
    before, after = (starfile.read(tmp_path / name) for name in ("Tomograms/job1/tomograms.star", "new.star"))
    assert after["general"] == before["general"]
    added = after["global"].pop("rlnTomoReconstructedTomogramDenoised")
    assert list(added) == ["out/TS_1.mrc", "out/TS_2.mrc"]
    assert after["global"].equals(before["global"])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_was_not_changed_is_the_same_text(tmp_path, end):
    text = HALVES.replace("TS_1 300.0 ", "00255\t3e2 ").replace("TS_2", "'TS 2'", 1) + "\ndata_more\n_x  1\n"
    text = text.replace("\n", end)
    after = rewritten(tmp_path, text)
    for added in (f"_rlnTomoReconstructedTomogramDenoised #6{end}", "\tout/00255.mrc", ' "out/TS 2.mrc"'):
        assert after.count(added) == 1
        after = after.replace(added, "")
    assert after == text


def test_a_column_that_is_there_already_is_filled_anew(tmp_path):
    once = rewritten(tmp_path / "a", WHOLE)
    assert rewritten(tmp_path / "b", once.replace("out/", "old/")) == once


def test_names_are_text(tmp_path):
    jobs = jobs_of(project(tmp_path, WHOLE.replace("TS_1", "00255")))
    assert (jobs[0].name, jobs[0].outputs) == ("00255", (Path("out/00255.mrc"),))


@pytest.mark.parametrize(
    "text",
    [
        WHOLE,
        WHOLE.replace("Tomogram #2", "TomogramDenoised #2"),
        "data_\n_rlnTomoName a/b\n_rlnTomoReconstructedTomogramDenoised x\n",
        "not a table",
    ],
)
def test_only_a_table_of_denoised_tomograms_is_replaced_unasked(tmp_path, monkeypatch, text):
    star, target = project(tmp_path, HALVES), tmp_path / "out/tomograms.star"
    target.parent.mkdir()
    monkeypatch.chdir(tmp_path)
    check_star(target, overwrite=False)
    write_star(star, target, star_jobs(star, Path("out"))[0])
    check_star(target, overwrite=False)
    (target.parent / "TS_1.mrc").touch()
    (target.parent / "TS_2.mrc").touch()
    monkeypatch.chdir(target.parent)
    check_star(target, overwrite=False)
    target.write_text(text)
    check_star(target, overwrite=True)
    with pytest.raises(CryodenError, match=r"tomograms\.star exists, and is no table of tomograms denoised in this"):
        check_star(target, overwrite=False)


def test_a_table_that_is_no_loop(tmp_path):
    text = "data_global\n\n_rlnTomoName TS_1\n_rlnTomoReconstructedTomogram a.mrc\n\n"
    added = "_rlnTomoReconstructedTomogramDenoised out/TS_1.mrc\n"
    assert rewritten(tmp_path / "a", text) == text[:-1] + added + "\n"
    assert rewritten(tmp_path / "b", text[:-1] + added.replace("out", "old")) == text[:-1] + added


def test_rows_without_halves_fall_back_or_are_told(tmp_path):
    both = HALVES.replace("_anotherProgram", "_rlnTomoReconstructedTomogram").replace(" x\n", " None\n")
    first, second = jobs_of(project(tmp_path / "a", both))
    assert (first.average, second.average) == (Path("out/TS_1.mrc"), Path("out/TS_2.mrc"))
    halved = "Tomograms/job1/rec_TS_2_half1.mrc Tomograms/job1/rec_TS_2_half2.mrc"
    _, second = jobs_of(project(tmp_path / "b", both.replace(halved, "None None")))
    assert (second.inputs, second.average) == ((Path("y"),), None)
    star = project(tmp_path / "c", HALVES.replace(halved, "None None"))
    jobs, told = star_jobs(star, Path("out"))
    assert [job.name for job in jobs.values()] == ["TS_1"]
    assert told == [f"{star}, line 14: TS_2 has no {' and no '.join(COLUMNS)}; left out"]
    write_star(star, tmp_path / "new.star", jobs)
    assert starfile.read(tmp_path / "new.star")["global"]["rlnTomoName"].tolist() == ["TS_1"]


def test_whole_tomograms(tmp_path):
    jobs = jobs_of(project(tmp_path, WHOLE))
    assert [(job.inputs, job.outputs, job.average) for job in jobs] == [
        ((Path("a.mrc"),), (Path("out/TS_1.mrc"),), None)
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no line data_"),
        (WHOLE + "TS_1 b.mrc\n", r"line 7: rlnTomoName TS_1 is that of line 6, too, .* name them apart"),
        (WHOLE.replace("TS_1", "None"), r"line 6: rlnTomoName is 'None'; give it a name"),
        (
            WHOLE.replace("a.mrc", "None"),
            r"no row has halves or a tomogram; .*TS_1 has no rlnTomoReconstructedTomogram",
        ),
        (WHOLE.replace("TS_1 a", "TS_1 a b"), "line 6: 3 values where the table has 2 columns; correct it"),
        (WHOLE + ";text\n", "line 7: values over several lines are not read"),
        (WHOLE.replace("Tomogram #2", "Tomogram #2\n_rlnTomoName #3"), "column rlnTomoName a second time"),
        (WHOLE.replace("rlnTomoName", "rlnName"), "no block of it has a column rlnTomoName"),
        (WHOLE.replace("ReconstructedTomogram", "Other"), "is no RELION 5 table of tomograms: it needs rlnTomoName"),
    ],
)
def test_other_files(tmp_path, text, message):
    with pytest.raises(CryodenError, match=message):
        star_jobs(project(tmp_path, text), Path("out"))
    Path(tmp_path / "b.star").write_bytes(b"\xff\x00")
    with pytest.raises(CryodenError, match=r"b\.star is not a star file"):
        star_jobs(tmp_path / "b.star", Path("out"))
    with pytest.raises(CryodenError, match=r"cannot read missing\.star"):
        star_jobs(Path("missing.star"), Path("out"))
