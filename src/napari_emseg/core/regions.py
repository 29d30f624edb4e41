"""Rectangles of sections: where somebody looked, what is held out, where to look."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Area = tuple[slice, slice]
"""Rows and columns with both their ends."""

Shape = tuple[int, int]


Voxel = tuple[int, int, int]
"""`(z, y, x)`."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a person said of the cells at two voxels: that they are one, or not."""

    first: Voxel
    second: Voxel
    same: bool

    def within(self, start: Voxel, stop: Voxel) -> Constraint | None:
        """Return it for a part of the stack, counted from there; None if outside."""
        ends = (self.first, self.second)
        if not all(
            low <= at < high
            for end in ends
            for low, at, high in zip(start, end, stop, strict=True)
        ):
            return None
        first, second = (
            (end[0] - start[0], end[1] - start[1], end[2] - start[2]) for end in ends
        )
        return Constraint(first, second, self.same)

    def is_kept(self, cells: Any) -> bool:
        """Tell if cells `(z, y, x)` are so, as far as both places are in some."""
        one, other = int(cells[self.first]), int(cells[self.second])
        return one > 0 and other > 0 and (one == other) == self.same


def area_of(mask: NDArray[np.bool_], offset: Shape = (0, 0)) -> Area | None:
    """Return the smallest area of true pixels of `(y, x)`; None without any."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    y, x = offset
    return (
        slice(int(rows[0]) + y, int(rows[-1]) + y + 1),
        slice(int(columns[0]) + x, int(columns[-1]) + x + 1),
    )


def around(points: NDArray[Any], margin: int, shape: Shape) -> Area:
    """Return the area of points `(n, 2)` and `margin` px around them, inside `shape`.

    Raises
    ------
    ValueError
        If no point lies in the picture.
    """
    points = np.atleast_2d(np.asarray(points))
    inside = ((points >= 0) & (points < shape)).all(axis=1)
    if not inside.any():
        y, x = (int(v) for v in points[0])
        msg = f"({y}, {x}) is outside of the picture of {shape[0]} × {shape[1]} px"
        raise ValueError(msg)
    low = points[inside].min(axis=0).astype(int) - margin
    high = points[inside].max(axis=0).astype(int) + margin + 1
    return _clipped(low, high, shape)


def grown(area: Area, margin: int, shape: Shape) -> Area:
    """Return an area with `margin` px more on each side, inside `shape`."""
    low = np.array([part.start for part in area]) - margin
    high = np.array([part.stop for part in area]) + margin
    return _clipped(low, high, shape)


def union(*areas: Area) -> Area:
    """Return the smallest area that holds all areas."""
    rows, columns = zip(*areas, strict=True)
    return (
        slice(min(r.start for r in rows), max(r.stop for r in rows)),
        slice(min(c.start for c in columns), max(c.stop for c in columns)),
    )


def within(inner: Area, outer: Area) -> Area:
    """Return `inner` counted from the corner of `outer`."""
    rows, columns = (
        slice(i.start - o.start, i.stop - o.start)
        for i, o in zip(inner, outer, strict=True)
    )
    return rows, columns


def corner(area: Area) -> Shape:
    """Return the first row and the first column."""
    return area[0].start, area[1].start


def shape_of(area: Area) -> Shape:
    """Return the height and the width."""
    return area[0].stop - area[0].start, area[1].stop - area[1].start


def contained(found: Area, window: Area, shape: Shape) -> bool:
    """Tell if something found in a window ends there, or with the picture."""
    return all(
        (f.start > w.start or w.start == 0) and (f.stop < w.stop or w.stop == n)
        for f, w, n in zip(found, window, shape, strict=True)
    )


def _clipped(low: NDArray[Any], high: NDArray[Any], shape: Shape) -> Area:
    low = np.clip(low, 0, shape)
    high = np.clip(high, 0, shape)
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """Rows `top` to `bottom - 1` and columns `left` to `right - 1` of section `z`.

    Raises
    ------
    ValueError
        If it is empty, or begins before 0.
    """

    z: int
    top: int
    left: int
    bottom: int
    right: int

    def __post_init__(self) -> None:
        if self.z < 0 or not (
            0 <= self.top < self.bottom and 0 <= self.left < self.right
        ):
            msg = f"a region must have pixels, and none before 0; got {self.as_tuple()}"
            raise ValueError(msg)

    @classmethod
    def of(cls, z: int, area: tuple[slice, slice]) -> Region:
        """Return the region of two slices with both their ends."""
        rows, columns = area
        return cls(z, rows.start, columns.start, rows.stop, columns.stop)

    @classmethod
    def whole(cls, z: int, shape: tuple[int, int]) -> Region:
        """Return all of a section of `(y, x)` px."""
        return cls(z, 0, 0, *shape)

    @property
    def area(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def shape(self) -> tuple[int, int]:
        """`(y, x)` in px."""
        return self.bottom - self.top, self.right - self.left

    @property
    def pixels(self) -> int:
        """How many it has."""
        return self.shape[0] * self.shape[1]

    @property
    def words(self) -> str:
        """For people: `z 4, y 0:64, x 32:96`."""
        return f"z {self.z}, y {self.top}:{self.bottom}, x {self.left}:{self.right}"

    def as_tuple(self) -> tuple[int, int, int, int, int]:
        """`(z, top, left, bottom, right)`, for files."""
        return self.z, self.top, self.left, self.bottom, self.right

    def gap(self, other: Region) -> int:
        """Pixels between them in the plane, along the axis that parts them more.

        0 if they touch or overlap there, whatever their sections.
        """
        # the larger of both axes (Chebyshev): halos are squares
        rows = max(other.top - self.bottom, self.top - other.bottom, 0)
        columns = max(other.left - self.right, self.left - other.right, 0)
        return max(rows, columns)

    def overlap(self, other: Region) -> Region | None:
        """Return what lies in both; None if nothing does."""
        if self.z != other.z:
            return None
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        if top >= bottom or left >= right:
            return None
        return Region(self.z, top, left, bottom, right)

    def grown(self, margin: int, shape: tuple[int, int]) -> Region:
        """Return it with so many pixels more on each side, inside `(y, x)`."""
        return Region(
            self.z,
            max(0, self.top - margin),
            max(0, self.left - margin),
            min(shape[0], self.bottom + margin),
            min(shape[1], self.right + margin),
        )


def check_inside(regions: Iterable[Region], shape: tuple[int, int, int]) -> None:
    """Check that regions lie in a stack of `(z, y, x)`.

    Raises
    ------
    ValueError
        With the first that doesn't.
    """
    for region in regions:
        if region.z >= shape[0] or region.bottom > shape[1] or region.right > shape[2]:
            msg = f"region {region.words} is outside of a stack of {shape} (z, y, x)"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class RunScope:
    """Sections in the order of work; `roi` None means all of each."""

    sections: tuple[int, ...]
    roi: Area | None = None

    def without(self, excluded: Collection[int]) -> RunScope:
        """Return this region without some sections.

        Raises
        ------
        ValueError
            If nothing is left.
        """
        kept = tuple(z for z in self.sections if z not in excluded)
        if not kept:
            names = ", ".join(str(z) for z in sorted(self.sections)[:5])
            msg = (
                f"every section of this run is excluded ({names}); include one in Data"
            )
            raise ValueError(msg)
        return replace(self, sections=kept)


def from_here(sections: Iterable[int], here: int) -> tuple[int, ...]:
    """Order sections: from `here` to the end, then on from the start.

    Neighbours stay together, since they often share a chunk of a file.
    """
    ascending = sorted(set(sections))
    later = [z for z in ascending if z >= here]
    return (*later, *(z for z in ascending if z < here))
