"""What is said where a required package is of a version that can't be used."""

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


TESTED = "0.10.0"

try:
    from bioimage_cpp.distance import dijkstra_distance_field, distance_transform
    from bioimage_cpp.filters import gaussian_smoothing
    from bioimage_cpp.graph import UndirectedGraph
    from bioimage_cpp.graph.agglomeration import GaspClusterPolicy
    from bioimage_cpp.graph.multicut import KernighanLinMulticut, MulticutObjective
    from bioimage_cpp.segmentation import label, relabel_sequential
except ImportError as e:
    raise incompatible("bioimage-cpp", TESTED, e) from e

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
