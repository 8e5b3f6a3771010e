from pathlib import Path

import pytest
import starfile

from cryoden.errors import CryodenError
from cryoden.inference.star import star_jobs, write_star

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


@pytest.mark.parametrize("inside", [True, False])
def test_halves_are_found_from_the_project_folder_or_elsewhere(tmp_path, monkeypatch, inside):
    star = project(tmp_path / "project", HALVES)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / ("project" if inside else "elsewhere"))
    jobs = star_jobs(star, Path("out"))
    assert [job.name for job in jobs] == ["TS_1", "TS_2"]
    assert all(path.exists() for job in jobs for path in job.inputs)
    assert [path.name for path in jobs[1].inputs] == ["rec_TS_2_half1.mrc", "rec_TS_2_half2.mrc"]
    assert jobs[1].average == Path("out/TS_2.mrc")


def test_everything_is_kept_and_a_column_added(tmp_path):
    star = project(tmp_path, HALVES)
    write_star(star, tmp_path / "new.star", star_jobs(star, Path("out")))
    before, after = starfile.read(star), starfile.read(tmp_path / "new.star")
    assert after["general"] == before["general"]
    added = after["global"].pop("rlnTomoReconstructedTomogramDenoised")
    assert list(added) == ["out/TS_1.mrc", "out/TS_2.mrc"]
    assert after["global"].equals(before["global"])


def test_whole_tomograms(tmp_path):
    jobs = star_jobs(project(tmp_path, WHOLE), Path("out"))
    assert [(job.inputs, job.outputs, job.average) for job in jobs] == [
        ((Path("a.mrc"),), (Path("out/TS_1.mrc"),), None)
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no block of it has a column rlnTomoName|is not a star file"),
        (WHOLE.replace("rlnTomoName", "rlnName"), "no block of it has a column rlnTomoName"),
        (WHOLE.replace("ReconstructedTomogram", "Other"), "is no RELION 5 table of tomograms: it needs rlnTomoName"),
    ],
)
def test_other_files(tmp_path, text, message):
    with pytest.raises(CryodenError, match=message):
        star_jobs(project(tmp_path, text), Path("out"))
    with pytest.raises(CryodenError, match=r"cannot read missing\.star"):
        star_jobs(Path("missing.star"), Path("out"))
