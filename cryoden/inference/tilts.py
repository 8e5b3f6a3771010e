"""Between which tilts a tomogram was measured: files of IMOD, SerialEM, AreTomo, Warp, RELION and `simulate` tell.

Of these only the angles are needed, for which the field's own readers would bring pandas, half a second of imports.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from cryoden.errors import CryodenError
from cryoden.inference.jobs import bare_name, half_folder
from cryoden.inference.star import tilts_of_table

_DEGRADATION = "_degradation.json"
# As aligned, which the tomogram was made with, before as recorded.
_ALIGNED = (_DEGRADATION, ".tlt", ".aln", ".mrc.aln", ".st.aln", ".xml")
_BESIDE = (*_ALIGNED, ".tomostar", ".rawtlt", ".mdoc", ".mrc.mdoc", ".st.mdoc")
_WARP = "reconstruction"  # the folder of Warp's tomograms, which lies beside its files of tilt series
_LARGEST = 10**7  # bytes; a series has a hundred tilts, and a few kB are told of each
_MDOC = re.compile(r"^\s*TiltAngle\s*=\s*(\S+)", re.MULTILINE)
_NUMBERS = re.compile(r"(?:[-+±\d.,:;°()\[\]\s]|nan|inf)+", re.IGNORECASE)
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
        path: One angle a line (.tlt, .rawtlt, or any other name), SerialEM's .mdoc, AreTomo's .aln, a tilt series of
            Warp (.xml, .tomostar) or RELION 5 (.star), or NAME_degradation.json of `cryoden simulate`.

    Raises:
        CryodenError: It cannot be read, tells no two angles, or is no file but numbers.
    """
    path = Path(path)
    if not path.is_file() and _NUMBERS.fullmatch(str(path)):
        raise CryodenError(
            f"tilt range: got {path}; give both ends, such as '[-60, 60]', or a file that tells the tilts"
        )
    suffix = path.suffix.lower()
    if suffix == ".xf":
        raise CryodenError(
            f"{path} tells how images were turned and shifted, not how far the specimen was tilted: give the .tlt that "
            "goes with it"
        )
    try:
        if suffix in (".star", ".tomostar"):
            angles = tilts_of_table(path)
        else:
            if path.stat().st_size > _LARGEST:
                raise CryodenError(f"{path} has {path.stat().st_size} bytes, too many for a list of tilts; is it one?")
            angles = _READERS.get(suffix, _of_lines)(path.read_bytes())
        return TiltRange(min(angles), max(angles), path.name).check()
    except OSError as error:
        raise CryodenError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, ElementTree.ParseError) as error:
        if isinstance(error, CryodenError):
            raise
        raise CryodenError(f"{path} tells no tilts ({type(error).__name__}: {error}): {_ALLOWED}") from error


def _of_lines(content: bytes) -> list[float]:
    return [float(line.split()[0]) for line in content.decode("utf-8").splitlines() if line.strip()]


def _of_simulation(content: bytes) -> list[float]:
    told = json.loads(content)["tilt_range"]
    return [-90.0, 90.0] if told is None else [float(angle) for angle in told]  # null: nothing is missing


def _of_mdoc(content: bytes) -> list[float]:
    return [float(angle) for angle in _MDOC.findall(content.decode("utf-8"))]


def _of_aretomo(content: bytes) -> list[float]:
    """The last column of the table of whole images; dark ones are in none."""
    whole = content.decode("utf-8").partition("# Local Alignment")[0]
    return [float(line.split()[9]) for line in whole.splitlines() if line.strip() and not line.startswith("#")]


def _of_warp(content: bytes) -> list[float]:
    """Those of the images that are used; the file is in UTF-16, as it says itself."""
    series = ElementTree.fromstring(content)
    angles = [float(word) for word in (series.findtext("Angles") or "").split()]
    used = (series.findtext("UseTilt") or "True " * len(angles)).split()
    return [angle for angle, use in zip(angles, used, strict=True) if use.lower() == "true"]


_READERS: dict[str, Callable[[bytes], list[float]]] = {
    ".json": _of_simulation,
    ".mdoc": _of_mdoc,
    ".aln": _of_aretomo,
    ".xml": _of_warp,
}


def find_tilts(path: Path, table: Path | None = None) -> TiltRange | None:
    """The tilt range of a tomogram, by what a table names, else by what lies beside it; None: nothing tells it.

    Of TS_01_full_rec.mrc these are TS_01_full_rec.tlt, TS_01_full.tlt and TS_01.tlt: words after the last are dropped
    one by one, but never a number, which tells tomograms apart. Before each .tlt comes NAME_degradation.json, after it
    .aln, Warp's .xml, .tomostar, .rawtlt and .mdoc; also above Warp's folder reconstruction, and folders of halves.

    Args:
        path: The tomogram.
        table: RELION 5's table of its tilt series.

    Raises:
        CryodenError: There is a file, and it tells no tilts.
    """
    if table is not None:
        return read_tilts(table)
    words = bare_name(path).split("_")
    inner = takewhile(lambda folder: folder.name == _WARP or half_folder(folder) is not None, path.parents)
    above = [folder.parent for folder in inner]
    while words:
        for ending in _BESIDE:
            for folder in (path.parent, *above):
                beside = folder / ("_".join(words) + ending)
                if beside.is_file():
                    return read_tilts(beside)
        if words.pop().isdigit():
            break
    return None
