"""Versions of the packages that took part in a result."""

import platform
from importlib.metadata import PackageNotFoundError, version

from ._version import __version__


def package_versions(*packages: str) -> dict[str, str]:
    """Versions of Python, of `sclm_hf` and of those of `packages` that are installed."""
    versions = {"python": platform.python_version(), "sclm_hf": __version__}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
