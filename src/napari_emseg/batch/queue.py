"""A batch as it is put together and watched: inputs that come and go, and their rows.

What a window shows of a batch; `starting` and `dry_run` are the long part, for a
thread.
"""

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

from napari_emseg.batch.engine import run_batch
from napari_emseg.batch.estimate import BatchEstimate, estimate_batch, refuse_if_full
from napari_emseg.batch.inputs import Input, find_inputs, free_name, stacks_in
from napari_emseg.batch.job import FOLDER, MEMORY, BatchConfig
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
        yield from iter_save(
            copy.path,
            copy.stack,
            provenance=Provenance.of(copy.stack),
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


COPIES = "layers"
"""Folder in that of the results; layers that no file holds are saved in it first."""

EMPTY = "no inputs: add files, a folder or layers first"


@dataclass(eq=False)
class Entry:
    """An input on the board.

    Parameters
    ----------
    row
        As the table shows it.
    key
        Of the layer that it was taken from.
    stack
        What is saved first, since no file holds it.
    out
        Folder of the results that the row tells of.
    unfinished
        It is part of a batch in `out` that isn't done as a whole.
    """

    given: Input
    row: Row
    key: str = ""
    stack: Stack | None = None
    copied: Path | None = None
    out: Path | None = None
    unfinished: bool = False

    def done_in(self, out: Path) -> bool:
        """Tell if its results are in a folder."""
        return self.row.state == "done" and self.out == out


@dataclass
class BatchQueue:
    """The inputs of a batch; one thread puts together, starts, and takes records."""

    entries: list[Entry] = field(default_factory=list)
    running: list[Entry] = field(default_factory=list)

    def add_paths(self, words: Iterable[str]) -> list[Entry]:
        """Add files, Zarrs, projects, folders, globs; those that are there are left.

        A folder is one stack, each file a section; if it can't be, all stacks in it.

        Raises
        ------
        FileNotFoundError
            If there is no such file, or nothing matches a glob.
        """
        found = [path for word in words for path in stacks_in(word)]
        return [
            self._add(given)
            for given in find_inputs(found)
            if not self._has(given.path, given.choice)
        ]

    def add_stack(self, stack: Stack, key: str) -> Entry | None:
        """Add what a layer shows: its file, or a copy if there is none.

        Returns None if it is there.
        """
        size = stack.voxel_size_nm
        if stack.source is not None and "choice" in stack.metadata:
            choice = tuple(stack.metadata["choice"].items())
            if self._has(stack.source, choice):
                return None
            given = Input(stack.name, stack.source, voxel_size_nm=size, choice=choice)
            return self._add(given, key=key)
        if any(entry.key == key for entry in self.entries):
            return None
        return self._add(Input(stack.name, "", voxel_size_nm=size), stack, key)

    def add_project(self, folder: Path, key: str) -> None:
        """Add a project that is open, and the layer that shows it."""
        for entry in self.add_paths([str(folder)]):
            entry.key = key

    def remove(self, nths: Iterable[int]) -> None:
        """Take rows away.

        Raises
        ------
        ValueError
            If one of them is being worked on.
        """
        gone = [self.entries[nth] for nth in nths]
        if any(entry in self.running for entry in gone):
            msg = "the batch works on it; cancel it before taking inputs away"
            raise ValueError(msg)
        self.entries = [entry for entry in self.entries if entry not in gone]

    @property
    def failed(self) -> list[Entry]:
        """Those that failed, or lack blocks."""
        bad = ("failed", "incomplete")
        return [entry for entry in self.entries if entry.row.state in bad]

    def starting(
        self, job: BatchConfig, *, retry: bool = False
    ) -> Generator[Record, None, Summary]:
        """Return the work of a batch, to be run in a thread.

        What was interrupted in the folder of results is gone on with, unless `job` says
        to overwrite.

        Parameters
        ----------
        job
            All but the inputs.
        retry
            Only what failed.

        Raises
        ------
        ValueError
            If there is nothing to do.
        """
        resume = is_unfinished(job.out) and not job.overwrite
        chosen = self._chosen(job, resume=resume, retry=retry)
        copies = [self._place(e, job.out, keep=resume) for e in chosen]
        self.running = chosen
        for entry in chosen:
            entry.row = Row(entry.given.name, entry.given.path)
            entry.out, entry.unfinished = job.out, True
        given = tuple(entry.given for entry in chosen)
        job = replace(job, inputs=given, resume=resume)
        return run_queue(job, [copy for copy in copies if copy is not None])

    def iter_dry_run(self, job: BatchConfig) -> Generator[Record, None, BatchEstimate]:
        """Return the work of a dry run: what a batch would take.

        Raises
        ------
        ValueError
            If there is nothing to do.
        """
        chosen = self._chosen(job, resume=False, retry=False)
        self.running = chosen
        stacks = {e.given.name: e.stack for e in chosen if e.stack is not None}
        given = tuple(entry.given for entry in chosen)
        return dry_run(replace(job, inputs=given), stacks)

    def take(self, records: Sequence[Record]) -> list[int]:
        """Take note of what the work told; return which rows changed."""
        touched = []
        for record in records:
            if isinstance(record, RowChanged):
                entry = self.running[record.nth]
                entry.row = record.row
                touched.append(self.entries.index(entry))
        return touched

    def end(self, result: Summary | BatchEstimate | None) -> None:
        """Take note that the work has ended; None: it was cancelled, or failed."""
        for entry in self.running:
            if isinstance(result, Summary):
                entry.unfinished = not result.ok
            if entry.row.state == "running":
                entry.row = replace(entry.row, state="stopped", seconds_left=None)
        self.running = []

    def _has(self, path: str, choice: object) -> bool:
        there = [(e.given.path, e.given.choice) for e in self.entries]
        return (path, choice) in there

    def _add(self, given: Input, stack: Stack | None = None, key: str = "") -> Entry:
        taken = {entry.given.name for entry in self.entries}
        stem = re.sub(r"[^\w.+-]+", "_", given.name).strip("_.") or "layer"
        given = replace(given, name=free_name(stem, taken))
        entry = Entry(given, Row(given.name, given.path), key, stack)
        self.entries.append(entry)
        return entry

    def _chosen(self, job: BatchConfig, *, resume: bool, retry: bool) -> list[Entry]:
        if not self.entries:
            raise ValueError(EMPTY)
        wanted = self.failed if retry else self.entries
        todo = [e for e in wanted if job.overwrite or not e.done_in(job.out)]
        if not todo:
            msg = f"all inputs are done in {job.out}; add others, or replace results"
            raise ValueError(msg)
        # those that are done already stand in the summary, too
        kept = [e for e in self.entries if resume and e.unfinished and e not in todo]
        done = [e for e in kept if e.done_in(job.out)]
        return [entry for entry in self.entries if entry in todo or entry in done]

    def _place(self, entry: Entry, out: Path, *, keep: bool) -> Copy | None:
        """Say where a stack without a file is saved, and whether that is to be done."""
        if entry.stack is None:
            return None
        path = out / COPIES / f"{entry.given.name}.zarr"
        entry.given = replace(entry.given, path=str(path))
        if keep and entry.copied == path and path.exists():
            return None
        entry.copied = path
        return Copy(entry.stack, path)


def is_unfinished(out: Path) -> bool:
    """Tell if a batch was interrupted in a folder of results."""
    return (out / FOLDER / MEMORY).exists()
