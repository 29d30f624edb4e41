"""Asks where the stack of a project is, if it isn't where it was."""

from __future__ import annotations

from pathlib import Path

from napari.layers import Layer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QWidget

from napari_emseg._napari import stack_of
from napari_emseg.core.stack import Stack
from napari_emseg.project import StackNotFoundError
from napari_emseg.widgets.collapsible import panel_layout
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.theme import button, text_label


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
        row = QHBoxLayout()
        for choice in (self.file, self.folder, self.cancel):
            row.addWidget(choice)
        layout = panel_layout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.question)
        layout.addWidget(self.layer)
        layout.addLayout(row)
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
        self.question.setText(
            f"The stack {reference.name} of this project ({z} sections of {y} × {x} "
            f"px) was not found. {where}Where is it now?"
        )
        fitting = [
            layer
            for layer in self._controller.sources()
            if (known := untouched(self._controller, layer)) is not None
            and known.shape == reference.shape
        ]
        self._layer = fitting[0] if fitting else None
        if self._layer is not None:
            self.layer.setText(f"It is the layer {self._layer.name}")
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
