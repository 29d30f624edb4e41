"""The step membranes → cells: profiles of each section, then ids for all of them."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_emseg.batch import worker
from napari_emseg.batch.blockwise import (
    Agglomerate,
    ExtractFragments,
    RelabelSequential,
    WriteProfiles,
    ranked,
)
from napari_emseg.batch.completion_log import Facts, stamp
from napari_emseg.batch.context import CELLS, PLACES, PROFILES, Context, Part
from napari_emseg.batch.links import SolveLinks
from napari_emseg.batch.membranes import probabilities
from napari_emseg.batch.stack_cells import STAGES, find_through, no_picture
from napari_emseg.batch.step import COPIES, Step, StepResult, packed_bytes, steps_of
from napari_emseg.batch.stores import IDS, make_result, make_scratch
from napari_emseg.batch.tasks import (
    Failure,
    Missing,
    Stages,
    Task,
    TaskBuilder,
    TaskResult,
)
from napari_emseg.core.records import drain
from napari_emseg.io.fingerprint import NO_CELLS
from napari_emseg.io.zarr_sink import fill
from napari_emseg.segmentation import cells_provenance, segment_stack
from napari_emseg.segmentation.blocks import HALO, WIDEST
from napari_emseg.segmentation.section import segment_section
from napari_emseg.segmentation.volume import WHOLE

RESULT = StepResult(CELLS, "cells", ids=True)


@dataclass(frozen=True, slots=True)
class SegmentSections:
    """Find the cells of whole sections. Facts: `counts` by place."""

    context: Context
    part: Part
    missing: Missing = ()

    def run(self) -> Facts:
        """Find and store them."""
        places = range(self.part.first, self.part.stop)
        counts = {str(place): self._find(place) for place in places}
        worker.require_same(self.context)
        return {"counts": counts}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return self.context.chunks(PROFILES, self.part.places)

    def _find(self, place: int) -> int:
        c = self.context
        out = c.array(PROFILES)
        gone = [area for at, area in self.missing if at == place]
        if place in c.excluded or None in gone:
            out[place] = 0
            return 0
        opened = worker.opened(c.given)
        values = probabilities(c, place)
        exclude = no_picture(c, place, values)
        cells = segment_section(values, c.cell_settings, exclude=exclude)
        if opened.hand is not None:
            least = c.cell_settings.minimum_size
            cells = opened.hand.part(cells, c.sections[place], least)
        out[place] = cells
        return int(cells.max(initial=0))


@dataclass(frozen=True, slots=True)
class ApplyIds:
    """Store cells with their ids.

    Parameters
    ----------
    firsts
        Of each place of the part: how many profiles come before it, and its own.
    """

    context: Context
    part: Part
    firsts: tuple[tuple[int, int], ...]

    def run(self) -> Facts:
        """Write the part."""
        c, area = self.context, self.part.area
        levels = c.levels(CELLS)
        all_ids = np.load(c.path(IDS), mmap_mode="r")
        hand = worker.opened(c.given).hand
        for place, (first, count) in enumerate(self.firsts, start=self.part.first):
            ids = np.concatenate([[0], all_ids[first : first + count]])
            cells = ids.astype(all_ids.dtype)[ranked(c, place, area)]
            if area is not None:
                levels[0][(place, *area)] = cells
                continue
            if hand is not None:
                cells = hand.keep_locked(cells.astype(np.uint32), c.sections[place])
            fill(levels, place, cells, ids=True)
        return {}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return self.context.chunks(CELLS, self.part.places, self.part.area)


CELL_BYTES = 40
"""Of memory for each pixel of a section, or of a block's window, while cells are found.

33 were seen for whole sections of 2,560², 31 for blocks.
"""

JOIN_BYTES = 1.5
"""Of memory for each pixel of a large section while its fragments are joined.

600 were seen for each fragment, of which 2,100 came on a million pixels.
"""

SCRATCH = 0.15
"""Bytes for each pixel of what is removed at the end, in blocks of large sections."""


class CellsStep(Step):
    """Membranes → cells; ids are those of profiles, unless a step links them."""

    name = "cells"
    needs = ("membranes",)
    reads = "probabilities"
    results = (RESULT,)

    def cost(self, context: Context) -> Mapping[str, float]:
        """Return what a pixel costs; large sections are put together of blocks."""
        if context.through != "sections":
            return {**STAGES[context.through], "write": 0.3}
        blocks = {"fragments": 2.5, "join": 0.2, "paint": 0.5, "rank": 0.05}
        return {**({"cells": 2.0} if context.whole else blocks), "write": 0.3}

    def trial(
        self,
        cells: NDArray[np.uint32],
        membrane: NDArray[np.float32],
        context: Context,
    ) -> Callable[[], object]:
        """Return finding the cells of one section, or of two halves through both."""
        del cells
        if context.through == "sections":
            return lambda: segment_section(membrane[0])
        halves = membrane[:, : membrane.shape[1] // 2]
        settings = context.cell_settings
        return lambda: drain(segment_stack(halves, settings=settings))

    def memory(self, context: Context, threads: int) -> tuple[float, float]:
        """Return what a window takes; wide cells have it made larger."""
        if context.through == "3-d":  # as many at once as memory allows
            most = min(CELL_BYTES * prod(context.size), worker.VOLUME_BYTES)
            return float(most), float(most)
        whole, size = context.whole, prod(context.shape)
        usual, widest = (
            size
            if whole
            else prod(min(n, context.settings.block + 2 * halo) for n in context.shape)
            for halo in (HALO, WIDEST)
        )
        each = CELL_BYTES * threads
        return max(each * usual, 0 if whole else JOIN_BYTES * size), each * widest

    def disk(self, context: Context) -> float:
        """Return what is stored, with all scale levels, and profiles until then."""
        stored = packed_bytes("uint32")
        more = 0.0 if context.whole else SCRATCH * 8
        if context.through != "sections":  # blocks lie there as they are in memory
            large = prod(context.size) > WHOLE
            more = 4 if context.through == "3-d" and large else stored
        return stored * COPIES + stored + more

    def tasks(self, course: TaskBuilder) -> Stages:
        """Yield the profiles of sections, what refines them, and their ids."""
        c = course.context
        make_scratch(course, PROFILES, "uint32")
        through = c.through != "sections"
        facts = yield from (find_through(course) if through else self._find(course))
        course.found.cells = facts["cells"]
        told = cells_provenance(
            c.cell_settings,
            course.provenance,
            affinities=c.affinities,
            constraints=facts.get("constraints", 0),
            edges=c.classifier,
            excluded=[c.sections[place] for place in c.excluded],
        )
        make_result(course, RESULT, facts["dtype"], told)
        yield from _write(course, facts["everything"])

    def _find(
        self, course: TaskBuilder
    ) -> Generator[list[Task], list[TaskResult], Facts]:
        """Find the profiles of each section, and then ids for all of them."""
        c, missing = course.context, course.found.missing
        course.found.counts = yield from (
            _find_in_sections(course) if c.whole else _find_in_blocks(course)
        )
        for step in steps_of(c.settings):
            if step.refines == self.name:
                yield from step.tasks(course)
        counts = tuple(course.found.counts)
        # what cells of the stack follow from: if any section has
        # other profiles, all ids are new
        everything = stamp(counts, missing)
        work = SolveLinks(c, counts, course.first_id, c.cell_settings.link)
        outcomes = yield [course.task("ids", "all", work, 0, everything)]
        facts = outcomes[0]
        if isinstance(facts, Failure):
            raise OSError(facts.why)
        return {**facts, "everything": everything}


def _find_in_sections(
    course: TaskBuilder,
) -> Generator[list[Task], list[TaskResult], list[int]]:
    c, wanted = course.context, course.parts()
    tasks = []
    for part in wanted:
        gone = tuple(m for m in course.found.missing if part.first <= m[0] < part.stop)
        work = SegmentSections(c, part, gone)
        tasks.append(course.part_task("cells", part, work, gone))
    outcomes = yield tasks
    counts = [0] * len(c.sections)
    for part, outcome in zip(wanted, outcomes, strict=True):
        if isinstance(outcome, Failure):
            course.lose(part.words, NO_CELLS, outcome.why)
            continue
        for place, count in outcome["counts"].items():
            counts[int(place)] = count
    return counts


def _find_in_blocks(
    course: TaskBuilder,
) -> Generator[list[Task], list[TaskResult], list[int]]:
    c, missing = course.context, course.found.missing
    make_scratch(course, PLACES, "uint64")
    gone = {place for place, corners in missing if corners is None}
    gone |= {place for place, facts in course.found.seen.items() if facts["blank"]}
    good = [p for p in range(len(c.sections)) if p not in gone and p not in c.excluded]
    hidden = {p: tuple(m for m in missing if m[0] == p) for p in good}
    good = yield from _in_blocks(course, "fragments", ExtractFragments, good, hidden)
    join = [
        course.task("join", f"z {p}", Agglomerate(c, p), 1, hidden[p]) for p in good
    ]
    good = yield from _checked(course, join, good)
    good = yield from _in_blocks(course, "paint", WriteProfiles, good, hidden)
    outcomes = yield [
        course.task("rank", f"z {p}", RelabelSequential(c, p), 1, hidden[p])
        for p in good
    ]
    counts, uncut = [0] * len(c.sections), 0
    for place, outcome in zip(good, outcomes, strict=True):
        if isinstance(outcome, Failure):
            course.lose(c.sections[place], NO_CELLS, outcome.why)
        else:
            counts[place] = outcome["counts"][str(place)]
            uncut += int(outcome.get("uncut", 0))
    if uncut:
        course.found.warnings.append(
            f"{uncut:,} cells are too large to be cut where membrane was drawn by "
            "hand; it counts as a probability of 1 there"
        )
    return counts


def _in_blocks(
    course: TaskBuilder,
    stage: str,
    kind: type[ExtractFragments | WriteProfiles],
    places: list[int],
    hidden: Mapping[int, Missing],
) -> Generator[list[Task], list[TaskResult], list[int]]:
    """Work on all blocks of sections; return the places of which none failed."""
    c, seen = course.context, course.found.seen
    tasks, owners = [], []
    for part in course.parts():
        at = part.first
        if at in places:
            work = kind(c, part, hidden[at], bool(seen.get(at, {}).get("empty")))
            tasks.append(course.part_task(stage, part, work, hidden[at]))
            owners.append(at)
    return (yield from _checked(course, tasks, owners))


def _checked(
    course: TaskBuilder, tasks: list[Task], owners: list[int]
) -> Generator[list[Task], list[TaskResult], list[int]]:
    """Return the places of which no task failed."""
    outcomes = yield tasks
    bad: dict[int, str] = {}
    unsure = 0
    for place, outcome in zip(owners, outcomes, strict=True):
        if isinstance(outcome, Failure):
            bad[place] = outcome.why
        else:
            unsure += int(outcome.get("unsure", 0))
    for place, why in bad.items():
        source = course.context.sections[place]
        course.lose(source, NO_CELLS, why)
    if unsure:
        course.found.warnings.append(
            f"{unsure:,} px could not be assigned reliably from single blocks; "
            "cells may be split there"
        )
    return sorted({p for p in owners if p not in bad})


def _write(course: TaskBuilder, everything: str) -> Stages:
    """Store cells with their ids, part by part."""
    counts = course.found.counts
    firsts = [0]
    for count in counts:
        firsts.append(firsts[-1] + count)
    tasks = []
    for part in course.parts():
        own = tuple((firsts[p], counts[p]) for p in range(part.first, part.stop))
        if any(count for _, count in own) or course.first_id > 1:
            work = ApplyIds(course.context, part, own)
            tasks.append(course.part_task("write", part, work, everything))
    for task, outcome in zip(tasks, (yield tasks), strict=True):
        if isinstance(outcome, Failure):
            course.lose(task.words, NO_CELLS, outcome.why)
