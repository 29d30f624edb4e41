"""Draw membrane: there is no cell, and a cell that falls apart becomes several."""

from __future__ import annotations

import numpy as np
from scipy import ndimage as ndi

from napari_emseg.proofreading.area import Area, grown, union
from napari_emseg.proofreading.edits import MEMBRANE
from napari_emseg.proofreading.pending_edit import Mask, PendingEdit, placed
from napari_emseg.proofreading.section_view import SectionView


def draw_membrane(
    sheet: SectionView,
    where: Mask,
    area: Area,
    *,
    core: Mask | None = None,
    sliver: int = 0,
) -> tuple[PendingEdit, dict[int, list[int]]]:
    """Make pixels membrane; cells that fall apart there become several.

    Pixels of locked cells are spared.

    Parameters
    ----------
    where
        Mask `(y, x)` of the pixels in `area`.
    core
        Those of them that matter: a locked cell on them is refused, not spared.
    sliver
        Pieces smaller than this, px, become no cells.

    Returns
    -------
    draft
    split
        New ids of each cell that fell apart.

    Raises
    ------
    ValueError
        If locked cells leave nothing to draw, or lie on the core.
    """
    cells = sheet.window("cells", area)
    locked = sheet.is_locked(cells)
    if core is not None:
        sheet.refuse_locked(np.unique(cells[core & locked]))
    where = where & ~locked
    if not where.any():
        sheet.refuse_locked(np.unique(cells[locked]))
    touched = [int(i) for i in np.unique(cells[where]) if i > 0]
    apart = [i for i in touched if _may_fall_apart(sheet, i, where, area)]
    wide = union(area, *(sheet.pieces(i, area) for i in apart))
    draft = PendingEdit(sheet, wide)
    there = placed(where, area, wide)
    draft.set(there, MEMBRANE)
    draft.after["cells"][there] = 0
    split = {i: _fall_apart(draft, i, there, sliver) for i in apart}
    return draft, {i: new for i, new in split.items() if new}


def _may_fall_apart(sheet: SectionView, cell: int, where: Mask, area: Area) -> bool:
    """Tell if taking pixels from a cell parts it, as far as is seen close to them."""
    close = grown(area, 2, sheet.shape)
    mask = sheet.window("cells", close) == cell
    taken = placed(where, area, close)
    before, n = ndi.label(mask)
    after, _ = ndi.label(mask & ~taken)
    for piece in range(1, n + 1):
        of_it = before == piece
        if not (of_it & taken).any():
            continue
        left = np.unique(after[of_it])
        if np.count_nonzero(left) != 1:
            return True
    return False


def _fall_apart(draft: PendingEdit, cell: int, taken: Mask, sliver: int) -> list[int]:
    """Give new ids to all but the largest piece of each place a cell was parted."""
    cells = draft.after["cells"]
    before, n = ndi.label(draft.before["cells"] == cell)
    after, m = ndi.label(cells == cell)
    sizes = np.bincount(after.ravel(), minlength=m + 1)
    new = []
    for piece in range(1, n + 1):
        of_it = before == piece
        if not (of_it & taken).any():
            continue
        left = np.unique(after[of_it])
        left = left[left > 0]
        for part in sorted(left, key=lambda p: -int(sizes[p]))[1:]:
            small = sizes[part] < sliver
            cells[after == part] = 0 if small else draft.new_id()
            if not small:
                new.append(draft.next_id - 1)
    return new
