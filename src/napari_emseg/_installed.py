"""What is installed: our version, required packages, napari-emseg-data.

What isn't for commercial use comes as that distribution of its own, which holds files
only; everything else works without it.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

__version__ = version("napari-emseg")


def data_folder() -> Path | None:
    """Return where the files of napari-emseg-data lie; None if it isn't installed."""
    spec = find_spec("napari_emseg_data")
    if spec is None or spec.origin is None:  # no origin: pip left an empty folder
        return None
    return Path(spec.origin).parent


def only_in_data(what: str) -> str:
    """Say how to get what comes with napari-emseg-data alone."""
    return (
        f"{what} is in napari-emseg-data (not for commercial use): "
        "pip install napari-emseg-data"
    )


TESTED = {
    "annotated-types": "0.8.0",
    "bioimage-cpp": "0.10.0",
    "napari": "0.9.2",
    "npe2": "0.10.0",
    "numba": "0.68.1",
    "numcodecs": "0.16.6",
    "pint": "0.25.3",
    "psygnal": "0.16.1",
    "pyqtgraph": "0.14.0",
    "rosettasciio": "0.15.0",
    "safetensors": "0.8.0",
    "scikit-image": "0.26.0",
    "superqt": "0.9.0",
    "tensorstore": "0.1.86",
    "yaozarrs": "0.3.4",
}
"""Packages below version 1, which may change anything, as this version was tested."""

MODULES = {"rsciio": "rosettasciio", "skimage": "scikit-image"}
"""Packages by modules that have another name."""

WITH_WHEELS = {("Linux", "x86_64"), ("Windows", "amd64"), ("Darwin", "arm64")}
"""Systems and processors that compiled packages are published for."""


class RequirementError(ImportError):
    """A required package isn't there, or is of a version that can't be used."""


def incompatible(
    package: str, tested: str, error: Exception, *, compiled: bool = False
) -> RequirementError:
    """Return an error that names the version found and the one that was tested.

    Of a compiled package that isn't there, it says what pip needs where no wheel is.
    """
    install = f"pip install {package}=={tested}"
    try:
        found = version(package)
    except PackageNotFoundError:
        build = _how_to_build() if compiled else ""
        return RequirementError(f"{package} isn't installed; {install}{build}")
    msg = f"{package} {found} can't be used here ({error}); {install} works"
    return RequirementError(msg)


def _how_to_build() -> str:
    """Say what pip needs, if there is no wheel for this machine."""
    system, machine = platform.system(), platform.machine().lower()
    if (system, machine) in WITH_WHEELS:
        return ""
    return (
        f" (there is no wheel for {system} on {machine}: pip builds it with a C++ "
        "compiler and CMake)"
    )


@contextmanager
def naming_versions() -> Iterator[None]:
    """Say of an import that fails in the block which version of what was tested.

    Raises
    ------
    RequirementError
        If a name is gone from a package below version 1, or the package isn't there;
        other errors pass unchanged.
    """
    try:
        yield
    except RequirementError:
        raise
    except ImportError as e:
        found = _requirement_of(e)
        if found is None:
            raise
        raise found from e


def _requirement_of(error: BaseException | None) -> RequirementError | None:
    """Return what is to be said of a package below version 1 that an import lacks."""
    while error is not None:  # cyclopts names the command's module, and this as cause
        if isinstance(error, RequirementError):
            return error
        if isinstance(error, ImportError):
            module = (error.name or "").partition(".")[0]
            package = MODULES.get(module, module.replace("_", "-"))
            if package in TESTED:
                return incompatible(package, TESTED[package], error)
        error = error.__cause__
    return None
