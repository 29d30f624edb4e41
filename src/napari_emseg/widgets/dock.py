"""The docks: all panels one below the other, and each of them alone."""

from __future__ import annotations

from typing import ClassVar

from napari import Viewer
from qtpy.QtWidgets import QWidget

from napari_emseg.widgets.cells_panel import CellsPanel
from napari_emseg.widgets.collapsible import CollapsibleBox, ScrollBox
from napari_emseg.widgets.controller import controller_for
from napari_emseg.widgets.correct_panel import CorrectPanel
from napari_emseg.widgets.correcting import Correcting
from napari_emseg.widgets.data_panel import DataPanel
from napari_emseg.widgets.evaluate_panel import EvaluatePanel
from napari_emseg.widgets.membranes_panel import MembranesPanel
from napari_emseg.widgets.on_screen import OnScreen
from napari_emseg.widgets.theme import follow, follow_theme
from napari_emseg.widgets.train_panel import TrainPanel

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

FOLDED = ("Correct", "Train", "Evaluate")
"""At first: what comes after the main job."""


class EmSegmentation(ScrollBox):
    """All panels, numbered, each in a section that folds."""

    def __init__(self, napari_viewer: Viewer) -> None:
        self.folds = {
            name: CollapsibleBox(
                f"{STEPS[name]}  {name}", panel(napari_viewer), role="section"
            )
            for name, panel in PANELS.items()
        }
        super().__init__(*self.folds.values())
        for name, fold in self.folds.items():
            if name not in FOLDED:
                fold.expand(animate=False)
        self._controller = controller_for(napari_viewer)
        self._controller.shared(Correcting)
        folds = {self.panel(name): fold for name, fold in self.folds.items()}
        self._on_screen = OnScreen(self, folds)
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
        self.folds["Data"].expand(animate=False)
        self.folds["Correct"].expand(animate=False)
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
        self.panel = self.panel_class(napari_viewer)
        super().__init__(self.panel)
        controller = controller_for(napari_viewer)
        controller.shared(
            Correcting
        )  # what is painted is followed, whichever panel is open
        self._on_screen = OnScreen(self, {self.panel: None})
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
