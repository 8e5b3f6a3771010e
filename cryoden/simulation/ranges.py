"""Numbers that are given, or drawn from a range."""

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from cryoden.errors import CryodenError

Range = float | tuple[float, float]
"""A value, or (lowest, highest)."""

WholeRange = int | tuple[int, int]
"""The same of whole numbers, both ends included."""

_MANY = 2**31  # of nothing there are as many

Kind = TypeVar("Kind", bound=str | bool | int)


def choices(value: Kind | tuple[Kind, ...]) -> tuple[Kind, ...]:
    """What may be drawn of a kind that is given, or of several."""
    return value if isinstance(value, tuple) else (value,)


def check_choice(name: str, value: Kind | tuple[Kind, ...], allowed: tuple[Kind, ...]) -> None:
    """Refuse a kind that is none.

    Args:
        name: what it is of, for the error.
        value: one, or several to draw from.
        allowed: all there are.

    Raises:
        CryodenError: it is refused.
    """
    if not choices(value) or not set(choices(value)) <= set(allowed):
        *most, last = map(repr, allowed)
        raise CryodenError(f"{name}: got {value!r}; allowed are {', '.join(most)} and {last}, or several to draw from")


def draw_choice(value: Kind | tuple[Kind, ...], generator: torch.Generator) -> int:
    """Which of several kinds: an index, each as likely as the others."""
    return int(torch.randint(len(choices(value)), (), generator=generator))


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
    if not (-math.inf < low <= high < math.inf and allowed(low) and allowed(high)):
        raise CryodenError(f"{name}: got {value}; allowed is a number {words}, or a (low, high) range of such numbers")


def check_whole_range(name: str, value: WholeRange, least: int) -> None:
    """Refuse a range of whole numbers that is upside down or reaches below the least that is allowed.

    Args:
        name: what it is of, for the error.
        value: the range.
        least: that is allowed.

    Raises:
        CryodenError: it is refused.
    """
    low, high = bounds(value)
    if not least <= low <= high < _MANY or low != int(low) or high != int(high):
        raise CryodenError(f"{name}: got {value}; allowed is a whole number from {least} up, or a (low, high) range")


def draw(value: Range, generator: torch.Generator) -> float:
    """A number from a range, each as likely as the others."""
    low, high = bounds(value)
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def draw_whole(value: WholeRange, generator: torch.Generator) -> int:
    """A whole number from a range, each as likely as the others."""
    low, high = bounds(value)
    return int(torch.randint(int(low), int(high) + 1, (), generator=generator))


def draw_seed(generator: torch.Generator) -> int:
    """A seed for another generator."""
    return int(torch.randint(2**62, (), generator=generator).item())


def seed_of(*numbers: int) -> int:
    """The seed that whole numbers from 0 up stand for, all of them together."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
