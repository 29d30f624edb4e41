"""The order in which regions are joined, weakest boundary first, as a tree to cut."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_emseg.cells.regions import Regions, components

Boundary = list[float]
"""Sum of the membrane along a common boundary, and its length."""


@dataclass(frozen=True, slots=True, eq=False)
class MergeTree:
    """All steps of an agglomeration, computed once; a threshold cuts it anywhere.

    Two regions are joined where the membrane along their common boundary is the weakest
    of all; boundaries of the joined region are means over both. Such a mean is
    never below the one just joined, so the heights ascend, and the cut at t is what
    agglomeration that stops at t would give.

    Parameters
    ----------
    n
        Number of regions, region 0 among them.
    steps
        `(k, 2)` a region of each of the two parts that are joined.
    heights
        `(k,)` mean strength of the membrane between them, ascending.
    """

    n: int
    steps: NDArray[np.int64]
    heights: NDArray[np.float64]

    @classmethod
    def of(cls, regions: Regions) -> MergeTree:
        """Join regions until no two that are left have a common boundary."""
        n = len(regions.sizes)
        neighbours: list[dict[int, Boundary]] = [{} for _ in range(n)]
        heap = []
        total = (regions.membrane * regions.length).tolist()
        for (a, b), sum_, length in zip(
            regions.edges.tolist(), total, regions.length.tolist(), strict=True
        ):
            neighbours[a][b] = neighbours[b][a] = [sum_, length]
            heap.append((sum_ / length, a, b))
        steps, heights = _join_all(neighbours, heap)
        # rounding may lower a mean by an ulp
        ascending = np.maximum.accumulate(np.array(heights, np.float64))
        return cls(n, np.array(steps, np.int64).reshape(-1, 2), ascending)

    def cut(self, threshold: float) -> NDArray[np.int64]:
        """Map `(n,)` of regions to numbers of what they are part of, 0 to itself.

        Regions are joined where less than `threshold` is between them. Numbers ascend
        with the first region of each part.
        """
        last = int(np.searchsorted(self.heights, threshold))
        return components(self.steps[:last], self.n)


def _join_all(
    neighbours: list[dict[int, Boundary]], heap: list[tuple[float, int, int]]
) -> tuple[list[tuple[int, int]], list[float]]:
    """Join the two ends of the smallest boundary again and again; the heap is used up.

    Entries of the heap whose boundary has changed since are passed over.
    """
    heapq.heapify(heap)
    steps: list[tuple[int, int]] = []
    heights: list[float] = []
    while heap:
        height, a, b = heapq.heappop(heap)
        boundary = neighbours[a].get(b)
        if boundary is None or boundary[0] / boundary[1] != height:
            continue
        steps.append((a, b))
        heights.append(height)
        if len(neighbours[a]) < len(neighbours[b]):
            a, b = b, a
        _absorb(neighbours, heap, a, b)
    return steps, heights


def _absorb(
    neighbours: list[dict[int, Boundary]],
    heap: list[tuple[float, int, int]],
    a: int,
    b: int,
) -> None:
    """Make region `b` a part of its neighbour `a`."""
    del neighbours[a][b]
    for c, boundary in neighbours[b].items():
        if c == a:
            continue
        del neighbours[c][b]
        known = neighbours[a].get(c)
        if known is None:
            neighbours[a][c] = neighbours[c][a] = known = boundary
        else:
            known[0] += boundary[0]
            known[1] += boundary[1]
        heapq.heappush(heap, (known[0] / known[1], a, c))
    neighbours[b] = {}
