"""4 Correct: tools with which a person mends membranes and cells, and real undo."""

from __future__ import annotations

from functools import partial
from typing import Any

from napari import Viewer
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QGridLayout,
    QHBoxLayout,
    QPushButton,
    QWidget,
)

from napari_emseg.core.correcting import CorrectSettings
from napari_emseg.widgets.cells_table import CellsTable
from napari_emseg.widgets.class_row import ClassRow
from napari_emseg.widgets.collapsible import CollapsibleBox, panel_layout
from napari_emseg.widgets.controller import controller_for
from napari_emseg.widgets.correcting import Correcting
from napari_emseg.widgets.export_training_row import ExportTrainingRow
from napari_emseg.widgets.form import SettingsForm
from napari_emseg.widgets.keys import Act, key_of, tool_act
from napari_emseg.widgets.places_row import PlacesRow, key_acts
from napari_emseg.widgets.review_row import ReviewRow
from napari_emseg.widgets.theme import SPACING, button, follow, set_role, text_label
from napari_emseg.widgets.tools import TOOLS, Tool, ToolName

FIRST = ("width",)
ADVANCED = ("reach", "window", "sliver")
ROWS: tuple[tuple[ToolName, ...], ...] = (
    ("Live-wire", "Close gap"),
    ("Cut", "Merge"),
    ("Delete membrane", "Fill"),
    ("Lock",),
    ("Split in 3-D", "Merge in 3-D"),
)

UNKNOWN = (
    "Paint on the layers membranes and corrections with napari's own brush, too. "
    "Outside of reviewed sections, what has no label is unknown, not background."
)


class CorrectPanel(QWidget):
    """Tools, review of sections, and a table of cells."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._controller = controller_for(napari_viewer)
        self._correcting = self._controller.shared(Correcting)
        self.layers = self._correcting.layers
        self.pointer = self._correcting.pointer
        self.tools: dict[str, QPushButton] = {}
        self.undo = button("Undo", tooltip="Take the latest edit back (Ctrl+Z)")
        self.redo = button("Redo", tooltip="Make it again (Ctrl+Shift+Z)")
        self.main = SettingsForm(CorrectSettings(), fields=FIRST)
        self.advanced = SettingsForm(CorrectSettings(), fields=ADVANCED)
        self.classes = ClassRow(self._controller, self.layers)
        self.review = ReviewRow(self._controller)
        self.runs = QCheckBox("Runs go over reviewed sections, too")
        self.places = PlacesRow(self._controller)
        self.where_next = CollapsibleBox("Where next", self.places, role="link")
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
        steps = QHBoxLayout()
        steps.setSpacing(SPACING)
        steps.addWidget(self.undo)
        steps.addWidget(self.redo)
        layout.addLayout(steps)
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

    def _tool_buttons(self) -> QGridLayout:
        grid = QGridLayout()
        grid.setSpacing(SPACING)
        self._group = QButtonGroup(self)
        self._group.setExclusive(False)
        for tool in TOOLS:
            made = button(tool.name, "tool")
            made.setCheckable(True)
            made.clicked.connect(partial(self._on_tool, tool))
            self._group.addButton(made)
            self.tools[tool.name] = made
        for row, names in enumerate(ROWS):
            for column, name in enumerate(names):
                grid.addWidget(self.tools[name], row, column, 1, 3 - len(names))
        return grid

    def _key_acts(self) -> dict[str, Act]:
        acts: dict[str, Act] = {
            tool_act(tool.name): partial(self._on_tool, tool) for tool in TOOLS
        }
        return acts | {
            **key_acts(self.places, self.review.go_next),
            "toggle_reviewed": self.review.toggle,
            "undo": self.layers.undo,
            "redo": self.layers.redo,
            "drop": self._on_escape,
            "set_membrane": self._on_enter,
        }

    def attach(self) -> None:
        """Have keys, tools and outlines while the panel can be seen."""
        self._correcting.attach(self, self._acts)

    def detach(self) -> None:
        """Put them down."""
        self._correcting.detach(self, self._acts)

    def _connect(self) -> None:
        self.undo.clicked.connect(self.layers.undo)
        self.redo.clicked.connect(self.layers.redo)
        self.main.edited.connect(self._on_edited)
        self.advanced.edited.connect(self._on_edited)
        self.runs.toggled.connect(self._on_runs)
        told = (
            *(self.layers, self.pointer, self.classes),
            *(self.review, self.cells, self.places),
        )
        for source in told:
            follow(self, source.said, self._on_said)
            follow(self, source.refused, self._on_refused)
        follow(self, self.pointer.changed, self._on_tool_changed)
        follow(self, self._correcting.keys.changed, self._name_keys)
        follow(self, self._controller.session.events.source, self._on_source)
        self._name_keys()

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
        if source is not None and source.results.begun:
            self.main.show_settings(source.results.hand.settings)
            self.advanced.show_settings(source.results.hand.settings)

    def _on_said(self, words: str) -> None:
        self._show(words, "hint")

    def _on_refused(self, words: str) -> None:
        self._show(words, "note")
        self.pointer.help.say(words)

    def _show(self, words: str, role: str) -> None:
        self.message.setText(words)
        self.message.setVisible(bool(words))
        set_role(self.message, role)
