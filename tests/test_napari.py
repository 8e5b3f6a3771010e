"""The napari plugin, without a screen: run with -m napari where napari and a Qt are installed."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoden import denoise, export_weights
from cryoden.denoiser import Denoiser
from cryoden.inference.removed import structure_removed, tell_removed
from cryoden.networks import CompactUnet

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytestmark = pytest.mark.napari


@pytest.fixture
def widget(tmp_path: Path):
    from napari.components import ViewerModel
    from qtpy.QtWidgets import QApplication

    from cryoden.napari_plugin import DenoiseWidget

    application = QApplication.instance() or QApplication([])
    model = Denoiser(CompactUnet(channels=4, levels=1), voxel_size=10.0)
    for parameter in model.generator.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    export_weights(model, tmp_path / "model.safetensors")
    viewer = ViewerModel()
    widget = DenoiseWidget(viewer)
    widget.model.value = tmp_path / "model.safetensors"

    def wait() -> str:
        widget.button.changed.emit(True)
        limit = time.monotonic() + 60
        while not widget.button.enabled:
            application.processEvents()
            assert time.monotonic() < limit
        return widget.status.value

    return widget, viewer, wait, model


def volume() -> np.ndarray:
    """Longer than the largest tile, so that there are two."""
    data = np.random.default_rng(0).normal(size=(12, 40, 270))
    data[4:8, 10:20, 10:40] -= 6
    return data.astype(np.float32)


def test_denoises_the_selected_layer_where_it_is(widget) -> None:
    widget, viewer, wait, model = widget
    viewer.add_image(volume(), name="tomo", scale=(2, 2, 2), translate=(5, 6, 7))
    told = tell_removed(structure_removed(volume(), denoise(volume(), model)))
    assert wait() == f"Added tomo denoised: {told}."
    added = viewer.layers["tomo denoised"]
    np.testing.assert_array_equal(added.data, denoise(volume(), model))
    np.testing.assert_array_equal(added.scale, (2, 2, 2))
    np.testing.assert_array_equal(added.translate, (5, 6, 7))
    assert widget.progress.value == widget.progress.max == 2


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda widget, viewer: viewer.layers.clear(), "Select one image layer"),
        (lambda widget, viewer: viewer.add_points(np.zeros((2, 3))), "Select one image layer"),
        (lambda widget, viewer: viewer.add_image(np.zeros((5, 5))), "Select one image layer"),
        (lambda widget, viewer: viewer.add_image(np.zeros((9, 9, 9))), "every voxel is 0"),
        (lambda widget, viewer: setattr(widget.voxel_size, "value", 20), "voxels are 20 Å, and the model was trained"),
        (lambda widget, viewer: setattr(widget.model, "value", "none.ckpt"), "no such file"),
    ],
)
def test_what_cannot_be_done_is_told(widget, prepare, message) -> None:
    widget, viewer, wait, _ = widget
    viewer.add_image(volume(), name="tomo")
    prepare(widget, viewer)
    before = len(viewer.layers)
    assert message in wait()
    assert len(viewer.layers) == before


def test_the_manifest_is_valid_and_names_the_widget() -> None:
    from npe2 import PluginManifest

    import cryoden
    from cryoden.napari_plugin import DenoiseWidget

    manifest = PluginManifest.from_file(Path(cryoden.__file__).parent / "napari.yaml")
    manifest.validate_imports()
    assert manifest.contributions.widgets[0].command == manifest.contributions.commands[0].id
    module, _, name = manifest.contributions.commands[0].python_name.partition(":")
    assert (module, name) == (DenoiseWidget.__module__, DenoiseWidget.__name__)
