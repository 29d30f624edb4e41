"""The way of one input: stages of tasks, each from what the one before found out.

A course is a generator: it yields the tasks of a stage and is sent their outcomes,
facts or failures, in their order. It never waits and computes nothing itself.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from napari_emseg.batch.cell_stages import CellStages
from napari_emseg.batch.cells import Missing, missing_of
from napari_emseg.batch.completion_log import Facts, stamp
from napari_emseg.batch.context import CELLS, EMPTY, MEMBRANES
from napari_emseg.batch.finishing import Downsample
from napari_emseg.batch.grid import Part, blocks
from napari_emseg.batch.membranes import MeasureSections, Membranes
from napari_emseg.batch.preparing import EstimateStats
from napari_emseg.batch.stores import make_result, make_scratch
from napari_emseg.batch.tasks import Failure, Stages, Task, TaskResult
from napari_emseg.core.intensity import GreyRange
from napari_emseg.io.zarr_sink import pyramid


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
