"""The one exception that a user may cause, and errors of others in one line."""

import difflib
from collections.abc import Iterable


class CryodenError(ValueError):
    """Bad input: the message says what, which file, what was got, what is allowed and how to fix it.

    The command line prints the message as one line and exits with code 2.
    """


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
