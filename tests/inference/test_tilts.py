"""Files that tell between which tilts a tomogram was measured."""

import re
from pathlib import Path

import alnfile
import mdocfile
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
ALN = """# AreTomo Alignment / Priims bprmMn
# RawSize = 4096 4096 4
# NumPatches = 1
# DarkFrame =     0    1   -60.02
# AlphaOffset =     0.00
# BetaOffset =     0.00
# SEC     ROT         GMAG       TX          TY      SMEAN     SFIT    SCALE     BASE     TILT
    0   -85.1000    1.00000     -3.100      7.200     1.00     1.00     1.00     0.00    -51.98
    1   -85.1000    1.00000      0.000      0.000     1.00     1.00     1.00     0.00      0.02
    2   -85.1000    1.00000      2.100     -4.300     1.00     1.00     1.00     0.00     54.01
# Local Alignment
   0   0   100.00    200.00      1.00      2.00   1.0
"""
WARP = """<?xml version="1.0" encoding="utf-16"?>
<TiltSeries DataDirectory="" AreAnglesInverted="False" PlaneNormal="0, 0, 1">
  <Angles>-60
-30
0
57</Angles>
  <UseTilt>False
True
True
True</UseTilt>
</TiltSeries>
"""
TOMOSTAR = "data_\n\nloop_\n_wrpMovieName #1\n_wrpAngleTilt #2\n_wrpAxisAngle #3\n../a.mrc -57.1 84\n../b.mrc 60 84\n"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.tlt", " -60.00\n   0.50\n  57.30\n\n", (-60, 57.3)),
        ("a.rawtlt", "0 1\n3 2\n-42 3\n", (-42, 3)),
        ("a.mdoc", MDOC, (-51.2, 60.1)),
        ("a.mrc.mdoc", MDOC.replace("\n", "\r\n"), (-51.2, 60.1)),
        ("a.aln", ALN, (-51.98, 54.01)),  # without the dark image
        ("a.xml", WARP, (-30, 57)),  # without what is not used
        ("a.xml", WARP[: WARP.index("  <UseTilt")] + "</TiltSeries>", (-60, 57)),
        ("a.tomostar", TOMOSTAR, (-57.1, 60)),
        ("a.star", RECORDED, (-54, 48)),
        ("a.star", ALIGNED, (-51, 51)),
        ("a_degradation.json", '{"tilt_range": [-48.5, 54]}', (-48.5, 54)),
        ("a_degradation.json", '{"tilt_range": null}', (-90, 90)),  # no wedge was simulated
    ],
)
def test_each_program_tells_its_tilts(tmp_path, name, text, told):
    (tmp_path / name).write_text(text, encoding="utf-16" if "utf-16" in text else "utf-8")
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
        ("a_degradation.json", b'{"tilt": null}', "tells no tilts"),
        ("a_degradation.json", b"[" * 100_000, "tells no tilts"),
        ("a.aln", ALN.partition("    1")[0].encode()[:-30], "tells no tilts"),
        ("a.xml", b"<TiltSeries/>", "tells no tilts"),
        ("a.xml", b"<TiltSeries><Angles>1 2</Angles><UseTilt>True</UseTilt></TiltSeries>", "tells no tilts"),
        ("a.xml", b"<TiltSeries", "tells no tilts .ParseError"),
        ("a.xf", b"1 0 0 1 3.2 -1.5\n", "a.xf tells how images were turned and shifted, .*: give the .tlt that goes"),
        ("a.tomostar", TOMOSTAR.replace("60", "x").encode(), "a wrpAngleTilt is no number"),
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


@pytest.mark.parametrize(
    "numbers", ["60", "-60,60", "(-60,60)", "[-60 60]", "[nan,60]", "-Inf, 60", "[-60,60,1]", "-60:60", "±60°"]
)
def test_numbers_that_are_no_range_are_no_file_either(tmp_path, monkeypatch, numbers):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CryodenError, match=re.escape(f"got {numbers}; give both ends, such as '[-60, 60]'")):
        read_tilts(numbers)


def test_a_file_may_be_called_like_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("60").write_text("-60\n57\n")
    assert read_tilts("60") == TiltRange(-60, 57, "60")


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


def test_what_the_tomogram_was_made_with_goes_before_what_was_recorded(tmp_path):
    for name, text in (("TS_1.mdoc", MDOC), ("TS_1.tomostar", TOMOSTAR), ("TS_1.mrc.aln", ALN)):
        (tmp_path / name).write_text(text)
        assert find_tilts(tmp_path / "TS_1_Vol.mrc").source == name


def test_files_of_warp_lie_above_its_folder_of_tomograms(tmp_path):
    (tmp_path / "warp_tiltseries/reconstruction/even").mkdir(parents=True)
    (tmp_path / "warp_tiltseries/TS_1.xml").write_text(WARP, encoding="utf-16")
    (tmp_path / "TS_1.tlt").write_text("-1\n1\n")  # of another folder
    for name in ("reconstruction/TS_1_10.00Apx.mrc", "reconstruction/even/TS_1_10.00Apx.mrc"):
        assert find_tilts(tmp_path / "warp_tiltseries" / name) == (-30, 57, "TS_1.xml")
    assert find_tilts(tmp_path / "warp_tiltseries/other/TS_1_10.00Apx.mrc") is None


@pytest.mark.parametrize("half", ["even", "odd"])
def test_the_tilts_of_halves_lie_above_the_folders_of_either(tmp_path, half):
    (tmp_path / "lab/even").mkdir(parents=True)
    (tmp_path / "lab/TS_1.tlt").write_text("-52\n60\n")
    (tmp_path / "TS_1.tlt").write_text("-1\n1\n")  # of another folder
    assert find_tilts(tmp_path / "lab" / half / "TS_1.mrc") == (-52, 60, "TS_1.tlt")


def test_the_reader_of_the_field_tells_the_same(tmp_path):
    (tmp_path / "a.aln").write_text(ALN)
    tilts = alnfile.read(tmp_path / "a.aln").tilt
    assert read_tilts(tmp_path / "a.aln")[:2] == (tilts.min(), tilts.max())
    (tmp_path / "a.mdoc").write_text(MDOC.replace("x = 1", "SubFramePath = x.mrc"))
    tilts = mdocfile.read(tmp_path / "a.mdoc").TiltAngle.dropna()
    assert read_tilts(tmp_path / "a.mdoc")[:2] == (tilts.min(), tilts.max())


def test_a_table_of_tomograms_leads_to_the_tables_of_their_tilts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tilts").mkdir()
    Path("tilts/TS_1.star").write_text(ALIGNED)
    columns = "_rlnTomoName #1\n_rlnTomoTiltSeriesStarFile #2\n_rlnTomoReconstructedTomogram #3\n"
    Path("tomograms.star").write_text(f"data_global\n\nloop_\n{columns}TS_1 tilts/TS_1.star a.mrc\nTS_2 None b.mrc\n")
    jobs = star_jobs(Path("tomograms.star"), Path("out"))[0].values()
    assert [job.tilts and find_tilts(job.inputs[0], job.tilts) for job in jobs] == [(-51, 51, "TS_1.star"), None]
