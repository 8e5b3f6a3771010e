"""The verb `validate`."""

from cryoden.commands.fit import run


def validate(*words: str) -> None:
    """Score a checkpoint on the validation volumes."""
    run("validate", *words)
