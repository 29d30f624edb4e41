"""What is measured of edges between fragments: boundaries in a section, and overlaps.

Everything is of the section and its two neighbours, so that stacks of any length are
worked with three sections in memory. How sure an edge is of joining is said by these
numbers (`EdgeClassifier`); their order is part of its files.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from napari_emseg.core.requirements import distance_transform
from napari_emseg.core.settings import CellSettings
from napari_emseg.segmentation.affinities import Faces
from napari_emseg.segmentation.edge_classifier import SAID, Features
from napari_emseg.segmentation.fragments import Fragments, find_fragments
from napari_emseg.segmentation.overlap import BIN, GAIN, Shift, binned, find_shift

LEAST_SHARED, LEAST_SHARE = 10, 0.05
"""Fragments of two sections may be one cell if they share so many pixels inside, and so
much of the smaller one."""


@dataclass(frozen=True, slots=True, eq=False)
class SectionGraph:
    """What is known of a section when its edges are looked at.

    Parameters
    ----------
    membrane
        Probabilities `(y, x)`, 0 where there is no picture.
    fragments
        Of the section.
    inside
        Where no membrane is.
    depth
        Distance to membranes, px.
    cells
        `(n,)` what each fragment is a part of by the section alone.
    faces
        Along z, y and x how sure affinities are of a boundary between a pixel and the
        one before it, each `(y, x)`, NaN where unknown. Along z it is the section that
        comes before.
    """

    membrane: NDArray[np.float32]
    fragments: Fragments
    inside: NDArray[np.bool_]
    depth: NDArray[np.float32]
    cells: NDArray[np.int64]
    faces: Faces | None = None

    @classmethod
    def of(
        cls,
        membrane: NDArray[np.float32],
        threshold: float,
        exclude: NDArray[np.bool_] | None = None,
        faces: Faces | None = None,
    ) -> Self:
        """Find the fragments of a section and what belongs together in it."""
        found = find_fragments(membrane, threshold, exclude=exclude)
        if exclude is not None:
            membrane = np.where(exclude, np.float32(0), membrane)
        inside = found.reach == 0
        depth = np.asarray(distance_transform(inside), np.float32)
        cells = found.joined(CellSettings(threshold=threshold))
        return cls(membrane, found, inside, depth, cells, faces)

    @property
    def n(self) -> int:
        """Number of fragments, with 0 for none."""
        return len(self.fragments.regions.sizes)

    def centres(self) -> NDArray[np.float64]:
        """Mean row and column `(2, n)` of each fragment's pixels inside."""
        labels = self.fragments.labels[self.inside]
        count = np.maximum(np.bincount(labels, minlength=self.n), 1)
        sums = [np.bincount(labels, at, self.n) for at in np.nonzero(self.inside)]
        return np.stack(sums) / count


@dataclass(frozen=True, slots=True, eq=False)
class CrossEdges:
    """Pairs of fragments of two sections that share pixels.

    `all_pairs`, `all_shared` are those of any size; `ends` those that are edges.
    `boundary` is how sure affinities are of a boundary, NaN where they aren't known.
    """

    ends: NDArray[np.int64]
    features: Features
    shared: NDArray[np.float64]
    membrane: NDArray[np.float64]
    boundary: NDArray[np.float64]
    all_pairs: NDArray[np.int64]
    all_shared: NDArray[np.int64]


class _Pairs:
    """Counts and sums over pixels by the pair of labels that lie on each other."""

    def __init__(self, a: NDArray[Any], b: NDArray[Any]) -> None:
        self._width = int(b.max(initial=0)) + 1
        key = a.astype(np.int64) * self._width + b
        self._keys, self._which, self.count = np.unique(
            key, return_inverse=True, return_counts=True
        )
        self.a, self.b = np.divmod(self._keys, self._width)

    def mean(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Mean of values for each pair."""
        total = np.bincount(self._which, values, len(self._keys))
        return np.asarray(total / self.count)

    def mean_known(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Mean of values that aren't NaN for each pair; NaN where all are."""
        known, n = ~np.isnan(values), len(self._keys)
        total = np.bincount(self._which[known], values[known], n)
        count = np.bincount(self._which[known], minlength=n)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def largest(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Largest of values for each pair."""
        found = np.zeros(len(self._keys))
        np.maximum.at(found, self._which, values)
        return found

    def find(
        self, a: NDArray[np.int64], b: NDArray[np.int64], values: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Values of the pairs (a, b), 0 where there is no such pair."""
        if len(self._keys) == 0:
            return np.zeros(len(a))
        key = a * self._width + b
        at = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
        there = (self._keys[at] == key) & (b < self._width)
        return np.where(there, values[at], 0.0)


def shift_of(a: SectionGraph, b: SectionGraph, largest: int) -> Shift:
    """Return by how much `b` is moved to lie on `a`; (0, 0) unless that helps."""
    one, other = binned(a.inside), binned(b.inside)
    shift = find_shift(one, other, largest, BIN)
    if shift == (0, 0):
        return shift
    moved = np.roll(other, (shift[0] // BIN, shift[1] // BIN), (0, 1))
    still = float((one * other).mean() - one.mean() * other.mean())
    return (
        shift
        if float((one * moved).mean() - one.mean() * other.mean())
        > (GAIN * max(still, 0))
        else (0, 0)
    )


def edges_between(
    a: SectionGraph,
    b: SectionGraph,
    shift: Shift,
    faces: NDArray[np.float32] | None = None,
) -> CrossEdges:
    """Measure what fragments of two sections share.

    Parameters
    ----------
    faces
        `(y, x)` how sure a boundary is between the two, from affinities, which are of
        voxels that lie on each other: they say nothing of sections that are shifted.
    """
    here = tuple(slice(max(0, d), n + min(0, d)) for d, n in _sides(shift, a))
    there = tuple(slice(max(0, -d), n + min(0, -d)) for d, n in _sides(shift, a))
    la, lb = a.fragments.labels[here], b.fragments.labels[there]
    pa, pb = a.membrane[here], b.membrane[there]
    both = a.inside[here] & b.inside[there]
    pairs, full = _Pairs(la[both], lb[both]), _Pairs(la.ravel(), lb.ravel())
    k = pairs.count.astype(np.float64)
    i, j = pairs.a, pairs.b
    sa, sb = (s.fragments.regions.sizes.astype(float) for s in (a, b))
    lo, hi = np.minimum(sa[i], sb[j]), np.maximum(sa[i], sb[j])
    depths = a.fragments.regions.depths[i], b.fragments.regions.depths[j]
    low, high = np.minimum(*depths), np.maximum(*depths)
    higher = np.maximum(pa, pb)
    open_ = pairs.largest(np.minimum(a.depth[here], b.depth[there])[both])
    total = full.find(i, j, full.count.astype(float))
    between = full.find(i, j, full.mean(higher.ravel()))
    one, other = (full.find(i, j, full.mean(p.ravel())) for p in (pa, pb))
    best_a, best_b = _best(i, k, a.n)[i], _best(j, k, b.n)[j]
    sum_a, sum_b = (np.bincount(s, k, n)[s] for s, n in ((i, a.n), (j, b.n)))
    (ya, xa), (yb, xb) = a.centres()[:, i], b.centres()[:, j]
    far = np.hypot(ya - yb - shift[0], xa - xb - shift[1])
    mates = [np.bincount(s[k > 20], minlength=n)[s] for s, n in ((i, a.n), (j, b.n))]
    columns = [
        np.log1p(k), k / lo, k / hi, k / (sa[i] + sb[j] - k),
        np.log1p(lo), np.log1p(hi), lo / hi,
        k / best_a, k / best_b, np.minimum(k / best_a, k / best_b),
        k / sum_a, k / sum_b, k / np.minimum(sum_a, sum_b),
        np.log1p(far), far / np.sqrt(lo + 1), far / np.sqrt(hi + 1),
        pairs.mean((pa + pb)[both]), pairs.mean(higher[both]),
        np.log1p(open_), open_ / low, open_ / high, np.log(low), np.log(high),
        np.log1p(total), k / np.maximum(total, 1), between,
        np.minimum(one, other), np.maximum(one, other),
        np.log1p(np.minimum(*mates)), np.log1p(np.maximum(*mates)),
        *_of_cells(a, b, la[both], lb[both], i, j),
    ]  # fmt: skip
    if faces is None or shift != (0, 0):
        said = [np.full(len(i), np.nan)] * SAID["between"]
    else:
        said = [
            pairs.mean_known(faces[both]),
            pairs.mean_known(_sure(faces[both])),
            full.find(i, j, full.mean_known(faces.ravel())),
        ]
    edge = (i > 0) & (j > 0) & (k >= LEAST_SHARED) & (k >= LEAST_SHARE * lo)
    return CrossEdges(
        np.stack([i, j], 1)[edge],
        np.stack([*columns, *said], 1).astype(np.float32)[edge],
        k[edge],
        between[edge],
        said[0][edge],
        np.stack([i, j], 1),
        pairs.count,
    )


def _sure(faces: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 where a boundary is likely and 0 where not, NaN where unknown."""
    found: NDArray[np.float32] = np.where(np.isnan(faces), faces, faces > 0.5)
    return found


def _sides(shift: Shift, section: SectionGraph) -> list[tuple[int, int]]:
    return list(zip(shift, section.membrane.shape, strict=True))


def _best(
    which: NDArray[np.int64], shared: NDArray[np.float64], n: int
) -> NDArray[np.float64]:
    found = np.zeros(n)
    np.maximum.at(found, which, shared)
    return found


def _of_cells(
    a: SectionGraph,
    b: SectionGraph,
    la: NDArray[np.uint32],
    lb: NDArray[np.uint32],
    i: NDArray[np.int64],
    j: NDArray[np.int64],
) -> list[NDArray[np.float64]]:
    """Measure the same of the cells that fragments are parts of by their sections."""
    pairs = _Pairs(a.cells[la], b.cells[lb])
    k = pairs.count.astype(float)
    sizes = [
        np.bincount(s.cells, s.fragments.regions.sizes.astype(float)) for s in (a, b)
    ]
    ca, cb = a.cells[i], b.cells[j]
    shared = pairs.find(ca, cb, k)
    one, other = np.maximum(sizes[0][ca], 1), np.maximum(sizes[1][cb], 1)
    best_a = np.maximum(_best(pairs.a, k, len(sizes[0]))[ca], 1)
    best_b = np.maximum(_best(pairs.b, k, len(sizes[1]))[cb], 1)
    lo, hi = np.minimum(one, other), np.maximum(one, other)
    return [
        np.log1p(shared), shared / lo, shared / hi,
        shared / np.maximum(one + other - shared, 1),
        shared / best_a, shared / best_b, np.log1p(lo), np.log1p(hi), lo / hi,
    ]  # fmt: skip


LEVELS = np.arange(0.1, 0.96, 0.05)
"""Merge thresholds at which it is looked if two fragments are one cell."""


def edges_within(
    now: SectionGraph,
    before: tuple[SectionGraph, CrossEdges] | None,
    after: tuple[SectionGraph, CrossEdges] | None,
) -> Features:
    """Measure the boundaries of a section, and what its neighbours say of them.

    Parameters
    ----------
    before, after
        The neighbours and the edges between, if there are any.
    """
    regions = now.fragments.regions
    a, b = regions.edges.T
    sizes = regions.sizes.astype(float)
    small, large = np.minimum(sizes[a], sizes[b]), np.maximum(sizes[a], sizes[b])
    low = np.minimum(regions.depths[a], regions.depths[b])
    high = np.maximum(regions.depths[a], regions.depths[b])
    joined = np.ones(len(a))
    for level in LEVELS[::-1]:
        part = now.fragments.tree.cut(float(level))
        joined[part[a] == part[b]] = level
    y, x = now.centres()
    along = [_along(now, s[0]) for s in (before, after) if s is not None]
    seen = np.stack(along) if along else np.full((1, len(a)), np.nan)
    shares = [
        _shares(now, *s, first=first)
        for s, first in ((before, False), (after, True))
        if s is not None
    ] or [[np.full(len(a), np.nan)] * 3]
    columns = [
        regions.strength, regions.membrane, np.log1p(regions.length),
        np.log1p(regions.openings), joined,
        regions.openings / low, regions.openings / high, np.log(low), np.log(high),
        np.log1p(small), np.log1p(large), regions.length / np.sqrt(small + 1),
        np.log1p(np.hypot(y[a] - y[b], x[a] - x[b])),
        seen.mean(0), seen.min(0), seen.max(0),
        *(np.min(each, 0) for each in zip(*shares, strict=True)),
        *(np.max(each, 0) for each in zip(*shares, strict=True)),
        *_across(now),
    ]  # fmt: skip
    return np.stack(columns, 1).astype(np.float32)


def _across(now: SectionGraph) -> list[NDArray[np.float64]]:
    """Of boundaries of a section: mean of affinities, and how much of them is sure."""
    seams = now.fragments.seams
    m = len(seams.ends)
    if now.faces is None:
        return [np.full(m, np.nan)] * SAID["within"]
    values = seams.across(now.faces[1:])
    known = ~np.isnan(values)
    which, count = seams.edges[known], np.bincount(seams.edges[known], minlength=m)
    with np.errstate(invalid="ignore"):  # nothing is known of some
        return [
            np.asarray(np.bincount(which, each, m) / count)
            for each in (values[known], values[known] > 0.5)
        ]


def _along(now: SectionGraph, other: SectionGraph) -> NDArray[np.float64]:
    """Mean membrane of another section along the boundaries of this one."""
    seams = now.fragments.seams
    m = len(seams.ends)
    total = np.bincount(seams.edges, other.membrane.ravel()[seams.pixels], m)
    return np.asarray(total / np.maximum(np.bincount(seams.edges, minlength=m), 1))


def _shares(
    now: SectionGraph, other: SectionGraph, cross: CrossEdges, *, first: bool
) -> list[NDArray[np.float64]]:
    """How much two fragments lie on the same fragment, or cell, of another section."""
    mine, theirs = cross.all_pairs.T if first else cross.all_pairs.T[::-1]
    share = cross.all_shared / np.maximum(now.fragments.regions.sizes[mine], 1)
    a, b = now.fragments.regions.edges.T
    found = []
    for into, n in ((theirs, other.n), (other.cells[theirs], other.n)):
        table = csr_array((share * (into > 0), (mine, into)), shape=(now.n, n))
        found.append(np.asarray(table[a].multiply(table[b]).sum(1)).ravel())
    covered = np.bincount(mine, share, now.n)
    return [*found, np.minimum(covered[a], covered[b])]
