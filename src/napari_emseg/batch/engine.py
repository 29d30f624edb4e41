"""The batch itself: tasks handed out, outcomes recorded, results published."""

from __future__ import annotations

import errno
import shutil
from collections import deque
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

from napari_emseg.batch.cluster import Cluster, Done
from napari_emseg.batch.course import Course, Failure, Outcome, Stages, Task
from napari_emseg.batch.forecast import forecast, refuse_if_full
from napari_emseg.batch.job import LEDGER, Job, hold, remember, remembered
from napari_emseg.batch.ledger import Ledger
from napari_emseg.batch.planning import Plan, plan_batch
from napari_emseg.batch.progress import Clock
from napari_emseg.batch.publishing import (
    export_tasks,
    is_published,
    note_published,
    publish_all,
)
from napari_emseg.batch.records import BatchWaiting, RowChanged, State, Summary
from napari_emseg.batch.report import write_report
from napari_emseg.batch.worker import OtherVersion
from napari_emseg.core.records import Note, Record

BEAT = 0.5
"""Seconds after which a batch lets its caller know that it still runs."""

AHEAD = 2
"""Tasks handed out for each that can run at once, so that no worker waits."""

LONELY = 30.0
"""Seconds without any worker after which a person is told."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def run_batch(job: Job) -> Generator[Record, None, Summary]:
    """Do a batch; yields `RowChanged`, `Note` and `BatchWaiting`.

    Closing the generator stops it: what is finished stays, and a later run with
    `resume` goes on there.

    Raises
    ------
    FileExistsError
        If there are results, or an unfinished batch, and neither `resume` nor
        `overwrite` is set.
    BlockingIOError
        If another batch writes to the folder.
    ValueError
        If the batch to be resumed was another one.
    ConnectionError
        If the scheduler can't be reached, or goes away.
    OSError
        If the disk is full or can't be written to.
    """
    with ExitStack() as stack:
        held = hold(job)
        stack.callback(held.release)
        plan = plan_batch(job)
        _check(plan)
        refuse_if_full(forecast(plan), job.out)
        ledger = stack.enter_context(Ledger(job.folder / LEDGER))
        cluster = stack.enter_context(Cluster(plan.job.where, job.folder))
        _remember(plan)
        summary = yield from _Run(plan, ledger, cluster).all()
    return summary


def _check(plan: Plan) -> None:
    """Refuse what would mix, or replace without being told to."""
    job = plan.job
    if not any(plan.planned):
        why = "; ".join(f"{row.name}: {row.warnings[0]}" for row in plan.rows)
        msg = f"none of the inputs can be used: {why}"
        raise ValueError(msg)
    before, now = remembered(job), plan.memory
    finals = [f for p in plan.planned if p is not None for f in p.finals(job.out)]
    there = [path for path in finals if path.exists()]
    if job.overwrite:
        for path in job.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        (job.folder / LEDGER).unlink(missing_ok=True)
    elif before is not None and not job.resume:
        msg = (
            f"an unfinished batch is in {job.out}: go on with --resume, or --overwrite"
        )
        raise FileExistsError(msg)
    elif before is not None and (other := before.differences(now)):
        msg = (
            f"the batch in {job.out} was another one ({'; '.join(other)}); begin anew "
            "with --overwrite, or in another folder"
        )
        raise ValueError(msg)
    elif before is None and there:
        msg = f"{there[0]} exists already; replace it with --overwrite"
        raise FileExistsError(msg)


def _remember(plan: Plan) -> None:
    """Write down what is done here, beside inputs of a run before."""
    before, now = remembered(plan.job), plan.memory
    known = before.inputs if before is not None and plan.job.resume else {}
    merged = {**known, **now.inputs}
    remember(plan.job, now.model_copy(update={"inputs": merged}))


@dataclass
class _Running:
    """An input on its way."""

    nth: int
    course: Course
    stages: Stages
    clock: Clock
    tasks: list[Task] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)


class _Run:
    """A run of a plan on a cluster."""

    def __init__(self, plan: Plan, ledger: Ledger, cluster: Cluster) -> None:
        self._plan = plan
        self._job: Job = plan.job
        self._ledger = ledger
        self._cluster = cluster
        self._rows = list(plan.rows)
        self._waiting = deque(n for n, p in enumerate(plan.planned) if p is not None)
        self._running: list[_Running] = []
        self._ready: deque[tuple[_Running, Task]] = deque()
        self._out: dict[str, tuple[_Running, Task, int]] = {}
        self._tasks = self._reused = 0
        self._start = perf_counter()
        self._heard = perf_counter()

    def all(self) -> Generator[Record, None, Summary]:
        """Run everything to its end."""
        for nth, row in enumerate(self._rows):
            yield RowChanged(nth, row)
        while self._waiting or self._running:
            yield from self._begin()
            self._hand_out()
            done = self._cluster.next_done(BEAT) if self._out else None
            if done is None:
                yield from self._idle()
            else:
                self._heard = perf_counter()
                yield from self._take(done)
        seconds = perf_counter() - self._start
        rows = tuple(self._rows)
        summary = Summary(rows, seconds, self._tasks, self._reused)
        pages = write_report(summary, self._job.out)
        if summary.ok:
            shutil.rmtree(self._job.folder, ignore_errors=True)
        return replace(summary, pages=pages)

    def _begin(self) -> Generator[Record, None, None]:
        """Begin with the next input if those under way don't keep workers busy."""
        while self._waiting and len(self._ready) < self._cluster.slots:
            nth = self._waiting.popleft()
            planned = self._plan.planned[nth]
            if planned is None:
                continue
            course = planned.course(self._job, self._ledger)
            clock = Clock(course.context)
            running = _Running(nth, course, self._stages(course), clock)
            self._running.append(running)
            yield self._changed(running)
            yield from self._advance(running, None)

    def _stages(self, course: Course) -> Stages:
        """Yield the stages of an input, and then those of other formats."""
        found, job = course.found, self._job
        if (paths := is_published(course, job, self._ledger)) is not None:
            found.results, found.cells = paths
            return
        yield from course.stages()
        places = publish_all(course, job)
        tasks = export_tasks(course, places, job)
        outcomes = yield tasks
        found.results = [str(p) for p in places if p.parent == job.out]
        for task, outcome in zip(tasks, outcomes, strict=True):
            if isinstance(outcome, Failure):
                found.failures.append(f"{task.words}: {outcome.why}")
            else:
                found.results.append(outcome["path"])
        if not found.failures:
            note_published(course, job, self._ledger)

    def _advance(
        self, running: _Running, outcomes: list[Outcome] | None
    ) -> Generator[Record, None, None]:
        """Go on to the next stage that has something to do."""
        while True:
            try:
                tasks = (
                    next(running.stages)
                    if outcomes is None
                    else running.stages.send(outcomes)
                )
            except StopIteration:
                yield from self._ended(running)
                return
            except (OSError, ValueError) as e:
                if isinstance(e, OSError) and e.errno in _FULL:
                    raise
                yield from self._ended(running, str(e))
                return
            running.tasks, running.outcomes = tasks, {}
            for task in tasks:
                known = self._ledger.facts(task.stamp)
                if known is not None and not known.get("failed"):
                    self._reused += 1
                    running.outcomes[task.stamp] = known
                    running.clock.count(task, now=False)
                else:
                    self._ready.append((running, task))
            if len(running.outcomes) < len(tasks):
                yield self._changed(running)
                return
            outcomes = [running.outcomes[task.stamp] for task in tasks]

    def _hand_out(self) -> None:
        most = AHEAD * self._cluster.slots
        while self._ready and len(self._out) < most:
            running, task = self._ready.popleft()
            self._submit(running, task, 0)

    def _submit(self, running: _Running, task: Task, tried: int) -> None:
        key = f"{task.stamp}-{tried}"
        self._out[key] = running, task, tried
        self._cluster.submit(key, task.work)

    def _take(self, done: Done) -> Generator[Record, None, None]:
        running, task, tried = self._out.pop(done.key)
        if done.facts is not None:
            self._ledger.record(task.stamp, done.facts)
            self._tasks += 1
            running.outcomes[task.stamp] = done.facts
        else:
            _stop_if_hopeless(done.error)
            why = _why(done.error)
            if tried < self._job.settings.retries and not _kills(done.error):
                yield Note(f"{task.words}: {why}; it is tried again")
                self._submit(running, task, tried + 1)
                return
            yield Note(f"{task.words} failed: {why}")
            running.outcomes[task.stamp] = Failure(why)
        running.clock.count(task, now=True)
        yield self._changed(running)
        if len(running.outcomes) == len(running.tasks):
            outcomes = [running.outcomes[t.stamp] for t in running.tasks]
            yield from self._advance(running, outcomes)

    def _ended(
        self, running: _Running, error: str = ""
    ) -> Generator[Record, None, None]:
        self._running.remove(running)
        found = running.course.found
        state: State = "incomplete" if found.failures else "done"
        self._rows[running.nth] = replace(
            self._rows[running.nth],
            state="failed" if error else state,
            step="",
            share=running.clock.share if error else 1.0,
            seconds=running.clock.seconds,
            seconds_left=None,
            cells=found.cells,
            warnings=(*found.warnings, *found.failures, *([error] if error else [])),
            outputs=() if error else tuple(map(Path, found.results)),
        )
        yield RowChanged(running.nth, self._rows[running.nth])

    def _idle(self) -> Generator[Record, None, None]:
        yield BatchWaiting()
        if perf_counter() - self._heard > LONELY and self._cluster.workers == 0:
            self._heard = perf_counter()
            yield Note("no worker is connected to the scheduler; waiting for one")

    def _changed(self, running: _Running) -> RowChanged:
        self._rows[running.nth] = replace(
            self._rows[running.nth],
            state="running",
            step=running.tasks[0].step if running.tasks else "",
            share=running.clock.share,
            seconds=running.clock.seconds,
            seconds_left=running.clock.left,
        )
        return RowChanged(running.nth, self._rows[running.nth])


def _stop_if_hopeless(error: BaseException | None) -> None:
    """Raise what no other task would survive: a full disk, another version."""
    if isinstance(error, OSError) and error.errno in _FULL:
        msg = (
            f"{error.strerror or error}: the folder of results takes no more; what is "
            "finished is kept, go on with --resume when there is room"
        )
        raise OSError(error.errno, msg) from error
    if isinstance(error, OtherVersion):
        raise error


def _kills(error: BaseException | None) -> bool:
    """Tell if a task took its workers with it, several times."""
    return type(error).__name__ == "KilledWorker"


def _why(error: BaseException | None) -> str:
    if _kills(error):
        return "its worker died each time it was tried (out of memory?)"
    text = " ".join(str(error).split())
    return (
        text
        if isinstance(error, OSError | ValueError)
        else (f"{type(error).__name__}: {text}")
    )
