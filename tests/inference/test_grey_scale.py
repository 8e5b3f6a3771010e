"""What is no specimen does not move what is said of the specimen."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cryoden.denoiser import Denoiser
from cryoden.networks import DenoisingNetwork
from cryoden.particles import load_particle
from cryoden.simulation import Scene, SceneContents
from cryoden.simulation.degradation import GaussianNoise, MissingWedge, apply_all, sample_all

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "grey_scale.py"))


class Filter(DenoisingNetwork):
    """A running mean, of which what is no brighter than noise is taken for ice: its answer depends on the scale."""

    reach = 2

    def forward(self, volumes: Tensor) -> Tensor:
        smooth = F.avg_pool3d(volumes, 5, stride=1, padding=2, count_include_pad=False)
        return F.relu(smooth - 0.3)


@pytest.fixture(scope="module")
def tomogram():
    random = torch.Generator().manual_seed(0)
    particles = [load_particle("phantom:0"), load_particle("phantom:1")]
    scene = Scene((36, 80, 80), 8.0, 16.0, particles, SceneContents(count=8)).make(random)
    steps = [GaussianNoise(snr=0.1), MissingWedge()]
    clean = torch.from_numpy(scene.density)[None, None]
    degraded = apply_all(steps, clean, [sample_all(steps, random)])[0, 0].numpy()
    return SCRIPT["Tomogram"].of(scene.density, degraded, 8.0)


@pytest.fixture(scope="module")
def rows(tomogram):
    found = list(SCRIPT["measure"](Denoiser(Filter()), tomogram))
    return {(row["disturbance"], row["contrast"]): row for row in found}


@pytest.mark.parametrize("contrast", ["bright", "dark"])
@pytest.mark.parametrize("disturbance", SCRIPT["DISTURBANCES"])
def test_the_correlation_with_the_truth_is_that_of_the_undisturbed(rows, disturbance, contrast):
    row = rows[disturbance, contrast]
    assert row["without"] > 0.5
    assert abs(row["with"] - row["without"]) < 0.01
    assert row["told"] == contrast


@pytest.mark.parametrize("disturbance", ["a margin of zeros", "hot and dead voxels, 0.1 %", "gold, 0.2 %"])
def test_with_the_deviation_of_all_voxels_it_is_not(tomogram, rows, disturbance):
    """The filter is no judge that lets all pass."""
    data, changed = SCRIPT["DISTURBANCES"][disturbance](tomogram, np.random.default_rng(0))
    shown = torch.from_numpy((data - data.mean()) / data.std())[None, None]
    answer = Filter()(shown)[0, 0].numpy()
    agreement = np.corrcoef(answer[~changed], tomogram.clean[~changed])[0, 1]
    assert agreement < rows[disturbance, "bright"]["without"] - 0.05
