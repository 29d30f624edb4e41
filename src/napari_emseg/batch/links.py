"""The step profiles → cells through the stack: overlaps by pairs, then ids for all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_emseg.batch import stores, worker
from napari_emseg.batch.blockwise import ranked
from napari_emseg.batch.completion_log import Facts, stamp
from napari_emseg.batch.context import TABLES, Context, blocks
from napari_emseg.batch.settings import BatchSettings
from napari_emseg.batch.step import Step
from napari_emseg.batch.stores import IDS
from napari_emseg.batch.tasks import Failure, Stages, TaskBuilder
from napari_emseg.core.regions import Area
from napari_emseg.proofreading.edits import MEMBRANE
from napari_emseg.segmentation.linker import BRIDGE, NO_PAIRS, Linker, parted_by
from napari_emseg.segmentation.overlap import (
    BIN,
    GAIN,
    Overlap,
    Shift,
    best_overlap,
    binned,
    find_shift,
    overlap_of,
)

PAIRS = 8
"""Sections that are compared with their neighbours in one task."""

COMPARED = 3
"""Sections before it that a section is compared with, at the most."""

AROUND = 64
"""So far around a block profiles are looked at that drawn membrane lies between, px."""

BINNED_SIDE = 2048
"""Shifts of large sections are looked for on copies of at most this squared."""


@dataclass(frozen=True, slots=True)
class OverlapNext:
    """Compare sections with the next ones that have cells.

    Facts: `shifts`, of each section after the first one.

    Parameters
    ----------
    places
        Sections with cells, one after the other.
    """

    context: Context
    places: tuple[int, ...]

    def run(self) -> Facts:
        """Compare and store."""
        c, shifts = self.context, []
        for before, after in pairwise(self.places):
            overlap = _best(c, before, after)
            _keep(c, before, after, overlap)
            shifts.append(list(overlap.shift))
        return {"shifts": shifts}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return [_name(self.context, *pair) for pair in pairwise(self.places)]


@dataclass(frozen=True, slots=True)
class OverlapSkip:
    """Compare sections with others before them, shifted by what is known already.

    Parameters
    ----------
    pairs
        `(before, after, rows, columns)`.
    """

    context: Context
    pairs: tuple[tuple[int, int, int, int], ...]

    def run(self) -> Facts:
        """Compare and store."""
        for before, after, rows, columns in self.pairs:
            overlap = _overlap(self.context, before, after, (rows, columns))
            _keep(self.context, before, after, overlap)
        return {}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return [_name(self.context, a, b) for a, b, _, _ in self.pairs]


@dataclass(frozen=True, slots=True)
class SolveLinks:
    """Give every profile the id of its cell. Facts: `cells`, how many there are.

    Parameters
    ----------
    counts
        Profiles of each place.
    first_id
        Where ids start.
    link
        Give profiles of one cell the same id; else ids count through all sections.
    """

    context: Context
    counts: tuple[int, ...]
    first_id: int
    link: bool

    def run(self) -> Facts:
        """Link and store."""
        total = sum(self.counts)
        ids: NDArray[np.unsignedinteger]
        # one array for all profiles of the stack, section by section; `ApplyIds` knows
        # where each section begins in it
        ids = self._linked() if self.link else np.arange(1, total + 1, dtype=np.uint64)
        cells = int(ids.max(initial=0))
        dtype = stores.keep_ids(self.context, ids, self.first_id)
        return {"cells": cells, "dtype": dtype}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return [self.context.path(IDS)]

    def _linked(self) -> NDArray[np.uint32]:
        c = self.context
        linker = Linker(c.cell_settings)
        recent: list[int] = []
        for place, count in enumerate(self.counts):
            # as `Linker._recent`: sections without profiles don't count, and nothing
            # was compared with them
            earlier = reversed(recent) if count else ()
            overlaps = [_stored(c, before, place) for before in earlier]
            linker.add_counted(
                _sizes(c, place, count), overlaps, _apart(c, place, count)
            )
            if count:
                recent = [*recent[-BRIDGE:], place]
        return np.concatenate([ids[1:] for ids in linker.finish()])


def farther_pairs(
    places: list[int], shifts: dict[int, Shift]
) -> list[tuple[int, int, int, int]]:
    """Return pairs of sections that are not next to each other, and how they lie.

    Parameters
    ----------
    places
        Sections with cells, ascending.
    shifts
        Of each of them but the first, against the one before.
    """
    found = []
    for nth in range(len(places)):
        rows = columns = 0
        for back in range(1, min(BRIDGE + 1, nth) + 1):
            # shifts between neighbours add up, as in `Linker._move`
            y, x = shifts[places[nth - back + 1]]
            rows, columns = rows + y, columns + x
            if back > 1:
                found.append((places[nth - back], places[nth], rows, columns))
    return found


def _best(c: Context, before: int, after: int) -> Overlap:
    """Return the overlap as sections lie, or shifted if cells then overlap more."""
    largest = c.settings.cells.shift
    if c.whole:
        return best_overlap(ranked(c, before), ranked(c, after), largest)
    still = _overlap(c, before, after, (0, 0))
    # blocks are multiples of 1,024 px, so squares of a power
    # of two never cross their borders
    step = BIN
    while max(c.shape) // step > BINNED_SIDE:
        step *= 2
    one, other = (_binned(c, place, step) for place in (before, after))
    shift = find_shift(one, other, largest, step)
    if shift == (0, 0):
        return still
    moved = _overlap(c, before, after, shift)
    return moved if moved.held > GAIN * still.held else still


def _binned(c: Context, place: int, step: int) -> NDArray[np.float32]:
    """Return where cells are, in squares of `step` px, read block by block."""
    out = np.zeros([n // step for n in c.shape], np.float32)
    for area in blocks(c.shape, c.settings.block):
        share = binned(ranked(c, place, area) > 0, step)
        y, x = (a.start // step for a in area)
        out[y : y + share.shape[0], x : x + share.shape[1]] = share
    return out


def _overlap(c: Context, before: int, after: int, shift: Shift) -> Overlap:
    """Count the pixels that profiles of two sections share, block by block."""
    if c.whole:
        return overlap_of(ranked(c, before), ranked(c, after), shift)
    # a pair of profiles may meet in several blocks; sorted
    # below, as `overlap_of` gives them
    found: dict[tuple[int, int], int] = {}
    for area in blocks(c.shape, c.settings.block):
        both = _on_each_other(c.shape, area, shift)
        if both is None:
            continue
        here, there = both
        part = overlap_of(ranked(c, before, here), ranked(c, after, there))
        keys = zip(part.before.tolist(), part.after.tolist(), strict=True)
        for key, n in zip(keys, part.shared.tolist(), strict=True):
            found[key] = found.get(key, 0) + n
    keys_ = sorted(found)
    one, other = np.array(keys_, np.int64).reshape(-1, 2).T
    return Overlap(one, other, np.array([found[k] for k in keys_], np.int64), shift)


def _on_each_other(
    shape: tuple[int, int], area: Area, shift: Shift
) -> tuple[Area, Area] | None:
    """Return the part of a block that has the other section on it, and that."""
    here = tuple(
        slice(max(a.start, d), min(a.stop, n + min(0, d)))
        for a, d, n in zip(area, shift, shape, strict=True)
    )
    if any(a.start >= a.stop for a in here):
        return None
    there = tuple(
        slice(a.start - d, a.stop - d) for a, d in zip(here, shift, strict=True)
    )
    return (here[0], here[1]), (there[0], there[1])


def _apart(c: Context, place: int, count: int) -> NDArray[np.int64]:
    """Return the pairs of profiles that a person parted."""
    hand = worker.opened(c.given).hand
    if hand is None or count == 0:
        return NO_PAIRS
    drawn = hand.corrections(c.sections[place]) == MEMBRANE
    found = [NO_PAIRS]
    areas = [None] if c.whole else blocks(c.shape, c.settings.block)
    for area in areas:
        if drawn[area or ...].any():
            around = area and _widened(area, c.shape)
            found.append(parted_by(drawn[around or ...], ranked(c, place, around)))
    return np.unique(np.concatenate(found), axis=0)


def _widened(area: Area, shape: tuple[int, int]) -> Area:
    """Return an area with what profiles around drawn membrane are known by."""
    rows, columns = (
        slice(max(0, a.start - AROUND), min(n, a.stop + AROUND))
        for a, n in zip(area, shape, strict=True)
    )
    return rows, columns


def _sizes(c: Context, place: int, count: int) -> NDArray[np.int64]:
    if count == 0:
        return np.zeros(1, np.int64)
    sizes = np.zeros(count + 1, np.int64)
    areas = [None] if c.whole else blocks(c.shape, c.settings.block)
    for area in areas:
        sizes += np.bincount(ranked(c, place, area).ravel(), minlength=count + 1)
    return sizes


def _name(c: Context, before: int, after: int) -> Path:
    return c.path(TABLES) / f"overlap-{after}-{before}.npz"


def _keep(c: Context, before: int, after: int, overlap: Overlap) -> None:
    table = {
        "before": overlap.before,
        "after": overlap.after,
        "shared": overlap.shared,
        "shift": np.array(overlap.shift, np.int64),
    }
    stores.keep(_name(c, before, after), table)


def _stored(c: Context, before: int, after: int) -> Overlap:
    table = stores.read(_name(c, before, after))
    y, x = table["shift"].tolist()
    return Overlap(table["before"], table["after"], table["shared"], (y, x))


class LinkStep(Step):
    """Compares sections with up to three before them, for ids through the stack."""

    name = "link"
    needs = ("cells",)
    refines = "cells"

    def cost(self, context: Context) -> Mapping[str, float]:
        """Return what a pixel costs; cells through the stack need no links."""
        return {"overlaps": 0.8} if context.through == "sections" else {}

    def trial(
        self,
        cells: NDArray[np.uint32],
        membrane: NDArray[np.float32],
        context: Context,
    ) -> Callable[[], object] | None:
        """Return what is compared for one section."""
        del membrane
        if context.through != "sections":
            return None
        before, after = cells

        def compare() -> None:
            best_overlap(before, after, BatchSettings().cells.shift)
            for _ in range(1, COMPARED):
                overlap_of(before, after)

        return compare

    def tasks(self, course: TaskBuilder) -> Stages:
        """Yield neighbours first, whose shifts tell how farther ones lie."""
        c, counts = course.context, course.found.counts
        everything = stamp(counts, course.found.missing)
        places = [p for p, count in enumerate(counts) if count]
        runs = [
            tuple(places[k : k + PAIRS + 1]) for k in range(0, len(places) - 1, PAIRS)
        ]
        outcomes = yield [
            course.task(
                "overlaps", f"z {r[0]}…{r[-1]}", OverlapNext(c, r), len(r), everything
            )
            for r in runs
        ]
        shifts: dict[int, Shift] = {}
        for run, outcome in zip(runs, outcomes, strict=True):
            if isinstance(outcome, Failure):
                raise OSError(outcome.why)
            known = ((rows, columns) for rows, columns in outcome["shifts"])
            shifts |= dict(zip(run[1:], known, strict=True))
        # only now, since shifts of farther pairs are sums of those of neighbours
        pairs = farther_pairs(places, shifts)
        lots = [tuple(pairs[k : k + PAIRS]) for k in range(0, len(pairs), PAIRS)]
        outcomes = yield [
            course.task(
                "overlaps", f"{lot[0]}…", OverlapSkip(c, lot), len(lot), lot, everything
            )
            for lot in lots
        ]
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                raise OSError(outcome.why)
