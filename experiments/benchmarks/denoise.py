"""Memory and speed of denoising files: peak memory at several sizes, and voxels a second.

    python experiments/benchmarks/denoise.py memory [D H W ...]
    python experiments/benchmarks/denoise.py speed [D H W]

Networks have random weights: neither memory nor speed depends on them.
"""

import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from cryoden import Denoiser, Volume, write_volume
from cryoden.hardware import choose_device, keep_freed_memory
from cryoden.inference.denoise import denoise_file
from cryoden.networks.base import DenoisingNetwork
from cryoden.networks.simple_autoencoder import SimpleAutoEncoder
from cryoden.networks.upsample_unet import UpsampleUnet
from cryoden.volume import sections

_SIZES = ((256, 256, 256), (512, 512, 512), (512, 1024, 1024))


def megabytes() -> float:
    """Peak of this process's memory so far, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def denoise_once(shape: tuple[int, ...], network: DenoisingNetwork, folder: Path) -> None:
    """Print a line on one volume of noise, written as float16."""
    source = folder / "in.mrc"
    noise = np.memmap(folder / "noise", np.int8, mode="w+", shape=shape)
    rng = np.random.default_rng(0)
    for section in sections(noise):
        section[:] = rng.integers(-100, 100, section.shape)
    write_volume(source, Volume(noise, 10.0), dtype=np.float16)
    before = megabytes()
    started, worked = time.perf_counter(), time.process_time()
    denoise_file(source, folder / "out.mrc", Denoiser(network), contrast="bright")
    seconds, work = time.perf_counter() - started, time.process_time() - worked
    voxels = math.prod(shape)
    print(
        f"{type(network).__name__}, {' x '.join(map(str, shape))}: {voxels / 1e6:.0f} million voxels, "
        f"peak {megabytes():.0f} MB (of it {before:.0f} before), {seconds:.0f} s, {work:.0f} s of CPU, "
        f"{voxels / seconds:.3g} voxels a second, {voxels / work:.3g} a CPU second",
        flush=True,
    )


def main(what: str, *numbers: str) -> None:
    """Print a line a measurement; each runs in a process of its own."""
    if what == "one":
        keep_freed_memory()  # as `cryoden denoise` does on a CPU, unless the environment says otherwise
        name, *edges = numbers
        network = SimpleAutoEncoder() if name == "simple" else UpsampleUnet()
        with tempfile.TemporaryDirectory() as folder:
            denoise_once(tuple(map(int, edges)), network, Path(folder))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {choose_device()[1]}")
    given = [tuple(map(int, numbers[i : i + 3])) for i in range(0, len(numbers), 3)]
    if what == "memory":
        runs = [("simple", shape) for shape in given or _SIZES]
    else:
        runs = [("simple", *(given or [(192, 192, 192)])), ("upsample", *(given or [(128, 192, 192)]))]
    for name, shape in runs:
        subprocess.run([sys.executable, __file__, "one", name, *map(str, shape)], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
