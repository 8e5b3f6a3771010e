"""Small files, written so that a reader finds a whole one or none."""

import os
from pathlib import Path

from cryoden.errors import CryodenError


def write_text(path: Path, text: str, *, overwrite: bool) -> None:
    """Write a text file under a temporary name and move it.

    Args:
        path: the file.
        text: what to write.
        overwrite: replace an existing file.

    Raises:
        CryodenError: the file exists, or the disk refuses it.
    """
    if path.exists() and not overwrite:
        raise CryodenError(f"{path} exists; choose another name or allow overwriting (--overwrite)")
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise CryodenError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
