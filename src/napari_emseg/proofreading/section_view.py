"""One section with its linked pictures, as the tools see it: read, never written."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage.draw import line

from napari_emseg.core.regions import (
    Area,
    Shape,
    area_of,
    around,
    contained,
    corner,
    grown,
    shape_of,
    within,
)
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import LazyArray
from napari_emseg.proofreading.edits import INSIDE, MEMBRANE, LabelArray, Name


@dataclass(frozen=True, slots=True, eq=False)
class SectionView:
    """Membranes, cells and corrections of section `z` of a stack.

    Parameters
    ----------
    arrays
        Each `(z, y, x)`; only the windows that are asked for are read.
    probabilities
        Of membrane `(z, y, x)`, in [0, 1]; None where nothing was predicted.
    locked
        Cells that no edit may touch.
    next_id
        This id and those above it belong to no cell.
    """

    z: int
    arrays: dict[Name, LabelArray] = field(repr=False)
    probabilities: LazyArray | None = field(default=None, repr=False)
    locked: frozenset[int] = frozenset()
    next_id: int = 1

    @property
    def shape(self) -> Shape:
        """`(y, x)` in px."""
        _, y, x = self.arrays["cells"].shape
        return int(y), int(x)

    @property
    def whole(self) -> Area:
        """All of the section."""
        y, x = self.shape
        return slice(0, y), slice(0, x)

    def window(self, name: Name, area: Area) -> NDArray[Any]:
        """Return a copy `(y, x)` of an area of an array."""
        return np.array(self.arrays[name][(self.z, *area)])

    def cell_at(self, point: NDArray[Any] | tuple[float, float]) -> int:
        """Return the id of the cell at `(y, x)`; 0 where there is none.

        Raises
        ------
        ValueError
            If the point is outside of the picture.
        """
        y, x = self.pixel(point)
        return int(np.asarray(self.arrays["cells"][self.z, y, x]))

    def pixel(self, point: NDArray[Any] | tuple[float, float]) -> tuple[int, int]:
        """Return the pixel of a point `(y, x)`.

        Raises
        ------
        ValueError
            If it is outside of the picture.
        """
        y, x = (int(np.floor(float(v) + 0.5)) for v in point)
        if not (0 <= y < self.shape[0] and 0 <= x < self.shape[1]):
            msg = (
                f"({y}, {x}) is outside of the picture of "
                f"{self.shape[0]} × {self.shape[1]} px"
            )
            raise ValueError(msg)
        return y, x

    def probability(self, area: Area) -> NDArray[np.float32]:
        """Return probabilities `(y, x)` of membrane with the corrections burnt in.

        Raises
        ------
        ValueError
            If nothing was predicted.
        """
        if self.probabilities is None:
            msg = (
                f"section {self.z} has no membrane probabilities to follow; "
                f"run 2 Membranes on it first"
            )
            raise ValueError(msg)
        given = np.array(self.probabilities[(self.z, *area)], np.float32)
        values = np.nan_to_num(given, nan=0.0)
        return burn_in(values, self.window("corrections", area))

    def refuse_locked(self, ids: Iterable[int]) -> None:
        """Say which of these cells are locked.

        Raises
        ------
        ValueError
            If some are.
        """
        kept = sorted(self.locked.intersection(int(i) for i in ids))
        if kept:
            names = ", ".join(str(i) for i in kept[:3])
            msg = f"cell {names} is locked; unlock it to change it"
            raise ValueError(msg)

    def is_locked(self, cells: NDArray[Any]) -> NDArray[np.bool_]:
        """Return where a window of cells shows locked ones."""
        if not self.locked:
            return np.zeros(cells.shape, bool)
        return np.isin(cells, np.fromiter(self.locked, np.int64))

    def pieces(self, cell: int, area: Area) -> Area:
        """Return the area of all of a cell's pieces that reach into another area.

        Raises
        ------
        ValueError
            If no pixel of the cell is in the area.
        """
        found = self.spread(area, lambda wide: self.window("cells", wide) == cell)
        if found is None:
            msg = f"cell {cell} is not here"
            raise ValueError(msg)
        return found

    def spread(
        self, area: Area, look: Callable[[Area], NDArray[np.bool_]]
    ) -> Area | None:
        """Return the area of all 4-connected pieces that reach into another area.

        The window in which to look is widened until no piece reaches its border, so
        that small things in large sections are found without reading those. None if
        nothing is in the area.
        """
        # doubled until all of it is seen: reading grows with what
        # is found, not with the section
        margin = 32
        while True:
            wide = grown(area, margin, self.shape)
            part, _ = ndi.label(look(wide))
            hit = np.unique(part[within(area, wide)])
            found = area_of(np.isin(part, hit[hit > 0]), corner(wide))
            if found is None or contained(found, wide, self.shape):
                return found
            margin *= 2


def burn_in(
    probabilities: NDArray[np.float32], corrections: NDArray[Any]
) -> NDArray[np.float32]:
    """Return probabilities of membrane as a person corrected them: hand beats network.

    1 where corrections say membrane, 0 where they say inside or another class.
    """
    out = np.where(corrections == MEMBRANE, np.float32(1), probabilities)
    return np.where(corrections >= INSIDE, np.float32(0), out).astype(np.float32)


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
    # For a pixel of the wall: the way from one cell to the other through it, and how
    # far the two ends of that way are from each other. If it is much longer, the pixel
    # isn't between the cells but around a corner.
    to_a, from_a = ndi.distance_transform_edt(~a, return_indices=True)
    to_b, from_b = ndi.distance_transform_edt(~b, return_indices=True)
    way = to_a + to_b
    across = np.hypot(*(from_a - from_b))
    straight = way <= np.maximum(STRAIGHT * across, across + 0.7)
    both = np.where(free & straight, way, np.inf)
    inside = points[((points >= 0) & (points < a.shape)).all(axis=1)]
    # thickness where the user points: the wall may widen to a junction, but no further
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
    # what stays: other walls and cells. Grown-over membrane
    # goes with the wall it is nearer to
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
    # a closing by a disc, as two distances: grown by the radius, then shrunk by it
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


Points = NDArray[np.float64]
"""`(n, 2)`: y, x in px."""


def line_through(points: NDArray[Any]) -> NDArray[np.int64]:
    """Return the pixels `(n, 2)` of a polyline, 8-connected, in its order.

    Raises
    ------
    ValueError
        If there is no point.
    """
    points = np.atleast_2d(np.asarray(points, float))
    if points.size == 0:
        msg = "a stroke needs at least one point"
        raise ValueError(msg)
    whole = np.floor(points + 0.5).astype(np.int64)
    if len(whole) == 1:
        return whole
    parts = [np.stack(line(*a, *b), axis=1) for a, b in pairwise(whole)]
    pixels = np.concatenate(parts)
    # the end of one line is the beginning of the next
    fresh = np.append(True, (np.diff(pixels, axis=0) != 0).any(axis=1))
    path: NDArray[np.int64] = pixels[fresh].astype(np.int64)
    return path


def painted_along(
    sheet: SectionView, pixels: NDArray[np.int64], width: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Area]:
    """Return masks of a line's pixels, drawn `width` px wide, and of its middle.

    Returns
    -------
    wide, core
        Masks `(y, x)` of the area.
    area

    Raises
    ------
    ValueError
        If the line is outside of the picture.
    """
    area = around(pixels, width, sheet.shape)
    core = np.zeros(shape_of(area), bool)
    local = pixels - corner(area)
    kept = ((local >= 0) & (local < core.shape)).all(axis=1)
    core[tuple(local[kept].T)] = True
    if width == 1:
        return core, core, area
    # no pixel is the middle of an even width: two are
    middle = core if width % 2 else ndi.binary_dilation(core, np.ones((2, 2)))
    wide = ndi.distance_transform_edt(~middle) <= (width - 1) // 2 + 0.2
    return wide, core, area
