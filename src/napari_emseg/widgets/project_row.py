"""The project of the stack at work: make one, open one, and see that all is saved."""

from dataclasses import replace
from pathlib import Path
from weakref import ReferenceType, ref

from napari.layers import Layer
from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtWidgets import QFileDialog, QMainWindow, QWidget

from napari_emseg._napari import stack_of
from napari_emseg._napari.versions import preference
from napari_emseg.core.records import Record, SectionDone
from napari_emseg.project import StackNotFoundError, read_info
from napari_emseg.session import Session
from napari_emseg.session.annotation_editor import login_name
from napari_emseg.session.project_sync import ProjectSync
from napari_emseg.session.projects import (
    LoadedProject,
    adopt,
    follow,
    iter_open_project,
    iter_save_project,
    remember_project,
)
from napari_emseg.widgets.background import with_torch
from napari_emseg.widgets.camera import section_on_screen
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.flow_row import FlowRow
from napari_emseg.widgets.formatting import format_sections
from napari_emseg.widgets.jobs import BackgroundJob, JobResult
from napari_emseg.widgets.pointer import StatusHelp
from napari_emseg.widgets.run_presenter import format_record
from napari_emseg.widgets.save_status_label import (
    RecentButton,
    RelocateStackRow,
    SaveStatusLabel,
    untouched,
)
from napari_emseg.widgets.theme import (
    button,
    follow_stack,
    form_layout,
    panel_layout,
    row_label,
    set_role,
    text_label,
)
from napari_emseg.widgets.theme import follow as follow_signal

WATCHED = "emseg_watched"


def watch(controller: ViewerController, widget: QWidget) -> None:
    """Save the projects of a controller when the window closes that a widget is in."""
    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, QMainWindow):
        parent = parent.parentWidget()
    if parent is None or parent.property(WATCHED):
        return
    parent.setProperty(WATCHED, True)
    parent.installEventFilter(_Closing(controller.session, parent))


class _Closing(QObject):
    """Lets a window close when all is saved; or the second time, if it can't be."""

    def __init__(self, session: Session, window: QMainWindow) -> None:
        super().__init__(window)
        self._session: ReferenceType[Session] = ref(session)
        self._warned = False
        window.destroyed.connect(_Release(session))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Wait for the last save."""
        if event.type() != QEvent.Type.Close:
            return False
        for keeping in _keepings(self._session()):
            try:
                keeping.flush()
            except OSError as e:
                if not self._warned:
                    self._warned = True
                    show_error(
                        f"{keeping.name} can't be saved: {e}. Make room, or close the "
                        f"window again to lose {keeping.state.waiting} changes."
                    )
                    event.ignore()
                    return True
        return False


class _Release:
    """Lets other windows write when this one is gone."""

    def __init__(self, session: Session) -> None:
        self._session: ReferenceType[Session] = ref(session)

    def __call__(self) -> None:
        for keeping in _keepings(self._session()):
            try:
                keeping.close()
            except OSError as e:
                show_error(f"{keeping.name} could not be saved: {e}")


def _keepings(session: Session | None) -> list[ProjectSync]:
    return [] if session is None else list(session.projects.values())


SOON_MS = 250
"""After the latest move of the slider, until a section is looked at."""

NONE = "none: what you correct is lost when napari closes"


class RemadeProbabilities(QObject):
    """Makes probabilities of sections on screen again, which a project doesn't keep.

    In the background, for stacks that came from projects, one section at a time; a run
    that somebody starts comes first.
    """

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._keys: set[str] = set()
        self.job = BackgroundJob()
        self._help = controller.shared(StatusHelp)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(SOON_MS)
        self._soon.timeout.connect(self._look)
        self.job.ended.connect(self._on_ended)
        controller.job.started.connect(self.job.cancel)
        controller.job.ended.connect(self._wait)
        controller.viewer.dims.events.current_step.connect(self._wait)
        controller.session.events.source.connect(self._wait)

    def begin(self, key: str) -> None:
        """Look after a stack from now on."""
        self._keys.add(key)
        self._wait()

    def _wait(self, *_: object) -> None:
        if self._keys:
            self._soon.start()

    def _look(self) -> None:
        controller, source = self._controller, self._controller.session.source
        try:
            layer = controller.source_layer
        except RuntimeError:  # the window is closed
            return
        idle = not (controller.job.busy or self.job.busy)
        if source is None or layer is None or source.key not in self._keys or not idle:
            return
        z = section_on_screen(controller.viewer, layer)
        try:
            run = None if z is None else controller.runs.predict_again(z)
        except ValueError as e:
            self._help.say(f"no probabilities of section {z}: {e}")
            return
        if run is not None:
            self._help.say(f"{run.title} are made again in the background")
            self.job.start(with_torch(run.work), run.title)

    def _on_ended(self, outcome: JobResult) -> None:
        if outcome.cause is not None:
            self._keys.clear()
            self._help.say(f"{self.job.title}: {format_record(outcome.cause)}")
            return
        if not outcome.cancelled:
            self._show_membranes()
            self._help.say(f"{self.job.title} are there: Live-wire works here")
        self._wait()

    def _show_membranes(self) -> None:
        """Show those that were made again where there were no cells."""
        source = self._controller.session.source
        if source is None or source.key not in self._keys:
            return
        self._controller.show_results()
        layers = self._controller.results(source.key)
        if layers is not None:
            layers.refresh({"membranes"}, set(source.results.predicted))


class ProjectRow(QWidget):
    """Makes and opens projects; shows the one of the stack at work."""

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._job = BackgroundJob(in_activity_dock=False)
        self._path = Path()
        self._layer: Layer | None = None
        self.open = button("Open project…", tooltip="Go on where you were.")
        self.recent = RecentButton()
        self.save = button("Save project…")
        self.state = text_label(NONE)
        self._saved = SaveStatusLabel(self.state, lambda: self._job.busy)
        self.moved = RelocateStackRow(controller)
        self._remade = controller.shared(RemadeProbabilities)
        self.message = text_label(role="error")
        self._lay_out()
        self.open.clicked.connect(self._on_open)
        self.recent.chosen.connect(self.open_path)
        self.save.clicked.connect(self._on_save)
        self.moved.found.connect(self._on_found)
        self._job.recorded.connect(self._on_recorded)
        self._job.ended.connect(self._on_ended)
        follow_signal(self, controller.session.events.source, self._on_source)
        follow_stack(self, controller.session, self._on_stack)
        self._on_source()

    def _lay_out(self) -> None:
        row = FlowRow(self.open, self.recent, self.save, fill=True)
        form = form_layout()
        form.addRow(row_label("Project"), row)
        layout = panel_layout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form)
        layout.addWidget(self.state)
        layout.addWidget(self.moved)
        layout.addWidget(self.message)
        self._say("")

    @property
    def keeping(self) -> ProjectSync | None:
        """What saves the stack at work; None if nothing does."""
        return self._controller.session.project

    @property
    def busy(self) -> bool:
        """True while a project is read or made."""
        return self._job.busy

    def save_path(self, path: str | Path) -> None:
        """Make a project of the stack at work, in the background."""
        source = self._controller.session.source
        if source is None or self._job.busy:
            return
        if self._controller.job.busy:
            self._say(
                f"{self._controller.job.title} is still running; wait for its end"
            )
            return
        recuts = self._controller.runs.recuts()
        if recuts.on_trial:
            recuts.keep()
        self._begin(Path(path), self._controller.source_layer)
        self._job.start(
            iter_save_project(source, path, author=author()), "Save project"
        )

    def open_path(
        self,
        path: str | Path,
        *,
        source: Path | None = None,
        layer: Layer | None = None,
    ) -> None:
        """Open a project in the background.

        Parameters
        ----------
        source, layer
            Where its stack is now, if it was moved: a file, or a layer that shows it.
        """
        if self._job.busy:
            return
        path = Path(path)
        try:
            layer = layer or self._layer_of(path)
            stack = None if layer is None else stack_of(layer)
        except (OSError, ValueError) as e:
            self._say(format_record(e))
            return
        self._begin(path, layer)
        work = iter_open_project(path, author=author(), source=source, stack=stack)
        self._job.start(work, "Open project")

    def _begin(self, path: Path, layer: Layer | None) -> None:
        self._path, self._layer = path, layer
        self.moved.hide()
        self._say("")
        self._on_source()

    def _layer_of(self, path: Path) -> Layer | None:
        """Return a layer with the project's stack, if nothing was made from it yet."""
        reference = read_info(path).source
        for layer in self._controller.sources():
            known = untouched(self._controller, layer)
            if known is not None and known.source and reference.absolute:
                same = Path(known.source).absolute() == Path(reference.absolute)
                if same and known.shape == reference.shape:
                    return layer
        return None

    def _on_ended(self, outcome: JobResult) -> None:
        result, cause = outcome.result, outcome.cause
        try:
            if isinstance(result, LoadedProject):
                self._show(result)
            elif isinstance(result, ProjectSync):
                self._keep(result)
        except OSError as e:
            cause = e
        if isinstance(cause, StackNotFoundError):
            self.moved.ask(cause)
        elif cause is not None:
            self._say(f"{self._path.name}: {format_record(cause)}")
        self._on_source()

    def _show(self, opened: LoadedProject) -> None:
        """Put a project that was read to work, in the layer of its stack."""
        controller = self._controller
        if self._layer in controller.viewer.layers:
            controller.choose(self._layer)
            if opened.stack.voxel_size_nm is not None:
                controller.set_voxel_size(opened.stack.voxel_size_nm)
        else:
            controller.add(opened.stack)
        source = controller.session.source
        if source is None:
            opened.keeping.close()
            return
        adopt(controller.session, source.key, replace(opened, stack=source.stack))
        controller.show_results()
        if controller.source_layer is not None:
            controller.show_alone(controller.source_layer)
        self._remade.begin(source.key)
        self._remember(opened.keeping)
        self._say("\n".join(opened.keeping.notes), "note")

    def _keep(self, keeping: ProjectSync) -> None:
        """Let a project that was made keep the stack that it was made of."""
        if self._layer not in self._controller.viewer.layers:
            keeping.close()
            return
        follow(self._controller.session, str(self._layer.unique_id), keeping)
        self._remember(keeping)

    def _remember(self, keeping: ProjectSync) -> None:
        """Let it be found again."""
        remember_project(keeping.path)
        self.recent.list_projects()

    def _on_open(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Open a project: NAME.emseg")
        if path:
            self.open_path(path)

    def _on_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save a project", self._proposed(), "Project (*.emseg)"
        )
        if path:
            self.save_path(path)

    def _proposed(self) -> str:
        source = self._controller.session.source
        if source is None:
            return ""
        at = Path(source.stack.source or source.name)
        beside = at.parent if at.parent.is_dir() else Path()
        return str(beside / f"{at.name.split('.')[0]}.emseg")

    def _on_found(self, place: Path | Layer) -> None:
        if isinstance(place, Layer):
            self.open_path(self._path, layer=place)
        else:
            self.open_path(self._path, source=place)

    def _on_recorded(self, records: list[Record]) -> None:
        for record in records[-1:]:
            if isinstance(record, SectionDone):
                words = f"{record.done} of {format_sections(record.total)}"
                self.state.setText(f"{self._path.stem}: {words}")

    def _on_stack(self) -> None:
        if not self._job.busy:
            self._say("")

    def _on_source(self) -> None:
        busy, source = self._job.busy, self._controller.session.source
        keeping = self.keeping
        self.open.setEnabled(not busy)
        self.recent.setEnabled(not busy)
        self.save.setEnabled(not busy and source is not None)
        self.save.setText("Save project…" if keeping is None else "Save a copy…")
        self.save.setToolTip(
            "Make a folder NAME.emseg; from then on every edit is saved by itself."
            if keeping is None
            else "Go on in a copy under another name."
        )
        self._saved.follow(keeping)
        if keeping is None:
            set_role(self.state, "hint")
            self.state.setText(NONE)
            self.state.setVisible(source is not None)
        else:
            watch(self._controller, self)

    def _say(self, message: str, role: str = "error") -> None:
        self.message.setText(message)
        self.message.setVisible(bool(message))
        set_role(self.message, role)


def author() -> str:
    """Return who works here, by Preferences or by their login."""
    return preference("annotation", "author") or login_name()
