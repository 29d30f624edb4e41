"""Whether dark and bright are swapped: a choice, pictures of both, what will be."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_emseg.core.settings import Invert
from napari_emseg.session.polarity_preview import PolarityPreview, iter_polarity_preview
from napari_emseg.widgets.camera import nearest_section
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.jobs import BackgroundJob, JobResult
from napari_emseg.widgets.theme import (
    SPACING,
    combo_box,
    follow,
    form_layout,
    row_label,
    set_role,
    text_label,
)

CHOICES: dict[Invert, str] = {
    "auto": "auto: if membranes look bright",
    "no": "no: membranes are dark, as usual",
    "yes": "yes: membranes are bright",
}


class InvertBox(QWidget):
    """Chooses `PredictSettings.invert` beside pictures of the section either way."""

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._job = BackgroundJob(in_activity_dock=False)
        self._looked_at: object = None
        self._look: PolarityPreview | None = None
        self.choice = combo_box()
        for value in get_args(Invert):
            self.choice.addItem(CHOICES[value], value)
        self.choice.setToolTip("Networks learnt from pictures with dark membranes.")
        self.proposal = text_label()
        self.pictures = {"no": QLabel(), "yes": QLabel()}
        self._lay_out()
        self.choice.activated.connect(self._on_chosen)
        self._job.ended.connect(self._on_looked)
        events = controller.session.events
        follow(self, events.source, self._on_source)
        follow(self, events.predict_settings, self._on_settings)
        self._on_settings()
        self._on_source()

    def _lay_out(self) -> None:
        form = form_layout()
        form.addRow(row_label("Invert"), self.choice)
        row = QHBoxLayout()
        row.setSpacing(SPACING)
        for value, words in (("no", "as it is"), ("yes", "inverted")):
            column = QVBoxLayout()
            column.setSpacing(0)
            column.addWidget(self.pictures[value])
            column.addWidget(text_label(words))
            row.addLayout(column)
        row.addWidget(self.proposal, 1)
        self._pictures_row = QWidget()
        self._pictures_row.setLayout(row)
        row.setContentsMargins(0, 0, 0, 0)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form)
        layout.addWidget(self._pictures_row)

    def _on_chosen(self, index: int) -> None:
        session = self._controller.session
        session.predict_settings = session.predict_settings.model_copy(
            update={"invert": self.choice.itemData(index)}
        )

    def _on_settings(self) -> None:
        value = self._controller.session.predict_settings.invert
        self.choice.setCurrentIndex(self.choice.findData(value))
        self._show_look()

    def _show_look(self) -> None:
        """Say what a run will do; a frame is around what the network will see."""
        invert = self._controller.session.predict_settings.invert
        look = self._look
        inverts = invert == "yes" if look is None else look.inverts(invert)
        for name, picture in self.pictures.items():
            used = (name == "yes") == inverts
            set_role(picture, "chosen picture" if used else "picture")
        self.proposal.setText("" if look is None else format_polarity(look, invert))
        doubtful = look is not None and look.inverts("auto") != inverts
        set_role(self.proposal, "note" if inverts or doubtful else "hint")

    def _on_source(self) -> None:
        """Look at the section on screen, once for each stack."""
        source, layer = self._controller.session.source, self._controller.source_layer
        if source is None or layer is None or source.is_probabilities:
            self._looked_at = self._look = None
            self._pictures_row.hide()
            return
        if self._looked_at is source.stack.data or self._job.busy:
            return
        self._looked_at = source.stack.data
        z = nearest_section(self._controller.viewer, layer)
        self._job.start(
            iter_polarity_preview(source.stack, z), f"Look at {source.name}"
        )

    def _on_looked(self, outcome: JobResult) -> None:
        look = outcome.result
        source = self._controller.session.source
        self._pictures_row.setVisible(
            isinstance(look, PolarityPreview) and source is not None
        )
        self._look = look if isinstance(look, PolarityPreview) else None
        if isinstance(look, PolarityPreview):
            self.pictures["no"].setPixmap(pixmap(look.as_it_is))
            self.pictures["yes"].setPixmap(pixmap(look.inverted))
        self._show_look()
        self._on_source()  # another stack may have come meanwhile


def format_polarity(look: PolarityPreview, invert: Invert) -> str:
    """Say what membranes look like, and what a run will do about it."""
    found = look.polarity
    seen = f"{found.words[0].upper()}{found.words[1:]}"
    if invert != "auto":
        will = "inverts" if invert == "yes" else "does not invert"
        return f"{seen}. A run {will}, as you chose."
    if found.inverted:
        return f"{seen}: a run inverts. Choose “no” if they are dark."
    if found.inverted is None:
        return f"{seen}: a run does not invert. Choose “yes” if they are bright."
    return f"{seen}: nothing to invert."


def pixmap(values: NDArray[Any]) -> QPixmap:
    """Return a grey picture of values `(y, x)` in [0, 1]."""
    grey = np.ascontiguousarray(np.round(255 * values), dtype=np.uint8)
    height, width = grey.shape
    kind = QImage.Format.Format_Grayscale8
    return QPixmap.fromImage(QImage(grey.data, width, height, width, kind).copy())
