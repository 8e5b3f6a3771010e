"""The script that runs the thesis's systems on its experiments: it plans, works, goes on, and tells what it found."""

import json
import os
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from cryoden.modules import recipes
from cryoden.wedge import wedge_mask
from tests.test_experiments import APART, EXPERIMENTS, run_script

ONE = "control/simple_ae/*/seed-1"
SMALL = ["--small", "--out", "out", "--results", "results", "--width", "2", "--epochs", "2", "--volumes", "1"]


def begin(folder: Path, *words: str) -> Any:
    process = APART.Process(target=run_script, args=(EXPERIMENTS / "thesis.py", [*SMALL, *words], folder))
    process.start()
    return process


def end(process: Any, folder: Path) -> str:
    process.join()
    assert process.exitcode == 0
    return (folder / "printed").read_text(encoding="utf-8")


def run(folder: Path, *words: str) -> str:
    return end(begin(folder, *words), folder)


def test_a_row_is_planned_trained_and_tested(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    assert "0 of 2 epochs done" in run(tmp_path, ONE, "--plan")
    assert not list((tmp_path / "results").iterdir())
    printed = run(tmp_path, ONE)
    assert "validation, epoch 2" in printed
    assert "2 of 2 epochs done, about 0.0 min" in run(tmp_path, ONE, "--plan")
    (tmp_path / "results" / "thesis_control.json").unlink()
    assert "validation" not in run(tmp_path, ONE.replace("*", "2-*"))  # all is done, and only told again

    found = {
        each: json.loads((tmp_path / "results" / f"thesis_{each}.json").read_text("utf-8"))
        for each in ("control", "unseen_particle", "different_noise")
    }
    label = "SimpleAE, 2 channels, 2 epochs"
    for experiment, result in found.items():
        name = label if experiment == "control" else f"{label}, trained on control"
        assert result["experiment"] == experiment.replace("_", "-")
        assert {"input", "zeros", "Gaussian filter", name} <= set(result["percentiles"])
        assert result["percentiles"]["zeros"]["nrmse"]["p50"] == 1
        assert result["rows"][name]["nrmse_of_each_seed"] == [result["percentiles"][name]["nrmse"]["p50"]]
        assert len(result["commands"]) == (1 if experiment == "control" else 2)  # of all that it has rows of
    row = found["control"]["rows"][label]
    assert [seen for seen, _ in row["curve"]] == [4, 8]  # of 5 volumes one validates
    assert row["minutes"][0] > 0

    (last,) = (tmp_path / "out" / "runs").rglob("last.ckpt")
    words = ["out/data/control.yaml", str(last), "--volumes", "1", "--output", "spectrum.json"]
    process = APART.Process(target=run_script, args=(EXPERIMENTS / "error_spectrum.py", words, tmp_path))
    process.start()
    assert "| corners |" in end(process, tmp_path)
    spectrum = json.loads((tmp_path / "spectrum.json").read_text("utf-8"))
    assert spectrum["rows"][-1]["nrmse_below"] == pytest.approx(spectrum["nrmse"], rel=1e-3)
    assert spectrum["nrmse"] == pytest.approx(row["nrmse_of_each_seed"][0], rel=1e-3)


def test_error_is_told_apart_by_frequency_and_by_wedge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXPERIMENTS)
    from error_spectrum import of_batch

    clean = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    measured = wedge_mask((16, 16), (-60.0, 60.0))[:, None]
    spectrum = torch.fft.rfftn(clean, dim=(2, 3, 4)) * measured.expand(16, 16, 9)
    without = torch.fft.irfftn(spectrum, s=(16, 16, 16), dim=(2, 3, 4))
    halved, cut = of_batch(clean / 2, clean, measured), of_batch(without, clean, measured)
    truth_measured, truth_wedge = halved[..., 0], halved[..., 2]
    assert torch.allclose((truth_measured + truth_wedge).sum(1), torch.ones(2))
    assert torch.allclose(halved[..., [1, 3]], halved[..., [0, 2]] / 4, atol=1e-6)
    assert torch.allclose(cut[..., 1], torch.zeros_like(truth_measured), atol=1e-6)
    assert torch.allclose(cut[..., 3], truth_wedge, rtol=1e-3)


def test_data_of_tilt_series_are_tried_small_too(tmp_path: Path) -> None:
    names = ("realistic", "small_tilt_series", "scene_several_tilt_series")
    assert run(tmp_path, *(f"{name}/simple_ae/*/seed-1" for name in names), "--plan").count("0 of 2 epochs done") == 3
    for name in names:
        arguments = yaml.safe_load((tmp_path / "out" / "data" / f"{name}.yaml").read_text("utf-8"))["data"]["init_args"]
        (step,) = arguments["degradation"]
        assert step["class_path"] == "TiltSeriesDegradation"
        assert step["init_args"]["voxel_size"] == arguments["voxel_size"] == 20.0


def test_what_was_stopped_goes_on_with_the_epoch_that_it_was_in(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    words = ["small/simple_ae/*/seed-1", "--epochs", "6"]
    working = begin(tmp_path, *words)
    while working.is_alive() and not list(tmp_path.rglob("last.ckpt")):
        time.sleep(0.01)
    os.kill(working.pid, signal.SIGTERM)
    assert "the same command goes on" in end(working, tmp_path)

    printed = run(tmp_path, *words)
    (done,) = re.findall(r"(\d+) of 6 epochs are done", printed)
    assert 0 < int(done) < 6
    assert re.findall(r"validation, epoch (\d+)", printed) == [str(epoch) for epoch in range(int(done) + 1, 7)]
    ((_, row),) = json.loads((tmp_path / "results" / "thesis_small.json").read_text("utf-8"))["rows"].items()
    assert [seen for seen, _ in row["curve"]] == [4 * epoch for epoch in range(1, 7)]


def test_rows_of_several_seeds_make_one_row(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    run(tmp_path, "small/simple_ae/*/seed-[12]")
    result = json.loads((tmp_path / "results" / "thesis_small.json").read_text("utf-8"))
    ((_, row),) = result["rows"].items()
    assert row["seeds"] == [1, 2]
    assert len(set(row["nrmse_of_each_seed"])) == 2


def test_rows_of_other_data_are_another_row_and_no_resolution_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXPERIMENTS)
    import thesis

    work = thesis.Work(tmp_path, 3, small=True)
    work.data_file("different_noise")
    monkeypatch.setattr(
        work,
        "module",
        lambda _: SimpleNamespace(voxel_size=20.0, batch_size=1, num_workers=0, test_volumes=lambda: range(3)),
    )
    monkeypatch.setattr(work, "about", lambda rows: {"trained_on": {row.data for row in rows}.pop()})
    rows = thesis.grid(4, 2, ["control/compact_unet_ae/*seed-1", "different_noise/compact_unet_ae/*seed-1"])
    for row, error in zip(rows, (1.0, 0.1), strict=True):
        scores = {"nrmse": np.full(3, error), "resolution_0.5": np.array([np.inf, np.inf, 30.0])}
        found = SimpleNamespace(failed={}, values={row.name: scores})
        monkeypatch.setattr(thesis, "evaluate", lambda *_, found=found, **__: found)
        work.score("different_noise", row.name, lambda: None)
    thesis.write_results(work, rows, tmp_path, "command")

    told = json.loads((tmp_path / "thesis_different_noise.json").read_text("utf-8"))
    for row, name, error in zip(rows, (f"{rows[0].label}, trained on control", rows[1].label), (1.0, 0.1), strict=True):
        assert told["rows"][name] == {"trained_on": row.data, "nrmse_of_each_seed": [error]}
        assert told["percentiles"][name]["nrmse"]["p50"] == pytest.approx(error)
        assert told["percentiles"][name]["resolution_0.5"]["p50"] is None  # infinite: two of three have none


def test_the_grid_has_every_system_on_every_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXPERIMENTS)
    import thesis

    rows = thesis.grid(64, None, ["*"])
    assert len({row.name for row in rows}) == len(rows)
    systems = {row.system for row in rows}
    assert systems == {
        name for name, kind in vars(recipes).items() if getattr(kind, "__module__", "") == recipes.__name__
    }
    plain = {(row.data, row.system, row.seed) for row in rows if not row.arguments}
    assert len(plain) == 9 * 10 * 3
    assert [row.seed for row in rows] == sorted(row.seed for row in rows)
    assert {row.length for row in rows} == {20, 100}
    assert {row.channels for row in thesis.grid(16, None, ["control/*_ae/*"])} == {4, 16}
