"""The switch that gives every convolution back to torch, for checking and for bug reports."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)

VARIABLE = "CRYODEN_PLAIN_CONVOLUTIONS"

_plain = os.environ.get(VARIABLE, "0") not in ("", "0")
if _plain:
    _log.warning("all convolutions are torch's own, and slower: %s is set", VARIABLE)


def plain() -> bool:
    """Whether convolutions are to be torch's own, written as one reads them: upsample, concatenate, convolve."""
    return _plain


@contextmanager
def plain_convolutions() -> Iterator[None]:
    """Within it, convolutions are torch's own, as in a process that began with CRYODEN_PLAIN_CONVOLUTIONS=1.

    The answers are the same up to rounding.
    """
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before
