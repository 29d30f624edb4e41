"""Run, Cancel, progress and what a run tells, and on what it runs."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

from napari.layers import Layer
from napari.utils.notifications import show_error
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_emseg._napari.versions import camera_of
from napari_emseg.core.records import Note, Record
from napari_emseg.session import Run, RunScope, from_here
from napari_emseg.widgets.background import run_niced
from napari_emseg.widgets.camera import (
    add_box_layer,
    area_in_view,
    drawn_box,
    nearest_section,
    section_here,
)
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.flow_row import FlowRow, StickyFoot
from napari_emseg.widgets.formatting import format_advance, format_result
from napari_emseg.widgets.jobs import Advance, BackgroundJob, JobResult
from napari_emseg.widgets.run_presenter import Stage, format_record
from napari_emseg.widgets.theme import (
    button,
    combo_box,
    follow,
    follow_stack,
    set_role,
    text_label,
)

SHOWN_NOTES = 6
"""The latest ones; the rest is counted."""

CANCEL = "Cancel"

UNITS = 1000
"""Of a bar."""


class JobControls(QWidget):
    """A button that becomes Cancel while work is on, how far that is, and a message.

    What starts and what cancels is up to those who make rows of it.

    Parameters
    ----------
    words, role
        Of the button, while nothing runs.
    beside, after
        Further widgets of the row, behind the button and at its end.
    left
        What says which step is on, and how long it takes yet; below the row.
    """

    def __init__(
        self,
        words: str,
        role: str = "primary",
        *,
        tooltip: str = "",
        beside: Sequence[QWidget] = (),
        after: Sequence[QWidget] = (),
        left: QLabel | None = None,
    ) -> None:
        super().__init__()
        self.words, self._role = words, role
        self.button = button(words, role, tooltip)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.left = text_label() if left is None else left
        self.message = text_label()
        self.foot = QWidget()
        set_role(self.foot, "foot")
        row = FlowRow(self.button, *beside, self.bar, *after)
        for outer, widgets in (
            (self.foot, (row, self.left)),
            (self, (self.foot, self.message)),
        ):
            layout = QVBoxLayout(outer)
            layout.setContentsMargins(0, 0, 0, 0)
            for widget in widgets:
                layout.addWidget(widget)
        self.say("")

    def stick_in(self, panel: QVBoxLayout) -> None:
        """Add it to a panel, with all but the message in view while the panel is."""
        self.layout().removeWidget(self.foot)
        panel.addWidget(self.foot)
        panel.addWidget(self)
        StickyFoot(self.foot, self)

    def say(self, message: str, role: str = "hint") -> None:
        """Show a message under the button; none if it is empty."""
        self.message.setText(message)
        self.message.setVisible(bool(message))
        set_role(self.message, role)

    def show_share(self, done: int = 0, total: int = 0) -> None:
        """Show how far work is; a bar that is full would say that it has ended."""
        # at rest, not busy: a moving bar repaints the window without end
        self.bar.setRange(0, UNITS)
        self.bar.setValue(min(UNITS - 1, UNITS * done // total) if total else 0)

    def show_advance(
        self, advance: Advance | None, sections: int | None = None
    ) -> None:
        """Show how far work is and how long it takes yet; None: it has just begun.

        Parameters
        ----------
        sections
            How many there are, as long as the work itself didn't tell.
        """
        if advance is None:
            self.show_share()
            self.left.setText("Starting")
        else:
            self.show_share(advance.done, advance.total)
            self.left.setText(format_advance(advance, sections))

    def show_stopping(self, words: str = "stops soon") -> None:
        """Show that work was asked to stop."""
        self.button.setEnabled(False)
        self.left.setText(words)

    def show_busy(self, busy: bool, *, enabled: bool = True) -> None:
        """Have the button say Cancel or not, and show or hide how far work is."""
        self.button.setText(CANCEL if busy else self.words)
        set_role(self.button, "cancel" if busy else self._role)
        self.button.setEnabled(enabled)
        self.bar.setVisible(busy)
        self.left.setVisible(busy)


class RunRow(JobControls):
    """Starts a stage's runs and shows them. Its button becomes Cancel meanwhile.

    Parameters
    ----------
    stage
        Which of the controller's stages it starts.
    prepare
        Returns the run that would be started; a ValueError says why there is none.
    """

    def __init__(
        self, controller: ViewerController, stage: Stage, prepare: Callable[[], Run]
    ) -> None:
        super().__init__("Run")
        self._controller = controller
        self._stage = stage
        self._prepare = prepare
        self._notes: list[str] = []
        self.said_above = ""
        """What the panel says before the run; its notes don't repeat that."""
        self._ready = True
        self._refused = False
        self._told = True
        """False once another stack is at work than the one that a run is over."""
        self._connect()
        self._on_state()

    def _connect(self) -> None:
        self.button.clicked.connect(self._on_click)
        job = self._controller.job
        for signal, slot in (
            (job.started, self._on_started),
            (job.advanced, self._on_advanced),
            (job.cancelling, self._on_cancelling),
            (job.ended, self._on_ended),
        ):
            signal.connect(slot)
        follow(self, self._controller.noted, self._on_noted)
        follow(self, self._controller.failed, self._on_failed)
        follow_stack(self, self._controller.session, self._forget)

    @property
    def running(self) -> bool:
        """True while a run of this stage is on."""
        return self._controller.job.busy and self._controller.stage == self._stage

    def _forget(self) -> None:
        """Say no more of another stack, or of one that is gone."""
        self._told = not self.running
        if self._told:
            self._notes = []
            self.say("")

    def set_ready(self, ready: bool, why: str = "") -> None:
        """Allow Run or not; `why` not is its tooltip."""
        self._ready = ready
        self.button.setToolTip(why)
        self._on_state()

    def refuse(self, message: str) -> None:
        """Show an error."""
        self.say(message, "error")
        self._refused = True

    def drop_refusal(self) -> None:
        """Say no more why a run was refused: it would be another one now."""
        if self._refused:
            self.say("")

    def say(self, message: str, role: str = "hint") -> None:
        """Show a message under the button; none if it is empty."""
        self._refused = False
        super().say(message, role)

    def _on_click(self) -> None:
        if self.running:
            self._controller.job.cancel()
            return
        self._notes = []
        self._told = True
        self.say("")
        try:
            run = self._prepare()
            self._controller.start(run, self._stage, said=self.said_above)
        except (OSError, RuntimeError, ValueError) as e:
            self.refuse(str(e))

    def _on_started(self) -> None:
        self.show_advance(None)
        self._on_state()

    def _on_advanced(self, advance: Advance) -> None:
        if self.running:
            self.show_advance(advance, self._controller.sections_to_run)

    def _on_cancelling(self) -> None:
        if self.running:
            self.show_stopping("stops after this tile")

    def _on_ended(self, outcome: JobResult) -> None:
        self._on_state()
        if self._controller.stage != self._stage:
            return
        if not self._told:
            self._forget()
            return
        if outcome.cancelled:
            self._add_note("cancelled; what was finished is kept")
        elif outcome.error is None:
            self._add_note(format_result(outcome.result))

    def _on_noted(self, note: str) -> None:
        if self.running:
            self._add_note(note)

    def _on_failed(self, message: str) -> None:
        if self._controller.stage == self._stage:
            self.refuse(message)

    def _add_note(self, note: str) -> None:
        self._notes.append(note)
        more = len(self._notes) - SHOWN_NOTES
        shown = self._notes[-SHOWN_NOTES:]
        lines = [f"({more} earlier notes)", *shown] if more > 0 else shown
        self.say("\n".join(lines))

    def _on_state(self) -> None:
        busy = self._controller.job.busy
        enabled = self.running or (self._ready and not busy)
        self.show_busy(self.running, enabled=enabled)
        if busy and not self.running:
            self.button.setToolTip(f"{self._controller.job.title} is running.")


Work = Generator[Record, None, Any]


class JobRow(JobControls):
    """Starts work and shows how far it is. Its button becomes Cancel meanwhile.

    `done` carries the result of work that came to its end.

    Parameters
    ----------
    words
        What the button says.
    prepare
        Returns a title and the work to start; a ValueError says why there is none.
    role
        Of the button, while nothing runs.
    """

    done = Signal(object)

    def __init__(
        self,
        words: str,
        prepare: Callable[[], tuple[str, Work]],
        *,
        role: str = "primary",
    ) -> None:
        super().__init__(words, role)
        self.job = BackgroundJob()
        self._prepare = prepare
        self._ready = True
        self._notes: list[str] = []
        self.button.clicked.connect(self._on_click)
        self.job.recorded.connect(self._on_recorded)
        self.job.advanced.connect(self.show_advance)
        self.job.cancelling.connect(self._on_cancelling)
        self.job.ended.connect(self._on_ended)
        self._show_state()

    def set_ready(self, ready: bool, why: str = "") -> None:
        """Allow a start or not; `why` not is the button's tooltip."""
        self._ready = ready
        self.button.setToolTip(why)
        self._show_state()

    def _on_click(self) -> None:
        if self.job.busy:
            self.job.cancel()
            return
        self._notes = []
        self.say("")
        try:
            title, work = self._prepare()
        except (OSError, ValueError) as e:
            self.say(str(e), "error")
            return
        self.show_advance(None)
        self.job.start(run_niced(work), title)
        self._show_state()

    def _on_recorded(self, records: Sequence[Record]) -> None:
        self._notes += [r.message for r in records if isinstance(r, Note)]
        if self._notes:
            self.say("\n".join(self._notes), "note")

    def _on_cancelling(self) -> None:
        self.show_stopping()

    def _on_ended(self, outcome: JobResult) -> None:
        self._show_state()
        if outcome.cancelled:
            self.say("cancelled")
        elif outcome.cause is not None:
            message = format_record(outcome.cause)
            self.say(message, "error")
            show_error(f"{self.job.title}: {message}")
        else:
            self.done.emit(outcome.result)

    def _show_state(self) -> None:
        self.show_busy(self.job.busy, enabled=self.job.busy or self._ready)


VIEW, BOX, SECTION, RANGE, ALL = (
    "this view",
    "drawn box",
    "this section",
    "sections A–B",
    "all sections",
)

SETTLE_MS = 150
"""The view must rest for so long before anyone is told that it changed."""


class ScopeRow(QWidget):
    """Chooses where a run goes. `changed` tells that the region may be another one."""

    changed = Signal()

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self.choice = combo_box()
        self.choice.addItems([VIEW, BOX, SECTION, RANGE, ALL])
        self.choice.setToolTip("Which part of the stack is computed.")
        self.first, self.last = QSpinBox(), QSpinBox()
        self.last.setRange(0, 0)
        self._to = QLabel("–")
        self.draw = button("Draw", tooltip="Draw a box in a new Shapes layer.")
        row = QHBoxLayout()
        for widget, stretch in (
            (self.first, 1),
            (self._to, 0),
            (self.last, 1),
            (self.draw, 1),
        ):
            row.addWidget(widget, stretch)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.choice)
        layout.addLayout(row)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLE_MS)
        self._timer.timeout.connect(self.changed)
        self._connect()
        self._on_source()
        self._on_choice()

    def _connect(self) -> None:
        self.choice.currentTextChanged.connect(self._on_choice)
        self.first.valueChanged.connect(self.last.setMinimum)
        for box in (self.first, self.last):
            box.valueChanged.connect(self._timer.start)
        self.draw.clicked.connect(self._on_draw)
        viewer = self._controller.viewer
        for event in (
            viewer.dims.events.point,
            viewer.dims.events.order,
            viewer.dims.events.ndisplay,
            camera_of(viewer).events.zoom,
            camera_of(viewer).events.center,
            viewer.layers.selection.events.active,
        ):
            follow(self, event, self._on_view)
        follow(self, self._controller.session.events.source, self._on_source)

    def region(self) -> RunScope:
        """Return where a run would go now, the section on screen first.

        Raises
        ------
        ValueError
            If there is no stack, no section of it on screen, or no box where one is
            asked for.
        """
        layer = self._controller.source_layer
        source = self._controller.session.source
        if layer is None or source is None:
            msg = "no stack is chosen; open one or choose an image layer in 1 Data"
            raise ValueError(msg)
        return self._region(layer, source.stack.shape[0])

    def _region(self, layer: Layer, n: int) -> RunScope:
        viewer = self._controller.viewer
        here = nearest_section(viewer, layer)
        chosen = self.choice.currentText()
        if chosen == BOX:
            return drawn_box(viewer, layer)
        if chosen == RANGE:
            sections = range(self.first.value(), self.last.value() + 1)
            return RunScope(from_here(sections, here))
        if chosen == ALL:
            return RunScope(from_here(range(n), here))
        region = RunScope((section_here(viewer, layer),))
        if chosen == VIEW:
            region = replace(region, roi=area_in_view(viewer, layer))
        return region

    def _on_choice(self) -> None:
        chosen = self.choice.currentText()
        for widget in (self.first, self._to, self.last):
            widget.setVisible(chosen == RANGE)
        self.draw.setVisible(chosen == BOX)
        self._timer.start()

    def _on_draw(self) -> None:
        layer = self._controller.source_layer
        if layer is not None:
            shapes = add_box_layer(self._controller.viewer, layer)
            follow(self, shapes.events.data, self._on_view)

    def _on_view(self) -> None:
        self._timer.start()

    def _on_source(self) -> None:
        source = self._controller.session.source
        top = 0 if source is None else source.stack.shape[0] - 1
        whole = self.last.value() == self.last.maximum()
        self.first.setRange(0, top)
        self.last.setRange(self.first.value(), top)
        if whole:
            self.last.setValue(top)
        self._timer.start()
