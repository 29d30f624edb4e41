"""1 Data: which stack is at work, how large its voxels are, how its grey values run."""

from collections.abc import Generator
from pathlib import Path
from typing import Any, get_args

import numpy as np
from napari import Viewer
from napari.utils.notifications import show_error
from numpy.typing import NDArray
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QVBoxLayout,
    QWidget,
)

from napari_emseg.core.records import Record
from napari_emseg.core.settings import Invert
from napari_emseg.core.stack import Stack
from napari_emseg.io import AmbiguousFileError
from napari_emseg.project.folder import PROJECT_SUFFIX
from napari_emseg.session.live import PolarityPreview, iter_polarity_preview
from napari_emseg.widgets.camera import nearest_section
from napari_emseg.widgets.checks import Checks
from napari_emseg.widgets.controller import ViewerController, controller_for
from napari_emseg.widgets.flow_row import FlowRow
from napari_emseg.widgets.formatting import (
    format_stack,
    format_voxel_size,
    parse_voxel_size,
)
from napari_emseg.widgets.jobs import BackgroundJob, JobResult
from napari_emseg.widgets.project_row import ProjectRow
from napari_emseg.widgets.run_presenter import format_record
from napari_emseg.widgets.theme import (
    button,
    combo_box,
    follow,
    form_layout,
    panel_layout,
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
        self._pictures_row = FlowRow(
            *(
                self._captioned(v, w)
                for v, w in (("no", "as it is"), ("yes", "inverted"))
            )
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form)
        layout.addWidget(self._pictures_row)
        layout.addWidget(self.proposal)

    def _captioned(self, value: str, words: str) -> QWidget:
        column = QWidget()
        layout = QVBoxLayout(column)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.pictures[value])
        layout.addWidget(QLabel(words))
        return column

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


class DataPanel(QWidget):
    """Opens stacks, chooses one, and says what it is."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._controller = controller_for(napari_viewer)
        self._opening = BackgroundJob(in_activity_dock=False)
        self._waiting: list[str] = []
        self._put_off: set[str] = set()
        self.layers = combo_box()
        self.open = button("Open…")
        self.words = text_label(role="title")
        self.message = text_label(role="error")
        self.choice = ChoiceRow()
        self.voxel_size = QLineEdit()
        self.invert = InvertBox(self._controller)
        self.project = ProjectRow(self._controller)
        self.checks = Checks(self._controller)
        self._lay_out()
        self._connect()
        self._on_sources()
        self._on_source()

    def _lay_out(self) -> None:
        menu = QMenu(self.open)
        menu.addAction("File…", self._on_open_file)
        menu.addAction("Folder of sections…", self._on_open_folder)
        menu.addAction("OME-Zarr…", self._on_open_zarr)
        self.open.setMenu(menu)
        self.voxel_size.setPlaceholderText("unknown: z × y × x")
        self.voxel_size.setToolTip(
            "Size of a voxel in nm, z × y × x; ? for an unknown z. Empty: as in the "
            "file. Sections are rescaled to what the weights were trained at."
        )
        row = QHBoxLayout()
        row.addWidget(self.layers, 1)
        row.addWidget(self.open)
        size = QHBoxLayout()
        size.addWidget(self.voxel_size, 1)
        size.addWidget(QLabel("nm"))
        stack, voxel_size = form_layout(), form_layout()
        stack.addRow(row_label("Stack"), row)
        voxel_size.addRow(row_label("Voxel size"), size)
        layout = panel_layout(self)
        layout.addLayout(stack)
        layout.addWidget(self.words)
        layout.addWidget(self.choice)
        layout.addWidget(self.message)
        layout.addWidget(self.project)
        layout.addLayout(voxel_size)
        layout.addWidget(self.invert)
        layout.addWidget(self.checks)
        self.choice.hide()

    def _connect(self) -> None:
        self.layers.activated.connect(self._on_layer_chosen)
        self.voxel_size.editingFinished.connect(self._on_voxel_size)
        self.choice.chosen.clicked.connect(self._on_choice_made)
        self._opening.ended.connect(self._on_opened)
        session = self._controller.session
        follow(self, self._controller.sources_changed, self._on_sources)
        follow(self, session.events.source, self._on_source)
        follow(self, session.events.refusal, self._on_source)

    def open_paths(self, paths: list[str]) -> None:
        """Open files and folders one after the other; questions come last."""
        self._waiting += paths
        self._open_next()

    def _open_next(self) -> None:
        if self._waiting and not self._opening.busy:
            self.open_path(self._waiting.pop(0))

    def open_path(self, path: str, **choice: Any) -> None:
        """Open a file or folder in the background; asks back if it must."""
        if self._opening.busy:
            return
        if Path(path).suffix == PROJECT_SUFFIX:
            self.project.open_path(path)
            self._open_next()
            return
        self.choice.hide()
        self.choice.path, self.choice.made = path, choice
        self._say("")
        self.words.setText(f"opening {Path(path).name} …")
        self.open.setEnabled(False)
        self._opening.start(_open(path, choice), f"Open {Path(path).name}")

    def _on_opened(self, outcome: JobResult) -> None:
        self.open.setEnabled(True)
        self._on_source()
        path = self.choice.path
        if isinstance(outcome.error, AmbiguousFileError):
            if not self._waiting or path in self._put_off:
                self._put_off.discard(path)
                self.choice.ask(outcome.error)
                return  # what waits goes on when this is answered
            self._put_off.add(path)
            self._waiting.append(path)
        elif outcome.cause is not None:
            self._say(format_record(outcome.cause))
            if self._waiting:  # whose opening takes the words away
                show_error(format_record(outcome.cause))
        elif isinstance(outcome.result, Stack):
            self._controller.add(outcome.result)
        self._open_next()

    def _on_choice_made(self) -> None:
        self.open_path(self.choice.path, **self.choice.answered())

    def _on_open_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open an EM stack")
        if path:
            self.open_path(path)

    def _on_open_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Open a folder of sections")
        if path:
            self.open_path(path)

    def _on_open_zarr(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Open an OME-Zarr: NAME.zarr")
        if path:
            self.open_path(path)

    def _on_layer_chosen(self, index: int) -> None:
        key = self.layers.itemData(index)
        layers = {str(layer.unique_id): layer for layer in self._controller.sources()}
        layer = layers.get(key)
        self._controller.choose(layer)
        if layer is not None and layer is self._controller.source_layer:
            self._controller.show_alone(layer)

    def _on_sources(self) -> None:
        """List the layers anew; the one that was shown stays shown."""
        shown = self.layers.currentData()
        self.layers.clear()
        for layer in self._controller.sources():
            self.layers.addItem(layer.name, str(layer.unique_id))
        source = self._controller.session.source
        key = shown if source is None else source.key
        self.layers.setCurrentIndex(self.layers.findData(key))
        self.layers.setPlaceholderText("none")

    def _on_source(self) -> None:
        session = self._controller.session
        source = session.source
        self._say(session.refusal)
        self.voxel_size.setEnabled(source is not None)
        if source is None:
            self.words.setText("" if session.refusal else "no stack yet")
            self.voxel_size.clear()
            return
        if source.warning:
            self._say(source.warning, "note")
        self.layers.setCurrentIndex(self.layers.findData(source.key))
        words = format_stack(source.stack)
        layer = self._controller.source_layer
        if layer is not None and getattr(layer, "multiscale", False):
            words += " · full resolution of a pyramid"
        self.words.setText(words)
        size = source.stack.voxel_size_nm
        self.voxel_size.setText("" if size is None else format_voxel_size(size))

    def _on_voxel_size(self) -> None:
        source = self._controller.session.source
        if source is None:
            return
        try:
            size = parse_voxel_size(self.voxel_size.text())
            if size == source.stack.voxel_size_nm:
                self._on_source()  # nothing is wrong any more with what was typed
            else:
                self._controller.set_voxel_size(size)
                self._say("")
        except ValueError as e:
            self._say(str(e))

    def _say(self, message: str, role: str = "error") -> None:
        self.message.setText(message)
        self.message.setVisible(bool(message))
        set_role(self.message, role)


class ChoiceRow(QWidget):
    """Asks which of several things in a file is meant."""

    def __init__(self) -> None:
        super().__init__()
        self.path = ""
        self.made: dict[str, Any] = {}
        self._option = ""
        self.question = text_label(role="note")
        self.choices = combo_box()
        self.chosen = button("Open", "primary")
        row = QHBoxLayout()
        row.addWidget(self.choices, 1)
        row.addWidget(self.chosen)
        layout = panel_layout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.question)
        layout.addLayout(row)

    def ask(self, needed: AmbiguousFileError) -> None:
        """Show the question and its possible answers."""
        self._option = needed.option
        self.question.setText(f"{Path(self.path).name}: choose a {needed.option}")
        self.choices.clear()
        for value, words in needed.choices:
            self.choices.addItem(f"{value}: {words}", value)
        self.show()

    def answered(self) -> dict[str, Any]:
        """Return all that was chosen so far, as arguments of `open_stack`."""
        return self.made | {self._option: self.choices.currentData()}


def _open(path: str, choice: dict[str, Any]) -> Generator[Record, None, Stack]:
    from napari_emseg.io import open_stack

    yield from ()
    return open_stack(path, **choice)
