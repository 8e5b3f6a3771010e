"""Curves against what the microscope did."""

import torch

from cryoden.data.datamodule import ParticleDataModule
from cryoden.evaluation.sensitivity import DOSES, TILTS, sweeps
from cryoden.simulation.tilt_series import TiltScheme, TiltSeriesDegradation


def test_of_tilt_series_dose_and_tilt_range_are_varied() -> None:
    step = TiltSeriesDegradation(voxel_size=10.0, scheme=TiltScheme(step=10.0))
    data = ParticleDataModule(
        entries=["phantom:1"], copies=5, box=24, voxel_size=10.0, resolution=20.0, degradation=[step], num_workers=0
    )
    data.setup()
    seen = []
    dose, tilt = sweeps({"doubled": lambda v: 2 * v}, data, 1, torch.device("cpu"), lambda *count: seen.append(count))
    assert dose.quantity == "dose, electrons per Å²"
    assert (dose.points, tilt.points) == (list(DOSES), list(TILTS))
    assert seen[-1] == (len(DOSES) + len(TILTS),) * 2
    medians = [point[1] for point in dose.values["input"]["nrmse"]]
    assert medians == sorted(medians, reverse=True)
    assert medians[0] > 2 * medians[-1]  # noise falls with the root of the dose
    assert dose.values["doubled"]["nrmse"][0][1] > 1.5 * medians[0]
