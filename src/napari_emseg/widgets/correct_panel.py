"""4 Correct: tools with which a person mends membranes and cells, and real undo."""

from collections.abc import Iterable
from functools import partial
from math import isnan
from typing import Any

from napari import Viewer
from psygnal import Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QButtonGroup,
    QCheckBox,
    QHeaderView,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_emseg.core.settings import CorrectSettings
from napari_emseg.proofreading import CellRow, cells_table
from napari_emseg.widgets.camera import go_to_place
from napari_emseg.widgets.controller import ViewerController, controller_for
from napari_emseg.widgets.correct_view import CellViewRow, ViewRow
from napari_emseg.widgets.correcting import Correcting
from napari_emseg.widgets.flow_row import FlowRow
from napari_emseg.widgets.form import SettingsForm
from napari_emseg.widgets.formatting import format_cell_size
from napari_emseg.widgets.jobs import BackgroundJob, JobResult
from napari_emseg.widgets.keys import Act, key_of, tool_act
from napari_emseg.widgets.linked_layers import LinkedLayers
from napari_emseg.widgets.review_row import ClassRow, ExportTrainingRow, ReviewRow
from napari_emseg.widgets.suggested_regions import SuggestedRegions, key_acts
from napari_emseg.widgets.theme import (
    SPACING,
    CollapsibleBox,
    button,
    follow,
    panel_layout,
    set_role,
    text_label,
)
from napari_emseg.widgets.tools import TOOLS, Tool

HEADS = ("cell", "px", "sections", "membrane", "worth a look")
SIZE = 1
"""Column; in µm² or µm³ where the voxel size is known."""
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
        self._cell = 0
        self._job = BackgroundJob()
        self.in_3d = CellViewRow(controller, lambda: self._cell)
        self.measure = button("Measure cells", tooltip="Size, membrane, suspicion")
        self.table = QTableWidget(0, len(HEADS))
        self.table.setHorizontalHeaderLabels(HEADS)
        self.table.verticalHeader().hide()
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        header, modes = self.table.horizontalHeader(), QHeaderView.ResizeMode
        header.setSectionResizeMode(modes.ResizeToContents)
        # words get what numbers leave
        header.setSectionResizeMode(len(HEADS) - 1, modes.Stretch)
        self.table.setMinimumHeight(HEIGHT)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.measure)
        layout.addWidget(self.table)
        layout.addWidget(self.in_3d)
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
        self._rows, self._cell = outcome.result[:SHOWN], 0
        suspicious = sum(bool(row.suspicion) for row in outcome.result)
        self.table.setRowCount(len(self._rows))
        for place, row in enumerate(self._rows):
            for column, words in enumerate(self._format_row(row)):
                item = QTableWidgetItem(words)
                item.setToolTip(f"{row.size:,} px; {row.suspicion or 'nothing found'}")
                self.table.setItem(place, column, item)
        self.table.setHorizontalHeaderItem(SIZE, QTableWidgetItem(self._size_of(0)[1]))
        self.said.emit(f"{len(outcome.result):,} cells · {suspicious:,} suspicious")

    def _size_of(self, voxels: int) -> tuple[str, str]:
        source = self._controller.session.source
        size = None if source is None else source.stack.voxel_size_nm
        return format_cell_size(voxels, size, solid=self._layers.linked)

    def _format_row(self, row: CellRow) -> tuple[str, ...]:
        known = "" if isnan(row.boundary) else f"{row.boundary:.2f}"
        size, _ = self._size_of(row.size)
        return str(row.cell), size, str(row.sections), known, row.suspicion

    def _on_row(self, place: int, _: int) -> None:
        self._cell = self._rows[place].cell
        layer = self._controller.source_layer
        if layer is not None:
            go_to_place(self._controller.viewer, layer, self._rows[place].at)


FIRST = ("width",)
ADVANCED = ("reach", "window", "sliver")
UNKNOWN = (
    "Paint on the layers membranes and corrections with napari's own brush, too. "
    "Outside of reviewed sections, what has no label is unknown, not background."
)


def _in_rows(tools: Iterable[Tool]) -> list[list[Tool]]:
    """Return tools two in a row, but for those that have one of their own."""
    rows: list[list[Tool]] = []
    for tool in tools:
        fits = rows and len(rows[-1]) == 1 and not (tool.alone or rows[-1][0].alone)
        if fits:
            rows[-1].append(tool)
        else:
            rows.append([tool])
    return rows


class CorrectPanel(QWidget):
    """Tools, review of sections, and a table of cells."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._controller = controller_for(napari_viewer)
        self._correcting = self._controller.shared(Correcting)
        self.layers = self._correcting.layers
        self.pointer = self._correcting.pointer
        self.tools: dict[str, QPushButton] = {}
        self.views = ViewRow(self._controller)
        self.undo = button("Undo", tooltip="Take the latest edit back (Ctrl+Z)")
        self.redo = button("Redo", tooltip="Make it again (Ctrl+Shift+Z)")
        self.main = SettingsForm(CorrectSettings(), fields=FIRST)
        self.advanced = SettingsForm(CorrectSettings(), fields=ADVANCED)
        self.classes = ClassRow(self._controller, self.layers)
        self.review = ReviewRow(self._controller)
        self.runs = QCheckBox("Run over reviewed sections, too")
        self.suggested = SuggestedRegions(self._controller)
        self.where_next = CollapsibleBox(
            "Suggested regions", self.suggested, role="link"
        )
        self.cells = CellsTable(self._controller, self.layers)
        self.pairs = ExportTrainingRow(self._controller)
        self.hint = text_label(role="plain")
        self.message = text_label()
        self._lay_out()
        self._acts = self._key_acts()
        self._connect()
        self._on_source()

    def _lay_out(self) -> None:
        layout = panel_layout(self)
        layout.addLayout(self._tool_buttons())
        layout.addWidget(FlowRow(self.undo, self.redo, fill=True))
        layout.addWidget(self.views)
        layout.addWidget(self.hint)
        layout.addWidget(self.message)
        layout.addWidget(self.classes)
        layout.addWidget(self.main)
        layout.addWidget(self.review)
        layout.addWidget(self.runs)
        layout.addWidget(self.where_next)
        layout.addWidget(CollapsibleBox("Cells", self.cells, role="link"))
        layout.addWidget(CollapsibleBox("Advanced", self.advanced, role="link"))
        layout.addWidget(text_label(UNKNOWN))
        layout.addWidget(self.pairs)

    def _tool_buttons(self) -> QVBoxLayout:
        rows = QVBoxLayout()
        rows.setSpacing(SPACING)
        self._group = QButtonGroup(self)
        self._group.setExclusive(False)
        for tool in TOOLS:
            made = button(tool.name, "tool")
            made.setCheckable(True)
            made.clicked.connect(partial(self._on_tool, tool))
            self._group.addButton(made)
            self.tools[tool.name] = made
        for tools in _in_rows(TOOLS):
            buttons = [self.tools[tool.name] for tool in tools]
            rows.addWidget(FlowRow(*buttons, fill=True))
        return rows

    def _key_acts(self) -> dict[str, Act]:
        acts: dict[str, Act] = {
            tool_act(tool.name): partial(self._on_tool, tool) for tool in TOOLS
        }
        return acts | {
            **key_acts(self.suggested, self.review.go_next),
            "toggle_reviewed": self.review.toggle,
            "correct_view": self.views.toggle,
            "undo": self.layers.undo,
            "redo": self.layers.redo,
            "drop": self._on_escape,
            "set_membrane": self._on_enter,
        }

    def attach(self) -> None:
        """Have keys, tools and outlines while the panel can be seen."""
        self._correcting.attach(self, self._acts)
        self.views.attach()

    def detach(self) -> None:
        """Put them down."""
        self._correcting.detach(self, self._acts)
        self.views.detach()
        self.cells.in_3d.view.leave()

    def _connect(self) -> None:
        self.undo.clicked.connect(self.layers.undo)
        self.redo.clicked.connect(self.layers.redo)
        self.main.edited.connect(self._on_edited)
        self.advanced.edited.connect(self._on_edited)
        self.runs.toggled.connect(self._on_runs)
        told = (
            *(self.layers, self.pointer, self.classes),
            *(self.review, self.cells, self.suggested),
        )
        for source in told:
            follow(self, source.said, self._on_said)
            follow(self, source.refused, self._on_refused)
        follow(self, self.views.refused, self._on_refused)
        follow(self, self.layers.changed, self.views.unsure.refresh)
        follow(self, self.pointer.changed, self._on_tool_changed)
        follow(self, self._correcting.keys.changed, self._name_keys)
        follow(self, self._controller.session.events.source, self._on_source)
        self._name_keys()
        self._on_tool_changed(self.pointer.tool)

    def _on_tool(self, tool: Tool, *_: Any) -> None:
        chosen = None if self.pointer.tool is tool else tool
        try:
            self.pointer.choose(chosen)
        except ValueError as e:
            self._on_tool_changed(self.pointer.tool)
            self._on_refused(str(e))

    def _on_escape(self) -> bool:
        """Drop what was begun; False if nothing was, so that layers get the key."""
        begun = self.pointer.begun
        self.pointer.drop()
        return begun

    def _on_enter(self) -> bool:
        begun = self.pointer.begun
        self.pointer.set()
        return begun

    def _name_keys(self) -> None:
        """Write the keys on the buttons, as they are in napari's preferences."""
        for tool in TOOLS:
            key = key_of(tool_act(tool.name))
            self.tools[tool.name].setText(f"{tool.name} ({key})" if key else tool.name)
            self.tools[tool.name].setToolTip(tool.tooltip(key))
        self.views.name_key()

    def _on_tool_changed(self, active: Tool | None) -> None:
        for name, made in self.tools.items():
            made.setChecked(active is not None and active.name == name)
        self.hint.setText("" if active is None else f"{active.name}: {active.hint}")
        self.hint.setVisible(active is not None)
        self._show("", "hint")

    def _on_edited(self, settings: CorrectSettings) -> None:
        self.main.show_settings(settings)
        self.advanced.show_settings(settings)
        try:
            self._controller.session.correcting().settings = settings
        except ValueError as e:
            self._on_refused(str(e))

    def _on_runs(self, checked: bool) -> None:
        self._controller.session.redo_reviewed = checked

    def _on_source(self) -> None:
        source = self._controller.session.source
        if source is not None and source.editor.begun:
            self.main.show_settings(source.editor.settings)
            self.advanced.show_settings(source.editor.settings)

    def _on_said(self, words: str) -> None:
        self._show(words, "hint")

    def _on_refused(self, words: str) -> None:
        self._show(words, "note")
        self.pointer.help.say(words)

    def _show(self, words: str, role: str) -> None:
        self.message.setText(words)
        self.message.setVisible(bool(words))
        set_role(self.message, role)
