"""A line that says whether all that was done is saved."""

from collections.abc import Callable
from pathlib import Path

from napari.layers import Layer
from napari.utils.notifications import show_warning
from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import QFileDialog, QLabel, QMenu, QPushButton, QWidget

from napari_emseg._napari import stack_of
from napari_emseg.core.stack import Stack
from napari_emseg.project import StackNotFoundError
from napari_emseg.session.project_sync import ProjectSync, SaveState
from napari_emseg.session.projects import recent_projects
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.flow_row import FlowRow, shorten
from napari_emseg.widgets.theme import button, panel_layout, set_role, text_label

POLL_MS = 250
"""How often it is asked whether all is saved."""

ROLES = {"read-only": "error", "failing": "error", "saved": "hint", "saving": "hint"}


class SaveStatusLabel(QObject):
    """Says in a label how the saving of a project goes; a failure is announced, once.

    Parameters
    ----------
    taken
        Tells if the label says something else now.
    """

    def __init__(self, label: QLabel, taken: Callable[[], bool]) -> None:
        super().__init__(label)
        self._label = label
        self._taken = taken
        self._keeping: ProjectSync | None = None
        self._shown: SaveState | None = None
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._show)

    def follow(self, keeping: ProjectSync | None) -> None:
        """Tell of this project from now on, or of none."""
        self._keeping, self._shown = keeping, None
        if keeping is None:
            self._timer.stop()
        else:
            self._timer.start()
            self._show()

    def _show(self) -> None:
        keeping = self._keeping
        if keeping is None or self._taken():
            return
        state, before = keeping.state, self._shown
        if state == before:
            return
        self._shown = state
        words = f"{keeping.name}: {state.words}"
        if keeping.read_only:
            words += ". You can look, but not correct; save a copy to go on."
        self._label.setText(words)
        self._label.setToolTip(str(keeping.path))
        self._label.setVisible(True)
        set_role(self._label, ROLES[state.kind])
        if state.kind == "failing" and (before is None or before.kind != "failing"):
            show_warning(words)


class RecentButton(QPushButton):
    """Offers projects that were used last; hidden as long as there are none.

    Signals: `chosen` with the folder of one.
    """

    chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__("Recent")
        self.setToolTip("Projects that were used last.")
        self._menu = QMenu(self)
        self._menu.setToolTipsVisible(True)
        self._menu.aboutToShow.connect(self.list_projects)
        self.setMenu(self._menu)
        self.list_projects()

    def list_projects(self) -> None:
        """List them anew; those that are gone can't be chosen."""
        self._menu.clear()
        paths = recent_projects()
        for path in paths:
            there = path.is_dir()
            action = self._menu.addAction(path.stem if there else f"{path.stem} (gone)")
            action.setToolTip(str(path))
            action.setEnabled(there)
            action.triggered.connect(lambda *_, path=path: self.chosen.emit(path))
        self.setVisible(bool(paths))


class RelocateStackRow(QWidget):
    """A question and the ways to answer it; `found` has a path or a layer."""

    found = Signal(object)

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._layer: Layer | None = None
        self.question = text_label(role="note")
        self.file = button("File…", "primary")
        self.folder = button("Folder…")
        self.layer = button("")
        self.cancel = button("Cancel")
        layout = panel_layout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.question)
        layout.addWidget(self.layer)
        layout.addWidget(FlowRow(self.file, self.folder, self.cancel, fill=True))
        self.file.clicked.connect(self._on_file)
        self.folder.clicked.connect(self._on_folder)
        self.layer.clicked.connect(self._on_layer)
        self.cancel.clicked.connect(self.hide)
        self.hide()

    def ask(self, moved: StackNotFoundError) -> None:
        """Show what is looked for, and offer a layer of the same shape."""
        reference = moved.reference
        z, y, x = reference.shape
        where = f"It was at {reference.absolute}. " if reference.absolute else ""
        remedy = f"{moved.remedy[:1].upper()}{moved.remedy[1:]}. " * bool(moved.remedy)
        self.question.setText(
            f"The stack {reference.name} of this project ({z} sections of {y} × {x} "
            f"px) was not found. {where}{remedy}Where is it now?"
        )
        fitting = [
            layer
            for layer in self._controller.sources()
            if (known := untouched(self._controller, layer)) is not None
            and known.shape == reference.shape
        ]
        self._layer = fitting[0] if fitting else None
        if self._layer is not None:
            self.layer.setText(f"Layer {shorten(self._layer.name)}")
            self.layer.setToolTip(f"It is the layer {self._layer.name}.")
        self.layer.setVisible(self._layer is not None)
        self.show()

    def _on_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Where is the stack now?")
        if path:
            self.found.emit(Path(path))

    def _on_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Where are the sections now?")
        if path:
            self.found.emit(Path(path))

    def _on_layer(self) -> None:
        if self._layer in self._controller.viewer.layers:
            self.found.emit(self._layer)


def untouched(controller: ViewerController, layer: Layer) -> Stack | None:
    """Return the stack of a layer; None if it is none, or has results already."""
    if controller.results(str(layer.unique_id)) is not None:
        return None
    try:
        return stack_of(layer)
    except ValueError:
        return None
