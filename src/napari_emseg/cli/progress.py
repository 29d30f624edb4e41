"""Long work to its end with a progress bar on stderr; Ctrl-C and SIGTERM stop it."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from threading import current_thread, main_thread
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from napari_emseg.cli.printing import say, talk

if TYPE_CHECKING:
    from napari_emseg.core.records import EpochDone, Record

STOPPED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes, as shells have them."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


class StopRequest:
    """Whether somebody asked for an end; calling it tells."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Return True after Ctrl-C or SIGTERM."""
        return self.signal is not None

    def error(self, words: str = "") -> KeyboardInterrupt:
        """Return what to raise; `words` follow the name of the signal."""
        return _error(signal.SIGINT if self.signal is None else self.signal, words)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request; the second one interrupts."""
    request = StopRequest()

    def ask(number: int, frame: FrameType | None) -> None:
        if request():
            raise _error(number)
        request.signal = number

    with _handling(ask, signal.SIGINT, signal.SIGTERM):
        yield request


@contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """Raise Terminated at SIGTERM, as Python raises KeyboardInterrupt at Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _error(number)

    with _handling(interrupt, signal.SIGTERM):
        yield


@contextmanager
def keep_exit_code() -> Iterator[Callable[[int], int]]:
    """Let a program that SIGTERM meets at its end still end with its exit code.

    Yields what is to be told of the code. Afterwards Python waits for its threads and
    takes itself down, for which it needs a while; results are written by then.
    """
    code = TERMINATED

    def leave(number: int, frame: FrameType | None) -> None:
        os._exit(code)

    def keep(now: int) -> int:
        nonlocal code
        code = now
        return now

    if current_thread() is main_thread():
        signal.signal(signal.SIGTERM, leave)
        # registered first, so it is called last: no handler runs after it
        atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)
    yield keep


def exit_code(error: BaseException | None) -> int:
    """Return 143 if an interrupt began with SIGTERM, else 130."""
    while error is not None:
        if isinstance(error, Terminated):
            return TERMINATED
        error = error.__cause__ or error.__context__
    return STOPPED


def _error(number: int, words: str = "") -> KeyboardInterrupt:
    if number == signal.SIGTERM:
        return Terminated(f"by SIGTERM{words}")
    return KeyboardInterrupt(f"by Ctrl-C{words}")


@contextmanager
def _handling(handler: signal._HANDLER, *numbers: signal.Signals) -> Iterator[None]:
    if current_thread() is not main_thread():  # signals are the main thread's
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


R = TypeVar("R")

LOG_SECONDS = 10.0
"""Where nobody watches (stderr is a file): a line after so long, and at the end."""


def run_with_progress(work: Generator[Record, None, R]) -> R:
    """Run a generator of records to its end, show what happens, return its result.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, when the record in hand is done; a second one doesn't
        wait.
    """
    with _Display() as display, closing(work), stop_on_signals() as stop_asked:
        while True:
            try:
                record = next(work)
            except StopIteration as end:
                result: R = end.value
                return result
            display.show(record)
            if stop_asked():
                raise stop_asked.error()


class _Display:
    """A bar for each step where somebody watches, else a line now and then."""

    def __init__(self) -> None:
        self._console: Console = talk()
        self._watched = sys.stderr.isatty()
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._watched,
        )
        self._tasks: dict[str, TaskID] = {}
        self._logged = perf_counter()
        self._begun = ""

    def __enter__(self) -> _Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, record: Record) -> None:
        """Show what happened."""
        # with numpy, which nobody needs who asks for help
        from napari_emseg.core.records import (
            EpochDone,
            Note,
            Progress,
            SectionDone,
            TileDone,
        )

        if isinstance(record, Note):
            self._console.print(Text(record.message))
        elif isinstance(record, EpochDone):
            self._console.print(Text(_training_line(record)))
        elif isinstance(record, Progress):
            self._advance(record.step, record.done, record.total)
        elif isinstance(record, TileDone) and self._watched:
            self._advance("tiles", record.done, record.total)
        elif isinstance(record, SectionDone):
            self._advance("sections", record.done, record.total)

    def _advance(self, step: str, done: int, total: int) -> None:
        if self._watched:
            if step not in self._tasks:
                self._tasks[step] = self._bars.add_task(step, total=None)
            # a bar without a total moves to and fro
            self._bars.update(self._tasks[step], completed=done, total=total or None)
            return
        if total == 0:  # nobody can tell how far it is: said once
            if step != self._begun:
                say(f"{step} …")
            self._begun = step
            return
        now = perf_counter()
        if done == total or now - self._logged >= LOG_SECONDS:
            self._logged = now
            say(f"{step}: {done} of {total}")


def _training_line(record: EpochDone) -> str:
    scores = "  ".join(f"{k} {v:.4f}" for k, v in record.validation.items())
    # without a validation the last step is taken, and none is better than another
    best = "  best so far" if record.best and "score" in record.validation else ""
    return (
        f"step {record.step}/{record.steps}  {record.ms_per_step:.0f} ms/step  "
        f"{scores}{best}"
    )
