"""A layer to compare, and what it holds: said by the layer or by the user."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import get_args

from napari.layers import Image, Labels, Layer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_emseg._napari import stack_of
from napari_emseg.core.labels import Meaning
from napari_emseg.core.stack import Stack
from napari_emseg.session.comparison import Side, meaning_said
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.theme import SPACING, combo_box, follow

HELP = """What the layer holds. It is never guessed:<br>
<b>membrane</b>: probability of membrane, or a mask of it<br>
<b>inside</b>: probability of the inside of cells, or a mask of it<br>
<b>cells</b>: one number for each cell, 0 between them"""


class LayerPicker(QWidget):
    """Chooses a layer and its meaning.

    `changed` tells that either is another one. What was said of a layer is remembered.

    Parameters
    ----------
    propose
        Chooses among the layers as long as the user didn't.
    """

    changed = Signal()

    def __init__(
        self,
        controller: ViewerController,
        propose: Callable[[Iterable[Layer]], Layer | None],
    ) -> None:
        super().__init__()
        self._controller = controller
        self._propose = propose
        self._chosen = ""
        self._said: dict[str, Meaning] = {}
        self.layers = combo_box()
        self.layers.setPlaceholderText("choose a layer")
        self.meaning = _meanings()
        row = QHBoxLayout()
        row.addWidget(QLabel("holds"))
        row.addWidget(self.meaning, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        layout.addWidget(self.layers)
        layout.addLayout(row)
        self.layers.activated.connect(self._on_layer)
        self.meaning.activated.connect(self._on_meaning)
        follow(self, controller.sources_changed, self.list_layers)
        controller.job.ended.connect(
            self.list_layers
        )  # results say what they are by then
        self.list_layers()

    @property
    def layer(self) -> Layer | None:
        """The chosen layer; None if there is none, or it was removed."""
        key = self.layers.currentData()
        return next((x for x in self._comparable() if _key(x) == key), None)

    def side(self) -> Side | None:
        """Return what is to be compared; None without a layer."""
        layer = self.layer
        if layer is None:
            return None
        mask = isinstance(layer, Labels)
        return Side(stack_of(layer), self.meaning.currentData(), mask=mask)

    def list_layers(self) -> None:
        """List the layers anew; the one that was chosen stays so."""
        layers = self._comparable()
        self.layers.clear()
        for layer in layers:
            self.layers.addItem(layer.name, _key(layer))
        index = self.layers.findData(self._chosen) if self._chosen else -1
        if index < 0:
            self._chosen = ""
            proposed = self._propose(layers)
            index = -1 if proposed is None else self.layers.findData(_key(proposed))
        self.layers.setCurrentIndex(index)
        self._show_meaning()

    def _comparable(self) -> list[Layer]:
        return [layer for layer in self._controller.viewer.layers if _stack(layer)]

    def _on_layer(self, index: int) -> None:
        self._chosen = self.layers.itemData(index)
        self._show_meaning()

    def _on_meaning(self, index: int) -> None:
        self._said[self.layers.currentData()] = self.meaning.itemData(index)
        self.changed.emit()

    def _show_meaning(self) -> None:
        layer = self.layer
        said = None
        if layer is not None:
            said = self._said.get(_key(layer)) or meaning_said(stack_of(layer))
        self.meaning.setCurrentIndex(
            -1 if said is None else self.meaning.findData(said)
        )
        self.meaning.setEnabled(layer is not None)
        self.layers.setToolTip("" if layer is None else layer.name)
        self.changed.emit()


def _meanings() -> QComboBox:
    box = combo_box()
    for meaning in get_args(Meaning):
        box.addItem(meaning, meaning)
    box.setPlaceholderText("choose what")
    box.setToolTip(HELP)
    return box


def _stack(layer: Layer) -> Stack | None:
    """Return a layer as a stack; None if it is none."""
    if not isinstance(layer, Image | Labels):
        return None
    try:
        return stack_of(layer)
    except ValueError:
        return None


def _key(layer: Layer) -> str:
    return str(layer.unique_id)
