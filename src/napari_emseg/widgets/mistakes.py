"""Mergers and splits: rings in a layer of their own, and a list that goes to them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from weakref import ReferenceType, ref

import numpy as np
from napari import Viewer
from napari.layers import Layer, Points
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_emseg._napari import placement_of
from napari_emseg.metrics.merge_split_errors import Kind, SegmentationError
from napari_emseg.widgets.camera import go_to_place
from napari_emseg.widgets.layer_changes import OverlayLayer
from napari_emseg.widgets.theme import text_label

COLOURS: dict[Kind, str] = {"merger": "#ff6b6b", "split": "#4cc9f0"}

HELP: dict[Kind, str] = {
    "merger": "A gap in the membrane joins cells that are apart in the truth.",
    "split": "A false membrane parts what is one cell in the truth.",
}

LISTED = 500
"""Of the largest; a bad prediction makes tens of thousands, which nobody walks."""

ROWS_SHOWN = 6
SMALLEST_RING = 24
"""Across, px of the picture."""

RING_WIDTH = 2.0


class MistakeList(QWidget):
    """Lists places and shows them in the viewer; a click goes there."""

    def __init__(self, viewer: Viewer, overlay: OverlayLayer) -> None:
        super().__init__()
        self._viewer: ReferenceType[Viewer] = ref(viewer)
        self._places: Sequence[SegmentationError] = ()
        self._source: ReferenceType[Layer] | None = None
        self._overlay = overlay
        self.more = text_label()
        self.table = QTableWidget(0, 3)
        self._lay_out()
        self.table.cellClicked.connect(self._on_row)
        self.table.currentCellChanged.connect(self._on_row)
        self.hide()

    @property
    def layer(self) -> Points | None:
        """The rings; None if there are none, or the user removed them."""
        layer: Points | None = self._overlay.layer
        return layer

    def _lay_out(self) -> None:
        self.table.setHorizontalHeaderLabels(["mistake", "section", "pixels"])
        self.table.verticalHeader().hide()
        stretch = QHeaderView.ResizeMode.Stretch
        self.table.horizontalHeader().setSectionResizeMode(stretch)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setToolTip("Click to go there; the arrow keys go on.")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.table)
        layout.addWidget(self.more)

    def show_places(
        self, places: Sequence[SegmentationError], source: Layer | None
    ) -> None:
        """Show other places, and rings over the layer that has them."""
        self._places = places
        self._fill(places[:LISTED])
        more = len(places) - LISTED
        self.more.setText(f"and {more:,} smaller ones" if more > 0 else "")
        self.more.setVisible(more > 0)
        self.setVisible(bool(places))
        self._source = None if source is None else ref(source)
        self.attach()

    def attach(self) -> None:
        """Show rings around the places."""
        viewer, source = self._viewer(), self._source and self._source()
        there = viewer is not None and source is not None and source in viewer.layers
        if self._places and there:
            self._overlay.show(partial(rings, self._places, source), source)
        else:
            self._overlay.remove()

    def detach(self) -> None:
        """Take the rings away."""
        self._overlay.remove()

    def _fill(self, places: Sequence[SegmentationError]) -> None:
        blocked = self.table.blockSignals(True)
        self.table.setRowCount(len(places))
        for row, place in enumerate(places):
            kind = QTableWidgetItem(f"○ {place.kind}")
            kind.setForeground(QColor(COLOURS[place.kind]))
            kind.setToolTip(HELP[place.kind])
            self.table.setItem(row, 0, kind)
            for column, number in ((1, place.z), (2, place.pixels)):
                item = QTableWidgetItem(f"{number:,}")
                item.setTextAlignment(
                    Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
                )
                self.table.setItem(row, column, item)
        self.table.setCurrentCell(-1, -1)
        self.table.blockSignals(blocked)
        rows = min(len(places), ROWS_SHOWN)
        heights = sum(self.table.rowHeight(row) for row in range(rows))
        self.table.setFixedHeight(self.table.horizontalHeader().height() + heights + 4)

    def _on_row(self, row: int) -> None:
        viewer, layer = self._viewer(), self.layer
        if viewer is not None and layer is not None and 0 <= row < len(self._places):
            place = self._places[row]
            go_to_place(viewer, layer, (place.z, place.y, place.x))


def rings(places: Sequence[SegmentationError], source: Layer) -> Points:
    """Return a layer with a ring around each place, over a layer that has them."""
    at = np.array([(place.z, place.y, place.x) for place in places], float)
    colours = [COLOURS[place.kind] for place in places]
    return Points(
        at[:, -source.ndim :],
        name="mistakes",
        size=[max(SMALLEST_RING, 2 * place.extent) for place in places],
        symbol="o",
        face_color="transparent",
        border_color=colours,
        border_width=RING_WIDTH,
        border_width_is_relative=False,
        features={
            "kind": [place.kind for place in places],
            "pixels": [place.pixels for place in places],
        },
        **placement_of(source),
    )
