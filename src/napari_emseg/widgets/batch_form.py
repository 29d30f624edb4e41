"""What a batch does: weights, steps, where its results go, and where it runs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError
from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QVBoxLayout,
    QWidget,
)

from napari_emseg.batch import BatchConfig, BatchSettings
from napari_emseg.batch.settings import STEPS
from napari_emseg.io import OUTPUT_KINDS
from napari_emseg.session import Session
from napari_emseg.widgets.batch_controller import BatchController
from napari_emseg.widgets.check_box_row import CheckBoxRow
from napari_emseg.widgets.collapsible import CollapsibleBox
from napari_emseg.widgets.form import SettingsForm
from napari_emseg.widgets.formatting import format_variant
from napari_emseg.widgets.theme import (
    SPACING,
    button,
    follow,
    form_layout,
    row_label,
    text_label,
)
from napari_emseg.widgets.weights_box import WeightsBox

MAIN = ("output", "probabilities", "table")
ADVANCED = ("retries", "block", "whole")
LABEL_WIDTH = 108
"""So that labels line up with those of the settings below, px."""


class BatchForm(QWidget):
    """Makes a job of what is chosen here, and in the panels 2 and 3."""

    edited = Signal()

    def __init__(self, session: Session, batching: BatchController) -> None:
        super().__init__()
        self._session = session
        self._batching = batching
        settings = batching.settings
        self.weights = WeightsBox(session)
        self.steps = CheckBoxRow({step: step for step in STEPS})
        self.steps.tick(settings.steps)
        self.folder = QLineEdit(batching.out)
        self.folder.setPlaceholderText("a folder")
        self.browse = button("Folder…", tooltip="Choose where results are written.")
        self.replace = QCheckBox("Replace results")
        self.replace.setToolTip("Begin anew, and replace what is in the folder.")
        self.main = SettingsForm(settings, fields=MAIN)
        self.advanced = SettingsForm(settings, fields=ADVANCED)
        self.place = SettingsForm(batching.place)
        kinds = [kind for kind in OUTPUT_KINDS if not kind.missing]
        self.export = CheckBoxRow({kind.name: kind.title for kind in kinds}, below=True)
        for kind in kinds:
            self.export.boxes[kind.name].setToolTip(kind.opens_in)
        self.export.tick(settings.export)
        self.panels = text_label()
        self._lay_out()
        self._connect()
        self._on_panels()

    def _lay_out(self) -> None:
        line = QHBoxLayout()
        line.setSpacing(SPACING)
        line.addWidget(self.folder, 1)
        line.addWidget(self.browse)
        form, more = form_layout(), QWidget()
        rows = {"Weights": self.weights, "Steps": self.steps, "Results in": line}
        for words, field in rows.items():
            label = row_label(words)
            label.setMinimumWidth(LABEL_WIDTH)
            form.addRow(label, field)
        below = QVBoxLayout(more)
        below.setContentsMargins(0, 0, 0, 0)
        exports = form_layout()
        exports.addRow(row_label("Also as"), self.export)
        below.addWidget(self.place)
        below.addWidget(self.advanced)
        below.addLayout(exports)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        layout.addLayout(form)
        layout.addWidget(self.main)
        layout.addWidget(self.replace)
        layout.addWidget(self.panels)
        layout.addWidget(CollapsibleBox("Advanced", more, role="link"))

    def _connect(self) -> None:
        self.browse.clicked.connect(self._on_browse)
        for signal in (
            self.folder.textChanged,
            self.replace.toggled,
            self.main.edited,
            self.advanced.edited,
            self.place.edited,
            self.steps.edited,
            self.export.edited,
        ):
            signal.connect(self._on_edited)
        events = self._session.events
        for event in (events.weights, events.predict_settings, events.cell_settings):
            follow(self, event, self._on_panels)

    @property
    def out(self) -> Path | None:
        """Folder of the results; None as long as there is none."""
        text = self.folder.text().strip()
        return Path(text).expanduser() if text else None

    def propose(self, folder: Path) -> None:
        """Fill in a folder where nothing was chosen."""
        if self.out is None:
            self.folder.setText(str(folder))

    @property
    def settings(self) -> BatchSettings:
        """As chosen here and in the panels.

        Raises
        ------
        ValueError
            If the steps don't fit together.
        """
        chosen = {
            **{name: getattr(self.main.settings, name) for name in MAIN},
            **{name: getattr(self.advanced.settings, name) for name in ADVANCED},
            "steps": self.steps.ticked,
            "export": self.export.ticked,
            "predict": self._session.predict_settings,
            "cells": self._session.cell_settings,
        }
        try:
            return BatchSettings.model_validate(chosen)
        except ValidationError as e:
            msg = e.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(msg) from e

    def job(self) -> BatchConfig:
        """Return what is asked for, but for the inputs.

        Raises
        ------
        ValueError
            If something is missing.
        """
        out, settings = self.out, self.settings
        if out is None:
            msg = "no folder for the results: choose one under “Results in”"
            raise ValueError(msg)
        return BatchConfig(
            (),
            out,
            self._session.weights if "membranes" in settings.steps else None,
            settings,
            where=self._batching.place.where,
            overwrite=self.replace.isChecked(),
        )

    def _on_edited(self, *_: object) -> None:
        """Keep what is chosen for when the dock is opened again."""
        batching = self._batching
        batching.out, batching.place = self.folder.text(), self.place.settings
        with suppress(ValueError):
            batching.settings = self.settings
        self.edited.emit()

    def _on_browse(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Results in")
        if chosen:
            self.folder.setText(chosen)

    def _on_panels(self) -> None:
        """Say what of the other panels counts here."""
        session = self._session
        weights, cells = session.weights, session.cell_settings
        name = "no weights" if weights is None else weights.card.name
        depths = () if weights is None else weights.card.depths
        way = format_variant(name, session.predict_settings.model_dump(), depths)
        self.panels.setText(
            f"As set in 2 Membranes and 3 Cells: {way}; threshold "
            f"{cells.threshold:g}, {cells.method}, cells of {cells.minimum_size} px up."
        )
