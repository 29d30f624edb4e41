"""Merge cells of a section, by a stroke through them or by clicks."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.regions import around, corner, grown, shape_of, union
from napari_emseg.core.settings import CorrectSettings
from napari_emseg.proofreading.draw_membrane import draw_inside
from napari_emseg.proofreading.edits import Edit
from napari_emseg.proofreading.section_view import (
    SectionView,
    line_through,
    piece_near,
    touching_between,
    wall_between,
    with_band,
)


def merge(
    sheet: SectionView, points: NDArray[Any], *, settings: CorrectSettings | None = None
) -> Edit:
    """Merge the cells under a stroke, or under two clicks, `(n, 2)` in this section.

    The membranes between them go where the stroke crosses them; the largest cell keeps
    its id. Of two cells that are clicked and meet somewhere, only these are merged,
    whatever lies between the clicks.

    Raises
    ------
    ValueError
        If there are no two cells, they are no neighbours, or one is locked.
    """
    settings = settings or CorrectSettings()
    pixels = line_through(points)
    pixels = pixels[((pixels >= 0) & (pixels < sheet.shape)).all(axis=1)]
    met, straight = _in_order(sheet, pixels), True
    if len(np.atleast_2d(points)) == 2:
        ends = [sheet.cell_at(point) for point in points]
        straight = not all(ends) or {*met} <= {*ends} or not _meet(sheet, pixels, ends)
        met = met if straight else ends
    if len(met) < 2:
        found = f"only cell {met[0]}" if met else "no cell"
        msg = f"there is {found} under the stroke; draw it from one cell into another"
        raise ValueError(msg)
    return _merged(sheet, pixels, met, settings, straight=straight)


def _merged(
    sheet: SectionView,
    pixels: NDArray[np.int64],
    met: list[int],
    settings: CorrectSettings,
    *,
    straight: bool,
) -> Edit:
    """Merge cells, each with the next; not `straight`: where they are nearest."""
    sheet.refuse_locked(met)
    near = around(pixels, settings.reach, sheet.shape)
    # cells are seen whole, or a wall could seem to end at the window
    area = union(near, *(sheet.pieces(i, near) for i in dict.fromkeys(met)))
    area = grown(area, settings.reach, sheet.shape)
    cells = sheet.window("cells", area)
    local = pixels - corner(area)
    gone = np.zeros(shape_of(area), bool)
    # `met` may name a cell twice: a stroke can leave it and
    # come back through another wall
    for a, b in pairwise(met):
        ours, theirs = cells == a, cells == b
        others = (cells > 0) & ~ours & ~theirs
        if not straight:
            local = _shortest_way(ours, theirs)
        wall = wall_between(ours, theirs, others, reach=settings.reach, points=local)
        # cells that touch have no pixel between them: their own
        # pixels at the border go inside
        wall |= piece_near(touching_between(ours, theirs), local, 2)
        if not wall.any():
            msg = (
                f"cells {a} and {b} are no neighbours here; "
                f"draw a stroke from one into the other, or merge them in 3-D"
            )
            raise ValueError(msg)
        gone |= wall
    join = tuple(dict.fromkeys(met))
    gone = with_band(gone, sheet.window("membranes", area), cells, join)
    draft, merged = draw_inside(sheet, gone, area, join=join)
    return draft.edit("merge", format_merge(merged))


MEET = 3.0
"""Cells are no farther apart, px, where nothing but a membrane lies between."""


def _meet(sheet: SectionView, pixels: NDArray[np.int64], ends: list[int]) -> bool:
    """Tell if two cells, each at an end of a line, have a common membrane."""
    near = around(pixels, 1, sheet.shape)
    cells = sheet.window("cells", union(*(sheet.pieces(i, near) for i in ends)))
    ours, theirs = (cells == i for i in ends)
    away = ndi.distance_transform_edt(~theirs)[ours]
    return bool(0 < away.min() <= MEET)


def _shortest_way(
    ours: NDArray[np.bool_], theirs: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the pixels of a line `(n, 2)` where two cells are nearest."""
    away, nearest = ndi.distance_transform_edt(~theirs, return_indices=True)
    at = np.unravel_index(np.where(ours, away, np.inf).argmin(), ours.shape)
    return line_through(np.array([at, [int(axis[at]) for axis in nearest]]))


def format_merge(merged: dict[int, list[int]]) -> str:
    """Return e.g. `merged 7 and 9 into cell 3`."""
    return "; ".join(
        f"merged {' and '.join(str(i) for i in gone)} into cell {kept}"
        for kept, gone in merged.items()
    )


def _in_order(sheet: SectionView, pixels: NDArray[np.int64]) -> list[int]:
    """Return cells under a line's pixels in its order, each next one another."""
    if len(pixels) == 0:
        return []
    area = around(pixels, 0, sheet.shape)
    local = pixels - corner(area)
    under = sheet.window("cells", area)[tuple(local.T)]
    under = under[under > 0]
    fresh = np.append(True, under[1:] != under[:-1])
    return [int(i) for i in under[fresh]] if len(under) else []
