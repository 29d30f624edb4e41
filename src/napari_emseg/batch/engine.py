"""The batch itself: tasks handed out, outcomes recorded, results published."""

import errno
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

from napari_emseg.batch.cluster import Cluster, Done
from napari_emseg.batch.completion_log import CompletionLog, stamp
from napari_emseg.batch.estimate import estimate_batch, refuse_if_full
from napari_emseg.batch.job import (
    LEDGER,
    BatchConfig,
    BatchStoppedError,
    DifferentBatchError,
    clear_folder,
    output_held,
)
from napari_emseg.batch.output_folder import (
    FinishedInput,
    check,
    clear,
    finished_before,
    finished_input,
    note,
)
from napari_emseg.batch.pipeline import InputPipeline
from napari_emseg.batch.planning import Plan, Planned, iter_settle_precision, plan_batch
from napari_emseg.batch.publishing import (
    export_tasks,
    note_published,
    publish_all,
    were_published,
)
from napari_emseg.batch.records import (
    BatchWaiting,
    Clock,
    Row,
    RowChanged,
    State,
    Summary,
)
from napari_emseg.batch.report import pages_of, write_report
from napari_emseg.batch.tasks import Failure, Stages, Task, TaskResult, is_whole
from napari_emseg.batch.worker import VersionMismatchError
from napari_emseg.core.records import Note, Record


def iter_stages(
    course: InputPipeline, ledger: CompletionLog, describe_change: Callable[[], str]
) -> Stages:
    """Yield the stages of an input, and then those of what is made of its results.

    Parameters
    ----------
    describe_change
        Says what has become of the input's files; empty if nothing.
    """
    found = course.found
    if not were_published(course, ledger):
        yield from course.stages()
        if change := describe_change():
            found.errors.append(f"{change}: the result is incomplete")
            if Path(course.context.given.path).exists():
                ledger.record(stamp(course.base, "changed"), {})
        publish_all(course)
    yield from course.files()
    tasks = export_tasks(course)
    outcomes = yield tasks
    finals = [str(p) for p in course.places.values() if p.parent == course.out]
    found.results = [*finals, *found.files]
    for task, outcome in zip(tasks, outcomes, strict=True):
        if isinstance(outcome, Failure):
            found.errors.append(f"{task.words}: {outcome.why}")
        else:
            found.results.append(outcome["path"])
    if not found.failures:
        note_published(course, ledger)


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class OutputFullError(BatchStoppedError):
    """The output folder is full."""


def stop_if_hopeless(error: BaseException | None) -> None:
    """Raise what no other task would survive: a full disk, another version."""
    if isinstance(error, OutputFullError):
        raise error
    if isinstance(error, OSError) and error.errno in FULL:
        msg = (
            f"{error.strerror or error}: output folder is full; finished parts are "
            "kept; free space"
        )
        raise OutputFullError(error.errno, msg) from error
    if isinstance(error, VersionMismatchError):
        raise error


def is_worker_killed(error: BaseException | None) -> bool:
    """Tell if a task took its workers with it, several times."""
    return type(error).__name__ == "KilledWorker"


def describe_error(error: BaseException | None) -> str:
    """Return an error in words."""
    if is_worker_killed(error):
        return "its worker died each time it was tried (out of memory?)"
    text = " ".join(str(error).split())
    return (
        text
        if isinstance(error, OSError | ValueError)
        else (f"{type(error).__name__}: {text}")
    )


BEAT = 0.5
"""Seconds after which a batch lets its caller know that it still runs."""

AHEAD = 2
"""Tasks handed out for each that can run at once, so that no worker waits."""

MOST_TOLD = 8
"""Failures of parts that are told of while a batch runs."""

LONELY = 30.0
"""Seconds without any worker after which a person is told."""


def run_batch(job: BatchConfig) -> Generator[Record, None, Summary]:
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
        begin = stack.enter_context(output_held(job))
        known = finished_before(job)
        plan = plan_batch((yield from iter_settle_precision(job, known)))
        finished = check(plan)
        if len(finished) == len(plan.planned):
            return (yield from _nothing_left(plan, finished))
        refuse_if_full(estimate_batch(plan), job.out)
        clear(plan)
        try:
            ledger = stack.enter_context(CompletionLog(job.folder / LEDGER))
            cluster = stack.enter_context(Cluster(plan.job.where, job.folder))
            note(plan)
            begin()
            yield from _versions_noted(plan)
            return (yield from _Run(plan, ledger, cluster, finished).all())
        except OSError as e:
            stop_if_hopeless(e)
            raise


def _versions_noted(plan: Plan) -> Generator[Record, None, None]:
    """Say if another version began what is gone on with."""
    *earlier, now = plan.memory.versions
    if earlier:
        yield Note(
            f"{plan.job.out}: begun by napari-emseg {', '.join(earlier)}, which this "
            f"version, {now}, goes on with"
        )


def _nothing_left(
    plan: Plan, finished: Mapping[int, FinishedInput]
) -> Generator[Record, None, Summary]:
    """Say that a batch was finished before; remove what a kill may have left of it."""
    job = plan.job
    clear_folder(job)
    rows = tuple(finished[nth].row(job.out) for nth in range(len(plan.rows)))
    for nth, row in enumerate(rows):
        yield RowChanged(nth, row)
    yield Note(f"nothing left to do: all inputs are finished in {job.out}")
    return Summary(rows, 0.0, 0, 0, pages_of(job.out))


@dataclass
class _Running:
    """An input on its way."""

    nth: int
    course: InputPipeline
    stages: Stages
    clock: Clock
    tasks: list[Task] = field(default_factory=list)
    outcomes: dict[str, TaskResult] = field(default_factory=dict)


class _Run:
    """A run of a plan on a cluster."""

    def __init__(
        self,
        plan: Plan,
        ledger: CompletionLog,
        cluster: Cluster,
        finished: Mapping[int, FinishedInput],
    ) -> None:
        self._plan = plan
        self._job: BatchConfig = plan.job
        self._ledger = ledger
        self._cluster = cluster
        self._finished = finished
        self._versions: dict[int, tuple[str, ...]] = {}
        self._rows = list(plan.rows)
        for nth, known in finished.items():
            self._rows[nth] = known.row(plan.job.out)
        there = [n for n, p in enumerate(plan.planned) if p is not None]
        self._waiting = deque(n for n in there if n not in finished)
        self._running: list[_Running] = []
        # ready to be handed out; `_out` is what workers
        # have, by stamp and number of tries
        self._ready: deque[tuple[_Running, Task]] = deque()
        self._out: dict[str, tuple[_Running, Task, int]] = {}
        self._tasks = self._reused = self._troubles = 0
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
        pages = write_report(summary, self._job.out, self._known())
        if summary.ok:
            clear_folder(self._job)
        return replace(summary, pages=pages)

    def _known(self) -> list[FinishedInput]:
        """Return what later batches know of these rows."""
        planned = enumerate(zip(self._rows, self._plan.planned, strict=True))
        return [
            self._finished.get(nth) or self._known_of(nth, row, p)
            for nth, (row, p) in planned
        ]

    def _known_of(self, nth: int, row: Row, planned: Planned | None) -> FinishedInput:
        if planned is None:
            return finished_input(row, None, None)
        *earlier, version = self._versions.get(nth) or planned.made.versions
        told = {"earlier": tuple(earlier), "version": version}
        made = planned.made.model_copy(update=told)
        return finished_input(row, made, planned.context.sections, self._job.recipe)

    def _begin(self) -> Generator[Record, None, None]:
        """Begin with the next input if those under way don't keep workers busy."""
        # the next input begins before those under way end, so that workers never
        # wait for the last tasks of a stage
        while self._waiting and len(self._ready) < self._cluster.slots:
            nth = self._waiting.popleft()
            planned = self._plan.planned[nth]
            if planned is None:
                continue
            course = planned.course(self._job, self._ledger)
            clock = Clock(course.context)
            change = planned.describe_change
            stages = iter_stages(course, self._ledger, change)
            running = _Running(nth, course, stages, clock)
            self._running.append(running)
            yield self._changed(running)
            yield from self._advance(running, None)

    def _advance(
        self, running: _Running, outcomes: list[TaskResult] | None
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
                if isinstance(e, OSError) and e.errno in FULL:
                    raise
                yield from self._ended(running, str(e))
                return
            except (KeyError, TypeError, AttributeError) as e:
                # facts that no part has found out
                path = self._job.folder / LEDGER
                msg = f"{path} is damaged ({e!r})"
                raise DifferentBatchError(msg) from e
            running.tasks, running.outcomes = tasks, {}
            for task in tasks:
                known = self._ledger.facts(task.stamp)
                if known is not None and not known.get("failed"):
                    yield BatchWaiting()  # looking takes time, and may be cancelled
                    # known as done, but its files were
                    # changed or removed since: done again
                    if not is_whole(task, known):
                        self._ready.append((running, task))
                        continue
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
            # workers never write the log: one writer needs no lock
            self._ledger.record(task.stamp, done.facts)
            self._tasks += 1
            running.outcomes[task.stamp] = done.facts
        else:
            stop_if_hopeless(done.error)
            why = describe_error(done.error)
            if tried < self._job.settings.retries and not is_worker_killed(done.error):
                yield from self._told(f"{task.words}: {why}; it is tried again")
                self._submit(running, task, tried + 1)
                return
            yield from self._told(f"{task.words} failed: {why}")
            running.outcomes[task.stamp] = Failure(why)
        running.clock.count(task, now=True)
        yield self._changed(running)
        if len(running.outcomes) == len(running.tasks):
            outcomes = [running.outcomes[t.stamp] for t in running.tasks]
            yield from self._advance(running, outcomes)

    def _told(self, trouble: str) -> Generator[Record, None, None]:
        """Tell of the first failures as they come; the row has all of them."""
        self._troubles += 1
        if self._troubles <= MOST_TOLD:
            yield Note(trouble)
        elif self._troubles == MOST_TOLD + 1:
            yield Note("more parts failed; the summary of each input says which")

    def _ended(
        self, running: _Running, error: str = ""
    ) -> Generator[Record, None, None]:
        self._running.remove(running)
        found, row = running.course.found, self._rows[running.nth]
        self._versions[running.nth] = found.versions
        describe_error = (*row.warnings, *found.warnings, *found.failures)
        state: State = "incomplete" if found.failures else "done"
        self._rows[running.nth] = replace(
            row,
            state="failed" if error else state,
            step="",
            share=running.clock.share if error else 1.0,
            seconds=running.clock.seconds,
            seconds_left=None,
            cells=found.cells,
            warnings=(*describe_error, *([error] if error else [])),
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
