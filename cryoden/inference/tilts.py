"""Between which tilts a tomogram was measured: files of IMOD, SerialEM, RELION and `cryoden simulate` tell."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from cryoden.errors import CryodenError
from cryoden.inference.jobs import bare_name
from cryoden.inference.star import tilts_of_table

_DEGRADATION = "_degradation.json"
_BESIDE = (_DEGRADATION, ".tlt", ".rawtlt", ".mdoc", ".mrc.mdoc", ".st.mdoc")
_LARGEST = 10**7  # bytes; a series has a hundred tilts, and a few kB are told of each
_MDOC = re.compile(r"^\s*TiltAngle\s*=\s*(\S+)", re.MULTILINE)
_ALLOWED = "degrees between -90 and 90, the lowest before the highest"


class TiltRange(NamedTuple):
    """The lowest and the highest tilt of a series about y, in degrees, and what told them."""

    low: float
    high: float
    source: str = "as stated"

    def __str__(self) -> str:
        return f"{self.low:.4g} to {self.high:.4g}° ({self.source})"

    def check(self) -> TiltRange:
        """The same, if it is one.

        Raises:
            CryodenError: It is not.
        """
        if not -90 <= self.low < self.high <= 90:
            raise CryodenError(f"tilt range {self.low:g} to {self.high:g} ({self.source}): allowed are {_ALLOWED}")
        return self


def read_tilts(path: Path | str) -> TiltRange:
    """The tilt range that a file tells.

    Args:
        path: One angle a line (.tlt, .rawtlt, or any other name), SerialEM's .mdoc, RELION 5's table of a tilt series
            (.star), or NAME_degradation.json of `cryoden simulate`.

    Raises:
        CryodenError: It cannot be read, or tells no two angles.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".star":
            angles = tilts_of_table(path)
        else:
            if path.stat().st_size > _LARGEST:
                raise CryodenError(f"{path} has {path.stat().st_size} bytes, too many for a list of tilts; is it one?")
            text = path.read_text(encoding="utf-8")
            if path.suffix.lower() == ".json":
                angles = [float(angle) for angle in json.loads(text)["tilt_range"]]
            elif path.suffix.lower() == ".mdoc":
                angles = [float(angle) for angle in _MDOC.findall(text)]
            else:
                angles = [float(line.split()[0]) for line in text.splitlines() if line.strip()]
        return TiltRange(min(angles), max(angles), path.name).check()
    except OSError as error:
        raise CryodenError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, CryodenError):
            raise
        raise CryodenError(f"{path} tells no tilts ({type(error).__name__}: {error}): {_ALLOWED}") from error


def find_tilts(path: Path, table: Path | None = None) -> TiltRange | None:
    """The tilt range of a tomogram, by what a table names, else by what lies beside it; None: nothing tells it.

    Of TS_01_full_rec.mrc these are TS_01_full_rec.tlt, TS_01_full.tlt and TS_01.tlt: words after the last are dropped
    one by one, but never a number, which tells tomograms apart. Before each .tlt comes NAME_degradation.json, after it
    .rawtlt and .mdoc.

    Args:
        path: The tomogram.
        table: RELION 5's table of its tilt series.

    Raises:
        CryodenError: There is a file, and it tells no tilts.
    """
    if table is not None:
        return read_tilts(table)
    words = bare_name(path).split("_")
    while words:
        for ending in _BESIDE:
            beside = path.with_name("_".join(words) + ending)
            if beside.is_file():
                return read_tilts(beside)
        if words.pop().isdigit():
            break
    return None
