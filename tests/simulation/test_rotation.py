import numpy as np
import torch
from scipy import stats

from cryoden.simulation.rotation import random_rotation


def draw(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([random_rotation(generator) for _ in range(n)]).numpy()


def test_is_a_rotation():
    rotations = draw(100)
    assert rotations.dtype == np.float64
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (100, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-12)


def test_follows_the_generator():
    np.testing.assert_array_equal(draw(3), draw(3))
    assert not np.allclose(draw(1), draw(1, seed=1))
    assert not np.allclose(*draw(2))


def test_is_uniform():
    rotations = draw(4000)
    trace = np.trace(rotations, axis1=1, axis2=2)
    # The angle has the density (1 - cos) / pi, so the trace, 1 + 2 cos, has mean 0 and variance 1.
    angle = np.arccos(np.clip((trace - 1) / 2, -1, 1))
    assert stats.kstest(angle, lambda t: (t - np.sin(t)) / np.pi).pvalue > 0.01
    assert abs(trace.mean()) < 4 / np.sqrt(4000)
    # Each entry is the cosine of a uniform direction: uniform on (-1, 1).
    for entry in rotations.reshape(-1, 9).T:
        assert stats.kstest(entry, stats.uniform(-1, 2).cdf).pvalue > 0.001
