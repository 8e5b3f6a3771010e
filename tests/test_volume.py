import bz2
import dataclasses
import errno
import gzip
import mmap
import os
import re
from itertools import permutations
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest

from cryoden.errors import CryodenError
from cryoden.files import check_output
from cryoden.volume import Volume, measure, open_volume, read_volume, release, sections, write_volume

SHAPE = (5, 6, 7)


def values(dtype: type = np.float32) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 100, SHAPE).astype(dtype)


def make_mrc(path: Path, data: np.ndarray, voxel_size: float | tuple[float, float, float] = 10.0, **header) -> Path:
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(data)
        mrc.voxel_size = voxel_size
        for name, value in header.items():
            mrc.header[name] = value
    return path


def edit(path: Path, offset: int, content: bytes) -> Path:
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(content)] = content
    path.write_bytes(raw)
    return path


class TestRead:
    @pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float32, np.uint16, np.float16])
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("compress", [None, gzip.compress, bz2.compress])
    def test_every_mode_order_and_compression(self, tmp_path, dtype, order, compress):
        data = values(dtype)
        path = make_mrc(tmp_path / "a.rec", data.astype(data.dtype.newbyteorder(order)))
        if compress:
            path.write_bytes(compress(path.read_bytes()))
        volume = read_volume(path)
        assert volume.data.dtype == np.float32
        assert volume.data.dtype.isnative
        np.testing.assert_array_equal(volume.data, data)
        assert volume.voxel_size == pytest.approx(10.0)

    def test_full_range_of_16_bits(self, tmp_path):
        data = np.full(SHAPE, 65535, np.uint16)
        assert read_volume(make_mrc(tmp_path / "a.mrc", data)).data.max() == 65535

    @pytest.mark.parametrize(("flags", "expected"), [(0, 200), (1, 200 - 256)])
    def test_bytes_of_imod_are_unsigned_unless_marked(self, tmp_path, flags, expected):
        path = make_mrc(tmp_path / "a.mrc", np.full(SHAPE, 200 - 256, np.int8))
        edit(path, 152, np.array([1146047817, flags], "<i4").tobytes())
        assert np.all(read_volume(path).data == expected)

    def test_place_and_labels_are_read(self, tmp_path):
        words = {"nxstart": -3, "nystart": 4, "nzstart": 5, "origin": (1.0, 2.0, -3.0)}
        labels = [b"by a\x07 lab  \0\x01what was there", b"\0left", b"\x01", b"other"] + [b""] * 6
        path = make_mrc(tmp_path / "a.mrc", values(), 2.5, **words, label=labels, nlabl=4)
        volume = read_volume(path)
        assert volume.labels == ("by a lab", "other")
        assert volume.voxel_size == pytest.approx(2.5)
        assert volume.nstart == (-3, 4, 5)
        assert volume.origin == (1.0, 2.0, -3.0)

    def test_statistics_in_the_header_do_not_matter(self, tmp_path):
        path = make_mrc(tmp_path / "a.mrc", values(), dmin=np.nan, dmax=-5, dmean=1e30, rms=0)
        np.testing.assert_array_equal(read_volume(path).data, values())

    @pytest.mark.parametrize("voxel_size", [0.0, float("nan")])
    def test_unknown_voxel_size_is_zero(self, tmp_path, voxel_size):
        assert read_volume(make_mrc(tmp_path / "a.mrc", values(), voxel_size)).voxel_size == 0.0

    def test_intervals_of_zero_mean_unknown(self, tmp_path):
        assert read_volume(make_mrc(tmp_path / "a.mrc", values(), mx=0, my=0, mz=0)).voxel_size == 0.0

    def test_slightly_unequal_voxels_pass(self, tmp_path):
        path = make_mrc(tmp_path / "a.mrc", values(), (10.0, 10.05, 9.98))
        assert read_volume(path).voxel_size == pytest.approx(10.01)

    @pytest.mark.parametrize(
        ("offset", "content"),
        [(208, b"\0\0\0\0"), (212, b"\0\0\0\0"), (212, b"D   "), (212, b"\x11\x11\0\0")],
        ids=["no MAP", "no machine stamp", "stamp of old IMOD", "stamp of the other order"],
    )
    def test_slightly_wrong_headers_are_read_with_a_warning(self, tmp_path, caplog, offset, content):
        path = edit(make_mrc(tmp_path / "a.mrc", values()), offset, content)
        np.testing.assert_array_equal(read_volume(path).data, values())
        assert f"{path} is read although its header is not quite right" in caplog.text
        assert re.search("Map ID|achine stamp", caplog.text)

    def test_space_group_0_alone_is_not_a_stack(self, tmp_path):
        assert read_volume(make_mrc(tmp_path / "a.mrc", values(), ispg=0)).data.shape == SHAPE

    def test_bytes_after_the_voxels_are_ignored(self, tmp_path):
        path = make_mrc(tmp_path / "a.mrc", values())
        path.write_bytes(path.read_bytes() + b"tail")
        np.testing.assert_array_equal(read_volume(path).data, values())


class TestOpen:
    @pytest.mark.parametrize("dtype", [np.int8, ">i2", ">f4", np.uint16, np.float16])
    def test_voxels_are_mapped_as_they_are(self, tmp_path, dtype):
        data = values().astype(dtype)
        volume = open_volume(make_mrc(tmp_path / "a.mrc", data))
        assert isinstance(volume.data, np.memmap)
        assert (volume.data.dtype, volume.data.flags.writeable) == (np.dtype(dtype), False)
        np.testing.assert_array_equal(volume.data, data)

    @pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
    def test_compressed_files_are_unpacked_and_leave_nothing(self, tmp_path, monkeypatch, compress):
        (tmp_path / "tmp").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
        path = make_mrc(tmp_path / "a.mrc", values())
        path.write_bytes(compress(path.read_bytes()))
        volume = open_volume(path)
        np.testing.assert_array_equal(volume.data, values())
        assert list((tmp_path / "tmp").iterdir()) == []
        path.write_bytes(compress(b"not a volume" * 1000))
        with pytest.raises(CryodenError, match="not an MRC file"):
            open_volume(path)
        assert list((tmp_path / "tmp").iterdir()) == []

    def test_no_room_to_unpack(self, tmp_path, monkeypatch):
        path = make_mrc(tmp_path / "a.mrc", values())
        path.write_bytes(gzip.compress(path.read_bytes()))

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("shutil.copyfileobj", full)
        with pytest.raises(CryodenError, match=r"cannot unpack .*a\.mrc: no space left in .*TMPDIR"):
            open_volume(path)

    @pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="this system cannot let go of mapped memory")
    def test_memory_of_a_mapped_volume_is_let_go(self, tmp_path):
        """And what was written to it is kept."""
        data = np.memmap(tmp_path / "a", np.float32, mode="w+", shape=(64, 256, 256))
        data[:] = 1.0
        assert mapped_bytes(tmp_path / "a") >= data.nbytes
        release(data)
        assert mapped_bytes(tmp_path / "a") == 0
        most = 0
        for z, section in enumerate(sections(data)):
            assert (section == 1).all()
            if z % 16 == 15:
                most = max(most, mapped_bytes(tmp_path / "a"))
        assert 0 < most < data.nbytes / 8
        release(np.zeros(3))


def mapped_bytes(path: Path) -> int:
    """How much of a mapped file is in this process's memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.endswith(str(path))]
    found = [next(line for line in lines[start:] if line.startswith("Rss:")) for start in starts]
    return sum(int(line.split()[1]) for line in found) * 1024


class TestMeasure:
    @pytest.mark.parametrize("offset", [0.0, 1e6])
    def test_numpy_agrees(self, offset):
        data = (np.random.default_rng(0).gamma(1.0, 3.0, (9, 20, 30)) + offset).astype(np.float32)
        found, wide = measure(data), data.astype(float)
        assert (found.minimum, found.maximum, found.bad) == (wide.min(), wide.max(), 0)
        assert found.mean == pytest.approx(wide.mean(), rel=1e-12)
        assert found.std == pytest.approx(wide.std(), rel=1e-9)

    def test_bad_voxels_are_counted_and_left_out(self):
        data = values()
        good = np.delete(data.ravel(), [10, 200])
        data.flat[10], data.flat[200] = np.nan, -np.inf
        found = measure(data)
        assert (found.bad, found.first_bad) == (2, np.unravel_index(10, SHAPE))
        assert found.std == pytest.approx(good.std())
        data[:] = np.nan
        assert measure(data).bad == data.size


class TestRefuse:
    def refused(self, path: Path, match: str) -> None:
        with pytest.raises(CryodenError, match=match) as error:
            read_volume(path)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)

    def test_missing(self, tmp_path):
        self.refused(tmp_path / "a.mrc", "No such file")

    def test_folder(self, tmp_path):
        self.refused(tmp_path, "directory")

    def test_forbidden(self, tmp_path, monkeypatch):
        path = make_mrc(tmp_path / "a.mrc", values())
        path.chmod(0)
        if os.access(path, os.R_OK):  # root may read everything
            monkeypatch.setattr(
                Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
            )
        self.refused(path, "Permission denied")

    @pytest.mark.parametrize(
        "content",
        [b"", b"not a volume", b"not a volume" * 1000, bytes(3000), np.random.default_rng(0).bytes(5000)],
        ids=["empty", "short text", "long text", "zeros", "noise"],
    )
    def test_not_mrc(self, tmp_path, content):
        (tmp_path / "a.mrc").write_bytes(content)
        self.refused(tmp_path / "a.mrc", "not an MRC file")

    def test_numpy_file(self, tmp_path):
        np.save(tmp_path / "a.npy", values())
        self.refused(tmp_path / "a.npy", "not an MRC file")

    @pytest.mark.parametrize("keep", [1023, 1024, 1030, -1])
    def test_truncated(self, tmp_path, keep):
        path = make_mrc(tmp_path / "a.mrc", values())
        path.write_bytes(path.read_bytes()[:keep])
        self.refused(path, "truncated" if keep != 1023 else "MRC")

    @pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
    @pytest.mark.parametrize("keep", [20, -20])
    def test_truncated_compression(self, tmp_path, compress, keep):
        path = make_mrc(tmp_path / "a.mrc", values())
        path.write_bytes(compress(path.read_bytes())[:keep])
        self.refused(path, "truncated or damaged")

    def test_extended_header_longer_than_the_file(self, tmp_path):
        path = edit(make_mrc(tmp_path / "a.mrc", values()), 92, np.int32(10**6).tobytes())
        path.write_bytes(path.read_bytes()[:-1])
        self.refused(path, "truncated")

    @pytest.mark.parametrize("angle", [120, 90.5])
    def test_a_cell_that_is_no_box(self, tmp_path, angle):
        path = edit(make_mrc(tmp_path / "a.mrc", values()), 60, np.float32(angle).tobytes())
        self.refused(path, f"a cell with angles of 90, 90, {angle}°")

    def test_negative_size(self, tmp_path):
        path = edit(make_mrc(tmp_path / "a.mrc", values()), 0, np.int32(-7).tobytes())
        self.refused(path, "MRC file")

    def test_image_stack(self, tmp_path):
        with mrcfile.new(tmp_path / "a.st") as mrc:
            mrc.set_data(values())
            mrc.set_image_stack()
        self.refused(tmp_path / "a.st", "stack of 5 images")

    @pytest.mark.parametrize("name", ["a.st", "a.MRCS", "a.ali", "a.st.gz"])
    def test_a_tilt_series_with_a_header_as_of_a_volume_is_known_by_its_name(self, tmp_path, name):
        path = edit(make_mrc(tmp_path / "a.mrc", values(), 10.0), 88, np.int32(0).tobytes())
        assert read_volume(path).data.shape == SHAPE
        path = path.rename(tmp_path / name)
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(path.read_bytes()))
        self.refused(path, "is a tilt series by its name, of 5 images; a volume is needed: .* rename it to .mrc if")
        path.unlink()
        with pytest.raises(CryodenError, match="this is how a tilt series is called; give a name that ends"):
            write_volume(path, Volume(values(np.float32), 10.0))
        write_volume(path, Volume(values(np.float32), 10.0), images=True)

    def test_image(self, tmp_path):
        self.refused(make_mrc(tmp_path / "a.mrc", values()[0]), "single image of 6 × 7")
        self.refused(make_mrc(tmp_path / "b.mrc", values()[:1]), "single image")

    def test_volume_stack(self, tmp_path):
        self.refused(make_mrc(tmp_path / "a.mrc", np.stack([values()] * 2)), "stack of 2 volumes")

    def test_complex(self, tmp_path):
        self.refused(make_mrc(tmp_path / "a.mrc", values(np.complex64)), "complex voxels .mode 4.; allowed")

    def test_unknown_mode(self, tmp_path):
        self.refused(edit(make_mrc(tmp_path / "a.mrc", values()), 12, np.int32(101).tobytes()), "mode 101")

    @pytest.mark.parametrize("voxel_size", [(10.0, 10.0, 10.2), (0.448, 0.393, 0.459), (10.0, 10.0, 0.0)])
    def test_anisotropic(self, tmp_path, voxel_size):
        sizes = " × ".join(f"{size:g}" for size in voxel_size)
        self.refused(make_mrc(tmp_path / "a.mrc", values(), voxel_size), f"{sizes} Å")

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.filterwarnings("ignore:Data array contains", "ignore:invalid value")
    def test_non_finite(self, tmp_path, bad):
        data = values()
        data[2, 3, 4] = data[4, 0, 0] = bad
        self.refused(make_mrc(tmp_path / "a.mrc", data), "2 NaN or infinite voxels, the first at z 2, y 3, x 4")


ORDERS = list(permutations((1, 2, 3)))


class TestAxes:
    def stored(self, path: Path, order: tuple[int, ...]) -> Path:
        """The same density with columns, rows and sections along other axes, as crystallographers have them."""
        data = values().transpose([3 - axis for axis in reversed(order)])
        path = make_mrc(path, np.ascontiguousarray(data), 6.0)
        edit(path, 28, np.array(SHAPE[::-1], np.int32).tobytes())  # intervals and lengths of the cell: x, y, z always
        edit(path, 40, (6 * np.array(SHAPE[::-1], np.float32)).tobytes())
        return edit(path, 64, np.array(order, np.int32).tobytes())

    @pytest.mark.parametrize("order", ORDERS, ids=str)
    def test_they_are_put_in_order_as_gemmi_does(self, tmp_path, order):
        path = self.stored(tmp_path / "a.mrc", order)
        ccp4 = gemmi.read_ccp4_map(str(path))
        ccp4.setup(0.0)
        found = read_volume(path)
        np.testing.assert_array_equal(found.data, values())
        np.testing.assert_array_equal(found.data, np.array(ccp4.grid).transpose(2, 1, 0))

    @pytest.mark.parametrize("order", ORDERS, ids=str)
    def test_they_are_written_as_they_were_read(self, tmp_path, order):
        path = self.stored(tmp_path / "a.mrc", order)
        write_volume(tmp_path / "b.mrc", open_volume(path))
        with mrcfile.open(path) as before, mrcfile.open(tmp_path / "b.mrc") as after:
            np.testing.assert_array_equal(before.data, after.data)
            assert (after.header.mapc, after.header.mapr, after.header.maps) == order
        np.testing.assert_array_equal(read_volume(tmp_path / "b.mrc").data, values())
        write_volume(
            tmp_path / "c.mrc", dataclasses.replace(open_volume(path), data=values()[:3])
        )  # and of another shape
        np.testing.assert_array_equal(read_volume(tmp_path / "c.mrc").data, values()[:3])


class TestMended:
    @pytest.mark.parametrize(
        ("place", "content", "told"),
        [
            (64, np.array([1, 1, 3], np.int32), r"axes \(1, 1, 3\) are no order of 1, 2, 3"),
            (52, np.array([np.nan, 90, 90], np.float32), "cell angles"),
            (196, np.array([np.nan, 0, 0], np.float32), "origin"),
            (88, np.array([-7], np.int32), "space group -7"),
            (104, np.frombuffer(b"\xff\x01a\n", np.int32), "type of extended header"),
            (
                92,
                np.array([512], np.int32),
                "an extended header of 512 bytes is announced, and exactly that is missing",
            ),
        ],
        ids=["axes", "angles", "origin", "space group", "type", "extended header"],
    )
    def test_what_is_undefined_is_told_and_not_written_on(self, tmp_path, caplog, place, content, told):
        path = edit(make_mrc(tmp_path / "a.mrc", values()), place, content.tobytes())
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.data, values())
        assert re.search(rf"is read although its header is not quite right \(.*{told}.*\)", caplog.text)
        write_volume(tmp_path / "b.mrc", volume)
        caplog.clear()
        np.testing.assert_array_equal(read_volume(tmp_path / "b.mrc").data, values())
        assert caplog.text == ""

    def test_a_stated_voxel_size_is_believed_before_the_header(self, tmp_path):
        path = make_mrc(tmp_path / "a.mrc", values(), (10.0, 10.0, 12.0))
        assert open_volume(path, 8.0).voxel_size == 8.0


class TestWrite:
    def test_nan_is_not_written(self, tmp_path):
        data = values()
        data[1, 2, 3] = np.nan
        with pytest.raises(CryodenError, match=r"cannot write .*a\.mrc: it has 1 NaN or infinite voxels, .* z 1, y 2"):
            write_volume(tmp_path / "a.mrc", Volume(data, 1.0))
        with pytest.raises(CryodenError, match="NaN or infinite"):
            write_volume(tmp_path / "a.mrc", Volume(values().astype(np.float64) * 1e300, 1.0))
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_was_cut_short_is_read_no_further(self, tmp_path):
        volume = open_volume(make_mrc(tmp_path / "a.mrc", values()))
        os.truncate(tmp_path / "a.mrc", 1100)
        with pytest.raises(CryodenError, match=r"a\.mrc was cut short while it was read"):
            list(sections(volume.data))

    def test_read_by_mrcfile(self, tmp_path):
        volume = Volume(values(), 6.0, origin=(1.5, -2.0, 3.0), nstart=(1, -2, 3))
        write_volume(tmp_path / "a.mrc", volume, label="by a test")
        assert mrcfile.validate(tmp_path / "a.mrc")
        with mrcfile.open(tmp_path / "a.mrc") as mrc:
            np.testing.assert_array_equal(mrc.data, values())
            assert mrc.header.mode == 2
            assert mrc.is_volume()
            assert mrc.voxel_size.item() == pytest.approx((6.0, 6.0, 6.0))
            assert mrc.header.origin.item() == (1.5, -2.0, 3.0)
            assert (mrc.header.nxstart, mrc.header.nystart, mrc.header.nzstart) == (1, -2, 3)
            assert mrc.header.dmean == pytest.approx(values().mean())
            assert mrc.header.rms == pytest.approx(values().std())
            assert (mrc.header.dmin, mrc.header.dmax) == (values().min(), values().max())
            assert mrc.get_labels() == ["by a test"]

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_read_by_gemmi(self, tmp_path, order):
        source = make_mrc(tmp_path / "in.mrc", values().astype(f"{order}f4"), 6.0, nxstart=1, nystart=-2, nzstart=3)
        write_volume(tmp_path / "a.mrc", read_volume(source))
        ccp4 = gemmi.read_ccp4_map(str(tmp_path / "a.mrc"))
        np.testing.assert_array_equal(np.array(ccp4.grid).transpose(2, 1, 0), values())
        assert ccp4.grid.unit_cell.parameters == pytest.approx((42, 36, 30, 90, 90, 90))
        assert [ccp4.header_i32(word) for word in (4, 5, 6, 7)] == [2, 1, -2, 3]

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_header_survives(self, tmp_path, order):
        with mrcfile.new(tmp_path / "in.mrc") as mrc:
            mrc.set_data(values().astype(f"{order}f4"))
            mrc.set_extended_header(np.frombuffer(b"SYMOP X,Y,Z".ljust(160), "V1"))
            header = mrc.header
            header.exttyp, header.extra1 = b"CCP4", b"12345678"
            header.mapc, header.mapr, header.maps = 3, 1, 2
            header.mx, header.my, header.mz = 40, 12, 72
            header.cella, header.cellb = (400.0, 120.0, 720.0), (90.0, 90.0, 90.05)
            header.dmin, header.dmax, header.dmean, header.rms = 0, 0, 0, 0
            mrc.add_label("from a microscope")
        write_volume(tmp_path / "out.mrc", read_volume(tmp_path / "in.mrc"), label="by a test")
        with mrcfile.open(tmp_path / "in.mrc") as before, mrcfile.open(tmp_path / "out.mrc") as after:
            kept = set(before.header.dtype.names) - {"dmin", "dmax", "dmean", "rms", "label", "nlabl"}
            assert {name for name in kept if before.header[name].tobytes() != after.header[name].tobytes()} == set()
            assert before.extended_header.tobytes() == after.extended_header.tobytes()
            assert after.get_labels() == [*before.get_labels(), "by a test"]
            assert after.header.rms == pytest.approx(values().std())

    def test_old_header_is_mended(self, tmp_path):
        path = make_mrc(tmp_path / "in.mrc", values(), 5.0, ispg=0, mapc=0, mapr=0, maps=0, cellb=(0, 0, 0))
        edit(path, 208, bytes(8))
        write_volume(tmp_path / "out.mrc", read_volume(path))
        assert mrcfile.validate(tmp_path / "out.mrc")
        with mrcfile.open(tmp_path / "out.mrc") as mrc:
            assert mrc.is_volume()
            assert mrc.header.cellb.item() == (90, 90, 90)
            assert mrc.voxel_size.item() == pytest.approx((5, 5, 5))

    def test_slightly_unequal_cell_is_kept_unless_the_voxel_size_is_set(self, tmp_path):
        volume = read_volume(make_mrc(tmp_path / "in.mrc", values(), (10.0, 10.05, 9.98)))
        write_volume(tmp_path / "a.mrc", volume)
        write_volume(tmp_path / "b.mrc", dataclasses.replace(volume, voxel_size=8.0))
        with mrcfile.open(tmp_path / "a.mrc") as a, mrcfile.open(tmp_path / "b.mrc") as b:
            assert a.voxel_size.item() == pytest.approx((10.0, 10.05, 9.98))
            assert b.voxel_size.item() == pytest.approx((8.0, 8.0, 8.0))

    def test_unknown_voxel_size_stays_unknown(self, tmp_path):
        write_volume(tmp_path / "out.mrc", read_volume(make_mrc(tmp_path / "in.mrc", values(), 0.0)))
        assert read_volume(tmp_path / "out.mrc").voxel_size == 0

    def test_cropped_volume_loses_what_belonged_to_the_whole(self, tmp_path):
        with mrcfile.new(tmp_path / "in.mrc") as mrc:
            mrc.set_data(values())
            mrc.set_extended_header(np.zeros(160, "V1"))
            mrc.voxel_size = 4.0
        volume = read_volume(tmp_path / "in.mrc")
        write_volume(tmp_path / "out.mrc", dataclasses.replace(volume, data=volume.data[1:, :4].copy()))
        cropped = read_volume(tmp_path / "out.mrc")
        assert cropped.voxel_size == pytest.approx(4.0)
        assert (cropped.data.shape, cropped.extended_header) == ((4, 4, 7), b"")

    def test_ten_labels_are_the_limit(self, tmp_path):
        path = make_mrc(tmp_path / "in.mrc", values(), label=[f"label {i}".encode() for i in range(10)], nlabl=10)
        write_volume(tmp_path / "out.mrc", read_volume(path), label="Å" * 100)
        with mrcfile.open(tmp_path / "out.mrc") as mrc:
            assert mrc.get_labels() == [*(f"label {i}" for i in range(9)), "?" * 80]

    @pytest.mark.parametrize(("suffix", "magic"), [("mrc", b"\x05\0"), ("mrc.gz", b"\x1f\x8b"), ("mrc.bz2", b"BZ")])
    def test_suffix_chooses_compression(self, tmp_path, suffix, magic):
        write_volume(tmp_path / f"a.{suffix}", Volume(values().transpose(2, 1, 0), 1.0))
        assert (tmp_path / f"a.{suffix}").read_bytes()[:2] == magic
        np.testing.assert_array_equal(read_volume(tmp_path / f"a.{suffix}").data, values().transpose(2, 1, 0))

    @pytest.mark.parametrize("suffix", ["", ".gz", ".bz2"])
    def test_same_input_same_bytes(self, tmp_path, suffix):
        for name in "ab":
            write_volume(tmp_path / f"{name}{suffix}", Volume(values(), 1.0))
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_float16(self, tmp_path, order):
        data = values() / 16  # mrcfile's own check adds up squares in float16
        source = make_mrc(tmp_path / "in.mrc", data.astype(f"{order}f4"))
        write_volume(tmp_path / "a.mrc", read_volume(source), dtype=np.float16)
        assert mrcfile.validate(tmp_path / "a.mrc")
        with mrcfile.open(tmp_path / "a.mrc") as mrc:
            assert (mrc.header.mode, mrc.data.dtype) == (12, np.dtype(f"{order}f2"))
            np.testing.assert_array_equal(mrc.data, data)

    def test_what_is_too_large_for_float16_is_refused(self, tmp_path):
        with pytest.raises(CryodenError, match=r"a\.mrc as float16: .*±65504"):
            write_volume(tmp_path / "a.mrc", Volume(values() + 65500, 1.0), dtype=np.float16)
        assert list(tmp_path.iterdir()) == []

    def test_full_disk_is_seen_before_the_work(self, tmp_path):
        with pytest.raises(CryodenError, match=r"1000 TB are needed .* are free; make room"):
            check_output(tmp_path / "a.mrc", overwrite=False, size=10**15)

    def test_existing_file_is_refused_unless_asked(self, tmp_path):
        path = tmp_path / "a.mrc"
        path.write_bytes(b"precious")
        with pytest.raises(CryodenError, match=r"a\.mrc exists.*--overwrite"):
            write_volume(path, Volume(values(), 1.0))
        assert path.read_bytes() == b"precious"
        write_volume(path, Volume(values(), 1.0), overwrite=True)
        np.testing.assert_array_equal(read_volume(path).data, values())

    def test_a_file_may_replace_the_one_it_came_from(self, tmp_path):
        path = make_mrc(tmp_path / "a.mrc", values())
        write_volume(path, read_volume(path), overwrite=True)
        np.testing.assert_array_equal(read_volume(path).data, values())

    def test_failure_leaves_nothing_and_spares_what_was_there(self, tmp_path, monkeypatch):
        path = tmp_path / "a.mrc"
        path.write_bytes(b"precious")
        monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(CryodenError, match=r"cannot write .*a\.mrc: No space left"):
            write_volume(path, Volume(values(), 1.0), overwrite=True)
        assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("a.mrc", b"precious")]

    def test_places_that_cannot_be_written(self, tmp_path, monkeypatch):
        with pytest.raises(CryodenError, match=r"no folder .*missing; create it"):
            check_output(tmp_path / "missing" / "a.mrc", overwrite=False)
        with pytest.raises(CryodenError, match="it is a folder"):
            check_output(tmp_path, overwrite=True)
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(CryodenError, match="not writable"):
            check_output(tmp_path / "a.mrc", overwrite=False)
