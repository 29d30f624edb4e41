"""A new segmentation beside hand work: what was done by hand stays, ids stay too."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.labels import touching
from napari_emseg.core.regions import Area
from napari_emseg.proofreading.edits import (
    INSIDE,
    MEMBRANE,
    Change,
    Edit,
    LabelArray,
    Packed,
)

FREE = 2**31
"""No run finds so many cells: ids for those that it didn't part."""

SMALL = 2**23
"""Tables of so many ids are no burden."""

LEFT = 0.25
"""A new cell that keeps less than this part of itself beside locked ones is dropped."""

SAME = 0.5
"""A new cell is an old one if they share more than this part of their union."""


def burnt_in(
    membranes: NDArray[np.uint8], corrections: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return membranes `(y, x)` with the corrections in them: hand beats network."""
    out = np.where(corrections == MEMBRANE, np.uint8(1), membranes)
    return np.where(corrections >= INSIDE, np.uint8(0), out).astype(np.uint8)


LEAST = 1e-6
"""Probability of membrane where a person said that there is none.

Not 0: a broad area of zeros at the border is where nothing was predicted.
"""


def burnt_in_probabilities(
    membrane: NDArray[Any], corrections: NDArray[np.uint8]
) -> NDArray[Any]:
    """Return probabilities `(y, x)` with the corrections in them; uint8 up to 255."""
    out = membrane.copy()
    whole = membrane.dtype == np.uint8
    out[corrections == MEMBRANE] = 255 if whole else 1
    out[corrections >= INSIDE] = 0 if whole else LEAST
    return out


@dataclass(frozen=True, slots=True)
class SmallestPieces:
    """Which pieces that drawn membrane cuts off a new cell are none themselves.

    The largest piece always stays, and so does one that a person said is inside.

    Parameters
    ----------
    sliver
        Smaller ones, px, as where an edit cuts them off.
    cell
        Smaller ones, px, that weren't cells before: no run finds cells so small.
    """

    sliver: int = 0
    cell: int = 0


def parted(
    new: NDArray[np.uint32],
    old: NDArray[np.uint32],
    corrections: NDArray[np.uint8],
    next_id: int,
    smallest: SmallestPieces = SmallestPieces(),
) -> tuple[NDArray[np.uint32], int]:
    """Return new cells `(y, x)` without those pixels where membrane was drawn by hand.

    Cells that fall apart there are several; also returns the next free id. Profiles of
    a cell that were apart without it stay of one cell.
    """
    drawn = corrections == MEMBRANE
    out = np.where(drawn, np.uint32(0), new)
    ids, index, _ = _counted(new)
    touched = np.unique(index[drawn])
    boxes = ndi.find_objects(index + 1) if touched.size else []
    for k in touched[ids[touched] > 0]:
        box, cell = boxes[k], ids[k]
        for piece in _cut_off(new[box] == cell, out[box] == cell):
            kept = _is_cell(piece, old, box, corrections, smallest)
            out[box][piece] = next_id if kept else 0
            next_id += kept
    return out, next_id


def _cut_off(
    before: NDArray[np.bool_], after: NDArray[np.bool_]
) -> Iterator[NDArray[np.bool_]]:
    """Yield the pieces of a mask `(y, x)` but for the largest of each that it was."""
    wholes, _ = ndi.label(before)
    pieces, n = ndi.label(after)
    sizes = np.bincount(pieces.ravel(), minlength=n + 1)
    whole_of = np.zeros(n + 1, np.int64)
    whole_of[pieces.ravel()] = wholes.ravel()
    largest: set[int] = set()
    for piece in np.argsort(-sizes[1:], kind="stable") + 1:
        if whole_of[piece] in largest:
            yield pieces == piece
        largest.add(int(whole_of[piece]))


def _is_cell(
    piece: NDArray[np.bool_],
    old: NDArray[np.uint32],
    box: Area,
    corrections: NDArray[np.uint8],
    smallest: SmallestPieces,
) -> bool:
    """Tell if a piece, which lies in a box of a section, is a cell of its own."""
    size = np.count_nonzero(piece)
    if size >= max(smallest.sliver, smallest.cell):
        return True
    if (corrections[box][piece] >= INSIDE).any():
        return True
    if size < smallest.sliver:
        return False
    ids, counts = np.unique(old[box][piece], return_counts=True)
    most, n = ids[np.argmax(counts)], counts.max()
    return bool(most > 0 and n > SAME * (np.count_nonzero(old == most) + size - n))


def keep_locked(
    old: NDArray[np.uint32],
    new: NDArray[np.uint32],
    locked: Iterable[int],
    *,
    shift: int,
) -> NDArray[np.uint32]:
    """Return new cells `(y, x)` and, in their place, the locked ones of the old cells.

    Locked cells keep id and shape. Of new cells remains what lies beside them, without
    touching them unless new cells touch each other, as those of a volume do; and
    nothing of those that keep a small part only.

    Parameters
    ----------
    shift
        Added to the ids of new cells, so that none is an old one's.
    """
    out = np.where(new > 0, new + np.uint32(shift), np.uint32(0)).astype(np.uint32)
    kept = np.isin(old, np.fromiter(locked, np.int64))
    if not kept.any():
        return out
    ids, index, whole = _counted(out)
    out[kept if touching(new).any() else ndi.binary_dilation(kept)] = 0
    left = np.bincount(index[out > 0], minlength=ids.size)
    # a small rest is what the run found beyond the locked cell's outline, and no cell
    out[(left < LEFT * whole)[index]] = 0
    out[kept] = old[kept]
    return out


class Matching:
    """Tells which new cell is which old one, from sections that are shown to it.

    Parameters
    ----------
    last_id
        New cells have larger ids; cells that were not there before get ids from here.
    locked
        Old cells whose ids are taken.
    """

    def __init__(self, last_id: int, locked: frozenset[int] = frozenset()) -> None:
        self._last_id = last_id
        self._locked = locked
        self._both: dict[tuple[int, int], int] = {}
        self._old: dict[int, int] = {}
        self._new: dict[int, int] = {}

    def count(self, old: NDArray[np.uint32], new: NDArray[np.uint32]) -> None:
        """Look at a section `(y, x)` before and after."""
        ids, index, n = _counted(old)
        new_ids, new_index, m = _counted(new)
        _add(self._old, ids, n)
        _add(self._new, new_ids, m)
        # a contingency table of the section; `_both` adds
        # up sections by (old id, new id)
        both = np.bincount((index * new_ids.size + new_index).ravel())
        for pair in np.flatnonzero(both):
            a, b = ids[pair // new_ids.size], new_ids[pair % new_ids.size]
            if a > 0 and b > self._last_id:
                key = int(a), int(b)
                self._both[key] = self._both.get(key, 0) + int(both[pair])

    def ids(self) -> dict[int, int]:
        """Return the id of each new cell: of the old one that it is, or a fresh one."""
        chosen: dict[int, int] = {}
        # more than half of the union: no cell can have two such
        # partners, so none is given twice
        for (a, b), n in self._both.items():
            if n > SAME * (self._old[a] + self._new[b] - n) and a not in self._locked:
                chosen[b] = a
        fresh = [b for b in sorted(self._new) if b > self._last_id and b not in chosen]
        following = range(self._last_id + 1, self._last_id + 1 + len(fresh))
        return chosen | dict(zip(fresh, following, strict=True))


def renumbered(cells: NDArray[np.uint32], ids: dict[int, int]) -> NDArray[np.uint32]:
    """Return cells `(y, x)` with other ids."""
    known, index, _ = _counted(cells)
    given = np.array([ids.get(int(i), int(i)) for i in known], np.uint32)
    out: NDArray[np.uint32] = given[index]
    return out


def _add(counts: dict[int, int], ids: NDArray[np.int64], n: NDArray[np.int64]) -> None:
    for i, k in zip(ids.tolist(), n.tolist(), strict=True):
        counts[i] = counts.get(i, 0) + k


def _counted(
    cells: NDArray[np.uint32],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the ids that occur, which of them each pixel is, and how many are.

    As `numpy.unique`, without sorting where ids are small numbers, as they mostly are.
    """
    top = int(cells.max(initial=0))
    if top < SMALL:
        n = np.bincount(cells.ravel(), minlength=top + 1)
        ids = np.flatnonzero(n)
        place = np.zeros(top + 1, np.int64)
        place[ids] = np.arange(ids.size)
        return ids, place[cells], n[ids]
    known, index, counts = np.unique(cells, return_inverse=True, return_counts=True)
    return known.astype(np.int64), index.reshape(cells.shape), counts


class Rerun:
    """Puts the cells that a new run finds in the place of the old ones.

    Sections come in any order, whole or in part. In between, new cells have ids above
    all old ones; `finish` gives those that were there before their old ids again.

    Parameters
    ----------
    cells
        `(z, y, x)`, written to.
    last_id
        Largest id of an old cell.
    locked
        Old cells that keep id and shape.
    """

    def __init__(
        self, cells: LabelArray, *, last_id: int, locked: frozenset[int] = frozenset()
    ) -> None:
        self._cells = cells
        self._last_id = last_id
        self._locked = locked
        self._before: dict[int, Packed] = {}
        self._next = FREE

    def put(
        self,
        z: int,
        area: Area,
        new: NDArray[np.uint32],
        corrections: NDArray[np.uint8],
        smallest: SmallestPieces = SmallestPieces(),
    ) -> None:
        """Store new cells `(y, x)` of an area of section `z`, corrected by hand."""
        section = np.array(self._cells[z])
        # a section may come in several parts, so what it was
        # is kept before the first of them
        if z not in self._before:
            self._before[z] = Packed.of(section.ravel())
        # not what is stored now: neighbouring parts of this run may have written to it
        old = self._old(z)[area]
        if (corrections == MEMBRANE).any():
            new, self._next = parted(new, old, corrections, self._next, smallest)
        self._cells[(z, *area)] = keep_locked(
            old, new, self._locked, shift=self._last_id
        )

    def finish(self) -> Edit:
        """Give cells that are known their ids; return what the run changed."""
        matching = Matching(self._last_id, self._locked)
        for z in self._before:
            matching.count(self._old(z), np.array(self._cells[z]))
        ids = matching.ids()
        changes = []
        for z in self._before:
            after = renumbered(np.array(self._cells[z]), ids)
            self._cells[z] = after
            _, y, x = self._cells.shape
            whole = slice(0, int(y)), slice(0, int(x))
            changes.append(Change.between("cells", z, whole, self._old(z), after))
        real = tuple(change for change in changes if change is not None)
        words = f"cells of {len(real)} section{'s' * (len(real) != 1)} found again"
        last = max((i for i in ids.values() if i > self._last_id), default=0)
        return Edit("run", words, changes=real, last_id=last)

    def _old(self, z: int) -> NDArray[np.uint32]:
        _, y, x = self._cells.shape
        before = np.broadcast_to(self._before[z].values(), int(y) * int(x))
        return before.reshape(int(y), int(x))
