import sys
from pathlib import Path

import pytest

from cryoden.errors import CryodenError
from cryoden.inference.jobs import Job, check_jobs, find_files, half_jobs, single_jobs

OUT = Path("out")


def named(*names: str) -> dict[Path, Path]:
    """Files as they are found where each was named."""
    return {Path(name): Path(Path(name).name) for name in names}


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
        for pattern in ("*/*.rec", "**/*.rec"):
            found = find_files([f"{tmp_path}/{pattern}"])
            assert list(found) == expected
            assert list(found.values()) == [Path("x/1.rec"), Path("y/2.rec")]

    @pytest.mark.skipif(sys.version_info >= (3, 13), reason="there it is a pattern, as is *.mrc")
    def test_what_is_no_pattern_is_told(self):
        with pytest.raises(CryodenError, match=r"\*\*\.mrc: no such pattern: \*\* stands for whole folders, as in"):
            find_files(["**.mrc"])

    def test_subfolders_are_those_of_the_folder_or_of_the_pattern(self, tmp_path):
        touch(tmp_path, "days/day1/TS_1.mrc", "days/day2/TS_1.mrc")
        below = [Path("day1/TS_1.mrc"), Path("day2/TS_1.mrc")]
        for word in ("days", "days/*/TS_1.mrc", "days/day?/*"):
            assert list(find_files([f"{tmp_path}/{word}"]).values()) == below
        assert list(find_files([f"{tmp_path}/days/day2/TS_1.mrc"]).values()) == [Path("TS_1.mrc")]

    def test_results_within_a_folder_that_is_searched_are_no_input(self, tmp_path):
        (source, _) = touch(tmp_path, "TS_1.mrc", "denoised/deep/TS_1.mrc")
        for word in (str(tmp_path), f"{tmp_path}/**/*.mrc"):
            assert list(find_files([word], tmp_path / "denoised")) == [source]
        assert len(find_files([str(tmp_path)], tmp_path)) == 2

    @pytest.mark.parametrize(
        ("word", "names"),
        [
            (".", ["a.mrc"]),
            ("*.mrc", ["a.mrc"]),
            ("**/*.mrc", ["a.mrc"]),
            ("*/*.mrc", []),
            ("._*", ["._a.mrc"]),
            (".Trash/*", [".Trash/b.mrc"]),
            ("**/.T*/*.mrc", [".Trash/b.mrc"]),
        ],
    )
    def test_what_is_hidden_is_meant_only_where_a_pattern_has_its_dot(self, tmp_path, word, names):
        touch(tmp_path, "a.mrc", "._a.mrc", ".Trash/b.mrc", ".Trash/.c.mrc")
        if names:
            assert list(find_files([f"{tmp_path}/{word}"])) == [tmp_path / name for name in names]
        else:
            with pytest.raises(CryodenError, match="no file has such a name"):
                find_files([f"{tmp_path}/{word}"])

    @pytest.mark.parametrize("back", ["in/raw/back -> in", "in/raw/back -> .", "elsewhere/back -> in"])
    def test_links_are_followed_but_not_back(self, tmp_path, back):
        touch(tmp_path, "in/raw/a.mrc", "elsewhere/b.mrc")
        for link, target in (back.split(" -> "), ("in/other", "elsewhere")):
            (tmp_path / link).symlink_to(tmp_path / target)
        assert list(find_files([f"{tmp_path}/in"]).values()) == [Path("other/b.mrc"), Path("raw/a.mrc")]

    def test_nothing_there(self, tmp_path):
        with pytest.raises(CryodenError, match=r"no tomogram in this folder; looked for \.mrc, \.rec, \.map"):
            find_files([str(tmp_path)])
        with pytest.raises(CryodenError, match=r"\*\.rec: no file has such a name"):
            find_files([f"{tmp_path}/*.rec"])


class TestSingle:
    def test_results_have_the_names_and_subfolders_of_their_inputs(self):
        jobs = single_jobs({**named("a/1.rec", "a/2.mrc.gz", "TS_15.00Apx"), Path("b/c/3.st"): Path("c/3.st")}, OUT)
        assert [str(job.outputs[0]) for job in jobs] == ["out/1.mrc", "out/2.mrc", "out/TS_15.00Apx.mrc", "out/c/3.mrc"]
        assert jobs[0] == Job("a/1.rec", (Path("a/1.rec"),), (OUT / "1.mrc",))


class TestGate:
    def refused(self, message: str, *jobs: Job, folder: Path | None = OUT) -> None:
        with pytest.raises(CryodenError, match=message):
            check_jobs(jobs, folder)

    def test_two_with_one_result(self):
        jobs = single_jobs(named("a/1.rec", "b/1.mrc"), OUT)
        self.refused(
            r"a/1\.rec .* and b/1\.mrc .* would both be written to out/1\.mrc: .*, or give a folder above", *jobs
        )
        self.refused(
            "both be written", Job("a", (Path("1"),), (OUT / "x.mrc",)), Job("b", (Path("2"),), (OUT / "y/../x.mrc",))
        )

    def test_over_an_input(self, tmp_path):
        self.refused(
            r"a/1\.mrc is an input and would be an output", *single_jobs(named("a/1.mrc"), Path("a")), folder=Path("a")
        )
        (raw, other) = touch(tmp_path, "raw.mrc", "other.mrc")
        self.refused("is an input", Job("x", (raw,), (raw,)), folder=None)
        (tmp_path / "soft.mrc").symlink_to(raw)
        (tmp_path / "hard.mrc").hardlink_to(raw)
        for link in ("soft.mrc", "hard.mrc", "../" + tmp_path.name + "/raw.mrc"):
            self.refused("is an input", Job("x", (raw,), (tmp_path / link,)), folder=tmp_path)
            self.refused(
                "is an input",
                Job("1", (other,), (tmp_path / link,)),
                Job("2", (raw,), (tmp_path / "y.mrc",)),
                folder=tmp_path,
            )

    def test_over_an_input_by_the_picture_beside_it(self):
        self.refused(r"x\.png is an input", Job("x", (OUT / "x.png",), (OUT / "x.mrc",)))

    @pytest.mark.parametrize("name", ["../x.mrc", "/x.mrc", "a/../../x.mrc", "link/x.mrc"])
    def test_outside_the_folder(self, tmp_path, name):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/link").symlink_to(tmp_path)
        self.refused("outside the folder", Job("x", (Path("a"),), (tmp_path / "out" / name,)), folder=tmp_path / "out")

    @pytest.mark.parametrize("name", ["x" * 197, "é" * 120, "a\0b", "a\nb"])
    def test_names_that_no_disk_takes(self, name):
        self.refused("a name has at most 200 bytes, all printable", Job("x", (Path("a"),), (OUT / f"{name}.mrc",)))

    def test_open_to_all_else(self):
        check_jobs(single_jobs(find_files(["a/1.mrc", "b/2.mrc"]), OUT), OUT)
        check_jobs([Job("x", (Path("a.mrc"),), (Path("../b.mrc"),))])


class TestHalves:
    @pytest.mark.parametrize(
        ("first", "second", "name"),
        [
            ("TS1_EVN.mrc", "TS1_ODD.mrc", "TS1.mrc"),
            ("TS1_EVN_Vol.mrc", "TS1_ODD_Vol.mrc", "TS1_Vol.mrc"),
            ("rec_TS1_half1.mrc", "rec_TS1_half2.mrc", "rec_TS1.mrc"),
            ("TS1_even.rec", "TS1_odd.rec", "TS1.mrc"),
            ("even/TS1_15.00Apx.mrc", "odd/TS1_15.00Apx.mrc", "TS1_15.00Apx.mrc"),
            ("EVN/TS1_EVN.mrc", "ODD/TS1_ODD.mrc", "TS1.mrc"),
            ("EVN/TS1.mrc", "ODD/TS1.mrc", "TS1.mrc"),
            ("half1/TS1.mrc", "HALF2/TS1.mrc", "TS1.mrc"),
            ("TS1_Even.mrc", "TS1_ODD.mrc", "TS1.mrc"),
            ("TS1_even_10.00Apx.mrc", "TS1_odd_10.00Apx.mrc", "TS1_10.00Apx.mrc"),
        ],
    )
    def test_the_ways_programs_name_them(self, first, second, name):
        jobs, others = half_jobs(named(second, "other.mrc", first), OUT)
        assert others == [Path("other.mrc")]
        assert [(job.inputs, job.average) for job in jobs] == [((Path(first), Path(second)), OUT / name)]
        assert jobs[0].outputs == tuple((OUT / half).with_suffix(".mrc") for half in (first, second))

    def test_pairs_are_not_mixed_up(self):
        names = [f"{folder}/{ts}_{half}.mrc" for folder in "ab" for ts in ("T1", "T11") for half in ("ODD", "EVN")]
        jobs, _ = half_jobs(named(*(name.replace("T1", f"{name[0]}T1") for name in names)), OUT)
        for job in jobs:
            first, second = map(str, job.inputs)
            assert first.replace("EVN", "ODD") == second
        assert len(jobs) == 4

    def test_only_a_last_mark_counts(self):
        jobs, others = half_jobs(named("an_odd_cell_TS1.mrc", "an_even_cell_TS1.mrc", "T_EVN.mrc", "T_ODD.mrc"), OUT)
        assert [job.name for job in jobs] == ["T.mrc"]
        assert len(others) == 2

    def test_a_whole_folder_of_warp(self, tmp_path):
        touch(tmp_path, *(f"{day}/{kind}T_8.00Apx.mrc" for day in "ab" for kind in ("", "deconv/", "even/", "odd/")))
        jobs, others = half_jobs(find_files([str(tmp_path)]), OUT)
        assert [job.average for job in jobs] == [OUT / day / "T_8.00Apx.mrc" for day in "ab"]
        assert jobs[1].outputs == (OUT / "b/even/T_8.00Apx.mrc", OUT / "b/odd/T_8.00Apx.mrc")
        assert len(others) == 4
        check_jobs(jobs, OUT)

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
            half_jobs(named(*names), OUT)
