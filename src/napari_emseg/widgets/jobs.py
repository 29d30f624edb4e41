"""A job: a generator of records, run in a thread and told to the GUI in small doses.

Long work knows nothing of Qt. The job asks it for record after record in a worker of
napari's; a timer in the GUI thread collects what came, so that a thousand records a
second cost no more than ten.
"""

import logging
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import get_ident
from time import perf_counter
from typing import Any

from napari.qt.threading import create_worker
from napari.utils import progress
from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer, Signal
from superqt.utils import FunctionWorker, GeneratorWorker, WorkerBase

from napari_emseg.core.records import (
    TILES,
    EpochDone,
    Progress,
    Record,
    SectionDone,
    TileDone,
    ViewProgress,
)

DELIVERY_MS = 100
"""How often the GUI hears of records."""

_log = logging.getLogger(__name__)


class JobError(Exception):
    """A RuntimeError of some work, which Qt's generator workers would swallow."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended: by its result, by an error, or because it was cancelled.

    Parameters
    ----------
    closing
        It was cancelled by napari's closing.
    """

    result: object = None
    error: Exception | None = None
    cancelled: bool = False
    closing: bool = False

    @property
    def cause(self) -> BaseException | None:
        """The error as the work raised it."""
        return self.error.__cause__ if isinstance(self.error, JobError) else self.error


@dataclass(frozen=True, slots=True)
class Advance:
    """`done` of `total` units of work; `seconds_left` is None until it can be told.

    Parameters
    ----------
    step
        What is done; empty for sections and their tiles.
    section, sections
        How many are done or on, and of how many, as far as that is known.
    view
        Where tiles are those of views along several axes: the one at work, how many of
        its tiles are done, and of how many.
    """

    done: int
    total: int
    seconds_left: float | None
    step: str = ""
    section: int | None = None
    sections: int | None = None
    view: tuple[str, int, int] | None = None


class _OwnWarnings(WorkerBase):
    """Tells warnings of its own thread; superqt's `run` takes those of all threads."""

    def run(self) -> None:
        """Work; where the program ended meanwhile nobody is left to be told."""
        try:
            self._run()
        except RuntimeError:  # which in a thread would have Qt abort the program
            if isalive(self.signals):
                raise

    def _run(self) -> None:
        self.started.emit()
        self._running = True
        try:
            with warnings_told_to(self.warned.emit):
                result = self.work()
            if not self.abort_requested:
                self.returned.emit(result)
        except Exception as e:  # noqa: BLE001 - whatever it is, the window is told
            self.errored.emit(e)
        self._running = False
        self.finished.emit()
        self._finished.emit(self)


class QuestionWorker(_OwnWarnings, FunctionWorker):
    """Answers one question."""


class _Worker(_OwnWarnings, GeneratorWorker):
    """Lets no error pass in silence, and closes the generator in its own thread."""

    def work(self) -> Any:
        try:
            result = super().work()
        finally:
            self._gen.close()
        if isinstance(result, RuntimeError):
            raise JobError(str(result)) from result
        return result


_listeners: dict[int, Callable[[tuple[Any, ...]], object]] = {}
"""Who is told of a thread's warnings, by the thread's identity."""


def _show_warning(before: Callable[..., object], *warning: Any) -> None:
    """Tell the listener of this thread; all other threads have who was there before."""
    listener = _listeners.get(get_ident())
    if listener is None:
        before(*warning)
    else:
        listener(warning)


@contextmanager
def warnings_told_to(listener: Callable[[tuple[Any, ...]], object]) -> Iterator[None]:
    """Tell `listener` of warnings of this thread, and of no other.

    `warnings.catch_warnings` is for the whole program. The hook stays when it is left:
    it does nothing without a listener, and others may have put theirs on top.
    """
    hook = warnings.showwarning
    if not (isinstance(hook, partial) and hook.func is _show_warning):
        warnings.showwarning = partial(_show_warning, hook)
    _listeners[get_ident()] = listener
    try:
        yield
    finally:
        del _listeners[get_ident()]


class _Titled(partial):  # type: ignore[type-arg]
    """A function that napari's list of running tasks shows by its title."""

    title = ""

    def __repr__(self) -> str:
        return self.title


def _collect(
    work: Generator[Record, None, object], inbox: deque[Record]
) -> Generator[None, None, object]:
    """Put records where the GUI finds them; stop between any two of them."""
    try:
        while True:
            try:
                record = next(work)
            except StopIteration as stop:
                return stop.value
            inbox.append(record)
            yield
    finally:
        work.close()


_busy: set[int] = set()


def any_job_is_busy() -> bool:
    """Tell if some job, of whichever window, is between `start` and `ended`."""
    return bool(_busy)


class BackgroundJob(QObject):
    """Runs one piece of long work at a time.

    Signals: `started`; `recorded` with a list of records, at most ten times a second;
    `advanced` with an `Advance`; `ended` with a `JobResult`, always and once per
    start.
    """

    started = Signal()
    recorded = Signal(list)
    advanced = Signal(object)
    cancelling = Signal()
    ended = Signal(object)

    def __init__(self, *, in_activity_dock: bool = True) -> None:
        super().__init__()
        self.title = ""
        self._in_activity_dock = in_activity_dock
        self._inbox: deque[Record] = deque()
        self._worker: GeneratorWorker | None = None
        self._outcome = JobResult()
        self._cancelled = False
        self._clock = _Clock()
        self._bar: progress | None = None
        self._timer = QTimer(self)
        self._timer.setInterval(DELIVERY_MS)
        self._timer.timeout.connect(self._deliver)

    @property
    def busy(self) -> bool:
        """True from `start` until `ended`."""
        return self._worker is not None

    @property
    def stopping(self) -> bool:
        """True if a run is on that was asked to stop, by us or by napari's closing."""
        return self._worker is not None and self._worker.abort_requested

    @property
    def closing(self) -> bool:
        """True if it was napari's closing, and not `cancel`, that asked it to stop."""
        return self.stopping and not self._cancelled

    def start(self, work: Generator[Record, None, object], title: str) -> None:
        """Run `work` in a thread.

        Raises
        ------
        RuntimeError
            If the job is busy.
        """
        if self._worker is not None:
            msg = f"{self.title} is still running; cancel it before starting {title}"
            raise RuntimeError(msg)
        self.title = title
        self._outcome = JobResult()
        self._cancelled = False
        self._clock = _Clock()
        self._inbox = deque()
        self._worker = self._make_worker(work, title)
        if self._in_activity_dock:
            self._bar = progress(total=0, desc=title)
        self._timer.start()
        _busy.add(id(self))
        self.started.emit()
        self._worker.start()

    def cancel(self) -> None:
        """Ask the work to stop after its next record."""
        if self._worker is not None:
            self._cancelled = True
            self._worker.quit()
            self.cancelling.emit()

    def _make_worker(
        self, work: Generator[Record, None, object], title: str
    ) -> GeneratorWorker:
        function = _Titled(_collect, work, self._inbox)
        function.title = title
        worker = create_worker(
            function, _start_thread=False, _worker_class=_Worker, _ignore_errors=True
        )
        worker.returned.connect(self._on_returned)
        worker.errored.connect(self._on_errored)
        worker.warned.connect(self._on_warned)
        worker.finished.connect(self._on_finished)
        return worker

    def _on_returned(self, result: object) -> None:
        self._outcome = JobResult(result=result)

    def _on_errored(self, error: Exception) -> None:
        self._outcome = JobResult(error=error)

    def _on_warned(self, warning: tuple[Any, ...]) -> None:
        _log.warning("%s: %s", self.title, warning[0])

    def _on_finished(self) -> None:
        self._timer.stop()
        self._deliver()
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        closing = self.closing
        worker, self._worker = self._worker, None
        _busy.discard(id(self))
        if worker is not None and worker.abort_requested and not self._outcome.error:
            self._outcome = JobResult(cancelled=True, closing=closing)
        self.ended.emit(self._outcome)

    def _deliver(self) -> None:
        records = []
        while self._inbox:
            records.append(self._inbox.popleft())
        if not records:
            return
        self.recorded.emit(records)
        advance = self._clock.advance(records)
        if advance is not None:
            self._show_in_dock(advance)
            self.advanced.emit(advance)

    def _show_in_dock(self, advance: Advance) -> None:
        if self._bar is None or not advance.total:
            return
        if self._bar.total != advance.total:
            self._bar.total = advance.total
        self._bar.update(advance.done - self._bar.n)


class _Clock:
    """Tells how far work is, by its finest records, and how long it will take yet."""

    def __init__(self) -> None:
        self._kind: tuple[type[Record], str] | None = None
        self._first: tuple[int, float] | None = None
        self._sections: tuple[int, int | None] = (0, None)
        self._view: tuple[str, int, int] | None = None

    def advance(self, records: Iterable[Record]) -> Advance | None:
        """Return how far the work is after these records; None if they don't say."""
        latest = None
        for record in records:
            if isinstance(record, SectionDone):
                self._sections = record.done, record.total
            count, kind = _count(record), _kind(record)
            if count is None or (self._by_tiles and not _is_as_fine(record)):
                continue
            if kind != self._kind:
                self._kind, self._first = kind, None
            latest = count
            self._view = record.view if isinstance(record, ViewProgress) else None
            if self._first is None:
                self._first = (count[0], perf_counter())
        return None if latest is None else self._advance(*latest)

    @property
    def _by_tiles(self) -> bool:
        return self._kind is not None and self._kind[0] is TileDone

    def _advance(self, done: int, total: int) -> Advance:
        kind, step = self._kind or (Record, "")
        left = self._left(done, total)
        if kind not in (TileDone, SectionDone):
            return Advance(done, total, left, step)
        finished, sections = self._sections
        here = finished + 1 if sections is None else min(finished + 1, sections)
        return Advance(
            *(done, total, left), section=here, sections=sections, view=self._view
        )

    def _left(self, done: int, total: int) -> float | None:
        """Seconds, by the pace since the first record (what led to it is set-up)."""
        if self._first is None or done <= self._first[0]:
            return None
        pace = (perf_counter() - self._first[1]) / (done - self._first[0])
        return pace * (total - done)


def _is_as_fine(record: Record) -> bool:
    """Tell if a record says more of the work than tiles do, or begins a new step."""
    return _kind(record)[0] is TileDone or (
        isinstance(record, Progress) and not record.total
    )


def _kind(record: Record) -> tuple[type[Record], str]:
    """Return by what records go on from one another; tiles are tiles in all views."""
    if isinstance(record, Progress):
        tiles = record.step == TILES
        return (TileDone, "") if tiles else (Progress, record.step)
    return type(record), ""


def _count(record: Record) -> tuple[int, int] | None:
    if isinstance(record, (TileDone, SectionDone, Progress)):
        return record.done, record.total
    if isinstance(record, EpochDone):
        return record.step, record.steps
    return None
