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

from cryoden.hardware import keep_freed_memory
from cryoden.networks.base import DenoisingNetwork
from cryoden.networks.blocks import RUNNING
from cryoden.networks.unet import Unet
from cryoden.networks.upsample_unet import UpsampleUnet

Forward = Callable[[Tensor], Tensor]


class PlainUpsampleUnet(nn.Module):
    """UpsampleUnet as the thesis writes it, with the same names for its parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = PlainBlock(nn.Conv3d(1, channels, 3, padding=1))
        self.narrow = PlainBlock(nn.Conv3d(channels, channels, 5, 2, padding=2), levels=3)
        self.widen = nn.ModuleDict({"block": PlainBlock(nn.Conv3d(2 * channels, channels, 3, padding=1), levels=3)})
        self.head = nn.Sequential(nn.Conv3d(channels, 1, 3, padding=1), nn.Softplus())

    def forward(self, volumes: Tensor) -> Tensor:
        """Denoise (B, 1, D, H, W) volumes."""
        full = self.first(volumes)
        half = self.narrow(full, level=0)
        quarter = self.narrow(half, level=1)
        decoded = self.narrow(quarter, level=2)
        for level, skip in enumerate((quarter, half, full)):
            decoded = self.widen["block"](torch.cat([F.interpolate(decoded, scale_factor=2.0), skip], dim=1), level)
        return self.head(decoded)


class PlainUnet(nn.Module):
    """Unet as the thesis writes it, with the same names for its parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = PlainBlock(nn.Conv3d(1, channels, 5, 2, padding=2))
        self.narrow = PlainBlock(nn.Conv3d(channels, channels, 5, 2, padding=2), levels=2)
        self.bottleneck = PlainBlock(nn.Conv3d(channels, channels, 5, 2, padding=2))
        self.widen_bottleneck = PlainBlock(nn.ConvTranspose3d(channels, channels, 5, 2, padding=2, output_padding=1))
        self.merge = PlainBlock(nn.Conv3d(2 * channels, channels, 3, padding=1), levels=3)
        self.widen = PlainBlock(nn.ConvTranspose3d(channels, channels, 5, 2, padding=2, output_padding=1), levels=3)
        self.last = PlainBlock(nn.Conv3d(channels + 1, channels, 3, padding=1))
        self.head = nn.Sequential(nn.Conv3d(channels, 1, 3, padding=1), nn.Softplus())

    def forward(self, volumes: Tensor) -> Tensor:
        """Denoise (B, 1, D, H, W) volumes."""
        half = self.first(volumes)
        quarter = self.narrow(half, level=0)
        eighth = self.narrow(quarter, level=1)
        decoded = self.widen_bottleneck(self.bottleneck(eighth))
        for level, skip in enumerate((eighth, quarter, half)):
            decoded = self.widen(self.merge(torch.cat([decoded, skip], dim=1), level), level)
        return self.head(self.last(torch.cat([decoded, volumes], dim=1)))


class PlainBlock(nn.Sequential):
    """The thesis's block: a convolution, ReLU, batch norm; levels that share it have statistics of their own."""

    def __init__(self, convolution: nn.Conv3d | nn.ConvTranspose3d, levels: int = 1) -> None:
        super().__init__(convolution, nn.ReLU(), nn.BatchNorm3d(convolution.out_channels))
        if levels > 1:
            for name in RUNNING:
                setattr(self[2], name, torch.stack([getattr(self[2], name)] * levels))

    def forward(self, volumes: Tensor, level: int = 0) -> Tensor:
        """Features of a level."""
        convolution, activation, norm = self
        mean, variance = (getattr(norm, name).view(-1, norm.num_features)[level] for name in RUNNING)
        features = activation(convolution(volumes))
        return F.batch_norm(features, mean, variance, norm.weight, norm.bias, self.training)


PLAIN: dict[type[DenoisingNetwork], type[nn.Module]] = {UpsampleUnet: PlainUpsampleUnet, Unet: PlainUnet}


def plain_twin(network: UpsampleUnet | Unet) -> nn.Module:
    """The plain form, with the same weights."""
    twin = PLAIN[type(network)](network.channels)
    twin.load_state_dict(network.state_dict())
    return twin.to(next(network.parameters()))


def step(forward: Forward, network: nn.Module, volumes: Tensor, clean: Tensor) -> Tensor:
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
    network = kind(channels=40).to(device).double()
    pair = torch.randn(2, 1, 1, 32, 32, 32, device=device, dtype=torch.float64)
    plain = plain_twin(network)
    found = difference(step(network, network, *pair), step(plain, plain, *pair))
    assert found < 1e-10, f"{kind.__name__}: gradients differ by {found}"


def measure(kind: type[DenoisingNetwork], arguments: argparse.Namespace) -> None:
    """Print a line per task and form of the network."""
    check_gradients(kind, arguments.device)
    torch.manual_seed(0)
    network = kind(channels=arguments.channels).to(arguments.device)
    plain = plain_twin(network)
    volumes, clean = torch.randn(2, arguments.batch, 1, *[arguments.box] * 3, device=arguments.device)

    def half(volumes: Tensor, forward: Forward = network) -> Tensor:
        with torch.autocast(arguments.device, torch.bfloat16):
            return forward(volumes)

    sides: dict[str, Forward] = {"plain, float32": plain, "float32": network, "bf16": half}
    if arguments.compile:
        compiled = torch.compile(network)
        sides |= {"float32, compiled": compiled, "bf16, compiled": partial(half, forward=compiled)}

    def train(forward: Forward) -> None:
        step(forward, plain if forward is plain else network, volumes, clean)

    @torch.no_grad()
    def infer(forward: Forward) -> Tensor:
        return forward(volumes)

    clock = time.process_time if arguments.cpu_time else time.perf_counter
    for task in (train, infer):
        plain.load_state_dict(network.state_dict())  # running statistics too
        for each in (network, plain):
            each.train(task is train)
        expected = infer(plain)
        differences = {name: difference(infer(forward), expected) for name, forward in sides.items()}
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
    network: nn.Module = kind(channels=arguments.channels).to(arguments.device)
    if form.startswith("plain"):
        network = plain_twin(network)
    volumes, clean = torch.randn(2, arguments.batch, 1, *[arguments.box] * 3, device=arguments.device)

    def denoise(volumes: Tensor) -> Tensor:
        with torch.autocast(arguments.device, torch.bfloat16, enabled=form.startswith("bf16")):
            return network(volumes)

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
