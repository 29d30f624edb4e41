"""Start, Stop, Resume, how far it is, and what it tells: of a round of learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QVBoxLayout, QWidget

from napari_emseg.session.learning import Learning
from napari_emseg.session.rounds import BROKEN_OFF
from napari_emseg.widgets.theme import SPACING, button, follow, set_role, text_label
from napari_emseg.widgets.training import TrainingController

START = "Learn from your corrections, beside whatever you do meanwhile."
STOP = "End training here. The best so far is kept and compared."
RESUME = "Go on with the round that was stopped, with what it learnt from."


class TrainRow(QWidget):
    """Starts and stops rounds, and shows how far they are.

    Parameters
    ----------
    new
        Tells if new weights are wanted.
    """

    def __init__(
        self, training: TrainingController, learning: Learning, new: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._training, self._learning, self._new = training, learning, new
        self._ready = True
        self.start = button("Start", "primary", START)
        self.stop = button("Stop", "cancel", STOP)
        self.resume = button("Resume", tooltip=RESUME)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.progress = QLabel()
        self.message = text_label()
        self._lay_out()
        self.start.clicked.connect(self._on_start)
        self.stop.clicked.connect(training.stop)
        self.resume.clicked.connect(self._on_resume)
        follow(self, training.changed, self._on_state)
        follow(self, learning.changed, self._on_state)
        self._on_state()

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        row.setSpacing(SPACING)
        for widget in (self.start, self.stop, self.resume):
            row.addWidget(widget)
        row.addWidget(self.bar, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(row)
        layout.addWidget(self.progress)
        layout.addWidget(self.message)

    def set_ready(self, ready: bool, why: str = "") -> None:
        """Allow Start or not; `why` not is its tooltip."""
        self._ready = ready
        self.start.setToolTip(START if ready else why)
        self._on_state()

    def say(self, message: str, role: str = "error") -> None:
        """Show a message."""
        self.message.setText(message)
        self.message.setVisible(bool(message))
        set_role(self.message, role)

    def _on_start(self, *_: Any) -> None:
        self._try(lambda: self._training.start(new=self._new()))

    def _on_resume(self, *_: Any) -> None:
        self._try(self._training.resume)

    def _try(self, begin: Callable[[], None]) -> None:
        try:
            begin()
        except (OSError, ValueError) as e:
            self.say(str(e))

    def _on_state(self) -> None:
        training = self._training
        busy = training.busy
        self.start.setEnabled(self._ready and not busy)
        self.stop.setEnabled(busy and not self._gives_up)
        stopped = None if busy else self._learning.resumable
        self.resume.setVisible(stopped is not None)
        self.bar.setVisible(busy)
        self.progress.setVisible(busy)
        elsewhere = "" if training.shown else f"{training.job.title}: "
        self.progress.setText(f"{elsewhere}{training.words}")
        at = training.progress
        self.bar.setRange(0, 1 if at is None else max(1, at.total))
        self.bar.setValue(0 if at is None else at.done)
        if training.error and training.shown:
            self.say(training.error)
        elif stopped is not None and stopped.outcome == BROKEN_OFF:
            self.say(
                f"{stopped.name} was {BROKEN_OFF}; Resume goes on with it.", "note"
            )
        else:
            self.say("\n".join(training.notes if training.shown else ()), "note")

    @property
    def _gives_up(self) -> bool:
        """True if nothing is left to be stopped."""
        return self._training.job.stopping
