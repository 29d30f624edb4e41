"""Where a run goes: some sections, in the order of work, and a rectangle of each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.regions import Area
from napari_emseg.proofreading.edits import LabelArray


@dataclass(frozen=True, slots=True)
class RunScope:
    """Sections in the order of work; `roi` None means all of each."""

    sections: tuple[int, ...]
    roi: Area | None = None

    def without(self, excluded: Collection[int]) -> RunScope:
        """Return this region without some sections.

        Raises
        ------
        ValueError
            If nothing is left.
        """
        kept = tuple(z for z in self.sections if z not in excluded)
        if not kept:
            names = ", ".join(str(z) for z in sorted(self.sections)[:5])
            msg = (
                f"every section of this run is excluded ({names}); include one in Data"
            )
            raise ValueError(msg)
        return replace(self, sections=kept)


def from_here(sections: Iterable[int], here: int) -> tuple[int, ...]:
    """Order sections: from `here` to the end, then on from the start.

    Neighbours stay together, since they often share a chunk of a file.
    """
    ascending = sorted(set(sections))
    later = [z for z in ascending if z >= here]
    return (*later, *(z for z in ascending if z < here))


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
