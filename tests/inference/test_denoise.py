import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gemmi
import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cryoden.checkpoint import load_denoiser
from cryoden.denoiser import Denoiser
from cryoden.errors import CryodenError
from cryoden.hardware import choose_device, choose_precision
from cryoden.inference.denoise import denoise, denoise_file
from cryoden.inference.engine import Engine, bfloat16_error
from cryoden.inference.memory import peak_memory
from cryoden.inference.plan import _tiles, make_plan
from cryoden.inference.settings import Settings
from cryoden.inference.tiling import TileGrid
from cryoden.models import shipped_models, suits
from cryoden.networks import CompactUnet, DenoisingNetwork
from cryoden.volume import Volume, open_volume, read_volume, write_volume


class Network(DenoisingNetwork):
    """A random network with what the real ones have: a multiple, batch statistics, a positive output."""

    multiple = 4
    reach = 1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Conv3d(4, 1, 1), nn.Softplus())
        self.boxes: set[tuple[int, ...]] = set()

    def forward(self, volumes: Tensor) -> Tensor:
        self.boxes.add(tuple(volumes.shape[2:]))
        denoised: Tensor = self.layers(volumes.float())
        return denoised


class Function(DenoisingNetwork):
    """Does with each voxel what it is told."""

    reach = 0
    function: Callable[[Tensor], Tensor]

    def forward(self, volumes: Tensor) -> Tensor:
        return self.function(volumes)


def each(function: Callable[[Tensor], Tensor]) -> Function:
    network = Function()
    network.function = function
    return network


class Wide(DenoisingNetwork):
    multiple = 8
    reach = 1

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.layer = nn.Conv3d(1, channels, 3, padding=1)

    def forward(self, volumes: Tensor) -> Tensor:
        denoised: Tensor = self.layer(volumes)
        return denoised


def make_model(
    generator: DenoisingNetwork | None = None, standardize: bool = True, voxel_size: float | None = None
) -> Denoiser:
    return Denoiser(generator or Network(), standardize=standardize, voxel_size=voxel_size)


def awake(norm: str, levels: int = 1) -> Denoiser:
    """A CompactUnet whose output is not zero, with norms that do something."""
    torch.manual_seed(0)
    network = CompactUnet(channels=4, levels=levels, norm=norm)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean += 0.2
            module.running_var += 1.0
    return Denoiser(network)


def run(volume: Any, model: Any, **settings: Any) -> Any:
    """Denoise exactly, whatever the processor; noise has no contrast."""
    return denoise(
        volume, model, **{"contrast": "bright", "precision": "float32", "device": "cpu", "tile": 16, **settings}
    )


def make_volume(a: float = 1.0, b: float = 0.0, shape: tuple[int, int, int] = (20, 24, 28)) -> Volume:
    noise = np.round(np.random.default_rng(0).standard_normal(shape) * 64) / 64
    return Volume((a * noise + b).astype(np.float32), 10.0, origin=(1.0, 2.0, 3.0), nstart=(4, 5, 6))


@pytest.mark.parametrize("contrast", ["bright", "dark"])
@pytest.mark.parametrize(("a", "b"), [(1.0, 5000.0), (1e-5, 0.0), (300.0, -40.0)])
def test_follows_the_grey_scale_of_its_input(a, b, contrast):
    model = make_model()
    expected = a * run(make_volume(), model, contrast=contrast).data.astype(float) + b
    denoised = run(make_volume(a, b), model, contrast=contrast).data
    resolution = 2.0**-23 * (abs(b) + 5 * a)
    np.testing.assert_allclose(denoised, expected, atol=4 * resolution, rtol=0)
    assert denoised.std() > 0.01 * a


@pytest.mark.parametrize("contrast", ["bright", "dark"])
def test_an_empty_answer_is_the_background(contrast):
    volume = make_volume(3.0, 100.0)
    denoised = run(volume, make_model(each(torch.zeros_like)), contrast=contrast)
    np.testing.assert_allclose(denoised.data, np.median(volume.data), atol=1e-4)


def test_dark_is_bright_upside_down():
    volume, model = make_volume(), make_model()
    inverted = Volume(-volume.data, 10.0)
    np.testing.assert_allclose(run(volume, model, contrast="dark").data, -run(inverted, model).data, atol=1e-6)
    assert np.abs(run(volume, model).data - run(volume, model, contrast="dark").data).max() > 0.1


def test_statistics_are_those_of_the_whole_volume():
    """A network that returns what it sees gives the input back, also where one half is brighter by far."""
    data = make_volume(shape=(16, 16, 80)).data
    data[..., 40:] += 30
    denoised = run(Volume(data, 1.0), make_model(each(lambda x: x)), tile=16)
    np.testing.assert_allclose(denoised.data, data, atol=1e-4)


def test_without_standardize_the_network_sees_the_values_themselves():
    volume = make_volume(2.0, 7.0)
    denoised = run(volume, make_model(each(lambda x: x + 1), standardize=False))
    np.testing.assert_allclose(denoised.data, volume.data + 1, atol=1e-4)
    dark = run(volume, make_model(each(lambda x: x + 1), standardize=False), contrast="dark")
    np.testing.assert_allclose(dark.data, volume.data - 1, atol=1e-4)


@pytest.mark.parametrize(("multiple", "expected"), [(1, (20, 24, 28)), (16, (32, 32, 32)), (40, (40, 40, 40))])
def test_by_default_a_small_volume_is_one_tile(multiple, expected):
    model = make_model()
    model.generator.multiple = multiple
    plan = make_plan(make_volume(), model, Settings(contrast="bright"))
    assert (plan.network_tile, len(plan.grid)) == (expected, 1)


@pytest.mark.parametrize("channels", [4, 64])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("shape", [(180, 512, 512), (40, 1000, 300), (250, 250, 250)])
def test_default_tiles_are_large_as_the_memory_allows(channels, batch_size, shape):
    model = make_model(Wide(channels))
    tile, grid = _tiles(shape, model, Settings(batch_size=batch_size), 1.0)
    assert peak_memory(model.generator, batch_size, tile) <= 3e9
    assert max(tile) <= 256
    cube, cubes = _tiles(shape, model, Settings(tile=96), 1.0)
    assert len(grid) * math.prod(tile) < len(cubes) * math.prod(cube)  # voxels that go through the network


@pytest.mark.parametrize(
    ("tile", "multiple", "overlap"), [(96, 8, 32), (64, 1, 21), (64, 8, 21), (24, 8, 8), (16, 8, 5), (16, 16, 0)]
)
def test_where_nothing_is_known_of_the_reach_a_third_of_a_tile_is_shared(tile, multiple, overlap):
    model = make_model()
    model.generator.multiple, model.generator.reach = multiple, None
    volume = make_volume(shape=(8, 8, 150))

    def grid(overlap: int | None) -> TileGrid:
        return make_plan(volume, model, Settings(contrast="bright", tile=tile, overlap=overlap)).grid

    assert grid(None) == grid(overlap)
    assert grid(None).halo == overlap // 4
    assert grid(None).blend == overlap // 2


class TestForward:
    """A tomogram is denoised tile by tile as the model's own forward denoises it whole."""

    def both(self, data: np.ndarray, model: Denoiser, tile: int | None) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            whole = model.eval()(torch.from_numpy(data)[None, None])[0, 0].numpy()
        return whole, run(data, model, tile=tile)

    def differ(self, data: np.ndarray, model: Denoiser, tile: int | None) -> float:
        """By how much at most, over the spread of the answer."""
        whole, tiled = self.both(data, model, tile)
        assert whole.std() > 0.05
        return float(np.abs(tiled - whole).max() / whole.std())

    @pytest.mark.parametrize(("levels", "tile"), [(1, 48), (2, 96)])
    @pytest.mark.parametrize("shape", [(24, 40, 204), (31, 57, 201), (7, 9, 250), (1, 3, 5), (57, 63, 51)])
    def test_of_any_size(self, shape, levels, tile):
        model = awake("batch", levels)
        assert self.differ(make_volume(3.0, shape=shape).data, model, tile) < 1e-5
        if max(shape) > 200:
            plan = make_plan(make_volume(shape=shape), model, Settings(contrast="bright", tile=tile))
            assert len(plan.grid) >= 3

    def test_where_margins_are_filled_and_voxels_hot(self):
        data = make_volume(3.0, 10.0, (24, 60, 201)).data
        hot = np.random.default_rng(0).random(data.shape) < 1e-3
        data[hot] = 1e4
        filled = np.zeros(data.shape, bool)
        filled[:, :7] = filled[:, :, -3:] = filled[4] = True
        data[filled] = 0
        model = awake("batch")
        assert self.differ(data, model, 48) < 1e-5
        assert (run(data, model, tile=48)[filled] == 0).all()

    @pytest.mark.parametrize("norm", ["group", "instance"])
    def test_networks_that_normalise_what_they_see_on_their_box(self, norm, caplog):
        whole, tiled = self.both(make_volume(3.0, 500.0, (32, 32, 32)).data, awake(norm), None)
        assert np.abs(tiled - whole).std() < 0.02 * whole.std()
        assert caplog.text == ""

    def test_a_network_that_normalises_what_it_sees_warns_where_it_sees_tiles(self, caplog):
        run(make_volume(), awake("group"))
        assert "CompactUnet normalises by what a tile holds (group or instance norm), so that" in caplog.text

    def test_a_narrow_overlap_is_another_answer(self):
        model = awake("batch", levels=2)
        data = make_volume(shape=(24, 40, 204)).data
        whole, tiled = self.both(data, model, 96)
        rough = run(data, model, tile=96, overlap=8)
        assert np.abs(rough - whole).max() > 100 * np.abs(tiled - whole).max()

    @pytest.mark.parametrize("settings", [{"tile": 16}, {"tile": 18}, {"tile": 56, "overlap": 16}])
    def test_tiles_that_leave_a_trace_are_told_with_those_that_leave_none(self, settings, caplog):
        model, data = awake("batch"), make_volume(shape=(10, 20, 70)).data
        plan = make_plan(Volume(data, 10.0), model, Settings(contrast="bright", **settings))
        told = re.search(r"tiles [a-z ]+ leave a trace where they meet: (.*)with --tile (\d+), they", plan.describe())
        assert told is not None
        assert bool(told[1]) == ("overlap" in settings)
        whole, tiled = self.both(data, model, int(told[2]))
        assert caplog.text == ""
        rough = run(data, model, **settings)
        assert f"the volume: {told[0]}" in caplog.text
        assert np.abs(tiled - whole).max() < 1e-5 * whole.std()
        assert np.abs(rough - whole).max() > 1e-3 * whole.std()
        exact = make_plan(Volume(data, 10.0), model, Settings(contrast="bright", tile=int(told[2])))
        assert len(exact.grid) > 1
        assert exact.trace == ""


def test_place_and_input_are_kept():
    volume = make_volume()
    before = volume.data.copy()
    denoised = run(volume, make_model())
    assert (denoised.voxel_size, denoised.origin, denoised.nstart) == (10.0, (1.0, 2.0, 3.0), (4, 5, 6))
    assert denoised.data.shape == volume.data.shape
    assert denoised.data.dtype == np.float32
    np.testing.assert_array_equal(volume.data, before)


def test_model_is_used_in_evaluation_mode_and_left_as_it_was():
    model = make_model()
    state = {name: value.clone() for name, value in model.generator.state_dict().items()}
    modes = []
    model.generator.register_forward_hook(lambda module, *_: modes.append((module.training, torch.is_grad_enabled())))
    run(make_volume(), model)
    assert set(modes) == {(False, False)}
    assert model.generator.training
    for name, value in model.generator.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_progress_reaches_the_end():
    counts: list[tuple[int, int]] = []
    run(make_volume(), make_model(), progress=lambda *count: counts.append(count), batch_size=3)
    assert counts[-1][0] == counts[-1][1] > 1


def test_an_overlap_wider_than_a_sampled_tile(monkeypatch):
    """Norms are told by tiles of an edge of their own, also where tiles share more than that."""
    monkeypatch.setattr("cryoden.inference.engine._SAMPLE_EDGE", 16)
    volume = np.random.default_rng(0).normal(size=(8, 8, 40)).astype(np.float32)
    result = run(volume, awake("group", levels=2), tile=24, overlap=20)
    assert np.isfinite(result).all()


def test_constant_volume_is_refused():
    with pytest.raises(CryodenError, match=r"every voxel is 3, .*right file"):
        run(Volume(np.full((8, 8, 8), 3, np.float32), 1.0), make_model())


def test_nan_is_refused():
    volume = make_volume()
    volume.data[1, 2, 3] = np.nan
    with pytest.raises(CryodenError, match="the volume has 1 NaN or infinite voxels, the first at z 1, y 2, x 3"):
        run(volume, make_model())


@pytest.mark.parametrize("kind", [np.ndarray, torch.Tensor, Volume])
def test_gives_back_the_kind_it_was_given(kind):
    volume, model = make_volume(), make_model()
    given = {np.ndarray: volume.data, torch.Tensor: torch.from_numpy(volume.data), Volume: volume}[kind]
    denoised = run(given, model)
    assert isinstance(denoised, kind)
    values = denoised.data if kind is Volume else denoised
    assert str(values.dtype).endswith("float32")
    np.testing.assert_array_equal(np.asarray(values), run(volume, model).data)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64, np.float16, torch.float16, torch.bfloat16])
def test_arrays_and_tensors_of_other_types(dtype):
    expected = np.random.default_rng(0).integers(0, 100, (9, 10, 11))
    data = torch.from_numpy(expected).to(dtype) if isinstance(dtype, torch.dtype) else expected.astype(dtype)
    denoised = run(data, make_model(each(lambda x: x)))
    assert str(denoised.dtype).endswith("float32")
    np.testing.assert_allclose(denoised, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "offset", "factor"),
    [(np.float64, 2.0**19, 1), (np.int32, 2**27, 1000), (np.int64, -(2**27), 1000), (">u4", 2**31, 1e5)],
)
@pytest.mark.parametrize("standardize", [True, False])
def test_the_level_is_taken_away_in_the_precision_of_the_voxels(dtype, offset, factor, standardize):
    """Which of a tile is in float32 when the network sees it."""
    seen: list[Tensor] = []

    def look(tiles: Tensor) -> Tensor:
        seen.append(tiles)
        return tiles

    noise = np.round(factor * make_volume().data.astype(float))
    model = make_model(each(look), standardize=standardize)
    near, far = (run((noise + each).astype(kind), model) for each, kind in ((0, np.float64), (offset, dtype)))
    assert {tiles.dtype for tiles in seen} == {torch.float32}
    if standardize:
        half = len(seen) // 2
        torch.testing.assert_close(torch.cat(seen[half:]), torch.cat(seen[:half]), atol=1e-6, rtol=0)
    np.testing.assert_allclose(far.astype(float) - offset, near, atol=2.0**-24 * abs(offset), rtol=0)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (
            lambda noise: noise * 1e60,
            r"values up to [34]\.\d+e\+60, and float32 ends at 3\.4028e\+38; give it another scale",
        ),
        (lambda noise: noise * 1e-50, r"with a spread of 1e-50, and float32 has steps of 1\.4e-45 there"),
        (
            lambda noise: noise * 0.06 + 1e7,
            r"about 1e\+07, with a spread of 0\.06\d*, and float32 has steps of 1 there",
        ),
        (
            lambda noise: (noise * 60 + 2**30).astype(np.int32),
            r"and float32 has steps of 1\.3e\+02 there, .* level away",
        ),
    ],
)
def test_what_float32_cannot_hold_is_refused(data, told):
    with pytest.raises(CryodenError, match=told):
        run(data(np.random.default_rng(0).standard_normal((20, 24, 28))), make_model())


@pytest.mark.parametrize("bad", [np.zeros((3, 3)), np.zeros((1, 3, 3, 3)), np.zeros((3, 3, 3), complex)])
def test_arrays_that_are_no_volumes(bad):
    with pytest.raises(CryodenError, match=r"a volume is .D, H, W. real numbers; got shape"):
        run(bad, make_model())


@pytest.mark.parametrize("tile", [0, -4, 18])
def test_tile_that_does_not_suit_the_network(tile):
    with pytest.raises(CryodenError, match=f"tile {tile} .*multiple of 4"):
        run(make_volume(), make_model(), tile=tile)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contrast": "grey"}, "'grey' is unknown; it is 'auto', 'bright' or 'dark'"),
        ({"voxel_size": 0.0}, "voxel_size: got 0; allowed is a length"),
        ({"voxel_size": float("nan")}, "voxel_size: got nan; allowed is a length"),
        ({"batch_size": 0}, "batch size 0 is too small"),
        ({"batch_size": True}, "batch_size: got True; allowed is a whole number"),
        ({"batch_size": None}, "batch_size: got None; allowed is a whole number"),
        ({"tile": 16.0}, "tile: got 16.0; allowed is a whole number"),
        ({"tile": "16"}, "tile: got '16'; allowed is a whole number"),
        ({"overlap": 1.5}, "overlap: got 1.5; allowed is a whole number"),
        ({"voxel_size": "10"}, "voxel_size: got '10'; allowed is a number, in Å"),
        (
            {"tilt_range": "-60,60"},
            r"tilt_range: got '-60,60'; allowed are two numbers in degrees, such as \(-60, 60\)",
        ),
        ({"tilt_range": (-60, 0, 60)}, r"tilt_range: got \(-60, 0, 60\); allowed are two numbers"),
        ({"tilt_range": ("-60", "60")}, r"tilt_range: got \('-60', '60'\); allowed are two numbers"),
        ({"overlap": 16}, "overlap must be at least 0"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(CryodenError, match=message):
        run(make_volume(), make_model(), **settings)


def test_settings_of_numpy_are_numbers():
    settings = {"tile": np.int64(16), "voxel_size": np.float32(10), "tilt_range": np.array([-60, 60]).tolist()}
    assert np.isfinite(run(make_volume(), make_model(), **settings).data).all()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_type_are_refused(kind):
    with pytest.raises(CryodenError, match=f"its weights are {str(kind)[6:]}; needed is float32, which model.float"):
        run(make_volume(), make_model().to(kind))


class TestTensors:
    """What `forward` is given without a plan before it."""

    @pytest.mark.parametrize("standardize", [True, False])
    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_what_is_not_finite_is_refused_but_in_training(self, standardize, bad):
        model = make_model(standardize=standardize)
        volumes = torch.full((1, 1, 16, 16, 16), bad)
        with pytest.raises(CryodenError, match="volumes: 4096 voxels are NaN or infinite; replace them"):
            model.eval()(volumes)
        assert model.train()(volumes).shape == volumes.shape  # whose loss is not finite, which stops a training

    def test_a_model_can_be_exported_as_a_graph(self):
        model, volumes = make_model().eval(), torch.rand(1, 1, 16, 16, 16)
        graph = torch.export.export(model, (volumes,)).module()
        torch.testing.assert_close(graph(volumes), model(volumes))

    @pytest.mark.parametrize("shape", [(8, 8, 8), (1, 8, 8, 8), (1, 2, 8, 8, 8)])
    def test_another_shape_is_refused(self, shape):
        with pytest.raises(
            CryodenError, match=r"got shape .*; needed is \(B, 1, D, H, W\), which volume\[None, None\]"
        ):
            make_model()(torch.zeros(shape))


def test_a_network_that_predicts_noise_leaves_the_rest():
    """One that has learnt nothing yet predicts no noise at all."""
    volume = make_volume(3.0, 100.0)
    denoised = run(volume, Denoiser(CompactUnet(channels=4), residual=True))
    np.testing.assert_allclose(denoised.data, volume.data, atol=1e-4)
    np.testing.assert_allclose(run(volume, Denoiser(CompactUnet(channels=4))).data, 100, atol=0.2)


class TestContrast:
    def blobs(self, sign: float) -> Volume:
        data = make_volume(shape=(24, 24, 24)).data.copy()
        data[4:8, 4:8, 4:8] += 5 * sign
        return Volume(data, 10.0)

    @pytest.mark.parametrize(("sign", "expected"), [(1, "bright"), (-1, "dark")])
    def test_is_told_from_the_voxels(self, sign, expected):
        volume, model = self.blobs(sign), make_model()
        found = run(volume, model, contrast="auto").data
        np.testing.assert_array_equal(found, run(volume, model, contrast=expected).data)

    def test_doubt_is_an_error_with_a_way_out(self):
        with pytest.raises(CryodenError, match=r"cannot tell whether .* \(skewness .* --contrast dark"):
            run(make_volume(), make_model(), contrast="auto")


class TestVoxelSize:
    @pytest.mark.parametrize("voxel_size", [9.5, 10.0, 10.9])
    def test_near_that_of_the_training_is_taken(self, voxel_size):
        volume = Volume(make_volume().data, voxel_size)
        assert run(volume, make_model(voxel_size=10.0)).voxel_size == voxel_size

    @pytest.mark.parametrize("trained", [10.0, 16.0, 13.3])
    @pytest.mark.parametrize(("ratio", "expected"), [(0.9, True), (1.1, True), (0.8999, False), (1.1001, False)])
    def test_ten_percent_is_near_whatever_is_rounded(self, trained, ratio, expected):
        for voxel_size in (trained * ratio, round(trained * ratio, 4), float(np.float32(trained * ratio))):
            assert suits(voxel_size, trained) == expected

    @pytest.mark.parametrize("voxel_size", [5.0, 8.5, 11.5, 40.0])
    def test_far_from_it_is_refused(self, voxel_size):
        with pytest.raises(CryodenError, match=rf"are {voxel_size:g} Å.* trained at 10 Å; .*--rescale.*--voxel-size"):
            run(Volume(make_volume().data, voxel_size), make_model(voxel_size=10.0))

    def test_unknown_is_refused_unless_stated(self):
        volume = Volume(make_volume().data, 0.0)
        with pytest.raises(CryodenError, match="no voxel size; state it with --voxel-size"):
            run(volume, make_model())
        assert run(volume, make_model(voxel_size=10.0), voxel_size=10.5).voxel_size == 10.5
        with pytest.raises(CryodenError, match="voxels are 20 Å"):
            run(make_volume(), make_model(voxel_size=10.0), voxel_size=20.0)

    def test_too_far_to_rescale(self):
        with pytest.raises(CryodenError, match="voxels of 2 Å are too far from the model's 10 Å"):
            run(Volume(make_volume().data, 2.0), make_model(voxel_size=10.0), rescale=True)
        with pytest.raises(CryodenError, match="does not say what it was trained at"):
            run(make_volume(), make_model(), rescale=True)

    @pytest.mark.parametrize("voxel_size", [13.1, 16.0, 25.0])
    def test_rescaled_to_finer_voxels_and_back_is_the_identity(self, voxel_size):
        volume = Volume(make_volume(shape=(18, 30, 41)).data, voxel_size)
        model = make_model(each(lambda x: x), voxel_size=10.0)
        denoised = run(volume, model, rescale=True, tile=32)
        np.testing.assert_allclose(denoised.data, volume.data, atol=1e-4)
        assert denoised.voxel_size == voxel_size

    def test_rescaled_the_network_sees_its_own_voxel_size(self):
        """A wave of 80 Å takes 8 voxels of 10 Å, whatever the file's voxels are."""
        seen = []

        def network(tiles: Tensor) -> Tensor:
            seen.append(tiles)
            return tiles

        voxel_size = 6.4
        x = np.arange(200) * voxel_size
        data = np.broadcast_to(np.sin(2 * np.pi / 80 * x), (20, 20, 200)).astype(np.float32)
        model = make_model(each(network), voxel_size=10.0)
        denoised = run(Volume(data, voxel_size), model, rescale=True, tile=32)
        tile = torch.cat(seen)[2, 0]  # far from the mirrored faces
        power = torch.fft.rfft(tile[tile.shape[0] // 2, 0]).abs()
        assert power.argmax() == round(tile.shape[-1] / 8)
        middle = slice(12, -12)
        np.testing.assert_allclose(denoised.data[..., middle], data[..., middle], atol=0.02)

    @pytest.mark.parametrize("voxel_size", [3.0, 5.0, 15.0])
    def test_rescaled_the_network_sees_the_spread_that_it_was_trained_on(self, voxel_size):
        """Larger voxels are less noisy, and a margin, which has no noise, is no part of it."""
        seen = []

        def network(tiles: Tensor) -> Tensor:
            seen.append(tiles)
            return tiles

        data = 50 * make_volume(shape=(48, 48, 48)).data
        data[:20] = 7
        run(Volume(data, voxel_size), make_model(each(network), voxel_size=10.0), rescale=True, tile=48)
        tile = seen[-1][0, 0]
        assert tile[tile.shape[0] // 2 :].std().item() == pytest.approx(1, rel=0.1)

    def test_rescaled_to_coarser_voxels_fine_detail_is_gone(self):
        volume = Volume(make_volume(shape=(32, 32, 32)).data, 5.0)
        denoised = run(volume, make_model(each(lambda x: x), voxel_size=10.0), rescale=True)
        assert denoised.data.std() == pytest.approx(volume.data.std() * (1 / 2) ** 1.5, rel=0.1)


class TestAugment:
    def test_follows_flips(self):
        volume, model = make_volume(shape=(16, 16, 16)), make_model()
        settings = {"tile": 16, "overlap": 0}
        flipped = Volume(volume.data[:, ::-1].copy(), 10.0)
        before, after = (run(each, model, **settings).data for each in (volume, flipped))
        assert np.abs(before[:, ::-1] - after).max() > 0.1
        before, after = (run(each, model, augment=True, **settings).data for each in (volume, flipped))
        np.testing.assert_allclose(before[:, ::-1], after, atol=1e-5)

    def test_is_the_mean_over_all_eight(self):
        volume = make_volume(shape=(16, 16, 16))
        model = make_model(each(lambda x: torch.cat([x[..., :8] * 8, x[..., 8:] * 0], dim=-1)), standardize=False)
        denoised = run(volume, model, augment=True, tile=16, overlap=0)
        np.testing.assert_allclose(denoised.data, volume.data * 4, atol=1e-5)


class TestMemory:
    def test_one_tile_that_does_not_fit_is_halved(self, caplog):
        seen = []

        def network(tiles: Tensor) -> Tensor:
            seen.append(tuple(tiles.shape))
            if tiles.numel() > 32**3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
            return tiles

        volume = make_volume(shape=(40, 70, 70))
        denoised = run(volume, make_model(each(network)), tile=64, batch_size=4)
        np.testing.assert_allclose(denoised.data, volume.data, atol=1e-5)
        assert [shape[0] for shape in seen[:3]] == [4, 2, 1]
        assert {shape[2:] for shape in seen[3:]} == {(15, 19, 19)}
        assert "beginning again with 19 × 19 × 15" in caplog.text

    def test_nothing_smaller_is_left(self):
        def network(tiles: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

        with pytest.raises(
            CryodenError, match=r"no memory on cpu for even one tile of 28 × 24 × 20 voxels \(CUDA out of"
        ):
            run(make_volume(), make_model(each(network)), tile=64)


def test_bfloat16_changes_little():
    """The network's own rounding only: statistics, blending and grey scale stay exact."""
    volume, model = make_volume(3.0, 5000.0), make_model()
    exact, rounded = (run(volume, model, precision=kind).data for kind in ("float32", "bfloat16"))
    assert 0 < (exact - rounded).std() < 0.01 * exact.std()
    assert np.abs(exact - rounded).max() < 0.05 * exact.std()  # bfloat16 knows 5000 to 16
    for parameter in model.generator.parameters():
        assert parameter.is_contiguous()
    assert choose_precision(torch.device("cpu")) in (torch.bfloat16, torch.float32)


def test_plan_in_words():
    plan = make_plan(make_volume(), make_model(), Settings(contrast="dark", tile=16))
    assert plan.describe() == (
        "28 × 24 × 20 voxels (x, y, z) of 10 Å, protein dark (as stated), 8 tiles of 16 × 16 × 12 voxels"
    )


def label(model: Denoiser, settings: Settings, contrast: str) -> str:
    return Engine.of(model).label(settings, contrast)


def test_label_names_the_weights():
    model, settings = make_model(), Settings(augment=True)
    told = label(model, settings, "dark")
    assert told.startswith("cryoden ")
    assert told.endswith(", augmented, dark")
    assert len(told) <= 80
    assert told == label(make_model(), settings, "dark")
    with torch.no_grad():
        next(model.generator.parameters()).add_(1)
    assert told != label(model, settings, "dark")


def test_all_that_decides_the_voxels_of_a_result_is_in_its_key_and_nothing_else():
    """Or a result of other settings would count as done."""

    def key(contrast: str = "bright", float16: bool = False, model: Denoiser | None = None, **settings: Any) -> str:
        return Engine.of(model or make_model(), "cpu").key(Settings(**settings), contrast, float16=float16)

    keys = [
        key(),
        key("dark"),
        key(float16=True),
        key(model=make_model(standardize=False)),
        *(key(**{name: True}) for name in ("rescale", "augment")),
        *(key(**{name: 16}) for name in ("tile", "overlap", "voxel_size")),
        *(key(measured_only=True, tilt_range=tilts) for tilts in ((-60, 60), (-60, 50))),
    ]
    assert len(set(keys)) == len(keys)
    assert key(batch_size=4) == key(tilt_range=(-60, 60)) == key()


def test_device_is_one_that_works():
    device, reason = choose_device()
    torch.zeros(1, device=device)
    assert device.type in ("cuda", "mps") or "CPU" in reason


@pytest.mark.gpu
def test_same_on_the_gpu_as_on_the_cpu():
    model = make_model()
    cpu, gpu = (run(make_volume(3.0, 5000.0), model, device=device).data for device in ("cpu", "cuda"))
    np.testing.assert_allclose(cpu, gpu, atol=0.02)  # TF32
    assert {parameter.device.type for parameter in model.generator.parameters()} == {"cpu"}


class TestFile:
    def source(self, folder: Path) -> Path:
        write_volume(folder / "in.mrc", make_volume(2.0, 50.0))
        return folder / "in.mrc"

    def denoise(self, source: Path, target: Path, model: Any, **arguments: Any) -> Volume:
        return denoise_file(
            source,
            target,
            model,
            **{"contrast": "bright", "precision": "float32", "device": "cpu", "tile": 16, **arguments},
        )

    def test_denoises(self, tmp_path):
        source, model = self.source(tmp_path), make_model()
        denoised = self.denoise(source, tmp_path / "out.mrc", model)
        written = read_volume(tmp_path / "out.mrc")
        np.testing.assert_array_equal(written.data, denoised.data)
        np.testing.assert_array_equal(written.data, run(read_volume(source), model).data)
        assert (written.voxel_size, written.origin, written.nstart) == (10.0, (1.0, 2.0, 3.0), (4, 5, 6))
        assert mrcfile.validate(tmp_path / "out.mrc")
        with mrcfile.open(tmp_path / "out.mrc") as mrc:
            assert mrc.get_labels()[-1] == label(model, Settings(), "bright")
        ccp4 = gemmi.read_ccp4_map(str(tmp_path / "out.mrc"))
        assert ccp4.grid.unit_cell.parameters == pytest.approx((280, 240, 200, 90, 90, 90))
        np.testing.assert_array_equal(np.array(ccp4.grid).transpose(2, 1, 0), written.data)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mrc", "out.mrc"]

    @pytest.mark.parametrize("dtype", [np.int8, ">i2", np.uint16, np.float16])
    @pytest.mark.filterwarnings("ignore:overflow")
    def test_other_modes_come_back_as_floats(self, tmp_path, dtype):
        data = np.random.default_rng(0).integers(0, 100, (9, 10, 11)).astype(dtype)
        with mrcfile.new(tmp_path / "in.mrc") as mrc:
            mrc.set_data(data)
            mrc.voxel_size = 10.0
        denoised = self.denoise(tmp_path / "in.mrc", tmp_path / "out.mrc", make_model(each(lambda x: x)))
        np.testing.assert_allclose(denoised.data, data.astype(float), atol=1e-4)
        self.denoise(tmp_path / "in.mrc", tmp_path / "half.mrc", make_model(each(lambda x: x)), float16=True)
        with mrcfile.open(tmp_path / "half.mrc") as mrc:
            assert mrc.header.mode == 12
            np.testing.assert_allclose(mrc.data.astype(float), data.astype(float), atol=0.05)

    def test_compressed(self, tmp_path):
        write_volume(tmp_path / "in.mrc.gz", make_volume())
        denoised = self.denoise(tmp_path / "in.mrc.gz", tmp_path / "out.mrc.bz2", make_model(each(lambda x: x)))
        np.testing.assert_allclose(denoised.data, make_volume().data, atol=1e-5)

    def test_stated_voxel_size_is_written(self, tmp_path):
        write_volume(tmp_path / "in.mrc", Volume(make_volume().data, 0.0))
        self.denoise(tmp_path / "in.mrc", tmp_path / "out.mrc", make_model(), voxel_size=13.48)
        assert read_volume(tmp_path / "out.mrc").voxel_size == pytest.approx(13.48)

    def test_settings_arrive(self, tmp_path):
        source, model = self.source(tmp_path), make_model()
        settings = {"contrast": "dark", "tile": 12, "overlap": 5, "batch_size": 2}
        denoised = self.denoise(source, tmp_path / "out.mrc", model, **settings)
        assert model.generator.boxes == {(12, 12, 12)}
        np.testing.assert_array_equal(denoised.data, run(read_volume(source), model, **settings).data)

    def test_output_is_checked_before_the_work(self, tmp_path, monkeypatch):
        source = self.source(tmp_path)
        fail = make_model(each(lambda x: pytest.fail("the network ran")))
        with pytest.raises(CryodenError, match=r"in\.mrc is an input and would be an output"):
            self.denoise(source, source, fail, overwrite=True)
        with pytest.raises(CryodenError, match="create it first"):
            self.denoise(source, tmp_path / "missing" / "out.mrc", fail)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=20 * 24 * 28 * 12 - 1))
        with pytest.raises(CryodenError, match=r"out\.mrc: 161\.28 kB are needed there .*, and 161\.279 kB are"):
            self.denoise(source, tmp_path / "out.mrc", fail)

    def test_overwrites_if_asked(self, tmp_path):
        source = self.source(tmp_path)
        target = tmp_path / "out.mrc"
        target.write_bytes(b"an old result")
        denoised = self.denoise(source, target, make_model(), overwrite=True)
        np.testing.assert_array_equal(read_volume(target).data, denoised.data)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_network_that_gives_nan_writes_nothing(self, tmp_path, bad):
        source = self.source(tmp_path)
        with pytest.raises(CryodenError, match=r"in\.mrc: the network gives NaN or infinite"):
            self.denoise(source, tmp_path / "out.mrc", make_model(each(lambda x: torch.where(x > 3, bad, x))))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mrc"]

    def test_interruption_writes_no_result(self, tmp_path):
        def interrupt(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.denoise(self.source(tmp_path), tmp_path / "out.mrc", make_model(), progress=interrupt)
        assert sorted(path.name for path in tmp_path.iterdir()) == [".out.mrc.begun", "in.mrc"]

    def test_voxels_are_mapped_in_and_out(self, tmp_path, monkeypatch):
        """Neither the input nor the result is ever an array in memory."""
        seen = []

        def watch(grid, result, *arguments, place=TileGrid.place):
            seen.append(type(result))
            place(grid, result, *arguments)

        monkeypatch.setattr(TileGrid, "place", watch)
        denoised = self.denoise(self.source(tmp_path), tmp_path / "out.mrc", make_model())
        assert set(seen) == {np.memmap}
        assert isinstance(denoised.data, np.memmap)
        assert isinstance(open_volume(tmp_path / "in.mrc").data, np.memmap)

    def test_preview(self, tmp_path):
        self.denoise(self.source(tmp_path), tmp_path / "out.mrc", make_model(), preview=True)
        assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_where_bfloat16_is_silently_wrong_it_goes_on_in_float32_and_says_so(monkeypatch, caplog):
    """As it does on a GPU, where a version of the libraries may be wrong for tiles of some shapes only."""
    calls = []

    def wrong(x: Tensor) -> Tensor:
        rounded = torch.is_autocast_enabled("cpu")
        calls.append(rounded)
        return x * (1.03 if rounded and x.shape[-1] > 12 else 1.0)

    volume, model = Volume(make_volume().data, 10.0), make_model(each(wrong))
    engine = Engine.of(model, "cpu", "bfloat16")
    small, large = (engine.plan(volume, Settings("bright", tile=tile)) for tile in (12, 16))
    assert bfloat16_error(engine, small) < 1e-6
    assert bfloat16_error(engine, large) == pytest.approx(0.03, rel=1e-3)

    def run_in(plan) -> np.ndarray:
        calls.clear()
        result = np.empty(volume.data.shape)
        engine.run(plan, result)
        return result

    assert abs(run_in(large) - volume.data).max() > 0.05  # on a CPU, a tile in float32 would cost too much
    monkeypatch.setattr("cryoden.inference.engine._CHECKED", ("cpu",))
    for repeats in (2, 0):  # a shape is tried once
        np.testing.assert_allclose(run_in(large), volume.data, atol=1e-5)
        assert calls == [True, False][:repeats] + [False] * len(large.grid)
    assert caplog.text.count("Function gives in bfloat16 what is off by 3.0 % of what it gives in float32") == 1
    np.testing.assert_allclose(run_in(small), volume.data, atol=1e-5)
    assert calls == [True, False] + [True] * len(small.grid)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_shipped_models_are_right_in_bfloat16_on_this_gpu():
    volume = Volume(np.random.default_rng(0).normal(size=(40, 96, 96)).astype(np.float32), 10.0)
    for name in shipped_models():
        engine = Engine.of(load_denoiser(name), "cuda", "bfloat16")
        assert bfloat16_error(engine, engine.plan(volume, Settings("bright", rescale=True))) < 0.02
