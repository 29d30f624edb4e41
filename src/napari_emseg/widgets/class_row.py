"""What the brush draws: membrane, inside, or a class of one's own; and new classes."""

from __future__ import annotations

from typing import Any

from psygnal import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QLineEdit, QVBoxLayout, QWidget

from napari_emseg.session.training_inputs import TrainingInputs
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.linked_layers import LinkedLayers
from napari_emseg.widgets.theme import LABEL_WIDTH, SPACING, button, combo_box, follow

ERASE = "no opinion"


class ClassRow(QWidget):
    """Chooses what napari's brush paints on the layer of corrections.

    Signals: `said` with what is to be done now; `refused` with why it can't be.
    """

    said = Signal(str)
    refused = Signal(str)

    def __init__(self, controller: ViewerController, layers: LinkedLayers) -> None:
        super().__init__()
        self._controller = controller
        self._layers = layers
        self._material: TrainingInputs = controller.session.learning.material
        self.classes = combo_box()
        self.classes.setPlaceholderText("choose")
        self.classes.setToolTip("Paint this with napari's brush, on the corrections.")
        self.new = button("New…", tooltip="Name something else that you draw.")
        self.name = QLineEdit()
        self.name.setPlaceholderText("e.g. mitochondria")
        self.add = button("Add")
        self._lay_out()
        self.classes.activated.connect(self._on_chosen)
        self.new.clicked.connect(self._on_new)
        self.add.clicked.connect(self._on_add)
        self.name.returnPressed.connect(self._on_add)
        follow(self, self._material.changed, self._list)
        follow(self, controller.session.events.weights, self._list)
        self._list()

    def _lay_out(self) -> None:
        first, second = QHBoxLayout(), QHBoxLayout()
        label = QLabel("Brush")
        label.setMinimumWidth(LABEL_WIDTH)
        first.addWidget(label)
        first.addWidget(self.classes, 1)
        first.addWidget(self.new)
        self._naming = QWidget()
        second.setContentsMargins(0, 0, 0, 0)
        second.addWidget(self.name, 1)
        second.addWidget(self.add)
        self._naming.setLayout(second)
        self._naming.hide()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        layout.addLayout(first)
        layout.addWidget(self._naming)

    def _list(self) -> None:
        chosen = self.classes.currentData()
        self.classes.clear()
        for code, name in enumerate(self._material.classes, start=1):
            self.classes.addItem(f"{code}  {name}", code)
        self.classes.addItem(f"0  {ERASE}", 0)
        self.classes.setCurrentIndex(
            -1 if chosen is None else self.classes.findData(chosen)
        )

    def _on_chosen(self, *_: Any) -> None:
        self.paint(self.classes.currentData())

    def paint(self, code: int) -> None:
        """Let napari's brush paint a class on the corrections."""
        try:
            self._layers.show()
        except ValueError as e:
            self.classes.setCurrentIndex(-1)
            self.refused.emit(str(e))
            return
        layer = self._layers.layer("corrections")
        if layer is None:
            return
        layer.visible = True
        self._controller.viewer.layers.selection.active = layer
        layer.mode = "paint"
        layer.selected_label = code
        layer.preserve_labels = False
        self.classes.setCurrentIndex(self.classes.findData(code))
        self.said.emit(f"paint {self.classes.currentText()[3:]} with napari's brush")

    def _on_new(self) -> None:
        self._naming.setVisible(not self._naming.isVisibleTo(self))
        self.name.setFocus()

    def _on_add(self) -> None:
        try:
            code = self._material.add_class(self.name.text())
        except ValueError as e:
            self.refused.emit(str(e))
            return
        self.name.clear()
        self._naming.hide()
        self.paint(code)
