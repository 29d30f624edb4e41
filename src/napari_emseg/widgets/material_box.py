"""What else is learnt from: labels drawn elsewhere, and other stacks of the window."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

from napari.layers import Image, Labels, Layer
from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_emseg._napari import stack_of
from napari_emseg.session.comparison import meaning_said
from napari_emseg.session.training_inputs import TrainingInputs
from napari_emseg.training.corrections import LabelMeaning
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.theme import (
    combo_box,
    follow,
    form_layout,
    row_label,
    set_role,
    text_label,
)

NONE = "none"
HELP = """What the labels are. It is never guessed:<br>
<b>membrane</b>, <b>inside</b>: masks<br>
<b>cells</b>: one number for each cell, 0 between them<br>
<b>corrections</b>: 1 membrane, 2 inside, 3 and more for classes of your own, 0 unknown
<br>In a section with any label of the first three, everything counts."""


class MaterialBox(QWidget):
    """Chooses labels that were drawn elsewhere, and stacks that join."""

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._material: TrainingInputs = controller.session.learning.material
        self._drawn = ""
        self.labels = combo_box()
        self.meaning = combo_box()
        self.meaning.addItems(get_args(LabelMeaning))
        self.meaning.setPlaceholderText("choose what")
        self.meaning.setToolTip(HELP)
        self.stacks: dict[str, QCheckBox] = {}
        self.message = text_label()
        form = form_layout()
        form.addRow(row_label("Labels"), self.labels)
        form.addRow(row_label("hold"), self.meaning)
        self._boxes = QVBoxLayout()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form)
        layout.addLayout(self._boxes)
        layout.addWidget(self.message)
        self.labels.activated.connect(self._on_layer)
        self.meaning.activated.connect(self._on_chosen)
        follow(self, controller.sources_changed, self.list_layers)
        follow(self, controller.session.events.source, self.list_layers)
        follow(self, self._material.changed, self._list_stacks)
        self.list_layers()

    def list_layers(self) -> None:
        """List layers that might be labels of the stack at work."""
        chosen = self.labels.currentData()
        self.labels.clear()
        self.labels.addItem(NONE, None)
        for layer in self._candidates():
            self.labels.addItem(layer.name, str(layer.unique_id))
        index = self.labels.findData(chosen) if chosen else 0
        self.labels.setCurrentIndex(max(0, index))
        if index < 0:
            self._on_layer()
        self.meaning.setEnabled(self.labels.currentData() is not None)
        self._list_stacks()

    def _candidates(self) -> list[Layer]:
        """Return layers of the stack's shape; labels, and images that are masks."""
        source, here = self._controller.session.source, self._controller.source_layer
        if source is None:
            return []
        return [
            layer
            for layer in self._controller.viewer.layers
            if isinstance(layer, Labels | Image)
            and layer is not here
            and tuple(layer.data.shape) in (source.stack.shape, source.stack.shape[1:])
            and self._controller.results_with(layer) is None
        ]

    def _layer(self) -> Layer | None:
        key = self.labels.currentData()
        return next((x for x in self._candidates() if str(x.unique_id) == key), None)

    def _on_layer(self, *_: Any) -> None:
        layer = self._layer()
        self.meaning.setEnabled(layer is not None)
        said = None if layer is None else meaning_said(stack_of(layer))
        self.meaning.setCurrentIndex(
            -1 if said is None else self.meaning.findText(said)
        )
        self._on_chosen()

    def _on_chosen(self, *_: Any) -> None:
        """Learn from these labels, and not from those before."""
        layer, meaning = self._layer(), self.meaning.currentText()
        if self._drawn:
            self._material.undraw(self._drawn)
            self._drawn = ""
        self.message.setText("")
        if layer is None:
            return
        if not meaning:
            self._say(f"say what {layer.name} holds", "note")
            return
        try:
            self._material.draw(str(layer.unique_id), stack_of(layer), meaning)
        except ValueError as e:
            self._say(str(e), "error")
            return
        self._drawn = str(layer.unique_id)

    def _say(self, words: str, role: str) -> None:
        self.message.setText(words)
        set_role(self.message, role)

    def _list_stacks(self) -> None:
        """Offer the other stacks that were worked on."""
        others = {source.key: source.name for source in self._material.others()}
        for key in [key for key in self.stacks if key not in others]:
            box = self.stacks.pop(key)
            self._boxes.removeWidget(box)
            box.deleteLater()
        for key, name in others.items():
            if key not in self.stacks:
                box = QCheckBox()
                box.toggled.connect(partial(self._on_joined, key))
                self._boxes.addWidget(box)
                self.stacks[key] = box
            box = self.stacks[key]
            box.setText(f"and from {name}")
            blocked = box.blockSignals(True)
            box.setChecked(self._material.is_joined(key))
            box.blockSignals(blocked)

    def _on_joined(self, key: str, joined: bool) -> None:
        self._material.join(key, joined=joined)
