"""The way of one input: stages of tasks, each from what the one before found out.

A course is a generator: it yields the tasks of a stage and is sent their outcomes,
facts or failures, in their order. It never waits and computes nothing itself.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace

from napari_emseg.batch.cells import (
    Fragments,
    Join,
    Missing,
    Paint,
    Profiles,
    Rank,
    missing_of,
)
from napari_emseg.batch.context import (
    CELLS,
    EMPTY,
    MEMBRANES,
    PLACES,
    PROFILES,
    Context,
)
from napari_emseg.batch.finishing import Shrink, Write
from napari_emseg.batch.grid import Part, blocks, parts
from napari_emseg.batch.ledger import Facts, Ledger, stamp
from napari_emseg.batch.links import Farther, Ids, Neighbours, farther_pairs
from napari_emseg.batch.membranes import Look, Membranes
from napari_emseg.batch.preparing import Prepare
from napari_emseg.batch.stores import make_result, make_scratch
from napari_emseg.batch.worker import Work
from napari_emseg.cells import cells_provenance
from napari_emseg.core.intensity import GreyRange
from napari_emseg.core.records import Provenance
from napari_emseg.io.zarr_sink import pyramid

PAIRS = 8
"""Sections that are compared with their neighbours in one task."""


@dataclass(frozen=True, slots=True)
class Task:
    """A part of the work of a step; `stamp` is another one if anything differs."""

    step: str
    words: str
    work: Work
    stamp: str
    pixels: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that failed for good, and why."""

    why: str


Outcome = Facts | Failure
Stages = Generator[list[Task], list[Outcome], None]


@dataclass
class Found:
    """What a course found out.

    `failures` say which blocks are left empty and why, `warnings` what else is worth a
    word; `results` are the names of finished ones.
    """

    cells: int | None = None
    warnings: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)


@dataclass
class Course:
    """The stages of an input.

    Parameters
    ----------
    base
        Stamp of the input and of all settings that count.
    provenance
        Of the probabilities.
    """

    context: Context
    ledger: Ledger
    base: str
    provenance: Provenance
    first_id: int = 1
    found: Found = field(default_factory=Found)

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
            yield from self._cells(seen, missing)
            yield from self._shrunk(CELLS, missing)
            self.found.results.append(CELLS)

    def _task(self, step: str, words: str, work: Work, n: int, *more: object) -> Task:
        c = self.context
        number = stamp(self.base, step, words, *more)
        return Task(step, words, work, number, n * c.shape[0] * c.shape[1])

    def _part_task(self, step: str, part: Part, work: Work, *more: object) -> Task:
        number = stamp(self.base, step, part.words, *more)
        area = part.area
        height, width = (
            self.context.shape if area is None else (a.stop - a.start for a in area)
        )
        pixels = (part.stop - part.first) * height * width
        return Task(step, part.words, work, number, pixels)

    def _prepare(self) -> Stages:
        outcomes = yield [self._task("prepare", "all", Prepare(self.context), 0)]
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
    ) -> Generator[list[Task], list[Outcome], tuple[dict[int, Facts], Missing]]:
        """Look at each section that is too large to be read at once."""
        c = self.context
        if c.whole:
            return {}, ()
        make_scratch(c, self.ledger, self.base, EMPTY)
        places = [p for p in range(len(c.sections)) if p not in c.excluded]
        tasks = [self._task("look", f"z {p}", Look(c, p), 1) for p in places]
        outcomes = yield tasks
        seen: dict[int, Facts] = {}
        missing = []
        for place, outcome in zip(places, outcomes, strict=True):
            if isinstance(outcome, Failure):
                missing.append((place, None))
                self._warn(f"section {c.sections[place]} is left out", outcome.why)
            else:
                seen[place] = outcome
        return seen, tuple(missing)

    def _membranes(
        self, seen: dict[int, Facts], gone: Missing
    ) -> Generator[list[Task], list[Outcome], Missing]:
        c = self.context
        dtype = c.settings.probabilities
        scale = 255.0 if dtype == "uint8" else 1.0
        told = self.provenance.model_copy(update={"scale": scale})
        make_result(c, self.ledger, self.base, MEMBRANES, dtype, told)
        left_out = {place for place, _ in gone}
        wanted = [p for p in self._parts() if p.first not in left_out]
        tasks = []
        for part in wanted:
            known = tuple(sorted(seen.get(part.first, {}).items()))
            only = self._left(part)
            work = Membranes(c, part, only, known if part.corners else ())
            tasks.append(self._part_task("membranes", part, work))
        outcomes = yield tasks
        failed: list[tuple[Part, dict[str, str] | None]] = []
        for part, outcome in zip(wanted, outcomes, strict=True):
            if isinstance(outcome, Failure):
                failed.append((part, None))
                self._warn(f"{part.words} has no membranes", outcome.why)
            elif outcome["failed"]:
                failed.append((part, outcome["failed"]))
                for place, why in outcome["failed"].items():
                    self._warn(f"section {c.sections[int(place)]} is left out", why)
        return missing_of(failed)

    def _left(self, part: Part) -> tuple[int, ...] | None:
        """Return what failed of a part when it was done before; None: do all."""
        known = self.ledger.facts(stamp(self.base, "membranes", part.words))
        if known is None or not known["failed"]:
            return None
        return tuple(int(place) for place in known["failed"])

    def _cells(self, seen: dict[int, Facts], missing: Missing) -> Stages:
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
        work = Ids(c, tuple(counts), self.first_id, link)
        outcomes = yield [self._task("ids", "all", work, 0, everything)]
        facts = outcomes[0]
        if isinstance(facts, Failure):
            raise OSError(facts.why)
        self.found.cells = facts["cells"]
        told = cells_provenance(c.settings.cell_settings, self.provenance)
        make_result(c, self.ledger, self.base, CELLS, facts["dtype"], told)
        yield from self._written(counts, everything)

    def _whole_sections(
        self, missing: Missing
    ) -> Generator[list[Task], list[Outcome], list[int]]:
        c = self.context
        wanted = self._parts()
        tasks = []
        for part in wanted:
            gone = tuple(m for m in missing if part.first <= m[0] < part.stop)
            work = Profiles(c, part, gone)
            tasks.append(self._part_task("cells", part, work, gone))
        outcomes = yield tasks
        counts = [0] * len(c.sections)
        for part, outcome in zip(wanted, outcomes, strict=True):
            if isinstance(outcome, Failure):
                self._warn(f"{part.words} has no cells", outcome.why)
                continue
            for place, count in outcome["counts"].items():
                counts[int(place)] = count
        return counts

    def _large_sections(
        self, seen: dict[int, Facts], missing: Missing
    ) -> Generator[list[Task], list[Outcome], list[int]]:
        c = self.context
        make_scratch(c, self.ledger, self.base, PLACES)
        gone = {place for place, corners in missing if corners is None}
        gone |= {place for place, facts in seen.items() if facts["blank"]}
        places = [
            p for p in range(len(c.sections)) if p not in gone and p not in c.excluded
        ]
        cut = [p for p in self._parts() if p.first in places]
        good, hidden = places, {p: _of(missing, p) for p in places}
        for kind, step in ((Fragments, "fragments"), (Paint, "paint")):
            if kind is Paint:
                join = [
                    self._task("join", f"z {p}", Join(c, p), 1, hidden[p]) for p in good
                ]
                good = yield from self._checked(join, good)
            tasks, owners = [], []
            for part in (p for p in cut if p.first in good):
                at = part.first
                work = kind(c, part, hidden[at], bool(seen.get(at, {}).get("empty")))
                tasks.append(self._part_task(step, part, work, hidden[at]))
                owners.append(at)
            good = yield from self._checked(tasks, owners)
        ranks = [self._task("rank", f"z {p}", Rank(c, p), 1, hidden[p]) for p in good]
        outcomes = yield ranks
        counts = [0] * len(c.sections)
        for place, outcome in zip(good, outcomes, strict=True):
            if isinstance(outcome, Failure):
                self._warn(f"section {c.sections[place]} has no cells", outcome.why)
            else:
                counts[place] = outcome["counts"][str(place)]
        return counts

    def _checked(
        self, tasks: list[Task], owners: list[int]
    ) -> Generator[list[Task], list[Outcome], list[int]]:
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
            self._warn(f"section {source} has no cells", why)
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
            self._task(
                "overlaps", f"z {r[0]}…{r[-1]}", Neighbours(c, r), len(r), everything
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
            self._task(
                "overlaps", f"{lot[0]}…", Farther(c, lot), len(lot), lot, everything
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
        wanted = self._parts()
        tasks = []
        for part in wanted:
            own = tuple((firsts[p], counts[p]) for p in range(part.first, part.stop))
            if any(count for _, count in own) or self.first_id > 1:
                work = Write(self.context, part, own)
                tasks.append(self._part_task("write", part, work, everything))
        for task, outcome in zip(tasks, (yield tasks), strict=True):
            if isinstance(outcome, Failure):
                self._warn(f"{task.words} has no cells", outcome.why)

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
                    work = Shrink(c, name, level, part)
                    tasks.append(
                        self._part_task(
                            f"copies of {name}, {level}", part, work, missing
                        )
                    )
            for task, outcome in zip(tasks, (yield tasks), strict=True):
                if isinstance(outcome, Failure):
                    self._warn(f"{task.words} has no smaller copy", outcome.why)

    def _parts(self) -> list[Part]:
        c = self.context
        return [
            part
            for part in parts(len(c.sections), c.shape, c.settings)
            if not all(p in c.excluded for p in range(part.first, part.stop))
        ]

    def _warn(self, what: str, why: str) -> None:
        self.found.failures.append(f"{what}: {why}")


def _of(missing: Iterable[tuple[int, object]], place: int) -> Missing:
    return tuple(m for m in missing if m[0] == place)  # type: ignore[misc]
