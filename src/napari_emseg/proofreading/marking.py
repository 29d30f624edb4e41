"""Regions that a person has looked over: all that is shown in them becomes an opinion.

So what was right when somebody looked stays so, whatever a later run finds there.
"""

from collections.abc import Collection, Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.labels import inside_mask
from napari_emseg.core.regions import Area, Region, grown, within
from napari_emseg.proofreading.edits import INSIDE, MEMBRANE, NO_OPINION, Change, Edit
from napari_emseg.proofreading.linked import LinkedLabels
from napari_emseg.proofreading.rerun import burnt_in
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
    # what was drawn by hand stays an opinion of its own
    # and is taken back by its own edit
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
        close = grown(region.area, 1, sheet.shape)
        inner, cells = within(region.area, close), sheet.window("cells", close)
        if not cells[inner].any():
            msg = (
                f"nothing is shown in {region.words}, so there is nothing to review; "
                f"run 2 Membranes there first"
            )
            raise ValueError(msg)
        # cells that were opened bring no membranes: what is no cell counts as one, and
        # where two touch
        membranes = ~inside_mask(cells, "cells")[inner]
    codes: NDArray[np.uint8] = np.where(membranes, MEMBRANE, INSIDE).astype(np.uint8)
    return codes


def _back(sheet: SectionView, change: Change) -> Change | None:
    """Return what takes back as much of a change as is still there."""
    now = sheet.window("corrections", change.area)
    became = np.zeros_like(now)
    became[change.where] = change.new.values()
    # drawn over since, an opinion is somebody's own and stays
    after = np.where(change.where & (now == became), np.uint8(NO_OPINION), now)
    return Change.between("corrections", change.z, change.area, now, after)


def clear_section(linked: LinkedLabels, z: int) -> list[Change]:
    """Return what changes when a section loses its membranes and cells.

    Locked cells stay, and membranes that were drawn by hand.
    """
    linked.settle(z)
    _, height, width = linked.shape
    whole: Area = (slice(0, height), slice(0, width))
    membranes, cells, corrections = (
        np.asarray(linked.arrays[name][z])
        for name in ("membranes", "cells", "corrections")
    )
    locked = np.isin(cells, np.fromiter(linked.locked, np.int64))
    # as if a network had found nothing there
    drawn = burnt_in(np.zeros_like(membranes), corrections)
    changes = (
        Change.between("membranes", z, whole, membranes, drawn),
        Change.between("cells", z, whole, cells, np.where(locked, cells, 0)),
    )
    return [change for change in changes if change is not None]


Status = Literal["to do", "reviewed", "excluded"]


def status_of(z: int, reviewed: Collection[int], excluded: Collection[int]) -> Status:
    """Return the status of a section; excluded counts first."""
    if z in excluded:
        return "excluded"
    return "reviewed" if z in reviewed else "to do"


def next_section(
    here: int,
    n: int,
    reviewed: Collection[int],
    excluded: Collection[int],
    *,
    step: Literal[1, -1] = 1,
) -> int:
    """Return the next of `n` sections that is to do, once around the stack.

    Parameters
    ----------
    here
        The section to go on from.
    step
        -1 goes backwards.

    Raises
    ------
    ValueError
        If none other is to do.
    """
    for away in range(1, n):
        z = (here + step * away) % n
        if status_of(z, reviewed, excluded) == "to do":
            return z
    msg = "no other section is to do"
    raise ValueError(msg)
