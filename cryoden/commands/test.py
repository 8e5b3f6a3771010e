"""The verb `test`."""

from cryoden.commands.fit import run


def test(*words: str) -> None:
    """Score a checkpoint on the test volumes."""
    run("test", *words)
