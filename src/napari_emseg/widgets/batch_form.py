"""What a batch does: weights, steps, where its results go, and where it runs."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError
from qtpy.QtCore import Qt, QUrl, Signal
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QHBoxLayout,
    QLayout,
    QLineEdit,
    QVBoxLayout,
    QWidget,
)

from napari_emseg.batch import BatchConfig, BatchSettings, OpenedRecipe, preset
from napari_emseg.batch.recipe import HERE, PRESETS, without_machine
from napari_emseg.batch.settings import settings_of_steps, step_names
from napari_emseg.inference.precision import check_precision, refused_precisions
from napari_emseg.io import OUTPUT_KINDS
from napari_emseg.segmentation.edge_classifier import read_edges
from napari_emseg.session import Session
from napari_emseg.session.run_factory import RunFactory
from napari_emseg.widgets.batch_controller import BatchController
from napari_emseg.widgets.flow_row import FlowLayout
from napari_emseg.widgets.form import SettingsForm
from napari_emseg.widgets.formatting import format_variant
from napari_emseg.widgets.run import JobControls
from napari_emseg.widgets.theme import (
    SPACING,
    CollapsibleBox,
    button,
    combo_box,
    follow,
    form_layout,
    row_label,
    set_role,
    text_label,
)
from napari_emseg.widgets.weights_box import WeightsBox


class CheckBoxRow(QWidget):
    """Boxes in a row, or one below the other.

    Parameters
    ----------
    names
        What is chosen from, and the words of each.
    """

    edited = Signal()

    def __init__(self, names: Mapping[str, str], *, below: bool = False) -> None:
        super().__init__()
        layout: QLayout = QVBoxLayout(self) if below else FlowLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        self.boxes: dict[str, QCheckBox] = {}
        for name, words in names.items():
            box = QCheckBox(words)
            box.toggled.connect(lambda _: self.edited.emit())
            layout.addWidget(box)
            self.boxes[name] = box

    @property
    def ticked(self) -> tuple[str, ...]:
        """Names that are ticked, in their order."""
        return tuple(name for name, box in self.boxes.items() if box.isChecked())

    def tick(self, names: Iterable[str]) -> None:
        """Tick these and no others, without telling anyone."""
        wanted = set(names)
        for name, box in self.boxes.items():
            blocked = box.blockSignals(True)
            box.setChecked(name in wanted)
            box.blockSignals(blocked)


CHOSEN = "as chosen below"
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
        self.preset = combo_box()
        self.preset.addItem(CHOSEN, "")
        for name, (title, _) in PRESETS.items():
            self.preset.addItem(title, name)
        self.weights = WeightsBox(session)
        self.steps = CheckBoxRow({step: step for step in step_names()})
        self.steps.tick(settings.steps)
        self.folder = QLineEdit(batching.out)
        self.folder.setPlaceholderText("a folder")
        self.browse = button("Folder…", tooltip="Choose where results are written.")
        self.replace = QCheckBox("Replace results")
        self.replace.setToolTip("Begin anew, and replace what is in the folder.")
        self._main = ("output", *settings_of_steps())
        self.main = SettingsForm(settings, fields=self._main)
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
        rows = {
            "Preset": self.preset,
            "Model": self.weights,
            "Stages": self.steps,
            "Results in": line,
        }
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
        self.preset.activated.connect(self._on_preset)
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
        told = events.weights, events.source, events.predict_settings
        for event in (*told, events.cell_settings):
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
            **{name: getattr(self.main.settings, name) for name in self._main},
            **{name: getattr(self.advanced.settings, name) for name in ADVANCED},
            "steps": self.steps.ticked,
            "export": self.export.ticked,
            "predict": RunFactory(self._session).predict_settings,
            "cells": self._session.cell_settings,
        }
        try:
            return BatchSettings.model_validate(chosen)
        except ValidationError as e:
            msg = e.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(msg) from e

    def show_batch(self, settings: BatchSettings) -> None:
        """Show other settings of a batch; those of 2 Membranes and 3 Cells stay.

        Raises
        ------
        ValueError
            If a package is missing for a format that they ask for.
        """
        for kind in OUTPUT_KINDS:
            if kind.name in settings.export and kind.missing:
                raise ValueError(kind.missing)
        self.steps.tick(settings.steps)
        self.export.tick(settings.export)
        self.main.show_settings(settings)
        self.advanced.show_settings(settings)
        self._on_edited()

    def use_recipe(self, opened: OpenedRecipe) -> None:
        """Set what a recipe says, here and in the panels 2 and 3.

        Raises
        ------
        ValueError
            If its weights aren't here, or a package is missing; nothing is set then.
        """
        session, settings = self._session, opened.settings
        weights = opened.weights()
        path = opened.edges()
        edges = None if path is None else read_edges(path)
        self.show_batch(settings)
        if weights is not None:
            session.choose_weights(weights.whole or weights)
        here = {name: getattr(session.predict_settings, name) for name in HERE}
        session.choose_settings(settings.predict.model_copy(update=here))
        session.cell_settings = settings.cells
        session.edges = edges
        self._batching.recipe, self._batching.recipe_edges = opened, edges
        self._on_edited()

    def _recipe_label(self) -> str | None:
        """Return what results say of the recipe, as long as nothing was changed."""
        session = self._session
        opened, weights = self._batching.recipe, session.weights
        if opened is None or without_machine(self.settings) != opened.settings:
            return None
        said = opened.recipe.weights
        other = said is not None and (weights is None or weights.sha256 != said.sha256)
        edges = session.edges, self._batching.recipe_edges
        by, said_by = ("" if each is None else each.sha256 for each in edges)
        return None if other or by != said_by else opened.label

    def job(self) -> BatchConfig:
        """Return what is asked for, but for the inputs.

        Raises
        ------
        ValueError
            If something is missing, or can't be had here as far as that is known.
        """
        out, settings = self.out, self.settings
        if settings.need_weights:
            check_precision(settings.predict, ask=False)
        if out is None:
            msg = "no folder for the results: choose one under “Results in”"
            raise ValueError(msg)
        return BatchConfig(
            (),
            out,
            self._session.weights if settings.need_weights else None,
            settings,
            where=self._batching.place.where,
            overwrite=self.replace.isChecked(),
            recipe=self._recipe_label(),
            edges=self._session.edges,
        )

    def _on_edited(self, *_: object) -> None:
        """Keep what is chosen for when the dock is opened again."""
        batching = self._batching
        batching.out, batching.place = self.folder.text(), self.place.settings
        with suppress(ValueError):
            batching.settings = self.settings
        self.edited.emit()

    def _on_preset(self, nth: int) -> None:
        """Set what a preset says, and be ready for another one."""
        name = self.preset.itemData(nth)
        self.preset.setCurrentIndex(0)
        if not name:
            return
        why: ValueError | None = None
        try:
            self.show_batch(preset(name, self._batching.settings))
        except ValueError as e:
            why = e
        self._batching.refuse(why)

    def _on_browse(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Results in")
        if chosen:
            self.folder.setText(chosen)

    def _on_panels(self) -> None:
        """Say what of the other panels counts here, and what of it can't be had."""
        session, predict = self._session, RunFactory(self._session).predict_settings
        weights, cells = session.weights, session.cell_settings
        name = "no weights" if weights is None else weights.card.name
        depths = () if weights is None else weights.card.depths
        way = format_variant(name, predict.model_dump(), depths)
        alone = cells.through == "sections"
        through = "" if alone else f", through the stack: {cells.through}"
        refused = refused_precisions(predict).get(predict.precision, "")
        words = f" Precision {predict.precision}: {refused}." if refused else ""
        self.panels.setText(
            f"As set in 2 Membranes and 3 Cells: {way}; threshold {cells.threshold:g}, "
            f"{cells.method}, cells of {cells.minimum_size} px up{through}.{words}"
        )
        set_role(self.panels, "note" if refused else "hint")


DRY = "Say what it will take: sections, time, disk, memory. Nothing is written."


class BatchFoot(JobControls):
    """Buttons and words; Start becomes Cancel while something runs."""

    start = Signal()
    dry_run = Signal()

    def __init__(self, batching: BatchController) -> None:
        self.dry = button("Dry run", tooltip=DRY)
        super().__init__("Start", beside=(self.dry,))
        self._batching = batching
        self.link = button("", "link")
        self._page = QUrl()
        self.link.clicked.connect(lambda: QDesktopServices.openUrl(self._page))
        self.layout().addWidget(self.link, alignment=Qt.AlignmentFlag.AlignLeft)
        self.button.clicked.connect(self._on_click)
        self.dry.clicked.connect(lambda _: self.dry_run.emit())
        follow(self, batching.changed, self.show_state)
        self.show_state()

    def call(self, words: str) -> None:
        """Have the button say Start, or Resume."""
        self.words = words
        self.show_state()

    def show_state(self) -> None:
        """Show how it stands."""
        busy, stopping = self._batching.busy, self._batching.job.stopping
        self.show_busy(busy, enabled=not stopping)
        self.dry.setVisible(not busy)
        self.show_advance(self._batching.advance)
        if stopping:
            self.show_stopping()
        self._show_words()
        self._show_link()

    def _show_words(self) -> None:
        error, lines = self._batching.error, self._batching.notes()
        if self._batching.words:
            lines = [*lines, self._batching.words]
        self.say(error or "\n".join(lines), "error" if error else "hint")

    def _show_link(self) -> None:
        summary = self._batching.summary
        pages = () if summary is None else summary.pages
        page = next((p for p in pages if p.suffix == ".html"), None)
        self.link.setVisible(page is not None)
        if page is not None:
            self._page = QUrl.fromLocalFile(str(page.absolute()))
            self.link.setText(f"Summary: {page.name}")
            self.link.setToolTip(str(page))

    def _on_click(self) -> None:
        if self._batching.busy:
            self._batching.job.cancel()
        else:
            self.start.emit()
