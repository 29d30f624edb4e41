"""Which section is done: to do, reviewed, excluded; and on to the next."""

from __future__ import annotations

from typing import Any, Literal

from psygnal import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_emseg.proofreading.review import next_section, status_of
from napari_emseg.widgets.camera import (
    go_to_section,
    nearest_section,
    no_section,
    section_here,
    section_on_screen,
)
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.theme import SPACING, button, combo_box, follow

STATUSES = ("to do", "reviewed", "excluded")


class ReviewRow(QWidget):
    """Says and sets the status of the section on screen."""

    said = Signal(str)
    refused = Signal(str)

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self.label = QLabel()
        self.status = combo_box()
        self.status.addItems(STATUSES)
        self.status.setToolTip("Mark the section on screen (R: reviewed or to do)")
        self.before = button("◂ to do", tooltip="Go back to a section that is to do")
        self.next = button("to do ▸", tooltip="Go to the next section to do (N)")
        first, second = QHBoxLayout(), QHBoxLayout()
        for row in (first, second):
            row.setSpacing(SPACING)
        first.addWidget(self.label, 1)
        first.addWidget(self.status)
        second.addWidget(self.before)
        second.addWidget(self.next)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(first)
        layout.addLayout(second)
        self.status.activated.connect(self._on_chosen)
        self.before.clicked.connect(self.go_back)
        self.next.clicked.connect(self.go_next)
        follow(self, controller.session.events.source, self._on_state)
        follow(self, controller.viewer.dims.events.current_step, self._on_state)
        self._on_state()

    def go_next(self, *_: Any) -> None:
        """Go to the next section that is to do."""
        self._go(1)

    def go_back(self, *_: Any) -> None:
        """Go to the one before that is to do."""
        self._go(-1)

    def toggle(self, *_: Any) -> None:
        """Mark the section as reviewed, or as to do."""
        now = self.status.currentText()  # `_set` refuses where no section is seen
        self._set("to do" if now == "reviewed" else "reviewed")

    def _go(self, step: Literal[1, -1]) -> None:
        source, layer = self._controller.session.source, self._controller.source_layer
        if source is None or layer is None:
            self.refused.emit("no stack is chosen; choose one in 1 Data")
            return
        here = nearest_section(self._controller.viewer, layer)
        n = source.stack.shape[0]
        try:
            z = next_section(here, n, source.reviewed, source.excluded, step=step)
        except ValueError as e:
            self.refused.emit(str(e))
            return
        go_to_section(self._controller.viewer, layer, z)

    def _on_chosen(self) -> None:
        self._set(self.status.currentText())

    def _set(self, status: str) -> None:
        session, layer = self._controller.session, self._controller.source_layer
        if session.source is None or layer is None:
            self.refused.emit("no stack is chosen; choose one in 1 Data")
            return
        try:
            z = section_here(self._controller.viewer, layer)
            session.exclude(z, excluded=status == "excluded")
            session.review(z, reviewed=status == "reviewed")
        except ValueError as e:
            self._on_state()
            self.refused.emit(str(e))
            return
        self.said.emit(f"section {z} is {status}")

    def _on_state(self) -> None:
        source, layer = self._controller.session.source, self._controller.source_layer
        self.setEnabled(source is not None and layer is not None)
        if source is None or layer is None:
            self.label.setText("no stack")
            return
        viewer, n = self._controller.viewer, source.stack.shape[0]
        z, done = section_on_screen(viewer, layer), len(source.reviewed)
        self.status.setEnabled(z is not None)
        if z is None:
            self.label.setText(f"{no_section(viewer, layer)} · {done} reviewed")
            return
        self.label.setText(f"Section {z} of {n} · {done} reviewed")
        self.status.setCurrentText(status_of(z, source.reviewed, source.excluded))
