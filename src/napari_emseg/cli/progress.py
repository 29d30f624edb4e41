"""Long work to its end with a progress bar on stderr; Ctrl-C and SIGTERM stop it."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import closing
from time import perf_counter
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)
from rich.text import Text

from napari_emseg.cli.printing import say, talk
from napari_emseg.cli.stopping import stop_on_signals
from napari_emseg.core.records import (
    EpochDone,
    Note,
    Progress,
    Record,
    SectionDone,
    TileDone,
)

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

    def __enter__(self) -> _Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, record: Record) -> None:
        """Show what happened."""
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
                self._tasks[step] = self._bars.add_task(step)
            self._bars.update(self._tasks[step], completed=done, total=total)
            return
        now = perf_counter()
        if done == total or now - self._logged >= LOG_SECONDS:
            self._logged = now
            say(f"{step}: {done} of {total}")


def _training_line(record: EpochDone) -> str:
    scores = "  ".join(f"{k} {v:.4f}" for k, v in record.validation.items())
    best = "  best so far" if record.best else ""
    return (
        f"step {record.step}/{record.steps}  {record.ms_per_step:.0f} ms/step  "
        f"{scores}{best}"
    )
