"""The correcting tools: their keys, what they say, and how a pointer drives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_emseg.proofreading import (
    Edit,
    close_gap,
    cut,
    delete_membrane,
    fill,
    lock,
    merge,
    merge_through,
    split_through,
)
from napari_emseg.session.annotation_editor import AnnotationEditor

ToolName = Literal[
    "Live-wire",
    "Close gap",
    "Split cell",
    "Merge",
    "Delete membrane",
    "Fill",
    "Lock",
    "Split in 3-D",
    "Merge in 3-D",
]
Gesture = Literal[
    "click",
    "click after a look",
    "stroke",
    "two clicks",
    "stroke or two clicks",
    "wire",
]


@dataclass(frozen=True, slots=True)
class CanvasPoint:
    """Where the pointer is: section, and `(y, x)` in it."""

    z: int
    y: float
    x: float

    @property
    def point(self) -> tuple[float, float]:
        """`(y, x)`."""
        return self.y, self.x


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of the panel.

    Parameters
    ----------
    hint
        For the status bar while it is active.
    about
        What it is for.
    use
        Makes an edit of the places that were pointed at.
    """

    name: ToolName
    key: str
    gesture: Gesture
    hint: str
    about: str
    use: Callable[[AnnotationEditor, list[CanvasPoint]], Edit] | None = None

    def tooltip(self, key: str) -> str:
        """Return what it is for, how it is used, and its key."""
        how = self.hint[0].upper() + self.hint[1:]
        return f"{self.about}\n{how}.\nKey: {key or 'none'}"


def _points(places: list[CanvasPoint]) -> NDArray[np.float64]:
    return np.array([place.point for place in places])


def _one_section(places: list[CanvasPoint]) -> int:
    if len({place.z for place in places}) > 1:
        msg = "both clicks must be in one section; to merge across, use Merge in 3-D"
        raise ValueError(msg)
    return places[0].z


def _cut(hand: AnnotationEditor, places: list[CanvasPoint]) -> Edit:
    sheet = hand.sheet(_one_section(places))
    return cut(sheet, _points(places), settings=hand.settings)


def _merge(hand: AnnotationEditor, places: list[CanvasPoint]) -> Edit:
    sheet = hand.sheet(_one_section(places))
    return merge(sheet, _points(places), settings=hand.settings)


def _gap(hand: AnnotationEditor, places: list[CanvasPoint]) -> Edit:
    place = places[0]
    return close_gap(hand.sheet(place.z), place.point, settings=hand.settings)


def _delete(hand: AnnotationEditor, places: list[CanvasPoint]) -> Edit:
    place = places[0]
    return delete_membrane(hand.sheet(place.z), place.point, settings=hand.settings)


def _fill(hand: AnnotationEditor, places: list[CanvasPoint]) -> Edit:
    return fill(hand.sheet(places[0].z), places[0].point)


def _lock(hand: AnnotationEditor, places: list[CanvasPoint]) -> Edit:
    return lock(hand.sheet(places[0].z), places[0].point)


def _split_through(hand: AnnotationEditor, places: list[CanvasPoint]) -> Edit:
    hand.sheet(places[0].z)
    return split_through(hand.linked, (places[0].z, places[0].point))


def _merge_through(hand: AnnotationEditor, places: list[CanvasPoint]) -> Edit:
    first, second = places
    hand.sheet(first.z)
    return merge_through(hand.linked, (first.z, first.point), (second.z, second.point))


TOOLS: tuple[Tool, ...] = (
    Tool(
        "Live-wire",
        "W",
        "wire",
        "click along a membrane; double-click or Enter sets it, Esc drops it",
        "Draws membrane that snaps to the predicted one.",
    ),
    Tool(
        "Close gap",
        "G",
        "click after a look",
        "point at a hole in a membrane: see what it would separate; click closes it",
        "Closes the gap in a membrane by the best path.",
        _gap,
    ),
    Tool(
        "Split cell",
        "K",
        "stroke",
        "drag across a cell, from membrane to membrane",
        "Splits a cell in two along a stroke.",
        _cut,
    ),
    Tool(
        "Merge",
        "T",
        "stroke or two clicks",
        "drag from one cell into its neighbour, or click both",
        "Joins cells of this section and takes the membrane between them away.",
        _merge,
    ),
    Tool(
        "Delete membrane",
        "D",
        "click",
        "click a membrane that isn't there in the tissue",
        "Deletes a spurious membrane: the wall between two cells, or one that ends.",
        _delete,
    ),
    Tool(
        "Fill",
        "I",
        "click",
        "click a cell to fill its holes, or free space to make it a cell",
        "Fills the holes of a cell, or makes free space a cell.",
        _fill,
    ),
    Tool(
        "Lock",
        "H",
        "click",
        "click a cell to lock it, or to unlock it",
        "Locks a cell: no edit and no run changes it.",
        _lock,
    ),
    Tool(
        "Split in 3-D",
        "S",
        "click",
        "click a cell in the first section where it should be another one",
        "From this section on, the cell is another one.",
        _split_through,
    ),
    Tool(
        "Merge in 3-D",
        "U",
        "two clicks",
        "click a cell, then what belongs to it, in any section",
        "Makes two cells one through the whole stack.",
        _merge_through,
    ),
)
