"""Which cryoden this is."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("cryoden")
except PackageNotFoundError:  # sources that were never installed
    __version__ = "unknown"
