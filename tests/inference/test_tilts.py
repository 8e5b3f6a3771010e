"""Files that tell between which tilts a tomogram was measured."""

from pathlib import Path

import pytest

from cryoden.errors import CryodenError
from cryoden.inference.star import star_jobs
from cryoden.inference.tilts import TiltRange, find_tilts, read_tilts

MDOC = (
    "PixelSpacing = 2.1\n\n[ZValue = 0]\nTiltAngle = 0.01\n\n[ZValue = 1]\nTiltAngle = -51.2\nx = 1\n\n[ZValue = 2]\n"
)
MDOC += "TiltAngle = 60.1\n"
SERIES = "data_TS_1\n\nloop_\n_rlnTomoNominalStageTiltAngle #1\n{}\n0 {}\n-54 {}\n48 {}\n"
RECORDED = SERIES.format("", "", "", "")
ALIGNED = SERIES.format("_rlnTomoYTilt #2", "3", "-51", "51")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.tlt", " -60.00\n   0.50\n  57.30\n\n", (-60, 57.3)),
        ("a.rawtlt", "0 1\n3 2\n-42 3\n", (-42, 3)),
        ("a.mdoc", MDOC, (-51.2, 60.1)),
        ("a.mrc.mdoc", MDOC.replace("\n", "\r\n"), (-51.2, 60.1)),
        ("a.star", RECORDED, (-54, 48)),
        ("a.star", ALIGNED, (-51, 51)),
        ("a_degradation.json", '{"tilt_range": [-48.5, 54]}', (-48.5, 54)),
    ],
)
def test_each_program_tells_its_tilts(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    assert read_tilts(tmp_path / name) == TiltRange(*told, name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tlt", b"", "a.tlt tells no tilts"),
        ("a.tlt", b"tilts\n", "tells no tilts .*could not convert"),
        ("a.tlt", b"\xff\xfe\x00", "tells no tilts"),
        ("a.tlt", b"3.0\n", r"tilt range 3 to 3 \(a.tlt\): allowed are degrees between -90 and 90"),
        ("a.tlt", b"-60\n120\n", "tilt range -60 to 120"),
        ("a.tlt", b"nan\n10\n", "tilt range nan"),
        ("a.mdoc", b"[ZValue = 0]\nTiltAngle = \n", "tells no tilts"),
        ("a_degradation.json", b'{"tilt_range": null}', "tells no tilts"),
        ("a_degradation.json", b"[" * 100_000, "tells no tilts"),
        ("a.star", b"data_\nloop_\n_rlnTomoName #1\nTS_1\n", "no RELION 5 table of a tilt series: no block"),
        ("a.star", RECORDED.replace("-54", "x").encode(), "a rlnTomoNominalStageTiltAngle is no number"),
        ("a.tlt", b"1\n" * 5_000_001, "too many for a list of tilts"),
    ],
)
def test_what_tells_no_tilts_is_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CryodenError, match=message):
        read_tilts(tmp_path / name)
    with pytest.raises(CryodenError, match=r"cannot read nowhere.tlt: No such file"):
        read_tilts("nowhere.tlt")


def test_the_file_beside_a_tomogram_that_is_most_its_own_tells(tmp_path):
    """Words after a name may be dropped, a number may not: the tilts of TS_1 are not those of TS_2."""
    names = ("TS_1_full_rec.mrc", "TS_2_9.10Apx.mrc", "TS_3.mrc.gz", "scene_0_half1.mrc")
    (tmp_path / "TS.tlt").write_text("-1\n1\n")
    assert [find_tilts(tmp_path / name) for name in names] == [None] * 4
    (tmp_path / "TS_1.mrc.mdoc").write_text(MDOC)
    (tmp_path / "TS_2.rawtlt").write_text("-42\n42\n")
    (tmp_path / "TS_3.tlt").write_text("-30\n33\n")
    (tmp_path / "scene_0_degradation.json").write_text('{"tilt_range": [-48, 54]}')
    (tmp_path / "scene_0_tilts.tlt").write_text("broken")  # of a name that no word leads to
    found = [find_tilts(tmp_path / name) for name in names]
    assert [each.source for each in found if each] == [
        "TS_1.mrc.mdoc",
        "TS_2.rawtlt",
        "TS_3.tlt",
        "scene_0_degradation.json",
    ]
    (tmp_path / "TS_1.rawtlt").write_text("-42\n42\n")
    (tmp_path / "TS_1_full.tlt").write_text("-36\n42\n")
    assert find_tilts(tmp_path / names[0]) == (-36, 42, "TS_1_full.tlt")
    assert find_tilts(tmp_path / names[0], tmp_path / "TS_3.tlt") == (-30, 33, "TS_3.tlt")


def test_a_table_of_tomograms_leads_to_the_tables_of_their_tilts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tilts").mkdir()
    Path("tilts/TS_1.star").write_text(ALIGNED)
    columns = "_rlnTomoName #1\n_rlnTomoTiltSeriesStarFile #2\n_rlnTomoReconstructedTomogram #3\n"
    Path("tomograms.star").write_text(f"data_global\n\nloop_\n{columns}TS_1 tilts/TS_1.star a.mrc\nTS_2 None b.mrc\n")
    jobs = star_jobs(Path("tomograms.star"), Path("out"))[0].values()
    assert [job.tilts and find_tilts(job.inputs[0], job.tilts) for job in jobs] == [(-51, 51, "TS_1.star"), None]
