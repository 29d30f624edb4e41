"""3 Cells: membrane probabilities in, cells out."""

from pathlib import Path

from napari import Viewer
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from napari_emseg.core.paths import file_stem
from napari_emseg.core.settings import CellSettings
from napari_emseg.segmentation.edge_classifier import (
    EdgeClassifier,
    default_classifier,
    read_edges,
    save_edges,
)
from napari_emseg.session import Run
from napari_emseg.session.edge_learning import EdgesLearnt
from napari_emseg.session.exports import (
    Meshes,
    Target,
    saving_cells,
    saving_surfaces,
    saving_table,
)
from napari_emseg.widgets.background import with_torch
from napari_emseg.widgets.camera import section_on_screen
from napari_emseg.widgets.controller import ViewerController, controller_for
from napari_emseg.widgets.flow_row import FlowRow
from napari_emseg.widgets.form import SettingsForm
from napari_emseg.widgets.formatting import format_result, format_sections
from napari_emseg.widgets.jobs import BackgroundJob, JobResult
from napari_emseg.widgets.run import JobRow, RunRow, ScopeRow
from napari_emseg.widgets.run_presenter import format_record
from napari_emseg.widgets.save_row import SaveRow, Work, cells_choices
from napari_emseg.widgets.theme import (
    CollapsibleBox,
    button,
    follow,
    form_layout,
    panel_layout,
    row_label,
    set_role,
    text_label,
)

FIRST = ("threshold", "join", "minimum_size", "method", "through", "link")
SLIDERS = ("threshold", "join")
LINKING = ("through", "link", "overlap", "shift", "branches")
"""Of no effect on one section alone."""

ADVANCED = tuple(name for name in CellSettings.model_fields if name not in FIRST)

SETTLE_MS = 300
"""Sliders must rest for so long before other sections follow, or a step is kept."""


FILES = "Edge classifiers (*.json)"
USE = (
    "With Through the stack: graph, it decides which fragments belong to one cell, "
    "within a section and across sections."
)
LEARN = (
    "From cells through the stack that you reviewed, locked, or merged and split in "
    "3-D. The next run and the sliders go by it."
)


class EdgesBox(QWidget):
    """Says which classifier of edges is in use; learns, saves, opens and drops one."""

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._session = controller.session
        self._has_default = default_classifier() is not None
        self.state = text_label()
        # what a file says of itself is no mark-up
        self.state.setTextFormat(Qt.TextFormat.PlainText)
        self.learn = JobRow("Learn from corrections", self._prepare, role="")
        self.learn.button.setToolTip(LEARN)
        self.learn.message.setTextFormat(Qt.TextFormat.PlainText)
        self.usual = button("Use default", tooltip="Go by the usual classifier again.")
        self.open = button("Open…", tooltip="Use a classifier that was saved before.")
        self.save = button(
            "Save…", tooltip="For other stacks, and for emseg segment --edges."
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (
            text_label(USE),
            self.state,
            self.learn,
            FlowRow(self.usual, self.open, self.save),
        ):
            layout.addWidget(widget)
        self.learn.done.connect(self._on_learnt)
        self.usual.clicked.connect(self._on_usual)
        self.open.clicked.connect(self._on_open)
        self.save.clicked.connect(self._on_save)
        follow(self, self._session.events.edges, self._on_state)
        follow(self, self._session.events.source, self._on_state)
        self._on_state()

    def open_file(self, path: Path) -> None:
        """Go by the classifier of a file."""
        try:
            self._use(read_edges(path))
        except (OSError, ValueError) as e:
            self.learn.say(format_record(e), "error")

    def save_file(self, path: Path) -> None:
        """Write the classifier that was chosen."""
        edges = self._session.edges
        if edges is None:
            return
        try:
            save_edges(edges, path)
        except OSError as e:
            self.learn.say(format_record(e), "error")
        else:
            self.learn.say(f"{path} is written")

    def _prepare(self) -> tuple[str, Work]:
        run = self._controller.runs.learn_edges()
        return run.title, with_torch(run.work)

    def _on_learnt(self, found: EdgesLearnt) -> None:
        if not found.is_worse:
            self._session.choose_edges(found.classifier, found.key)
        self.learn.say(found.words, "note" if found.is_worse else "hint")

    def _use(self, edges: EdgeClassifier | None) -> None:
        self._session.edges = edges
        self.learn.say("")

    def _on_usual(self) -> None:
        self._use(None)

    def _on_open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open", "", FILES)
        if path:
            self.open_file(Path(path))

    def _on_save(self) -> None:
        source = self._session.source
        stem = file_stem("edges" if source is None else f"{source.name}-edges", "edges")
        path, _ = QFileDialog.getSaveFileName(self, "Save as", f"{stem}.json", FILES)
        if path:
            self.save_file(Path(path).with_suffix(".json"))

    def _on_state(self) -> None:
        edges, source = self._session.edges, self._session.source
        if edges is not None:
            words = f"In use: {edges.name}"
        elif self._has_default:
            words = "In use: the default of napari-emseg-data"
        else:
            words = "In use: none (membrane and overlap alone)"
        self.state.setText(words)
        self.usual.setEnabled(edges is not None)
        self.save.setEnabled(edges is not None)
        self.learn.set_ready(source is not None, LEARN)


class CellsPanel(QWidget):
    """Cuts membranes at a threshold and finds the cells between them.

    While cells are there, every setting is shown on the section on screen at once.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._controller = controller_for(napari_viewer)
        self._session = self._controller.session
        self.main = SettingsForm(
            self._session.cell_settings, fields=FIRST, sliders=SLIDERS
        )
        self.advanced = SettingsForm(self._session.cell_settings, fields=ADVANCED)
        self.scope = ScopeRow(self._controller)
        self.state = text_label()
        self.run = RunRow(self._controller, "cells", self._prepare)
        self.saving = SaveRow(
            self._controller, cells_choices(), self._proposed, self._save
        )
        self._others = BackgroundJob(in_activity_dock=False)
        self._due: dict[str, Run] = {}
        self._cut: Run | None = None
        self._fragments = BackgroundJob(in_activity_dock=False)
        self._keeping = BackgroundJob(in_activity_dock=False)
        self._tried = self._session.cell_settings
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLE_MS)
        self._timer.timeout.connect(self._on_rest)
        self._kept = QTimer(self)
        self._kept.setSingleShot(True)
        self._kept.setInterval(SETTLE_MS)
        self._kept.timeout.connect(self._keep)
        self.edges = EdgesBox(self._controller)
        self._lay_out()
        self._connect()
        self._on_state()

    def _lay_out(self) -> None:
        form = form_layout()
        form.addRow(row_label("Run on"), self.scope)
        layout = panel_layout(self)
        layout.addWidget(self.main)
        layout.addLayout(form)
        layout.addWidget(self.state)
        self.run.stick_in(layout)
        layout.addWidget(self.saving)
        layout.addWidget(CollapsibleBox("Edge classifier", self.edges, role="link"))
        layout.addWidget(CollapsibleBox("Advanced", self.advanced, role="link"))

    def _connect(self) -> None:
        self.main.edited.connect(self._on_edited)
        self.advanced.edited.connect(self._on_edited)
        self.scope.changed.connect(self._on_state)
        events = self._session.events
        follow(self, events.source, self._on_state)
        follow(self, events.cell_settings, self._on_settings)
        self._controller.job.ended.connect(self._on_state)
        self._others.ended.connect(self._on_cut)
        self._fragments.ended.connect(self._recut)
        self._keeping.started.connect(self._on_state)
        self._keeping.ended.connect(self._on_kept)
        self._controller.job.started.connect(self._keep)

    def _prepare(self) -> Run:
        if self._keeping.busy:  # two runs would mix their cells
            msg = "cells of all sections are being put in place"
            raise ValueError(msg)
        return self._controller.runs.segment(self.scope.region())

    def _proposed(self) -> str:
        source = self._session.source
        return "cells" if source is None else f"{source.name}-cells"

    def _save(self, target: Target | Meshes | None, path: Path) -> Work:
        source = self._session.at_work
        if target is None:
            return saving_table(source, path)
        if isinstance(target, Meshes):
            return saving_surfaces(source, target, path)
        return saving_cells(source, self._session.cell_settings, target)

    def _on_edited(self, settings: CellSettings) -> None:
        before = self._session.cell_settings
        # the other form has fields of its own
        self._session.cell_settings = settings
        if settings.threshold != before.threshold:
            self._preview()
        without = dict.fromkeys(LINKING)
        if settings.model_copy(update=without) != before.model_copy(update=without):
            self._recut()

    def _on_settings(self) -> None:
        self.main.show_settings(self._session.cell_settings)
        self.advanced.show_settings(self._session.cell_settings)

    def _preview(self) -> None:
        """Show the threshold on the section on screen at once, elsewhere soon."""
        source, layer = self._session.source, self._controller.source_layer
        if source is None or layer is None:
            return
        layers = self._controller.results(source.key)
        membranes = None if layers is None else layers.get("membranes")
        if layers is None or membranes is None:
            return
        z = section_on_screen(self._controller.viewer, layer)
        if z is not None:
            source.editor.apply_threshold(z, self._session.cell_settings.threshold)
            membranes.visible = True
            layers.refresh({"membranes"}, {z})
        # of this stack by this threshold, whichever is at work when it begins
        self._due[source.key] = self._controller.runs.cut()
        self._timer.start()

    def _recut(self) -> None:
        """Cut the cells of the section on screen anew, if it has any.

        Its fragments are found in a thread first where they aren't known.
        """
        source, layer = self._session.source, self._controller.source_layer
        layers = None if source is None else self._controller.results(source.key)
        if layer is None or layers is None or layers.get("cells") is None:
            return
        jobs = self._controller.job, self._fragments, self._keeping
        if any(job.busy for job in jobs):
            return
        recuts, settings = self._controller.runs.recuts(), self._session.cell_settings
        z = section_on_screen(self._controller.viewer, layer)
        if z is None:
            return
        if missing := recuts.missing(z, settings):
            self.run.say(
                f"not shown on cells: {len(missing)} of their sections have no "
                "membranes now; run 2 Membranes on them first",
                "note",
            )
            return
        if not recuts.able(z, settings):
            return
        if not recuts.knows(z, settings):
            self._fragments.start(recuts.find(z, settings), "Fragments")
            return
        recuts.show(z, settings)
        layers.refresh({"cells"}, {z})
        self._kept.start()

    def _keep(self) -> None:
        """Make what is on trial a step that can be undone."""
        self._kept.stop()
        source = self._session.source
        if source is None or self._keeping.busy:
            return
        recuts = self._controller.runs.recuts()
        if not recuts.on_trial:
            return
        if recuts.of_stack and not self._controller.job.busy:
            self._tried = self._session.cell_settings
            self._keeping.start(recuts.iter_keep(), "Cells of all sections")
            return
        recuts.keep()
        self._show_kept()

    def _on_kept(self, outcome: JobResult) -> None:
        self._on_state()
        self._show_kept()
        if words := format_result(outcome.result):
            self.run.say(words)
        if self._session.cell_settings != self._tried:
            self._recut()  # a slider went on meanwhile

    def _show_kept(self) -> None:
        source = self._session.source
        if source is None:
            return
        layers = self._controller.results(source.key)
        if layers is not None:
            layers.refresh({"cells"}, set(range(source.stack.shape[0])))
            self._controller.describe_cells()

    def _on_rest(self) -> None:
        if self._others.busy or self._controller.job.busy:
            self._timer.start()
        elif self._due:
            self._cut = self._due.pop(next(iter(self._due)))
            self._others.start(self._cut.work, self._cut.title)

    def _on_cut(self) -> None:
        source = None if self._cut is None else self._cut.source
        layers = None if source is None else self._controller.results(source.key)
        if source is not None and layers is not None:
            layers.refresh({"membranes"}, set(source.results.predicted))
        if self._due:
            self._timer.start()

    def _on_state(self) -> None:
        words, ready = self._format_state()
        self.state.setText(words)
        set_role(self.state, "hint" if ready else "note")
        self.run.set_ready(ready, "" if ready else words)

    def _format_state(self) -> tuple[str, bool]:
        try:
            run = self._prepare()
        except ValueError as e:
            return str(e), False
        run.work.close()
        words = format_sections(len(run.region.sections))
        return f"{words} with membranes", True
