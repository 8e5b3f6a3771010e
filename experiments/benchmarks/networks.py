"""Unet48 and UpsampleUnet48 against the same networks written plainly: training step, inference, results compared.

Plain is what a reader of the thesis would write: upsample, concatenate, convolve; contiguous, float32. With --fit each
form runs in processes of its own that take turns, ours with freed memory kept as `cryoden fit` keeps it.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timing import hardware, medians
from torch import Tensor, nn

from cryoden.allocator import keep_freed_memory
from cryoden.networks.base import DenoisingNetwork
from cryoden.networks.unet import Unet
from cryoden.networks.upsample_unet import UpsampleUnet

Forward = Callable[[Tensor], Tensor]


def plain_upsample_unet(network: UpsampleUnet, volumes: Tensor) -> Tensor:
    """UpsampleUnet's forward pass, as the thesis writes it."""
    full = network.first(volumes)
    half = network.narrow(full)
    quarter = network.narrow(half)
    decoded = network.narrow(quarter)
    for skip in (quarter, half, full):
        decoded = network.widen.block(torch.cat([F.interpolate(decoded, scale_factor=2.0), skip], dim=1))
    return network.head(decoded)


def plain_unet(network: Unet, volumes: Tensor) -> Tensor:
    """Unet's forward pass, as the thesis writes it."""
    half = network.first(volumes)
    quarter = network.narrow(half)
    eighth = network.narrow(quarter)
    decoded = network.widen_bottleneck(network.bottleneck(eighth))
    for skip in (eighth, quarter, half):
        decoded = network.widen(nn.Sequential.forward(network.merge, torch.cat([decoded, skip], dim=1)))
    return network.head(nn.Sequential.forward(network.last, torch.cat([decoded, volumes], dim=1)))


PLAIN = {UpsampleUnet: plain_upsample_unet, Unet: plain_unet}


def step(forward: Forward, network: DenoisingNetwork, volumes: Tensor, clean: Tensor) -> Tensor:
    """A training step but for the optimizer, which is the same on all sides; all gradients in one vector."""
    network.zero_grad()
    F.mse_loss(forward(volumes).to(clean.dtype), clean).backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def difference(ours: Tensor, plain: Tensor) -> float:
    """Relative, in the Euclidean norm."""
    return ((ours.to(plain.dtype) - plain).norm() / plain.norm()).item()


def check_gradients(kind: type[DenoisingNetwork], device: str) -> None:
    """In float64, since in float32 a ReLU that rounding tips over moves the gradients of either form by up to 1e-3."""
    torch.manual_seed(0)
    network = kind(channels=8).to(device).double()
    pair = torch.randn(2, 2, 1, 32, 32, 32, device=device, dtype=torch.float64)
    found = difference(step(network, network, *pair), step(partial(PLAIN[kind], network), network, *pair))
    assert found < 1e-10, f"{kind.__name__}: gradients differ by {found}"


def measure(kind: type[DenoisingNetwork], arguments: argparse.Namespace) -> None:
    """Print a line per task and form of the network."""
    check_gradients(kind, arguments.device)
    torch.manual_seed(0)
    network = kind(channels=arguments.channels).to(arguments.device)
    volumes, clean = torch.randn(2, arguments.batch, 1, *[arguments.box] * 3, device=arguments.device)

    def half(volumes: Tensor, forward: Forward = network) -> Tensor:
        with torch.autocast(arguments.device, torch.bfloat16):
            return forward(volumes)

    sides: dict[str, Forward] = {"plain, float32": partial(PLAIN[kind], network), "float32": network, "bf16": half}
    if arguments.compile:
        compiled = torch.compile(network)
        sides |= {"float32, compiled": compiled, "bf16, compiled": partial(half, forward=compiled)}

    def train(forward: Forward) -> None:
        step(forward, network, volumes, clean)

    @torch.no_grad()
    def infer(forward: Forward) -> Tensor:
        return forward(volumes)

    clock = time.process_time if arguments.cpu_time else time.perf_counter
    for task in (train, infer):
        network.train(task is train)
        plain = infer(sides["plain, float32"])
        differences = {name: difference(infer(forward), plain) for name, forward in sides.items()}
        assert differences["float32"] < 1e-5, f"{kind.__name__}: answers differ by {differences['float32']}"
        seconds = medians({name: partial(task, forward) for name, forward in sides.items()}, arguments.runs, clock)
        for name, value in seconds.items():
            print(
                f"{kind.__name__:13s} {task.__name__:6s} {name:18s} {value / arguments.batch:7.4f} s a volume, "
                f"{seconds['plain, float32'] / value:5.2f} times plain; answers differ by {differences[name]:.0e}"
            )


def as_fit_runs_it(kind: type[DenoisingNetwork], arguments: argparse.Namespace) -> None:
    """Print a line per task and form, each from a process for each round: memory kept once is kept for good."""
    check_gradients(kind, arguments.device)
    seconds: dict[tuple[str, str], list[float]] = {}
    context = multiprocessing.get_context("spawn")
    for _ in range(arguments.runs):
        for form in ("plain, float32", "float32, memory kept", "bf16, memory kept"):
            with context.Pool(1) as pool:
                for task, value in pool.apply(one_form, (kind, form, arguments)).items():
                    seconds.setdefault((task, form), []).append(value)
    for (task, form), values in seconds.items():
        value, plain = statistics.median(values), statistics.median(seconds[task, "plain, float32"])
        print(
            f"{kind.__name__:13s} {task:6s} {form:21s} {value / arguments.batch:7.4f} s a volume, "
            f"{plain / value:5.2f} times plain",
            flush=True,
        )


def one_form(kind: type[DenoisingNetwork], form: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step and of inference, after one of each to warm up."""
    if form.endswith("kept") and not keep_freed_memory():
        raise SystemExit("--fit needs glibc, and no MALLOC_ variable set")
    torch.manual_seed(0)
    network = kind(channels=arguments.channels).to(arguments.device)
    volumes, clean = torch.randn(2, arguments.batch, 1, *[arguments.box] * 3, device=arguments.device)
    forward: Forward = partial(PLAIN[kind], network) if form.startswith("plain") else network

    def denoise(volumes: Tensor) -> Tensor:
        with torch.autocast(arguments.device, torch.bfloat16, enabled=form.startswith("bf16")):
            return forward(volumes)

    clock = time.process_time if arguments.cpu_time else time.perf_counter
    train = medians({"train": partial(step, denoise, network, volumes, clean)}, 1, clock)
    network.eval()
    with torch.no_grad():
        return train | medians({"infer": partial(denoise, volumes)}, 1, clock)


def main() -> None:
    """Print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=48)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="with torch.compile too")
    parser.add_argument(
        "--fit", action="store_true", help="as `cryoden fit` runs it against plain in its own processes"
    )
    parser.add_argument("--cpu_time", action="store_true", help="count CPU seconds: for one thread on a busy machine")
    arguments = parser.parse_args()
    print(hardware(arguments.device))
    print(f"{arguments.channels} channels, batches of {arguments.batch} at {arguments.box}^3")
    for kind in (UpsampleUnet, Unet):
        (as_fit_runs_it if arguments.fit else measure)(kind, arguments)


if __name__ == "__main__":
    main()
