"""The correcting tools: their keys, what they say, and how a pointer drives them."""

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
    key
        Unless another one is chosen in napari's preferences.
    hint
        For the status bar while it is active, and the docs.
    about
        What it is for.
    when
        What is wrong in the picture where it helps, for the docs.
    use
        Makes an edit of the places that were pointed at; None for a wire, whose edit
        is that of the path.
    alone
        Its button has a row of its own.
    """

    name: str
    key: str
    gesture: Gesture
    hint: str
    about: str
    when: str
    use: Callable[[AnnotationEditor, list[CanvasPoint]], Edit] | None = None
    alone: bool = False

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


TOOLS = [
    Tool(
        name="Live-wire",
        key="W",
        gesture="wire",
        hint="click along a membrane; double-click or Enter sets it, Esc drops it",
        about="Draws membrane that snaps to the predicted one.",
        when="a membrane is missing",
    ),
    Tool(
        name="Close gap",
        key="G",
        gesture="click after a look",
        hint="point at a hole in a membrane: see what it would separate; "
        "click closes it",
        about="Closes the gap in a membrane by the best path.",
        when="a membrane has a hole, and two cells are one",
        use=_gap,
    ),
    Tool(
        name="Split cell",
        key="K",
        gesture="stroke",
        hint="drag across a cell, from membrane to membrane",
        about="Splits a cell in two along a stroke.",
        when="two cells are one, and there is no membrane to follow",
        use=_cut,
    ),
    Tool(
        name="Merge",
        key="T",
        gesture="stroke or two clicks",
        hint="drag from one cell into its neighbour, or click both",
        about="Joins cells of this section and takes the membrane between them away.",
        when="one cell is two",
        use=_merge,
    ),
    Tool(
        name="Delete membrane",
        key="D",
        gesture="click",
        hint="click a membrane that isn't there in the tissue",
        about="Deletes a spurious membrane: the wall between two cells, or one that "
        "ends.",
        when="a wall between two cells, or an end, is none in the tissue",
        use=_delete,
    ),
    Tool(
        name="Fill",
        key="I",
        gesture="click",
        hint="click a cell to fill its holes, or free space to make it a cell",
        about="Fills the holes of a cell, or makes free space a cell.",
        when="a cell has holes; a place without cell is one",
        use=_fill,
    ),
    Tool(
        name="Lock",
        key="H",
        gesture="click",
        hint="click a cell to lock it, or to unlock it",
        about="Locks a cell: no edit and no run changes it.",
        when="it is right, and must stay so",
        use=_lock,
        alone=True,
    ),
    Tool(
        name="Split in 3-D",
        key="S",
        gesture="click",
        hint="click a cell in the first section where it should be another one",
        about="From this section on, the cell is another one.",
        when="a cell goes on as another one",
        use=_split_through,
    ),
    Tool(
        name="Merge in 3-D",
        key="U",
        gesture="two clicks",
        hint="click a cell, then what belongs to it, in any section",
        about="Makes two cells one through the whole stack.",
        when="two cells are one through the stack",
        use=_merge_through,
    ),
]
"""In the order of their buttons; all that the panel and the docs know of them."""
