from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import skew

from cryoden.data.particles import ParticleDataset
from cryoden.inference.contrast import Contrast, look
from cryoden.particles import load_particle
from cryoden.scaling import Scale
from cryoden.simulation.degradation import GaussianNoise, MissingWedge


def told(data: np.ndarray) -> Contrast | None:
    return look(data).contrast


def gamma(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).gamma(20.0, 1.0, shape)


@pytest.mark.parametrize("shape", [(8, 10, 12), (9, 11, 13)])
def test_scipy_agrees_on_the_skewness(shape):
    data = gamma(shape) * 50 + 1e5
    data += 20 * np.arange(shape[0])[:, None, None]  # ice that grows thinner
    depth, height, width = (size // 2 for size in shape)
    binned = data[: 2 * depth, : 2 * height, : 2 * width].reshape(depth, 2, height, 2, width, 2).mean(axis=(1, 3, 5))
    binned -= binned.mean(axis=(1, 2), keepdims=True)
    grey = look(data)
    assert grey.skewness == pytest.approx(float(skew(binned, axis=None)), abs=1e-6)
    assert grey.bins == binned.size


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
    assert told(gamma(shape)) is None


def scene() -> np.ndarray:
    """Noise with a few bright particles."""
    data = np.random.default_rng(0).normal(size=(24, 60, 64)).astype(np.float32)
    for z, y, x in ((4, 8, 8), (12, 30, 40), (14, 44, 12), (6, 20, 52)):
        data[z : z + 5, y : y + 5, x : x + 5] += 4
    return data


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("fill", [0.0, -1000.0, 1000.0])
def test_neither_margins_nor_empty_sections_nor_hot_voxels_turn_the_contrast_round(sign, fill):
    expected: Contrast = "bright" if sign > 0 else "dark"
    data = 100 + 10 * sign * scene()
    assert told(data) == expected
    for spoilt in (np.s_[:, :4], np.s_[:, :, -3:], np.s_[0], np.s_[10, 20, 30], np.s_[::7, ::11, ::13]):
        other = data.copy()
        other[spoilt] = fill
        assert told(other) == expected


@pytest.mark.parametrize("sign", [1, -1])
def test_nor_does_vacuum_on_both_sides(sign):
    data = scene()
    data[:5] -= 6
    data[-4:] -= 6
    assert told(sign * data) == ("bright" if sign > 0 else "dark")


@pytest.mark.parametrize("dtype", [np.float32, ">f4", ">i2", np.uint16, np.int8])
def test_a_mapped_file_has_the_scale_of_the_whole(dtype, tmp_path: Path):
    """Though no more than some of its rows are read, and what is around them."""
    data = np.random.default_rng(0).normal(60, 10, (40, 90, 100)).clip(0, 127).astype(dtype)
    data[:, :5] = data[:, :, :3] = data[3] = 0
    mapped = np.memmap(tmp_path / "a", dtype, mode="w+", shape=data.shape)
    mapped[:] = data
    grey = look(mapped)
    whole = torch.from_numpy(data.astype(np.float32))[None, None]
    expected = Scale.of(whole)
    for name in ("level", "spread", "masked"):
        assert torch.equal(getattr(grey.scale, name), getattr(expected, name))
    assert grey.left_out == int(expected.left_out(whole).sum()) == (data == 0).sum()


def test_what_is_left_out_is_told_in_words():
    data = scene()
    assert look(data).describe() == ""
    data[0] = 7
    data[5, 5, 5] = 1000
    assert look(data).describe() == (
        "3840 voxels (4.2 %) are filled with one value and stay as they are; "
        "1 hot or dead voxel counts as one of its neighbours"
    )
    data[7, 7, 7] = -1000
    assert look(data).describe().endswith("2 hot or dead voxels count as one of their neighbours")
