"""A window of a section: its fragments, and which of them lie beyond doubt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.requirements import distance_transform, label, relabel_sequential
from napari_emseg.segmentation.fragments import flood, peaks_of, seeds_of, strength_of

Area = tuple[slice, slice]

GRID = 64
"""Windows begin at multiples of it: filters compute the last few columns of a picture,
or of a vector register, in another way."""

FILTERED = 32
"""Pixels around an unknown one that smoothing and the search for maxima may change."""


@dataclass(frozen=True, slots=True)
class Window:
    """An area of a section; `cut` says which of its sides are not the section's own.

    They are top, left, bottom, right.
    """

    area: Area
    cut: tuple[bool, bool, bool, bool]
    width: int

    @classmethod
    def around(cls, block: Area, halo: int, shape: tuple[int, int]) -> Window:
        """Return the window of a block that reaches `halo` px beyond it, or more."""
        # the far end needs no grid: its last columns count as unknown, unless the
        # section ends there
        starts = [max(0, p.start - halo) // GRID * GRID for p in block]
        stops = [min(n, p.stop + halo) for p, n in zip(block, shape, strict=True)]
        area = slice(starts[0], stops[0]), slice(starts[1], stops[1])
        before = [start > 0 for start in starts]
        after = [stop < n for stop, n in zip(stops, shape, strict=True)]
        return cls(area, (before[0], before[1], after[0], after[1]), shape[1])

    @property
    def whole(self) -> bool:
        """True if it is the section."""
        return not any(self.cut)

    def alone(self) -> Window:
        """Return the same area as if it were a section."""
        return Window(self.area, (False,) * 4, self.width)

    def inside(self, area: Area) -> Area:
        """Return an area of the section as one of the window."""
        y, x = (
            slice(a.start - w.start, a.stop - w.start)
            for a, w in zip(area, self.area, strict=True)
        )
        return y, x

    def places(self, pixels: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return the number in the section, plus one, of pixels of the window."""
        rows, columns = self.area
        y, x = np.divmod(pixels, columns.stop - columns.start)
        numbers: NDArray[np.int64] = (y + rows.start) * self.width + x + columns.start
        return (numbers + 1).astype(np.uint64)

    def to_cut(self) -> NDArray[np.float32]:
        """Distance `(y, x)` to the nearest pixel beyond a side that is cut."""
        height, width = (part.stop - part.start for part in self.area)
        top, left, bottom, right = self.cut
        far = np.float32(np.inf)
        rows, columns = np.full(height, far), np.full(width, far)
        for line, first, last in ((rows, top, bottom), (columns, left, right)):
            steps = np.arange(1, len(line) + 1, dtype=np.float32)
            if first:
                np.minimum(line, steps, out=line)
            if last:
                np.minimum(line, steps[::-1], out=line)
        nearest: NDArray[np.float32] = np.minimum(rows[:, None], columns)
        return nearest


@dataclass(frozen=True, slots=True, eq=False)
class WindowFragments:
    """Fragments of a window: labels 1 … n, where each begins, and what is unknown."""

    labels: NDArray[np.uint32]
    first: NDArray[np.int64]
    unknown: NDArray[np.bool_]
    inside: NDArray[np.bool_]
    strength: NDArray[np.float32]
    depth: NDArray[np.float32]


def fragments_of(
    window: Window,
    membrane: NDArray[np.float32],
    exclude: NDArray[np.bool_] | None,
    threshold: float,
) -> WindowFragments:
    """Find the fragments of a window, and where they may be others in the section."""
    inside = membrane <= threshold
    if exclude is not None:
        inside &= ~exclude
        membrane = np.where(exclude, np.float32(0), membrane)
    strength = strength_of(membrane, threshold)
    depth = distance_transform(inside)
    seeds, unknown = _seeds(window, inside, depth)
    # the first pixel of seed k, row by row: by it `blocks` knows the fragment
    _, first = np.unique(seeds, return_index=True)
    first = first[1:] if (seeds == 0).any() else first
    outside = np.uint32(len(first) + 1)
    # One more marker stands for everything that may come from outside. It takes
    # part in the flooding, so what it reaches is what could be another fragment's.
    markers = np.where(unknown, outside, seeds)
    labels = flood(strength, markers, exclude)
    return WindowFragments(labels, first, labels == outside, inside, strength, depth)


def _seeds(
    window: Window, inside: NDArray[np.bool_], depth: NDArray[np.float32]
) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """Return seeds that are certain, numbered row by row, and what may be others."""
    peaks = peaks_of(depth)
    areas = label(inside, connectivity=1)
    if window.whole:
        return seeds_of(peaks, areas), np.zeros(inside.shape, bool)
    to_cut = window.to_cut()
    # a membrane beyond the cut side may be nearer than the nearest one that is seen
    doubtful = (depth > to_cut) if not inside.all() else np.ones(inside.shape, bool)
    near = ndi.maximum_filter(doubtful.view(np.uint8), 2 * FILTERED + 1) > 0
    near |= to_cut <= FILTERED
    unknown = (near & inside) | (to_cut <= FILTERED)
    # An area inside that gets near to what is unknown, and has no peak of its own that
    # is certain, may have one out there: then it is no seed as a whole (`seeds_of`).
    reached = np.zeros(int(areas.max()) + 1, bool)
    reached[areas[near]] = True
    seeded = np.zeros_like(reached)
    seeded[areas[peaks & ~near]] = True
    unknown |= (reached & ~seeded)[areas] & (areas > 0)
    seeds = seeds_of(peaks & ~unknown, np.where(unknown, 0, areas), seeded)
    return _without_doubtful(seeds, unknown)


def _without_doubtful(
    seeds: NDArray[np.uint32], unknown: NDArray[np.bool_]
) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """Seeds that touch what is unknown may be parts of others: they are unknown."""
    touched = np.zeros(int(seeds.max()) + 1, bool)
    touched[seeds[ndi.binary_dilation(unknown)]] = True
    touched[0] = False
    unknown = unknown | touched[seeds]
    kept: NDArray[np.uint32] = relabel_sequential(np.where(unknown, 0, seeds))[0]
    return kept.astype(np.uint32), unknown
