"""Numbers that are given, or drawn from a range."""

from collections.abc import Callable

import torch

from cryoden.errors import CryodenError

Range = float | tuple[float, float]
"""A value, or (lowest, highest)."""


def bounds(value: Range) -> tuple[float, float]:
    """The lowest and the highest value of a range."""
    return value if isinstance(value, tuple) else (value, value)


def check_range(name: str, value: Range, allowed: Callable[[float], bool], words: str) -> None:
    """Refuse a range that is upside down or reaches beyond what is allowed.

    Args:
        name: what it is of, for the error.
        value: the range.
        allowed: tells of a number whether it may be.
        words: the same in words, as they follow "a number".

    Raises:
        CryodenError: it is refused.
    """
    low, high = bounds(value)
    if not (allowed(low) and allowed(high) and low <= high):
        raise CryodenError(f"{name}: got {value}; allowed is a number {words}, or a (low, high) range of such numbers")


def draw(value: Range, generator: torch.Generator) -> float:
    """A number from a range, each as likely as the others."""
    low, high = bounds(value)
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def draw_seed(generator: torch.Generator) -> int:
    """A seed for another generator."""
    return int(torch.randint(2**62, (), generator=generator).item())
