"""Whether freed memory is kept: told by the pages that the system has to give again."""

import os
import subprocess
import sys

import pytest

PROBE = """
import resource, sys
import torch
from cryoden.hardware import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else False
for _ in range(20):  # at first small things settle in between, and the next tensor does not fit into the gap
    torch.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(10_000_000)  # 40 MB, 9766 pages
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def probe(word: str, **environment: str) -> tuple[bool, int]:
    """What `keep_freed_memory` said, and the pages faulted in by tensors that follow each other."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", PROBE, word]
    run = subprocess.run(command, env=mine | environment, capture_output=True, text=True, check=True)
    kept, faults = run.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_freed_memory_is_used_again() -> None:
    kept, faults = probe("keep")
    if not kept:
        pytest.skip("no glibc here, or another allocator in its place")
    assert faults < 3 * 9766
    assert probe("leave")[1] > 9 * 9766


@pytest.mark.parametrize("variable", [{"MALLOC_TOP_PAD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.top_pad=131072"}])
def test_an_allocator_that_the_user_set_up_is_left_alone(variable: dict[str, str]) -> None:
    assert not probe("keep", **variable)[0]
