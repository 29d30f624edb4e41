"""6 Evaluate: a prediction and a truth in; scores, a curve and mistakes out."""

from __future__ import annotations

from collections.abc import Iterable

from napari import Viewer
from napari.layers import Image, Labels, Layer
from qtpy.QtWidgets import (
    QCheckBox,
    QWidget,
)

from napari_emseg._napari import stack_of
from napari_emseg.session.comparison import (
    Compared,
    Side,
    check_pair,
    iter_compare,
    meaning_said,
    says_linked,
)
from napari_emseg.widgets.camera import section_here
from napari_emseg.widgets.collapsible import panel_layout
from napari_emseg.widgets.controller import controller_for
from napari_emseg.widgets.formatting import format_sections
from napari_emseg.widgets.job_row import JobRow, Work
from napari_emseg.widgets.layer_picker import LayerPicker
from napari_emseg.widgets.result import Result
from napari_emseg.widgets.theme import (
    combo_box,
    form_layout,
    row_label,
    set_role,
    text_label,
)

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
            "A cell has one number in all its sections, in both layers. Else each "
            "section is compared by itself."
        )
        self.state = text_label(role="plain")
        self.run = JobRow("Evaluate", self._prepare)
        self.result = Result(self._controller)
        self._layer: Layer | None = None
        self._lay_out()
        self._connect()
        self._on_sides()

    def attach(self) -> None:
        """Show the rings around mistakes: the panel can be seen."""
        self.result.mistakes.attach()

    def detach(self) -> None:
        """Take them away."""
        self.result.mistakes.detach()

    def _lay_out(self) -> None:
        form = form_layout()
        form.addRow(row_label("Prediction"), self.prediction)
        form.addRow(row_label("Truth"), self.truth)
        form.addRow(row_label("Scope"), self.scope)
        layout = panel_layout(self)
        layout.addLayout(form)
        layout.addWidget(self.linked)
        layout.addWidget(self.state)
        layout.addWidget(self.run)
        layout.addWidget(self.result)

    def _connect(self) -> None:
        self.prediction.changed.connect(self._on_sides)
        self.truth.changed.connect(self._on_sides)
        self.scope.currentTextChanged.connect(self._on_sides)
        self.run.done.connect(self._on_done)

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
        words, ready = _in_words(prediction, truth, self.scope.currentText())
        self.state.setText(words)
        set_role(self.state, "plain" if ready else "note")
        self.run.set_ready(ready, "" if ready else words)
        cells = ready and prediction.meaning == truth.meaning == "cells"  # type: ignore[union-attr]
        linkable = cells and self.scope.currentText() == ALL
        if prediction is not None and linkable and not self.linked.isVisibleTo(self):
            self.linked.setChecked(says_linked(prediction.stack))
        self.linked.setVisible(linkable)

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


def _in_words(
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
