"""All that is done with an input: its course, its table, and other formats of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from napari_emseg.batch.completion_log import CompletionLog, stamp
from napari_emseg.batch.course import InputPipeline
from napari_emseg.batch.job import BatchConfig
from napari_emseg.batch.measuring import tabulated
from napari_emseg.batch.publishing import (
    export_tasks,
    note_published,
    publish_all,
    were_published,
)
from napari_emseg.batch.tasks import Failure, Stages


def iter_stages(
    course: InputPipeline,
    job: BatchConfig,
    ledger: CompletionLog,
    describe_change: Callable[[], str],
) -> Stages:
    """Yield the stages of an input, and then those of what is made of its results.

    Parameters
    ----------
    describe_change
        Says what has become of the input's files; empty if nothing.
    """
    found = course.found
    places = were_published(course, job, ledger)
    if places is None:
        yield from course.stages()
        if change := describe_change():
            found.failures.append(f"{change}: the result is incomplete")
            if Path(course.context.given.path).exists():
                ledger.record(stamp(course.base, "changed"), {})
        places = publish_all(course, job)
    table = yield from tabulated(course, places, job)
    tasks = export_tasks(course, places, job)
    outcomes = yield tasks
    found.results = [*(str(p) for p in places if p.parent == job.out), *table]
    for task, outcome in zip(tasks, outcomes, strict=True):
        if isinstance(outcome, Failure):
            found.failures.append(f"{task.words}: {outcome.why}")
        else:
            found.results.append(outcome["path"])
    if not found.failures:
        note_published(course, ledger, job.out)
