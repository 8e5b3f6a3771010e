"""Curves against what the microscope did."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cryoden import CryodenError, PairDataModule, ParticleDataModule, SceneContents, SceneDataModule
from cryoden.checkpoint import export_weights
from cryoden.cli import main
from cryoden.commands.simulate import simulate
from cryoden.evaluation import sensitivity
from cryoden.evaluation.results import Sweep
from cryoden.evaluation.sensitivity import DOSES, SNRS, TILTS, sweeps
from cryoden.modules.recipes import SimpleAE
from cryoden.simulation.degradation import GaussianNoise, MissingWedge, SaltAndPepper
from cryoden.simulation.tilt_series import Exposure, TiltScheme, TiltSeriesDegradation

SMALL = {"box": 24, "voxel_size": 10.0, "resolution": 20.0, "num_workers": 0}


def drawn(data, progress=lambda *count: None) -> list[Sweep]:
    data.setup()
    return sweeps({"doubled": lambda v: 2 * v}, data, 1, torch.device("cpu"), progress)


def medians(sweep: Sweep, method: str = "input") -> list[float]:
    return [point[1] for point in sweep.values[method]["nrmse"]]


def test_of_tilt_series_dose_and_tilt_range_are_varied() -> None:
    step = TiltSeriesDegradation(voxel_size=10.0, scheme=TiltScheme(step=10.0))
    seen: list = []
    data = ParticleDataModule(entries=["phantom:1"], copies=5, degradation=[step], **SMALL)
    dose, tilt = drawn(data, lambda *count: seen.append(count))
    assert dose.quantity == "dose, electrons per Å²"
    assert (dose.points, tilt.points) == (list(DOSES), list(TILTS))
    assert seen[-1] == (len(DOSES) + len(TILTS),) * 2
    assert medians(dose) == sorted(medians(dose), reverse=True)
    assert medians(dose)[0] > 2 * medians(dose)[-1]  # noise falls with the root of the dose
    assert medians(dose, "doubled")[0] > 1.5 * medians(dose)[0]


def test_one_step_is_varied_at_a_time_and_the_rest_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list = []
    monkeypatch.setattr(sensitivity, "_at", lambda _, __, degradation, *___: seen.append(degradation) or {})
    tilts = TiltSeriesDegradation(voxel_size=10.0, contrast=0.5)
    wedge, noise = MissingWedge((-50.0, 60.0), "x"), GaussianNoise(2.0)
    for steps in ([wedge, noise], [tilts]):
        drawn(ParticleDataModule(entries=["phantom:1"], copies=5, degradation=steps, **SMALL))
    assert seen == [
        *([wedge, GaussianNoise(snr)] for snr in SNRS),
        *([MissingWedge((-tilt, tilt), "x"), noise] for tilt in TILTS),
        *([replace(tilts, exposure=Exposure(dose=dose))] for dose in DOSES),
        *([replace(tilts, scheme=TiltScheme((-tilt, tilt)))] for tilt in TILTS),
    ]


@pytest.mark.parametrize("kind", [ParticleDataModule, SceneDataModule])
def test_volumes_that_are_kept_on_disk_are_degraded_anew_at_each_point(kind: type, tmp_path: Path) -> None:
    def data(**arguments):
        size = {"scenes": 5, "contents": SceneContents(count=1)} if kind is SceneDataModule else {"copies": 5}
        return kind(entries=["phantom:1"], degradation=[GaussianNoise()], **size, **SMALL, **arguments)

    kept, plain = data(cache=str(tmp_path)), data()
    (curve,), (expected,) = drawn(kept), drawn(plain)
    assert curve.points == list(SNRS)
    np.testing.assert_allclose(medians(curve), medians(expected))
    # the noise's variance is the signal's over the ratio
    assert medians(curve)[0] / medians(curve)[-1] == pytest.approx((SNRS[-1] / SNRS[0]) ** 0.5, rel=0.05)
    assert torch.equal(kept.test_volumes()[0, 0]["degraded"], plain.test_volumes()[0, 0]["degraded"])
    assert len(list(tmp_path.rglob("degraded.npy"))) == 1  # other noise is not kept


def test_where_nothing_can_be_varied_that_is_said() -> None:
    data = ParticleDataModule(entries=["phantom:1"], copies=5, degradation=[SaltAndPepper()], **SMALL)
    with pytest.raises(CryodenError, match="of GaussianNoise, MissingWedge, TiltSeriesDegradation there is none"):
        drawn(data)


def pairs(folder: Path) -> PairDataModule:
    list(simulate(["phantom:1"], str(folder), copies=2, box=32, voxel_size=10.0, resolution=20.0))
    data = PairDataModule(str(folder), box=32, boxes=1, tilt_range=(-60.0, 60.0), num_workers=0)
    data.setup("test")
    return data


def test_volumes_from_files_cannot_be_degraded_otherwise(tmp_path: Path) -> None:
    data = pairs(tmp_path)
    assert data.test_volumes()[0, 0]["clean"].shape == (1, 32, 32, 32)
    with pytest.raises(CryodenError, match="PairDataModule: its volumes come from files, as they were degraded"):
        data.test_volumes([GaussianNoise(0.1)])
    with pytest.raises(CryodenError, match="volumes come from files"):
        drawn(data)


def test_a_comparison_says_why_it_has_no_curves(tmp_path: Path, capsys) -> None:
    pairs(tmp_path / "pairs")
    init_args = {"folder": str(tmp_path / "pairs"), "box": 32, "boxes": 12, "tilt_range": [-60.0, 60.0]}
    config = {"data": {"class_path": "PairDataModule", "init_args": {**init_args, "num_workers": 0}}}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(config))
    export_weights(SimpleAE(channels=1), tmp_path / "model.safetensors")
    words = [tmp_path / "model.safetensors", "--data", tmp_path / "data.yaml", "--output", tmp_path / "out"]
    main(["compare", *map(str, words), "--volumes=2", "--sensitivity=1"])
    assert "sensitivity: no curves: PairDataModule: its volumes come from files" in capsys.readouterr().out
    results = yaml.safe_load((tmp_path / "out" / "results.json").read_text())
    assert results["sensitivity"] == []
    assert any("no curves" in note and "volumes come from files" in note for note in results["notes"])
