"""Which section is done: to do, reviewed, excluded; and on to the next."""

from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLineEdit, QVBoxLayout, QWidget

from napari_emseg.core.records import Record
from napari_emseg.core.settings import Invert
from napari_emseg.proofreading.marking import Status, next_section, status_of
from napari_emseg.session.annotations import ManualCorrections
from napari_emseg.session.training_inputs import TrainingInputs
from napari_emseg.widgets.camera import (
    go_to_section,
    nearest_section,
    no_section,
    section_here,
    section_on_screen,
)
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.flow_row import FlowRow
from napari_emseg.widgets.jobs import BackgroundJob, JobResult
from napari_emseg.widgets.linked_layers import LinkedLayers
from napari_emseg.widgets.run_presenter import format_record
from napari_emseg.widgets.theme import (
    SPACING,
    button,
    combo_box,
    follow,
    form_layout,
    row_label,
    set_role,
    text_label,
)

STATUSES: tuple[Status, ...] = ("to do", "reviewed", "excluded")


class ReviewRow(QWidget):
    """Says and sets the status of the section on screen."""

    said = Signal(str)
    refused = Signal(str)

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self.label = text_label(role="plain")
        self.status = combo_box()
        self.status.addItems(STATUSES)
        self.status.setToolTip("Mark the section on screen (R: reviewed or to do)")
        self.before = button(
            "Previous", tooltip="Go to the previous unreviewed section"
        )
        self.next = button(
            "Next unreviewed", tooltip="Go to the next unreviewed section (N)"
        )
        first = QHBoxLayout()
        first.setSpacing(SPACING)
        first.addWidget(self.label, 1)
        first.addWidget(self.status)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(first)
        layout.addWidget(FlowRow(self.before, self.next, fill=True))
        self.status.activated.connect(self._on_chosen)
        self.before.clicked.connect(self.go_back)
        self.next.clicked.connect(self.go_next)
        follow(self, controller.session.events.source, self._on_state)
        follow(self, controller.viewer.dims.events.current_step, self._on_state)
        self._on_state()

    def go_next(self, *_: Any) -> None:
        """Go to the next section that is to do."""
        self._go(1)

    def go_back(self, *_: Any) -> None:
        """Go to the one before that is to do."""
        self._go(-1)

    def toggle(self, *_: Any) -> None:
        """Mark the section as reviewed, or as to do."""
        now = self.status.currentText()  # `_set` refuses where no section is seen
        self._set("to do" if now == "reviewed" else "reviewed")

    def _go(self, step: Literal[1, -1]) -> None:
        source, layer = self._controller.session.source, self._controller.source_layer
        if source is None or layer is None:
            self.refused.emit("no stack is chosen; choose one in 1 Data")
            return
        here = nearest_section(self._controller.viewer, layer)
        n = source.stack.shape[0]
        try:
            z = next_section(here, n, source.reviewed, source.excluded, step=step)
        except ValueError as e:
            self.refused.emit(str(e))
            return
        go_to_section(self._controller.viewer, layer, z)

    def _on_chosen(self) -> None:
        self._set(STATUSES[self.status.currentIndex()])

    def _set(self, status: Status) -> None:
        session, layer = self._controller.session, self._controller.source_layer
        if session.source is None or layer is None:
            self.refused.emit("no stack is chosen; choose one in 1 Data")
            return
        try:
            z = section_here(self._controller.viewer, layer)
            session.mark(z, status)
        except ValueError as e:
            self._on_state()
            self.refused.emit(str(e))
            return
        self.said.emit(f"section {z} is {status}")

    def _on_state(self) -> None:
        source, layer = self._controller.session.source, self._controller.source_layer
        self.setEnabled(source is not None and layer is not None)
        if source is None or layer is None:
            self.label.setText("no stack")
            return
        viewer, n = self._controller.viewer, source.stack.shape[0]
        z, done = section_on_screen(viewer, layer), len(source.reviewed)
        self.status.setEnabled(z is not None)
        if z is None:
            self.label.setText(f"{no_section(viewer, layer)} · {done} reviewed")
            return
        self.label.setText(f"Section {z} (0 to {n - 1}) · {done} reviewed")
        self.status.setCurrentText(status_of(z, source.reviewed, source.excluded))


ERASE = "unlabelled"


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
        self._material: TrainingInputs = controller.learning.material
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
        first.addWidget(self.classes, 1)
        first.addWidget(self.new)
        form = form_layout()
        form.addRow(row_label("Brush"), first)
        self._naming = QWidget()
        second.setContentsMargins(0, 0, 0, 0)
        second.addWidget(self.name, 1)
        second.addWidget(self.add)
        self._naming.setLayout(second)
        self._naming.hide()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        layout.addLayout(form)
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


class ExportTrainingRow(QWidget):
    """A button that writes pictures, labels and masks in a thread."""

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self.job = BackgroundJob(in_activity_dock=False)
        self.export = button(
            "Export training set…",
            tooltip="Pictures, labels and masks of what is corrected and reviewed, "
            "to train other programs.",
        )
        self.message = text_label()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.export, 0, Qt.AlignmentFlag.AlignLeft)
        layout.addWidget(self.message)
        self.message.hide()
        self.export.clicked.connect(self._on_export)
        self.job.ended.connect(self._on_ended)

    def export_to(self, folder: Path) -> None:
        """Write into a folder that doesn't exist yet."""
        if self.job.busy:
            return
        session = self._controller.session
        if session.source is None:
            self._say("no stack is chosen", "error")
            return
        known = ManualCorrections.of(session.source)
        classes = ("membrane", "inside")
        if session.weights is not None:
            classes = session.weights.card.pixel_classes
        work = _exporting(known, session.predict_settings.invert, folder, classes)
        self._say(f"writing {folder.name} …", "hint")
        self.export.setEnabled(False)
        self.job.start(work, "Export training set")

    def _on_export(self) -> None:
        source = self._controller.session.source
        name = "training" if source is None else f"{source.name}-training"
        folder, _ = QFileDialog.getSaveFileName(
            self, "A new folder for the training set", name
        )
        if folder:
            self.export_to(Path(folder))

    def _on_ended(self, outcome: JobResult) -> None:
        self.export.setEnabled(True)
        if outcome.cause is not None:
            self._say(format_record(outcome.cause), "error")
        elif isinstance(outcome.result, Path):
            self._say(f"saved in {outcome.result.name}", "hint")

    def _say(self, message: str, role: str) -> None:
        self.message.setText(message)
        set_role(self.message, role)
        self.message.show()


def _exporting(
    hand_made: ManualCorrections, invert: Invert, folder: Path, classes: tuple[str, ...]
) -> Generator[Record, None, Path]:
    from napari_emseg.training.pairs import exporting_pairs

    known = yield from hand_made.read(invert)
    return (yield from exporting_pairs(known, folder, classes=classes))
