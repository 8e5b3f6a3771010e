"""`cryoden demo`, made small: what it shows first is a tomogram that looks like one."""

from pathlib import Path

import numpy as np
import pytest

from cryoden import read_volume
from cryoden.cli import main
from cryoden.commands import demo
from cryoden.simulation.scene import SceneContents


def test_a_simulated_tomogram_is_denoised_by_the_shipped_model_and_then_a_network_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "_SHAPE", (32, 48, 48))
    monkeypatch.setattr(demo, "_CROWD", ["phantom:101"])
    monkeypatch.setattr(demo, "_CONTENTS", SceneContents(count=3, fiducials=1))
    monkeypatch.setattr(demo, "_TRAINING", ["phantom:1"])
    monkeypatch.setattr(demo, "_COPIES", 12)
    main(["demo", "--output=out", "--epochs=1"])
    told = capfd.readouterr().out
    scores = next(line for line in told.splitlines() if "correlation with the truth" in line)
    for name in ("tomogram 0.", "best Gaussian filter 0.", "best median filter 0.", "cryoden-10A 0."):
        assert name in scores
    assert "cryoden denoise TOMOGRAM.mrc OUT.mrc --rescale --preview" in told
    for name in ("tomogram.png", "tomogram_denoised.mrc", "slices.png", "denoised.mrc", "best.ckpt"):
        assert (tmp_path / "out" / name).stat().st_size > 1000
    given, answer, truth = (
        read_volume(tmp_path / "out" / name).data
        for name in ("tomogram/scene_0_degraded.mrc", "tomogram_denoised.mrc", "tomogram/scene_0_clean.mrc")
    )
    assert given.shape == answer.shape == truth.shape == (32, 48, 48)
    assert np.corrcoef(given.ravel(), np.minimum(truth, 1).ravel())[0, 1] < 0  # dark, as a lab gets it

    main(["denoise", "out/tomogram/scene_0_noisefree.mrc", "again.mrc", "--rescale", "--preview", "--contrast=dark"])
    assert (tmp_path / "again.png").is_file()  # the advice, on a volume of this kind
