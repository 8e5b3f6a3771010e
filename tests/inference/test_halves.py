from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from cryoden.errors import CryodenError
from cryoden.inference.halves import average, check_halves, correlation, fsc_table, refuse_copies
from cryoden.volume import Volume

NAMES = (Path("a_EVN.mrc"), Path("a_ODD.mrc"))


def halves(noise: float) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    signal = ndimage.gaussian_filter(rng.normal(size=(24, 40, 40)), 2.0)
    return [(signal / signal.std() + noise * rng.normal(size=signal.shape)).astype(np.float32) + 70 for _ in range(2)]


def test_agreement_falls_where_noise_begins():
    first, second = halves(0.5)
    curve = correlation(first, second)
    assert curve.shape == (13,)
    assert curve[1:3].min() > 0.9
    assert curve[8:].abs().max() < 0.3
    torch.testing.assert_close(correlation(first * 3 + 5, second), curve, atol=1e-4, rtol=0)


def test_a_shared_edge_is_no_agreement():
    """A ramp over both halves, which Fourier space takes for a jump at the faces, does not reach fine shells."""
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(32, 32, 32)) + np.linspace(0, 20, 32) for _ in range(2))
    assert correlation(first, second)[6:].abs().max() < 0.2


def test_large_volumes_are_compared_in_the_middle():
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(4, 5, 400)).astype(np.float32)
    other = volume.copy()
    other[..., :100] = rng.normal(size=(4, 5, 100))
    assert correlation(volume, other)[1:].min() > 0.999


def test_table():
    first, second = halves(0.5)
    raw = correlation(first, second)
    lines = fsc_table(raw, torch.ones_like(raw), Volume(first, 10.0))
    assert lines[0].split() == ["FSC", "between", "the", "halves", "raw", "denoised"]
    assert lines[1].split() == ["240.0", "Å", f"{raw[1]:.3f}", "1.000"]
    assert lines[-1].split()[:3] == ["above", "0.143", "down"]
    assert lines[-1].endswith(" 20.0 Å")
    assert len({len(line) for line in lines}) == 1
    nothing = fsc_table(torch.zeros_like(raw), torch.zeros_like(raw), Volume(first, 10.0))
    assert nothing[-1].split()[-2:] == ["none", "none"]


def test_what_does_not_belong_together():
    volume = Volume(np.zeros((4, 5, 6)), 10.0)
    check_halves(volume, volume, NAMES)
    with pytest.raises(CryodenError, match=r"a_EVN.mrc and a_ODD.mrc are no two halves: their shape .* \(4, 5, 7\)"):
        check_halves(volume, Volume(np.zeros((4, 5, 7)), 10.0), NAMES)
    with pytest.raises(CryodenError, match=r"their voxel size in Å is 10.0 and 9.0"):
        check_halves(volume, Volume(np.zeros((4, 5, 6)), 9.0), NAMES)
    first, second = halves(0.5)
    refuse_copies(correlation(first, second), NAMES)
    with pytest.raises(CryodenError, match="hold the same voxels"):
        refuse_copies(correlation(first, first * 2), NAMES)


def test_average():
    first, second = halves(1.0)
    result = np.empty(first.shape)
    average(first.astype(">i2"), second, result)
    np.testing.assert_allclose(result, (first.astype(">i2").astype(float) + second) / 2)
