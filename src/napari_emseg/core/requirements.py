"""What is said where a required package is of a version that can't be used."""

import platform
from importlib.metadata import PackageNotFoundError, version


def incompatible(
    package: str, tested: str, error: Exception, *, compiled: bool = False
) -> ImportError:
    """Return an error that names the version found and the one that was tested.

    Of a compiled package that isn't there, it says what pip needs where no wheel is.
    """
    install = f"pip install {package}=={tested}"
    try:
        found = version(package)
    except PackageNotFoundError:
        build = _how_to_build() if compiled else ""
        return ImportError(f"{package} isn't installed; {install}{build}")
    msg = f"{package} {found} can't be used here ({error}); {install} works"
    return ImportError(msg)


def _how_to_build() -> str:
    """Say what pip needs, if there is no wheel for this machine."""
    system, machine = platform.system(), platform.machine().lower()
    if (system, machine) in WITH_WHEELS:
        return ""
    return (
        f" (there is no wheel for {system} on {machine}: pip builds it with a C++ "
        "compiler and CMake)"
    )


WITH_WHEELS = {("Linux", "x86_64"), ("Windows", "amd64"), ("Darwin", "arm64")}
"""Systems and processors that compiled packages are published for."""

TESTED = "0.10.0"

try:
    from bioimage_cpp.distance import dijkstra_distance_field, distance_transform
    from bioimage_cpp.filters import gaussian_smoothing
    from bioimage_cpp.graph import UndirectedGraph
    from bioimage_cpp.graph.agglomeration import GaspClusterPolicy
    from bioimage_cpp.graph.multicut import KernighanLinMulticut, MulticutObjective
    from bioimage_cpp.segmentation import label, relabel_sequential
except ImportError as e:
    raise incompatible("bioimage-cpp", TESTED, e, compiled=True) from e

__all__ = [
    "GaspClusterPolicy",
    "KernighanLinMulticut",
    "MulticutObjective",
    "UndirectedGraph",
    "dijkstra_distance_field",
    "distance_transform",
    "gaussian_smoothing",
    "label",
    "relabel_sequential",
]
