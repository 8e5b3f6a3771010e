import numpy as np
import pytest
import torch
from scipy.fft import dct, idct

from cryoden.inference.resampling import resample, resampling_matrix


@pytest.mark.parametrize(("size", "new_size"), [(8, 13), (13, 8), (9, 9), (1, 4), (64, 49)])
def test_scipy_agrees(size, new_size):
    values = np.random.default_rng(0).normal(size=size)
    spectrum = np.zeros(new_size)
    kept = min(size, new_size)
    spectrum[:kept] = dct(values, norm="ortho")[:kept]
    expected = idct(spectrum, norm="ortho") * np.sqrt(new_size / size)
    np.testing.assert_allclose(resampling_matrix(size, new_size).numpy() @ values, expected, atol=1e-6)


@pytest.mark.parametrize(("shape", "new_shape"), [((8, 9, 10), (13, 9, 20)), ((49, 4, 5), (64, 5, 8))])
def test_to_more_voxels_and_back_is_the_identity(shape, new_shape):
    volumes = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(0))
    finer = resample(volumes, new_shape)
    assert finer.shape == (2, 1, *new_shape)
    torch.testing.assert_close(resample(finer, shape), volumes, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "new_size"), [(8, 13), (64, 49)])
def test_a_constant_stays(size, new_size):
    torch.testing.assert_close(resampling_matrix(size, new_size).sum(dim=1), torch.ones(new_size))


def test_place_is_kept():
    """A blob in the box's middle, or a quarter into it, is there afterwards too."""
    for place in (0.5, 0.25):
        x = (np.arange(40) + 0.5) / 40
        blob = torch.from_numpy(np.exp(-(((x - place) / 0.08) ** 2))).float()
        new = resampling_matrix(40, 25) @ blob
        centre = (new * (torch.arange(25) + 0.5) / 25).sum() / new.sum()
        assert float(centre) == pytest.approx(place, abs=1e-3)
