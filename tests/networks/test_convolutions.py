"""Convolutions that are computed otherwise than torch computes them: equal to torch's, gradients too."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cryoden.networks.blocks import Block, Convolution, Doubling, UpsampleBlock
from cryoden.networks.cpu import plain_convolutions, schemes
from cryoden.networks.cpu.convolutions import (
    _convolve_to_one,
    _upsampling_kernel,
    convolve,
    convolve_concatenated,
    convolve_doubling,
    convolve_upsampled,
    halve,
)
from cryoden.networks.cpu.schemes import DOUBLING, HALVING, SAME, UPSAMPLING, Scheme, convolve_by, pays
from cryoden.networks.cpu.switch import plain

Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def upsample_and_convolve(volumes: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv3d(F.interpolate(volumes, scale_factor=2.0), weight, bias, padding=1)


def upsampling_by_scheme(volumes: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return convolve_by(UPSAMPLING, volumes, _upsampling_kernel(weight, axes=2), bias)


# name: kernel, least depth, torch's, ours
FORMS: dict[str, tuple[int, int, Convolve, Convolve]] = {
    "same": (3, 2, partial(F.conv3d, padding=1), partial(convolve_by, SAME)),
    "halving": (5, 4, partial(F.conv3d, stride=2, padding=2), partial(convolve_by, HALVING)),
    "doubling": (
        5,
        2,
        partial(F.conv_transpose3d, stride=2, padding=2, output_padding=1),
        partial(convolve_by, DOUBLING),
    ),
    "upsampling": (3, 1, upsample_and_convolve, upsampling_by_scheme),
    "to one": (3, 1, partial(F.conv3d, padding=1), _convolve_to_one),
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS)
EVERY_SCHEME = pytest.mark.parametrize("scheme", [SAME, HALVING, DOUBLING, UPSAMPLING])


def inputs(
    form: str, shape: tuple[int, ...], channels: tuple[int, int], dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Volumes of a batch of 3 whose first axis is `shape[0]` times the least depth, weight and bias."""
    torch.manual_seed(0)
    kernel, least, *_ = FORMS[form]
    before, after = channels if form != "to one" else (channels[0], 1)
    pair = (before, after) if form == "doubling" else (after, before)
    volumes = torch.randn(3, before, shape[0] * least, *shape[1:], dtype=dtype)
    weight = torch.randn(*pair, kernel, kernel, kernel, dtype=dtype) / (before * kernel**3) ** 0.5
    return [
        each.requires_grad_()
        for each in (
            volumes.contiguous(memory_format=torch.channels_last_3d),
            weight,
            torch.randn(after, dtype=dtype),
        )
    ]


def differences(ours: Tensor, theirs: Tensor, leaves: list[Tensor]) -> list[float]:
    """Relative, of the answers and of the gradients of a random sum of them."""
    upstream = torch.randn_like(theirs)
    pairs = [
        (ours, theirs),
        *zip(
            torch.autograd.grad(ours, leaves, upstream.to(ours.dtype)),
            torch.autograd.grad(theirs, leaves, upstream),
            strict=True,
        ),
    ]
    assert all(a.shape == b.shape for a, b in pairs)
    return [((a - b).norm() / b.norm()).item() for a, b in pairs]


@pytest.mark.parametrize("part", [1, 700, 2**24])  # a tile at a time, some tiles, all volumes at once
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 5e-6)])
@pytest.mark.parametrize(("shape", "channels"), [((1, 4, 6), (3, 5)), ((3, 6, 4), (5, 3)), ((5, 8, 10), (2, 2))])
@EVERY_FORM
def test_is_the_convolution(
    form: str,
    shape: tuple[int, ...],
    channels: tuple[int, int],
    dtype: torch.dtype,
    tolerance: float,
    part: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schemes, "_PART", part)
    *_, torchs, ours = FORMS[form]
    leaves = inputs(form, shape, channels, dtype)
    answer = ours(*leaves)
    assert answer.is_contiguous(memory_format=torch.channels_last_3d)
    assert max(differences(answer, torchs(*leaves), leaves)) < tolerance


@EVERY_FORM
def test_without_a_bias(form: str) -> None:
    *_, torchs, ours = FORMS[form]
    volumes, weight, _ = inputs(form, (2, 4, 4), (2, 3))
    assert max(differences(ours(volumes, weight, None), torchs(volumes, weight, None), [volumes, weight])) < 1e-14


@EVERY_FORM
@pytest.mark.parametrize("which", [0, 1, 2])
def test_with_one_gradient_wanted(form: str, which: int) -> None:
    *_, torchs, ours = FORMS[form]
    leaves = inputs(form, (2, 4, 4), (2, 3))
    for number, leaf in enumerate(leaves):
        leaf.requires_grad_(number == which)
    assert max(differences(ours(*leaves), torchs(*leaves), [leaves[which]])) < 1e-14


@EVERY_FORM
def test_gradients_and_theirs(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemes, "_PART", 8)
    *_, ours = FORMS[form]
    leaves = inputs(form, (2, 2, 2), (1, 2))
    assert torch.autograd.gradcheck(ours, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(ours, leaves, fast_mode=True)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 12])
@EVERY_FORM
def test_in_bfloat16(form: str, size: int) -> None:
    """Gradients too, at sizes where oneDNN's 3D gradient of the weights is garbage."""
    *_, torchs, ours = FORMS[form]
    leaves = inputs(form, (4, size, size + size % 2), (8, 8), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        answer = ours(*leaves)
    assert answer.dtype == torch.bfloat16
    assert max(differences(answer, torchs(*leaves), leaves)) < 0.012


def test_one_that_is_written_over_is_none_the_wiser() -> None:
    *_, torchs, ours = FORMS["same"]
    leaves = inputs("same", (2, 4, 4), (2, 3))
    assert max(differences(ours(*leaves).relu_(), torchs(*leaves).relu(), leaves)) < 1e-14


@EVERY_SCHEME
def test_first_signs_are_plus_and_every_plane_takes_the_bias_once(scheme: Scheme) -> None:
    rows = [*scheme.inputs, *scheme.outputs, *zip(*scheme.outputs, strict=True)]
    assert [next(sign for sign in row if sign) for row in rows] == [1] * len(rows)
    assert [sum(row[number] for number in scheme.biased) for row in scheme.outputs] == [1] * len(scheme.outputs)
    assert min(sum(map(abs, row)) for row in scheme.outputs) > 1
    assert len(scheme.inputs) == len(scheme.kernels)


def test_where_it_pays() -> None:
    def volumes(channels: int, *box: int) -> Tensor:
        return torch.zeros(1, channels, *box).contiguous(memory_format=torch.channels_last_3d)

    weight = torch.zeros(48, 48, 3, 3, 3)
    assert pays(SAME, volumes(48, 24, 24, 24), weight)
    assert pays(UPSAMPLING, volumes(48, 12, 12, 12), weight)
    assert not pays(SAME, volumes(48, 12, 12, 12), weight)
    assert not pays(SAME, volumes(48, 25, 24, 24), weight)
    assert not pays(HALVING, volumes(48, 26, 24, 24), weight)
    assert not pays(SAME, volumes(48, 24, 24, 24).contiguous(), weight)
    assert not pays(SAME, volumes(48, 24, 24, 24), weight[:16])
    assert not pays(SAME, volumes(48, 24, 24, 24).to("meta"), weight)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Scheme]:
    """The schemes that are used from now on."""
    used: list[Scheme] = []

    def convolve(scheme: Scheme, *arguments: Tensor) -> Tensor:
        used.append(scheme)
        return convolve_by(scheme, *arguments)

    monkeypatch.setattr("cryoden.networks.cpu.convolutions.convolve_by", convolve)
    return used


def test_layers_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    used = counted(monkeypatch)
    torch.manual_seed(0)
    volumes = torch.randn(1, 40, 24, 24, 24).contiguous(memory_format=torch.channels_last_3d)
    coarse = volumes[..., :12, :12, :12].contiguous(memory_format=torch.channels_last_3d)
    weight = torch.randn(40, 80, 3, 3, 3) / 40
    layers = [Convolution(40, 40, 3, padding=1), Convolution(40, 40, 5, 2, padding=2), Doubling(40, 40)]
    with torch.no_grad():
        answers = [layer(coarse if isinstance(layer, Doubling) else volumes) for layer in layers]
        answers.append(convolve_upsampled(coarse, volumes, weight, None))
        assert used == [SAME, HALVING, DOUBLING, UPSAMPLING, SAME]
        expected = [
            (nn.ConvTranspose3d if isinstance(layer, Doubling) else nn.Conv3d).forward(
                layer, coarse if isinstance(layer, Doubling) else volumes
            )
            for layer in layers
        ]
        expected.append(
            F.conv3d(torch.cat([F.interpolate(coarse, scale_factor=2.0), volumes], dim=1), weight, padding=1)
        )
    for ours, torchs in zip(answers, expected, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-5)
    convolve(volumes[:, :4], torch.randn(4, 4, 3, 3, 3))
    convolve_doubling(coarse[:, :4], torch.randn(4, 4, 5, 5, 5))
    assert len(used) == 5


def test_one_switch_gives_every_convolution_back_to_torch() -> None:
    """All that is left are torch's operators on whole volumes, and the answers are the same."""
    torch.manual_seed(0)
    volumes = torch.randn(1, 40, 24, 24, 24).contiguous(memory_format=torch.channels_last_3d)
    coarse = volumes[..., :12, :12, :12].contiguous(memory_format=torch.channels_last_3d)
    weight = torch.randn(40, 80, 3, 3, 3) / 40
    layers: dict[str, Callable[[], Tensor]] = {
        "kernel 3": lambda: convolve(volumes, weight[:, :40]),
        "halving": partial(Convolution(40, 40, 5, 2, padding=2), volumes),
        "doubling": partial(Doubling(40, 40), coarse),
        "to one": partial(Convolution(40, 1, 3, padding=1), volumes),
        "concatenated": lambda: convolve_concatenated(volumes, volumes, weight, None),
        "upsampled": lambda: convolve_upsampled(coarse, volumes, weight, None),
    }
    for name, layer in layers.items():
        ours, usual = watched(layer)
        with plain_convolutions():
            plain, torchs = watched(layer)
        assert usual != torchs, name
        assert torchs.count("convolution") == 1, name
        assert set(torchs) <= {"convolution", "cat", "upsample_nearest3d", "slice"}, name
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def watched(layer: Callable[[], Tensor]) -> tuple[Tensor, list[str]]:
    """A layer's answer, and the names of torch's operators that it took."""

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    names: list[str] = []
    with torch.no_grad(), Watch():
        return layer(), names


@pytest.mark.parametrize(("value", "off"), [("1", True), ("0", False), (None, False)])
def test_the_variable_turns_it_off_for_a_process_and_the_log_tells(value: str | None, off: bool) -> None:
    environment = {name: each for name, each in os.environ.items() if name != "CRYODEN_PLAIN_CONVOLUTIONS"}
    if value is not None:
        environment["CRYODEN_PLAIN_CONVOLUTIONS"] = value
    code = "import cryoden.networks; from cryoden.networks.cpu.switch import plain; print(plain())"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    told = "all convolutions are torch's own, and slower: CRYODEN_PLAIN_CONVOLUTIONS is set\n"
    assert (run.stdout, run.stderr) == (f"{off}\n", told if off else "")


@pytest.mark.parametrize("layout", [torch.channels_last_3d, torch.contiguous_format], ids=["last", "first"])
@pytest.mark.parametrize(
    ("kind", "apart"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)], ids=["float32", "bfloat16"]
)
def test_halving_is_pooling_and_keeps_layout_and_type(layout, kind, apart) -> None:
    volumes = torch.randn(2, 8, 6, 10, 4, dtype=kind).to(memory_format=layout).requires_grad_()
    weight = torch.randn(2, 8, 3, 5, 2)
    pooled = F.avg_pool3d(volumes.float(), 2)
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
        halved = halve(volumes)
    torch.testing.assert_close(halved.float(), pooled, rtol=apart, atol=apart)
    (wanted,) = torch.autograd.grad((pooled * weight).sum(), volumes)
    (found,) = torch.autograd.grad((halved.float() * weight).sum(), volumes)
    torch.testing.assert_close(found.float(), wanted.float(), rtol=apart, atol=apart)
    if layout == torch.channels_last_3d:
        assert halved.dtype == kind
        assert halved.is_contiguous(memory_format=layout)


def test_the_switch_goes_back_after_an_error() -> None:
    @plain_convolutions()
    def stumble() -> None:
        assert plain()
        raise ZeroDivisionError

    assert not plain()
    with pytest.raises(ZeroDivisionError):
        stumble()
    assert not plain()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [Block, UpsampleBlock])
def test_blocks_that_use_it_learn_the_same(
    kind: type[nn.Module], precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of gradient descent with the schemes and without."""
    used = counted(monkeypatch)
    volumes = torch.randn(2, 40, 24, 24, 24, generator=torch.Generator().manual_seed(1))
    volumes = volumes.contiguous(memory_format=torch.channels_last_3d)
    coarse = volumes[..., :12, :12, :12].contiguous(memory_format=torch.channels_last_3d)

    def weights(least_channels: int) -> Tensor:
        monkeypatch.setattr(schemes, "_LEAST_CHANNELS", least_channels)
        torch.manual_seed(0)
        block = kind(40, 40, 40) if kind is UpsampleBlock else kind(40, 40, kernel=3)
        optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
                answer = block(coarse, volumes) if kind is UpsampleBlock else block(volumes)
            (answer.float() - volumes.abs()).square().mean().backward()
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in block.parameters()])

    without = weights(41)
    assert not used
    torch.manual_seed(0)
    block = kind(40, 40, 40) if kind is UpsampleBlock else kind(40, 40, kernel=3)
    start = torch.cat([p.detach().flatten() for p in block.parameters()])
    difference = (weights(40) - without).norm() / (without - start).norm()
    assert used
    assert difference < (0.05 if precision == torch.bfloat16 else 1e-3)
