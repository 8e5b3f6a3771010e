"""A napari plugin: denoise the selected layer with a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import CheckBox, ComboBox, Container, FileEdit, FloatSpinBox, Label, ProgressBar, PushButton
from napari.layers import Image
from napari.qt.threading import create_worker
from numpy.typing import NDArray
from pint import DimensionalityError
from qtpy.QtCore import Qt
from superqt.utils import ensure_main_thread

from cryoden.checkpoint import load_denoiser
from cryoden.errors import CryodenError
from cryoden.inference.engine import Engine
from cryoden.inference.removed import structure_removed, tell_removed
from cryoden.inference.settings import Settings
from cryoden.models import nearest_model, shipped_models
from cryoden.napari_reader import MADE_BY
from cryoden.volume import Volume

if TYPE_CHECKING:
    from napari.components import ViewerModel

_STOPPED = "Stopped; nothing was added."
_NEAREST, _FILE, _RUN = "the nearest in voxel size", "a file ...", "a run's folder ..."

# What errors call by the flags of the command line, as it is called in the window.
_WORDS = {
    "--contrast bright or --contrast dark": "bright or dark under “protein is”",
    "--voxel-size": "“voxel size”",
    "--rescale": "the tick “resample”",
}


class DenoiseWidget(Container):  # type: ignore[misc]
    """Denoises the selected image layer in a thread; adds the result, and what was taken away, in the same place.

    Args:
        napari_viewer: Whose layers it works on; napari gives it by this name.
    """

    def __init__(self, napari_viewer: ViewerModel) -> None:
        self._viewer = napari_viewer
        self.model = ComboBox(label="model", choices=[_NEAREST, *shipped_models(), _FILE, _RUN])
        self.path = FileEdit(label="its path", filter="*.ckpt *.safetensors", visible=False)
        self.contrast = ComboBox(label="protein is", choices=["auto", "bright", "dark"])
        self.voxel_size = FloatSpinBox(label="voxel size, Å", min=0, max=1000, step=0.1)
        self.rescale = CheckBox(text="resample to the model's voxel size and back")
        self.augment = CheckBox(text="average over 8 orientations (slower)")
        self.button = PushButton(text="Denoise the selected layer")
        self.cancel = PushButton(text="Cancel", enabled=False)
        self.progress = ProgressBar(visible=False)
        self.status = Label(value="")
        super().__init__(
            widgets=[
                self.model,
                self.path,
                self.voxel_size,
                self.contrast,
                self.rescale,
                self.augment,
                self.button,
                self.cancel,
                self.progress,
                self.status,
            ]
        )
        self.voxel_size.native.setSpecialValueText("unknown")
        self.status.native.setWordWrap(True)
        self.status.native.setTextFormat(Qt.TextFormat.PlainText)
        self.status.native.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.model.changed.connect(self._ask_for_path)
        self.button.changed.connect(self.start)
        self.cancel.changed.connect(self.stop)
        self._viewer.layers.selection.events.active.connect(self._take_voxel_size)
        self._take_voxel_size()
        self.worker: Any = None

    def start(self) -> None:
        """Begins to denoise; what cannot be done is told in the widget."""
        layer = self._viewer.layers.selection.active
        try:
            data = _voxels(layer)
            if not self.voxel_size.value:
                raise CryodenError(f"{layer.name} does not say how large its voxels are: type their size in Å above.")
            settings = Settings(self.contrast.value, None, self.rescale.value, self.augment.value)
        except CryodenError as error:
            self.status.value = str(error)
            return
        self.button.enabled, self.cancel.enabled = False, True
        self.status.value = f"Denoising {layer.name} ..."
        self.worker = create_worker(self._work, layer, Volume(data, self.voxel_size.value), self._chosen(), settings)
        self.worker.returned.connect(self._show)
        self.worker.errored.connect(self._fail)
        self.worker.finished.connect(self._rest)
        self.worker.start()

    def stop(self) -> None:
        """Gives up what is being denoised, when the tile at hand is done."""
        self.status.value = "Stopping after this tile ..."
        self.worker.quit()

    def _ask_for_path(self, model: str) -> None:
        self.path.visible = model in (_FILE, _RUN)
        self.path.mode = "d" if model == _RUN else "r"

    def _take_voxel_size(self) -> None:
        """Shows the voxel size of the layer that was selected, if its units tell, else that it is unknown."""
        self.voxel_size.value = _voxel_size(self._viewer.layers.selection.active)

    def _chosen(self) -> str:
        """The model, by name or path."""
        if self.model.value == _NEAREST:
            return nearest_model(self.voxel_size.value).name
        return str(self.path.value if self.model.value in (_FILE, _RUN) else self.model.value)

    def _work(self, layer: Image, volume: Volume, model: str, settings: Settings) -> _Denoised | str:
        """In the thread: what was made, or why nothing was."""
        try:
            engine = Engine.of(load_denoiser(model))
            plan = engine.plan(volume, settings, layer.name)
            result = np.empty(volume.data.shape)
            engine.run(plan, result, self._count)
        except CryodenError as error:
            return str(error)
        after = result.astype(np.float32)
        told = f"{model}, {volume.voxel_size:.4g} Å, protein {plan.contrast}"
        share = structure_removed(volume.data, after)
        removed = np.subtract(volume.data, after, dtype=np.float32)
        return _Denoised(layer, after, removed, told, share, engine.label(settings, plan.contrast))

    def _count(self, done: int, total: int) -> None:
        if self.worker.abort_requested:
            raise CryodenError(_STOPPED)
        self._show_progress(done, total)

    @ensure_main_thread  # type: ignore[untyped-decorator]
    def _show_progress(self, done: int, total: int) -> None:
        self.progress.visible = True
        self.progress.max, self.progress.value = total, done

    def _show(self, found: _Denoised | str) -> None:
        """Adds the layers above the tomogram, which stays selected, so that another model may be tried."""
        if isinstance(found, str):
            self.status.value = _in_window(found)
            return
        layer = found.layer
        low, high = layer.contrast_limits
        same = {name: getattr(layer, name) for name in ("scale", "translate", "rotate", "shear", "affine", "units")}
        same["metadata"] = {MADE_BY: found.label}
        name = f"{layer.name} denoised"
        # the viewer selects what is added
        with self._viewer.layers.selection.events.active.blocker(self._take_voxel_size):
            self._viewer.add_image(
                found.removed,
                name=f"{layer.name} taken away",
                contrast_limits=((low - high) / 2, (high - low) / 2),  # as wide as what the tomogram is shown in
                visible=False,
                **same,
            )
            self._viewer.add_image(found.after, name=name, **same)
            if layer in self._viewer.layers:
                self._viewer.layers.selection.active = layer
        self.status.value = f"Added {name} ({found.told}): {tell_removed(found.share, 'the layer “taken away”')}."

    def _fail(self, error: Exception) -> None:
        """Tells of what nobody foresaw; napari shows where it happened."""
        self.status.value = f"Stopped by {type(error).__name__}: {error}"

    def _rest(self) -> None:
        if self.worker.abort_requested:
            self.status.value = _STOPPED
        self.progress.visible = False
        self.button.enabled, self.cancel.enabled = True, False


@dataclass(frozen=True, eq=False)
class _Denoised:
    """What the thread gives: the layer it began with, two volumes (D, H, W), and what is to be told of them."""

    layer: Image
    after: NDArray[np.float32]
    removed: NDArray[np.float32]
    told: str
    share: float
    label: str


def _voxels(layer: Any) -> NDArray[Any]:
    """The voxels (D, H, W) of a layer.

    Raises:
        CryodenError: It is no tomogram that can be denoised.
    """
    if not isinstance(layer, Image) or layer.ndim != 3 or layer.rgb or np.dtype(layer.dtype).kind not in "iuf":
        raise CryodenError("Select one image layer first: a tomogram, three-dimensional and of real numbers.")
    if MADE_BY in layer.metadata:
        raise CryodenError(f"{layer.name} is what a model made of a tomogram: select the tomogram itself.")
    return np.asanyarray(layer.data[0] if layer.multiscale else layer.data)


def _voxel_size(layer: Any) -> float:
    """Å; 0 where the units of the layer's axes are no lengths, or the voxels are no cubes."""
    if not isinstance(layer, Image):
        return 0.0
    try:
        edges = [
            (float(step) * unit).to("angstrom").magnitude for step, unit in zip(layer.scale, layer.units, strict=True)
        ]
    except DimensionalityError:
        return 0.0
    return float(np.mean(edges)) if np.ptp(edges) <= 0.01 * max(edges) else 0.0


def _in_window(told: str) -> str:
    """A message with the words of the window for the flags of the command line."""
    for flag, word in _WORDS.items():
        told = told.replace(flag, word)
    return told
