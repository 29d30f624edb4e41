"""Regions of a graph are joined along its weakest boundary, again and again.

All in flat arrays, so that a large section can be joined as a whole. Loaded on first
use, since compiling and numba itself take a second.
"""

import heapq

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.compiler import compiled


@compiled
def agglomerate(
    ends: NDArray[np.int32],
    total: NDArray[np.float64],
    length: NDArray[np.float64],
    opening: NDArray[np.float64],
    depths: NDArray[np.float64],
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Join until no boundary is left; return steps `(k, 2)` and heights `(k,)`.

    The arrays are used up.

    Parameters
    ----------
    ends
        `(m, 2)` regions of each boundary.
    total, length, opening
        `(m,)` membrane summed along it, its pixels, where it is widest open.
    depths
        `(n,)` where regions are widest.
    """
    n, m = len(depths), len(ends)
    # Invariant: two regions have at most one boundary. Boundary e has two half-edges,
    # 2e and 2e + 1, in the linked lists of regions `ends[e, 0]` and `ends[e, 1]`:
    # `first` is the head of a region's list, `following` the next half-edge, -1 ends
    # it. `count` is how many boundaries a region has, without removed ones.
    first = np.full(n, -1, np.int32)
    following = np.full(2 * m, -1, np.int32)
    count = np.zeros(n, np.int32)
    strength = np.empty(m, np.float64)
    # numba needs the type of what an empty list will hold, hence a loop over nothing
    heap = [(0.0, np.int32(0), np.int32(0)) for _ in range(0)]
    for edge in range(m):
        for side in range(2):
            _link(first, following, ends[edge, side], 2 * edge + side)
            count[ends[edge, side]] += 1
        strength[edge] = _strength(ends, total, length, opening, depths, edge)
        heap.append((strength[edge], ends[edge, 0], ends[edge, 1]))
    heapq.heapify(heap)
    steps = np.empty((max(n - 1, 0), 2), np.int32)
    heights = np.empty(max(n - 1, 0), np.float64)
    k = 0
    while len(heap) > 0:
        height, a, b = heapq.heappop(heap)
        edge = _find_edge(first, following, count, ends, a, b)
        if edge < 0 or strength[edge] != height:
            # Outdated: entries are never searched for and removed; a boundary whose
            # strength changes is pushed again.
            continue
        steps[k, 0], steps[k, 1], heights[k] = a, b, height
        k += 1
        # the region with fewer boundaries moves, or a large one
        # would be copied again and again
        if count[a] < count[b]:
            a, b = b, a
        deeper = depths[b] > depths[a]
        depths[a] = max(depths[a], depths[b])
        _cut(ends, count, edge)
        changed = _contract_edge(
            first, following, count, ends, total, length, opening, a, b
        )
        # the strength of every boundary of a depends on its depth, not only of those
        # that came from b
        if deeper:
            changed = _all_of(first, following, ends, a)
        for edge in changed:
            strength[edge] = _strength(ends, total, length, opening, depths, edge)
            other = ends[edge, 1] if ends[edge, 0] == a else ends[edge, 0]
            heapq.heappush(heap, (strength[edge], a, other))
    return steps[:k], heights[:k]


@compiled
def _strength(
    ends: NDArray[np.int32],
    total: NDArray[np.float64],
    length: NDArray[np.float64],
    opening: NDArray[np.float64],
    depths: NDArray[np.float64],
    edge: int,
) -> float:
    """As `rag.against`: membrane along it, less where it stands wide open."""
    depth = min(depths[ends[edge, 0]], depths[ends[edge, 1]])
    return float(total[edge] / length[edge] * (1 - opening[edge] / depth))


@compiled
def _contract_edge(
    first: NDArray[np.int32],
    following: NDArray[np.int32],
    count: NDArray[np.int32],
    ends: NDArray[np.int32],
    total: NDArray[np.float64],
    length: NDArray[np.float64],
    opening: NDArray[np.float64],
    a: np.int32,
    b: np.int32,
) -> list[int]:
    """Give region `a` the boundaries of `b`; return those of `a` that have changed."""
    changed = [0 for _ in range(0)]
    half = first[b]
    first[b] = -1
    while half >= 0:
        after, edge = following[half], half // 2
        if ends[edge, 0] >= 0:
            known = _find_edge(
                first, following, count, ends, a, ends[edge, 1 - half % 2]
            )
            # Both regions border on a third one: their boundaries become
            # one, with the mean membrane of both (average linkage, Bailoni
            # et al. 2022) and the wider opening.
            if known >= 0:
                total[known] += total[edge]
                length[known] += length[edge]
                opening[known] = max(opening[known], opening[edge])
                _cut(ends, count, edge)
                changed.append(known)
            else:
                ends[edge, half % 2] = a
                count[a] += 1
                _link(first, following, a, half)
                changed.append(edge)
        half = after
    return changed


@compiled
def _all_of(
    first: NDArray[np.int32],
    following: NDArray[np.int32],
    ends: NDArray[np.int32],
    a: np.int32,
) -> list[int]:
    """Return the boundaries of a region."""
    found = [0 for _ in range(0)]
    half = first[a]
    while half >= 0:
        if ends[half // 2, 0] >= 0:
            found.append(half // 2)
        half = following[half]
    return found


@compiled
def _link(
    first: NDArray[np.int32], following: NDArray[np.int32], region: np.int32, half: int
) -> None:
    following[half] = first[region]
    first[region] = half


@compiled
def _cut(ends: NDArray[np.int32], count: NDArray[np.int32], edge: int) -> None:
    """Remove a boundary; it is taken out of lists when they are gone through."""
    count[ends[edge, 0]] -= 1
    count[ends[edge, 1]] -= 1
    ends[edge, 0] = ends[edge, 1] = -1


@compiled
def _find_edge(
    first: NDArray[np.int32],
    following: NDArray[np.int32],
    count: NDArray[np.int32],
    ends: NDArray[np.int32],
    a: np.int32,
    b: np.int32,
) -> int:
    """Return the boundary of two regions, -1 if there is none."""
    if count[b] < count[a]:
        a, b = b, a
    before, half = -1, first[a]
    while half >= 0:
        edge = half // 2
        after = following[half]
        if ends[edge, 0] < 0:
            if before < 0:
                first[a] = after
            else:
                following[before] = after
        else:
            if ends[edge, 1 - half % 2] == b:
                return int(edge)
            before = half
        half = after
    return -1
