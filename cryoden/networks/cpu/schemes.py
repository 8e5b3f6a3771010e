"""Convolutions of volumes by fewer products: sums of planes, convolved as images, and summed again.

Along the first axis of a volume a convolution is a filter of a few taps. Two answers of a filter with three taps take
six products, but four products of sums of its inputs with sums of its taps give both (Winograd 1980, "Arithmetic
Complexity of Computations"; Lavin and Gray 2016, arXiv:1509.09308). A product here is the 2D convolution of whole
planes, with all their channels, by one plane of a kernel: nearly all of the work on a CPU, where sums are cheap.

Equal to the convolution up to rounding: in bfloat16, two to three times the convolution's own.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cryoden.networks.cpu.switch import plain

Signs = tuple[int, ...]


class Scheme(NamedTuple):
    """How a few planes of the answer come from a tile, a few planes of the volume.

    In `inputs` the first sign of a row that is not 0 is 1, in `outputs` that of a row and that of a column.

    Attributes:
        inputs: For each product, the signs with which it takes the planes of a tile.
        kernels: For each product, how much it takes of each plane of the kernel.
        outputs: For each plane of the answer, the signs with which it takes the products.
        biased: Products that take the bias: one of them in each plane of the answer, with sign 1.
        step: Planes from one tile to the next.
        before: Planes, all zeros, by which the first tile begins before the volume.
        stride: Of the 2D convolutions, and so are the following.
        padding: As in torch.
        output_padding: As in torch.
        transposed: As in torch.
    """

    inputs: tuple[Signs, ...]
    kernels: tuple[tuple[float, ...], ...]
    outputs: tuple[Signs, ...]
    biased: tuple[int, ...]
    step: int
    before: int
    stride: int
    padding: int
    output_padding: int = 0
    transposed: bool = False


# Kernel 3. Four products for two planes, where the taps are six.
SAME = Scheme(
    inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, 1, -1, 0), (0, 1, 0, -1)),
    kernels=((1, 0, 0), (0.5, 0.5, 0.5), (-0.5, 0.5, -0.5), (0, 0, -1)),
    outputs=((1, 1, 1, 0), (0, 1, -1, 1)),
    biased=(1,),
    step=2,
    before=1,
    stride=1,
    padding=1,
)

# Kernel 5, stride 2. Taps 0, 2 and 4 see every other plane, as above; taps 1 and 3 those between, where two answers of
# two taps take three products. Seven products for two planes, where the taps are ten.
HALVING = Scheme(
    inputs=(
        (1, 0, 0, 0, -1, 0, 0),
        (0, 0, 1, 0, 1, 0, 0),
        (0, 0, 1, 0, -1, 0, 0),
        (0, 0, 1, 0, 0, 0, -1),
        (0, 1, 0, -1, 0, 0, 0),
        (0, 0, 0, 1, 0, 0, 0),
        (0, 0, 0, 1, 0, -1, 0),
    ),
    kernels=(
        (1, 0, 0, 0, 0),
        (0.5, 0, 0.5, 0, 0.5),
        (-0.5, 0, 0.5, 0, -0.5),
        (0, 0, 0, 0, -1),
        (0, 1, 0, 0, 0),
        (0, 1, 0, 1, 0),
        (0, 0, 0, -1, 0),
    ),
    outputs=((1, 1, 1, 0, 1, 1, 0), (0, 1, -1, 1, 0, 1, 1)),
    biased=(1,),
    step=4,
    before=2,
    stride=2,
    padding=2,
)

# Transposed, kernel 5, stride 2: three taps make the even planes, two the odd ones. Seven products for four planes.
DOUBLING = Scheme(
    inputs=(
        (1, 0, -1, 0),
        (0, 1, 1, 0),
        (0, 1, -1, 0),
        (0, 1, 0, -1),
        (0, 1, -1, 0),
        (0, 0, 1, 0),
        (0, 0, 1, -1),
    ),
    kernels=(
        (0, 0, 0, 0, 1),
        (0.5, 0, 0.5, 0, 0.5),
        (-0.5, 0, 0.5, 0, -0.5),
        (-1, 0, 0, 0, 0),
        (0, 0, 0, 1, 0),
        (0, 1, 0, 1, 0),
        (0, -1, 0, 0, 0),
    ),
    outputs=((1, 1, 1, 0, 0, 0, 0), (0, 0, 0, 0, 1, 1, 0), (0, 1, -1, 1, 0, 0, 0), (0, 0, 0, 0, 0, 1, 1)),
    biased=(1, 5),
    step=2,
    before=1,
    stride=2,
    padding=2,
    output_padding=1,
    transposed=True,
)

# Kernel 3 after nearest-neighbour upsampling: both fine planes of a coarse one see it and a neighbour. Three products
# for two planes. Each plane of the kernel is that of a transposed convolution with kernel 4 and stride 2.
UPSAMPLING = Scheme(
    inputs=((1, -1, 0), (0, 1, 0), (0, 1, -1)),
    kernels=((1, 0, 0), (1, 1, 1), (0, 0, -1)),
    outputs=((1, 1, 0), (0, 1, 1)),
    biased=(1,),
    step=1,
    before=1,
    stride=2,
    padding=1,
    transposed=True,
)

# Measured with two cores of a CPU: below, oneDNN's own 3D convolution is as fast or faster.
_LEAST_CHANNELS = 40
_LEAST_VOXELS = 24**3

# Values of a volume that are worked on at a time. Smaller parts take longer, larger ones only more memory.
_PART = 2**24


def pays(scheme: Scheme, volumes: Tensor, weight: Tensor) -> bool:
    """Whether `convolve_by` can be used, and is faster than torch's 3D convolution.

    Args:
        scheme: One of this module's.
        volumes: (B, C, D, H, W).
        weight: The 3D convolution's.

    Returns:
        True for large channels_last_3d volumes of many channels on a CPU.
    """
    finer = max(1, len(scheme.outputs) // scheme.step)
    return (
        is_channels_last_on_cpu(volumes)
        and min(weight.shape[:2]) >= _LEAST_CHANNELS
        and volumes[0, 0].numel() * finer**3 >= _LEAST_VOXELS
        and volumes.shape[2] % scheme.step == 0
    )


def is_channels_last_on_cpu(volumes: Tensor) -> bool:
    """Whether torch's own convolution may be replaced at all: not on a GPU, nor where a compiler makes its own of it.

    Nor where `plain_convolutions` asks for torch's.

    Args:
        volumes: (B, C, D, H, W).

    Returns:
        True for channels_last_3d volumes on a CPU.
    """
    return (
        volumes.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not plain()
        and volumes.is_contiguous(memory_format=torch.channels_last_3d)
    )


def convolve_by(scheme: Scheme, volumes: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution that `scheme` stands for.

    Args:
        scheme: One of this module's.
        volumes: (B, C, D, H, W); D is a multiple of the scheme's step.
        weight: (O, C, K, k, k), or (C, O, K, k, k) where the scheme is transposed.
        bias: (O,), or None.

    Returns:
        (B, O, D', H', W'), channels_last_3d.
    """
    kernels = torch.einsum("pk,abkhw->pabhw", weight.new_tensor(scheme.kernels), weight)
    answer: Tensor = _ByScheme.apply(*autocast(volumes, kernels, bias), scheme)  # type: ignore[no-untyped-call]
    return answer


def autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """What torch's own convolution makes of its arguments where autocast is enabled; elsewhere they stay.

    Args:
        tensors: On one device, the first not None.

    Returns:
        As many.
    """
    assert tensors[0] is not None
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [None if tensor is None else tensor.to(dtype) for tensor in tensors]


class _ByScheme(torch.autograd.Function):
    """(B, C, D, H, W) volumes, a kernel for each product, bias (O,) or None and the scheme to (B, O, D', H', W')."""

    @staticmethod
    def forward(ctx: Any, volumes: Tensor, kernels: Tensor, bias: Tensor | None, scheme: Scheme) -> Tensor:
        ctx.save_for_backward(volumes, kernels)
        ctx.scheme = scheme
        ctx.bias_shape = None if bias is None else bias.shape
        # Before the temporaries, that these leave no gap in the heap. Not permuted: autograd copies views that a later
        # layer writes over.
        answer = torch.empty(
            _shape(volumes, kernels, scheme), dtype=kernels.dtype, memory_format=torch.channels_last_3d
        )
        volumes, planes, rows = _channels_last(volumes), _channels_last(answer), len(scheme.outputs)
        for batch, tiles in _parts(volumes, scheme):
            tile = _tile(volumes[batch], tiles, scheme)
            products = [
                torch.convolution(
                    _images(_sum(tile, signs)), kernel, bias if number in scheme.biased else None, *_geometry(scheme)
                )
                for number, (signs, kernel) in enumerate(zip(scheme.inputs, kernels, strict=True))
            ]
            products = [_planes(product, len(tile[0])) for product in products]
            for row, signs in enumerate(scheme.outputs):
                _sum(products, signs, out=planes[batch, row::rows][:, tiles])
        return answer

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        volumes, kernels = ctx.saved_tensors
        scheme: Scheme = ctx.scheme
        volumes, gradient = _channels_last(volumes), _channels_last(gradient)
        rows = len(scheme.outputs)
        columns = list(zip(*scheme.outputs, strict=True))
        to_volumes = torch.zeros_like(volumes)
        # Parts are summed in float32: there are many, and each is rounded to what the volumes are.
        precise = torch.promote_types(kernels.dtype, torch.float32)
        to_kernels = torch.zeros_like(kernels, dtype=precise)
        to_bias = None if ctx.bias_shape is None else kernels.new_zeros(ctx.bias_shape, dtype=precise)
        for batch, tiles in _parts(volumes, scheme):
            tile = _tile(volumes[batch], tiles, scheme)
            to_answer = [gradient[batch, row::rows][:, tiles] for row in range(rows)]
            inside = [_inside(number, tiles, volumes.shape[1], scheme) for number in range(len(scheme.inputs[0]))]
            for number, (signs, kernel) in enumerate(zip(scheme.inputs, kernels, strict=True)):
                biased = to_bias is not None and number in scheme.biased
                to_sum, to_kernel, to_its_bias = torch.ops.aten.convolution_backward(
                    _images(_sum(to_answer, columns[number])),
                    _images(_sum(tile, signs)),
                    kernel,
                    list(ctx.bias_shape) if biased else None,
                    *_geometry(scheme),
                    [ctx.needs_input_grad[0], ctx.needs_input_grad[1], biased],
                )
                if ctx.needs_input_grad[1]:
                    to_kernels[number] += to_kernel
                if biased:
                    to_bias += to_its_bias
                if ctx.needs_input_grad[0]:
                    to_sum = _planes(to_sum, len(tile[0]))
                    for (those, planes), sign in zip(inside, signs, strict=True):
                        if sign:
                            to_volumes[batch, planes].add_(to_sum[:, those], alpha=sign)
        return (
            to_volumes.permute(0, 4, 1, 2, 3) if ctx.needs_input_grad[0] else None,
            to_kernels.to(kernels.dtype) if ctx.needs_input_grad[1] else None,
            None if to_bias is None else to_bias.to(kernels.dtype),
            None,
        )


def _geometry(scheme: Scheme) -> tuple[list[int], list[int], list[int], bool, list[int], int]:
    """What torch's convolution and its gradient take after the bias."""
    return [scheme.stride] * 2, [scheme.padding] * 2, [1, 1], scheme.transposed, [scheme.output_padding] * 2, 1


def _shape(volumes: Tensor, kernels: Tensor, scheme: Scheme) -> list[int]:
    """Of the answer, (B, O, D', H', W'): all axes grow or shrink as the first does."""
    edges = [math.ceil(size * len(scheme.outputs) / scheme.step) for size in volumes.shape[2:]]
    return [len(volumes), kernels.shape[2 if scheme.transposed else 1], *edges]


def _channels_last(volumes: Tensor) -> Tensor:
    """(B, C, D, H, W) to contiguous (B, D, H, W, C): a view of channels_last_3d volumes."""
    return volumes.permute(0, 2, 3, 4, 1).contiguous()


def _images(planes: Tensor) -> Tensor:
    """(B, T, H, W, C) to channels_last (B * T, C, H, W)."""
    return planes.flatten(0, 1).permute(0, 3, 1, 2)


def _planes(images: Tensor, batch: int) -> Tensor:
    """(B * T, C, H, W) to (B, T, H, W, C)."""
    count, channels, *plane = images.shape
    return images.permute(0, 2, 3, 1).reshape(batch, count // batch, *plane, channels)


def _parts(volumes: Tensor, scheme: Scheme) -> Iterator[tuple[slice, slice]]:
    """Which volumes and which of their tiles are worked on at a time: several volumes, or a part of one."""
    tiles = volumes.shape[1] // scheme.step
    fitting = max(1, _PART // (scheme.step * volumes[0, 0].numel()))
    together = max(1, fitting // tiles)
    pieces = math.ceil(tiles / fitting)
    for volume in range(0, len(volumes), together):
        for piece in range(pieces):
            yield (
                slice(volume, volume + together),
                slice(piece * tiles // pieces, (piece + 1) * tiles // pieces),
            )


def _tile(volumes: Tensor, tiles: slice, scheme: Scheme) -> list[Tensor]:
    """The first plane of each of `tiles`, the second of each, and so on: (B, tiles, H, W, C) each."""
    count = len(scheme.inputs[0])
    first = tiles.start * scheme.step - scheme.before
    last = (tiles.stop - 1) * scheme.step - scheme.before + count
    depth = volumes.shape[1]
    block = volumes[:, max(first, 0) : min(last, depth)]
    if first < 0 or last > depth:
        block = F.pad(block, (0, 0, 0, 0, 0, 0, max(-first, 0), max(last - depth, 0)))
    return [block[:, number : last - first - count + number + 1 : scheme.step] for number in range(count)]


def _inside(number: int, tiles: slice, depth: int, scheme: Scheme) -> tuple[slice, slice]:
    """Which of `tiles` have plane `number` of theirs inside the volume, and which planes of the volume these are."""
    offset = number - scheme.before
    start = max(tiles.start, math.ceil(-offset / scheme.step))
    stop = max(start, min(tiles.stop, math.ceil((depth - offset) / scheme.step)))
    return (
        slice(start - tiles.start, stop - tiles.start),
        slice(start * scheme.step + offset, stop * scheme.step + offset, scheme.step),
    )


def _sum(planes: Sequence[Tensor], signs: Signs, out: Tensor | None = None) -> Tensor:
    """Sum of planes with their signs, in `out` if there are several; a single one is given as it is."""
    (first, _), *others = [(plane, sign) for plane, sign in zip(planes, signs, strict=True) if sign]
    if not others:
        return first
    (second, sign), *others = others
    total = torch.add(first, second, alpha=sign, out=out)
    for plane, sign in others:
        total.add_(plane, alpha=sign)
    return total
