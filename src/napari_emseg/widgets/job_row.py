"""A button, a bar and what is told: the foot of a panel that has a job of its own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

from napari.utils.notifications import show_error
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QVBoxLayout, QWidget

from napari_emseg.core.records import Note, Record
from napari_emseg.widgets.background import run_niced
from napari_emseg.widgets.formatting import format_time_left
from napari_emseg.widgets.jobs import Advance, BackgroundJob, JobResult
from napari_emseg.widgets.run_presenter import format_record
from napari_emseg.widgets.theme import SPACING, button, set_role, text_label

Work = Generator[Record, None, Any]


class JobRow(QWidget):
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
        super().__init__()
        self.job = BackgroundJob()
        self._role = role
        self._words = words
        self._prepare = prepare
        self._ready = True
        self._notes: list[str] = []
        self.button = button(words, role)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.left = QLabel()
        self.message = text_label()
        self._lay_out()
        self.button.clicked.connect(self._on_click)
        self.job.recorded.connect(self._on_recorded)
        self.job.advanced.connect(self._on_advanced)
        self.job.cancelling.connect(self._on_cancelling)
        self.job.ended.connect(self._on_ended)
        self.say("")
        self._show_state()

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        row.setSpacing(SPACING)
        row.addWidget(self.button)
        row.addWidget(self.bar, 1)
        row.addWidget(self.left)
        row.addStretch()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(row)
        layout.addWidget(self.message)

    def set_ready(self, ready: bool, why: str = "") -> None:
        """Allow a start or not; `why` not is the button's tooltip."""
        self._ready = ready
        self.button.setToolTip(why)
        self._show_state()

    def say(self, message: str, role: str = "hint") -> None:
        """Show a message under the button."""
        self.message.setText(message)
        self.message.setVisible(bool(message))
        set_role(self.message, role)

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
        self.bar.setRange(0, 1)
        self.bar.setValue(0)
        self.left.setText("starting")
        self.job.start(run_niced(work), title)
        self._show_state()

    def _on_recorded(self, records: Sequence[Record]) -> None:
        self._notes += [r.message for r in records if isinstance(r, Note)]
        if self._notes:
            self.say("\n".join(self._notes), "note")

    def _on_advanced(self, advance: Advance) -> None:
        self.bar.setRange(0, advance.total)
        self.bar.setValue(advance.done)
        self.left.setText(format_time_left(advance.seconds_left))

    def _on_cancelling(self) -> None:
        self.button.setEnabled(False)
        self.left.setText("stops soon")

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
        busy = self.job.busy
        self.button.setText("Cancel" if busy else self._words)
        set_role(self.button, "cancel" if busy else self._role)
        self.button.setEnabled(busy or self._ready)
        self.bar.setVisible(busy)
        self.left.setVisible(busy)
