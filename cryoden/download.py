"""Files from the network: with a time limit, a least rate and a largest size, into a cache that can be trusted."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests
import urllib3

from cryoden.errors import CryodenError
from cryoden.files import whole_file

TIMEOUT = 20.0
"""Seconds without an answer, or without a byte of it, after which a server is given up."""

FAILURES = (OSError, urllib3.exceptions.HTTPError, CryodenError)
"""What `transfer` raises."""

_CHUNK = 2**16  # bytes at most; an interrupt takes effect at the next chunk
_SLOWEST = 1000  # bytes a second, on average since the first TIMEOUT
_LARGEST = 10**9  # bytes, as sent; the largest PDB entries are a tenth of it, models a hundredth


def cache_dir() -> Path:
    """The folder of what was downloaded: CRYODEN_CACHE, or the user's cache of this operating system."""
    return Path(os.environ.get("CRYODEN_CACHE") or pooch.os_cache("cryoden")).expanduser()


def fetch_stated(address: str) -> Path:
    """A file whose content is stated with its address, from the cache, else from the network; it is never renewed.

    Args:
        address: URL#sha256=HEX, of http or https, with the 64 hexadecimal digits of the file's SHA-256.

    Returns:
        The file in the cache, under the name that it has in the URL; its content is what was stated.

    Raises:
        CryodenError: The digest is not stated, the file cannot be had, or it holds something else.
    """
    url, _, stated = address.partition("#sha256=")
    if not re.fullmatch(r"https?://[^\s#]+", url) or not re.fullmatch(r"[0-9a-fA-F]{64}", stated):
        raise CryodenError(
            f"{address}: a file from the network needs its SHA-256, so that it is what was meant, and stays it: add "
            "#sha256= and 64 hexadecimal digits to its https:// address"
        )
    digest = stated.lower()
    name = re.sub(r"[^\w.-]", "_", urlsplit(url).path.rpartition("/")[2], flags=re.ASCII)[-100:].lstrip(".")
    path = cache_dir() / digest / (name or "file")
    try:
        if path.is_file() and pooch.file_hash(str(path)) == digest:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, overwrite=True) as partial:
            try:
                for _ in transfer(url, partial):
                    pass
            except FAILURES as error:
                raise CryodenError(
                    f"{url}: not in the cache {cache_dir()}, and not to be downloaded ({reason(error)}); "
                    "connect to the network, or give a file that you have"
                ) from None
            got = pooch.file_hash(str(partial))
            if got != digest:
                raise CryodenError(
                    f"{url}: its SHA-256 is {got}, and {digest} is stated: it is another file, or was changed there or "
                    "on its way; ask whoever gave you the address"
                )
    except OSError as error:
        raise CryodenError(
            f"cannot write to the cache {cache_dir()} ({error.strerror}): set CRYODEN_CACHE to a folder you can write "
            "to"
        ) from error
    return path


def transfer(url: str, path: Path) -> Iterator[tuple[int, int | None]]:
    """Writes to a file what a server sends, as it comes; yields the bytes of each piece, and of all if it says so.

    Raises:
        CryodenError: It sends too slowly, or too much.
        OSError: It sends nothing.
        urllib3.exceptions.HTTPError: It stops before the end.
    """
    begun, received = time.monotonic(), 0
    with requests.get(url, stream=True, timeout=TIMEOUT) as response, path.open("wb") as file:
        response.raise_for_status()
        length = response.headers.get("Content-Length", "")
        while piece := response.raw.read1(_CHUNK):  # what is there: one that waits for more would wait for ever
            file.write(piece)
            received += len(piece)
            if received > _LARGEST:
                raise CryodenError(f"more than {_LARGEST / 1e9:g} GB")
            late = time.monotonic() - begun - TIMEOUT
            if late > 0 and received < _SLOWEST * late:
                raise CryodenError(f"slower than {_SLOWEST} bytes a second")
            yield len(piece), int(length) if length.isdecimal() else None


def reason(error: OSError | urllib3.exceptions.HTTPError | CryodenError) -> str:
    """What went wrong with a download, in a few words."""
    if isinstance(error, CryodenError):
        return str(error)
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code}"
    if "timed out" in str(error).lower():
        return f"no answer in {TIMEOUT:g} s"
    if isinstance(error, urllib3.exceptions.HTTPError):
        return "broken off"
    return error.strerror or {"ConnectionError": "no connection"}.get(type(error).__name__, type(error).__name__)
