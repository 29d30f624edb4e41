"""A round of learning on its way, beside whatever else the window does.

It has a job of its own, so that the person goes on predicting and correcting. Panels
are views of it.
"""

from collections.abc import Callable, Sequence
from time import perf_counter

from napari.utils.notifications import show_error, show_info
from psygnal import Signal
from qtpy.QtCore import QObject

from napari_emseg.core.records import EpochDone, Note, Progress, Record
from napari_emseg.session.learning import Attempt, Learning
from napari_emseg.session.training_request import Learnt
from napari_emseg.widgets.background import with_training
from napari_emseg.widgets.formatting import format_time_left
from napari_emseg.widgets.jobs import BackgroundJob, JobResult
from napari_emseg.widgets.run_presenter import format_record

STEP = "training"
"""What the records of the steps themselves are called."""


class TrainingController(QObject):
    """Runs rounds of learning in a thread.

    Signals: `changed` when there is something new to show, at most ten times a second.
    """

    changed = Signal()

    def __init__(self, learning: Callable[[], Learning]) -> None:
        super().__init__()
        self._learning = learning
        self._attempt: Attempt | None = None
        self._sources: frozenset[str] = frozenset()
        self._pace = _Pace()
        self.job = BackgroundJob()
        self.notes: list[str] = []
        self.error = ""
        self.curve: list[EpochDone] = []
        self.progress: Progress | None = None
        self.stopping = False
        self.job.recorded.connect(self._on_recorded)
        self.job.ended.connect(self._on_ended)

    @property
    def busy(self) -> bool:
        """True while a round is on."""
        return self.job.busy

    @property
    def shown(self) -> bool:
        """True while the stack at work is one that the latest round learns from.

        Under another stack its curve and words would be taken for that one's.
        """
        return self._learning().is_about(self._sources)

    def start(self, *, new: bool = False) -> None:
        """Begin a round.

        Raises
        ------
        ValueError
            If there is nothing to learn from, or one is on already.
        """
        self._run(lambda: self._learning().start(new=new), again=False)

    def resume(self) -> None:
        """Go on with the round that was stopped.

        Raises
        ------
        ValueError
            If there is none.
        """
        self._run(self._learning().resume, again=True)

    def _run(self, begin: Callable[[], Attempt], *, again: bool) -> None:
        if self.busy:
            msg = f"{self.job.title} is on; wait for its end, or stop it"
            raise ValueError(msg)
        self._attempt = begin()
        self._sources = self._attempt.sources
        self.notes, self.error, self.stopping = [], "", False
        self.progress, self._pace = None, _Pace()
        if not again:
            self.curve = []
        self.job.start(with_training(self._attempt.work), self._attempt.name)
        self.changed.emit()

    def stop(self) -> None:
        """End training with the best so far; a second time, give up comparing it."""
        if self._attempt is None:
            return
        trains = self.progress is not None and self.progress.step == STEP
        if trains and not self.stopping:
            self._attempt.stop()
        else:
            self.job.cancel()
        self.stopping = True
        self.changed.emit()

    @property
    def words(self) -> str:
        """How far it is: `step 75/300 · 59 ms/step · 14 s left`."""
        if self.stopping:
            return "stops soon"
        if self.progress is None:
            return "starting"
        done, total = self.progress.done, self.progress.total
        if not total:
            return self.progress.step
        if self.progress.step != STEP:
            return f"{self.progress.step} {done}/{total}"
        said = [f"step {done}/{total}"]
        if self._pace.ms is not None:
            said.append(f"{self._pace.ms:.0f} ms/step")
            said.append(format_time_left(self._pace.ms * (total - done) / 1000))
        return " · ".join(said)

    def _on_recorded(self, records: Sequence[Record]) -> None:
        for record in records:
            if isinstance(record, Note):
                self.notes.append(record.message)
            elif isinstance(record, EpochDone):
                self.curve.append(record)
            elif isinstance(record, Progress):
                self.progress = record
                if record.step == STEP:
                    self._pace.tell(record.done)
        self.changed.emit()

    def _on_ended(self, outcome: JobResult) -> None:
        attempt, self._attempt = self._attempt, None
        self.progress, self.stopping = None, False
        if attempt is None:
            return
        learning = self._learning()
        if isinstance(outcome.result, Learnt):
            learning.finish(attempt.name, outcome.result)
            self._announce(attempt, "is a new candidate")
        elif outcome.cause is not None:
            self.error = format_record(outcome.cause)
            learning.fail(attempt.name, self.error)
            show_error(f"{attempt.name}: {self.error}")
        else:
            learning.break_off(attempt.name)
            self._announce(attempt, "was stopped")
        self.changed.emit()

    def _announce(self, attempt: Attempt, what: str) -> None:
        """Tell how a round ended whose stack isn't at work, so that no panel does."""
        if not self.shown:
            learning, name = self._learning(), attempt.name
            stack = learning.ledger.known(name).learnt_from
            there = learning.describe_whereabouts(name, attempt.sources)
            # a notification shows its beginning only until it is unfolded
            show_info(f"{stack}: {name} {what}; {there}")


class _Pace:
    """How long a step takes, by those since the first one."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None
        self.ms: float | None = None

    def tell(self, done: int) -> None:
        """Take note that so many steps are done."""
        now = perf_counter()
        if self._first is None:
            self._first = done, now
        elif done > self._first[0]:
            self.ms = 1000 * (now - self._first[1]) / (done - self._first[0])
