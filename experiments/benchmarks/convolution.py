"""Forward and backward of the generators' 3-kernel convolution on a CPU: ours against torch's own, results compared."""

import platform
import statistics
import time

import torch
from torch import nn

from cryoden.networks.convolution import Convolution


def seconds(layer: nn.Module, volumes: torch.Tensor) -> float:
    """Of one forward and backward pass."""
    started = time.perf_counter()
    layer(volumes).square().mean().backward()
    return time.perf_counter() - started


def main() -> None:
    """Print a line per layer: medians of 5 alternating runs."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}")
    for channels_in, channels_out, size in [(16, 16, 64), (32, 16, 64), (32, 32, 32), (64, 64, 16)]:
        torch.manual_seed(0)
        ours = Convolution(channels_in, channels_out)
        plain = nn.Conv3d(channels_in, channels_out, 3, padding=1)
        plain.load_state_dict(ours.state_dict())
        volumes = torch.randn(2, channels_in, size, size, size, requires_grad=True)
        times: dict[str, list[float]] = {"ours": [], "plain": []}
        for _ in range(6):
            for name, layer in (("ours", ours), ("plain", plain)):
                layer.zero_grad()
                times[name].append(seconds(layer, volumes))
        difference = (ours.weight.grad - plain.weight.grad).norm() / plain.weight.grad.norm()
        assert difference < 1e-4, difference
        a, b = (statistics.median(times[name][1:]) for name in ("ours", "plain"))
        print(f"{channels_in:3d} -> {channels_out:3d} at {size}^3: ours {a:.3f} s, torch {b:.3f} s, ratio {b / a:.2f}")


main()
