"""All that is used of bioimage-cpp: its interface may still change (0.x)."""

from __future__ import annotations

from napari_emseg.core.requirements import incompatible

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
