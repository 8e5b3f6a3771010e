"""The one exception that a user may cause, numbers that cause it, and errors of others in one line."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

_MANY = 2**31  # of nothing there are as many


class CryodenError(ValueError):
    """Bad input: the message says what, which file, what was got, what is allowed and how to fix it.

    The command line prints the message as one line and exits with code 2.
    """


def check_numbers(allowed: Callable[[Any], bool], words: str, /, **numbers: Any) -> None:
    """Refuse arguments that have no meaning.

    Args:
        allowed: tells of a number whether it may be; comparisons refuse what is no number (nan), too.
        words: the same in words, as they follow "allowed is".
        numbers: the arguments by name.

    Raises:
        CryodenError: one is refused.

    Examples:
        >>> check_numbers(lambda number: 0 <= number < 1, "a number from 0 to below 1", average=0.99)
    """
    for name, number in numbers.items():
        if not allowed(number):
            raise CryodenError(f"{name}: got {number}; allowed is {words}")


def check_above_zero(**numbers: float) -> None:
    """Refuse sizes, counts and rates, by name, that are not above 0, or more than there is of anything.

    Raises:
        CryodenError: one is refused.
    """
    check_numbers(lambda number: 0 < number < _MANY, "a number above 0, and below 2 billion", **numbers)


def check_weights(**numbers: float) -> None:
    """Refuse weights, by name, that are below 0 or not finite; 0 leaves out what is weighted.

    Raises:
        CryodenError: one is refused.
    """
    check_numbers(lambda number: 0 <= number < _MANY, "a number from 0 up, and below 2 billion", **numbers)


def check_whole(least: int, most: int = _MANY, /, **numbers: float) -> None:
    """Refuse arguments, by name, that are not whole, or fewer or more than what is allowed.

    Raises:
        CryodenError: one is refused.
    """
    words = f"a whole number from {least} {'up' if most == _MANY else f'to {most}'}"
    check_numbers(lambda number: least <= number <= most and number == int(number), words, **numbers)


def check_seeds(**numbers: int) -> None:
    """Refuse seeds, by name, that some generator would not take.

    Raises:
        CryodenError: one is refused.
    """
    check_whole(0, 2**32 - 1, **numbers)


def closest(word: str, known: Iterable[str]) -> str | None:
    """What was meant by a word that is not known; None: nothing is like it.

    Examples:
        >>> closest("quik", ["quick", "gan"])
        'quick'
    """
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def one_line(error: BaseException, most: int = 300) -> str:
    """What an error says, in one line; its kind before it, unless it is one of ours.

    Args:
        error: whatever was raised.
        most: characters.

    Examples:
        >>> one_line(KeyError("weights"))
        "KeyError: 'weights'"
    """
    said = " ".join(str(error).split())[:most]
    return said if isinstance(error, CryodenError) else f"{type(error).__name__}: {said}"
