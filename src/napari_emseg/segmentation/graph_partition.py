"""A graph of regions → which of them are one cell, by signed weights."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.bioimage import (
    GaspClusterPolicy,
    KernighanLinMulticut,
    MulticutObjective,
    UndirectedGraph,
)
from napari_emseg.segmentation.rag import RegionGraph


def partition(
    regions: RegionGraph, method: Literal["multicut", "mutex-watershed"], join: float
) -> NDArray[np.int64]:
    """Map `(n,)` of regions to numbers of what they are part of, 0 to itself.

    A boundary attracts by how far its strength is below `join`, and repels by how far
    it is above. `multicut` finds the partition with the smallest sum of what is
    cut, weighted by length: greedy contraction, mended by Kernighan and Lin's moves
    (Keuper et al. 2015). `mutex-watershed` takes boundaries by strength, joins where
    one attracts, and keeps apart for good what one repels (Wolf et al. 2018, on the
    graph of regions).

    Parameters
    ----------
    join
        Strength that neither attracts nor repels.
    """
    n = len(regions.sizes)
    if len(regions.edges) == 0:
        return np.arange(n)
    graph = UndirectedGraph.from_unique_edges(n, regions.edges.astype(np.uint64))
    weights = join - regions.strength
    if method == "multicut":
        problem = MulticutObjective(graph, weights * regions.length)
        found = KernighanLinMulticut().optimize(problem)
    else:
        policy = GaspClusterPolicy(linkage="mutex_watershed")
        found = policy.optimize(graph, weights)
    return _by_first(np.asarray(found))


def _by_first(parts: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return parts numbered by their first regions; that of region 0 is 0."""
    _, first, which = np.unique(parts, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[which].astype(np.int64)
