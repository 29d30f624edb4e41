"""The docks: all panels one below the other, and each of them alone."""

from typing import ClassVar, Protocol, runtime_checkable

from napari import Viewer
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtWidgets import QDockWidget, QLineEdit, QWidget

from napari_emseg._installed import naming_versions

with naming_versions():  # all of the house comes with these
    from napari_emseg.widgets.cells_panel import CellsPanel
    from napari_emseg.widgets.controller import controller_for
    from napari_emseg.widgets.correct_panel import CorrectPanel
    from napari_emseg.widgets.correcting import Correcting
    from napari_emseg.widgets.data_panel import DataPanel
    from napari_emseg.widgets.evaluate_panel import EvaluatePanel
    from napari_emseg.widgets.jobs import any_job_is_busy
    from napari_emseg.widgets.membranes_panel import MembranesPanel
    from napari_emseg.widgets.opening import CanvasDrop, FileDrop, are_projects
    from napari_emseg.widgets.theme import (
        CollapsibleBox,
        ScrollBox,
        follow,
        follow_theme,
        help_link,
    )
    from napari_emseg.widgets.train_panel import TrainPanel

LATER_MS = 200


@runtime_checkable
class Attached(Protocol):
    """A panel that attaches something to the viewer: a tool, keys, a preview."""

    def attach(self) -> None:
        """Put up what works outside of the panel; it can be seen now."""

    def detach(self) -> None:
        """Put all of that down; the panel can't be seen any more."""


class OnScreen(QObject):
    """Attaches the panels in a dock as long as they can be seen.

    A dock can be closed, hidden from the menu, or be behind another one's tab. One that
    napari has closed never comes back (it makes a new one), so its panels are deleted.
    """

    def __init__(
        self, widget: QWidget, panels: dict[QWidget, CollapsibleBox | None]
    ) -> None:
        super().__init__(widget)
        self._widget = widget
        self._panels = {x: f for x, f in panels.items() if isinstance(x, Attached)}
        self._dock: QDockWidget | None = None
        self._in_front = self._there = True
        self._attached: set[QWidget] = set()
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(0)
        self._soon.timeout.connect(self._look)
        for fold in self._panels.values():
            if fold is not None:
                fold.toggled.connect(self._look)
        widget.installEventFilter(self)
        self._look()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Notice that the dock is another one, or none any more."""
        if watched is self._widget and event.type() == QEvent.Type.ParentChange:
            self._on_parent()
        return False

    def _on_parent(self) -> None:
        parent = self._widget.parentWidget()
        if isinstance(parent, QDockWidget):
            self._there, self._in_front = True, True
            self._dock = parent
            parent.visibilityChanged.connect(self._on_visible)
        elif parent is None and self._dock is not None:
            self._there = False
            QTimer.singleShot(0, self._on_closed)
        self._look()

    def _on_visible(self, visible: bool) -> None:
        if self.sender() in (None, self._dock):
            self._in_front = visible
            # a dock that begins or ends to float is hidden and shown in one go
            self._soon.start()

    def _on_closed(self) -> None:
        """Delete the panels, after what they wait for: a project that is saved, say."""
        if self._there or not isalive(self._widget):
            return
        if any_job_is_busy():
            QTimer.singleShot(LATER_MS, self._on_closed)
        else:
            self._widget.deleteLater()

    def _look(self, *_: object) -> None:
        for panel, fold in self._panels.items():
            seen = self._there and self._in_front
            seen = seen and (fold is None or fold.isExpanded())
            if seen and panel not in self._attached:
                self._attached.add(panel)
                panel.attach()
            elif not seen and panel in self._attached:
                self._attached.discard(panel)
                panel.detach()


PANELS: dict[str, type[QWidget]] = {
    "Data": DataPanel,
    "Membranes": MembranesPanel,
    "Cells": CellsPanel,
    "Correct": CorrectPanel,
    "Train": TrainPanel,
    "Evaluate": EvaluatePanel,
}
"""In the order of work."""

STEPS = {
    "Data": 1,
    "Membranes": 2,
    "Cells": 3,
    "Correct": 4,
    "Train": 5,
    "Evaluate": 6,
}
"""Numbers of the steps; panels keep theirs, whichever of them are there."""

HELP: dict[type[QWidget], str] = {
    DataPanel: "panels.md#1-data",
    MembranesPanel: "panels.md#2-membranes",
    CellsPanel: "cells.md",
    CorrectPanel: "correct.md",
    TrainPanel: "retrain.md",
    EvaluatePanel: "scores.md",
}
"""Pages of the documentation."""


def make_panel(kind: type[QWidget], viewer: Viewer) -> QWidget:
    """Return a panel with a link to its page below."""
    panel = kind(viewer)
    panel.layout().addWidget(help_link(HELP[kind]))
    return panel


def take_drops(dock: ScrollBox, data: DataPanel) -> None:
    """Have files that are dropped on a dock opened by our reader, whatever they are.

    And projects that are dropped on napari's canvas beside it: its own reader, which
    alone is asked about folders, can't open them.
    """
    drop = FileDrop(dock, data.open_paths)
    drop.watch(dock.viewport())
    for line in dock.inner.findChildren(QLineEdit):  # which would take the path as text
        drop.watch(line)
    CanvasDrop(dock, data.open_paths, are_projects)


FOLDED = ("Correct", "Train", "Evaluate")
"""At first: what comes after the main job."""


class EmSegmentation(ScrollBox):
    """All panels, numbered, each in a section that folds."""

    beside = True

    def __init__(self, napari_viewer: Viewer) -> None:
        self.folds = {
            name: CollapsibleBox(
                f"{STEPS[name]}  {name}",
                make_panel(panel, napari_viewer),
                role="section",
                expanded=name not in FOLDED,
            )
            for name, panel in PANELS.items()
        }
        super().__init__(*self.folds.values())
        self._controller = controller_for(napari_viewer)
        self._controller.shared(Correcting)
        folds = {self.panel(name): fold for name, fold in self.folds.items()}
        self._on_screen = OnScreen(self, folds)
        take_drops(self, self.panel("Data"))
        follow_theme(self, self._controller.viewer)
        events = self._controller.session.events
        follow(self, events.source, self._on_state)
        follow(self, events.weights, self._on_state)
        self._on_state()

    def panel(self, name: str) -> QWidget:
        """Return a panel by its name."""
        return self.folds[name].content()

    def open_project(self, path: str) -> None:
        """Open a project, as one that was dropped onto the window."""
        self.folds["Data"].expand()
        self.folds["Correct"].expand()
        data = self.panel("Data")
        if isinstance(data, DataPanel):
            data.project.open_path(path)

    def _on_state(self) -> None:
        source, weights = (
            self._controller.session.source,
            self._controller.session.weights,
        )
        self.folds["Data"].summary.setText("" if source is None else source.name)
        self.folds["Membranes"].summary.setText(
            "" if weights is None else weights.card.name
        )


class _Alone(ScrollBox):
    """One panel in a dock of its own."""

    panel_class: ClassVar[type[QWidget]]

    def __init__(self, napari_viewer: Viewer) -> None:
        self.panel = make_panel(self.panel_class, napari_viewer)
        super().__init__(self.panel)
        controller = controller_for(napari_viewer)
        controller.shared(
            Correcting
        )  # what is painted is followed, whichever panel is open
        self._on_screen = OnScreen(self, {self.panel: None})
        if isinstance(self.panel, DataPanel):
            take_drops(self, self.panel)
        follow_theme(self, controller.viewer)


class DataDock(_Alone):
    """1 Data."""

    panel_class = DataPanel


class MembranesDock(_Alone):
    """2 Membranes."""

    panel_class = MembranesPanel


class CellsDock(_Alone):
    """3 Cells."""

    panel_class = CellsPanel


class CorrectDock(_Alone):
    """4 Correct."""

    panel_class = CorrectPanel


class TrainDock(_Alone):
    """5 Train."""

    panel_class = TrainPanel


class EvaluateDock(_Alone):
    """6 Evaluate."""

    panel_class = EvaluatePanel
