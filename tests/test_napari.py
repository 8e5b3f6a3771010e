"""The napari plugin as napari opens it: run with -m napari where napari, a Qt and a screen are, if only xvfb-run's."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tifffile import imwrite

from cryoden import denoise, export_weights
from cryoden.cli import main
from cryoden.denoiser import Denoiser
from cryoden.inference.removed import structure_removed, tell_removed
from cryoden.models import shipped_models
from cryoden.networks import CompactUnet
from cryoden.volume import Volume, read_volume, write_volume

pytestmark = pytest.mark.napari


@pytest.fixture
def viewer():
    import napari

    viewer = napari.Viewer(show=False)
    yield viewer
    viewer.close()


@pytest.fixture
def model() -> Denoiser:
    model = Denoiser(CompactUnet(channels=4, levels=1), voxel_size=10.0)
    for parameter in model.generator.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return model


@pytest.fixture
def widget(viewer, model, tmp_path: Path):
    """The widget as the menu opens it, with a model of a file."""
    _, widget = viewer.window.add_plugin_dock_widget("cryoden", "Denoise a tomogram")
    export_weights(model, tmp_path / "model.safetensors")
    widget.model.value = "a file ..."
    widget.path.value = tmp_path / "model.safetensors"
    return widget


def press(widget) -> str:
    """Presses the button, waits, and reads what the widget tells."""
    widget.button.changed.emit(True)
    return wait(widget)


def wait(widget) -> str:
    from qtpy.QtWidgets import QApplication

    limit = time.monotonic() + 60
    while not widget.button.enabled:
        QApplication.processEvents()
        assert time.monotonic() < limit
    return widget.status.value


def select(layer, viewer) -> None:
    viewer.layers.selection.active = layer


def volume() -> np.ndarray:
    """Longer than the largest tile, so that there are two."""
    data = np.random.default_rng(0).normal(size=(12, 40, 270))
    data[4:8, 10:20, 10:40] -= 6
    return data.astype(np.float32)


PLACE = {"scale": (1, 1, 1), "units": ("nm",) * 3, "translate": (5, 6, 7)}


def test_the_layer_and_what_was_taken_away_are_added_where_it_is_and_it_stays_selected(viewer, widget, model) -> None:
    source = viewer.add_image(volume(), name="tomo", **PLACE)
    assert widget.voxel_size.value == 10
    told = press(widget)
    after = denoise(volume(), model)
    share = tell_removed(structure_removed(volume(), after), "the layer “taken away”")
    assert told == f"Added tomo denoised ({widget.path.value}, 10 Å, protein dark): {share}."
    assert [layer.name for layer in viewer.layers] == ["tomo", "tomo taken away", "tomo denoised"]
    assert viewer.layers.selection.active is source
    assert widget.voxel_size.value == 10
    for name, data in (("tomo denoised", after), ("tomo taken away", volume() - after)):
        added = viewer.layers[name]
        np.testing.assert_array_equal(added.data, data)
        np.testing.assert_array_equal(added.translate, PLACE["translate"])
        assert added.units == source.units
    low, high = source.contrast_limits
    assert np.diff(viewer.layers["tomo taken away"].contrast_limits) == pytest.approx(high - low)
    assert widget.progress.value == widget.progress.max == 2


def test_a_model_that_comes_with_cryoden_is_there_without_a_choice(viewer) -> None:
    _, widget = viewer.window.add_plugin_dock_widget("cryoden", "Denoise a tomogram")
    viewer.add_image(volume()[:, :16, :32], name="tomo", **PLACE)
    assert "tomo denoised (cryoden-10A, 10 Å, protein dark)" in press(widget)
    assert widget.model.choices[1:-2] == tuple(shipped_models())


def test_a_run_is_chosen_by_its_folder(viewer, widget, model, tmp_path: Path) -> None:
    viewer.add_image(volume(), name="tomo", **PLACE)
    widget.model.value = "a run's folder ..."
    widget.path.value = tmp_path
    assert f"tomo denoised ({tmp_path}, 10 Å" in press(widget)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda widget, viewer: viewer.layers.clear(), "Select one image layer"),
        (lambda widget, viewer: viewer.add_points(np.zeros((2, 3))), "Select one image layer"),
        (lambda widget, viewer: viewer.add_image(np.zeros((5, 5))), "Select one image layer"),
        (lambda widget, viewer: viewer.add_image(np.zeros((9, 9, 9), bool)), "Select one image layer"),
        (lambda widget, viewer: viewer.add_image(volume(), name="bare"), "bare does not say how large its voxels are"),
        (lambda widget, viewer: viewer.add_image(volume(), scale=(1, 1, 2), units="nm"), "type their size in Å"),
        (lambda widget, viewer: viewer.add_image(np.zeros((9, 9, 9)), name="flat", **PLACE), "flat: every voxel is 0"),
        (lambda widget, viewer: setattr(widget.voxel_size, "value", 20), "there and back with the tick “resample”"),
        (lambda widget, viewer: setattr(widget.path, "value", "none.ckpt"), "no such file"),
        (lambda widget, viewer: press(widget) and select(viewer.layers[-1], viewer), "is what a model made"),
    ],
)
def test_what_cannot_be_done_is_told_in_the_words_of_the_window(viewer, widget, change, message) -> None:
    viewer.add_image(volume(), name="tomo", **PLACE)
    change(widget, viewer)
    before = len(viewer.layers)
    told = press(widget)
    assert message in told
    assert "--" not in told
    assert len(viewer.layers) == before


def test_every_message_wraps_to_the_width_of_its_window(viewer, widget) -> None:
    widget.native.resize(250, 600)
    widget.status.value = "a long message " * 40
    assert widget.status.native.heightForWidth(200) > 10 * widget.status.native.fontMetrics().height()
    assert widget.status.native.minimumSizeHint().width() < 250


def test_a_cancelled_layer_is_not_added_and_the_next_one_is(viewer, widget) -> None:
    viewer.add_image(volume(), name="tomo", **PLACE)
    widget.button.changed.emit(True)
    widget.cancel.changed.emit(True)
    assert wait(widget) == "Stopped; nothing was added."
    assert len(viewer.layers) == 1
    assert "Added" in press(widget)


def test_a_tomogram_is_opened_mapped_with_its_units_and_place(viewer, tmp_path: Path) -> None:
    write_volume(tmp_path / "tomo.mrc", Volume(volume(), 10.0, origin=(30.0, 20.0, 10.0)))
    (layer,) = viewer.open(tmp_path / "tomo.mrc", plugin="cryoden")
    assert isinstance(layer.data, np.memmap)
    np.testing.assert_array_equal(layer.data, volume())
    np.testing.assert_array_equal(layer.scale, (10, 10, 10))
    np.testing.assert_array_equal(layer.translate, (10, 20, 30))
    assert [str(unit) for unit in layer.units] == ["angstrom"] * 3
    assert layer.contrast_limits == pytest.approx(np.percentile(volume()[..., 39:231], (0.5, 99.9)))


@pytest.mark.parametrize("name", ["tomo.tif", "tomo.ome.zarr"])
def test_tiff_and_ome_zarr_open_mapped_in_angstrom_and_are_denoised(name, viewer, widget, tmp_path: Path) -> None:
    write_volume(tmp_path / name, Volume(volume(), 10.0))
    (layer,) = viewer.open(tmp_path / name, plugin="cryoden")
    assert isinstance(layer.data, np.memmap)
    np.testing.assert_array_equal(layer.data, volume())
    np.testing.assert_array_equal(layer.scale, (10, 10, 10))
    assert [str(unit) for unit in layer.units] == ["angstrom"] * 3
    assert "Added" in press(widget)


def test_a_tiff_that_is_no_volume_is_left_to_other_readers(viewer, tmp_path: Path) -> None:
    imwrite(tmp_path / "photo.tif", np.zeros((40, 50, 3), np.uint8), photometric="rgb")
    (layer,) = viewer.open(tmp_path / "photo.tif")
    assert layer.rgb


def test_a_file_that_cryoden_denoised_is_refused_when_it_is_opened(viewer, widget, tmp_path: Path) -> None:
    write_volume(tmp_path / "tomo.mrc", Volume(volume(), 10.0))
    main(["denoise", str(tmp_path / "tomo.mrc"), str(tmp_path / "out.mrc"), f"--model={widget.path.value}"])
    for name in ("tomo.mrc", "out.mrc"):
        viewer.open(tmp_path / name, plugin="cryoden")
    assert "out is what a model made" in press(widget)


def test_a_file_without_a_voxel_size_and_one_of_other_bytes_open_all_the_same(viewer, widget, tmp_path: Path) -> None:
    write_volume(tmp_path / "bare.mrc", Volume(volume(), 0.0))
    swapped = read_volume(tmp_path / "bare.mrc").data.astype(">f4")
    (layer,) = viewer.open(tmp_path / "bare.mrc", plugin="cryoden")
    assert [str(unit) for unit in layer.units] == ["pixel"] * 3
    layer.data = swapped
    widget.voxel_size.value = 10
    assert "Added" in press(widget)


def test_the_manifest_is_valid() -> None:
    from npe2 import PluginManifest

    import cryoden

    manifest = PluginManifest.from_file(Path(cryoden.__file__).parent / "napari.yaml")
    manifest.validate_imports()
