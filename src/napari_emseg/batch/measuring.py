"""Finished cells → their table: measured part by part, and added up by ranges of ids.

So no more is held at once than a block and the sums of `RANGE` cells, but for 8 bytes
for each cell.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.batch import stores, worker
from napari_emseg.batch.cells import RESULT
from napari_emseg.batch.completion_log import Facts
from napari_emseg.batch.context import (
    CELLS,
    MEMBRANES,
    TABLES,
    Context,
    Part,
    blocks,
    parts,
)
from napari_emseg.batch.step import Step
from napari_emseg.batch.tasks import Failure, Stages, TaskBuilder
from napari_emseg.core.regions import Area
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack
from napari_emseg.proofreading.measurements import (
    HALO,
    CellMeasurements,
    ProfileTable,
    joined,
)
from napari_emseg.proofreading.table import CellRow, measured, rows_of, write_rows

RANGE = 2**20
"""Cells that are added up at once; each takes about 120 bytes."""

COLUMNS = tuple(field.name for field in fields(ProfileTable))


@dataclass(frozen=True, slots=True)
class Measure:
    """Measure the cells of a part.

    Parameters
    ----------
    cells, membranes
        Finished results; without membranes the input is probabilities.
    """

    context: Context
    part: Part
    cells: str
    membranes: str | None

    def run(self) -> Facts:
        """Measure and store, by section."""
        ids = open_stack(self.cells)
        table: stores.Table = {}
        for place in range(self.part.first, self.part.stop):
            seen = joined([self._seen(ids, place, area) for area in self._areas()])
            table |= {f"{place}-{name}": getattr(seen, name) for name in COLUMNS}
        stores.keep(_table(self.context, self.part), table)
        return {}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return [_table(self.context, self.part)]

    def _areas(self) -> list[Area]:
        if self.part.area is not None:
            return [self.part.area]
        return blocks(self.context.shape, self.context.settings.block)

    def _seen(self, ids: Stack, place: int, area: Area) -> ProfileTable:
        shape = self.context.shape
        rows, columns = (
            slice(max(0, a.start - HALO), min(n, a.stop + HALO))
            for a, n in zip(area, shape, strict=True)
        )
        window, first = (rows, columns), (rows.start, columns.start)
        top, left = (
            slice(a.start - start, a.stop - start)
            for a, start in zip(area, first, strict=True)
        )
        return measured(
            np.asarray(ids.data[(place, *window)]),
            self._membrane(place, window),
            shape=shape,
            inner=(top, left),
            origin=first,
        )

    def _membrane(self, place: int, window: Area) -> NDArray[np.float32]:
        c = self.context
        if self.membranes is None:
            values = worker.opened(c.given).stack.data[(c.sections[place], *window)]
        else:
            values = open_stack(self.membranes).data[(place, *window)]
        scale = 255 if values.dtype.kind == "u" else 1
        return np.asarray(values, np.float32) / np.float32(scale)


@dataclass(frozen=True, slots=True)
class Tabulate:
    """Write the table of all cells that were measured. Facts: `path`."""

    context: Context
    target: str

    def run(self) -> Facts:
        """Add up and write."""
        spans = {part: _span(table) for part, table in self._tables()}
        ids = [span for span in spans.values() if span is not None]
        low = min((first for first, _ in ids), default=1)
        high = max((last for _, last in ids), default=0)
        starts = range(low, high + 1, RANGE)
        # ids lie between `low` and `high`, and each range of them is added up by
        # itself: memory follows `RANGE`, not the number of cells.
        # added up twice, since what is usual is known only when all were seen
        means, begins, ends = [np.zeros(0)], [], []
        for tally in (self._tally(first, spans) for first in starts):
            means.append(tally.mean_size)
            begins.append(int(tally.first.min(initial=len(self.context.sections))))
            ends.append(int(tally.last.max(initial=-1)))
        sizes = np.concatenate(means)
        usual = float(np.median(sizes)) if sizes.size else 0.0
        linked = self.context.cell_settings.link and starts
        whole = (min(begins), max(ends)) if linked else None
        write_rows(
            Path(self.target),
            self._rows(starts, spans, usual, whole),
            voxel_size_nm=self.context.voxel_size_nm,
            overwrite=True,
        )
        return {"path": self.target}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return []

    def _rows(
        self,
        starts: range,
        spans: Mapping[Part, tuple[int, int] | None],
        usual: float,
        whole: tuple[int, int] | None,
    ) -> Iterator[CellRow]:
        for first in starts:
            yield from rows_of(self._tally(first, spans), usual, whole)

    def _tally(
        self, first: int, spans: Mapping[Part, tuple[int, int] | None]
    ) -> CellMeasurements:
        """Add up the cells from `first` on, `RANGE` of them."""
        last = first + RANGE - 1
        wanted = [
            part
            for part, span in spans.items()
            if span is not None and span[0] <= last and span[1] >= first
        ]
        known = np.zeros(0, np.uint64)
        for part in wanted:
            ids = np.concatenate(list(_columns(self.context, part, "cells").values()))
            mine = ids[(ids >= first) & (ids <= last)]
            known = np.union1d(known, mine)
        tally = CellMeasurements(known)
        for place, profiles in self._sections(wanted):
            tally.add(place, profiles)
        return tally

    def _tables(self) -> Iterator[tuple[Part, dict[int, NDArray[Any]]]]:
        """Yield the ids of each part that was measured, by place."""
        c = self.context
        for part in parts(len(c.sections), c.shape, c.settings):
            if _table(c, part).exists():
                yield part, _columns(c, part, "cells")

    def _sections(self, wanted: list[Part]) -> Iterator[tuple[int, ProfileTable]]:
        """Yield each section's profiles, from all blocks of it."""
        by_place: dict[int, list[Part]] = {}
        for part in wanted:
            by_place.setdefault(part.first, []).append(part)
        for together in by_place.values():
            found = [stores.read(_table(self.context, part)) for part in together]
            for place in range(together[0].first, together[0].stop):
                columns = (
                    {name: table[f"{place}-{name}"] for name in COLUMNS}
                    for table in found
                )
                yield place, joined([ProfileTable(**each) for each in columns])


def _table(c: Context, part: Part) -> Path:
    corner = "" if part.corners is None else f"-{part.corners[0]}-{part.corners[1]}"
    return c.path(TABLES) / f"measured-{part.first}{corner}.npz"


def _columns(c: Context, part: Part, name: str) -> dict[int, NDArray[Any]]:
    """Read one column of a part's table, by place."""
    with np.load(_table(c, part), allow_pickle=False) as file:
        places = range(part.first, part.stop)
        return {place: file[f"{place}-{name}"] for place in places}


def _span(ids: Mapping[int, NDArray[Any]]) -> tuple[int, int] | None:
    """Return the smallest and the largest id of a part; None if it has no cells."""
    there = [known for known in ids.values() if known.size]
    if not there:
        return None
    # ids of a section ascend, so the first and the last are its extremes
    return min(int(k[0]) for k in there), max(int(k[-1]) for k in there)


class TableStep(Step):
    """Measures finished cells into a table of all of them."""

    name = "table"
    needs = ("cells",)
    flag = "table"
    settings = ("table",)
    ending = ".csv"

    def cost(self, context: Context) -> Mapping[str, float]:
        """Return what a pixel costs."""
        return {"measure": 1.0}

    def trial(
        self,
        cells: NDArray[np.uint32],
        membrane: NDArray[np.float32],
        context: Context,
    ) -> Callable[[], object]:
        """Return measuring the cells of one section."""
        shape = cells[0].shape
        inner = (slice(0, shape[0]), slice(0, shape[1]))
        return lambda: measured(
            cells[0], membrane[0], shape=shape, inner=inner, origin=(0, 0)
        )

    def tasks(self, course: TaskBuilder) -> Stages:
        """Yield measuring part by part, and then adding up."""
        context, found = course.context, course.found
        made = {name: str(path) for name, path in course.places.items()}
        if CELLS not in made:
            return
        # what is mended later gives another table
        facts = tuple(found.failures)
        target = RESULT.path(context, course.out).with_suffix(self.ending)
        work = Tabulate(context, str(target))
        table = course.task("table", target.name, work, 0, facts)
        if not course.is_done(table):  # else what it was made of has been removed
            measure = [
                Measure(context, part, made[CELLS], made.get(MEMBRANES))
                for part in course.parts()
            ]
            outcomes = yield [
                course.part_task("measure", work.part, work, facts) for work in measure
            ]
            failed = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
            failed = failed or [e for e in (yield [table]) if isinstance(e, Failure)]
            if failed:
                found.errors.append(f"there is no table of cells: {failed[0].why}")
                return
        found.files.append(str(target))
