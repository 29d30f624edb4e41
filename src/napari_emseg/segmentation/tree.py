"""The order in which regions are joined, weakest boundary first, as a tree to cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_emseg.segmentation.rag import RegionGraph, components


@dataclass(frozen=True, slots=True, eq=False)
class MergeTree:
    """All steps of an agglomeration, computed once; a threshold cuts it anywhere.

    Two regions are joined whose common boundary is the weakest of all; then those of
    the joined region are measured anew: see `RegionGraph.strength`. Most grow stronger
    that
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
    def of(cls, regions: RegionGraph) -> MergeTree:
        """Join regions until no two that are left have a common boundary."""
        # numba takes a second to load
        from napari_emseg.segmentation.agglomeration import agglomerate

        steps, heights = agglomerate(
            regions.edges.astype(np.int32),
            regions.membrane * regions.length,
            regions.length.copy(),
            regions.openings.copy(),
            regions.depths.copy(),
        )
        ascending = np.maximum.accumulate(heights) if len(heights) else heights
        return cls(len(regions.sizes), steps.astype(np.int64), ascending)

    def cut(self, threshold: float) -> NDArray[np.int64]:
        """Map `(n,)` of regions to numbers of what they are part of, 0 to itself.

        Regions are joined where less than `threshold` is between them. Numbers ascend
        with the first region of each part.
        """
        last = int(np.searchsorted(self.heights, threshold))
        return components(self.steps[:last], self.n)
