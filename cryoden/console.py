"""Less talk from the libraries below, so that what a person should read stands out."""

import logging
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_WIDEST = 100

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


def fitted(line: str) -> str:
    """A line as a terminal shows it: broken between words at 100 columns, or where a narrower terminal ends.

    Args:
        line: One, or several, of which none is broken where what is printed goes into a file or another program.
    """
    width = min(_WIDEST, shutil.get_terminal_size().columns)
    if not sys.stdout.isatty():
        return line
    return "\n".join(_broken(each, width) for each in line.split("\n"))


def _broken(line: str, width: int) -> str:
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, replace_whitespace=False
    )
