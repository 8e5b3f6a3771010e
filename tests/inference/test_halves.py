from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from cryoden.errors import CryodenError
from cryoden.inference.halves import average, check_halves, see_halves
from cryoden.volume import Volume

NAMES = (Path("a_EVN.mrc"), Path("a_ODD.mrc"))


def halves(noise: float) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    signal = ndimage.gaussian_filter(rng.normal(size=(24, 40, 40)), 2.0)
    return [(signal / signal.std() + noise * rng.normal(size=signal.shape)).astype(np.float32) + 70 for _ in range(2)]


def test_what_does_not_belong_together():
    volume = Volume(np.zeros((4, 5, 6)), 10.0)
    check_halves(volume, volume, NAMES)
    with pytest.raises(CryodenError, match=r"a_EVN.mrc and a_ODD.mrc are no two halves: their shape .* \(4, 5, 7\)"):
        check_halves(volume, Volume(np.zeros((4, 5, 7)), 10.0), NAMES)
    with pytest.raises(CryodenError, match=r"their voxel size in Å is 10.0 and 9.0"):
        check_halves(volume, Volume(np.zeros((4, 5, 6)), 9.0), NAMES)
    first, second = (Volume(half, 10.0) for half in halves(0.5))
    assert see_halves(first, second, NAMES).flaw == ""
    with pytest.raises(CryodenError, match=r"a_EVN.mrc and a_ODD.mrc: the halves hold the same voxels"):
        see_halves(first, Volume(first.data * 2, 10.0), NAMES)


def test_average():
    first, second = halves(1.0)
    result = np.empty(first.shape)
    average(first.astype(">i2"), second, result)
    np.testing.assert_allclose(result, (first.astype(">i2").astype(float) + second) / 2)
