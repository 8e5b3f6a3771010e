"""Where a training step of UpsampleUnet48 spends its time: each of torch's operators, and how fast it multiplies."""

import argparse
import time
from collections import defaultdict
from typing import Any

import torch
from networks import step
from timing import hardware, medians
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cryoden.hardware import keep_freed_memory
from cryoden.networks.upsample_unet import UpsampleUnet


class Stopwatch(TorchDispatchMode):
    """Seconds, calls and FLOP of each operator by the shapes it is given; on a CPU, where each ends before the next."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0, 0])

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it between two looks at the clock."""
        kwargs = kwargs or {}
        started = time.perf_counter()
        answer = function(*args, **kwargs)
        seconds = time.perf_counter() - started
        count = flop_registry.get(function.overloadpacket)
        shapes = " ".join("x".join(map(str, each.shape)) for each in args if isinstance(each, Tensor))
        seen = self.seen[function.overloadpacket.__name__, shapes]
        seen[0] += seconds
        seen[1] += 1
        seen[2] += count(*args, **kwargs, out_val=answer) if count else 0
        return answer


def main() -> None:
    """Print a line per operator, the slowest first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=48)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--lines", type=int, default=30)
    parser.add_argument("--matrix", type=int, default=2048, help="rows of matrices whose product is timed")
    arguments = parser.parse_args()
    keep_freed_memory()
    print(hardware())
    for dtype in (torch.float32, torch.bfloat16):
        half = dtype == torch.bfloat16
        torch.manual_seed(0)
        matrix = torch.randn(arguments.matrix, arguments.matrix, dtype=dtype)
        rate = 2e-9 * arguments.matrix**3 / medians({"product": lambda: matrix @ matrix}, 5)["product"]  # noqa: B023
        network = UpsampleUnet(channels=arguments.channels)
        volumes, clean = torch.randn(2, arguments.batch, 1, *[arguments.box] * 3)

        def denoise(volumes: Tensor, network: UpsampleUnet = network, half: bool = half) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                return network(volumes)

        for _ in range(3):
            step(denoise, network, volumes, clean)
        with Stopwatch() as watch:
            for _ in range(arguments.steps):
                step(denoise, network, volumes, clean)
        total = sum(seconds for seconds, *_ in watch.seen.values())
        name = "bf16" if half else "float32"
        print(f"{name}: {total / arguments.steps:.2f} s a step; matrices of {arguments.matrix}^2 {rate:.0f} GFLOP/s")
        ranked = sorted(watch.seen.items(), key=lambda item: -item[1][0])
        for (operator, shapes), (seconds, calls, flop) in ranked[: arguments.lines]:
            speed = f"{flop / seconds / 1e9:4.0f} GFLOP/s" if flop else ""
            print(f"{seconds / total:5.1%} {calls // arguments.steps:3.0f} {operator:27s} {speed:13s} {shapes[:90]}")


if __name__ == "__main__":
    main()
