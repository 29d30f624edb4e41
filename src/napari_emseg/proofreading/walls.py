"""Walls: the membrane between two cells, or one that ends inside a cell."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.settings import CellSettings

SLACK = 1.5
"""A wall may become thicker by this factor, and by as many px, along its way."""


BAND = CellSettings().grow
"""Cells have grown over a membrane no farther than this, px, unless told otherwise."""

STRAIGHT = 1.15
"""A way from one cell to the other through a wall is no more times as long."""


def wall_between(
    a: NDArray[np.bool_],
    b: NDArray[np.bool_],
    others: NDArray[np.bool_],
    *,
    reach: float,
    points: NDArray[Any],
) -> NDArray[np.bool_]:
    """Return the pixels `(y, x)` between two cells that touch no third one.

    Those pieces of them that come near some points, to which the wall is about as thick
    as it is there.

    Parameters
    ----------
    a, b
        The cells.
    others
        Other cells.
    reach
        Walls thicker than this, px, are none.
    points
        `(n, 2)` pixels.
    """
    free = ~(a | b | ndi.binary_dilation(others))
    nothing = np.zeros(a.shape, bool)
    if not a.any() or not b.any():
        return nothing
    to_a, from_a = ndi.distance_transform_edt(~a, return_indices=True)
    to_b, from_b = ndi.distance_transform_edt(~b, return_indices=True)
    way = to_a + to_b
    across = np.hypot(*(from_a - from_b))
    straight = way <= np.maximum(STRAIGHT * across, across + 0.7)
    both = np.where(free & straight, way, np.inf)
    inside = points[((points >= 0) & (points < a.shape)).all(axis=1)]
    thin = float(ndi.minimum_filter(both, 3)[tuple(inside.T)].min(initial=np.inf))
    if thin > reach:
        return nothing
    return piece_near(both <= thin * SLACK + SLACK, points, 2)


def with_band(
    gone: NDArray[np.bool_],
    membranes: NDArray[Any],
    cells: NDArray[Any],
    ours: tuple[int, ...],
) -> NDArray[np.bool_]:
    """Return a wall `(y, x)` that goes, and the membrane that cells have grown over.

    Of that what is nearer to this wall than to any other.
    """
    if not gone.any():
        return gone
    others = ((cells == 0) | ~np.isin(cells, ours)) & ~gone
    away = ndi.distance_transform_edt(~gone)
    nearer = away < ndi.distance_transform_edt(~others) if others.any() else True
    band = (membranes > 0) & np.isin(cells, ours) & (away <= BAND) & nearer
    return np.asarray(gone | band)


def touching_between(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return pixels of either cell with a 4-neighbour in the other."""
    touch = (a & ndi.binary_dilation(b)) | (b & ndi.binary_dilation(a))
    return np.asarray(touch)


def spur_in(
    cell: NDArray[np.bool_], others: NDArray[np.bool_], thickness: float
) -> NDArray[np.bool_]:
    """Return what is no cell but has a cell `(y, x)` on both sides.

    Parameters
    ----------
    thickness
        Broader places aren't.
    """
    radius = thickness / 2 + 1
    margin = int(2 * radius) + 2
    near = ndi.distance_transform_edt(~np.pad(cell, margin)) <= radius
    # a closing: what is beyond the cell's surroundings doesn't reach there
    closed = ndi.distance_transform_edt(near)[margin:-margin, margin:-margin] > radius
    free = ~(cell | ndi.binary_dilation(others))
    return np.asarray(closed & free)


def piece_near(
    mask: NDArray[np.bool_], points: NDArray[Any], within: float
) -> NDArray[np.bool_]:
    """Return the 8-connected pieces of a mask that come near some points `(n, 2)`."""
    pieces, _ = ndi.label(mask, np.ones((3, 3)))
    spots = np.zeros(mask.shape, bool)
    inside = ((points >= 0) & (points < mask.shape)).all(axis=1)
    spots[tuple(points[inside].T)] = True
    if not spots.any():
        return np.zeros(mask.shape, bool)
    close = ndi.distance_transform_edt(~spots) <= within
    hit = np.unique(pieces[close])
    return np.isin(pieces, hit[hit > 0])
