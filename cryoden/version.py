"""Which cryoden this is, and what it runs with."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("torch", "lightning", "numpy", "scipy", "scikit-image", "gemmi")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # sources that were never installed
        return "unknown"


__version__ = _version("cryoden")


def versions() -> dict[str, str]:
    """Of cryoden, and of what its numbers depend on."""
    others = {name: _version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "cryoden": __version__, **others}
