"""Cells of a stack."""

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg._installed import __version__
from napari_emseg.core.intensity import padding
from napari_emseg.core.records import (
    ClassifierRef,
    Note,
    Progress,
    Provenance,
    Record,
    SectionDone,
)
from napari_emseg.core.regions import Constraint
from napari_emseg.core.settings import CellSettings, Through
from napari_emseg.core.sinks import ArraySink, SectionSink
from napari_emseg.core.stack import (
    LazyArray,
    Stack,
    VoxelSize,
    as_stack,
    is_isotropic,
    sections_asked,
)
from napari_emseg.io.fingerprint import NO_CELLS, LossNotes, check_sources_after
from napari_emseg.segmentation.affinities import Affinities
from napari_emseg.segmentation.edge_classifier import EdgeClassifier, default_classifier
from napari_emseg.segmentation.linker import BRIDGE
from napari_emseg.segmentation.linking import (
    DrawnMembrane,
    LinkResult,
    link_stack,
    scratch,
)
from napari_emseg.segmentation.section import (
    masked,
    nothing_predicted,
    segment_section,
)
from napari_emseg.segmentation.stack_graph import (
    StackFragments,
    iter_find_stack_fragments,
    iter_segment_graph,
)
from napari_emseg.segmentation.volume import WHOLE, iter_segment_volume


class ReadProbabilities:
    """Sections of probabilities from 0 to 1, NaN where there is no picture."""

    dtype = np.dtype(np.float32)

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.shape = stack.shape

    def __getitem__(self, z: Any, /) -> NDArray[np.float32]:
        """Return section `z` `(y, x)`."""
        values = self._stack.section(int(z))
        return masked(values, nothing_predicted(values))


LARGEST_ID = 2**32 - 1


@dataclass(frozen=True, slots=True, eq=False)
class CellsResult:
    """What a run gave.

    Parameters
    ----------
    cells
        `(z, y, x)` uint32, 0 on membranes; None if they went to a sink.
    sections
        Sections along z, ascending; a sink's index counts these.
    counts
        Number of profiles of each section that was done.
    damaged
        Sections that couldn't be read, with the reason; they have no cells.
    linked
        Number of cells through all sections; None if they weren't linked.
    constraints
        How many merges and splits by hand were kept, and of how many.
    """

    cells: NDArray[np.uint32] | None = field(repr=False)
    sections: tuple[int, ...]
    counts: dict[int, int]
    damaged: dict[int, str]
    linked: int | None = None
    constraints: tuple[int, int] = (0, 0)

    @property
    def count(self) -> int:
        """Number of ids: of cells if sections were linked, else of profiles."""
        return sum(self.counts.values()) if self.linked is None else self.linked


def segment_stack(
    membrane: Stack | LazyArray,
    *,
    settings: CellSettings | None = None,
    sections: Sequence[int] | None = None,
    excluded: Sequence[int] = (),
    source: Stack | None = None,
    affinities: Affinities | None = None,
    constraints: Sequence[Constraint] = (),
    classifier: EdgeClassifier | None = None,
    sink: SectionSink | None = None,
    first_id: int = 1,
    drawn: DrawnMembrane | None = None,
) -> Generator[Record, None, CellsResult]:
    """Find the cells of each section; ids are unique over the stack.

    With `settings.link` profiles of one cell in several sections share an id, see
    `link_stack`. With `settings.through` cells are found in three dimensions, see
    `settle_through`; single missing sections are bridged. Until then sections are
    kept on disk, and Progress tells of them.

    Yields SectionDone when a section is in the sink, after a Note where one can't be
    read. Stopping keeps what is finished; the sink remains the caller's to close.

    Parameters
    ----------
    membrane
        Probabilities `(z, y, x)`, see `segment_section`.
    sections
        Which, in the order of work; all by default. Results are stored ascending.
    excluded
        Of these, which have no cells and are not read; links bridge them.
    source
        The EM that the probabilities were made from, of the same shape: its alignment
        padding has no cells. Without it, padding is where probabilities are exactly 0
        in a broad area at the border.
    affinities
        Of the same shape. They count where cells are found through the stack: in three
        dimensions beside membranes, by one graph between sections.
    constraints
        What a person said of places of the stack; cells through the stack keep it.
    classifier
        Of edges of one graph; that of napari-emseg-data, where that is there, if none
        is given.
    sink
        Gets each section `(y, x)` uint32 by its place among the ascending `sections`.
    first_id
        Where ids start.
    drawn
        What a person drew of each section; links keep apart what that parts.

    Raises
    ------
    ValueError
        At once, if a section isn't there or `source` or affinities have another shape;
        when reached, if a section holds no probabilities.
    SourceChangedError
        At the end, if files of a stack changed or went away meanwhile.
    """
    stack = as_stack(membrane, name="probabilities")
    if source is not None and source.shape != stack.shape:
        msg = f"probabilities are {stack.shape} (z, y, x), but source is {source.shape}"
        raise ValueError(msg)
    if affinities is not None and affinities.shape != stack.shape:
        msg = f"probabilities are {stack.shape}, but affinities {affinities.shape}"
        raise ValueError(msg)
    order = sections_asked(sections, stack)
    sections_asked(excluded or order, stack)
    settings = settings or CellSettings()
    job = _Work(stack, order, frozenset(excluded), settings, source, affinities)
    job = replace(
        job, constraints=tuple(constraints), classifier=classifier, drawn=drawn
    )
    if job.through != "sections":
        work = _through(job, sink, first_id)
    elif settings.link:
        work = _linked(job, sink, first_id)
    else:
        work = job.run(sink, first_id)
    return check_sources_after(work, stack, source, unread=lambda found: found.damaged)


def settle_through(
    settings: CellSettings,
    voxel_size_nm: VoxelSize | None,
    sections: int,
    *,
    affinities: bool = False,
) -> CellSettings:
    """Return settings that say how so many sections are worked, without `auto`.

    Cells through all sections count as linked. With affinities, which say how sections
    go on in each other, one graph needs no voxel size.
    """
    through = settings.through
    if through == "auto":
        by_size: dict[bool | None, Through] = {
            None: "graph" if affinities else "sections",
            True: "3-d",
            False: "graph",
        }
        through = by_size[is_isotropic(voxel_size_nm)]
    if through == "sections" or sections < 2:
        return settings.model_copy(update={"through": "sections"})
    return settings.model_copy(update={"through": through, "link": True})


def _usual() -> ClassifierRef | None:
    usual = default_classifier()
    return None if usual is None else usual.ref


def cells_provenance(
    settings: CellSettings,
    membrane: Provenance | None = None,
    *,
    affinities: Sequence[str] = (),
    constraints: int = 0,
    edges: ClassifierRef | None = None,
    excluded: Collection[int] = (),
) -> Provenance:
    """Say how cells came to be, from how their probabilities did, if that is known.

    Parameters
    ----------
    affinities
        Names of the classes by which they were found, beside membranes.
    constraints
        How many merges and splits by hand they were to keep.
    edges
        What classifier of edges said which fragments are one cell, if a person chose;
        else it was the usual one, where that is installed.
    excluded
        Sections that were left without cells on request.
    """
    before = membrane or Provenance(kind="membrane")
    made: dict[str, Any] = {"predict": before.settings} if before.settings else {}
    if affinities:
        made["affinities"] = list(affinities)
    if constraints:
        made["constraints"] = constraints
    if settings.through == "graph" and (by := edges or _usual()):
        made["edges"] = by.name
        if by.sha256:
            made["edges_sha256"] = by.sha256
    if excluded:
        made["excluded"] = sorted(excluded)
    return before.model_copy(
        update={
            "kind": "cells",
            "threshold": settings.threshold,
            "scale": 1.0,
            "settings": made | {"cells": settings.model_dump(mode="json")},
            "version": __version__,
        }
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """Which sections to read, in which order, and how to cut them up."""

    stack: Stack
    order: tuple[int, ...]
    excluded: frozenset[int]
    settings: CellSettings
    source: Stack | None
    affinities: Affinities | None = None
    constraints: tuple[Constraint, ...] = ()
    classifier: EdgeClassifier | None = None
    drawn: DrawnMembrane | None = None

    def said(self, run: Sequence[int]) -> tuple[Constraint, ...]:
        """Return constraints from the first to the last section of a run."""
        stop = (run[-1] + 1, *self.stack.shape[1:])
        within = (c.within((run[0], 0, 0), stop) for c in self.constraints)
        return tuple(c for c in within if c is not None)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(z, y, x)` of the result."""
        return (len(self.order), *self.stack.shape[1:])

    @property
    def through(self) -> str:
        """How cells are found through sections, see `settle_through`."""
        size = self.stack.voxel_size_nm
        if size is None and self.source is not None:
            size = self.source.voxel_size_nm
        known, n = self.affinities is not None, len(self.order)
        return settle_through(self.settings, size, n, affinities=known).through

    def run(
        self, sink: SectionSink | None, first_id: int
    ) -> Generator[Record, None, CellsResult]:
        """Find the cells of each section."""
        # worked in the order that was asked for, stored by place in the stack
        ascending = tuple(sorted(self.order))
        own = None
        if sink is None:
            sink = own = ArraySink(self.shape, np.dtype(np.uint32))
        counts: dict[int, int] = {}
        damaged: dict[int, str] = {}
        notes = LossNotes(NO_CELLS)
        for done, z in enumerate(self.order, start=1):
            try:
                values, exclude = self._read(z)
            except (OSError, ValueError) as e:
                damaged[z] = str(e)
                yield from notes.add(z, str(e))
            else:
                cells = segment_section(values, self.settings, exclude=exclude)
                counts[z] = int(cells.max())
                sink.write(ascending.index(z), _offset(cells, first_id - 1))
                first_id += counts[z]
            yield SectionDone(z, done, len(self.order))
        yield from notes.rest()
        result = None if own is None else own.data
        return CellsResult(result, ascending, counts, damaged)

    def _read(self, z: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return probabilities of section `z`, and where there is no picture."""
        if z in self.excluded:
            # NaN counts as excluded: no cells there, and nothing is read
            return np.full(self.stack.shape[1:], np.nan, np.float32), None
        values = self.stack.section(z)
        if self.source is None:
            return values, nothing_predicted(values)
        return values, padding(self.source.section(z))


def read_volume(
    read: Callable[[int], tuple[NDArray[Any], NDArray[np.bool_] | None]],
    sections: Sequence[int],
    shape: tuple[int, int],
) -> Generator[Record, None, tuple[NDArray[np.float32], set[int]]]:
    """Read probabilities of ascending sections, and of what lies between them.

    Yields Progress; returns `(z, y, x)` from the first to the last one, NaN where there
    is no picture, and the places of those that have none.

    Raises
    ------
    OSError, ValueError
        From `read`, for a damaged section.
    """
    first, n = sections[0], sections[-1] - sections[0] + 1
    membrane = np.full((n, *shape), np.nan, np.float32)
    for done, z in enumerate(sections, start=1):
        membrane[z - first] = masked(*read(z))
        yield Progress("probabilities", done, len(sections))
    absent = set(np.flatnonzero(np.isnan(membrane).all((1, 2))).tolist())
    return membrane, absent


def iter_find_for_preview(
    membrane: NDArray[np.float32],
    absent: Collection[int],
    settings: CellSettings,
    affinities: Affinities | None = None,
    constraints: Sequence[Constraint] = (),
    classifier: EdgeClassifier | None = None,
) -> Generator[Record, None, StackFragments]:
    """Find the fragments that a run by settled settings would join."""
    if settings.through == "3-d":
        _bridge(membrane, sorted(absent))
    return (
        yield from iter_find_stack_fragments(
            membrane,
            settings,
            absent=absent,
            classifier=classifier or default_classifier(),
            affinities=affinities,
            constraints=constraints,
        )
    )


def _through(
    work: _Work, sink: SectionSink | None, first_id: int
) -> Generator[Record, None, CellsResult]:
    """Find the cells of all sections at once; they wait on disk until all are known."""
    own = None
    if sink is None:
        sink = own = ArraySink(work.shape, np.dtype(np.uint32))
    ascending = tuple(sorted(work.order))
    counts: dict[int, int] = {}
    damaged: dict[int, str] = {}
    following = first_id
    said = kept = 0
    for run in _runs(ascending):
        cells = yield from _segment_run(work, run, damaged)
        said += len(work.said(run))
        kept += sum(c.is_kept(cells) for c in work.said(run))
        for z in (z for z in run if z not in damaged):
            ids = cells[z - run[0]]
            counts[z] = int(np.count_nonzero(np.unique(ids)))
            sink.write(ascending.index(z), _offset(ids, following - 1))
            yield SectionDone(z, len(counts) + len(damaged), len(ascending))
        following += int(cells.max(initial=0))
    result = None if own is None else own.data
    linked = following - first_id
    return CellsResult(result, ascending, counts, damaged, linked, (kept, said))


def _runs(sections: Sequence[int]) -> list[tuple[int, ...]]:
    """Return ascending sections in runs whose gaps can be bridged."""
    cuts = np.flatnonzero(np.diff(sections) > BRIDGE + 1) + 1
    return [tuple(int(z) for z in run) for run in np.split(np.asarray(sections), cuts)]


def _segment_run(
    work: _Work, run: Sequence[int], damaged: dict[int, str]
) -> Generator[Record, None, NDArray[np.uint32]]:
    """Find the cells from the first to the last section of a run.

    What isn't there (not asked for, excluded, blank, damaged) is bridged.
    """
    first, n = run[0], run[-1] - run[0] + 1
    shape = (n, *work.shape[1:])
    membrane = np.empty(shape, np.float32) if np.prod(shape) <= WHOLE else None
    if membrane is None:
        membrane = scratch(shape, np.float32)
    notes = LossNotes(NO_CELLS)
    absent = set(range(n)) - {z - first for z in run}
    blank: list[int] = []
    for done, z in enumerate(run, start=1):
        try:
            membrane[z - first] = masked(*work._read(z))
        except (OSError, ValueError) as e:
            damaged[z] = str(e)
            absent.add(z - first)
            yield from notes.add(z, str(e))
        else:
            if np.isnan(membrane[z - first]).all():
                absent.add(z - first)
                if z not in work.excluded:
                    blank.append(z)
        yield Progress("probabilities", done, len(run))
    yield from notes.rest()
    if blank:
        yield Note(describe_blank(blank))
    affinities = work.affinities and work.affinities.starting(first)
    said = work.said(run)
    if work.through == "graph":
        return (
            yield from iter_segment_graph(
                membrane,
                work.settings,
                absent=absent,
                classifier=work.classifier or default_classifier(),
                affinities=affinities,
                constraints=said,
            )
        )
    _bridge(membrane, sorted(absent))
    return (
        yield from iter_segment_volume(
            membrane,
            work.settings,
            absent=absent,
            affinities=affinities,
            constraints=said,
        )
    )


def describe_blank(sections: Sequence[int]) -> str:
    """Say that sections have no picture, and so no cells."""
    named = ", ".join(map(str, sections[:8])) + ", …" * (len(sections) > 8)
    one = len(sections) == 1
    return (
        f"section{'' if one else 's'} {named} {'has' if one else 'have'} no "
        "probabilities (NaN, or one value everywhere): no cells there; gaps of up to "
        f"{BRIDGE} sections are bridged"
    )


def _bridge(membrane: NDArray[np.float32], absent: Sequence[int]) -> None:
    """Fill short gaps between good sections by what lies between these, linearly.

    Longer gaps, and those at the ends, have no picture.
    """
    membrane[list(absent)] = np.nan
    for z, (before, after) in bridges(len(membrane), absent).items():
        membrane[z] = between(z, before, after, membrane[before], membrane[after])


def bridges(n: int, absent: Collection[int]) -> dict[int, tuple[int, int]]:
    """Return the good sections around each one of `n` that is bridged in 3-D."""
    good = sorted({*range(n)} - {*absent})
    return {
        z: (before, after)
        for before, after in pairwise(good)
        if after - before <= BRIDGE + 1
        for z in range(before + 1, after)
    }


def between(
    z: int,
    before: int,
    after: int,
    one: NDArray[np.float32],
    other: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return what stands in for section `z`, linearly from those around it."""
    share = np.float32((z - before) / (after - before))
    found: NDArray[np.float32] = (1 - share) * one + share * other
    return found


def _linked(
    work: _Work, sink: SectionSink | None, first_id: int
) -> Generator[Record, None, CellsResult]:
    """Find the cells of each section, then link them on their way to the sink."""
    # Ids are known when the last section has been seen. Until then profiles wait on
    # disk, or in the array that is returned, which linking overwrites in place.
    where = ArraySink(work.shape, np.dtype(np.uint32))
    if sink is not None:
        where.data = scratch(work.shape)
    found = yield from _as_progress(work.run(where, first_id))
    drawn = work.drawn
    linking = link_stack(
        where.data,
        settings=work.settings,
        sink=sink or where,
        first_id=first_id,
        drawn=drawn and (lambda place: drawn(found.sections[place])),
    )
    while True:
        try:
            record = next(linking)
        except StopIteration as stop:
            result: LinkResult = stop.value
            cells = where.data if sink is None else None
            return replace(found, cells=cells, linked=result.count)
        if isinstance(record, SectionDone):
            # `link_stack` counts from 0 what may be any sections of the stack
            record = replace(record, z=found.sections[record.z])
        yield record


def _as_progress(
    work: Generator[Record, None, CellsResult],
) -> Generator[Record, None, CellsResult]:
    """Tell of sections that are not in the sink yet."""
    while True:
        try:
            record = next(work)
        except StopIteration as stop:
            result: CellsResult = stop.value
            return result
        if isinstance(record, SectionDone):
            record = Progress("cells", record.done, record.total)
        yield record


def _offset(cells: NDArray[np.uint32], offset: int) -> NDArray[np.uint32]:
    last = offset + int(cells.max())
    if last > LARGEST_ID:
        msg = f"more cells than ids: {last} is above {LARGEST_ID}"
        raise ValueError(msg)
    return np.where(cells > 0, cells + np.uint32(offset), np.uint32(0))
