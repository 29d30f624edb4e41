"""Whether membranes are dark or bright: a proposal, a picture of both, a choice."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_emseg.core.settings import Invert
from napari_emseg.session.look import Look, looking
from napari_emseg.widgets.desk import Desk
from napari_emseg.widgets.jobs import Job, Outcome
from napari_emseg.widgets.theme import (
    SPACING,
    combo_box,
    follow,
    form_layout,
    row_label,
    set_role,
    text_label,
)
from napari_emseg.widgets.view import section_on_screen

CHOICES: dict[Invert, str] = {
    "auto": "auto: only proposes",
    "no": "dark, as usual in EM",
    "yes": "bright: invert",
}

PROPOSALS = {
    "dark": "They look dark: nothing to invert.",
    "bright": "They look bright. If they are, choose “{yes}”; auto doesn't invert.",
    "unclear": "Can't tell whether they are dark or bright.",
}


class InvertBox(QWidget):
    """Chooses `PredictSettings.invert` beside pictures of the section either way."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._job = Job(in_activity_dock=False)
        self._looked_at: object = None
        self.choice = combo_box()
        for value in get_args(Invert):
            self.choice.addItem(CHOICES[value], value)
        self.choice.setToolTip("Networks learnt from pictures with dark membranes.")
        self.proposal = text_label()
        self.pictures = {"no": QLabel(), "yes": QLabel()}
        self._lay_out()
        self.choice.activated.connect(self._on_chosen)
        self._job.ended.connect(self._on_looked)
        events = desk.session.events
        follow(self, events.source, self._on_source)
        follow(self, events.predict_settings, self._on_settings)
        self._on_settings()
        self._on_source()

    def _lay_out(self) -> None:
        form = form_layout()
        form.addRow(row_label("Membranes"), self.choice)
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
        session = self._desk.session
        session.predict_settings = session.predict_settings.model_copy(
            update={"invert": self.choice.itemData(index)}
        )

    def _on_settings(self) -> None:
        value = self._desk.session.predict_settings.invert
        self.choice.setCurrentIndex(self.choice.findData(value))
        used = "yes" if value == "yes" else "no"
        for name, picture in self.pictures.items():
            set_role(picture, "chosen picture" if name == used else "picture")

    def _on_source(self) -> None:
        """Look at the section on screen, once for each stack."""
        source, layer = self._desk.session.source, self._desk.source_layer
        if source is None or layer is None or source.is_probabilities:
            self._looked_at = None
            self._pictures_row.hide()
            return
        if self._looked_at is source.stack.data or self._job.busy:
            return
        self._looked_at = source.stack.data
        z = section_on_screen(self._desk.viewer, layer)
        self._job.start(looking(source.stack, z), f"Look at {source.name}")

    def _on_looked(self, outcome: Outcome) -> None:
        look = outcome.result
        source = self._desk.session.source
        self._pictures_row.setVisible(isinstance(look, Look) and source is not None)
        if isinstance(look, Look):
            self.pictures["no"].setPixmap(pixmap(look.as_it_is))
            self.pictures["yes"].setPixmap(pixmap(look.inverted))
            words = PROPOSALS[look.membranes].format(yes=CHOICES["yes"])
            self.proposal.setText(words)
            set_role(self.proposal, "note" if look.membranes == "bright" else "hint")
        self._on_source()  # another stack may have come meanwhile


def pixmap(values: NDArray[Any]) -> QPixmap:
    """Return a grey picture of values `(y, x)` in [0, 1]."""
    grey = np.ascontiguousarray(np.round(255 * values), dtype=np.uint8)
    height, width = grey.shape
    kind = QImage.Format.Format_Grayscale8
    return QPixmap.fromImage(QImage(grey.data, width, height, width, kind).copy())
