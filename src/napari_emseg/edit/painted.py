"""Strokes of another program's brush on one of the linked pictures, made edits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.correcting import CorrectSettings
from napari_emseg.edit.area import Area
from napari_emseg.edit.draft import Draft
from napari_emseg.edit.edits import INSIDE, MEMBRANE, NO_OPINION, Edit, Name
from napari_emseg.edit.joining import draw_inside
from napari_emseg.edit.merge import merged_in_words
from napari_emseg.edit.parting import draw_membrane
from napari_emseg.edit.sheet import Sheet
from napari_emseg.edit.wire import membrane_in_words


def paint(
    sheet: Sheet,
    name: Name,
    where: NDArray[np.bool_],
    area: Area,
    value: int,
    *,
    settings: CorrectSettings | None = None,
) -> Edit:
    """Paint pixels of one picture with a value; the others follow.

    Painting membrane, or membrane as a correction, parts cells; erasing membrane, or
    painting inside, joins them; painting a cell makes its pixels inside. Erasing a
    correction takes the opinion back, erasing cells the cells, and nothing more.

    Parameters
    ----------
    name
        Which picture was painted on.
    where
        Mask `(y, x)` of the pixels in `area`.

    Raises
    ------
    ValueError
        If all of it lies on locked cells, or nothing changes.
    """
    settings = settings or CorrectSettings()
    if name == "cells":
        return _paint_cells(sheet, where, area, value)
    correction = value if name == "corrections" else MEMBRANE if value else INSIDE
    if correction == MEMBRANE:
        draft, split = draw_membrane(sheet, where, area, sliver=settings.sliver)
        return draft.edit("paint", membrane_in_words(int(where.sum()), split))
    if correction == INSIDE:
        draft, merged = draw_inside(sheet, where, area)
        return draft.edit("erase", merged_in_words(merged) or "membrane erased")
    draft = Draft(sheet, area)
    if correction == NO_OPINION:
        draft.after["corrections"][where] = correction
    else:
        draft.set(where, correction)
    said = "no opinion" if correction == NO_OPINION else f"class {correction - 1}"
    return draft.edit("paint", f"{int(where.sum())} px: {said}")


def _paint_cells(
    sheet: Sheet, where: NDArray[np.bool_], area: Area, value: int
) -> Edit:
    draft = Draft(sheet, area)
    cells = draft.after["cells"]
    locked = sheet.is_locked(cells)
    if value in sheet.locked:
        sheet.refuse_locked([value])
    if where.any() and not (where & ~locked).any():
        sheet.refuse_locked(np.unique(cells[where]))
    where = where & ~locked
    cells[where] = value
    draft.next_id = max(draft.next_id, value + 1)
    if value:
        draft.set(where, INSIDE)
    words = f"painted cell {value}" if value else "erased cells"
    return draft.edit("paint" if value else "erase", words)
