"""The order in which regions are joined, weakest boundary first, as a tree to cut."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_emseg.cells.regions import Regions, against, components

Boundary = list[float]
"""Sum of the membrane along a common boundary, its length, the widest opening in it,
and its strength."""


@dataclass(frozen=True, slots=True, eq=False)
class MergeTree:
    """All steps of an agglomeration, computed once; a threshold cuts it anywhere.

    Two regions are joined whose common boundary is the weakest of all; then those of
    the joined region are measured anew: see `Regions.strength`. Most grow stronger that
    way. Those that don't are joined next, and the step counts as high as the one
    before, so that the cut at t is what agglomeration that stops at t would give.

    Parameters
    ----------
    n
        Number of regions, region 0 among them.
    steps
        `(k, 2)` a region of each of the two parts that are joined.
    heights
        `(k,)` strength of the boundary between them, ascending.
    """

    n: int
    steps: NDArray[np.int64]
    heights: NDArray[np.float64]

    @classmethod
    def of(cls, regions: Regions) -> MergeTree:
        """Join regions until no two that are left have a common boundary."""
        n = len(regions.sizes)
        depths = regions.depths.tolist()
        neighbours: list[dict[int, Boundary]] = [{} for _ in range(n)]
        heap = []
        measured = zip(
            (regions.membrane * regions.length).tolist(),
            regions.length.tolist(),
            regions.openings.tolist(),
            strict=True,
        )
        for (a, b), (total, length, opening) in zip(
            regions.edges.tolist(), measured, strict=True
        ):
            strength = against(total / length, opening, min(depths[a], depths[b]))
            neighbours[a][b] = neighbours[b][a] = [total, length, opening, strength]
            heap.append((strength, a, b))
        steps, heights = _join_all(neighbours, depths, heap)
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
    neighbours: list[dict[int, Boundary]],
    depths: list[float],
    heap: list[tuple[float, int, int]],
) -> tuple[list[tuple[int, int]], list[float]]:
    """Join the two ends of the weakest boundary again and again; all is used up.

    Entries of the heap whose boundary has changed since are passed over.
    """
    heapq.heapify(heap)
    steps: list[tuple[int, int]] = []
    heights: list[float] = []
    while heap:
        height, a, b = heapq.heappop(heap)
        boundary = neighbours[a].get(b)
        if boundary is None or boundary[3] != height:
            continue
        steps.append((a, b))
        heights.append(height)
        if len(neighbours[a]) < len(neighbours[b]):
            a, b = b, a
        changed = _absorb(neighbours[a], neighbours, a, b)
        if depths[b] > depths[a]:
            depths[a] = depths[b]
            changed = set(neighbours[a])
        for c in changed:
            total, length, opening, _ = boundary = neighbours[a][c]
            boundary[3] = against(total / length, opening, min(depths[a], depths[c]))
            heapq.heappush(heap, (boundary[3], a, c))
    return steps, heights


def _absorb(
    own: dict[int, Boundary], neighbours: list[dict[int, Boundary]], a: int, b: int
) -> set[int]:
    """Make region `b` a part of `a`, whose boundaries are `own`; return new ones."""
    del own[b]
    changed = set()
    for c, boundary in neighbours[b].items():
        if c == a:
            continue
        changed.add(c)
        del neighbours[c][b]
        known = own.get(c)
        if known is None:
            own[c] = neighbours[c][a] = boundary
        else:
            known[0] += boundary[0]
            known[1] += boundary[1]
            known[2] = max(known[2], boundary[2])
    neighbours[b] = {}
    return changed
