"""Fragments → a graph of regions, and regions merged along its edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from bioimage_cpp.graph import region_adjacency_graph
from bioimage_cpp.graph.features import edge_map_features
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

NECK = 2.0
"""Regions are cells of their own if both are this much wider than their opening."""


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Regions 0 … n - 1 of a section and their common boundaries.

    Region 0 is what belongs to no fragment; no edge touches it.

    Parameters
    ----------
    sizes
        `(n,)` pixels inside.
    depth
        `(n,)` largest distance to a membrane, px.
    edges
        `(m, 2)` neighbours, the smaller number first, each pair once.
    membrane
        `(m,)` mean probability along the common boundary.
    length
        `(m,)` pixels of it.
    opening
        `(m,)` largest distance to a membrane on it, px; 0 where all is membrane.
    """

    sizes: NDArray[np.int64]
    depth: NDArray[np.float32]
    edges: NDArray[np.int64]
    membrane: NDArray[np.float64]
    length: NDArray[np.float64]
    opening: NDArray[np.float32]

    def merged(self, into: NDArray[np.int64]) -> Regions:
        """Return the graph after region k became a part of region `into[k]`."""
        ends = np.sort(into[self.edges], axis=1)
        left = ends[:, 0] != ends[:, 1]
        edges, which = np.unique(ends[left], axis=0, return_inverse=True)
        n, m = int(into.max()) + 1, len(edges)
        length = np.bincount(which, self.length[left], m).astype(np.float64)
        total = np.bincount(which, (self.membrane * self.length)[left], m)
        mean = total / length
        opening = np.zeros(m, np.float32)
        np.maximum.at(opening, which, self.opening[left])
        depth = np.zeros(n, np.float32)
        np.maximum.at(depth, into, self.depth)
        sizes = np.bincount(into, self.sizes, n).astype(np.int64)
        return Regions(sizes, depth, edges, mean, length, opening)


def regions_of(
    fragments: NDArray[np.uint32],
    membrane: NDArray[np.float32],
    depth: NDArray[np.float32],
) -> Regions:
    """Measure fragments `(y, x)`.

    Parameters
    ----------
    membrane
        Probabilities `(y, x)`.
    depth
        Distance to the nearest membrane `(y, x)`, px; 0 on membranes.
    """
    n = int(fragments.max()) + 1
    inside = depth > 0
    graph = region_adjacency_graph(fragments, number_of_threads=1)
    edges = np.asarray(graph.uv_ids(), np.int64).reshape(-1, 2)
    features = edge_map_features(graph, fragments, membrane, number_of_threads=1)
    wanted = edges[:, 0] > 0
    deepest = np.zeros(n, np.float32)
    np.maximum.at(deepest, fragments[inside], depth[inside])
    return Regions(
        sizes=np.bincount(fragments[inside], minlength=n),
        depth=deepest,
        edges=edges[wanted],
        membrane=features[wanted, 0],
        length=features[wanted, 1],
        opening=_openings(fragments, depth, edges[wanted]),
    )


def _openings(
    fragments: NDArray[np.uint32], depth: NDArray[np.float32], edges: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Largest depth of a pair of 4-neighbours across each edge `(m, 2)`."""
    n = int(fragments.max()) + 1
    key = edges[:, 0] * n + edges[:, 1]
    out = np.zeros(len(edges), np.float32)
    for axis in (0, 1):
        label, value = (np.moveaxis(a, axis, 0) for a in (fragments, depth))
        across = (label[:-1] != label[1:]) & (value[:-1] > 0) & (value[1:] > 0)
        a, b = (part[across].astype(np.int64) for part in (label[:-1], label[1:]))
        pair = np.minimum(a, b) * n + np.maximum(a, b)
        lower = np.minimum(value[:-1][across], value[1:][across])
        known = np.minimum(a, b) > 0
        np.maximum.at(out, np.searchsorted(key, pair[known]), lower[known])
    return out


def join_necks(regions: Regions) -> NDArray[np.int64]:
    """Map `(n,)` that joins regions whose opening is no gap but a part of the cell.

    An opening is a gap if both regions are `NECK` times as wide. A thin process, whose
    width goes up and down a little, stays one cell.
    """
    into = list(range(len(regions.sizes)))
    depth = regions.depth.tolist()

    def root(k: int) -> int:
        while into[k] != k:
            into[k] = into[into[k]]
            k = into[k]
        return k

    for edge in np.argsort(-regions.opening, kind="stable"):
        opening = float(regions.opening[edge])
        if opening == 0:
            break
        a, b = (root(int(k)) for k in regions.edges[edge])
        if a != b and NECK * opening > min(depth[a], depth[b]):
            into[max(a, b)] = min(a, b)
            depth[min(a, b)] = max(depth[a], depth[b])
    roots = [root(k) for k in range(len(into))]
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def drop_small(regions: Regions, minimum_size: int) -> NDArray[np.int64]:
    """Map `(n,)` that makes regions below a size a part of region 0."""
    into = np.arange(len(regions.sizes))
    into[regions.sizes < minimum_size] = 0
    return into


def join_small(regions: Regions, minimum_size: int) -> NDArray[np.int64]:
    """Map `(n,)` that joins regions below a size to their likeliest neighbours.

    Likeliest is where the membrane between is weakest. Small regions that join each
    other may become large enough together. Those without neighbours join region 0.
    """
    into = np.arange(len(regions.sizes))
    while True:
        small = regions.sizes < minimum_size
        small[0] = False
        chosen = _weakest(regions, small)
        if len(chosen) == 0:
            break
        step = _components(regions.edges[chosen], len(small))
        regions, into = regions.merged(step), step[into]
    into[small[into]] = 0
    return np.unique(into, return_inverse=True)[1].astype(np.int64)


def _weakest(regions: Regions, small: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each small region with neighbours, its edge with the weakest membrane."""
    ends = regions.edges.ravel()
    edge = np.repeat(np.arange(len(regions.edges)), 2)
    touched = small[ends]
    ends, edge = ends[touched], edge[touched]
    order = np.lexsort((edge, regions.membrane[edge], ends))
    _, first = np.unique(ends[order], return_index=True)
    return np.unique(edge[order[first]])


def _components(edges: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return the connected part of each of n nodes, numbered by first node."""
    ones = np.ones(len(edges), bool)
    graph = coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(n, n))
    part = connected_components(graph, directed=False)[1]
    _, first, which = np.unique(part, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[which].astype(np.int64)
