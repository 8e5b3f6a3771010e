import gzip
import pickle

import mrcfile
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cryoden.errors import CryodenError
from cryoden.particles.density_map import DensityMap, read_density_map

IDENTITY = np.eye(3)
QUARTER_TURN_ABOUT_Z = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # x goes to y


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


@pytest.mark.parametrize("box", [40, 41])
@pytest.mark.parametrize("rotation", [IDENTITY, *Rotation.random(2, random_state=0).as_matrix()])
def test_centre_of_mass_and_mass_are_kept(lopsided, rotation, box):
    volume = lopsided.sample(rotation, box, 8.0, 20.0)
    assert (volume.shape, volume.dtype) == ((box, box, box), np.float32)
    np.testing.assert_allclose(ndimage.center_of_mass(volume), box // 2, atol=0.03)
    assert volume.sum() * 8.0**3 == pytest.approx(lopsided.data.sum() * 10.0**3, rel=1e-3)


def test_quarter_turn_moves_the_axes(lopsided):
    volume, turned = (lopsided.sample(r, 41, 8.0, 20.0) for r in (IDENTITY, QUARTER_TURN_ABOUT_Z))
    np.testing.assert_allclose(turned, np.rot90(volume, axes=(2, 1)), atol=1e-5)
    assert np.abs(turned - volume).max() > 0.1


@pytest.mark.parametrize("voxel_size", [5.0, 10.0, 14.0])
def test_scale_and_rotation_against_the_formula(voxel_size):
    """Wide Gaussians keep their place in angstrom; the low-pass only widens them a little."""
    points = np.array([(12, 13, 11, 1.0), (14, 17, 19, 1.0)])
    particle = DensityMap("map", blobs(points, sigma=3.0, shape=(32, 32, 32)), 10.0)
    rotation = Rotation.random(random_state=3).as_matrix()
    volume = particle.sample(rotation, 48, voxel_size, 2 * voxel_size)
    offsets = (points[:, :3] - points[:, :3].mean(0)) * 10.0
    moved = 24 + (rotation @ offsets[:, ::-1].T).T[:, ::-1] / voxel_size
    expected = blobs(np.c_[moved, points[:, 3]], sigma=30.0 / voxel_size, shape=(48, 48, 48))
    inside = tuple(np.round(moved).astype(int).T)
    assert np.corrcoef(volume.ravel(), expected.ravel())[0, 1] > 0.998
    np.testing.assert_allclose(volume[inside] / expected[inside], 1, atol=0.12)


@pytest.mark.parametrize("rotation", [IDENTITY, Rotation.random(random_state=1).as_matrix()])
def test_no_aliasing(rotation):
    """A ripple of 28 Å cannot be shown by voxels of 20 Å: it must vanish, not come back as a coarser one."""
    z, y, x = np.moveaxis(np.indices((32, 32, 32)) - 16.0, 0, 0) * 10.0
    envelope = np.exp(-(z**2 + y**2 + x**2) / (2 * 55.0**2))
    wave = np.cos(2 * np.pi * x / 28)
    rippled, smooth = (DensityMap("map", (envelope * (1 + h * wave)).astype(np.float32), 10.0) for h in (0.9, 0.0))
    box, voxel_size = 24, 20.0
    difference = rippled.sample(rotation, box, voxel_size, 10.0) - smooth.sample(rotation, box, voxel_size, 10.0)
    seen = smooth.sample(rotation, box, voxel_size, 10.0)
    assert np.linalg.norm(difference) < 2e-3 * np.linalg.norm(seen)
    # Without a low-pass nearly all of the ripple comes back.
    naive = (rippled.data - smooth.data)[::2, ::2, ::2]
    assert np.linalg.norm(naive) > 0.4 * np.linalg.norm(smooth.data[::2, ::2, ::2])


def test_nothing_beyond_the_resolution(lopsided):
    """Sampled finely, the spectrum ends at 1 / resolution."""
    volume = lopsided.sample(Rotation.random(random_state=2).as_matrix(), 64, 6.0, 30.0)
    power = np.abs(np.fft.fftn(volume)) ** 2
    f = np.fft.fftfreq(64, 6.0)
    frequency = np.sqrt(f[:, None, None] ** 2 + f[:, None] ** 2 + f**2)
    assert power[frequency > 1.05 / 30].sum() < 1e-4 * power.sum()
    assert power[(frequency > 0.4 / 30) & (frequency < 0.8 / 30)].sum() > 0.01 * power.sum()


def test_low_pass_does_not_ring():
    data = np.zeros((24, 24, 24), np.float32)
    data[8:16, 8:16, 8:16] = 1
    volume = DensityMap("cube", data, 5.0).sample(IDENTITY, 24, 10.0, 20.0)
    assert volume.min() > -0.05 * volume.max()


def test_pickle(lopsided):
    before = lopsided.sample(IDENTITY, 24, 12.0, 24.0)
    copy = pickle.loads(pickle.dumps(lopsided))
    assert (copy.name, copy.voxel_size) == (lopsided.name, lopsided.voxel_size)
    np.testing.assert_array_equal(copy.sample(IDENTITY, 24, 12.0, 24.0), before)
