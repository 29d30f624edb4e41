"""What another program's brush has painted on one of the linked pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.proofreading.edits import LabelArray
from napari_emseg.session.run_scope import Area


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
