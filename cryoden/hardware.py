"""What this machine computes with: its device, the precision that suits it, and memory that is kept."""

import ctypes
import os
import platform
import sys
from pathlib import Path

import torch

from cryoden.errors import CryodenError

# mallopt's names for them, from glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def choose_device() -> tuple[torch.device, str]:
    """The fastest device of this machine, and why it was chosen, for people to read."""
    if torch.cuda.is_available():
        return torch.device("cuda"), f"the GPU {torch.cuda.get_device_name()}"
    if torch.backends.mps.is_available():
        return torch.device("mps"), "the GPU of this Mac"
    if torch.version.cuda is None:
        return torch.device("cpu"), f"the CPU, because torch {torch.__version__} is built without CUDA"
    return torch.device("cpu"), "the CPU, because torch sees no GPU: check the driver with nvidia-smi"


def require_devices(count: int, device: torch.device) -> None:
    """Refuse to share work among more devices than this machine has, or processes than it has cores.

    Args:
        count: How many.
        device: One of them; where it is the CPU, processes are counted.

    Raises:
        CryodenError: There are fewer.
    """
    there, what = (
        (torch.cuda.device_count(), "GPUs")
        if device.type == "cuda"
        else (os.cpu_count() or 1, "cores")
        if device.type == "cpu"
        else (1, "GPU")
    )
    if count > there:
        raise CryodenError(f"devices {count}: this machine has {there} {what}; ask for at most as many")


def choose_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where a device computes in it, which is two to three times as fast; elsewhere float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        native = any(getattr(torch.cpu, f"_is_{kind}_supported", bool)() for kind in ("avx512_bf16", "amx_tile"))
    else:
        native = False
    return torch.bfloat16 if native else torch.float32


def machine() -> dict[str, str | int | None]:
    """What numbers are made on: cpu and gpu by their names, cores and threads by their number; None: no GPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": named[0] if named else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def keep_freed_memory() -> bool:
    """Let this process and its children keep memory that is freed, for what is allocated next.

    By default glibc gives every large tensor back to the system when it is freed. The next one comes as new pages,
    which the system fills with zeros one by one as they are touched: a tenth to a third of a training step on a CPU.
    Kept, the heap stays as large as it ever was, and has gaps; docs/speed-inside.md tells what both amount to.

    Returns:
        Whether it does: only with glibc, and unless the environment already sets up its allocator (MALLOC_...,
        GLIBC_TUNABLES, LD_PRELOAD).
    """
    if not sys.platform.startswith("linux"):
        return False
    if any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl's mallopt does nothing
        return False
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, -1))  # -1: never
