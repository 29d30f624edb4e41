"""Finished results get their final names; unfinished ones never look finished."""

from __future__ import annotations

import shutil
from pathlib import Path

from napari_emseg.batch.completion_log import SUM, CompletionLog, Facts, stamp, sum_of
from napari_emseg.batch.context import CELLS, MEMBRANES, Context
from napari_emseg.batch.course import InputPipeline
from napari_emseg.batch.finishing import ExportResult
from napari_emseg.batch.job import BatchConfig
from napari_emseg.batch.stores import note_failures
from napari_emseg.batch.tasks import Task
from napari_emseg.core.atomic import clear_leftovers, exchange, move, publish
from napari_emseg.io.formats import OutputFormat, output_kind

KINDS = {MEMBRANES: "membranes", CELLS: "cells"}


def results(context: Context) -> list[str]:
    """Return the names of the results that a batch makes of an input."""
    steps = context.settings.steps
    return [name for name, kind in KINDS.items() if kind in steps]


def final_name(context: Context, out: Path, name: str) -> Path:
    """Return the final path of a result."""
    suffix = ".tif" if context.settings.output == "tiff" else ".zarr"
    return out / f"{context.given.name}-{KINDS[name]}{suffix}"


def newest(context: Context, out: Path, ledger: CompletionLog, first: str) -> str:
    """Return the stamp by which parts of an input count as done.

    What was finished with errors goes back to where it can be mended. If results are
    gone or damaged that were made once, or the input changed while they were made,
    everything is done anew.
    """
    nth = 0
    while True:
        # another number for each attempt that was spoilt: what
        # it left can't be taken for done
        base = first if nth == 0 else stamp(first, nth)
        published = ledger.facts(stamp(base, "published"))
        if stamp(base, "changed") in ledger:
            pass  # parts were made of an input that changed meanwhile
        elif published is not None:
            finals = [final_name(context, out, n) for n in results(context)]
            if _are_whole(finals, published):
                return base
        elif all(_is_there(context, out, ledger, base, n) for n in results(context)):
            return base
        nth += 1


def _are_whole(finals: list[Path], published: Facts) -> bool:
    """Tell if results are there as they were published."""
    if not all(path.exists() for path in finals):
        return False
    return published.get(SUM) in (None, sum_of(finals))


def _is_there(
    context: Context, out: Path, ledger: CompletionLog, base: str, name: str
) -> bool:
    if stamp(base, "made", name) not in ledger or context.path(name).exists():
        return True
    final = final_name(context, out, name)
    if context.settings.output == "tiff" or not final.exists():
        return False
    move(final, context.path(name))
    return True


def publish_all(course: InputPipeline, job: BatchConfig) -> list[Path]:
    """Give all results of an input their final names.

    Returns where they are; those that become TIFF stay where they were made.
    """
    context, places = course.context, []
    for name in course.found.results:
        path = context.path(name)
        note_failures(path, tuple(course.found.failures))
        if job.settings.output == "zarr":
            target = final_name(context, job.out, name)
            _publish(path, target)
            path = target
        places.append(path)
    return places


def export_tasks(
    course: InputPipeline, places: list[Path], job: BatchConfig
) -> list[Task]:
    """Return the tasks that write results in other formats."""
    tasks = []
    for name, path in zip(course.found.results, places, strict=True):
        final = final_name(course.context, job.out, name)
        wanted: list[tuple[OutputFormat, Path]] = []
        if job.settings.output == "tiff" and path != final:
            wanted.append(("tiff", final))
        for format_ in job.settings.export:
            kind = output_kind(format_)
            if not (kind.cells_only and name != CELLS):
                stem = f"{final.stem}-{format_}"
                wanted.append((format_, final.with_name(f"{stem}{kind.suffixes[0]}")))
        for format_, target in wanted:
            number = stamp(course.base, "export", format_, name, course.found.failures)
            work = ExportResult(str(path), str(target), format_)
            tasks.append(Task("export", target.name, work, number, 0))
    return tasks


def were_published(
    course: InputPipeline, job: BatchConfig, ledger: CompletionLog
) -> list[Path] | None:
    """Return an input's results if all of them were finished before."""
    known = ledger.facts(stamp(course.base, "published"))
    if known is None:
        return None
    course.found.cells = known["cells"]
    course.found.results = results(course.context)
    return [final_name(course.context, job.out, n) for n in course.found.results]


def note_published(course: InputPipeline, ledger: CompletionLog, out: Path) -> None:
    """Record that an input is done, and remove what it was made with."""
    context = course.context
    finals = [final_name(context, out, name) for name in results(context)]
    facts = {"cells": course.found.cells, SUM: sum_of(finals)}
    ledger.record(stamp(course.base, "published"), facts)
    shutil.rmtree(context.folder, ignore_errors=True)


def _publish(source: Path, target: Path) -> None:
    """Rename a result; what was there goes when it has its name."""
    clear_leftovers(target)
    if target.exists():
        exchange(source, target)
    else:
        publish(source, target)
