"""Export training set…: what was corrected and reviewed, for other programs."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from napari_emseg.core.records import Record
from napari_emseg.core.settings import Invert
from napari_emseg.session.annotations import ManualCorrections
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.jobs import BackgroundJob, JobResult
from napari_emseg.widgets.run_presenter import format_record
from napari_emseg.widgets.theme import button, set_role, text_label


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
            classes = session.weights.card.classes
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
