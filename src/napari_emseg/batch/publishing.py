"""Finished results get their final names; unfinished ones never look finished."""

import shutil
from pathlib import Path

from napari_emseg.batch.completion_log import SUM, CompletionLog, Facts, stamp, sum_of
from napari_emseg.batch.context import Context
from napari_emseg.batch.pipeline import InputPipeline
from napari_emseg.batch.step import StepResult, results_of
from napari_emseg.batch.stores import ExportResult, complete_provenance
from napari_emseg.batch.tasks import Task
from napari_emseg.core.atomic import clear_leftovers, exchange, move, publish
from napari_emseg.io.formats import OutputFormat, output_kind


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
            finals = [r.path(context, out) for r in results_of(context)]
            if _are_whole(finals, published):
                return base
        elif all(_is_there(context, out, ledger, base, r) for r in results_of(context)):
            return base
        nth += 1


def _are_whole(finals: list[Path], published: Facts) -> bool:
    """Tell if results are there as they were published."""
    if not all(path.exists() for path in finals):
        return False
    return published.get(SUM) in (None, sum_of(finals))


def _is_there(
    context: Context, out: Path, ledger: CompletionLog, base: str, result: StepResult
) -> bool:
    name = result.name
    if stamp(base, "made", name) not in ledger or context.path(name).exists():
        return True
    final = result.path(context, out)
    if context.settings.output == "tiff" or not final.exists():
        return False
    move(final, context.path(name))
    return True


def publish_all(course: InputPipeline) -> None:
    """Give all results of an input their final names, and note where they are.

    Those that become TIFF stay where they were made.
    """
    context = course.context
    course.found.versions = course.versions
    for result in _finished(course):
        path = context.path(result.name)
        complete_provenance(path, tuple(course.found.failures), course.versions)
        if context.settings.output == "zarr":
            target = result.path(context, course.out)
            _publish(path, target)
            path = target
        course.places[result.name] = path


def export_tasks(course: InputPipeline) -> list[Task]:
    """Return the tasks that write results in other formats."""
    tasks, settings = [], course.context.settings
    for result in _finished(course):
        path = course.places[result.name]
        final = result.path(course.context, course.out)
        wanted: list[tuple[OutputFormat, Path]] = []
        if settings.output == "tiff" and path != final:
            wanted.append(("tiff", final))
        for format_ in settings.export:
            kind = output_kind(format_)
            if not kind.cells_only or result.ids:
                stem = f"{final.stem}-{format_}"
                wanted.append((format_, final.with_name(f"{stem}{kind.suffixes[0]}")))
        for format_, target in wanted:
            facts = format_, result.name, course.found.failures
            number = stamp(course.base, "export", *facts)
            work = ExportResult(str(path), str(target), format_)
            tasks.append(Task("export", target.name, work, number, 0))
    return tasks


def were_published(course: InputPipeline, ledger: CompletionLog) -> bool:
    """Tell if all results of an input were finished before; note where they are."""
    known = ledger.facts(stamp(course.base, "published"))
    if known is None:
        return False
    course.found.cells = known["cells"]
    # 0.1.0 didn't note it
    course.found.versions = tuple(known.get("versions", course.versions[:1]))
    for result in results_of(course.context):
        course.found.results.append(result.name)
        course.places[result.name] = result.path(course.context, course.out)
    return True


def _finished(course: InputPipeline) -> list[StepResult]:
    return [r for r in results_of(course.context) if r.name in course.found.results]


def note_published(course: InputPipeline, ledger: CompletionLog) -> None:
    """Record that an input is done, and remove what it was made with."""
    context = course.context
    finals = [result.path(context, course.out) for result in results_of(context)]
    facts = {
        "cells": course.found.cells,
        "versions": course.found.versions,
        SUM: sum_of(finals),
    }
    ledger.record(stamp(course.base, "published"), facts)
    shutil.rmtree(context.folder, ignore_errors=True)


def _publish(source: Path, target: Path) -> None:
    """Rename a result; what was there goes when it has its name."""
    clear_leftovers(target)
    if target.exists():
        exchange(source, target)
    else:
        publish(source, target)
