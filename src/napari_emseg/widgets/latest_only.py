"""Questions that only the latest answer of counts, worked out in a thread."""

from __future__ import annotations

from collections.abc import Callable

from napari.qt.threading import create_worker
from psygnal import Signal
from qtpy.QtCore import QObject

from napari_emseg.widgets.jobs import QuestionWorker

Question = Callable[[], object]


class LatestOnlyWorker(QObject):
    """Answers one question at a time; a newer one takes the place of those before.

    Signals: `found` with the answer to the latest question; `failed` with its error.
    Nothing is told of questions that were replaced or dropped.
    """

    found = Signal(object)
    failed = Signal(Exception)

    def __init__(self) -> None:
        super().__init__()
        self._asked: Question | None = None
        self._at_work: Question | None = None

    @property
    def waiting(self) -> bool:
        """True from `ask` until `found`, `failed` or `drop`."""
        return self._asked is not None

    def ask(self, question: Question) -> None:
        """Have a question answered as soon as the one at work is done."""
        self._asked = question
        if self._at_work is None:
            self._start(question)

    def drop(self) -> None:
        """Want no answer any more."""
        self._asked = None

    def _start(self, question: Question) -> None:
        self._at_work = question
        worker = create_worker(
            question,
            _start_thread=False,
            _worker_class=QuestionWorker,
            _ignore_errors=True,
        )
        worker.returned.connect(self._on_found)
        worker.errored.connect(self._on_failed)
        worker.start()

    def _on_found(self, answer: object) -> None:
        if self._done():
            self.found.emit(answer)

    def _on_failed(self, error: Exception) -> None:
        if self._done():
            self.failed.emit(error)

    def _done(self) -> bool:
        """Go on with what was asked meanwhile; tell if the answer is still wanted."""
        wanted = self._asked is not None and self._asked is self._at_work
        self._at_work = None
        if wanted:
            self._asked = None
        elif self._asked is not None:
            self._start(self._asked)
        return wanted
