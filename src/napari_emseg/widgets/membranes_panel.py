"""2 Membranes: weights and a scope in, membrane probabilities out."""

from importlib.util import find_spec
from pathlib import Path

from napari import Viewer
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QVBoxLayout, QWidget
from superqt import QElidingLabel

from napari_emseg.core.errors import OtherPrecisionError
from napari_emseg.core.intensity import TOO_COARSE
from napari_emseg.core.settings import PredictSettings
from napari_emseg.inference.openvino_runtime import cpu_facts, cpu_is_known
from napari_emseg.inference.precision import refused_precisions
from napari_emseg.inference.scope import why_one_view
from napari_emseg.io import output_format
from napari_emseg.models.weights import Weights, read_weights
from napari_emseg.session import Run, RunScope
from napari_emseg.session.exports import Target, saving_class, saving_membranes
from napari_emseg.widgets.background import LatestOnlyWorker, niced
from napari_emseg.widgets.camera import section_on_screen
from napari_emseg.widgets.controller import ViewerController, controller_for
from napari_emseg.widgets.form import SettingsForm
from napari_emseg.widgets.formatting import (
    format_card,
    format_card_details,
    format_file,
    format_rescaling,
    format_sections,
    format_variant,
)
from napari_emseg.widgets.import_export import ImportExport
from napari_emseg.widgets.live_view import LiveView
from napari_emseg.widgets.run import RunRow, ScopeRow
from napari_emseg.widgets.run_presenter import format_record
from napari_emseg.widgets.save_row import SaveRow, Work, picture_choices
from napari_emseg.widgets.theme import (
    CollapsibleBox,
    button,
    combo_box,
    follow,
    form_layout,
    panel_layout,
    row_label,
    set_role,
    text_label,
)
from napari_emseg.widgets.weights_box import DepthDial, WeightsBox

MEMBRANES = "membranes"


class ClassSave(SaveRow):
    """Saves membranes; asks which class where runs gave more."""

    def __init__(self, controller: ViewerController) -> None:
        super().__init__(controller, picture_choices(), self._proposed, self._saving)
        self._session = controller.session
        self.what = combo_box()
        self.what.setToolTip("Probabilities of which class Save… writes.")
        self._choice = QWidget()
        form = form_layout(self._choice)
        form.addRow(row_label("Save"), self.what)
        self.layout().insertWidget(0, self._choice)
        follow(self, controller.session.events.source, self.list_classes)
        controller.job.ended.connect(self.list_classes)
        self.list_classes()

    def list_classes(self, *_: object) -> None:
        """Offer what there is; nothing is asked where it is membranes only."""
        source, chosen = self._session.source, self.what.currentText()
        further = () if source is None else source.results.classes
        self.what.clear()
        self.what.addItems([MEMBRANES, *further])
        self.what.setCurrentIndex(max(0, self.what.findText(chosen)))
        self._choice.setVisible(bool(further))

    def _proposed(self) -> str:
        source, what = self._session.source, self.what.currentText()
        return what if source is None else f"{source.name}-{what}"

    def _saving(self, target: Target | None, path: Path) -> Work:
        source, what = self._session.at_work, self.what.currentText()
        target = target or Target(path, output_format(path))
        if what == MEMBRANES:
            return saving_membranes(source, target)
        return saving_class(source, what, target)


ELSEWHERE = ("invert", "device", "depth", "heads", "views")
ADVANCED = tuple(n for n in PredictSettings.model_fields if n not in ELSEWHERE)


class MembranesPanel(QWidget):
    """Runs a network over a part of the stack."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._controller = controller_for(napari_viewer)
        self._session = self._controller.session
        self._weights = WeightsBox(self._session)
        self.weights = self._weights.choice
        self.file = button("File…", tooltip="Use weights of your own (.safetensors).")
        self.about = QElidingLabel()
        set_role(self.about, "hint")
        self.card = text_label()
        self.details = text_label()
        self._more = CollapsibleBox("About this model", self.details, role="link")
        self.exchange = ImportExport(self._controller)
        self.depth = DepthDial(self._controller)
        self.heads = SettingsForm(self._session.predict_settings, fields=["heads"])
        self.scope = ScopeRow(self._controller)
        self.views = SettingsForm(self._session.predict_settings, fields=["views"])
        self.one_view = text_label()
        self.device = SettingsForm(self._session.predict_settings, fields=["device"])
        self.advanced = SettingsForm(self._session.predict_settings, fields=ADVANCED)
        self._further = CollapsibleBox("Advanced", self._seldom_changed(), role="link")
        self._cpu = LatestOnlyWorker()
        self.rescaling = text_label()
        self.estimate = text_label(role="plain")
        self.shown = text_label(role="note")
        self.run = RunRow(self._controller, "membranes", self._prepare)
        self.saving = ClassSave(self._controller)
        self.live = LiveView(self._controller)
        self._lay_out()
        self._connect()
        self._on_settings()

    def attach(self) -> None:
        """Go on with the live preview: the panel can be seen."""
        self.live.attach()

    def detach(self) -> None:
        """Put the live preview down."""
        self.live.detach()

    def _lay_out(self) -> None:
        line = QHBoxLayout()
        line.addWidget(self._weights, 1)
        line.addWidget(self.file)
        weights, scope = form_layout(), form_layout()
        weights.addRow(row_label("Model"), line)
        scope.addRow(row_label("Run on"), self.scope)
        layout = panel_layout(self)
        layout.addLayout(weights)
        layout.addWidget(self.about)
        layout.addWidget(self.card)
        layout.addWidget(self._more)
        layout.addWidget(self.depth)
        layout.addLayout(scope)
        layout.addWidget(self.views)
        layout.addWidget(self.one_view)
        layout.addWidget(self.rescaling)
        layout.addWidget(self.estimate)
        layout.addWidget(self.shown)
        self.run.stick_in(layout)
        layout.addWidget(self.saving)
        layout.addWidget(self.live)
        layout.addWidget(self._further)
        layout.addWidget(
            CollapsibleBox("Import and export weights", self.exchange, role="link")
        )

    def _seldom_changed(self) -> QWidget:
        """Return settings that are seldom changed, in one widget."""
        further = QWidget()
        layout = QVBoxLayout(further)
        layout.setContentsMargins(0, 0, 0, 0)
        for form in (self.heads, self.device, self.advanced):
            layout.addWidget(form)
        return further

    def _connect(self) -> None:
        self.file.clicked.connect(self._on_file)
        self._forms = (self.heads, self.views, self.device, self.advanced)
        for form in self._forms:
            form.edited.connect(self._on_edited)
        self.exchange.imported.connect(self._on_imported)
        self.depth.measured.connect(self._on_state)
        self.scope.changed.connect(self._on_estimate)
        events = self._session.events
        follow(self, events.source, self._on_state)
        follow(self, events.weights, self._on_state)
        follow(self, events.predict_settings, self._on_settings)
        follow(self, events.weights, self.run.drop_refusal)
        self._controller.job.ended.connect(self._show_precisions)
        self._further.toggled.connect(self._ask_cpu)
        self._cpu.found.connect(self._show_precisions)

    def add_weights(self, path: Path) -> None:
        """Offer a weights file and use it; says so if it is none."""
        try:
            weights = read_weights(path)
        except (OSError, ValueError) as e:
            self.run.refuse(str(e))
            return
        self._session.choose_weights(weights)

    def _prepare(self) -> Run:
        return self._controller.runs.predict(self.scope.region())

    def _on_file(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(
            self, "Model", "", "Models (*.safetensors)"
        )
        if chosen:
            self.add_weights(Path(chosen))

    def _on_imported(self, weights: Weights) -> None:
        self._session.choose_weights(weights)

    def _on_edited(self, settings: PredictSettings) -> None:
        self._session.choose_settings(settings)

    def _on_settings(self) -> None:
        for form in self._forms:
            form.show_settings(self._session.predict_settings)
        self.run.drop_refusal()
        if self._session.predict_settings.precision == "bf16":
            self._ask_cpu()
        self._show_precisions()

    def _ask_cpu(self) -> None:
        """Have OpenVINO say what the CPU computes in, where it can be chosen."""
        there = find_spec("openvino") is not None and not cpu_is_known()
        if there and not self._cpu.waiting:
            self._cpu.ask(niced(cpu_facts))

    def _show_precisions(self, *_: object) -> None:
        """Grey out what can't be had here, as far as that is known."""
        refused = refused_precisions(self._session.predict_settings)
        self.advanced.grey_out("precision", refused)
        self._on_state()

    def _on_state(self) -> None:
        weights = self._session.weights
        if weights is not None:
            settings = self._session.predict_settings
            summary = weights.card.summary or weights.card.architecture
            self.about.setText(summary)
            self.about.setToolTip(summary)
            self.card.setText(format_card(weights.card))
            file = format_file(weights, settings)
            about = (format_card_details(weights.card), file)
            self.details.setText("<br>".join(words for words in about if words))
        self.about.setVisible(weights is not None)
        self.card.setVisible(weights is not None and bool(self.card.text()))
        self._more.setVisible(weights is not None)
        self.heads.setVisible(weights is not None and len(weights.card.depths) > 1)
        self._on_estimate()

    def _on_estimate(self) -> None:
        """Say what a run would take, or why there can be none.

        Not while one is on: it would wait for PyTorch, which a thread is loading.
        """
        if self._controller.job.busy:
            return
        source, weights = self._session.source, self._session.weights
        self._show_views()
        rescaling, coarse = "", False
        if source is not None and weights is not None:
            rescale = self._session.predict_settings.rescale
            rescaling = format_rescaling(source.stack, weights.card, rescale=rescale)
            coarse = TOO_COARSE in rescaling
        self.rescaling.setText(rescaling)
        self.run.said_above = rescaling
        set_role(self.rescaling, "note" if coarse else "hint")
        self.rescaling.setVisible(bool(rescaling))
        self.depth.show_depths(self._region())
        self._show_what_is_shown()
        words, ready = self._format_estimate()
        self.estimate.setText(words)
        set_role(self.estimate, "plain" if ready else "note")
        self.run.set_ready(ready, "" if ready else words)

    def _show_views(self) -> None:
        """Let planes along y and x be asked for; say why a stack has none, if asked."""
        source, asked = self._session.source, self._session.predict_settings.views
        why = "" if source is None else why_one_view(source.stack)
        self.views.setVisible(source is not None and not why)
        self.one_view.setText(f"Run takes one view: {why}.")
        self.one_view.setVisible(asked != 1 and bool(why))

    def _region(self) -> RunScope | None:
        try:
            return self.scope.region()
        except ValueError:
            return None

    def _show_what_is_shown(self) -> None:
        """Say what made the section on screen, if Run would do it in another way."""
        source, layer = self._session.source, self._controller.source_layer
        weights, words = self._session.weights, ""
        if source is not None and layer is not None and weights is not None:
            z = section_on_screen(self._controller.viewer, layer)
            made = None if z is None else source.results.made.get(z)
            name, depths = weights.card.name, weights.card.depths
            settings = self._controller.runs.predict_settings.model_dump()
            chosen = format_variant(name, settings, depths)
            if made is not None:
                known = depths if made.weights == name else ()
                shown = format_variant(made.weights or "?", made.settings, known)
                if shown != chosen:
                    words = f"On screen: {shown}. Run to see {chosen}."
        self.shown.setText(words)
        self.shown.setVisible(bool(words))

    def _format_estimate(self) -> tuple[str, bool]:
        if self._session.weights is None:
            return "no weights: choose a weights file", False
        try:
            region = self.scope.region()
            estimate = self._controller.runs.estimate(region)
        except OtherPrecisionError as e:
            return format_record(e), False
        except ValueError as e:
            return str(e), False
        if estimate is None:
            return format_sections(len(region.sections)), True
        return estimate.words, True
