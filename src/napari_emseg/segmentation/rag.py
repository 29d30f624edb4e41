"""Fragments → a graph of regions, and regions merged along its edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True, slots=True, eq=False)
class BoundaryPixels:
    """Of each two neighbours in different fragments, the pixel of more membrane.

    Parameters
    ----------
    pixels, beside
        `(k,)` positions in the flattened picture, of that pixel and of the other one.
    edges
        `(k,)` which of `ends` the two fragments are.
    ends
        `(m, 2)` fragments with a common boundary.
    """

    pixels: NDArray[np.int32]
    beside: NDArray[np.int32]
    edges: NDArray[np.int32]
    ends: NDArray[np.int64]

    def between(self, ids: NDArray[np.int64]) -> NDArray[np.int32]:
        """Pixels that part two cells, if fragment k belongs to cell `ids[k]`."""
        a, b = ids[self.ends].T
        apart: NDArray[np.bool_] = (a != b) & (a > 0) & (b > 0)
        return self.pixels[apart[self.edges]]

    def across(self, faces: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Values `(k,)` of what is between each two neighbours; NaN where unknown.

        Parameters
        ----------
        faces
            For each axis, of a pixel and the one before it.
        """
        later = np.maximum(self.pixels, self.beside)
        apart = later - np.minimum(self.pixels, self.beside)
        shape = faces[0].shape
        found = np.full(len(later), np.nan, np.float32)
        # the last axis first: where a side is one pixel long two axes have one step,
        # and of these only the earlier one has neighbours
        for axis in range(len(shape) - 1, -1, -1):
            along = apart == int(np.prod(shape[axis + 1 :]))
            found[along] = faces[axis].ravel()[later[along]]
        return found

    def without_pixels(self) -> BoundaryPixels:
        """Return the same fragments with nothing between them."""
        none = np.zeros(0, np.int32)
        return BoundaryPixels(none, none, none, self.ends)


def boundary_pixels(
    labels: NDArray[np.uint32], membrane: NDArray[np.float32]
) -> BoundaryPixels:
    """Find the seams of fragments, along each axis; `ends` ascend."""
    place = np.arange(labels.size, dtype=np.int32).reshape(labels.shape)
    pixels, others, pairs = [], [], []
    n = int(labels.max()) + 1
    # one entry for each pair of neighbours: a pixel may occur up to twice for an axis
    for axis in range(labels.ndim):
        label, value, at = (np.moveaxis(a, axis, 0) for a in (labels, membrane, place))
        meet = (label[:-1] != label[1:]) & (label[:-1] > 0) & (label[1:] > 0)
        a, b = (part[meet].astype(np.int64) for part in (label[:-1], label[1:]))
        first = value[:-1][meet] > value[1:][meet]
        one, other = at[:-1][meet], at[1:][meet]
        pixels.append(np.where(first, one, other))
        others.append(np.where(first, other, one))
        # an unordered pair as one int64: sorting these is what makes `ends` ascend
        pairs.append(np.minimum(a, b) * n + np.maximum(a, b))
    found, edges = np.unique(np.concatenate(pairs), return_inverse=True)
    ends = np.stack(np.divmod(found, n), axis=1)
    chosen, beside = np.concatenate(pixels), np.concatenate(others)
    return BoundaryPixels(chosen, beside, edges.astype(np.int32), ends)


Depths = NDArray[np.float32]

FAR = 1e-3
"""How much a pixel counts that is not near what its seam parts."""

OPENNESS = {2: 1.0, 3: 0.5}
"""How much an opening counts by dimensions: the mean of a face says more than that of a
line, so its widest place says less."""

FINE = 2**30
"""Membrane is summed in such parts, as whole numbers, so that order doesn't matter."""


@dataclass(frozen=True, slots=True, eq=False)
class RegionGraph:
    """Regions 0 … n - 1 of a section and their common boundaries.

    Region 0 is what belongs to no fragment; no edge touches it.

    Parameters
    ----------
    sizes
        `(n,)` pixels inside.
    depths
        `(n,)` distance to membranes where a region is widest, px, at least 1.
    edges
        `(m, 2)` neighbours, the smaller number first, each pair once.
    membrane
        `(m,)` mean strength of the common boundary, from 0 to 1.
    length
        `(m,)` pixels of it.
    openings
        `(m,)` distance to membranes where it is widest open, px; 0 if it is closed.
    """

    sizes: NDArray[np.int64]
    depths: NDArray[np.float64]
    edges: NDArray[np.int64]
    membrane: NDArray[np.float64]
    length: NDArray[np.float64]
    openings: NDArray[np.float64]

    @property
    def strength(self) -> NDArray[np.float64]:
        """How much each boundary speaks against one cell `(m,)`, from 0 to 1.

        That is its membrane; less so the wider it stands open, as a part of the width
        of the narrower region: a gap in a membrane is narrow, but a process goes on
        through an opening that is as wide as itself.
        """
        a, b = self.depths[self.edges].T
        return boundary_strength(self.membrane, self.openings, np.minimum(a, b))

    def merged(self, into: NDArray[np.int64]) -> RegionGraph:
        """Return the graph after region k became a part of region `into[k]`."""
        ends = np.sort(into[self.edges], axis=1)
        left = ends[:, 0] != ends[:, 1]
        n = int(into.max()) + 1
        # one number for each pair, since pairs take several times the memory to sort
        key, which = np.unique(ends[left] @ [n, 1], return_inverse=True)
        edges, m = np.stack(np.divmod(key, n), axis=1), len(key)
        length = np.bincount(which, self.length[left], m).astype(np.float64)
        total = np.bincount(which, (self.membrane * self.length)[left], m)
        mean = total / length
        sizes = np.bincount(into, self.sizes, n).astype(np.int64)
        depths, openings = np.ones(n), np.zeros(m)
        # the width of a joined region is that of its widest part, as in `agglomeration`
        np.maximum.at(depths, into, self.depths)
        np.maximum.at(openings, which, self.openings[left])
        return RegionGraph(sizes, depths, edges, mean, length, openings)


T = TypeVar("T", float, NDArray[np.float64])


def boundary_strength(membrane: T, opening: T, depth: T) -> T:
    """Return the strength of a boundary, see `RegionGraph.strength`.

    Parameters
    ----------
    depth
        Of the narrower region, px, at least 1; no opening in its boundary is wider.
    """
    return membrane * (1 - opening / depth)


def weighed(
    strength: NDArray[np.float32],
    opening: NDArray[np.float32],
    said: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return strength and opening, where it is `said` how strong a boundary is.

    Affinities see how a process goes on, so it needn't be told by an opening. NaN says
    nothing.
    """
    unknown = np.isnan(said)
    wide = np.where(unknown, opening, np.float32(0))
    return np.where(unknown, strength, said), wide.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class EdgeFeatures:
    """What is found along seams, exact: parts of a section add up to the whole.

    Parameters
    ----------
    near, all
        `(m,)` pixels near what the seam parts, and all of them.
    membrane_near, membrane
        `(m,)` their membrane in units of 1 / `FINE`.
    opening
        `(m,)` largest distance to membranes of what meets there, px.
    """

    near: NDArray[np.int64]
    all: NDArray[np.int64]
    membrane_near: NDArray[np.int64]
    membrane: NDArray[np.int64]
    opening: NDArray[np.float32]

    @classmethod
    def along(
        cls,
        seams: BoundaryPixels,
        membrane: NDArray[np.float32],
        near: NDArray[np.bool_],
        depth: NDArray[np.float32],
        faces: Sequence[NDArray[np.float32]] | None = None,
    ) -> EdgeFeatures:
        """Measure seams on membranes.

        Of each two pixels that part fragments the one of more membrane counts, so that
        a membrane of one pixel is as strong as a broad one. `near` is where a pixel
        tells something about the boundary; `depth` the distance to membranes, 0 on
        them. `faces` are how strong what is between each two is, by axis, if that is
        known better; see `weighed`.
        """
        values = membrane.ravel()[seams.pixels]
        opening = np.minimum(depth.ravel()[seams.pixels], depth.ravel()[seams.beside])
        if faces is not None:
            values, opening = weighed(values, opening, seams.across(faces))
        near_there = near.ravel()[seams.pixels]
        return cls.of_pixels(seams.edges, len(seams.ends), values, near_there, opening)

    @classmethod
    def of_pixels(
        cls,
        edges: NDArray[Any],
        m: int,
        membrane: NDArray[np.float32],
        near: NDArray[np.bool_],
        opening: NDArray[np.float32],
    ) -> EdgeFeatures:
        """Add up pixels `(k,)` of which each belongs to one of `m` seams."""
        # bincount adds in float64, in which whole numbers are exact up to 2⁵³: a seam
        # may have 2²³ pixels in one part. `added` goes on in int64.
        fine = np.rint(membrane.astype(np.float64) * FINE)
        near_, all_, membrane_near, membrane_all = (
            np.bincount(edges, weights, m).astype(np.int64)
            for weights in (near, None, fine * near, fine)
        )
        widest = np.zeros(m, np.float32)
        np.maximum.at(widest, edges, opening)
        return cls(near_, all_, membrane_near, membrane_all, widest)

    @classmethod
    def added(
        cls, parts: Sequence[EdgeFeatures], edges: NDArray[np.intp], m: int
    ) -> EdgeFeatures:
        """Return sums of what the seams of `parts`, one after the other, belong to."""
        names = ("near", "all", "membrane_near", "membrane")
        sums = []
        for name in names:
            total = np.zeros(m, np.int64)
            values = [np.asarray(getattr(part, name)) for part in parts]
            np.add.at(total, edges, np.concatenate([np.zeros(0, np.int64), *values]))
            sums.append(total)
        widest = np.zeros(m, np.float32)
        openings = [np.zeros(0, np.float32), *(part.opening for part in parts)]
        np.maximum.at(widest, edges, np.concatenate(openings))
        near, all_, membrane_near, membrane = sums
        return cls(near, all_, membrane_near, membrane, widest)


def regions_of(
    sizes: NDArray[np.int64],
    depths: NDArray[np.float32],
    ends: NDArray[np.int64],
    strengths: EdgeFeatures,
    dimensions: int = 2,
) -> RegionGraph:
    """Return fragments of given sizes, depths `(n,)` with what is known of their seams.

    Seams that go on through broad membrane count where they are near what they part, if
    they are anywhere.
    """
    # above 0 for every seam, also one that lies all in broad membrane; that one is
    # judged by `FAR` pixels alone, others hardly notice them
    length = strengths.near + FAR * strengths.all
    total = (strengths.membrane_near + FAR * strengths.membrane) / FINE
    return RegionGraph(
        sizes,
        depths.astype(np.float64),
        ends,
        total / length,
        length,
        strengths.opening.astype(np.float64) * OPENNESS[dimensions],
    )


def depths_of(labels: NDArray[np.uint32], depth: NDArray[np.float32]) -> Depths:
    """Return the largest depth `(n + 1,)` in each of fragments 1 … n."""
    found = np.ones(int(labels.max(initial=0)) + 1, np.float32)
    np.maximum.at(found, labels.ravel().astype(np.intp), depth.ravel())
    return found


def drop_small(regions: RegionGraph, minimum_size: int) -> NDArray[np.int64]:
    """Map `(n,)` that makes regions below a size a part of region 0."""
    into = np.arange(len(regions.sizes))
    into[regions.sizes < minimum_size] = 0
    return into


def join_small(regions: RegionGraph, minimum_size: int) -> NDArray[np.int64]:
    """Map `(n,)` that joins regions below a size to their likeliest neighbours.

    Likeliest is where the boundary between is weakest. Small regions that join each
    other may become large enough together. Those without neighbours join region 0.
    """
    into = np.arange(len(regions.sizes))
    while True:
        small = regions.sizes < minimum_size
        small[0] = False
        chosen = _weakest(regions, small)
        if len(chosen) == 0:
            break
        # like a round of Borůvka's algorithm: all small regions choose at once, so
        # there are O(log n) rounds
        step = components(regions.edges[chosen], len(small))
        regions, into = regions.merged(step), step[into]
    into[small[into]] = 0
    return np.unique(into, return_inverse=True)[1].astype(np.int64)


def _weakest(regions: RegionGraph, small: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each small region with neighbours, its edge that is the weakest."""
    ends = regions.edges.ravel()
    edge = np.repeat(np.arange(len(regions.edges)), 2)
    touched = small[ends]
    ends, edge = ends[touched], edge[touched]
    # by region, then strength; equal strengths by number, so that the result is the
    # same on every machine
    order = np.lexsort((edge, regions.strength[edge], ends))
    _, first = np.unique(ends[order], return_index=True)
    return np.unique(edge[order[first]])


def components(edges: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return the connected part of each of n nodes, numbered by first node."""
    ones = np.ones(len(edges), bool)
    graph = coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(n, n))
    part = connected_components(graph, directed=False)[1]
    _, first, which = np.unique(part, return_index=True, return_inverse=True)
    # argsort twice is the rank: scipy numbers parts in no order that it promises
    return np.argsort(np.argsort(first))[which].astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class MergeTree:
    """All steps of an agglomeration, computed once; a threshold cuts it anywhere.

    Two regions are joined whose common boundary is the weakest of all; then those of
    the joined region are measured anew: see `RegionGraph.strength`. Most grow stronger
    that way. Those that don't are joined next, and the step counts as high as the one
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
        # Ascending heights are an ultrametric (Arbeláez et al. 2011): the partitions of
        # growing thresholds are nested.
        ascending = np.maximum.accumulate(heights) if len(heights) else heights
        return cls(len(regions.sizes), steps.astype(np.int64), ascending)

    def cut(self, threshold: float) -> NDArray[np.int64]:
        """Map `(n,)` of regions to numbers of what they are part of, 0 to itself.

        Regions are joined where less than `threshold` is between them. Numbers ascend
        with the first region of each part.
        """
        last = int(np.searchsorted(self.heights, threshold))
        return components(self.steps[:last], self.n)
