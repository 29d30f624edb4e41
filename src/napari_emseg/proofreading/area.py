"""Rectangles of a section: around points, grown, joined."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Area = tuple[slice, slice]
"""Rows and columns with both their ends."""

Shape = tuple[int, int]


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
