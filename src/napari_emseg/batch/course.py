"""The way of one input: stages of tasks, each from what the one before found out.

A course is a generator: it yields the tasks of a stage and is sent their outcomes,
facts or failures, in their order. It never waits and computes nothing itself.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from napari_emseg.batch import worker
from napari_emseg.batch.blockwise import (
    Agglomerate,
    ExtractFragments,
    RelabelSequential,
    WriteProfiles,
)
from napari_emseg.batch.completion_log import Facts, stamp
from napari_emseg.batch.context import (
    CELLS,
    EMPTY,
    MEMBRANES,
    PLACES,
    PROFILES,
    Context,
    Part,
    blocks,
)
from napari_emseg.batch.finishing import ApplyIds, Downsample
from napari_emseg.batch.links import OverlapNext, OverlapSkip, SolveLinks, farther_pairs
from napari_emseg.batch.membranes import (
    MeasureSections,
    Membranes,
    Missing,
    SegmentSections,
    missing_of,
    rule,
)
from napari_emseg.batch.stores import make_result, make_scratch
from napari_emseg.batch.tasks import Failure, Stages, Task, TaskBuilder, TaskResult
from napari_emseg.batch.unchunked_inputs import advice
from napari_emseg.core.intensity import GreyRange, stack_range, zoom_of
from napari_emseg.inference.predictor import Inverting
from napari_emseg.io.zarr_sink import pyramid
from napari_emseg.segmentation import cells_provenance

PAIRS = 8
"""Sections that are compared with their neighbours in one task."""


@dataclass
class CellStages(TaskBuilder):
    """The second half of an input's way."""

    def cells(self, seen: dict[int, Facts], missing: Missing) -> Stages:
        """Yield the stages from stored membranes to cells."""
        c = self.context
        make_scratch(c, self.ledger, self.base, PROFILES)
        if c.whole:
            counts = yield from self._whole_sections(missing)
        else:
            counts = yield from self._large_sections(seen, missing)
        everything = stamp(counts, missing)
        if "link" in c.settings.steps:
            yield from self._compared(counts, everything)
        link = "link" in c.settings.steps
        work = SolveLinks(c, tuple(counts), self.first_id, link)
        outcomes = yield [self.task("ids", "all", work, 0, everything)]
        facts = outcomes[0]
        if isinstance(facts, Failure):
            raise OSError(facts.why)
        self.found.cells = facts["cells"]
        told = cells_provenance(c.settings.cell_settings, self.provenance)
        make_result(c, self.ledger, self.base, CELLS, facts["dtype"], told)
        yield from self._written(counts, everything)

    def _whole_sections(
        self, missing: Missing
    ) -> Generator[list[Task], list[TaskResult], list[int]]:
        c = self.context
        wanted = self.parts()
        tasks = []
        for part in wanted:
            gone = tuple(m for m in missing if part.first <= m[0] < part.stop)
            work = SegmentSections(c, part, gone)
            tasks.append(self.part_task("cells", part, work, gone))
        outcomes = yield tasks
        counts = [0] * len(c.sections)
        for part, outcome in zip(wanted, outcomes, strict=True):
            if isinstance(outcome, Failure):
                self.warn(f"{part.words} has no cells", outcome.why)
                continue
            for place, count in outcome["counts"].items():
                counts[int(place)] = count
        return counts

    def _large_sections(
        self, seen: dict[int, Facts], missing: Missing
    ) -> Generator[list[Task], list[TaskResult], list[int]]:
        c = self.context
        make_scratch(c, self.ledger, self.base, PLACES)
        gone = {place for place, corners in missing if corners is None}
        gone |= {place for place, facts in seen.items() if facts["blank"]}
        places = [
            p for p in range(len(c.sections)) if p not in gone and p not in c.excluded
        ]
        cut = [p for p in self.parts() if p.first in places]
        good, hidden = places, {p: _of(missing, p) for p in places}
        for kind, step in ((ExtractFragments, "fragments"), (WriteProfiles, "paint")):
            if kind is WriteProfiles:
                join = [
                    self.task("join", f"z {p}", Agglomerate(c, p), 1, hidden[p])
                    for p in good
                ]
                good = yield from self._checked(join, good)
            tasks, owners = [], []
            for part in (p for p in cut if p.first in good):
                at = part.first
                work = kind(c, part, hidden[at], bool(seen.get(at, {}).get("empty")))
                tasks.append(self.part_task(step, part, work, hidden[at]))
                owners.append(at)
            good = yield from self._checked(tasks, owners)
        ranks = [
            self.task("rank", f"z {p}", RelabelSequential(c, p), 1, hidden[p])
            for p in good
        ]
        outcomes = yield ranks
        counts = [0] * len(c.sections)
        for place, outcome in zip(good, outcomes, strict=True):
            if isinstance(outcome, Failure):
                self.warn(f"section {c.sections[place]} has no cells", outcome.why)
            else:
                counts[place] = outcome["counts"][str(place)]
        return counts

    def _checked(
        self, tasks: list[Task], owners: list[int]
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
            source = self.context.sections[place]
            self.warn(f"section {source} has no cells", why)
        if unsure:
            self.found.warnings.append(
                f"{unsure:,} px lie in places so wide that a block couldn't tell what "
                "the whole section would: cells may be cut there"
            )
        return sorted({p for p in owners if p not in bad})

    def _compared(self, counts: list[int], everything: str) -> Stages:
        """Compare sections with up to three before them."""
        c = self.context
        places = [p for p, count in enumerate(counts) if count]
        runs = [
            tuple(places[k : k + PAIRS + 1]) for k in range(0, len(places) - 1, PAIRS)
        ]
        tasks = [
            self.task(
                "overlaps", f"z {r[0]}…{r[-1]}", OverlapNext(c, r), len(r), everything
            )
            for r in runs
        ]
        outcomes = yield tasks
        shifts: dict[int, tuple[int, int]] = {}
        for run, outcome in zip(runs, outcomes, strict=True):
            if isinstance(outcome, Failure):
                raise OSError(outcome.why)
            known = ((rows, columns) for rows, columns in outcome["shifts"])
            shifts |= dict(zip(run[1:], known, strict=True))
        pairs = farther_pairs(places, shifts)
        lots = [tuple(pairs[k : k + PAIRS]) for k in range(0, len(pairs), PAIRS)]
        outcomes = yield [
            self.task(
                "overlaps", f"{lot[0]}…", OverlapSkip(c, lot), len(lot), lot, everything
            )
            for lot in lots
        ]
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                raise OSError(outcome.why)

    def _written(self, counts: list[int], everything: str) -> Stages:
        firsts = [0]
        for count in counts:
            firsts.append(firsts[-1] + count)
        wanted = self.parts()
        tasks = []
        for part in wanted:
            own = tuple((firsts[p], counts[p]) for p in range(part.first, part.stop))
            if any(count for _, count in own) or self.first_id > 1:
                work = ApplyIds(self.context, part, own)
                tasks.append(self.part_task("write", part, work, everything))
        for task, outcome in zip(tasks, (yield tasks), strict=True):
            if isinstance(outcome, Failure):
                self.warn(f"{task.words} has no cells", outcome.why)


def _of(missing: Iterable[tuple[int, object]], place: int) -> Missing:
    return tuple(m for m in missing if m[0] == place)  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class EstimateStats:
    """Find out polarity, and the grey values of the whole stack if they count.

    Facts: `invert`, `range` (low and high, or None) and `notes` for a person.
    """

    context: Context

    def run(self) -> Facts:
        """Look at some sections."""
        c = self.context
        stack = worker.opened(c.given).stack
        invert, words = Inverting().decide(stack, c.settings.predict)
        found = rule(c)
        whole = found.scope == "stack"
        grey = stack_range(stack, found, most=c.most) if whole else None
        notes = [words] if words else []
        notes += advice(c, stack)
        if c.weights is not None:
            card = worker.weights(c.weights).card
            notes += zoom_of(stack, card, rescale=c.settings.predict.rescale)[1]
        worker.require_same(c)
        return {
            "invert": invert,
            "range": None if grey is None else [grey.low, grey.high],
            "notes": notes,
        }

    def files(self) -> list[Path]:
        """Return what it has written."""
        return []


@dataclass
class InputPipeline(CellStages):
    """All stages of an input."""

    def stages(self) -> Stages:
        """Yield the tasks of each stage, be sent their outcomes."""
        missing: Missing = ()
        seen: dict[int, Facts] = {}
        if self.context.weights is not None:
            yield from self._prepare()
            seen, missing = yield from self._looked()
            more = yield from self._membranes(seen, missing)
            missing = tuple(sorted({*missing, *more}, key=str))
            yield from self._shrunk(MEMBRANES, missing)
            self.found.results.append(MEMBRANES)
        if "cells" in self.context.settings.steps:
            yield from self.cells(seen, missing)
            yield from self._shrunk(CELLS, missing)
            self.found.results.append(CELLS)

    def _prepare(self) -> Stages:
        outcomes = yield [self.task("prepare", "all", EstimateStats(self.context), 0)]
        facts = outcomes[0]
        if isinstance(facts, Failure):
            raise OSError(facts.why)
        low_high = facts["range"]
        self.found.warnings += facts["notes"]
        self.context = replace(
            self.context,
            invert=facts["invert"],
            whole_range=None if low_high is None else GreyRange(*low_high),
        )

    def _looked(
        self,
    ) -> Generator[list[Task], list[TaskResult], tuple[dict[int, Facts], Missing]]:
        """Look at each section that is too large to be read at once."""
        c = self.context
        if c.whole:
            return {}, ()
        make_scratch(c, self.ledger, self.base, EMPTY)
        places = [p for p in range(len(c.sections)) if p not in c.excluded]
        tasks = [self.task("look", f"z {p}", MeasureSections(c, p), 1) for p in places]
        outcomes = yield tasks
        seen: dict[int, Facts] = {}
        missing = []
        for place, outcome in zip(places, outcomes, strict=True):
            if isinstance(outcome, Failure):
                missing.append((place, None))
                self.warn(f"section {c.sections[place]} is left out", outcome.why)
            else:
                seen[place] = outcome
        return seen, tuple(missing)

    def _membranes(
        self, seen: dict[int, Facts], gone: Missing
    ) -> Generator[list[Task], list[TaskResult], Missing]:
        c = self.context
        dtype = c.settings.probabilities
        scale = 255.0 if dtype == "uint8" else 1.0
        told = self.provenance.model_copy(update={"scale": scale})
        make_result(c, self.ledger, self.base, MEMBRANES, dtype, told)
        left_out = {place for place, _ in gone}
        wanted = [p for p in self.parts() if p.first not in left_out]
        tasks = []
        for part in wanted:
            known = tuple(sorted(seen.get(part.first, {}).items()))
            only = self._left(part)
            work = Membranes(c, part, only, known if part.corners else ())
            tasks.append(self.part_task("membranes", part, work))
        outcomes = yield tasks
        failed: list[tuple[Part, dict[str, str] | None]] = []
        for part, outcome in zip(wanted, outcomes, strict=True):
            if isinstance(outcome, Failure):
                failed.append((part, None))
                self.warn(f"{part.words} has no membranes", outcome.why)
            elif outcome["failed"]:
                failed.append((part, outcome["failed"]))
                for place, why in outcome["failed"].items():
                    self.warn(f"section {c.sections[int(place)]} is left out", why)
        return missing_of(failed)

    def _left(self, part: Part) -> tuple[int, ...] | None:
        """Return what failed of a part when it was done before; None: do all."""
        known = self.ledger.facts(stamp(self.base, "membranes", part.words))
        if known is None or not known["failed"]:
            return None
        return tuple(int(place) for place in known["failed"])

    def _shrunk(self, name: str, missing: Missing) -> Stages:
        """Make the smaller copies of large sections; small ones have them already."""
        c = self.context
        if c.whole:
            return
        for level, shape in enumerate(pyramid(c.size)[1:], start=1):
            tasks = []
            for place in range(shape[0]):
                for y, x in blocks((shape[1], shape[2]), c.settings.block):
                    part = Part(place, place + 1, (y.start, x.start, y.stop, x.stop))
                    work = Downsample(c, name, level, part)
                    tasks.append(
                        self.part_task(
                            f"copies of {name}, {level}", part, work, missing
                        )
                    )
            for task, outcome in zip(tasks, (yield tasks), strict=True):
                if isinstance(outcome, Failure):
                    self.warn(f"{task.words} has no smaller copy", outcome.why)
