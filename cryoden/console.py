"""Less talk from the libraries below, so that what a person should read stands out."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Advice that does not apply here, or that a user can do nothing about.
_NOISE = (
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*does not have many workers.*",
    r"Checkpoint directory .* exists and is not empty.*",
    r".*smaller than the logging interval.*",
    r".*The dirpath has changed.*",
    r".*`sync_dist=True`.*",
    r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`.*",  # a player waits
)


def quiet() -> None:
    """Silence Lightning's advertisements and the warnings that mean nothing to a user of cryoden."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of Lightning's calls, not ours
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def loading() -> Iterator[None]:
    """A word on a terminal while torch and what is built on it are imported, which takes seconds; gone afterwards."""
    seen = sys.stderr.isatty()
    if seen:
        print("loading torch ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if seen:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
