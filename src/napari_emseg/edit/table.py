"""A table of cells, the suspicious ones first."""

from __future__ import annotations

from collections.abc import Collection, Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.records import Record, SectionDone
from napari_emseg.core.stack import LazyArray
from napari_emseg.edit.sheet import burn_in
from napari_emseg.edit.walls import BAND

TINY = 0.1
"""Cells with fewer pixels in a section than this part of the median are tiny, unless
the picture's border cuts them off."""

WEAK = 0.5
"""A membrane of a lower mean probability is weak."""

SEEN_INSIDE = 0.25
"""A cell with more membrane than this inside may be two."""

DEEP = BAND + 4
"""Inside is farther than this from the outline, px: beyond the membrane around a cell
that it has grown over."""

EDGE = 2
"""A cell nearer than this to the border of what is known leaves it there, px."""


@dataclass(frozen=True, slots=True)
class CellRow:
    """What was measured of a cell.

    Parameters
    ----------
    size
        Voxels.
    sections
        Number of sections that it is in, from `first` to `last`.
    boundary
        Mean probability of membrane around it; NaN if unknown.
    inner
        The strongest membrane seen inside of it; NaN if unknown.
    at
        `(z, y, x)` of a pixel of it, in its largest section.
    suspicion
        Why it is worth a look; empty if it isn't.
    """

    cell: int
    size: int
    sections: int
    first: int
    last: int
    boundary: float
    inner: float
    at: tuple[int, int, int]
    suspicion: str = ""


@dataclass(slots=True)
class _Sum:
    size: int = 0
    sections: int = 0
    first: int = 0
    last: int = 0
    around: float = 0.0
    rim: int = 0
    inner: float = np.nan
    largest: int = 0
    at: tuple[int, int, int] = (0, 0, 0)
    leaves: bool = False
    leaves_first: bool = False
    leaves_last: bool = False


def cells_table(
    cells: LazyArray,
    probabilities: LazyArray | None = None,
    *,
    corrections: LazyArray | None = None,
    sections: Collection[int] | None = None,
    linked: bool = False,
) -> Generator[Record, None, list[CellRow]]:
    """Measure all cells `(z, y, x)`; yields SectionDone, returns suspicious ones first.

    Parameters
    ----------
    probabilities
        Of membrane; NaN where nothing is known.
    corrections
        Burnt into them.
    sections
        Which; all by default.
    linked
        An id is one cell through the stack, so that one which ends in mid-stack is
        suspicious, unless it leaves the picture there.
    """
    wanted = sorted(range(int(cells.shape[0])) if sections is None else sections)
    sums: dict[int, _Sum] = {}
    for done, z in enumerate(wanted, start=1):
        section = np.asarray(cells[z])
        border = _border(section.shape)
        grey = None if probabilities is None else np.array(probabilities[z], np.float32)
        if grey is not None:
            unknown = np.isnan(grey)
            border |= ndi.binary_dilation(unknown, iterations=EDGE)
            if corrections is not None:
                grey = burn_in(grey, np.asarray(corrections[z]))
            grey = None if unknown.all() else grey
        _measure(sums, z, section, grey)
        _note_leaving(sums, z, np.unique(section[border]))
        yield SectionDone(z, done, len(wanted))
    return _rows(sums, linked=linked)


def _border(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    border = np.ones(shape, bool)
    border[EDGE:-EDGE, EDGE:-EDGE] = False
    return border


def _measure(
    sums: dict[int, _Sum],
    z: int,
    cells: NDArray[np.uint32],
    membrane: NDArray[np.float32] | None,
) -> None:
    """Add what is seen of the cells of a section."""
    ids, inverse, sizes = np.unique(cells, return_inverse=True, return_counts=True)
    index = inverse.reshape(cells.shape)
    depth = ndi.distance_transform_edt(_within(cells))
    deepest = ndi.maximum_position(depth, index, np.arange(ids.size))
    around, rim = _around(cells, index, membrane, ids.size)
    inner = _inner(index, membrane, depth > DEEP, ids.size)
    for k, i in enumerate(ids.tolist()):
        if i == 0:
            continue
        s = sums.setdefault(i, _Sum(first=z))
        s.size += int(sizes[k])
        s.sections += 1
        s.last = z
        s.around += float(around[k])
        s.rim += int(rim[k])
        s.inner = float(np.fmax(s.inner, inner[k]))
        if sizes[k] > s.largest:
            s.largest = int(sizes[k])
            s.at = (z, int(deepest[k][0]), int(deepest[k][1]))


def _note_leaving(sums: dict[int, _Sum], z: int, ids: NDArray[np.uint32]) -> None:
    """Remember cells that leave the picture in a section that was just measured."""
    leaving = set(ids.tolist())
    for i, s in sums.items():
        if s.last != z:
            continue
        leaves = i in leaving
        s.leaves |= leaves
        s.leaves_last = leaves
        if s.first == z:
            s.leaves_first = leaves


def _inner(
    index: NDArray[np.int64],
    membrane: NDArray[np.float32] | None,
    deep: NDArray[np.bool_],
    n: int,
) -> NDArray[np.float64]:
    """Return the strongest membrane deep inside of each cell; NaN if unknown."""
    if membrane is None:
        return np.full(n, np.nan)
    smooth = ndi.gaussian_filter(np.nan_to_num(membrane, nan=0.0), 1.5)
    seen = np.where(deep, smooth, np.float32(0))
    return np.asarray(ndi.maximum(seen, index, np.arange(n)), np.float64)


def _within(cells: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Return pixels of cells whose 4-neighbours are the same cell."""
    low = ndi.minimum_filter(cells, footprint=ndi.generate_binary_structure(2, 1))
    high = ndi.maximum_filter(cells, footprint=ndi.generate_binary_structure(2, 1))
    return np.asarray((low == high) & (cells > 0))


def _around(
    cells: NDArray[np.uint32],
    index: NDArray[np.int64],
    membrane: NDArray[np.float32] | None,
    n: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return for each cell the sum of membrane just outside of it, and over how many.

    The strongest membrane within 2 px of an outline's pixel counts.
    """
    if membrane is None:
        return np.full(n, np.nan), np.zeros(n, np.int64)
    unknown = ndi.maximum_filter(np.isnan(membrane), 5)
    outline = (cells > 0) & ~_within(cells) & ~unknown
    near = ndi.maximum_filter(np.nan_to_num(membrane, nan=0.0), 5)
    which = index[outline]
    total = np.bincount(which, near[outline], n).astype(np.float64)
    return total, np.bincount(which, minlength=n)


def _rows(sums: dict[int, _Sum], *, linked: bool) -> list[CellRow]:
    if not sums:
        return []
    usual = float(np.median([s.size / s.sections for s in sums.values()]))
    ends = None
    if linked:
        ends = min(s.first for s in sums.values()), max(s.last for s in sums.values())
    rows = [_row(i, s, usual, ends) for i, s in sums.items()]
    return sorted(rows, key=_most_suspicious)


def _row(i: int, s: _Sum, usual: float, ends: tuple[int, int] | None) -> CellRow:
    boundary = s.around / s.rim if s.rim else float("nan")
    why = []
    if s.size / s.sections < TINY * usual and not s.leaves:
        why.append("tiny")
    if boundary < WEAK:
        why.append("weak membrane")
    if s.inner > SEEN_INSIDE:
        why.append("membrane inside")
    if ends is not None:
        why += _loose_ends(s, *ends)
    return CellRow(
        i, s.size, s.sections, s.first, s.last, boundary, s.inner, s.at, ", ".join(why)
    )


def _loose_ends(s: _Sum, first: int, last: int) -> list[str]:
    begins = s.first > first and not s.leaves_first
    ends = s.last < last and not s.leaves_last
    if begins and ends:
        return ["begins and ends in mid-stack"]
    if ends:
        return ["ends in mid-stack"]
    return ["begins in mid-stack"] if begins else []


def _most_suspicious(row: CellRow) -> tuple[int, float, int]:
    n = len(row.suspicion.split(", ")) if row.suspicion else 0
    return -n, -np.nan_to_num(row.inner), row.cell
