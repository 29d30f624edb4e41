"""Weights of others in, packages for others out: two buttons, and what they ask."""

from collections.abc import Generator
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from napari_emseg.core.lock import Claim
from napari_emseg.core.records import Progress, Record
from napari_emseg.io.errors import AmbiguousNetworkError, RemoteWeightsError
from napari_emseg.models.weights import SUFFIX, Weights
from napari_emseg.models.zoo import architectures, network_class
from napari_emseg.widgets.background import with_torch
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.flow_row import FlowRow
from napari_emseg.widgets.form import SettingsForm
from napari_emseg.widgets.jobs import Advance, BackgroundJob, JobResult
from napari_emseg.widgets.run_presenter import format_record
from napari_emseg.widgets.theme import (
    button,
    combo_box,
    form_layout,
    row_label,
    set_role,
    text_label,
)

OTHERS = "Models of other programs (*.zip *.pt *.pth *.onnx *.safetensors)"
PACKAGE = "BioImage.IO package (*.zip)"
OURS = f"Models (*{SUFFIX})"


class ImportExport(QWidget):
    """Imports and exports weights. `imported` carries the new ones."""

    imported = Signal(object)

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._job = BackgroundJob(in_activity_dock=False)
        self._asked: tuple[Path, Path] | None = None
        self.import_ = button(
            "Import…",
            tooltip="A BioImage.IO package (.zip), or a state dict of PyTorch (.pt).",
        )
        self.export = button(
            "Export…", tooltip="Write a BioImage.IO package that others can run."
        )
        self.message = text_label()
        self.download = button(
            "Download",
            "primary",
            tooltip="Fetch the weights from there. They are taken only if they have "
            "the checksum that the package says.",
        )
        self._fetching = False
        self.question = NetworkQuestion()
        self._lay_out()
        self.import_.clicked.connect(self._on_import)
        self.export.clicked.connect(self._on_export)
        self.download.clicked.connect(self._on_download)
        self._job.advanced.connect(self._on_advanced)
        self.question.answer.clicked.connect(self._on_answer)
        self._job.ended.connect(self._on_ended)

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(FlowRow(self.import_, self.export))
        layout.addWidget(self.message)
        layout.addWidget(self.download)
        layout.addWidget(self.question)
        self.message.hide()
        self.download.hide()
        self.question.hide()

    def import_file(self, path: Path, output: Path) -> None:
        """Import weights into a file; asks for the network if they don't say it."""
        self._asked = path, output
        self._fetching = False
        self.question.hide()
        self._start(_importing(path, output), f"importing {path.name} …")

    def export_file(self, path: Path) -> None:
        """Write the chosen weights, at the chosen depth, as a package."""
        session = self._controller.session
        if session.weights is None:
            self._say("choose weights first", "error")
            return
        settings = session.predict_settings
        part = session.weights.at(settings.depth, settings.heads)
        self._start(_exporting(part, path), f"exporting {part.card.name} …")

    def _on_import(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Import model", "", OTHERS)
        if not name:
            return
        proposed = str(
            Path(name).with_suffix(SUFFIX).with_stem(f"{Path(name).stem}-in")
        )
        output, _ = QFileDialog.getSaveFileName(self, "Save as", proposed, OURS)
        if output:
            self.import_file(Path(name), Path(output).with_suffix(SUFFIX))

    def _on_export(self) -> None:
        weights = self._controller.session.weights
        proposed = "weights.zip" if weights is None else f"{weights.card.name}.zip"
        name, _ = QFileDialog.getSaveFileName(self, "Export weights", proposed, PACKAGE)
        if name:
            self.export_file(Path(name).with_suffix(".zip"))

    def _on_answer(self) -> None:
        self._go_on()

    def _on_download(self) -> None:
        self._fetching = True
        self._go_on()

    def _go_on(self) -> None:
        """Import what was asked about, with what was answered."""
        if self._asked is None:
            return
        path, output = self._asked
        answered = None, None
        if self.question.isVisibleTo(self):
            answered = self.question.answered()
        work = _importing(path, output, *answered, download=self._fetching)
        self._start(work, f"importing {path.name} …")

    def _on_advanced(self, advance: Advance) -> None:
        if advance.step == "downloading" and advance.total:
            done, total = advance.done / 2**20, advance.total / 2**20
            self._say(f"downloading: {done:.1f} of {total:.1f} MiB", "hint")

    def _start(self, work: Generator[Record, None, object], words: str) -> None:
        if self._job.busy:
            return
        self._say(words, "hint")
        self.download.hide()
        self._allow(False)
        self._job.start(with_torch(work), words)

    def _on_ended(self, outcome: JobResult) -> None:
        self._allow(True)
        result, cause = outcome.result, outcome.cause
        if isinstance(cause, AmbiguousNetworkError):
            self.question.ask()
            self._say(f"{cause}: which is it?", "note")
        elif isinstance(cause, RemoteWeightsError):
            self._say(f"{cause}. Download them?", "note")
            self.download.show()
        elif cause is not None:
            self._say(format_record(cause), "error")
        elif isinstance(result, Weights):
            self.question.hide()
            self._say(f"saved as {result.path.name}", "hint")
            self.imported.emit(result)
        elif isinstance(result, tuple):
            path, whole, missing = result
            rest = "" if whole else " without affinities"
            lacks = f"; it doesn't say {', '.join(missing)}" if missing else ""
            self._say(f"saved as {path.name}{rest}{lacks}", "hint")

    def _allow(self, allowed: bool) -> None:
        for widget in (self.import_, self.export, self.question):
            widget.setEnabled(allowed)

    def _say(self, message: str, role: str) -> None:
        self.message.setText(message)
        set_role(self.message, role)
        self.message.show()


class NetworkQuestion(QWidget):
    """Asks for a network and its shape."""

    def __init__(self) -> None:
        super().__init__()
        self.architecture = combo_box()
        self.architecture.addItems(architectures())
        self.answer = button("Import", "primary")
        self.shape: SettingsForm | None = None
        form = form_layout()
        form.addRow(row_label("Network"), self.architecture)
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.addLayout(form)
        self._layout.addWidget(self.answer)
        self.architecture.currentTextChanged.connect(self._on_architecture)

    def ask(self) -> None:
        """Show the question; PyTorch is loaded by then."""
        if self.shape is None:
            self._on_architecture(self.architecture.currentText())
        self.show()

    def answered(self) -> tuple[str, dict[str, object]]:
        """Return the architecture and its configuration."""
        config = {} if self.shape is None else self.shape.settings.model_dump()
        return self.architecture.currentText(), config

    def _on_architecture(self, name: str) -> None:
        if self.shape is not None:
            self._layout.removeWidget(self.shape)
            self.shape.hide()
            self.shape.deleteLater()
        self.shape = SettingsForm(network_class(name).Config())
        self._layout.insertWidget(1, self.shape)


def _importing(
    path: Path,
    output: Path,
    architecture: str | None = None,
    config: dict[str, object] | None = None,
    *,
    download: bool = False,
) -> Generator[Record, None, Weights]:
    from napari_emseg.models.importing import iter_import_weights

    yield Progress("importing", 0, 1)
    output.parent.mkdir(parents=True, exist_ok=True)
    with Claim(output):
        return (
            yield from iter_import_weights(
                path,
                output,
                architecture=architecture,
                config=config,
                download=download,
            )
        )


def _exporting(
    weights: Weights, path: Path
) -> Generator[Record, None, tuple[Path, bool, tuple[str, ...]]]:
    """Write a package; return its path, if it holds all, and what nobody has said."""
    from napari_emseg.models.exporting import (
        credits_of,
        export_weights,
        keeps_affinities,
    )

    yield Progress("exporting", 0, 1)
    with Claim(path):
        written = export_weights(weights, path)
    return written, keeps_affinities(weights.card), credits_of(weights).missing
