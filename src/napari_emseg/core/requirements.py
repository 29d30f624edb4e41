"""All that is used of bioimage-cpp, the youngest of the packages that are required."""

from napari_emseg._installed import TESTED, incompatible

try:
    from bioimage_cpp.distance import dijkstra_distance_field, distance_transform
    from bioimage_cpp.filters import gaussian_smoothing
    from bioimage_cpp.graph import UndirectedGraph
    from bioimage_cpp.graph.agglomeration import GaspClusterPolicy
    from bioimage_cpp.graph.multicut import KernighanLinMulticut, MulticutObjective
    from bioimage_cpp.segmentation import label, relabel_sequential
except ImportError as e:
    package = "bioimage-cpp"
    raise incompatible(package, TESTED[package], e, compiled=True) from e

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
