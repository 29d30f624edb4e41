"""The live-wire under a pointer: its field in a worker, its preview at once."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal
from qtpy.QtCore import QObject

from napari_emseg.proofreading import (
    Edit,
    SectionView,
    WireField,
    draw_wire,
    wire_field,
)
from napari_emseg.session.annotation_editor import AnnotationEditor
from napari_emseg.widgets.latest_only import LatestOnlyWorker
from napari_emseg.widgets.tools import CanvasPoint


class LiveWireTool(QObject):
    """Clicks along a membrane, and the path between them.

    A click while paths are still looked for waits its turn; none is dropped.

    Signals: `ready` when a new field is there; `complete` when the last click that
    waited is part of the path, if it is to be set; `refused` with why there is none.
    """

    ready = Signal()
    complete = Signal()
    refused = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._field: WireField | None = None
        self._parts: list[NDArray[np.int64]] = []
        self._clicks: list[tuple[AnnotationEditor, CanvasPoint]] = []
        self._sets = False
        self._z = 0
        self._fields = LatestOnlyWorker()
        self._fields.found.connect(self._on_field)
        self._fields.failed.connect(self._on_error)

    @property
    def active(self) -> bool:
        """True from the first click until it is set or dropped."""
        return self._field is not None or self.waiting

    @property
    def waiting(self) -> bool:
        """True while the paths from the latest click are looked for."""
        return self._fields.waiting

    @property
    def z(self) -> int:
        """The section that it is drawn in."""
        return self._z

    def click(self, hand: AnnotationEditor, place: CanvasPoint) -> None:
        """Fix the path up to a place, and go on from there.

        Raises
        ------
        ValueError
            If the section is another one.
        """
        sheet = hand.sheet(place.z)
        if self.active and place.z != self._z:
            msg = f"this membrane is in section {self._z}; set or drop it first"
            raise ValueError(msg)
        if self.waiting:
            self._clicks.append((hand, place))
            return
        if self._field is not None:
            self._parts.append(self._field.path_to(place.point))
            place = CanvasPoint(place.z, *(float(v) for v in self._parts[-1][-1]))
        self._z = place.z
        self._look(hand, sheet, place)

    def finish(self) -> bool:
        """Tell that it is to be set; True if that must wait for clicks before."""
        self._sets = self.waiting and bool(self._clicks)
        return self._sets

    def path_to(self, place: CanvasPoint) -> NDArray[np.int64] | None:
        """Return the whole path, as it would be with a click here; None without."""
        if self._field is None or place.z != self._z:
            return self._so_far()
        return np.concatenate([*self._parts, self._field.path_to(place.point)])

    def edit(self, hand: AnnotationEditor) -> Edit:
        """Return the edit that sets the membrane, and start afresh.

        Raises
        ------
        ValueError
            If it is too short, or runs through a locked cell.
        """
        path = self._so_far()
        if path is None:
            self.drop()
            msg = "a membrane needs two points; click along it"
            raise ValueError(msg)
        edit = draw_wire(hand.sheet(self._z), path, settings=hand.settings)
        self.drop()
        return edit

    def drop(self) -> None:
        """Forget what was clicked."""
        self._fields.drop()
        self._field, self._parts = None, []
        self._clicks, self._sets = [], False

    def _so_far(self) -> NDArray[np.int64] | None:
        return np.concatenate(self._parts) if self._parts else None

    def _look(
        self, hand: AnnotationEditor, sheet: SectionView, place: CanvasPoint
    ) -> None:
        look = partial(wire_field, sheet, place.point, settings=hand.settings)
        self._fields.ask(look)

    def _on_field(self, field: WireField) -> None:
        self._field = field
        if self._clicks:
            hand, place = self._clicks.pop(0)
            try:
                self.click(hand, place)
            except ValueError as e:
                self._on_error(e)
                return
        self.ready.emit()
        if self._sets and not self._clicks:
            self.complete.emit()

    def _on_error(self, error: Exception) -> None:
        self.drop()
        self.refused.emit(str(error))
