from pathlib import Path

import pytest

from cryoden.errors import CryodenError
from cryoden.inference.jobs import Job, find_files, half_jobs, single_jobs

OUT = Path("out")


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


class TestFind:
    def test_files_folders_and_patterns(self, tmp_path, monkeypatch):
        touch(
            tmp_path,
            "b/2.rec",
            "b/1.mrc.gz",
            "b/deep/3.MAP",
            "b/notes.txt",
            "b/.hidden.mrc",
            "b/4.st",
            "a1.mrc",
            "a2.mrc",
        )
        monkeypatch.chdir(tmp_path)
        found = [str(path) for path in find_files(["a2.mrc", "b", "a*.mrc", "missing.mrc", "b/4.st"])]
        assert found == ["a2.mrc", "b/1.mrc.gz", "b/2.rec", "b/deep/3.MAP", "a1.mrc", "missing.mrc", "b/4.st"]

    def test_pattern_with_an_absolute_path(self, tmp_path):
        expected = touch(tmp_path, "x/1.rec", "y/2.rec")
        assert find_files([f"{tmp_path}/*/*.rec"]) == expected
        assert find_files([f"{tmp_path}/**/*.rec"]) == expected

    def test_nothing_there(self, tmp_path):
        with pytest.raises(CryodenError, match=r"no tomogram in this folder; looked for \.mrc, \.rec, \.map"):
            find_files([str(tmp_path)])
        with pytest.raises(CryodenError, match=r"\*\.rec: no file has such a name"):
            find_files([f"{tmp_path}/*.rec"])


class TestSingle:
    def test_results_have_the_names_of_their_inputs(self):
        jobs = single_jobs([Path("a/1.rec"), Path("a/2.mrc.gz"), Path("TS_15.00Apx.mrc")], OUT)
        assert [job.outputs[0].name for job in jobs] == ["1.mrc", "2.mrc", "TS_15.00Apx.mrc"]
        assert jobs[0] == Job("a/1.rec", (Path("a/1.rec"),), (OUT / "1.mrc",))

    def test_two_of_one_name(self):
        with pytest.raises(CryodenError, match=r"a/1\.rec and b/1\.mrc would both be written to out/1\.mrc"):
            single_jobs([Path("a/1.rec"), Path("b/1.mrc")], OUT)

    def test_into_the_folder_of_the_inputs(self):
        with pytest.raises(CryodenError, match=r"a/1\.mrc is an input and would be an output"):
            single_jobs([Path("a/1.mrc")], Path("a"))


class TestHalves:
    @pytest.mark.parametrize(
        ("first", "second", "name"),
        [
            ("TS1_EVN.mrc", "TS1_ODD.mrc", "TS1.mrc"),
            ("TS1_EVN_Vol.mrc", "TS1_ODD_Vol.mrc", "TS1_Vol.mrc"),
            ("rec_TS1_half1.mrc", "rec_TS1_half2.mrc", "rec_TS1.mrc"),
            ("TS1_even.rec", "TS1_odd.rec", "TS1.mrc"),
            ("even/TS1_15.00Apx.mrc", "odd/TS1_15.00Apx.mrc", "TS1_15.00Apx.mrc"),
        ],
    )
    def test_the_ways_programs_name_them(self, first, second, name):
        jobs, others = half_jobs([Path(second), Path("other.mrc"), Path(first)], OUT)
        assert others == [Path("other.mrc")]
        assert [(job.inputs, job.average) for job in jobs] == [((Path(first), Path(second)), OUT / name)]
        assert jobs[0].outputs == tuple((OUT / half).with_suffix(".mrc") for half in (first, second))

    def test_pairs_are_not_mixed_up(self):
        names = [f"{folder}/{ts}_{half}.mrc" for folder in "ab" for ts in ("T1", "T11") for half in ("ODD", "EVN")]
        jobs, _ = half_jobs([Path(name.replace("T1", f"{name[0]}T1")) for name in names], OUT)
        for job in jobs:
            first, second = map(str, job.inputs)
            assert first.replace("EVN", "ODD") == second
        assert len(jobs) == 4

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["T1_EVN.mrc", "T1_ODD.mrc", "T2_EVN.mrc"], r"T2_EVN\.mrc: no other half"),
            (["T1_EVN.mrc", "T2_EVN.mrc"], r"T1_EVN\.mrc \(and 1 more\): no other half"),
            (["T1_EVN.mrc", "T1_even.mrc", "T1_ODD.mrc"], r"both half 1 of T1\.mrc; leave one out"),
            (["T1.mrc"], "no half tomograms among the input"),
            (["a/T1_EVN.mrc", "b/T1_ODD.mrc"], "no other half beside it"),
        ],
    )
    def test_doubt_stops(self, names, message):
        with pytest.raises(CryodenError, match=message):
            half_jobs([Path(name) for name in names], OUT)
