import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cryoden.errors import CryodenError
from cryoden.inference.quality import Quality, judge, quality_table, read_quality, reading, write_quality
from cryoden.metrics import Estimate, HalfScore, Halves


def quality(method: str, *nrmse: float) -> Quality:
    """With these errors without each block."""
    estimate = Estimate(float(np.mean(nrmse)), nrmse)
    score = HalfScore(*[estimate] * 5, torch.ones(9), torch.ones(9), 25.0)
    return Quality(method, score, removed=0.5)


@pytest.mark.parametrize(
    ("nrmse", "told"),
    [
        ((0.4, 0.5), "it is nearer to what both halves show than any filter of shells, by 0.150 ± 0.000"),
        ((0.55, 0.66), "it is as near to what both halves show as the best filter of shells: within 0.005 ± 0.005"),
        (
            (0.7, 0.9),
            "warning: it is further from what both halves show than the best filter of shells, by 0.200 ± 0.05",
        ),
    ],
)
def test_a_sentence_says_which_is_better_and_a_model_that_loses_is_warned_of(nrmse, told):
    filters = [quality(name, 0.55, 0.65) for name in ("input", "Gaussian filter")]
    sentence, last = reading([*filters, quality("it", *nrmse)], "out/T1.mrc")
    assert sentence.startswith(told)
    assert sentence.endswith("look at out/T1.mrc") == sentence.startswith("warning")
    assert last.startswith("believe NRMSE and FSC to the signal")


def test_a_model_that_loses_may_be_nearer_in_fine_waves():
    filters = [quality(name, 0.55, 0.65) for name in ("input", "Gaussian filter")]
    worse = quality("it", 0.7, 0.9)
    assert "though" not in reading([*filters, worse], "")[0]
    finer = replace(worse, score=replace(worse.score, nrmse_high=Estimate(0.5, (0.5, 0.5))))
    assert "by 0.200 ± 0.050, though nearer in waves shorter than 4 voxels: it" in reading([*filters, finer], "")[0]


def test_without_an_error_bar_the_smaller_one_is_better():
    filters = [quality(name, 0.6) for name in ("input", "Gaussian filter")]
    assert "nearer" in reading([*filters, quality("it", 0.59)], "")[0]
    assert "further" in reading([*filters, quality("it", 0.61)], "")[0]


def test_methods_stand_one_below_the_other_with_the_filter_at_its_best():
    rng = np.random.default_rng(0)
    signal = gaussian_filter(rng.normal(size=(24, 96, 48)), 1.5)
    given = tuple(signal / signal.std() + 2 * rng.normal(size=signal.shape) for _ in range(2))
    halves = Halves.of(*given, 10.0)
    found = judge(halves, given, [("mine", tuple(gaussian_filter(half, 1.0) for half in given))])
    assert [each.method for each in found] == ["input", "Gaussian filter", "mine"]
    unfiltered, filtered, mine = (each.score.nrmse_one_gain.value for each in found)
    assert filtered - 0.02 < mine < unfiltered - 0.1
    assert found[0].removed == 0
    assert found[2].removed > 0
    first, *lines = quality_table(halves, found)
    assert first == f"judged by what the other half shows, in waves down to {halves.resolution:.1f} Å:"
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split()[:4] == [
        "input",
        f"{found[0].score.nrmse.value:.3f}",
        "±",
        f"{found[0].score.nrmse.error:.3f}",
    ]
    assert lines[2].startswith(f"  Gaussian filter, σ {halves.gaussian()[1]:.1f} ")


def test_a_table_keeps_all_tomograms_and_the_last_of_each_method(tmp_path):
    path = tmp_path / "quality.csv"
    assert read_quality(path) == []
    write_quality(path, "a, of mine.mrc", [quality("input", 0.5), quality("it", 0.4)])
    write_quality(path, "b.mrc", [quality("it", 0.3, 0.4)])
    write_quality(path, "a, of mine.mrc", [quality("it", math.nan)])
    rows = read_quality(path)
    assert [(row["tomogram"], row["method"], row["nrmse"], row["nrmse_error"]) for row in rows] == [
        ("a, of mine.mrc", "input", "0.5000", ""),
        ("a, of mine.mrc", "it", "", ""),
        ("b.mrc", "it", "0.3500", "0.0500"),
    ]
    assert rows[2]["resolution_0.5"] == "25.0000"
    assert [file.name for file in tmp_path.iterdir()] == ["quality.csv"]


def test_halves_that_tell_nothing_any_more_leave_no_rows(tmp_path):
    path = tmp_path / "quality.csv"
    write_quality(path, "a.mrc", [])
    assert not path.exists()
    for name in ("a.mrc", "b.mrc"):
        write_quality(path, name, [quality("input", 0.5), quality("it", 0.4)])
    write_quality(path, "a.mrc", [])
    assert [row["tomogram"] for row in read_quality(path)] == 2 * ["b.mrc"]


@pytest.mark.parametrize("text", [b"", b"tomogram,method\na,b\n", b"\xff\xfe\n", b"tomogram\n" + b"a\n" * 3])
def test_another_table_is_refused(tmp_path, text):
    path = tmp_path / "quality.csv"
    path.write_bytes(text)
    with pytest.raises(CryodenError, match=r"quality.csv: .*move it elsewhere"):
        write_quality(path, "a.mrc", [quality("it", 0.4)])
    assert path.read_bytes() == text
