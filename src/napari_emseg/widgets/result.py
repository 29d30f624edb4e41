"""What a comparison gave: a line in words, mistakes, a curve, all scores, export."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

import numpy as np
from napari import Viewer
from napari.layers import Layer, Points
from napari.utils.theme import get_theme
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
from napari_emseg._napari.versions import is_dark
from napari_emseg.core.atomic import write_whole
from napari_emseg.metrics.merge_split_errors import Kind, SegmentationError
from napari_emseg.metrics.report import Curve, Row
from napari_emseg.session.comparison import Compared
from napari_emseg.widgets.camera import go_to_place
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.formatting import format_score_name, format_sections
from napari_emseg.widgets.layer_changes import OverlayLayer
from napari_emseg.widgets.theme import (
    CollapsibleBox,
    button,
    follow,
    set_role,
    text_label,
)

if TYPE_CHECKING:
    from pyqtgraph import PlotWidget

CURVE_HEIGHT = 200
DEPTH = 0.2
"""What is shown below the best score; thresholds that are worse don't matter."""

CURVE_COLOURS = {
    "dark": {"V_Rand": "#ffb347", "V_Info": "#5fc9e8"},
    "light": {"V_Rand": "#b35900", "V_Info": "#00688b"},
}
LINE = 2


class CurvePlot(QWidget):
    """Draws a `Curve` in the colours of napari's theme."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._shown: tuple[Curve, float | None] | None = None
        self.plot: PlotWidget | None = None
        self.legend = text_label()
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.addWidget(self.legend)
        self.hide()
        follow(self, viewer.events.theme, self._draw)

    def show_curve(self, curve: Curve | None, fixed: float | None) -> None:
        """Draw a curve, or nothing; `fixed` is the threshold of validation."""
        self._shown = None if curve is None else (curve, fixed)
        self.setVisible(curve is not None)
        self._draw()

    def _draw(self) -> None:
        if self._shown is None:
            return
        plot = self._make() if self.plot is None else self.plot
        curve, fixed = self._shown
        theme = get_theme(self._viewer.theme)
        colours = CURVE_COLOURS["dark" if is_dark(theme) else "light"]
        text = theme.text.as_hex()
        plot.clear()
        plot.setBackground(theme.background.as_hex())
        for side in ("left", "bottom"):
            plot.getAxis(side).setTextPen(text)
            plot.getAxis(side).setPen(theme.icon.as_hex())
        for name, values in (("V_Rand", curve.v_rand), ("V_Info", curve.v_info)):
            pen = _pen(colours[name], LINE)
            plot.plot(curve.thresholds, values, pen=pen, symbol="o", symbolSize=5,
                      symbolBrush=colours[name], symbolPen=None, name=name)  # fmt: skip
        plot.setYRange(max(0, min(max(curve.v_rand), max(curve.v_info)) - DEPTH), 1)
        _mark(plot, curve.best, _pen(text, 1, Qt.PenStyle.DashLine))
        if fixed is not None:
            _mark(plot, fixed, _pen(text, 1))
        self.legend.setText(_legend(colours, curve.best, fixed))

    def _make(self) -> PlotWidget:
        from pyqtgraph import PlotWidget  # a fifth of a second, when it is first needed

        plot = PlotWidget()
        plot.setFixedHeight(CURVE_HEIGHT)
        plot.setMouseEnabled(x=False, y=False)
        plot.setMenuEnabled(False)
        plot.hideButtons()
        plot.showGrid(x=True, y=True, alpha=0.15)
        plot.setXRange(0, 1)
        plot.setLabel("bottom", "threshold of the probability of membrane")
        # letters that reach down are cut off without
        plot.getPlotItem().layout.setContentsMargins(1, 1, 1, 6)
        self._layout.insertWidget(0, plot)
        self.plot = plot
        return plot


def _pen(colour: str, width: int, style: Any = Qt.PenStyle.SolidLine) -> Any:
    from pyqtgraph import mkPen

    return mkPen(colour, width=width, style=style)


def _mark(plot: PlotWidget, threshold: float, pen: Any) -> None:
    plot.addLine(x=threshold, pen=pen)


def _legend(colours: dict[str, str], best: float, fixed: float | None) -> str:
    """Say what the lines are; labels in the plot would cover one another."""
    parts = [
        f'<span style="color:{c}">━&nbsp;{name}</span>' for name, c in colours.items()
    ]
    parts.append(f"┆&nbsp;best:&nbsp;{best:.1f}")
    if fixed is not None:
        parts.append(f"│&nbsp;validation:&nbsp;{fixed:g}")
    return " &nbsp; ".join(parts)


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
        self.earlier = text_label("These scores are of an earlier run.", role="note")
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
        for widget in (self.earlier, self.words, self.about, self.mistakes, self.plot):
            layout.addWidget(widget)
        self.earlier.hide()
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
        about = report.about_thresholds, report.about_linked, report.about_cells
        lines += filter(None, about)
        self.about.setText(" · ".join(lines))
        fixed = None if report.fixed is None else report.fixed.threshold
        self.plot.show_curve(report.curve, fixed)
        self.mistakes.show_places(report.places, layer)
        self.scores.show_rows(report.rows())
        self.message.hide()
        self.earlier.hide()
        self.show()

    def mark_earlier(self) -> None:
        """Say that what is shown isn't of the run that begins, which may give none."""
        self.earlier.show()

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
            if isinstance(value, int):  # a count
                number = f"{value:,}"
            at = "" if threshold is None else f"best at threshold {threshold:.1f}"
            for column, words in enumerate((format_score_name(name), number, meaning)):
                item = QTableWidgetItem(words)
                item.setToolTip(at)
                self.setItem(row, column, item)
        self.fit()
