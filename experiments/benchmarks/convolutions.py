"""Convolutions by fewer products, and the one to a single channel, against torch's 3D ones on a CPU, results compared.

python experiments/benchmarks/convolutions.py --channels 48 --box 64 --batch 2
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timing import hardware
from torch import Tensor

from cryoden.hardware import keep_freed_memory
from cryoden.networks.cpu.convolutions import _convolve_to_one, _upsampling_kernel
from cryoden.networks.cpu.schemes import DOUBLING, HALVING, SAME, UPSAMPLING, convolve_by

Convolve = Callable[[Tensor, Tensor, Tensor], Tensor]


def upsample(volumes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The transposed convolution that stands for upsampling and a convolution."""
    return F.conv_transpose3d(volumes, _upsampling_kernel(weight, axes=3), bias, stride=2, padding=1)


def upsample_by_scheme(volumes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same by fewer products."""
    return convolve_by(UPSAMPLING, volumes, _upsampling_kernel(weight, axes=2), bias)


# name: kernel, how much smaller than the box its volumes are, torch's, ours
FORMS: dict[str, tuple[int, int, Convolve, Convolve]] = {
    "kernel 3": (3, 1, partial(F.conv3d, padding=1), partial(convolve_by, SAME)),
    "kernel 5, stride 2": (5, 1, partial(F.conv3d, stride=2, padding=2), partial(convolve_by, HALVING)),
    "transposed, kernel 5, stride 2": (
        5,
        2,
        partial(F.conv_transpose3d, stride=2, padding=2, output_padding=1),
        partial(convolve_by, DOUBLING),
    ),
    "upsampled, kernel 3": (3, 2, upsample, upsample_by_scheme),
    "kernel 3, to one channel": (3, 1, partial(F.conv3d, padding=1), _convolve_to_one),
}


def measure(name: str, half: bool, arguments: argparse.Namespace) -> None:
    """Print a line: medians of forward and backward, and how far the answers are apart."""
    kernel, smaller, *sides = FORMS[name]
    torch.manual_seed(0)
    dtype = torch.bfloat16 if half else torch.float32
    box = [arguments.box // smaller] * 3
    out = 1 if name.endswith("one channel") else arguments.channels
    volumes = torch.randn(arguments.batch, arguments.channels, *box, dtype=dtype)
    leaves = [
        volumes.contiguous(memory_format=torch.channels_last_3d).requires_grad_(),
        (
            torch.randn(out, arguments.channels, *[kernel] * 3) / (arguments.channels * kernel**3) ** 0.5
        ).requires_grad_(),
        torch.randn(out).requires_grad_(),
    ]
    seconds: list[tuple[list[float], list[float]]] = [([], []), ([], [])]
    answers: list[Tensor] = []
    for run in range(arguments.runs + 1):
        for convolve, (forward, backward) in zip(sides, seconds, strict=True):
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                answer = convolve(*leaves)
            forward.append(time.perf_counter() - started)
            upstream = torch.ones_like(answer)
            started = time.perf_counter()
            torch.autograd.grad(answer, leaves, upstream)
            backward.append(time.perf_counter() - started)
            if run == 0:
                answers.append(answer.detach().float())
            del answer, upstream
    apart = ((answers[1] - answers[0]).norm() / answers[0].norm()).item()
    assert apart < (1e-2 if half else 1e-5), f"{name}: answers differ by {apart}"
    torchs, ours = ([1e3 * statistics.median(values[1:]) for values in side] for side in seconds)
    print(
        f"{name:31s} {'bf16' if half else 'float32':7s} forward {torchs[0]:6.1f} to {ours[0]:6.1f} ms, "
        f"backward {torchs[1]:6.1f} to {ours[1]:6.1f} ms: {sum(torchs) / sum(ours):4.2f} times; differ by {apart:.0e}",
        flush=True,
    )


def main() -> None:
    """Print a line per convolution and precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=48)
    parser.add_argument("--box", type=int, default=64, help="of the finer volumes")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    keep_freed_memory()
    print(hardware())
    print(f"{arguments.channels} channels, batches of {arguments.batch} at {arguments.box}^3")
    for half in (False, True):
        for name in FORMS:
            measure(name, half, arguments)


if __name__ == "__main__":
    main()
