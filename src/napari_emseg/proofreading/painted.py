"""Strokes of another program's brush on one of the linked pictures, made edits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.labels import touching
from napari_emseg.core.regions import Area, grown, within
from napari_emseg.core.settings import CorrectSettings
from napari_emseg.proofreading.draw_membrane import (
    PendingEdit,
    draw_inside,
    draw_membrane,
    placed,
)
from napari_emseg.proofreading.edits import (
    INSIDE,
    MEMBRANE,
    NO_OPINION,
    Edit,
    LabelArray,
    Name,
)
from napari_emseg.proofreading.merge import format_merge
from napari_emseg.proofreading.section_view import SectionView
from napari_emseg.proofreading.wire import format_membrane


@dataclass(frozen=True, slots=True, eq=False)
class Stroke:
    """Pixels of one section that were painted already.

    Parameters
    ----------
    where
        Mask `(y, x)` of the pixels in `area`.
    old
        Their values before: one for each, or one for all.
    value
        What they were painted with.
    """

    z: int
    area: Area
    where: NDArray[np.bool_]
    old: NDArray[Any]
    value: int


def take_back(array: LabelArray, strokes: Sequence[Stroke]) -> None:
    """Make an array `(z, y, x)` as if nothing had been painted on it.

    Of several strokes that wait, the latest goes first. `AnnotationEditor.repaint` then
    makes edits of them, the earliest first.
    """
    # strokes may overlap: each one's old values are those that the one before it left
    for stroke in reversed(strokes):
        key = (stroke.z, *stroke.area)
        window = np.array(array[key])
        window[stroke.where] = stroke.old
        array[key] = window


def paint(
    sheet: SectionView,
    name: Name,
    where: NDArray[np.bool_],
    area: Area,
    value: int,
    *,
    settings: CorrectSettings | None = None,
) -> Edit:
    """Paint pixels of one picture with a value; the others follow.

    Painting membrane, or membrane as a correction, parts cells; erasing membrane, or
    painting inside, joins them; painting a cell makes its pixels inside, but membrane
    where it touches another cell, on both sides. Erasing a
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
    # a stroke on membranes says what is there: 1 membrane, 0 (erased) inside
    correction = value if name == "corrections" else MEMBRANE if value else INSIDE
    if correction == MEMBRANE:
        draft, split = draw_membrane(sheet, where, area, sliver=settings.sliver)
        return draft.edit("paint", format_membrane(int(where.sum()), split))
    if correction == INSIDE:
        draft, merged = draw_inside(sheet, where, area)
        return draft.edit("erase", format_merge(merged) or "membrane erased")
    draft = PendingEdit(sheet, area)
    if correction == NO_OPINION:
        draft.after["corrections"][where] = correction
    else:
        draft.set(where, correction)
    said = "unlabelled" if correction == NO_OPINION else f"class {correction - 1}"
    return draft.edit("paint", f"{int(where.sum())} px: {said}")


def replace_values(
    sheet: SectionView,
    name: Name,
    values: NDArray[np.integer],
    *,
    settings: CorrectSettings | None = None,
) -> Iterator[Edit]:
    """Yield edits after which a section of one picture has other values.

    Each is to be made before the next is asked for; the others follow as `paint` has
    it, and locked cells keep their pixels.

    Parameters
    ----------
    values
        `(y, x)`, as they are to be.

    Raises
    ------
    ValueError
        If a change lies on locked cells altogether.
    """
    height, width = values.shape
    whole = slice(0, height), slice(0, width)
    now = sheet.window(name, whole)
    if name == "membranes":
        now, values = (now > 0).astype(np.uint8), (values > 0).astype(np.uint8)
    differ = now != values
    if not differ.any():
        return
    area = ndi.find_objects(differ.astype(np.uint8))[0]
    differ, values = differ[area], values[area]
    if name == "cells":
        yield _replace_cells(sheet, differ, area, values.astype(np.uint32))
        return
    # each edit is applied before the next is worked out,
    # so that later ones see its cells
    for value in np.unique(values[differ]).tolist():
        where = differ & (values == value)
        yield paint(sheet, name, where, area, int(value), settings=settings)


def _give_ids(
    sheet: SectionView, where: NDArray[np.bool_], area: Area, ids: NDArray[np.uint32]
) -> tuple[PendingEdit, int]:
    """Give pixels ids `(y, x)`, 0 for none; tell how many, without locked ones.

    Pixels of cells are inside, but where cells touch there is a wall between them, as
    `inside_mask` has it of labels: else they would be one cell to whatever reads the
    membranes.
    """
    kept = sheet.is_locked(sheet.window("cells", area)) | sheet.is_locked(ids)
    if where.any() and not (where & ~kept).any():
        before = sheet.window("cells", area)
        sheet.refuse_locked([*np.unique(before[where]), *np.unique(ids[where])])
    where = where & ~kept
    # a wall lies on both sides of a border, and what the outer side touches decides
    # whether it stays: two pixels around
    wide = grown(area, 2, sheet.shape)
    draft = PendingEdit(sheet, wide)
    there, inner = placed(where, area, wide), within(area, wide)
    cells = draft.after["cells"]
    cells[inner][where] = ids[where]
    # somebody may give any id: new cells must not get it
    draft.next_id = max(draft.next_id, int(ids[where].max(initial=0)) + 1)
    given = there & (cells > 0)
    draft.set(given, INSIDE)
    _wall_off(draft, given)
    return draft, int(where.sum())


def _wall_off(draft: PendingEdit, given: NDArray[np.bool_]) -> None:
    """Make membrane where cells with new pixels touch; it goes where they are one."""
    before, after = draft.before["cells"], draft.after["cells"]
    near = ndi.binary_dilation(given) & ~draft.sheet.is_locked(after)
    touch = touching(after)
    one = near & touching(before) & ~touch & (draft.after["membranes"] > 0)
    draft.set(one, INSIDE)
    draft.set(near & touch, MEMBRANE)


def _replace_cells(
    sheet: SectionView, where: NDArray[np.bool_], area: Area, values: NDArray[np.uint32]
) -> Edit:
    draft, n = _give_ids(sheet, where, area, values)
    return draft.edit("paint", f"{n} px of cells replaced")


def _paint_cells(
    sheet: SectionView, where: NDArray[np.bool_], area: Area, value: int
) -> Edit:
    ids = np.full(where.shape, value, np.uint32)
    draft, _ = _give_ids(sheet, where, area, ids)
    words = f"painted cell {value}" if value else "erased cells"
    return draft.edit("paint" if value else "erase", words)
