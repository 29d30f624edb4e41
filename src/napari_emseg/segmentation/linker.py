"""Sections of cells, one after the other → which of them are one cell throughout."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_emseg.core.settings import CellSettings
from napari_emseg.segmentation.constraints import GrowingSets
from napari_emseg.segmentation.overlap import Overlap, Shift, best_overlap, overlap_of
from napari_emseg.segmentation.rag import components

NO_PAIRS = np.zeros((0, 2), np.int64)

WALL = 4
"""Drawn pixels between two profiles that part them: the end of a line is no wall."""

SHORT = 3
"""A cell of so few profiles that begins or ends within a longer one is a bit of it."""


@dataclass(frozen=True, slots=True, eq=False)
class ContainedEnds:
    """First or last profiles of chains that lie within a profile of another section.

    Parameters
    ----------
    profiles
        `(k,)` their numbers among all of the stack.
    chains, hosts
        `(k,)` the chains that they and what they lie within belong to.
    shared
        `(k,)` pixels in both.
    """

    profiles: NDArray[np.int64]
    chains: NDArray[np.uint32]
    hosts: NDArray[np.uint32]
    shared: NDArray[np.uint32]

    @classmethod
    def together(cls, parts: Sequence[Self]) -> Self:
        """Return all of some."""
        return cls(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            )
        )

    def only(self, which: NDArray[np.bool_]) -> Self:
        """Return some of them."""
        return type(self)(*(getattr(self, f.name)[which] for f in fields(self)))

    @property
    def edges(self) -> NDArray[np.int64]:
        """`(k, 2)` chains and what they lie within."""
        return np.stack([self.chains, self.hosts], axis=1).astype(np.int64)


def parted_by(
    drawn: NDArray[np.bool_], labels: NDArray[np.uint32]
) -> NDArray[np.int64]:
    """Return the pairs `(k, 2)` of profiles that membrane drawn by hand lies between.

    Parameters
    ----------
    drawn, labels
        `(y, x)` where membrane was drawn, and profiles 1 … n.
    """
    if not drawn.any() or not labels.any():
        return NO_PAIRS
    place = ndi.distance_transform_edt(
        labels == 0, return_distances=False, return_indices=True
    )
    nearest = labels[tuple(place)]
    found = []
    for one, other in (np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1]):
        between = (nearest[one] != nearest[other]) & (drawn[one] | drawn[other])
        found.append(np.stack([nearest[one][between], nearest[other][between]], 1))
    pairs = np.sort(np.concatenate(found).astype(np.int64), axis=1)
    each, counts = np.unique(pairs, axis=0, return_counts=True)
    parted: NDArray[np.int64] = each[counts >= WALL]
    return parted


def cells_of(
    lengths: NDArray[np.int64],
    starts: ContainedEnds,
    ends: ContainedEnds,
    branches: Literal["returning", "all", "none"],
    apart: Sequence[NDArray[np.int64]] = (),
) -> NDArray[np.int64]:
    """Return the cell 0, 1, … of each chain `(n,)`, by the first chain of each.

    Parameters
    ----------
    lengths
        `(n,)` profiles of each chain.
    starts, ends
        What begins, and what ends, within something else; a chain at most once.
    branches
        As in `CellSettings`.
    apart
        Of each section, `(k, 2)` chains that a person parted: no branch joins them.
    """
    n = len(lengths)
    pairs = NO_PAIRS
    if len(apart):
        alike = cells_of(lengths, starts, ends, branches)
        pairs = np.concatenate([_all_apart(each, alike) for each in apart])
    if branches == "none":
        return np.arange(n)
    if branches == "all":
        return _together(np.concatenate([starts.edges, ends.edges]), n, pairs)
    # A chain is profiles linked one to one, so it never branches; a cell is one chain
    # or several. `into` is the chain that a chain ends within, -1 for none.
    into = np.full(n, -1)
    into[ends.chains] = ends.hosts
    # it begins in the chain that it also ends in, so it can't make two cells one
    back = starts.only(into[starts.chains] == starts.hosts).edges
    # how short a bit is counts for the cell so far: it may have several short chains
    cell = _together(back, n, pairs)
    bits = _bits(cell, lengths, ContainedEnds.together([starts, ends]))
    return _together(np.concatenate([back, bits.edges]), n, pairs)


def _all_apart(pairs: NDArray[np.int64], alike: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return pairs of a section, and those of all pieces that a cell was cut into.

    Parameters
    ----------
    alike
        `(n,)` cells as they would be if nothing had been parted.
    """
    within = pairs[alike[pairs[:, 0]] == alike[pairs[:, 1]]]
    chains, ends = np.unique(within, return_inverse=True)
    part = components(ends.reshape(-1, 2), len(chains))
    more = [c for k in np.unique(part) for c in combinations(chains[part == k], 2)]
    return np.concatenate([pairs, np.array(more, np.int64).reshape(-1, 2)])


def _together(
    edges: NDArray[np.int64], n: int, apart: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return what each of n chains is a part of, numbered by first chain.

    Most have no edge, and a graph takes many times the memory of what it is made of.
    """
    if len(apart):
        edges = _allowed(edges, apart)
    chains, ends = np.unique(edges, return_inverse=True)
    part = components(ends.reshape(-1, 2), len(chains))
    _, first = np.unique(part, return_index=True)
    leader = np.arange(n)
    leader[chains] = chains[first[part]]
    number = np.cumsum(leader == np.arange(n)) - 1
    return number[leader]


def _allowed(edges: NDArray[np.int64], apart: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the edges, first ones first, that make no two one which are apart."""
    sets = GrowingSets()
    for a, b in apart.tolist():
        sets.bar(a, b)
    kept = np.array([sets.join(a, b) for a, b in edges.tolist()], bool)
    allowed: NDArray[np.int64] = edges[kept]
    return allowed


def _bits(
    cell: NDArray[np.int64], lengths: NDArray[np.int64], hosted: ContainedEnds
) -> ContainedEnds:
    """For each short cell the longer one that it shares most with."""
    profiles = np.bincount(cell, lengths).astype(np.int64)
    bit, host = cell[hosted.chains], cell[hosted.hosts]
    able = (profiles[bit] <= SHORT) & (profiles[bit] < profiles[host])
    hosted, bit = hosted.only(able), bit[able]
    # of two of one profile that share as much, what it ends in: that came later
    later = np.arange(len(bit))
    # the last row of each `bit` shares most pixels with its host; only that one is
    # taken, so that a bit never joins two longer cells
    order = np.lexsort((later, hosted.profiles, hosted.shared, bit))
    last = np.append(bit[order][1:] != bit[order][:-1], True)[: len(bit)]
    chosen = np.zeros(len(bit), bool)
    chosen[order[last]] = True
    return hosted.only(chosen)


def assign(
    left: NDArray[np.int64], right: NDArray[np.int64], weight: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Choose pairs so that nothing is in two of them and their weights sum to most.

    Parts that no pair connects are solved by themselves, so thousands of pairs take
    milliseconds.

    Parameters
    ----------
    left, right
        `(k,)` what each pair consists of; a pair occurs once.
    weight
        `(k,)` above 0.

    Returns
    -------
    Places of the chosen pairs, ascending.
    """
    if len(left) == 0:
        return np.zeros(0, np.int64)
    a, b = (np.unique(side, return_inverse=True)[1] for side in (left, right))
    n = int(a.max()) + int(b.max()) + 2
    # bipartite: profiles of the second section are numbered after those of the first
    graph = coo_array((weight, (a, b + int(a.max()) + 1)), shape=(n, n))
    part = connected_components(graph, directed=False)[1][a]
    order = np.argsort(part, kind="stable")
    starts = np.flatnonzero(np.diff(part[order])) + 1
    chosen = [_best(group, a, b, weight) for group in np.split(order, starts)]
    return np.sort(np.concatenate(chosen))


def _best(
    group: NDArray[np.int64],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    weight: NDArray[np.float64],
) -> NDArray[np.int64]:
    if len(group) == 1:
        return group
    a, b = (np.unique(side[group], return_inverse=True)[1] for side in (left, right))
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    which = np.full(table.shape, -1)
    table[a, b], which[a, b] = weight[group], group
    # The assignment is complete, so it may also use pairs that don't overlap: these are
    # 0 in the table and -1 in `which`.
    found = which[linear_sum_assignment(table, maximize=True)]
    pairs: NDArray[np.int64] = found[found >= 0]
    return pairs


BRIDGE = 2
"""A cell that is lost may be found again after so many sections with cells."""

CONTAINED = 0.8
"""A profile with this share of its pixels in one other is a branch of it."""

NOTHING = ContainedEnds(np.zeros(0, np.int64), *np.zeros((3, 0), np.uint32))


@dataclass(slots=True, eq=False)
class _Section:
    """Profiles 1 … n of one section; `first + k` is profile k + 1 of all.

    `open` tells which profiles (0 is none) nothing was found for in later sections,
    `chains` which chain each belongs to. `labels` `(y, x)` are there if they are
    compared here; `moved` is the shift that lays them on the newest section's grid.
    """

    sizes: NDArray[np.int64]
    first: int
    open: NDArray[np.bool_]
    chains: NDArray[np.uint32]
    labels: NDArray[np.uint32]
    moved: Shift = (0, 0)


class Linker:
    """Links profiles; sections are shown to it one after the other.

    A profile goes on in the one that it overlaps most: the assignment with the largest
    sum of intersections over unions, shifts between sections allowed for. What finds no
    partner waits for another `BRIDGE` sections. Sections without cells are passed over,
    so blank ones are bridged.

    A profile without a partner that lies within another is a branch of it. Cells drawn
    together in one section would become one for good that way, so by default branches
    count only if they leave a cell and come back to it, or are a short bit that joins
    no two longer cells.

    Only `BRIDGE + 1` sections are held at a time, and of all others 4 bytes for each
    profile and some 50 for each chain of them.
    """

    def __init__(self, settings: CellSettings) -> None:
        self._settings = settings
        self._recent: list[_Section] = []
        self._starts: list[ContainedEnds] = []
        self._ends: list[ContainedEnds] = []
        self._chains: list[NDArray[np.uint32]] = []
        self._apart: list[NDArray[np.int64]] = []
        # the next free number of a profile and of a chain
        self._profiles = self._begun = 0

    def add(
        self, labels: NDArray[np.uint32], apart: NDArray[np.int64] = NO_PAIRS
    ) -> None:
        """Take the next section `(y, x)` with profiles 1 … n, 0 between them.

        Of `apart`, see `parted_by`, no two become one cell.
        """
        n = int(labels.max(initial=0))
        sizes = np.bincount(labels.ravel(), minlength=n + 1)
        self._take(sizes, self._compared(labels) if n else [], labels, apart)

    def add_counted(
        self,
        sizes: NDArray[np.int64],
        overlaps: Sequence[Overlap],
        apart: NDArray[np.int64] = NO_PAIRS,
    ) -> None:
        """Take the next section, whose profiles were compared elsewhere.

        Parameters
        ----------
        sizes
            `(n + 1,)` pixels of each profile, and of what is none.
        overlaps
            With up to `BRIDGE + 1` sections before that have profiles, the last first.
        apart
            `(k, 2)` profiles that a person parted, see `parted_by`.
        """
        self._take(sizes, overlaps, np.zeros((0, 0), np.uint32), apart)

    def finish(self) -> list[NDArray[np.uint32]]:
        """Return for each section the ids `(n + 1,)` of its profiles, that of 0 is 0.

        Ids are 1, 2, … by the first profile of each cell.
        """
        cell = self._cells() + 1
        zero = np.zeros(1, np.uint32)
        return [
            np.concatenate([zero, cell[chains].astype(np.uint32)])
            for chains in self._chains
        ]

    def _cells(self) -> NDArray[np.int64]:
        """Return the cell of each chain, from 0."""
        lengths, last = np.zeros((2, self._begun), np.int64)
        first = 0
        for chains in self._chains:
            # a chain has at most one profile in a section: no index occurs twice
            lengths[chains] += 1
            last[chains] = np.arange(first, first + len(chains))
            first += len(chains)
        starts, ends = (
            ContainedEnds.together([NOTHING, *some])
            for some in (self._starts, self._ends)
        )
        # what seemed to end may have been found again behind a section without it
        ends = ends.only(last[ends.chains] == ends.profiles)
        return cells_of(lengths, starts, ends, self._settings.branches, self._apart)

    def _take(
        self,
        sizes: NDArray[np.int64],
        overlaps: Sequence[Overlap],
        labels: NDArray[np.uint32],
        apart: NDArray[np.int64],
    ) -> None:
        first, n = self._profiles, len(sizes) - 1
        self._profiles += n
        chains = np.zeros(n + 1, np.uint32)
        # a view: `_match` and what follows fill it in
        self._chains.append(chains[1:])
        if n == 0:
            return
        free = np.ones(n + 1, bool)
        free[0] = False
        now = _Section(sizes, first, free.copy(), chains, labels)
        # nearest section first: only what stays free there may bridge a gap
        for before, overlap in zip(reversed(self._recent), overlaps, strict=True):
            self._match(before, now, overlap, free)
        new = int(np.count_nonzero(free))
        chains[free] = np.arange(self._begun, self._begun + new)
        self._begun += new
        if len(apart):
            self._apart.append(chains[apart].astype(np.int64))
        if overlaps:
            # after all matching: what bridged a gap has a partner and is no branch
            self._note_branches(self._recent[-1], now, overlaps[0], free)
        self._recent = [*self._recent[-BRIDGE:], now]

    def _compared(self, labels: NDArray[np.uint32]) -> list[Overlap]:
        """Return overlaps with the sections before, the last one first."""
        overlaps: list[Overlap] = []
        for before in reversed(self._recent):
            if not overlaps:
                overlap = best_overlap(before.labels, labels, self._settings.shift)
                self._move(overlap.shift)
            else:
                # a shift is measured between neighbours only, where pictures are alike;
                # those of older sections are sums of the steps since
                overlap = overlap_of(before.labels, labels, before.moved)
            overlaps.append(overlap)
        return overlaps

    def _move(self, shift: Shift) -> None:
        for before in self._recent:
            y, x = before.moved
            before.moved = (y + shift[0], x + shift[1])

    def _match(
        self, before: _Section, now: _Section, overlap: Overlap, free: NDArray[np.bool_]
    ) -> None:
        a, b, shared = overlap.before, overlap.after, overlap.shared
        union = before.sizes[a] + now.sizes[b] - shared
        able = (shared >= self._settings.overlap * union) & before.open[a] & free[b]
        a, b, weight = a[able], b[able], (shared / union)[able]
        chosen = assign(a, b, weight)
        a, b = a[chosen], b[chosen]
        free[b] = False
        before.open[a] = False
        now.chains[b] = before.chains[a]

    def _note_branches(
        self, before: _Section, now: _Section, overlap: Overlap, free: NDArray[np.bool_]
    ) -> None:
        """Remember what begins or ends within a profile of the other section."""
        a, b, shared = overlap.before, overlap.after, overlap.shared
        begins = free[b] & (shared >= CONTAINED * now.sizes[b])
        self._starts.append(_hosted(now, b, before, a, shared, begins))
        ends = before.open[a] & (shared >= CONTAINED * before.sizes[a])
        self._ends.append(_hosted(before, a, now, b, shared, ends))


def _hosted(
    inner: _Section,
    some: NDArray[np.int64],
    outer: _Section,
    within: NDArray[np.int64],
    shared: NDArray[np.int64],
    which: NDArray[np.bool_],
) -> ContainedEnds:
    some, within = some[which], within[which]
    return ContainedEnds(
        inner.first + some - 1,
        inner.chains[some],
        outer.chains[within],
        shared[which].astype(np.uint32),
    )
