"""Regions that a person has looked over: all that is shown in them becomes an opinion.

So what was right when somebody looked stays so, whatever a later run finds there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.regions import Region
from napari_emseg.proofreading.edits import INSIDE, MEMBRANE, NO_OPINION, Change, Edit
from napari_emseg.proofreading.section_view import SectionView


def mark_reviewed(
    sheet: SectionView, region: Region, reviewed: Collection[Region] = ()
) -> Edit:
    """Say that all in a region is right as it is shown.

    What was corrected before stays; all else becomes a correction to what is shown.

    Parameters
    ----------
    reviewed
        Regions that are it already.

    Raises
    ------
    ValueError
        If the region is one of those, outside of the picture, or nothing is shown
        there.
    """
    if region in reviewed:
        msg = f"this region is reviewed already ({region.words})"
        raise ValueError(msg)
    if region.bottom > sheet.shape[0] or region.right > sheet.shape[1]:
        msg = f"region {region.words} is outside of the picture of {sheet.shape} px"
        raise ValueError(msg)
    before = sheet.window("corrections", region.area)
    after = np.where(before == NO_OPINION, _shown(sheet, region), before)
    change = Change.between("corrections", region.z, region.area, before, after)
    words = f"reviewed: {region.shape[0]} × {region.shape[1]} px of section {region.z}"
    changes = () if change is None else (change,)
    return Edit("review", words, changes=changes, review=(region,))


def mark_to_do(
    sheet: SectionView,
    region: Region,
    reviewed: Collection[Region],
    edits: Iterable[Edit] = (),
) -> Edit:
    """Say that a region is to do again.

    Parameters
    ----------
    reviewed
        Regions that are reviewed, in their order.
    edits
        That were made. What became an opinion only because the region was reviewed is
        none any more; if the edit that did so isn't among them, opinions stay.
    """
    made = next((edit for edit in edits if region in edit.review), None)
    corrections = () if made is None else made.of("corrections")
    changes = (_back(sheet, change) for change in corrections)
    real = tuple(change for change in changes if change is not None)
    words = f"to do again: {region.words}"
    if made is None:
        words += "; what it says stays in corrections, erase it there if it is wrong"
    return Edit(
        "review",
        words,
        changes=real,
        unreview=(region,),
        reviewed_before=tuple(reviewed),
    )


def _shown(sheet: SectionView, region: Region) -> NDArray[np.uint8]:
    """Return what is shown in a region `(y, x)`, as corrections.

    Raises
    ------
    ValueError
        If nothing is.
    """
    membranes = sheet.window("membranes", region.area) > 0
    if not membranes.any():
        cells = sheet.window("cells", region.area)
        if not cells.any():
            msg = (
                f"nothing is shown in {region.words}, so there is nothing to review; "
                f"run 2 Membranes there first"
            )
            raise ValueError(msg)
        membranes = cells == 0
    codes: NDArray[np.uint8] = np.where(membranes, MEMBRANE, INSIDE).astype(np.uint8)
    return codes


def _back(sheet: SectionView, change: Change) -> Change | None:
    """Return what takes back as much of a change as is still there."""
    now = sheet.window("corrections", change.area)
    became = np.zeros_like(now)
    became[change.where] = change.new.values()
    after = np.where(change.where & (now == became), np.uint8(NO_OPINION), now)
    return Change.between("corrections", change.z, change.area, now, after)
