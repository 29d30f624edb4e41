"""6 Evaluate: a prediction and a truth in; scores, a curve and mistakes out."""

from collections.abc import Callable, Iterable
from typing import get_args

from napari import Viewer
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QLabel,
    QVBoxLayout,
    QWidget,
)

from napari_emseg._napari import stack_of
from napari_emseg.core.labels import Meaning
from napari_emseg.core.stack import Stack
from napari_emseg.session.comparison import (
    Compared,
    Side,
    check_pair,
    compile_scores,
    iter_compare,
    meaning_said,
    says_linked,
)
from napari_emseg.widgets.camera import section_here
from napari_emseg.widgets.controller import ViewerController, controller_for
from napari_emseg.widgets.formatting import format_sections
from napari_emseg.widgets.result import Result
from napari_emseg.widgets.run import JobRow, Work
from napari_emseg.widgets.theme import (
    SPACING,
    combo_box,
    follow,
    follow_soon,
    form_layout,
    panel_layout,
    row_label,
    set_role,
    text_label,
)

HELP = """What the values of the layer are. It is never guessed:<br>
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
        row.addWidget(QLabel("type"))
        row.addWidget(self.meaning, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        layout.addWidget(self.layers)
        layout.addLayout(row)
        self.layers.activated.connect(self._on_layer)
        self.meaning.activated.connect(self._on_meaning)
        self._catch_up = follow_soon(self, controller.sources_changed, self.list_layers)
        # results say what they are by then
        controller.job.ended.connect(self.list_layers)
        self.list_layers()

    @property
    def layer(self) -> Layer | None:
        """The chosen layer; None if there is none, or it was removed."""
        self._catch_up()
        key = self.layers.currentData()
        layers = self._controller.viewer.layers
        return next((x for x in layers if _key(x) == key and _stack(x)), None)

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
    box.setPlaceholderText("choose a type")
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


SECTION, ALL = "this section", "all sections"


class EvaluatePanel(QWidget):
    """Compares two layers, and shows where they differ."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._controller = controller_for(napari_viewer)
        self.prediction = LayerPicker(self._controller, self._propose_prediction)
        self.truth = LayerPicker(self._controller, self._propose_truth)
        self.scope = combo_box()
        self.scope.addItems([SECTION, ALL])
        self.linked = QCheckBox("Compare cells through sections")
        self.linked.setToolTip(
            "A cell has one number in all its sections, in both layers: its adapted "
            "Rand error and VI are then those of whole cells. V_Rand, V_Info and the "
            "mistakes are those of sections in any case."
        )
        self.state = text_label(role="plain")
        self.run = JobRow("Evaluate", self._prepare)
        self.result = Result(self._controller)
        self._layer: Layer | None = None
        self._said = self._warning = ""
        self._lay_out()
        self._connect()
        self._on_sides()

    def attach(self) -> None:
        """Show the rings around mistakes: the panel can be seen."""
        self._controller.compile_soon(compile_scores)
        self.result.mistakes.attach()

    def detach(self) -> None:
        """Take them away."""
        self.result.mistakes.detach()

    def _lay_out(self) -> None:
        form = form_layout()
        form.addRow(row_label("Prediction"), self.prediction)
        form.addRow(row_label("Ground truth"), self.truth)
        form.addRow(row_label("Run on"), self.scope)
        layout = panel_layout(self)
        layout.addLayout(form)
        layout.addWidget(self.linked)
        layout.addWidget(self.state)
        self.run.stick_in(layout)
        layout.addWidget(self.result)

    def _connect(self) -> None:
        self.prediction.changed.connect(self._on_sides)
        self.truth.changed.connect(self._on_sides)
        self.scope.currentTextChanged.connect(self._on_sides)
        self.linked.toggled.connect(self._on_linked)
        self.run.button.clicked.connect(self.result.mark_earlier)
        self.run.done.connect(self._on_done)
        follow(self, self._controller.session.events.source, self._on_sides)

    def _propose_prediction(self, layers: Iterable[Layer]) -> Layer | None:
        """Return a layer that says what it is, probabilities first."""
        known = [x for x in layers if meaning_said(stack_of(x)) is not None]
        known.sort(key=lambda layer: not isinstance(layer, Image))
        return next(
            (x for x in known if self._controller.results_with(x) is not None), None
        )

    def _propose_truth(self, layers: Iterable[Layer]) -> Layer | None:
        """Return labels that are none of our results."""
        others = (x for x in layers if isinstance(x, Labels))
        return next(
            (x for x in others if self._controller.results_with(x) is None), None
        )

    def _on_sides(self) -> None:
        """Say what would be compared, or why nothing can be."""
        prediction, truth = self.prediction.side(), self.truth.side()
        words, ready = _format_sides(prediction, truth, self.scope.currentText())
        self._said = words
        self._warning = self._warn() if ready else ""
        set_role(self.state, "plain" if ready and not self._warning else "note")
        self.run.set_ready(ready, "" if ready else words)
        cells = ready and prediction.meaning == truth.meaning == "cells"  # type: ignore[union-attr]
        linkable = cells and self.scope.currentText() == ALL
        if prediction is not None and linkable and not self.linked.isVisibleTo(self):
            self.linked.setChecked(says_linked(prediction.stack))
        self.linked.setVisible(linkable)
        self._on_linked()

    def _on_linked(self) -> None:
        """Say how cells would be compared, where that can be chosen."""
        how = ""
        if self.linked.isVisibleTo(self):
            checked = self.linked.isChecked()
            how = ", and cells through them" if checked else ", each by itself"
        warning = f". {self._warning}" if self._warning else ""
        self.state.setText(f"{self._said}{how}{warning}")

    def _warn(self) -> str:
        """Say if results are of data that aren't there any more."""
        layers = filter(None, (self.prediction.layer, self.truth.layer))
        return " ".join(
            dict.fromkeys(filter(None, map(self._controller.warning_of, layers)))
        )

    def _prepare(self) -> tuple[str, Work]:
        prediction, truth = self.prediction.side(), self.truth.side()
        check_pair(prediction, truth)
        layer = self.prediction.layer
        if prediction is None or truth is None or layer is None:
            msg = "the layers are gone; choose others"
            raise ValueError(msg)
        self._layer = layer
        sections = list(range(prediction.stack.shape[0]))
        if self.scope.currentText() == SECTION:
            sections = [section_here(self._controller.viewer, layer)]
        work = iter_compare(
            prediction,
            truth,
            sections,
            results=self._controller.results_with(layer),
            linked=self.linked.isVisibleTo(self) and self.linked.isChecked(),
        )
        return f"Scores of {prediction.name}", work

    def _on_done(self, found: Compared) -> None:
        layer, self._layer = self._layer, None
        there = layer is not None and layer in self._controller.viewer.layers
        self.result.show_result(found, layer if there else None)


def _format_sides(
    prediction: Side | None, truth: Side | None, scope: str
) -> tuple[str, bool]:
    """Say what would be compared; or what is missing, and False."""
    try:
        check_pair(prediction, truth)
    except ValueError as e:
        return str(e), False
    if prediction is None or truth is None:
        return "", False
    if prediction.stack.data is truth.stack.data:
        return "prediction and truth are the same layer", False
    n = prediction.stack.shape[0] if scope == ALL else 1
    return f"compares {format_sections(n)}", True
