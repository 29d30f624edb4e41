"""Membranes → cells through the stack, which are those that `segment_stack` finds.

What `stack_fragments` finds is painted section by section, so that the rest of the step
`cells` is the same as for cells of single sections.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.batch import stores, worker
from napari_emseg.batch.completion_log import SUM, Facts, stamp
from napari_emseg.batch.context import EMPTY, PLACES, PROFILES, Context, Part
from napari_emseg.batch.membranes import probabilities
from napari_emseg.batch.stack_fragments import (
    FAR,
    FindVolumeBlock,
    JoinStack,
    JoinVolume,
    MeasureEdges,
    SegmentVolume,
    area_of,
    constraints_of,
    labels_of,
    reader_of,
    table_of,
    volume_blocks,
)
from napari_emseg.batch.stores import IDS, make_scratch
from napari_emseg.batch.tasks import Failure, Task, TaskBuilder, TaskResult
from napari_emseg.batch.worker import TaskBody
from napari_emseg.core.intensity import padding
from napari_emseg.io.fingerprint import NO_CELLS
from napari_emseg.proofreading.rerun import FREE
from napari_emseg.segmentation import volume
from napari_emseg.segmentation.blocks import Joined, paint_block
from napari_emseg.segmentation.section import masked, nothing_predicted
from napari_emseg.segmentation.stack import describe_blank
from napari_emseg.segmentation.stack_graph import ids_of_section, paint_section
from napari_emseg.segmentation.volume import VolumeReader

SECTIONS = 16
"""Whose edges are measured in one task; the two around them are looked at again."""

STAGES = {
    "3-d": {"sections": 0.3, "fragments": 8.0, "join": 0.2, "paint": 0.7},
    "graph": {"sections": 0.3, "fragments": 5.0, "join": 0.2, "paint": 0.7},
}
"""What a pixel costs, see `Step.cost`."""


def no_picture(
    c: Context, place: int, values: NDArray[Any]
) -> NDArray[np.bool_] | None:
    """Return where a section has no picture, by its EM if that is known."""
    if c.weights is None:
        return nothing_predicted(values)
    return padding(worker.opened(c.given).stack.section(c.sections[place]))


@dataclass(frozen=True, slots=True)
class MaskSections:
    """See where sections have no picture, and which are blank, or can't be read.

    Facts: `blank` places, and `failed`, the reason by place.
    """

    context: Context
    part: Part
    gone: tuple[int, ...]

    def run(self) -> Facts:
        """Read and store."""
        c = self.context
        left = [place for place in self.part.places if place not in self.gone]
        blank: list[int] = []

        def mask(places: list[int]) -> dict[int, str]:
            failed: dict[int, str] = {}
            for place in places:
                try:
                    if self._mask(place):
                        blank.append(place)
                except (OSError, ValueError) as e:
                    failed[place] = str(e)
            return failed

        failed = worker.retry_unread(left, c.settings.retries, mask)
        worker.require_same(c)
        words = {str(place): why for place, why in failed.items()}
        return {"blank": sorted(blank), "failed": words}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return self.context.chunks(EMPTY, self.part.places)

    def _mask(self, place: int) -> bool:
        """Store where a section has no picture; tell if it has none at all."""
        c = self.context
        values = probabilities(c, place)
        hidden = np.isnan(masked(values, no_picture(c, place, values)))
        c.array(EMPTY)[place] = hidden
        return bool(hidden.all())


@dataclass(frozen=True, slots=True)
class PaintSections:
    """Store the profiles of sections as 1 … n of each, and the cells they are of.

    What membrane by hand cuts off a cell is one of its own, `FREE` + 0, 1, … in each
    section.
    """

    context: Context
    part: Part
    absent: tuple[int, ...]
    in_one: bool

    def run(self) -> Facts:
        """Paint and store."""
        c, hand = self.context, worker.opened(self.context.given).hand
        out = c.array(PROFILES)
        table: stores.Table = {}
        read = reader_of(c, self.absent)
        joined = {} if self.in_one else stores.read(c.table("joined"))
        for place in self.part.places:
            cells = np.zeros(c.shape, np.uint32)
            if place not in self.absent:
                cells = self._paint(place, read, joined)
            if hand is not None:
                least = c.cell_settings.minimum_size
                cells = hand.part(cells, c.sections[place], least, FREE)
            there = np.unique(cells)
            there = there[there > 0]
            ranks = np.searchsorted(there, cells) + 1
            out[place] = np.where(cells > 0, ranks, 0).astype(np.uint32)
            table[str(place)] = there
        stores.keep(cells_table(c, self.part), table)
        return {}

    def files(self) -> list[Path]:
        """Return what it has written."""
        c, part = self.context, self.part
        return [*c.chunks(PROFILES, part.places), cells_table(c, part)]

    def _paint(
        self, place: int, read: VolumeReader, joined: stores.Table
    ) -> NDArray[np.uint32]:
        c = self.context
        if self.in_one:
            return np.asarray(c.array(PLACES)[place])
        if c.through == "graph":
            stored = np.asarray(c.array(PLACES)[place])
            own = ids_of_section(
                *(joined["ids"], joined["first"]),
                joined["there"].tolist().index(place),
            )
            far = (stored & FAR) > 0
            membrane, threshold = read.membrane[place], c.settings.cells.threshold
            return paint_section(stored & ~FAR, far, membrane, own, threshold)
        height, width = c.shape
        inner = (slice(0, height), slice(0, width))
        places = self._places(place)
        cells = Joined(joined["fragments"], joined["ids"])
        return paint_block(places, None, cells, inner, c.settings.cells.threshold)

    def _places(self, place: int) -> NDArray[np.uint64]:
        """Return the fragments `(y, x)` of a section, from all blocks."""
        c = self.context
        found = np.zeros(c.shape, np.uint64)
        for corners in volume_blocks(c):
            (first, stop), *_ = corners
            if first <= place < stop:
                names = stores.column(table_of(c, corners), "names")
                labels = np.load(labels_of(c, corners), mmap_mode="r")
                found[area_of(corners)[1:]] = names[labels[place - first]]
        return found


@dataclass(frozen=True, slots=True)
class NumberCells:
    """Number the cells that are there without gaps; store the id of each profile.

    Facts: `counts` of profiles by place, `cells`, `dtype` of ids, and `kept` of how
    many merges and splits by hand.
    """

    context: Context
    parts: tuple[Part, ...]
    first_id: int

    def run(self) -> Facts:
        """Give numbers and store them."""
        c = self.context
        each = [np.zeros(0, np.uint32) for _ in c.sections]
        for part in self.parts:
            table = stores.read(cells_table(c, part))
            for place in part.places:
                each[place] = table[str(place)]
        pieces = 0
        for ids in each:  # what was cut off in different sections is never one cell
            own = ids >= FREE
            ids[own] += np.uint32(pieces)
            pieces += int(np.count_nonzero(own))
        found = np.concatenate(each)
        known, numbers = np.unique(found, return_inverse=True)
        said = constraints_of(c)
        kept = sum(one.is_kept(_CellAt(c, each)) for one in said)
        ids = (numbers + 1).astype(np.uint32)
        dtype = stores.keep_ids(c, ids, self.first_id)
        counts = [len(ids) for ids in each]
        told = {"counts": counts, "cells": len(known), "dtype": dtype}
        return {**told, "kept": [kept, len(said)]}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return [self.context.path(IDS)]


class _CellAt:
    """Says which cell a voxel is in, by its profile."""

    def __init__(self, context: Context, ids: Sequence[NDArray[np.uint32]]) -> None:
        self._profiles = context.array(PROFILES)
        self._ids = ids

    def __getitem__(self, voxel: tuple[int, int, int]) -> int:
        profile = int(np.asarray(self._profiles[voxel]))
        return int(self._ids[voxel[0]][profile - 1]) if profile else 0


def find_through(
    course: TaskBuilder,
) -> Generator[list[Task], list[TaskResult], Facts]:
    """Yield the stages by which cells through the stack are found.

    Returns facts: those of `NumberCells`, and of what they follow as `everything`.

    Raises
    ------
    OSError
        If a task failed: then nothing is certain of any cell.
    """
    c = course.context
    absent = yield from _mask(course)
    in_one = c.through == "3-d" and prod(c.size) <= volume.WHOLE
    if c.through == "graph" or in_one:
        make_scratch(course, PLACES, "uint32")
    if c.through == "graph":
        yield from _measure_edges(course, absent)
    elif in_one:
        work = SegmentVolume(c, absent)
        yield from _checked(
            [course.task("fragments", "all", work, len(c.sections), absent)]
        )
    else:
        yield from _find_blocks(course, absent)
    parts = tuple(course.parts())
    painted = yield from _checked(
        [
            course.part_task("paint", p, PaintSections(c, p, absent, in_one), absent)
            for p in parts
        ]
    )
    everything = stamp(absent, [facts[SUM] for facts in painted])
    work_ = NumberCells(c, parts, course.first_id)
    (facts,) = yield from _checked([course.task("ids", "all", work_, 0, everything)])
    kept, said = facts["kept"]
    if kept < said:
        course.found.warnings.append(f"{kept} of {said} merges and splits in 3-D kept")
    course.found.counts = facts["counts"]
    return {**facts, "constraints": said, "everything": everything}


def _mask(
    course: TaskBuilder,
) -> Generator[list[Task], list[TaskResult], tuple[int, ...]]:
    """Return the places without a picture: excluded, missing, blank or damaged."""
    c = course.context
    gone = tuple(sorted({*c.excluded, *(place for place, _ in course.found.missing)}))
    make_scratch(course, EMPTY, "bool")
    tasks = [
        course.part_task("sections", part, MaskSections(c, part, gone), gone)
        for part in course.parts()
    ]
    blank: list[int] = []
    absent = set(gone)
    for facts in (yield from _checked(tasks)):
        blank += facts["blank"]
        for place, why in facts["failed"].items():
            absent.add(int(place))
            course.lose(c.sections[int(place)], NO_CELLS, why)
    if blank:
        named = [c.sections[place] for place in sorted(blank)]
        course.found.warnings.append(describe_blank(named))
    return tuple(sorted(absent | {*blank}))


def _find_blocks(
    course: TaskBuilder, absent: tuple[int, ...]
) -> Generator[list[Task], list[TaskResult], None]:
    c, tasks = course.context, []
    for corners in volume_blocks(c):
        words = ", ".join(f"{a}…{b - 1}" for a, b in corners)
        number = stamp(course.base, "fragments", words, absent)
        pixels = prod(b - a for a, b in corners)
        work = FindVolumeBlock(c, absent, corners)
        tasks.append(Task("fragments", f"z, y, x {words}", work, number, pixels))
    found = yield from _checked(tasks)
    yield from _joined(course, JoinVolume(c), found)


def _measure_edges(
    course: TaskBuilder, absent: tuple[int, ...]
) -> Generator[list[Task], list[TaskResult], None]:
    c, tasks = course.context, []
    there = [p for p in range(len(c.sections)) if p not in absent]
    runs = tuple(tuple(there[k : k + SECTIONS]) for k in range(0, len(there), SECTIONS))
    for nth, run in enumerate(runs):
        before = runs[nth - 1][-1] if nth else None
        after = runs[nth + 1][0] if nth + 1 < len(runs) else None
        work = MeasureEdges(c, absent, run, before, after)
        words = f"z {run[0]}…{run[-1]}"
        tasks.append(course.task("fragments", words, work, len(run), absent))
    found = yield from _checked(tasks)
    yield from _joined(course, JoinStack(c, runs), found)


def _joined(
    course: TaskBuilder, work: TaskBody, found: Sequence[Facts]
) -> Generator[list[Task], list[TaskResult], None]:
    follows = [facts[SUM] for facts in found]
    n = len(course.context.sections)
    yield from _checked([course.task("join", "all", work, n, follows)])


def _checked(
    tasks: list[Task],
) -> Generator[list[Task], list[TaskResult], list[Facts]]:
    """Return the facts of tasks, all of which are needed."""
    found: list[Facts] = []
    for task, outcome in zip(tasks, (yield tasks), strict=True):
        if isinstance(outcome, Failure):
            msg = (
                f"no cells through the stack, since {task.words} failed: {outcome.why}"
            )
            raise OSError(msg)
        found.append(outcome)
    return found


def cells_table(c: Context, part: Part) -> Path:
    """Return the file of the cells that are in the sections of a part."""
    return c.table(f"cells-{part.first}")
