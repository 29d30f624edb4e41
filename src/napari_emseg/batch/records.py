"""What a batch tells while it runs, and at its end."""

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Literal

from napari_emseg.batch.context import Context
from napari_emseg.batch.step import steps_of
from napari_emseg.batch.tasks import Task
from napari_emseg.core.records import Record

State = Literal["waiting", "running", "done", "incomplete", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class Row:
    """One input of a batch as it stands: a line of the table.

    Parameters
    ----------
    state
        `incomplete`: done, but for blocks that failed. `failed`: without result.
    step
        What is being done.
    share
        Done of all that there is to do, from 0 to 1.
    seconds_left
        None as long as nobody knows.
    sections, shape
        Of the result; None as long as the input wasn't opened.
    outputs
        Finished results.
    warnings
        What a person should know, e.g. which blocks failed and why.
    error
        Why the input can't be used at all; the last of `warnings` says it.
    """

    name: str
    path: str
    state: State = "waiting"
    step: str = ""
    share: float = 0.0
    seconds: float = 0.0
    seconds_left: float | None = None
    sections: int | None = None
    shape: tuple[int, int] | None = None
    cells: int | None = None
    outputs: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()
    error: Exception | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class RowChanged(Record):
    """A row stands otherwise; `nth` of the batch."""

    nth: int
    row: Row


@dataclass(frozen=True, slots=True)
class BatchWaiting(Record):
    """Nothing happened for a moment: time to look whether to go on."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How a batch ended.

    Parameters
    ----------
    pages
        The summary as CSV and as HTML.
    tasks, reused
        How many parts were done now, and how many were done before.
    """

    rows: tuple[Row, ...]
    seconds: float
    tasks: int
    reused: int
    pages: tuple[Path, ...] = ()

    @property
    def ok(self) -> bool:
        """True if every row is done, without a failed block."""
        return all(row.state == "done" for row in self.rows)


ENOUGH = 0.01
"""Part of the work after which its speed says something."""


class Clock:
    """Counts what is done of an input, by what it costs."""

    def __init__(self, context: Context) -> None:
        self._cost: dict[str, float] = {}
        for step in steps_of(context.settings):
            self._cost |= step.cost(context)
        self._total = prod(context.size) * sum(self._cost.values())
        self._now = self._before = 0.0
        self._start = perf_counter()

    def count(self, task: Task, *, now: bool) -> None:
        """Count a task; `now` if it was done in this run."""
        cost = self._cost.get(task.step, 0.0) * task.pixels
        if now:
            self._now += cost
        else:
            self._before += cost

    @property
    def share(self) -> float:
        """Done of all there is to do, from 0 to 1."""
        done = self._now + self._before
        return min(1.0, done / self._total) if self._total else 0.0

    @property
    def seconds(self) -> float:
        """Since it began."""
        return perf_counter() - self._start

    @property
    def left(self) -> float | None:
        """Seconds; None as long as nobody knows."""
        if not self._now or self._now < ENOUGH * self._total:
            return None
        todo = max(0.0, self._total - self._now - self._before)
        return self.seconds * todo / self._now
