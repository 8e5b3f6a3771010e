"""A napari plugin: denoise the selected layer with a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import CheckBox, ComboBox, Container, FileEdit, FloatSpinBox, Label, ProgressBar, PushButton
from napari.layers import Image
from napari.qt.threading import create_worker
from superqt.utils import ensure_main_thread

from cryoden.checkpoint import load_denoiser
from cryoden.errors import CryodenError
from cryoden.inference.denoise import denoise
from cryoden.inference.removed import structure_removed, tell_removed

if TYPE_CHECKING:
    from napari.components import ViewerModel


class DenoiseWidget(Container):  # type: ignore[misc]
    """Denoises the selected image layer in a thread and adds the result as a layer in the same place.

    Args:
        viewer: Whose layers it works on.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self.model = FileEdit(label="model", filter="*.ckpt *.safetensors")
        self.contrast = ComboBox(label="protein is", choices=["auto", "bright", "dark"])
        self.voxel_size = FloatSpinBox(label="voxel size, Å", min=0, max=1000, tooltip="0: as the model was trained")
        self.rescale = CheckBox(label="resample to the model's voxel size and back")
        self.augment = CheckBox(label="average over 8 orientations (slower)")
        self.button = PushButton(text="Denoise the selected layer")
        self.progress = ProgressBar(visible=False)
        self.status = Label(value="")
        super().__init__(
            widgets=[
                self.model,
                self.contrast,
                self.voxel_size,
                self.rescale,
                self.augment,
                self.button,
                self.progress,
                self.status,
            ]
        )
        self.button.changed.connect(self.start)
        self.worker: Any = None

    def start(self) -> None:
        """Begins to denoise; what cannot be done is told in the widget."""
        layer = self._viewer.layers.selection.active
        if not isinstance(layer, Image) or layer.ndim != 3 or layer.rgb:
            self.status.value = "Select one image layer of three dimensions first."
            return
        settings = {
            "contrast": self.contrast.value,
            "voxel_size": self.voxel_size.value or None,
            "rescale": self.rescale.value,
            "augment": self.augment.value,
        }
        self.button.enabled = False
        self.status.value = f"Denoising {layer.name} ..."
        self.progress.visible = True
        self.worker = create_worker(self._work, layer, Path(self.model.value), settings)
        self.worker.returned.connect(self._finish)
        self.worker.errored.connect(lambda error: self._stop(f"Stopped by {type(error).__name__}: {error}"))
        self.worker.start()

    def _work(self, layer: Image, model: Path, settings: dict[str, Any]) -> tuple[Image, np.ndarray | None, str]:
        """In the thread: the denoised voxels and what was taken away, or why there are none."""
        data = np.asarray(layer.data[0] if layer.multiscale else layer.data)
        try:
            result = denoise(data, load_denoiser(model), progress=self._show, **settings)
        except CryodenError as error:
            return layer, None, str(error)
        return layer, result, tell_removed(structure_removed(data, result))

    @ensure_main_thread  # type: ignore[untyped-decorator]
    def _show(self, done: int, total: int) -> None:
        self.progress.max, self.progress.value = total, done

    def _finish(self, found: tuple[Image, np.ndarray | None, str]) -> None:
        layer, result, told = found
        if result is None:
            self._stop(told)
            return
        name = f"{layer.name} denoised"
        self._viewer.add_image(result, name=name, scale=layer.scale, translate=layer.translate, units=layer.units)
        self._stop(f"Added {name}: {told}.")

    def _stop(self, told: str) -> None:
        self.status.value = told
        self.progress.visible = False
        self.button.enabled = True
