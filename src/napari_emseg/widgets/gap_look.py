"""What closing a gap would separate, looked for where the pointer rests."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal
from qtpy.QtCore import QObject, QTimer

from napari_emseg.proofreading import Edit, find_gap
from napari_emseg.widgets.latest_only import LatestOnlyWorker
from napari_emseg.widgets.linked_layers import LinkedLayers
from napari_emseg.widgets.tools import CanvasPoint

REST_MS = 60
"""The pointer rests for so long before it is looked for a gap under it."""


class GapLook(QObject):
    """Looks for a gap in a thread.

    Signals: `found` with the path, its section, and what a click would do; `refused`
    with why a click would do nothing.
    """

    found = Signal(object, int, str)
    refused = Signal(str)

    def __init__(self, layers: LinkedLayers) -> None:
        super().__init__()
        self._layers = layers
        self._place: CanvasPoint | None = None
        self._gaps = LatestOnlyWorker()
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(REST_MS)
        self._rest.timeout.connect(self._on_rest)
        self._gaps.found.connect(self._on_gap)
        self._gaps.failed.connect(self._on_none)

    def at(self, place: CanvasPoint) -> None:
        """Look at a place if the pointer stays there."""
        self._gaps.drop()
        self._place = place
        self._rest.start()

    def stop(self) -> None:
        """Look no more, and forget what is being looked for."""
        self._rest.stop()
        self._gaps.drop()

    def _on_rest(self) -> None:
        place = self._place
        if place is None:
            return
        try:
            hand = self._layers.hand
            sheet = hand.sheet(place.z)
        except ValueError as e:
            self._on_none(e)
            return
        self._gaps.ask(partial(find_gap, sheet, place.point, settings=hand.settings))

    def _on_gap(self, gap: tuple[NDArray[np.int64], Edit]) -> None:
        path, edit = gap
        if self._place is not None:
            self.found.emit(path, self._place.z, f"click: {edit.words}")

    def _on_none(self, error: Exception) -> None:
        self.refused.emit(str(error))
