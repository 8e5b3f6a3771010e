"""Peak memory of training steps of UpsampleUnet48, ours against the plain form; each in a process of its own."""

import argparse
import math
import multiprocessing
import resource

import torch
import torch.nn.functional as F
from networks import plain_twin
from timing import hardware

from cryoden.hardware import keep_freed_memory
from cryoden.networks.upsample_unet import UpsampleUnet

GIB = 2**30


def peak(plain: bool, half: bool, keep: bool, channels: int, batch: int, box: int, device: str) -> float:
    """GiB that eight steps add to what the process, its network and its batch hold."""
    if keep and not keep_freed_memory():
        return math.nan
    network = UpsampleUnet(channels)
    if plain:
        network = plain_twin(network)
    network.to(device)
    volumes, clean = torch.rand(2, batch, 1, box, box, box, device=device)
    before = held(device)
    for _ in range(8):  # what is kept grows for some steps, while the heap gets gaps
        with torch.autocast(device, torch.bfloat16, enabled=half):
            denoised = network(volumes)
        F.mse_loss(denoised.float(), clean).backward()
    return (held(device) - before) / GIB


def held(device: str) -> int:
    """The most bytes held so far: on a GPU, or by this process (ru_maxrss counts KiB on Linux)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Print a line per form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=48)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(hardware(arguments.device), f"batch of {arguments.batch} at {arguments.box}^3", sep="\n")
    context = multiprocessing.get_context("spawn")
    for name, *form in (
        ("plain, float32", True, False, False),
        ("float32", False, False, False),
        ("float32, freed memory kept", False, False, True),
        ("bf16", False, True, False),
        ("bf16, freed memory kept", False, True, True),
    ):
        with context.Pool(1) as pool:
            added = pool.apply(peak, (*form, arguments.channels, arguments.batch, arguments.box, arguments.device))
        print(f"{name:26s} {added:6.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
