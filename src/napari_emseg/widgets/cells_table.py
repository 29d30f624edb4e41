"""The table of cells, the suspicious ones first; a click goes there."""

from __future__ import annotations

from math import isnan

from psygnal import Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_emseg.proofreading import CellRow, cells_table
from napari_emseg.widgets.camera import go_to_place
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.jobs import BackgroundJob, JobResult
from napari_emseg.widgets.linked_layers import LinkedLayers
from napari_emseg.widgets.theme import button

HEADS = ("cell", "px", "sections", "membrane", "worth a look")
SHOWN = 500
"""Rows; the rest are not suspicious enough."""
HEIGHT = 220


class CellsTable(QWidget):
    """Measures cells in a thread and lists them."""

    said = Signal(str)
    refused = Signal(str)

    def __init__(self, controller: ViewerController, layers: LinkedLayers) -> None:
        super().__init__()
        self._controller = controller
        self._layers = layers
        self._rows: list[CellRow] = []
        self._job = BackgroundJob()
        self.measure = button("Measure cells", tooltip="Size, membrane, suspicion")
        self.table = QTableWidget(0, len(HEADS))
        self.table.setHorizontalHeaderLabels(HEADS)
        self.table.verticalHeader().hide()
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        stretch = QHeaderView.ResizeMode.Stretch
        self.table.horizontalHeader().setSectionResizeMode(len(HEADS) - 1, stretch)
        self.table.setMinimumHeight(HEIGHT)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.measure)
        layout.addWidget(self.table)
        self.measure.clicked.connect(self._on_measure)
        self.table.cellClicked.connect(self._on_row)
        self._job.ended.connect(self._on_ended)

    def _on_measure(self) -> None:
        if self._job.busy:
            return
        try:
            hand = self._layers.hand
            hand.sheet(0)
        except ValueError as e:
            self.refused.emit(str(e))
            return
        hand.linked.settle_all()
        work = cells_table(
            hand.linked.arrays["cells"],
            hand.probabilities,
            corrections=hand.corrections,
            linked=self._layers.linked,
        )
        self.measure.setEnabled(False)
        self._job.start(work, "Measure cells")

    def _on_ended(self, outcome: JobResult) -> None:
        self.measure.setEnabled(True)
        if outcome.cause is not None:
            self.refused.emit(str(outcome.cause))
            return
        if not isinstance(outcome.result, list):
            return
        self._rows = outcome.result[:SHOWN]
        suspicious = sum(bool(row.suspicion) for row in outcome.result)
        self.table.setRowCount(len(self._rows))
        for place, row in enumerate(self._rows):
            for column, words in enumerate(_in_words(row)):
                self.table.setItem(place, column, QTableWidgetItem(words))
        self.said.emit(f"{len(outcome.result):,} cells · {suspicious:,} suspicious")

    def _on_row(self, place: int, _: int) -> None:
        layer = self._controller.source_layer
        if layer is not None:
            go_to_place(self._controller.viewer, layer, self._rows[place].at)


def _in_words(row: CellRow) -> tuple[str, ...]:
    known = "" if isnan(row.boundary) else f"{row.boundary:.2f}"
    return str(row.cell), f"{row.size:,}", str(row.sections), known, row.suspicion
