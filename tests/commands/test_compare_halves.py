"""`cryoden compare --halves` as a user meets it."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cryoden import Volume, export_weights, read_volume, write_volume
from cryoden.cli import main
from cryoden.denoiser import Denoiser
from cryoden.inference.quality import read_quality
from cryoden.networks import CompactUnet


def weights(path: Path, voxel_size: float, seed: int) -> str:
    """Of a small network that was never trained."""
    torch.manual_seed(seed)
    network = Denoiser(CompactUnet(channels=4, levels=2), voxel_size=voxel_size, system="Mine")
    for parameter in network.generator.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    export_weights(network, path)
    return str(path)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A folder with halves of two tomograms; gives two models, and one for other voxels."""
    monkeypatch.chdir(tmp_path)
    Path("lab").mkdir()
    for name in "ab":
        rng = np.random.default_rng(ord(name))
        signal = gaussian_filter(rng.normal(size=(24, 96, 32)), 1.5).clip(0)
        for half in (1, 2):
            noisy = (signal / signal.std() + rng.normal(size=signal.shape)).astype(np.float32)
            write_volume(f"lab/{name}_half{half}.mrc", Volume(noisy, 10.0))
    return [weights(tmp_path / f"{name}.safetensors", size, i) for i, (name, size) in enumerate(SIZES.items())]


SIZES = {"one": 10.0, "other": 10.0, "finer": 3.0}


def compare(*words: str) -> int:
    try:
        main(["compare", *words])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_models_stand_beside_each_other_on_every_tomogram(lab, capfd):
    assert compare(*lab, "--halves", "lab") == 0
    told = capfd.readouterr().out
    assert told.count("judged by what the other half shows") == 2
    assert (
        "No: no model is nearer to what both halves show than the best filter of shells, in any of 2 tomograms." in told
    )
    assert "left out: " in told
    assert "was trained at 3 Å" in told
    rows = read_quality(Path("comparison/quality.csv"))
    names = ["input", "Gaussian filter", *(f"Mine ({path})" for path in lab[:2])]
    assert [(row["tomogram"], row["method"]) for row in rows] == [
        (f"{each}.mrc", name) for each in "ab" for name in names
    ]
    assert float(rows[2]["nrmse"]) != float(rows[3]["nrmse"])
    page = Path("comparison/report.html").read_text()
    for word in ("No: no model", "a.mrc", "b.mrc", rows[2]["nrmse"][:4], "proves nothing", "data:image/png;base64,"):
        assert word in page
    assert "@@" not in page
    assert ET.parse("comparison/figures/fsc.svg").getroot().tag.endswith("svg")
    assert compare(*lab, "--halves", "lab") == 2
    assert "comparison is a folder that is not empty" in capfd.readouterr().err
    assert compare(lab[0], "--halves", "lab", "--overwrite") == 0
    assert len(read_quality(Path("comparison/quality.csv"))) == 6


def test_halves_that_tell_nothing_are_left_out(lab, capfd):
    rng = np.random.default_rng(5)
    for half in (1, 2):
        write_volume(f"lab/c_half{half}.mrc", Volume(rng.normal(size=(24, 96, 32)).astype(np.float32), 10.0))
    assert compare(lab[0], "--halves", "lab") == 0
    assert "left out: c.mrc: the halves agree at no frequency" in capfd.readouterr().out
    for path in Path("lab").glob("[ab]_*"):
        path.unlink()
    assert compare(lab[0], "--halves", "lab", "--overwrite") == 2
    assert "none of the tomograms can be used" in capfd.readouterr().err


def test_tomograms_of_one_name_in_two_folders_are_two(lab, capfd):
    for day in ("d1", "d2"):
        Path(day).mkdir()
        for path in Path("lab").glob("a_*" if day == "d1" else "b_*"):
            path.rename(Path(day, f"a{path.name[1:]}"))
        Path(day).rename(Path("lab", day))
    assert compare(lab[0], "--halves", "lab") == 0
    told = capfd.readouterr().out
    assert "d1/a.mrc, judged by" in told
    assert "d2/a.mrc, judged by" in told
    rows = read_quality(Path("comparison/quality.csv"))
    assert [row["tomogram"] for row in rows] == 3 * ["d1/a.mrc"] + 3 * ["d2/a.mrc"]
    assert rows[0]["nrmse"] != rows[3]["nrmse"]


def test_a_model_that_comes_along_has_its_name(lab, capfd):
    assert compare("cryoden-10A", lab[0], "--halves", "lab") == 0
    assert "cryoden-10A, Mine on the halves in lab" in capfd.readouterr().out
    rows = read_quality(Path("comparison/quality.csv"))
    assert {row["method"] for row in rows} == {"input", "Gaussian filter", "cryoden-10A", "Mine"}


def test_what_is_left_out_is_named_with_what_can_be_done(lab, capfd):
    first, second = (read_volume(f"lab/b_half{half}.mrc") for half in (1, 2))
    symmetric = gaussian_filter(np.random.default_rng(0).normal(size=first.data.shape), 1.5)
    symmetric /= symmetric.std()
    noise = np.random.default_rng(9).normal(size=(2, *symmetric.shape))
    doubtful = [Volume((symmetric + each).astype(np.float32), 10.0) for each in noise]
    made = {
        "b": (first, Volume(-second.data, 10.0)),
        "c": doubtful,
        "d": (Volume(first.data, 0.0), Volume(second.data, 0.0)),
        "e": (first, second),
    }
    for name, halves in made.items():
        for half, volume in enumerate(halves, 1):
            write_volume(f"lab/{name}_half{half}.mrc", volume, overwrite=True)
    np.memmap("lab/e_half1.mrc", np.float32, "r+", offset=1024)[7] = np.nan
    assert compare(lab[0], lab[2], "--halves", "lab") == 0
    told = capfd.readouterr().out
    for why in (
        "lab/b_half1.mrc seems bright and lab/b_half2.mrc dark: look at them; `cryoden denoise --",
        "c.mrc: cannot tell of each half whether protein is bright or dark",
        "d.mrc: its header has no voxel size; `cryoden denoise --halves`",
        "lab/e_half1.mrc has 1 NaN or infinite voxels",
        f"Mine ({lab[2]}) on a.mrc: its voxels are 10 Å, and the model was trained at 3 Å; `cryoden denoise --halves` "
        "gives scores, too, and takes --rescale, or --voxel-size if the header is wrong",
    ):
        assert f"left out: {why}" in told
    assert {row["tomogram"] for row in read_quality(Path("comparison/quality.csv"))} == {"a.mrc"}


@pytest.mark.parametrize("words", [["--data", "x.yaml"], ["--sensitivity", "2"], ["--matching", "1"]])
def test_what_needs_a_truth_is_refused(lab, capfd, words):
    assert compare(lab[0], "--halves", "lab", *words) == 2
    assert f"{words[0][2:]} needs volumes whose truth is known, and halves have none" in capfd.readouterr().err
    assert not Path("comparison").exists()
