"""A window of a section with pixels on trial.

Two rules keep both views of a section alike:

- where membrane is drawn there is no cell, and a cell that falls apart there becomes
  several cells (`draw_membrane`);
- where membrane is taken away there is a cell, and cells that meet there become one
  (`draw_inside`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.proofreading.area import Area, within
from napari_emseg.proofreading.edits import MEMBRANE, NAMES, Change, Edit, Name
from napari_emseg.proofreading.section_view import SectionView

Mask = NDArray[np.bool_]


class PendingEdit:
    """Pictures of an area before and after an edit; tools write into `after`."""

    def __init__(self, sheet: SectionView, area: Area) -> None:
        self.sheet = sheet
        self.area = area
        self.before: dict[Name, NDArray[Any]] = {
            name: sheet.window(name, area) for name in NAMES
        }
        self.after = {name: window.copy() for name, window in self.before.items()}
        self.next_id = sheet.next_id

    def new_id(self) -> int:
        """Return an id that no cell has."""
        self.next_id += 1
        return self.next_id - 1

    def set(self, where: Mask, correction: int) -> None:
        """Correct pixels to membrane, inside, or another class."""
        self.after["corrections"][where] = correction
        self.after["membranes"][where] = correction == MEMBRANE

    def edit(self, tool: str, words: str) -> Edit:
        """Return what differs.

        Raises
        ------
        ValueError
            If nothing does.
        """
        changes = (
            Change.between(
                name, self.sheet.z, self.area, self.before[name], self.after[name]
            )
            for name in NAMES
        )
        real = tuple(change for change in changes if change is not None)
        if not real:
            msg = "nothing to change here"
            raise ValueError(msg)
        last = self.next_id - 1 if self.next_id > self.sheet.next_id else 0
        return Edit(tool, words, changes=real, last_id=last)


def placed(mask: NDArray[Any], area: Area, wide: Area) -> NDArray[Any]:
    """Return a mask of an area as one of a larger area."""
    out = np.zeros(tuple(part.stop - part.start for part in wide), mask.dtype)
    out[within(area, wide)] = mask
    return out
