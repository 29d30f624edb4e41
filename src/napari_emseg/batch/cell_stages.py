"""The stages from membranes to cells with their ids."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass

from napari_emseg.batch.blockwise import (
    Agglomerate,
    ExtractFragments,
    RelabelSequential,
    WriteProfiles,
)
from napari_emseg.batch.cells import Missing, SegmentSections
from napari_emseg.batch.completion_log import Facts, stamp
from napari_emseg.batch.context import CELLS, PLACES, PROFILES
from napari_emseg.batch.finishing import ApplyIds
from napari_emseg.batch.links import OverlapNext, OverlapSkip, SolveLinks, farther_pairs
from napari_emseg.batch.stores import make_result, make_scratch
from napari_emseg.batch.tasks import Failure, Stages, Task, TaskBuilder, TaskResult
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
