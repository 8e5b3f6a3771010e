"""What a denoised file says of what it was made of and by what, so that only its own result counts as done."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryoden.errors import CryodenError
from cryoden.files import is_store

_LABEL = re.compile(r"cryoden: of (\d+) (\d+) ([0-9a-f]{12}) by ([0-9a-f]{12})")
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Origin:
    """What a result was made of, and by what.

    Attributes:
        size: Bytes of the inputs.
        time: When they were changed last, in ns since 1970, added up.
        digest: Of their content, 12 hexadecimal digits.
        key: Of the model and the settings, 12 hexadecimal digits.
    """

    size: int
    time: int
    digest: str
    key: str

    @classmethod
    def of(cls, paths: Sequence[Path], key: str, seen: tuple[int, int]) -> Self:
        """Of files, which are read.

        Args:
            paths: They.
            key: Of the model and the settings.
            seen: Their `size_and_time` before they were mapped: what is mapped stays the file that it was, whichever
                is put in its place.

        Raises:
            CryodenError: One cannot be read, or was changed since.
        """
        origin = cls(*seen, _digest(paths), key)
        origin.require_untouched(paths)
        return origin

    @classmethod
    def told_by(cls, labels: Sequence[str]) -> Self | None:
        """What a file tells, if its last two labels are those of `cryoden denoise`: nobody has changed it since."""
        last = labels[-2:]
        found = _LABEL.fullmatch(last[0]) if len(last) == 2 and last[1].startswith("cryoden ") else None
        return None if found is None else cls(int(found[1]), int(found[2]), found[3], found[4])

    @staticmethod
    def is_result(labels: Sequence[str]) -> bool:
        """Whether a file has a label of `cryoden denoise`, wherever: it was denoised, and perhaps changed since."""
        return any(_LABEL.fullmatch(label) for label in labels)

    @property
    def label(self) -> str:
        """As a label of an MRC file: at most 80 characters."""
        return f"cryoden: of {self.size} {self.time} {self.digest} by {self.key}"

    def is_of(self, paths: Sequence[Path]) -> bool:
        """Whether files are those: of the same size, and untouched since or, where they were copied, of one content."""
        size, time = size_and_time(paths)
        return size == self.size and (time == self.time or _digest(paths) == self.digest)

    def require_untouched(self, paths: Sequence[Path]) -> None:
        """Refuses files that were changed while they were read.

        Raises:
            CryodenError: One was; what was made of it is part of this and part of that.
        """
        if size_and_time(paths) != (self.size, self.time):
            raise CryodenError(
                f"{' or '.join(map(str, paths))} was changed while it was read, so that nothing was written; run it "
                "again when the file is complete"
            )


def size_and_time(paths: Sequence[Path]) -> tuple[int, int]:
    """Bytes of files or stores, and when they were changed last, in ns since 1970; both added up.

    Raises:
        CryodenError: One cannot be read.
    """
    try:
        found = [path.stat() for path in _files(paths)]
    except OSError as error:
        raise CryodenError(f"cannot read {error.filename}: {error.strerror}") from error
    return sum(each.st_size for each in found), sum(each.st_mtime_ns for each in found)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files themselves, and those of which a store is made."""
    for path in paths:
        yield from sorted(each for each in path.rglob("*") if each.is_file()) if is_store(path) else (path,)


def _digest(paths: Sequence[Path]) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for path in _files(paths):
        try:
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        except OSError as error:
            raise CryodenError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()
