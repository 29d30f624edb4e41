"""May a batch begin? What is there already is never mixed, nor replaced unasked."""

from __future__ import annotations

import os
from pathlib import Path

from napari_emseg.batch.finished import FinishedInput, is_finished, read_finished
from napari_emseg.batch.job import (
    LEDGER,
    BatchConfig,
    refuse_links,
    remember,
    remembered,
)
from napari_emseg.batch.planning import Plan
from napari_emseg.batch.records import Row
from napari_emseg.core.paths import is_link, remove_inside
from napari_emseg.io.formats import output_kind
from napari_emseg.io.output import check_distinct, input_paths


def check(plan: Plan) -> dict[int, FinishedInput]:
    """Refuse what would mix, or replace without being told to; nothing is changed.

    Returns what is finished already, by the numbers of rows.

    Raises
    ------
    ValueError
        If no input can be used, a result would replace or change one, or a batch that
        is gone on with was another one.
    FileExistsError
        If there are results, or an unfinished batch, and neither `resume` nor
        `overwrite` is set.
    OSError
        If something that a batch writes to is a link.
    """
    job = plan.job
    refuse_links(job)
    if not any(plan.planned):
        why = "; ".join(_named(row) for row in plan.rows)
        msg = f"none of the inputs can be used: {why}"
        raise ValueError(msg)
    _spare_inputs(plan)
    if job.overwrite:
        return {}
    before = remembered(job)
    if before is not None and not job.resume:
        msg = (
            f"an unfinished batch is in {job.out}: go on with --resume, or --overwrite"
        )
        raise FileExistsError(msg)
    if before is not None and (other := before.differences(plan.memory)):
        msg = (
            f"the batch in {job.out} was another one ({'; '.join(other)}); begin anew "
            "with --overwrite, or in another folder"
        )
        raise ValueError(msg)
    return {} if before is not None else _finished(plan)


def _spare_inputs(plan: Plan) -> None:
    """Refuse results in the place of an input, of other results, or of the weights."""
    job = plan.job
    read = [] if job.weights is None else [job.weights.path]
    written = []
    for planned in filter(None, plan.planned):
        given = Path(planned.context.given.path)
        read += [*input_paths(planned.stack), *([given] if given.exists() else [])]
        for final in planned.finals(job.out):
            written.append(final)
            for name in job.settings.export:
                kind = output_kind(name)
                stem = f"{final.stem}-{name}"
                written.append(final.with_name(f"{stem}{kind.suffixes[0]}"))
    check_distinct(written, read)


def _finished(plan: Plan) -> dict[int, FinishedInput]:
    """Return what no part is left of; refuse other results that are there.

    Of a batch that is gone on with, results that were finished and are damaged by now
    are made again.
    """
    job = plan.job
    known = read_finished(job.out) if job.resume else {}
    found: dict[int, FinishedInput] = {}
    for nth, planned in enumerate(plan.planned):
        if planned is None:
            continue
        finals = planned.finals(job.out)
        own = known.get(planned.context.given.name)
        if own is not None and _has_all(own, finals, job):
            if is_finished(own, job, planned.memory(job), planned.context.sections):
                found[nth] = own
            continue
        there = [path for path in finals if os.path.lexists(path)]
        if there:
            msg = f"{there[0]} exists already; replace it with --overwrite"
            raise FileExistsError(msg)
    return found


def _has_all(own: FinishedInput, finals: list[Path], job: BatchConfig) -> bool:
    """Tell if an input was finished with all results that are wanted now."""
    wanted = {path.name for path in finals}
    if own.state != "done" or own.made is None or not wanted <= set(own.outputs):
        return False
    if job.settings.table and not any(n.endswith(".csv") for n in own.outputs):
        return False
    return all(any(f"-{e}." in n for n in own.outputs) for e in job.settings.export)


def clear(plan: Plan) -> None:
    """Remove what is unfinished in the folder of results, if that is to be replaced."""
    job = plan.job
    if not job.overwrite:
        return
    for path in job.folder.iterdir():
        if path.is_dir() and not is_link(path):
            remove_inside(job.folder, path.name)
    remove_inside(job.folder, LEDGER)


def _named(row: Row) -> str:
    """Return why an input can't be used, with its name."""
    why = row.warnings[0]
    return why if why.startswith(row.name) else f"{row.name}: {why}"


def note(plan: Plan) -> None:
    """Write down what is done here, beside inputs of a run before."""
    before, now = remembered(plan.job), plan.memory
    known = before.inputs if before is not None and plan.job.resume else {}
    merged = {**known, **now.inputs}
    remember(plan.job, now.model_copy(update={"inputs": merged}))
