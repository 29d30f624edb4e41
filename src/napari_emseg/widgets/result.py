"""What a comparison gave: a line in words, mistakes, a curve, all scores, export."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from napari.layers import Layer
from qtpy.QtCore import Qt
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_emseg.core.atomic import write_whole
from napari_emseg.metrics.report import Row
from napari_emseg.session.comparison import Compared
from napari_emseg.widgets.collapsible import CollapsibleBox
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.curve_plot import CurvePlot
from napari_emseg.widgets.formatting import format_score_name, format_sections
from napari_emseg.widgets.mistakes import MistakeList
from napari_emseg.widgets.theme import button, set_role, text_label

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
        if report.about_thresholds:
            lines.append(report.about_thresholds)
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


class ScoreTable(QTableWidget):
    """All scores with what they say; as high as its rows are at its width."""

    def __init__(self) -> None:
        super().__init__(0, 3)
        self.setHorizontalHeaderLabels(["score", "value", "meaning"])
        self.verticalHeader().hide()
        fit = QHeaderView.ResizeMode.ResizeToContents
        for column, mode in enumerate((fit, fit, QHeaderView.ResizeMode.Stretch)):
            self.horizontalHeader().setSectionResizeMode(column, mode)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTextElideMode(Qt.TextElideMode.ElideNone)
        self.setWordWrap(True)

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
        self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - the name in Qt
        """Wrap what is said anew."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        self.resizeRowsToContents()
        rows = sum(self.rowHeight(row) for row in range(self.rowCount()))
        self.setFixedHeight(self.horizontalHeader().height() + rows + 4)
