"""Tools of one click: delete a spurious membrane, fill, lock."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.labels import touching
from napari_emseg.core.regions import Area, area_of, around, contained, corner, grown
from napari_emseg.core.settings import CorrectSettings
from napari_emseg.proofreading.draw_membrane import PendingEdit, draw_inside
from napari_emseg.proofreading.edits import INSIDE, Edit
from napari_emseg.proofreading.merge import format_merge, merge
from napari_emseg.proofreading.section_view import (
    BAND,
    SectionView,
    piece_near,
    spur_in,
    wall_between,
    with_band,
)

AIM = 3
"""The middle of a membrane is looked for so far from a click, px."""

BESIDE = 1.3
"""What is beside a membrane is no farther from its middle than this, in half widths."""


def delete_membrane(
    sheet: SectionView,
    point: Sequence[float],
    *,
    settings: CorrectSettings | None = None,
) -> Edit:
    """Take away the membrane at a point `(y, x)`.

    Between two cells that is their wall up to the next junctions, and they become one.
    Inside one cell it is a membrane that leads nowhere, or an island.

    Raises
    ------
    ValueError
        If there is no membrane, several cells meet, or a cell there is locked.
    """
    settings = settings or CorrectSettings()
    touch = _touch_at(sheet, sheet.pixel((point[0], point[1])))
    if touch is not None:
        return replace(merge(sheet, touch, settings=settings), tool="delete membrane")
    y, x = _on_wall(sheet, sheet.pixel((point[0], point[1])))
    area = around(np.array([[y, x]]), settings.reach, sheet.shape)
    cells = sheet.window("cells", area)
    here = np.array([y, x]) - corner(area)
    middle, beside, thickness = _cells_beside(cells, here)
    if not beside:
        msg = f"there is no cell within {settings.reach} px of ({y}, {x})"
        raise ValueError(msg)
    if len(beside) > 2:
        raise ValueError(_junction(beside))
    sheet.refuse_locked(beside)
    middle = middle + corner(area)
    area, gone = _wall(sheet, middle, beside, thickness, settings)
    cells, membranes = (sheet.window(name, area) for name in ("cells", "membranes"))
    gone = with_band(gone, membranes, cells, tuple(beside))
    draft, merged = draw_inside(sheet, gone, area, join=tuple(beside))
    words = format_merge(merged) or f"membrane in cell {beside[0]} deleted"
    return draft.edit("delete membrane", words)


def _touch_at(sheet: SectionView, point: tuple[int, int]) -> NDArray[np.int64] | None:
    """Return a pixel of each cell that touches another one at a membrane; else None.

    Raises
    ------
    ValueError
        If more than two cells meet.
    """
    area = around(np.array([point]), BAND + 1, sheet.shape)
    cells = sheet.window("cells", area)
    here = np.array(point) - corner(area)
    touch = touching(cells)
    membranes = sheet.window("membranes", area) > 0
    wall = touch & membranes
    on_membrane = bool(membranes[tuple(here)])
    if on_membrane:  # another one in the same cell isn't meant
        wall &= piece_near(membranes, here[None], 0)
    away = np.where(wall, _away(cells.shape, here), np.inf)
    middle = np.array(np.unravel_index(np.argmin(away), away.shape))
    # as beside any other membrane, a click may be a pixel off, or on the wall that the
    # cells have grown over, which is as broad as it is there: not on a spur of it
    half = float(ndi.distance_transform_edt(membranes)[tuple(middle)])
    limit = max(1.5, half + 1) if on_membrane else 1.5
    if not cells[tuple(here)] or away.min() > limit:
        return None
    # with its four neighbours, one of which is another cell
    near = touch & (_away(cells.shape, middle) <= 1)
    ids = np.unique(cells[near])
    if len(ids) > 2:
        raise ValueError(_junction(ids.tolist()))
    pixels = [np.argwhere(near & (cells == i))[0] for i in ids]
    both: NDArray[np.int64] = np.stack(pixels) + np.array(corner(area), np.int64)
    return both


def _junction(cells: Sequence[int]) -> str:
    names = ", ".join(str(i) for i in cells)
    return f"cells {names} meet here; click on the wall between two of them"


def _on_wall(sheet: SectionView, point: tuple[int, int]) -> tuple[int, int]:
    """Return the pixel between cells that is meant by a click close to it.

    Where a cell has grown over the membrane, it is looked for farther away.
    """
    y, x = point
    cell = sheet.cell_at(point)
    if not cell:
        return point
    on_membrane = int(np.asarray(sheet.arrays["membranes"][sheet.z, y, x])) > 0
    # a cell may have grown over a membrane by `BAND`;
    # elsewhere a click must be beside it
    limit = BAND if on_membrane else 1.5
    area = around(np.array([point]), BAND, sheet.shape)
    here = np.array(point) - corner(area)
    free = np.argwhere(sheet.window("cells", area) == 0)
    away = np.hypot(*(free - here).T)
    if not (away <= limit).any():
        msg = f"there is no membrane at ({y}, {x}) but cell {cell}"
        raise ValueError(msg)
    nearest = free[np.argmin(away)] + corner(area)
    return int(nearest[0]), int(nearest[1])


def _cells_beside(
    cells: NDArray[Any], here: NDArray[Any]
) -> tuple[NDArray[np.int64], list[int], float]:
    """Return the middle of the membrane at a pixel, the cells beside it, its width."""
    if not (cells > 0).any():
        return here, [], 0.0
    # the middle of a membrane is its deepest place near the click; what is beside it is
    # then about as far as that depth
    depth = ndi.distance_transform_edt(cells == 0)
    middle = np.unravel_index(
        np.argmax(np.where(_away(cells.shape, here) <= AIM, depth, -1)), cells.shape
    )
    half = float(depth[middle])
    beside = _away(cells.shape, np.array(middle)) <= BESIDE * half + 1.5
    found = [int(i) for i in np.unique(cells[beside]) if i > 0]
    return np.array(middle), found, 2 * half


def _away(shape: tuple[int, ...], point: NDArray[Any]) -> NDArray[np.float64]:
    """Return the distance of each pixel from a point."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    away: NDArray[np.float64] = np.hypot(y - point[0], x - point[1])
    return away


def _wall(
    sheet: SectionView,
    here: NDArray[np.int64],
    beside: list[int],
    thickness: float,
    settings: CorrectSettings,
) -> tuple[Area, NDArray[np.bool_]]:
    """Return the wall or the spur at a pixel, and the area that it is a mask of."""
    margin = settings.reach
    # a wall may be longer than the window: it is seen whole when it ends inside
    while True:
        area = around(here[None], margin, sheet.shape)
        cells = sheet.window("cells", area)
        ours = [cells == i for i in beside]
        others = (cells > 0) & ~np.logical_or.reduce(ours)
        point = (here - corner(area))[None]
        # a wall between two cells, or else a spur or island within one
        if len(ours) == 2:
            one, other = ours
            reach = settings.reach
            wall = wall_between(one, other, others, reach=reach, points=point)
        else:
            wall = piece_near(spur_in(ours[0], others, thickness), point, 2)
        found = area_of(wall, corner(area))
        if found is None:
            msg = f"the membrane at ({here[0]}, {here[1]}) belongs to the outline"
            raise ValueError(msg)
        if contained(found, area, sheet.shape):
            return area, wall
        margin *= 2


def fill(sheet: SectionView, point: Sequence[float]) -> Edit:
    """Fill the holes of the cell at a point `(y, x)`, or make free space a cell.

    Raises
    ------
    ValueError
        If the cell is locked or has no holes, or there is membrane.
    """
    y, x = sheet.pixel((point[0], point[1]))
    cell = sheet.cell_at((y, x))
    if cell:
        return _fill_holes(sheet, cell, (y, x))
    if int(np.asarray(sheet.arrays["membranes"][sheet.z, y, x])):
        msg = "this is membrane; click into a cell, or delete the membrane"
        raise ValueError(msg)
    return _fill_space(sheet, (y, x))


def _fill_holes(sheet: SectionView, cell: int, point: tuple[int, int]) -> Edit:
    sheet.refuse_locked([cell])
    pixel = around(np.array([point]), 0, sheet.shape)
    area = grown(sheet.pieces(cell, pixel), 1, sheet.shape)
    cells = sheet.window("cells", area)
    pieces, _ = ndi.label(cells == cell)
    top, left = corner(area)
    own = pieces == pieces[point[0] - top, point[1] - left]
    # what touches another cell is no hole but the gap between
    # two: filling it would join them
    holes = ndi.binary_fill_holes(own) & (cells == 0)
    holes &= ~ndi.binary_dilation((cells > 0) & (cells != cell))
    if not holes.any():
        msg = f"cell {cell} has no holes"
        raise ValueError(msg)
    draft, _ = draw_inside(sheet, holes, area)
    return draft.edit("fill", f"filled {int(holes.sum())} px in cell {cell}")


def _fill_space(sheet: SectionView, point: tuple[int, int]) -> Edit:
    """Make a place without membrane and cell a new cell."""

    def look(area: Area) -> NDArray[np.bool_]:
        cells = sheet.window("cells", area)
        free = (cells == 0) & (sheet.window("membranes", area) == 0)
        # a pixel from any cell, so that the new one touches none
        return np.asarray(free & ~ndi.binary_dilation(cells > 0))

    pixel = around(np.array([point]), 0, sheet.shape)
    found = sheet.spread(pixel, look)
    if found is None:
        msg = "this is between cells that touch; click farther from them"
        raise ValueError(msg)
    area = grown(found, 1, sheet.shape)
    pieces, _ = ndi.label(look(area))
    top, left = corner(area)
    draft = PendingEdit(sheet, area)
    space = pieces == pieces[point[0] - top, point[1] - left]
    draft.set(space, INSIDE)
    cell = draft.new_id()
    draft.after["cells"][space] = cell
    return draft.edit("fill", f"new cell {cell} of {int(space.sum())} px")


def lock(sheet: SectionView, point: Sequence[float]) -> Edit:
    """Lock the cell at a point, so that nothing changes it; or unlock it.

    Raises
    ------
    ValueError
        If there is no cell.
    """
    cell = sheet.cell_at((point[0], point[1]))
    if not cell:
        msg = "there is no cell here to lock"
        raise ValueError(msg)
    if cell in sheet.locked:
        return Edit("unlock", f"cell {cell} is unlocked", unlock=frozenset({cell}))
    return Edit("lock", f"cell {cell} is locked", lock=frozenset({cell}))
