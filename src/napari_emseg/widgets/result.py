"""What a comparison gave: a line in words, mistakes, a curve, all scores, export."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from weakref import ReferenceType, ref

import numpy as np
from napari import Viewer
from napari.layers import Layer, Points
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor, QResizeEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_emseg._napari import placement_of
from napari_emseg.core.atomic import write_whole
from napari_emseg.metrics.merge_split_errors import Kind, SegmentationError
from napari_emseg.metrics.report import Row
from napari_emseg.session.comparison import Compared
from napari_emseg.widgets.camera import go_to_place
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.curve_plot import CurvePlot
from napari_emseg.widgets.formatting import format_score_name, format_sections
from napari_emseg.widgets.layer_changes import OverlayLayer
from napari_emseg.widgets.theme import CollapsibleBox, button, set_role, text_label

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


FILES = "Table (*.csv);;Everything (*.json)"


class Result(QWidget):
    """What a comparison gave: a line in words, a curve, mistakes, all scores."""

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._found: Compared | None = None
        self.words = text_label(role="headline")
        self.about = text_label()
        self.plot = CurvePlot(controller.viewer)
        self.mistakes = MistakeList(controller.viewer, controller.overlay("mistakes"))
        self.scores = ScoreTable()
        self.export = button("Export…", tooltip="Save as a table or as JSON.")
        self.message = text_label()
        self._lay_out()
        self.export.clicked.connect(self._on_export)
        self.hide()

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.words, self.about, self.mistakes, self.plot):
            layout.addWidget(widget)
        layout.addWidget(
            CollapsibleBox("All scores", in_a_box(self.scores), role="link")
        )
        layout.addWidget(self.export, 0, Qt.AlignmentFlag.AlignLeft)
        layout.addWidget(self.message)
        self.message.hide()

    def show_result(self, found: Compared, layer: Layer | None) -> None:
        """Show another result; its mistakes lie over `layer`."""
        self._found = found
        report = found.report
        self.words.setText(report.words)
        lines = [f"{found.prediction} against {found.truth}"]
        lines.append(format_sections(len(report.sections)))
        lines += filter(None, (report.about_cells, report.about_thresholds))
        self.about.setText(" · ".join(lines))
        fixed = None if report.fixed is None else report.fixed.threshold
        self.plot.show_curve(report.curve, fixed)
        self.mistakes.show_places(report.places, layer)
        self.scores.show_rows(report.rows())
        self.message.hide()
        self.show()

    def save(self, path: Path) -> None:
        """Write the result, as JSON or as a table by the name's ending.

        Raises
        ------
        OSError
            If it can't be written.
        """
        if self._found is None:
            return
        if path.suffix.lower() == ".json":
            text = json.dumps(self._found.as_dict(), indent=2) + "\n"
        else:
            text = self._found.report.as_csv()
        write_whole(path, text)

    def _on_export(self) -> None:
        name, chosen = QFileDialog.getSaveFileName(self, "Export", "scores.csv", FILES)
        if not name:
            return
        path = Path(name)
        if path.suffix.lower() not in (".csv", ".json"):
            path = path.with_name(path.name + (".json" if "json" in chosen else ".csv"))
        try:
            self.save(path)
        except OSError as e:
            self._say(f"{path.name} can't be written: {e.strerror or e}", "error")
        else:
            self._say(f"saved as {path.name}", "hint")

    def _say(self, message: str, role: str) -> None:
        self.message.setText(message)
        set_role(self.message, role)
        self.message.show()


def in_a_box(table: QTableWidget) -> QWidget:
    """Return a widget that may fold away around one with a height of its own."""
    box = QWidget()
    layout = QVBoxLayout(box)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.addWidget(table)
    return box


class FittedTable(QTableWidget):
    """A table to read, as high as its rows are at its width; the last column wraps."""

    def __init__(self, *columns: str) -> None:
        super().__init__(0, len(columns))
        self.setHorizontalHeaderLabels(columns)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        last = len(columns) - 1
        header.setSectionResizeMode(last, QHeaderView.ResizeMode.Stretch)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTextElideMode(Qt.TextElideMode.ElideNone)
        self.setWordWrap(True)

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - the name in Qt
        """Wrap what is said anew."""
        super().resizeEvent(event)
        self.fit()

    def fit(self) -> None:
        """Be as high as the rows are."""
        self.resizeRowsToContents()
        rows = sum(self.rowHeight(row) for row in range(self.rowCount()))
        self.setFixedHeight(self.horizontalHeader().height() + rows + 4)


class ScoreTable(FittedTable):
    """All scores with what they say."""

    def __init__(self) -> None:
        super().__init__("score", "value", "meaning")

    def show_rows(self, rows: Sequence[Row]) -> None:
        """Show other scores."""
        self.setRowCount(len(rows))
        for row, (name, value, threshold, meaning) in enumerate(rows):
            number = "–" if value is None else f"{value:.4f}"
            at = "" if threshold is None else f"best at threshold {threshold:.1f}"
            for column, words in enumerate((format_score_name(name), number, meaning)):
                item = QTableWidgetItem(words)
                item.setToolTip(at)
                self.setItem(row, column, item)
        self.fit()
