"""TIFF and OME-Zarr: read as what others wrote them to be, and written so that others read them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from cryoden import Volume, open_volume, read_volume, write_volume
from cryoden.errors import CryodenError
from cryoden.volume import Mrc, format_of, look_at
from cryoden.volume.base import in_angstrom

SHAPE = (5, 12, 9)
VOXELS = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
NAMES = ("a.mrc", "a.tif", "a.ome.tiff", "a.zarr", "a.ome.zarr")


def ome_zarr(
    path: Path, levels: dict[str, tuple[np.ndarray, list[float]]], *, version: str = "0.4", unit: str = "angstrom"
) -> Path:
    """An image as other programs write it, channels and all: levels by name, with the scale of each."""
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    for name, (data, _) in levels.items():
        chunks = tuple(min(4, size) for size in data.shape)
        shards = None if version == "0.4" else tuple(2 * chunk for chunk in chunks)
        group.create_array(name, data=data, chunks=chunks, shards=shards)
    ndim = len(next(iter(levels.values()))[1])
    space: dict[str, Any] = {"type": "space", "unit": unit} if unit else {"type": "space"}
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}][5 - ndim :]
    axes += [{"name": axis, **space} for axis in "zyx"]
    datasets = [
        {"path": name, "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        for name, (_, scale) in levels.items()
    ]
    told = {"multiscales": [{"axes": axes, "datasets": datasets}]}
    if version == "0.4":
        told["multiscales"][0]["version"] = version
        group.attrs.update(told)
    else:
        group.attrs["ome"] = {"version": version, **told}
    return path


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, np.float32) for name in NAMES), *((name, np.float16) for name in NAMES if "tif" not in name)],
)
class TestWrittenAndRead:
    def test_the_same_comes_back_mapped(self, name, dtype, tmp_path) -> None:
        write_volume(tmp_path / name, Volume(VOXELS, 7.84, labels=("fi\x07rst",)), label="second", dtype=dtype)
        volume = open_volume(tmp_path / name)
        assert isinstance(volume.data, np.memmap)
        assert volume.data.dtype == dtype
        np.testing.assert_array_equal(volume.data, VOXELS.astype(dtype))
        assert volume.voxel_size == pytest.approx(7.84)
        assert volume.labels == ("first", "second")
        assert [each.name for each in tmp_path.iterdir()] == [name]

    def test_without_a_voxel_size_none_is_made_up(self, name, dtype, tmp_path) -> None:
        write_volume(tmp_path / name, Volume(VOXELS, 0.0), dtype=dtype)
        assert look_at(tmp_path / name).voxel_size == 0
        assert look_at(tmp_path / name, 5.0).voxel_size == 5

    def test_what_is_there_is_replaced_only_when_asked_and_only_by_what_is_whole(self, name, dtype, tmp_path) -> None:
        path = tmp_path / name
        write_volume(path, Volume(VOXELS, 10.0), dtype=dtype)
        with pytest.raises(CryodenError, match=r"exists; .*--overwrite"):
            write_volume(path, Volume(-VOXELS, 10.0), dtype=dtype)
        with pytest.raises(CryodenError, match="NaN"):
            write_volume(path, Volume(np.full(SHAPE, np.nan), 10.0), dtype=dtype, overwrite=True)
        np.testing.assert_array_equal(read_volume(path).data, VOXELS.astype(dtype))
        write_volume(path, Volume(-VOXELS[1:], 10.0), dtype=dtype, overwrite=True)
        np.testing.assert_array_equal(read_volume(path).data, -VOXELS[1:].astype(dtype))
        assert [each.name for each in tmp_path.iterdir()] == [name]


class TestTiff:
    def test_others_read_what_is_written(self, tmp_path) -> None:
        write_volume(tmp_path / "a.tif", Volume(VOXELS, 7.84))
        with tifffile.TiffFile(tmp_path / "a.tif") as file:
            np.testing.assert_array_equal(file.asarray(), VOXELS)
            assert file.series[0].axes == "ZYX"
            pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        assert [pixels[f"PhysicalSize{axis}"] for axis in "XYZ"] == [7.84] * 3
        assert [pixels[f"PhysicalSize{axis}Unit"] for axis in "XYZ"] == ["Å"] * 3

    @pytest.mark.parametrize(
        ("words", "size"),
        [
            ({"ome": True, "metadata": {"PhysicalSizeX": 0.784, "PhysicalSizeXUnit": "nm"}}, 0),  # of one axis alone
            ({"ome": True, "metadata": {f"PhysicalSize{axis}": 0.000784 for axis in "XYZ"}}, 7.84),  # µm, unless told
            ({"imagej": True, "resolution": (1 / 0.784,) * 2, "metadata": {"spacing": 0.784, "unit": "nm"}}, 7.84),
            (
                {"imagej": True, "resolution": (1 / 784e-6,) * 2, "metadata": {"spacing": 784e-6, "unit": "\\u00B5m"}},
                7.84,
            ),
            ({"imagej": True}, 0),
            ({"resolution": (72, 72), "resolutionunit": "inch"}, 0),  # which says nothing of a specimen
        ],
    )
    @pytest.mark.parametrize("byteorder", ["<", ">"])
    def test_voxel_sizes_are_those_of_ome_and_imagej(self, words, size, byteorder, tmp_path) -> None:
        imagej = {**words, "metadata": {"axes": "ZYX", **words.get("metadata", {})}}
        tifffile.imwrite(tmp_path / "a.dat", VOXELS, byteorder=byteorder, photometric="minisblack", **imagej)
        volume = open_volume(tmp_path / "a.dat")
        assert volume.voxel_size == pytest.approx(size, rel=1e-4)
        np.testing.assert_array_equal(volume.data, VOXELS)

    @pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "f2", "f4", "f8"])
    def test_compressed_pages_are_unpacked_section_by_section(self, dtype, tmp_path) -> None:
        voxels = (10 * VOXELS).astype(dtype)
        tifffile.imwrite(tmp_path / "a.tif", voxels, compression="zlib", tile=(16, 16), photometric="minisblack")
        volume = open_volume(tmp_path / "a.tif")
        assert isinstance(volume.data, np.memmap)
        assert volume.data.dtype == dtype
        np.testing.assert_array_equal(volume.data, voxels)

    @pytest.mark.parametrize(
        ("voxels", "words", "told"),
        [
            (VOXELS[0], {}, r"shape 12 × 9 \(YX\) of float32; a volume is needed"),
            (VOXELS[None].repeat(2, 0), {}, "shape 2 × 5 × 12 × 9"),
            (np.zeros((5, 12, 3), "u1"), {"photometric": "rgb"}, r"5 × 12 × 3 \(YXS\)"),
            (VOXELS.astype("c8"), {}, "complex64"),
            (
                VOXELS,
                {"imagej": True, "resolution": (1, 1), "metadata": {"axes": "ZYX", "spacing": 2, "unit": "nm"}},
                r"voxels of 10 × 10 × 20 Å \(x, y, z\); they must be cubes",
            ),
        ],
    )
    def test_what_is_no_volume_is_refused(self, voxels, words, told, tmp_path) -> None:
        tifffile.imwrite(tmp_path / "a.tif", voxels, **{"photometric": "minisblack", **words})
        with pytest.raises(CryodenError, match=told):
            look_at(tmp_path / "a.tif")

    @pytest.mark.parametrize("words", [{}, {"compression": "zlib"}])
    def test_a_file_cut_short_is_refused(self, words, tmp_path) -> None:
        tifffile.imwrite(tmp_path / "a.tif", VOXELS, photometric="minisblack", **words)
        whole = (tmp_path / "a.tif").read_bytes()
        for share in (0.001, 0.01, 0.1, 0.5):
            (tmp_path / "a.tif").write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(CryodenError, match=r"a\.tif.* (copy it again|a volume is needed|not an MRC file)"):
                open_volume(tmp_path / "a.tif")


class TestOmeZarr:
    def test_what_is_written_has_levels_that_halve_in_angstrom(self, tmp_path) -> None:
        voxels = np.random.default_rng(0).normal(size=(70, 140, 257)).astype(np.float32)
        write_volume(tmp_path / "a.zarr", Volume(voxels, 5.0, origin=(1.0, 2.0, 3.0)))
        group = zarr.open_group(tmp_path / "a.zarr", mode="r")
        (image,) = group.attrs["multiscales"]
        assert image["version"] == "0.4"
        assert image["axes"] == [{"name": axis, "type": "space", "unit": "angstrom"} for axis in "zyx"]
        assert [each["path"] for each in image["datasets"]] == ["0", "1"]
        assert group["1"].shape == (35, 70, 128)
        np.testing.assert_array_equal(group["0"][:], voxels)
        eight = voxels[:, :, :256].reshape(35, 2, 70, 2, 128, 2).mean((1, 3, 5), dtype=np.float64)
        np.testing.assert_allclose(group["1"][:], eight, atol=1e-6)
        scale, place = image["datasets"][1]["coordinateTransformations"]
        assert scale == {"type": "scale", "scale": [10.0] * 3}
        assert place == {"type": "translation", "translation": [5.5, 4.5, 3.5]}  # amid eight of the finer voxels
        assert open_volume(tmp_path / "a.zarr").origin == (1.0, 2.0, 3.0)

    @pytest.mark.parametrize("version", ["0.4", "0.5"])
    @pytest.mark.parametrize("dtype", ["i1", "u2", "f4", ">f4"])
    def test_what_others_write_is_read(self, version, dtype, tmp_path) -> None:
        if (version, dtype) == ("0.5", ">f4"):
            dtype = "f8"
        voxels = (10 * VOXELS).astype(dtype)
        path = ome_zarr(
            tmp_path / "a", {"s0": (voxels[None], [1, 0.784, 0.784, 0.784])}, version=version, unit="nanometer"
        )
        volume = open_volume(path)
        assert isinstance(volume.data, np.memmap)
        np.testing.assert_array_equal(volume.data, voxels)
        assert volume.voxel_size == pytest.approx(7.84)

    def test_the_level_is_chosen_by_voxel_size(self, tmp_path) -> None:
        levels = {str(n): (VOXELS[: 5 - n], [5.0 * 2**n] * 3) for n in range(3)}
        path = ome_zarr(tmp_path / "a.zarr", levels)
        for stated, near, found in (
            (None, None, 5),
            (None, 11.0, 10),
            (None, 7.2, 10),  # 1.39 times finer; those of 5 Å are 1.44 times
            (None, 100.0, 20),
            (9.9, None, 9.9),  # the header's own word is less exact than the user's
            (20.0, 5.0, 20),
        ):
            volume = open_volume(path, stated, near)
            assert volume.voxel_size == found
            assert len(volume.data) == 5 - round(np.log2(found / 5))
        with pytest.raises(CryodenError, match="levels of 5, 10, 20 Å, and 14 Å was stated: give one of these"):
            look_at(path, 14.0)

    def test_what_is_said_of_all_levels_comes_after_what_is_said_of_one(self, tmp_path) -> None:
        path = ome_zarr(tmp_path / "a.zarr", {"0": (VOXELS, [0.5] * 3)})
        group = zarr.open_group(path)
        (image,) = group.attrs["multiscales"]
        image["datasets"][0]["coordinateTransformations"].append({"type": "translation", "translation": [2, 3, 4]})
        image["coordinateTransformations"] = [{"type": "scale", "scale": [20, 20, 20]}]
        group.attrs["multiscales"] = [image]
        volume = open_volume(path)
        assert volume.voxel_size == 10
        assert volume.origin == (80, 60, 40)

    def test_axes_in_another_order_are_put_in_order(self, tmp_path) -> None:
        path = ome_zarr(tmp_path / "a.zarr", {"0": (VOXELS.transpose(2, 0, 1), [10.0] * 3)})
        group = zarr.open_group(path)
        group.attrs["multiscales"] = [
            {**group.attrs["multiscales"][0], "axes": [{"name": a, "unit": "angstrom"} for a in "xzy"]}
        ]
        np.testing.assert_array_equal(open_volume(path).data, VOXELS)

    @pytest.mark.parametrize(
        ("levels", "unit", "told"),
        [
            (
                {"0": (VOXELS[None].repeat(2, 0), [1, 10, 10, 10])},
                "angstrom",
                "2 × 5 × 12 × 9 .* of one channel at one",
            ),
            ({"0": (VOXELS.astype("c8"), [10, 10, 10])}, "angstrom", "complex64"),
            ({"0": (VOXELS, [10, 10, 12])}, "angstrom", r"voxels of 12 × 10 × 10 Å \(x, y, z\)"),
            ({"0": (VOXELS[0], [10, 10])}, "angstrom", "not an OME-Zarr image of version 0.4 or 0.5"),
        ],
    )
    def test_what_is_no_volume_is_refused(self, levels, unit, told, tmp_path) -> None:
        with pytest.raises(CryodenError, match=told):
            look_at(ome_zarr(tmp_path / "a.zarr", levels, unit=unit))

    def test_a_level_alone_or_another_store_is_refused_with_what_to_give(self, tmp_path) -> None:
        path = ome_zarr(tmp_path / "a.zarr", {"0": (VOXELS, [10.0] * 3)})
        with pytest.raises(CryodenError, match=r"a\.zarr/0 is not an OME-Zarr image"):
            look_at(path / "0")
        zarr.open_group(tmp_path / "b.zarr", mode="w").create_array("raw", data=VOXELS)
        with pytest.raises(CryodenError, match=r"lack multiscales .*; give the folder that has them"):
            look_at(tmp_path / "b.zarr")

    def test_a_chunk_that_is_damaged_or_missing_is_told(self, tmp_path, caplog) -> None:
        write_volume(tmp_path / "a.zarr", Volume(VOXELS, 10.0))
        open_volume(tmp_path / "a.zarr")
        assert caplog.text == ""
        chunk = tmp_path / "a.zarr/0/0/0/0"
        chunk.write_bytes(b"damaged")
        with pytest.raises(CryodenError, match=r"a\.zarr: its chunks cannot be read: .*; copy it again"):
            open_volume(tmp_path / "a.zarr")
        chunk.unlink()
        assert not open_volume(tmp_path / "a.zarr").data.any()
        assert "1 of 1 chunks of" in caplog.text
        assert "are missing and read as 0" in caplog.text

    def test_without_units_the_voxel_size_is_to_be_stated(self, tmp_path) -> None:
        path = ome_zarr(tmp_path / "a.zarr", {"0": (VOXELS, [1.0] * 3)}, unit="")
        assert look_at(path).voxel_size == 0
        assert look_at(path, 7.84).voxel_size == 7.84

    def test_where_zarr_is_not_installed_one_line_says_how_to_get_it(self, tmp_path) -> None:
        ome_zarr(tmp_path / "a.zarr", {"0": (VOXELS, [10.0] * 3)})
        (tmp_path / "c.mrc").touch()
        for words in (["a.zarr", "b.mrc"], ["c.mrc", "a.zarr"]):
            code = f"""
import sys
sys.modules["zarr"] = None
from cryoden.cli import main
main({["denoise", *words]})
"""
            done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 2
            assert done.stderr == (
                "cryoden: error: a.zarr is OME-Zarr, and zarr is not installed here: pip install 'cryoden[zarr]'\n"
            )


@pytest.mark.parametrize(
    ("length", "unit", "angstrom"),
    [
        (7.5, "Å", 7.5),
        (0.75, "nm", 7.5),
        (0.75, " Nanometer", 7.5),
        (7.5e-4, "µm", 7.5),
        (7.5e-7, "mm", 7.5),
        (7.5e-10, "meter", 7.5),
        (7.5, "inch", 0),
        (7.5, "", 0),
        (7.5, "mm", 0),
        (0.0, "nm", 0),
    ],
)
def test_lengths_of_any_unit_are_told_in_angstrom(length: float, unit: str, angstrom: float) -> None:
    assert in_angstrom(length, unit) == pytest.approx(angstrom)


def test_a_name_of_another_format_is_refused(tmp_path) -> None:
    with pytest.raises(
        CryodenError, match=r"a\.tif as float16, which OME-TIFF has not; use float32, or another format"
    ):
        write_volume(tmp_path / "a.tif", Volume(VOXELS, 10.0), dtype=np.float16)
    for name in ("a.h5", "a.hdf5", "a.JPEG", "a.nii.gz", "a.tif.gz", "a.ome.zarr.bz2"):
        with pytest.raises(CryodenError, match=rf"cannot write .*{name}: give a name that ends in .mrc, .tif or .zarr"):
            write_volume(tmp_path / name, Volume(VOXELS, 10.0))
    assert format_of("a.mrc.gz") is format_of("a.00Apx.bz2") is Mrc
