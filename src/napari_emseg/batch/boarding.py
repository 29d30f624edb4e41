"""The long part of a batch that is watched: copies first, then the batch, counted."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from napari_emseg.batch.engine import run_batch
from napari_emseg.batch.estimate import BatchEstimate, estimate_batch, refuse_if_full
from napari_emseg.batch.job import BatchConfig
from napari_emseg.batch.planning import plan_batch
from napari_emseg.batch.records import Row, RowChanged, Summary
from napari_emseg.core.paths import path_inside
from napari_emseg.core.records import Note, Progress, Provenance, Record
from napari_emseg.core.stack import Stack
from napari_emseg.io.writing import iter_save

UNITS = 1000
"""In which the share of all inputs that is done is told."""


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """A stack that no file holds, and where it is saved before the batch."""

    stack: Stack
    path: Path


def run_queue(
    job: BatchConfig, copies: Sequence[Copy]
) -> Generator[Record, None, Summary]:
    """Save copies, do the batch, and tell with `Progress` how far all of it is.

    Raises
    ------
    ValueError, OSError, RuntimeError
        As `run_batch` and `iter_save`.
    """
    for copy in copies:
        yield Note(f"{copy.stack.name} is in no file; it is saved as {copy.path}")
        path_inside(job.out, f"{copy.path.parent.name}/{copy.path.name}")
        copy.path.parent.mkdir(parents=True, exist_ok=True)
        made = copy.stack.metadata.get("emseg")
        yield from iter_save(
            copy.path,
            copy.stack,
            provenance=Provenance.model_validate(made) if made else None,
            overwrite=True,
        )
    rows: dict[int, Row] = {}
    work = run_batch(job)
    try:
        while True:
            try:
                record = next(work)
            except StopIteration as end:
                summary: Summary = end.value
                return summary
            yield record
            if isinstance(record, RowChanged):
                rows[record.nth] = record.row
                if len(rows) == len(job.inputs):
                    yield Progress("batch", round(UNITS * _share(rows)), UNITS)
    finally:
        work.close()


def _share(rows: Mapping[int, Row]) -> float:
    """Return how much of all inputs is done, by their pixels; what failed is over."""
    todo = done = 0
    for row in rows.values():
        if row.state != "failed" and row.sections is not None and row.shape is not None:
            pixels = row.sections * prod(row.shape)
            todo += pixels
            done += round(pixels * row.share)
    return done / todo if todo else 1.0


def dry_run(
    job: BatchConfig, unsaved: Mapping[str, Stack]
) -> Generator[Record, None, BatchEstimate]:
    """Say what a batch would take; rows tell which inputs can't be used.

    Parameters
    ----------
    unsaved
        Stacks of inputs that no file holds yet, by their names.

    Raises
    ------
    ValueError
        If weights are missing for EM.
    OSError
        If the results won't fit on the disk.
    """
    yield Progress("looking at inputs", 0, 2)
    plan = plan_batch(job, unsaved=unsaved)
    for nth, row in enumerate(plan.rows):
        yield RowChanged(nth, row)
    yield Progress("measuring the network", 1, 2)
    found = estimate_batch(plan, timed=True)
    if job.out.is_dir():
        refuse_if_full(found, job.out)
    return found
