"""What is said where a required package is of a version that can't be used."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def incompatible(package: str, tested: str, error: Exception) -> ImportError:
    """Return an error that names the version found and the one that was tested."""
    install = f"pip install {package}=={tested}"
    try:
        found = version(package)
    except PackageNotFoundError:
        return ImportError(f"{package} isn't installed; {install}")
    msg = f"{package} {found} can't be used here ({error}); {install} works"
    return ImportError(msg)
