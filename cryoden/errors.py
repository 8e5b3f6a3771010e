"""The one exception that a user may cause."""


class CryodenError(ValueError):
    """Bad input: the message says what, which file, what was got, what is allowed and how to fix it.

    The command line prints the message as one line and exits with code 2.
    """
