import numpy as np
import pytest
from scipy.stats import skew

from cryoden.data.particles import ParticleDataset
from cryoden.inference.contrast import detect_contrast, skewness
from cryoden.particles import load_particle
from cryoden.simulation.degradation import GaussianNoise, MissingWedge
from cryoden.volume import measure


def told(data: np.ndarray) -> str | None:
    return detect_contrast(data, measure(data))[0]


@pytest.mark.parametrize("shape", [(8, 10, 12), (9, 11, 13)])
def test_scipy_agrees_on_the_skewness(shape):
    data = np.random.default_rng(0).gamma(2.0, 1.0, shape) * 50 + 1e5
    depth, height, width = (size // 2 for size in shape)
    binned = data[: 2 * depth, : 2 * height, : 2 * width].reshape(depth, 2, height, 2, width, 2).mean(axis=(1, 3, 5))
    assert skewness(data, measure(data)) == pytest.approx(float(skew(binned, axis=None)), abs=1e-6)


@pytest.mark.parametrize("snr", [1.3, 0.1, 0.03])
def test_a_protein_in_noise_behind_a_missing_wedge(snr):
    steps = [GaussianNoise(snr=snr), MissingWedge(tilt_range=(-60, 60))]
    dataset = ParticleDataset(
        [load_particle("phantom:1")],
        1,
        steps,
        box=48,
        voxel_size=10.0,
        resolution=20.0,
        seed=[0],
        fresh=False,
        degrade=True,
    )
    data = dataset[0, 0]["degraded"][0].numpy()
    assert told(data) == "bright"
    assert told(-data) == "dark"
    assert told(1000 - 30 * data) == "dark"


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_leaves_it_in_doubt(seed):
    assert told(np.random.default_rng(seed).normal(size=(32, 64, 64)).astype(np.float32)) is None


@pytest.mark.parametrize("shape", [(1, 50, 50), (50, 1, 50), (3, 3, 3)])
def test_volumes_too_small_to_tell(shape):
    assert told(np.random.default_rng(0).gamma(1.0, 1.0, shape)) is None
