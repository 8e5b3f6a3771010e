from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cryoden.errors import CryodenError
from cryoden.inference.denoise import choose_device, denoise_file, denoise_volume
from cryoden.volume import Volume, read_volume, write_volume


class Network(nn.Module):
    """A random network with what the real ones have: a multiple, batch statistics, a positive output."""

    multiple = 4

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Conv3d(4, 1, 1), nn.Softplus())
        self.boxes: set[tuple[int, ...]] = set()

    def forward(self, volumes: Tensor) -> Tensor:
        self.boxes.add(tuple(volumes.shape[2:]))
        denoised: Tensor = self.layers(volumes)
        return denoised


class Function(nn.Module):
    multiple = 1

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, volumes: Tensor) -> Tensor:
        return cast(Tensor, self.function(volumes))


def make_model(generator: nn.Module | None = None, standardize: bool = True, box: int | None = 16) -> Any:
    return SimpleNamespace(generator=generator or Network(), standardize=standardize, box=box)


def make_volume(a: float = 1.0, b: float = 0.0, shape: tuple[int, int, int] = (20, 24, 28)) -> Volume:
    noise = np.round(np.random.default_rng(0).standard_normal(shape) * 64) / 64
    return Volume((a * noise + b).astype(np.float32), 10.0, origin=(1.0, 2.0, 3.0), nstart=(4, 5, 6))


@pytest.mark.parametrize("contrast", ["bright", "dark"])
@pytest.mark.parametrize(("a", "b"), [(1.0, 5000.0), (1e-5, 0.0), (300.0, -40.0)])
def test_follows_the_grey_scale_of_its_input(a, b, contrast):
    model = make_model()
    expected = a * denoise_volume(make_volume(), model, contrast=contrast).data.astype(float) + b
    denoised = denoise_volume(make_volume(a, b), model, contrast=contrast).data
    resolution = 2.0**-23 * (abs(b) + 5 * a)
    np.testing.assert_allclose(denoised, expected, atol=4 * resolution, rtol=0)
    assert denoised.std() > 0.01 * a


@pytest.mark.parametrize("contrast", ["bright", "dark"])
def test_keeps_the_mean(contrast):
    volume = make_volume(3.0, 100.0)
    denoised = denoise_volume(volume, make_model(), contrast=contrast)
    assert denoised.data.mean(dtype=float) == pytest.approx(volume.data.mean(dtype=float), abs=1e-4)


def test_dark_is_bright_upside_down():
    volume, model = make_volume(), make_model()
    inverted = Volume(-volume.data, 10.0)
    np.testing.assert_allclose(
        denoise_volume(volume, model, contrast="dark").data, -denoise_volume(inverted, model).data, atol=1e-6
    )
    assert np.abs(denoise_volume(volume, model).data - denoise_volume(volume, model, contrast="dark").data).max() > 0.1


def test_statistics_are_those_of_the_whole_volume():
    """A network that returns what it sees gives the input back, also where one half is brighter by far."""
    data = make_volume(shape=(16, 16, 80)).data
    data[..., 40:] += 30
    denoised = denoise_volume(Volume(data, 1.0), make_model(Function(lambda x: x)), tile=16)
    np.testing.assert_allclose(denoised.data, data, atol=1e-4)


def test_without_standardize_the_network_sees_the_values_themselves():
    volume = make_volume(2.0, 7.0)
    denoised = denoise_volume(volume, make_model(Function(lambda x: x + 1), standardize=False))
    np.testing.assert_allclose(denoised.data, volume.data + 1, atol=1e-4)
    dark = denoise_volume(volume, make_model(Function(lambda x: x + 1), standardize=False), contrast="dark")
    np.testing.assert_allclose(dark.data, volume.data - 1, atol=1e-4)


@pytest.mark.parametrize(("box", "multiple", "expected"), [(16, 4, 16), (None, 4, 64), (None, 24, 72), (20, 8, 24)])
def test_default_tile(box, multiple, expected):
    model = make_model(box=box)
    model.generator.multiple = multiple
    denoise_volume(make_volume(), model)
    assert model.generator.boxes == {(expected,) * 3}


@pytest.mark.parametrize(
    ("tile", "multiple", "overlap"), [(64, 1, 16), (64, 8, 16), (72, 24, 24), (24, 8, 8), (16, 8, 8), (16, 16, 4)]
)
def test_default_overlap_steps_by_the_multiple(tile, multiple, overlap):
    model = make_model(box=tile)
    model.generator.multiple = multiple
    volume = make_volume(shape=(8, 8, 150))
    expected = denoise_volume(volume, model, overlap=overlap).data
    np.testing.assert_array_equal(denoise_volume(volume, model).data, expected)
    other = denoise_volume(volume, model, overlap=overlap + 1).data
    assert not np.array_equal(other, expected)


def test_place_and_input_are_kept():
    volume = make_volume()
    before = volume.data.copy()
    denoised = denoise_volume(volume, make_model())
    assert (denoised.voxel_size, denoised.origin, denoised.nstart) == (10.0, (1.0, 2.0, 3.0), (4, 5, 6))
    assert denoised.data.shape == volume.data.shape
    assert denoised.data.dtype == np.float32
    np.testing.assert_array_equal(volume.data, before)


def test_model_is_used_in_evaluation_mode_and_left_as_it_was():
    model = make_model()
    state = {name: value.clone() for name, value in model.generator.state_dict().items()}
    modes = []
    model.generator.register_forward_hook(lambda module, *_: modes.append((module.training, torch.is_grad_enabled())))
    denoise_volume(make_volume(), model)
    assert set(modes) == {(False, False)}
    assert model.generator.training
    for name, value in model.generator.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_progress_reaches_the_end():
    counts: list[tuple[int, int]] = []
    denoise_volume(make_volume(), make_model(), progress=lambda *count: counts.append(count), batch_size=3)
    assert counts[-1][0] == counts[-1][1] > 1


def test_constant_volume_is_refused():
    with pytest.raises(CryodenError, match=r"every voxel is 3, .*right file"):
        denoise_volume(Volume(np.full((8, 8, 8), 3, np.float32), 1.0), make_model())


@pytest.mark.parametrize("tile", [0, -4, 18])
def test_tile_that_does_not_suit_the_network(tile):
    with pytest.raises(CryodenError, match=f"tile {tile} .*multiple of 4"):
        denoise_volume(make_volume(), make_model(), tile=tile)


def test_unknown_contrast():
    with pytest.raises(CryodenError, match="'grey' is unknown; it is 'bright' or 'dark'"):
        denoise_volume(make_volume(), make_model(), contrast=cast(Any, "grey"))


def test_device_is_one_that_works():
    device, reason = choose_device()
    torch.zeros(1, device=device)
    assert device.type in ("cuda", "mps") or "CPU" in reason


@pytest.mark.gpu
def test_same_on_the_gpu_as_on_the_cpu():
    model = make_model()
    cpu, gpu = (denoise_volume(make_volume(3.0, 5000.0), model, device=device).data for device in ("cpu", "cuda"))
    np.testing.assert_allclose(cpu, gpu, atol=0.02)  # TF32
    assert {parameter.device.type for parameter in model.generator.parameters()} == {"cpu"}


class TestFile:
    def source(self, folder: Path) -> Path:
        write_volume(folder / "in.mrc", make_volume(2.0, 50.0))
        return folder / "in.mrc"

    def test_denoises(self, tmp_path):
        source, model = self.source(tmp_path), make_model()
        denoised = denoise_file(source, tmp_path / "out.mrc", model)
        written = read_volume(tmp_path / "out.mrc")
        np.testing.assert_array_equal(written.data, denoised.data)
        np.testing.assert_array_equal(written.data, denoise_volume(read_volume(source), model).data)
        assert (written.voxel_size, written.origin, written.nstart) == (10.0, (1.0, 2.0, 3.0), (4, 5, 6))
        assert mrcfile.validate(tmp_path / "out.mrc")
        with mrcfile.open(tmp_path / "out.mrc") as mrc:
            assert mrc.get_labels()[-1].startswith("cryoden ")
            assert "Network" in mrc.get_labels()[-1]

    def test_arguments_arrive(self, tmp_path):
        source, model = self.source(tmp_path), make_model()
        arguments = {"contrast": "dark", "tile": 12, "overlap": 5, "batch_size": 2, "device": "cpu"}
        denoised = denoise_file(source, tmp_path / "out.mrc", model, **arguments)
        assert model.generator.boxes == {(12, 12, 12)}
        np.testing.assert_array_equal(denoised.data, denoise_volume(read_volume(source), model, **arguments).data)

    def test_output_is_checked_before_the_work(self, tmp_path):
        source = self.source(tmp_path)
        fail = make_model(Function(lambda x: pytest.fail("the network ran")))
        with pytest.raises(CryodenError, match=r"in\.mrc exists"):
            denoise_file(source, source, fail)
        with pytest.raises(CryodenError, match="create it first"):
            denoise_file(source, tmp_path / "missing" / "out.mrc", fail)

    def test_overwrites_if_asked(self, tmp_path):
        source = self.source(tmp_path)
        denoised = denoise_file(source, source, make_model(), overwrite=True)
        np.testing.assert_array_equal(read_volume(source).data, denoised.data)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_network_that_gives_nan_writes_nothing(self, tmp_path, bad):
        source = self.source(tmp_path)
        with pytest.raises(CryodenError, match=r"in\.mrc: the network gives NaN or infinite"):
            denoise_file(source, tmp_path / "out.mrc", make_model(Function(lambda x: torch.where(x > 3, bad, x))))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mrc"]
