import gzip
import pickle

import mrcfile
import numpy as np
import pytest
from scipy import ndimage

from cryoden.errors import CryodenError
from cryoden.particles.density_map import DensityMap, read_density_map


def blobs(points, shape=(28, 30, 32), sigma=1.5):
    """Gaussians at (z, y, x, height) in voxels."""
    grid = np.moveaxis(np.indices(shape), 0, -1)
    return sum(height * np.exp(-((grid - centre) ** 2).sum(-1) / (2 * sigma**2)) for *centre, height in points).astype(
        np.float32
    )


@pytest.fixture
def lopsided():
    return DensityMap("map", blobs([(12, 13, 11, 1.0), (12, 13, 21, 0.5), (16, 18, 11, 0.7)]), 10.0)


def write(path, data, voxel_size):
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.asarray(data, np.float32))
        mrc.voxel_size = voxel_size
    return path


def test_read(lopsided, tmp_path):
    data = lopsided.data.copy()
    data[0, 0, 0] = -0.1
    path = write(tmp_path / "7abc_10A.mrc", data, 10.0)
    (tmp_path / "7abc.map.gz").write_bytes(gzip.compress(path.read_bytes()))
    for file, name in ((path, "7abc_10A"), (tmp_path / "7abc.map.gz", "7abc")):
        particle = read_density_map(file)
        assert (particle.name, particle.voxel_size) == (name, 10.0)
        np.testing.assert_array_equal(particle.data, np.maximum(data, 0))


@pytest.mark.parametrize(("voxel_size", "data", "message"), [
    (0.0, np.ones((4, 4, 4)), "no voxel size"),
    ((1.0, 2.0, 3.0), np.ones((4, 4, 4)), "1 × 2 × 3 Å"),
    (10.0, np.zeros((4, 4, 4)), "density from 0 to 0"),
    (10.0, -np.ones((4, 4, 4)), "density from -1 to -1"),
    (10.0, np.linspace(-3, 1, 64).reshape(4, 4, 4), "density from -3 to 1.*bright.*-1"),
    (10.0, np.full((4, 4, 4), np.nan), "NaN"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:Data array contains NaN")
def test_refuses(tmp_path, voxel_size, data, message):
    with pytest.raises(CryodenError, match=message):
        read_density_map(write(tmp_path / "bad.mrc", data, voxel_size))


def test_refuses_what_is_no_map(tmp_path):
    (tmp_path / "bad.mrc").write_text("<!DOCTYPE html>" * 200)
    with pytest.raises(CryodenError, match=r"bad\.mrc"):
        read_density_map(tmp_path / "bad.mrc")
    with pytest.raises(CryodenError, match=r"none\.mrc"):
        read_density_map(tmp_path / "none.mrc")


def test_diameter():
    data = np.zeros((20, 20, 20), np.float32)
    data[9:12, 9:12, 4:17] = 1  # the farthest voxel is (1, 1, 6) from the centre
    data[0, 0, 0] = 1e-3  # too faint to count
    assert DensityMap("rod", data, 5.0).diameter == pytest.approx(2 * 5 * np.sqrt(38), rel=1e-3)


def test_the_bulk_does_not_hang_on_how_sharp_a_map_is():
    """Peaks of a sharp map are no density of protein: blurred to 20 Å, a map of 3 Å is as one of 8 Å."""
    rng = np.random.default_rng(0)
    ball = (np.square(np.indices((40, 40, 40)) - 20).sum(0) < 12**2) * rng.random((40, 40, 40))
    sharp, soft = (DensityMap("map", ndimage.gaussian_filter(ball, s).astype(np.float32), 2.0) for s in (0.3, 0.9))
    assert sharp.data.max() > 1.4 * soft.data.max()
    assert sharp.bulk == pytest.approx(soft.bulk, rel=0.02)
    assert DensityMap("map", 7 * sharp.data, 2.0).bulk == pytest.approx(7 * sharp.bulk)


def test_pickle(lopsided):
    copy = pickle.loads(pickle.dumps(lopsided))
    assert (copy.name, copy.voxel_size, copy.diameter) == (lopsided.name, lopsided.voxel_size, lopsided.diameter)
    np.testing.assert_array_equal(copy.data, lopsided.data)
