"""Cut a cell by a stroke."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.settings import CorrectSettings
from napari_emseg.proofreading.area import Area
from napari_emseg.proofreading.draw_membrane import draw_membrane
from napari_emseg.proofreading.edits import Edit
from napari_emseg.proofreading.section_view import (
    SectionView,
    line_through,
    painted_along,
)


def cut(
    sheet: SectionView, points: NDArray[Any], *, settings: CorrectSettings | None = None
) -> Edit:
    """Cut the cells that a stroke `(n, 2)` crosses from membrane to membrane.

    Cells that it only enters stay as they are.

    Raises
    ------
    ValueError
        If it crosses no cell, or a locked one.
    """
    settings = settings or CorrectSettings()
    wide, core, area = painted_along(sheet, line_through(points), settings.width)
    cells = sheet.window("cells", area)
    met = [int(i) for i in np.unique(cells[core]) if i > 0]
    if not met:
        msg = "there is no cell under the stroke; draw it across one"
        raise ValueError(msg)
    sheet.refuse_locked(met)
    # each cell by itself, on the stroke's pixels in it: only those that it crosses are
    # cut, so that a stroke may begin and end in neighbours
    parted = [
        i for i in met if _falls_apart(sheet, wide & (cells == i), area, settings)
    ]
    if not parted:
        names = ", ".join(str(i) for i in met[:3])
        msg = (
            f"the stroke doesn't cut cell {names} in two; "
            f"draw it from one membrane to the other"
        )
        raise ValueError(msg)
    draft, split = draw_membrane(
        sheet, wide & np.isin(cells, parted), area, sliver=settings.sliver
    )
    cuts = (
        f"cut cell {cell} into {' and '.join(str(i) for i in (cell, *new))}"
        for cell, new in split.items()
    )
    return draft.edit("cut", "; ".join(cuts))


def _falls_apart(
    sheet: SectionView, where: NDArray[np.bool_], area: Area, settings: CorrectSettings
) -> bool:
    """Tell if membrane on pixels of one cell parts it."""
    return bool(draw_membrane(sheet, where, area, sliver=settings.sliver)[1])
