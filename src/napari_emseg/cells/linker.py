"""Sections of cells, one after the other → which of them are one cell throughout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_emseg.cells.matching import assign
from napari_emseg.cells.overlap import Overlap, Shift, best_overlap, overlap_of
from napari_emseg.cells.regions import components
from napari_emseg.core.settings import CellSettings

BRIDGE = 2
"""A cell that is lost may be found again after so many sections with cells."""

CONTAINED = 0.8
"""A profile with this share of its pixels in one other is a branch of it."""

SHORT = 3
"""A cell of so few profiles that begins or ends within a longer one is a bit of it."""

Hosts = dict[int, tuple[int, int]]
"""What profiles lie within, and how many pixels they share."""


@dataclass(slots=True, eq=False)
class _Section:
    """Profiles 1 … n of one section; `first + k` is profile k + 1 of all.

    `open` tells which profiles (0 is none) nothing was found for in later sections.
    `labels` `(y, x)` are there if they are compared here; `moved` is the shift that
    lays them on the newest section's grid.
    """

    sizes: NDArray[np.int64]
    first: int
    open: NDArray[np.bool_]
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

    Only `BRIDGE + 1` sections are held at a time.
    """

    def __init__(self, settings: CellSettings) -> None:
        self._settings = settings
        self._recent: list[_Section] = []
        self._links: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._starts: Hosts = {}
        self._ends: Hosts = {}
        self._firsts: list[int] = [0]

    def add(self, labels: NDArray[np.uint32]) -> None:
        """Take the next section `(y, x)` with profiles 1 … n, 0 between them."""
        n = int(labels.max(initial=0))
        sizes = np.bincount(labels.ravel(), minlength=n + 1)
        self._take(sizes, self._compared(labels) if n else [], labels)

    def add_counted(
        self, sizes: NDArray[np.int64], overlaps: Sequence[Overlap]
    ) -> None:
        """Take the next section, whose profiles were compared elsewhere.

        Parameters
        ----------
        sizes
            `(n + 1,)` pixels of each profile, and of what is none.
        overlaps
            With up to `BRIDGE + 1` sections before that have profiles, the last first.
        """
        self._take(sizes, overlaps, np.zeros((0, 0), np.uint32))

    def finish(self) -> list[NDArray[np.uint32]]:
        """Return for each section the ids `(n + 1,)` of its profiles, that of 0 is 0.

        Ids are 1, 2, … by the first profile of each cell.
        """
        total = self._firsts[-1]
        cell = self._together(total)
        ids = self._with_branches(cell, total) + 1
        zero = np.zeros(1, np.uint32)
        bounds = zip(self._firsts[:-1], self._firsts[1:], strict=True)
        return [np.concatenate([zero, ids[a:b].astype(np.uint32)]) for a, b in bounds]

    def _take(
        self,
        sizes: NDArray[np.int64],
        overlaps: Sequence[Overlap],
        labels: NDArray[np.uint32],
    ) -> None:
        first, n = self._firsts[-1], len(sizes) - 1
        self._firsts.append(first + n)
        if n == 0:
            return
        free = np.ones(n + 1, bool)
        free[0] = False
        now = _Section(sizes, first, free.copy(), labels)
        for before, overlap in zip(reversed(self._recent), overlaps, strict=True):
            self._match(before, now, overlap, free)
        if overlaps:
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
        for ended in a.tolist():
            self._ends.pop(before.first + ended - 1, None)
        self._links.append((before.first + a - 1, now.first + b - 1))

    def _note_branches(
        self, before: _Section, now: _Section, overlap: Overlap, free: NDArray[np.bool_]
    ) -> None:
        """Remember what begins or ends within a profile of the other section."""
        a, b, shared = overlap.before, overlap.after, overlap.shared
        one, other = before.first + a - 1, now.first + b - 1
        begins = free[b] & (shared >= CONTAINED * now.sizes[b])
        self._starts.update(_hosts(other, one, shared, begins))
        ends = before.open[a] & (shared >= CONTAINED * before.sizes[a])
        self._ends.update(_hosts(one, other, shared, ends))

    def _together(
        self, total: int, more: list[tuple[int, int]] | None = None
    ) -> NDArray[np.int64]:
        pairs = [np.stack(link, 1) for link in self._links]
        pairs.append(np.array(more or [], np.int64).reshape(-1, 2))
        return components(np.concatenate(pairs), total)

    def _with_branches(self, cell: NDArray[np.int64], total: int) -> NDArray[np.int64]:
        starts, ends = self._starts, self._ends
        if self._settings.branches == "none":
            return cell
        if self._settings.branches == "all":
            every = [(k, host) for k, (host, _) in (*starts.items(), *ends.items())]
            return self._together(total, every)
        returns = {int(cell[k]): int(cell[host]) for k, (host, _) in ends.items()}
        back = [
            (k, host)
            for k, (host, _) in starts.items()
            if returns.get(int(cell[k])) == int(cell[host])
        ]
        bits = self._bits(self._together(total, back))
        return self._together(total, back + bits)

    def _bits(self, cell: NDArray[np.int64]) -> list[tuple[int, int]]:
        """For each short cell the longer one that it shares most with."""
        profiles = np.bincount(cell)
        best: dict[int, tuple[int, int, int]] = {}
        for k, (host, shared) in (*self._starts.items(), *self._ends.items()):
            bit, n = int(cell[k]), profiles[cell[k]]
            if n <= SHORT and n < profiles[cell[host]]:
                best[bit] = max(best.get(bit, (0, 0, 0)), (shared, k, host))
        return [(k, host) for _, k, host in best.values()]


def _hosts(
    inner: NDArray[np.int64],
    outer: NDArray[np.int64],
    shared: NDArray[np.int64],
    which: NDArray[np.bool_],
) -> Hosts:
    pairs = zip(outer[which].tolist(), shared[which].tolist(), strict=True)
    return dict(zip(inner[which].tolist(), pairs, strict=True))
