"""What only a GPU can tell: whether networks are right there, in which layout they are fast, and the whole way's rate.

    python experiments/benchmarks/gpu.py --out experiments/results/benchmarks/gpu.json

Each part is written as soon as it is measured. Right: answers and gradients of each network in float32 and bf16 against
float64 on the CPU. Layout: a training step, contiguous against channels_last_3d. Then a tilt series, and a whole
tomogram with its files.
"""

import argparse
import json
import math
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import hardware
from torch import Tensor, nn

from cryoden import Denoiser, Volume, write_volume
from cryoden.inference.denoise import denoise_file
from cryoden.networks import (
    CompactUnet,
    DraganDiscriminator,
    OriginalUnet,
    Pix2PixDiscriminator,
    SimpleAutoEncoder,
    SimpleDiscriminator,
    Unet,
    UpsampleUnet,
)
from cryoden.simulation.tilt_series import TiltSeriesDegradation

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "CompactUnet": CompactUnet,
    "CompactUnet, group": lambda: CompactUnet(norm="group"),
    "SimpleAutoEncoder": SimpleAutoEncoder,
    "OriginalUnet": lambda: OriginalUnet(channels=16),
    "Unet": lambda: Unet(channels=16),
    "UpsampleUnet": lambda: UpsampleUnet(channels=16),
    "UpsampleUnet, group": lambda: UpsampleUnet(channels=16, norm="group"),
}
CRITICS: dict[str, Callable[[], nn.Module]] = {
    "SimpleDiscriminator": lambda: SimpleDiscriminator(channels=12, box=32, norm="group"),
    "Pix2PixDiscriminator": lambda: Pix2PixDiscriminator(channels=16),
    "DraganDiscriminator": lambda: DraganDiscriminator(channels=16, box=32),
}
# network, its norm, batch and box: what an experiment trains
STEPS: list[tuple[str, Callable[[], nn.Module], int, int]] = [
    ("CompactUnet 16", CompactUnet, 32, 48),
    ("CompactUnet 16, group", lambda: CompactUnet(norm="group"), 32, 48),
    ("CompactUnet 24", lambda: CompactUnet(24), 32, 48),
    ("CompactUnet 32", lambda: CompactUnet(32), 32, 48),
    ("CompactUnet 32, batch 8", lambda: CompactUnet(32), 8, 48),
    ("CompactUnet 32, box 64", lambda: CompactUnet(32), 16, 64),
    ("CompactUnet 32, refined, box 80", lambda: CompactUnet(32, refinements=1), 8, 80),
    ("UpsampleUnet 48", UpsampleUnet, 8, 64),
    ("UpsampleUnet 48, group", lambda: UpsampleUnet(norm="group"), 8, 64),
    ("Unet 48", Unet, 8, 64),
    ("Unet 48, group", lambda: Unet(norm="group"), 8, 64),
    ("OriginalUnet 64", OriginalUnet, 8, 64),
    ("SimpleAutoEncoder", SimpleAutoEncoder, 8, 64),
]


def answer_and_gradients(network: nn.Module, volumes: list[Tensor], clean: Tensor, bf16: bool) -> tuple[Tensor, Tensor]:
    """What a network says, and the gradients of its weights, one after the other, in float64 on the CPU."""
    network.zero_grad()
    with torch.autocast(volumes[0].device.type, torch.bfloat16, enabled=bf16):
        said = network(*volumes)
    # a critic's answer counts as it is, a volume's voxels with weights, so that none of them cancels
    (said.to(clean.dtype) * (clean if said.shape == clean.shape else 1.0)).mean().backward()
    gradients = [p.grad.double().flatten().cpu() for p in network.parameters() if p.grad is not None]
    return said.detach().double().cpu(), torch.cat(gradients)


def apart(a: Tensor, b: Tensor) -> float:
    """The norm of the difference over that of the reference."""
    return float((a - b).norm() / b.norm())


def right(device: str) -> dict[str, dict[str, float]]:
    """Relative errors of each network."""
    table = {}
    for name, make in (NETWORKS | CRITICS).items():
        torch.manual_seed(0)
        network = make()
        for head in [m for m in network.modules() if isinstance(m, nn.Conv3d) and m.out_channels == 1]:
            nn.init.normal_(head.weight, std=0.1)  # one that starts at zero would hide everything
        volumes = [torch.randn(2, 1, 32, 32, 32) for _ in range(2 if name in CRITICS else 1)]
        clean = torch.randn(2, 1, 32, 32, 32)
        reference = answer_and_gradients(
            deepcopy(network).double(), [v.double() for v in volumes], clean.double(), False
        )
        row: dict[str, float] = {}
        for precision, bf16 in (("float32", False), ("bf16", True)):
            found = answer_and_gradients(
                deepcopy(network).to(device), [v.to(device) for v in volumes], clean.to(device), bf16
            )
            row |= {precision: apart(found[0], reference[0]), f"{precision} gradients": apart(found[1], reference[1])}
        table[name] = row
        print(f"{name:24s}", "  ".join(f"{what} {error:.1e}" for what, error in row.items()), flush=True)
    return table


def milliseconds(run: Callable[[], object], device: str, small: bool) -> float:
    """Median time, after three rounds to warm up; of one where only the way is tried."""
    times: list[float] = []
    for round_ in range(4 if small else 1000):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times += [time.perf_counter() - started] if round_ >= 3 else []
        if len(times) >= 5 and sum(times) > 0.8:
            break
    return 1e3 * statistics.median(times)


def training_step(network: nn.Module, optimizer: torch.optim.Optimizer, volumes: Tensor, clean: Tensor) -> None:
    """One step in bf16."""
    optimizer.zero_grad()
    with torch.autocast(volumes.device.type, torch.bfloat16):
        said = network(volumes)
    (said.float() - clean).square().mean().backward()
    optimizer.step()


def steps(device: str, small: bool) -> dict[str, dict[str, float]]:
    """Milliseconds of a training step in bf16, by layout."""
    table: dict[str, dict[str, float]] = {}
    for name, make, *size in STEPS:
        batch, box = (2, 16) if small else size
        row: dict[str, float] = {"batch": batch, "box": box}
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            torch.manual_seed(0)
            network = make().to(device).to(memory_format=layout)  # type: ignore[call-overload]  # torch's stub lacks it
            optimizer = torch.optim.AdamW(network.parameters(), fused=device == "cuda")
            volumes, clean = torch.randn(2, batch, 1, box, box, box, device=device)
            volumes = volumes.contiguous(memory_format=layout)

            step = partial(training_step, network, optimizer, volumes, clean)
            row[str(layout).removeprefix("torch.")] = milliseconds(step, device, small)
        table[name] = row
        print(f"{name:24s}", "  ".join(f"{what} {value:.2f}" for what, value in row.items()), flush=True)
    return table


def tilt_series(device: str, small: bool) -> dict[str, float]:
    """Milliseconds of a box of 64 in context, in batches of 8, and of a whole tomogram with its halves."""
    box, shape = (16, (16, 32, 32)) if small else (64, (96, 192, 192))
    step = TiltSeriesDegradation()
    generator = torch.Generator().manual_seed(0)
    wide = [box + 2 * m for m in step.context]
    within = torch.rand(8, 1, *wide, generator=generator).to(device)
    parameters = [step.sample(generator) for _ in range(8)]
    slab = torch.rand(shape, generator=generator).to(device)
    row = {
        "a box in context": milliseconds(lambda: step.apply_within(within, parameters, step.context), device, small)
        / 8,
        "a tomogram with its halves": milliseconds(lambda: step.tomograms(slab, parameters[0]), device, small),
    }
    print(row, flush=True)
    return row


def whole(device: str, small: bool) -> dict[str, float]:
    """Seconds of a whole tomogram by the command's own function, files included."""
    shape = (16, 32, 32) if small else (184, 630, 630)
    row: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.mrc"
        noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        write_volume(source, Volume(noise, 10.0))
        for channels in (16, 32):
            for again in ("first", "again"):
                started = time.perf_counter()
                denoiser, target = Denoiser(CompactUnet(channels)), Path(folder) / f"{channels}{again}.mrc"
                denoise_file(source, target, denoiser, contrast="bright", device=device)
                row[f"CompactUnet {channels}, {again}"] = time.perf_counter() - started
    print(row, flush=True)
    row["million voxels"] = math.prod(shape) / 1e6
    return row


def main() -> None:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="only try the way")
    arguments = parser.parse_args()
    command = shlex.join(["python", "experiments/benchmarks/gpu.py", *sys.argv[1:]])
    found: dict[str, Any] = {"commands": [command], "hardware": hardware(arguments.device)}
    print(found["hardware"])
    parts: dict[str, Callable[[], Any]] = {
        "right": lambda: right(arguments.device),
        "steps": lambda: steps(arguments.device, arguments.small),
        "tilt_series": lambda: tilt_series(arguments.device, arguments.small),
        "whole": lambda: whole(arguments.device, arguments.small),
    }
    for part, measure in parts.items():
        found[part] = measure()
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
