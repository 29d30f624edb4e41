"""Merge and split cells through the stack: changes of ids that pixels follow later."""

from __future__ import annotations

from collections.abc import Sequence

from napari_emseg.proofreading.edits import Edit, IdChange
from napari_emseg.proofreading.linked import LinkedLabels

Place = tuple[int, Sequence[float]]
"""A section and a point `(y, x)` in it."""


def merge_through(linked: LinkedLabels, first: Place, second: Place) -> Edit:
    """Make the cell at one place the same as that at another, in all sections.

    The first one's id remains. No section is rewritten until it is looked at.

    Raises
    ------
    ValueError
        If there is no cell at a place, both are one already, or one is locked.
    """
    kept, gone = (_cell(linked, place) for place in (first, second))
    if kept == gone:
        msg = f"both are cell {kept} already"
        raise ValueError(msg)
    linked.sheet(first[0]).refuse_locked([kept, gone])
    change = IdChange(gone, kept, 0, linked.shape[0])
    words = f"merged cell {gone} into cell {kept} in all sections"
    return Edit("merge in 3-D", words, ids=(change,))


def split_through(linked: LinkedLabels, place: Place) -> Edit:
    """Make a cell another one from a section on.

    Raises
    ------
    ValueError
        If there is no cell at the place, it is locked, or it starts in this section.
    """
    z = place[0]
    cell = _cell(linked, place)
    sheet = linked.sheet(z)
    sheet.refuse_locked([cell])
    if z == 0 or not _is_in(linked, cell, z - 1):
        msg = (
            f"cell {cell} is not in the section before {z}; "
            f"go to the first section that should be another cell"
        )
        raise ValueError(msg)
    change = IdChange(cell, sheet.next_id, z, linked.shape[0])
    words = f"split cell {cell}: from section {z} on it is cell {sheet.next_id}"
    return Edit("split in 3-D", words, ids=(change,), last_id=sheet.next_id)


def _cell(linked: LinkedLabels, place: Place) -> int:
    z, (y, x) = place
    cell = linked.sheet(z).cell_at((y, x))
    if not cell:
        msg = f"there is no cell at ({y:.0f}, {x:.0f}) in section {z}"
        raise ValueError(msg)
    return cell


def _is_in(linked: LinkedLabels, cell: int, z: int) -> bool:
    sheet = linked.sheet(z)
    return bool((sheet.window("cells", sheet.whole) == cell).any())
