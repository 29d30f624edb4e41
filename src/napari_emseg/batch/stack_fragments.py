"""Fragments of a stack, and which of them are one cell, part by part.

A volume that is held in memory is one task, and a larger one a task for each block;
one graph over the stack is a task for each few sections, and what they find is joined
in one task. All are cut where `segment_stack` holds nothing of what came before.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.batch import stores, worker
from napari_emseg.batch.blockwise import from_table, to_table
from napari_emseg.batch.completion_log import Facts
from napari_emseg.batch.context import EMPTY, PLACES, Context, affinity_array
from napari_emseg.batch.inputs import ProjectOverlay
from napari_emseg.batch.membranes import as_float, probabilities
from napari_emseg.core.records import drain
from napari_emseg.core.regions import Constraint
from napari_emseg.segmentation import volume
from napari_emseg.segmentation.affinities import Affinities, Faces
from napari_emseg.segmentation.blocks import BEYOND, Area, BlockTables, find_block
from napari_emseg.segmentation.constraints import NodeConstraints
from napari_emseg.segmentation.edge_classifier import default_classifier
from napari_emseg.segmentation.edge_features import SectionGraph
from napari_emseg.segmentation.fragments import joined
from napari_emseg.segmentation.linker import BRIDGE
from napari_emseg.segmentation.rag import RegionGraph
from napari_emseg.segmentation.stack import between, bridges
from napari_emseg.segmentation.stack_graph import (
    Between,
    Odds,
    StackGraph,
    faces_of,
    in_one_graph,
)
from napari_emseg.segmentation.volume import VolumeReader, iter_segment_volume

FAR = np.uint32(2**31)
"""Marks pixels of stored fragments that no cell reaches."""

GRAPH = tuple(RegionGraph.__dataclass_fields__)


class StackProbabilities:
    """Probabilities `(z, y, x)` of the stack, NaN where there is no picture.

    Parameters
    ----------
    absent
        Places without a picture; what lies around stands in for a few in a row.
    bridged
        Whether it does so.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self, context: Context, absent: Collection[int], *, bridged: bool
    ) -> None:
        self._context = context
        self._absent = frozenset(absent)
        self._empty = context.array(EMPTY)
        self._bridges = bridges(len(context.sections), absent) if bridged else {}
        self.shape = context.size

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        """Return a section `(y, x)`, or what lies in three slices."""
        if not isinstance(key, tuple):
            height, width = self._context.shape
            return self._section(int(key), (slice(0, height), slice(0, width)))
        z, *area = key
        each = [self._section(place, tuple(area)) for place in range(z.start, z.stop)]
        return np.stack(each)

    def _section(self, place: int, area: Area) -> NDArray[np.float32]:
        if place in self._bridges:
            before, after = self._bridges[place]
            one, other = (self._section(at, area) for at in (before, after))
            return between(place, before, after, one, other)
        if place in self._absent:
            return np.full([a.stop - a.start for a in area], np.nan, np.float32)
        c = self._context
        values = as_float(probabilities(c, place, (area[0], area[1])))
        hidden = np.asarray(self._empty[place, area[0], area[1]])
        return np.where(hidden, np.float32(np.nan), values)


@dataclass(frozen=True, slots=True)
class SegmentVolume:
    """Find the cells of a volume that is worked on in one piece."""

    context: Context
    absent: tuple[int, ...]

    def run(self) -> Facts:
        """Find and store them."""
        c = self.context
        seen = StackProbabilities(c, self.absent, bridged=True)
        with worker.volume_lock():
            cells = drain(
                iter_segment_volume(
                    seen[tuple(slice(0, n) for n in c.size)],
                    c.cell_settings,
                    absent=self.absent,
                    affinities=affinities_of(c),
                    constraints=constraints_of(c),
                    whole=prod(c.size),
                )
            )
        out = c.array(PLACES)
        for place, section in enumerate(cells):
            out[place] = section
        return {}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return self.context.chunks(PLACES, range(len(self.context.sections)))


@dataclass(frozen=True, slots=True)
class FindVolumeBlock:
    """Find the fragments of a block of a volume."""

    context: Context
    absent: tuple[int, ...]
    corners: tuple[tuple[int, int], ...]

    def run(self) -> Facts:
        """Find and store them."""
        c, area = self.context, area_of(self.corners)
        seen = reader_of(c, self.absent)
        faces = seen.strengths(c.settings.cells.threshold)
        settings, margin = c.cell_settings, volume.MARGIN
        with worker.volume_lock():
            found = find_block(
                *(seen, c.size, area, settings), halo=margin, exact=False, faces=faces
            )
        # 4 bytes for each voxel, and plain, so that a section of it is read alone
        names, labels = np.unique(found.places, return_inverse=True)
        labels = labels.reshape(found.places.shape).astype(np.uint32)
        stores.keep_array(labels_of(c, self.corners), labels)
        table = to_table(found)
        table["names"] = names
        stores.keep(table_of(c, self.corners), table)
        return {}

    def files(self) -> list[Path]:
        """Return what it has written."""
        c = self.context
        return [table_of(c, self.corners), labels_of(c, self.corners)]


@dataclass(frozen=True, slots=True)
class JoinVolume:
    """Decide which fragments of a volume are one cell, from all of its blocks."""

    context: Context

    def run(self) -> Facts:
        """Join and store."""
        c = self.context
        tables = BlockTables()
        for corners in volume_blocks(c):
            table = stores.read(table_of(c, corners))
            tables.add(from_table(area_of(corners), table))
        said = [
            (self._place(one.first), self._place(one.second), one.same)
            for one in constraints_of(c)
        ]
        cells = tables.join(c.cell_settings, said)
        joined: stores.Table = {"fragments": cells.fragments, "ids": cells.ids}
        stores.keep(c.table("joined"), joined)
        return {}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return [self.context.table("joined")]

    def _place(self, voxel: tuple[int, int, int]) -> int:
        """Return the place of the fragment at a voxel."""
        for corners in volume_blocks(self.context):
            if all(a <= at < b for at, (a, b) in zip(voxel, corners, strict=True)):
                inner = [at - a for at, (a, _) in zip(voxel, corners, strict=True)]
                labels = np.load(labels_of(self.context, corners), mmap_mode="r")
                names = stores.column(table_of(self.context, corners), "names")
                return int(names[labels[tuple(inner)]] & ~BEYOND)
        return 0


@dataclass(frozen=True, slots=True)
class MeasureEdges:
    """Find the fragments of some sections, and what their edges say.

    Parameters
    ----------
    places
        Of these sections, ascending.
    before, after
        The nearest ones with a picture, if there are any.
    """

    context: Context
    absent: tuple[int, ...]
    places: tuple[int, ...]
    before: int | None
    after: int | None

    def run(self) -> Facts:
        """Find, measure and store."""
        c = self.context
        ends = [[p] if p is not None else [] for p in (self.before, self.after)]
        looked_at = [*ends[0], *self.places, *ends[1]]
        classifier = default_classifier() if c.edges is None else worker.edges(c.edges)
        graph = StackGraph(classifier, c.settings.cells.shift)
        seen = StackProbabilities(c, self.absent, bridged=False)
        said, far = affinities_of(c), -len(c.sections)
        for place, last in zip(looked_at, [far, *looked_at], strict=False):
            faces = faces_of(said, last, place)
            section = self._find(seen[place], place, faces)
            graph.add(section, near=place - last <= BRIDGE + 1)
        self._keep(looked_at, *graph.parts())
        return {}

    def _find(
        self, membrane: NDArray[np.float32], place: int, faces: Faces | None
    ) -> SectionGraph:
        """Return what is known of a section; store its fragments."""
        settings = self.context.cell_settings
        exclude = np.isnan(membrane)
        values = np.where(exclude, np.float32(0), membrane)
        section = SectionGraph.of(values, settings.threshold, exclude, faces)
        if place in self.places:
            found = section.fragments
            far = np.where(found.reach > settings.grow, FAR, np.uint32(0))
            self.context.array(PLACES)[place] = found.labels | far
        return section

    def _keep(
        self,
        looked_at: Sequence[int],
        regions: Sequence[RegionGraph],
        within: Sequence[Odds],
        edges: Sequence[Between],
    ) -> None:
        table: stores.Table = {}
        for place in self.places:
            nth = looked_at.index(place)
            table |= {f"{place}-{k}": getattr(regions[nth], k) for k in GRAPH}
            table[f"{place}-within"] = within[nth]
            for _, at, ends, odds in edges:
                if at == nth:
                    table |= {f"{place}-ends": ends, f"{place}-odds": odds}
        stores.keep(edges_table(self.context, self.places), table)

    def files(self) -> list[Path]:
        """Return what it has written."""
        c = self.context
        return [*c.chunks(PLACES, self.places), edges_table(c, self.places)]


@dataclass(frozen=True, slots=True)
class JoinStack:
    """Decide which fragments of all sections are one cell.

    Parameters
    ----------
    runs
        Places with a picture, as they were measured.
    """

    context: Context
    runs: tuple[tuple[int, ...], ...]

    def run(self) -> Facts:
        """Join and store."""
        c = self.context
        regions: list[RegionGraph] = []
        within: list[Odds] = []
        edges: list[Between] = []
        for run in self.runs:
            table = stores.read(edges_table(c, run))
            for place in run:
                at = len(regions)
                if f"{place}-ends" in table:
                    ends, odds = (table[f"{place}-{k}"] for k in ("ends", "odds"))
                    edges.append((at - 1, at, ends, odds))
                regions.append(RegionGraph(*(table[f"{place}-{k}"] for k in GRAPH)))
                within.append(table[f"{place}-within"])
        nodes, first = in_one_graph(regions, within, edges)
        ids = joined(nodes, c.cell_settings, said=self._said(first))
        there = np.array([place for run in self.runs for place in run], np.int64)
        stores.keep(c.table("joined"), {"ids": ids, "first": first, "there": there})
        return {}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return [self.context.table("joined")]

    def _said(self, first: NDArray[np.int64]) -> NodeConstraints | None:
        there = [place for run in self.runs for place in run]
        labels = self.context.array(PLACES)

        def node(voxel: tuple[int, int, int]) -> int:
            label = int(np.asarray(labels[voxel])) & ~int(FAR)
            if not label or voxel[0] not in there:
                return 0
            return label + int(first[there.index(voxel[0])])

        said = constraints_of(self.context)
        pairs = [(node(each.first), node(each.second), each.same) for each in said]
        return NodeConstraints.of(pairs)


def volume_blocks(c: Context) -> list[tuple[tuple[int, int], ...]]:
    """Return first and last voxels along each axis of the blocks of a volume."""
    areas = volume.block_areas(c.size, volume.BLOCK)
    return [tuple((part.start, part.stop) for part in area) for area in areas]


def area_of(corners: tuple[tuple[int, int], ...]) -> Area:
    """Return the slices of a block."""
    return tuple(slice(*ends) for ends in corners)


def reader_of(c: Context, absent: Sequence[int]) -> VolumeReader:
    """Return what reads membranes, and affinities beside, of parts of a stack."""
    bridged = c.through == "3-d"
    seen = StackProbabilities(c, absent, bridged=bridged)
    return VolumeReader(seen, affinities_of(c), absent)


def affinities_of(c: Context) -> Affinities | None:
    """Return the affinities that were stored, if there are any."""
    if not c.affinities:
        return None
    arrays = {name: c.array(affinity_array(name)) for name in c.affinities}
    return Affinities.named(arrays, c.size)


def constraints_of(c: Context) -> list[Constraint]:
    """Return what a person said of the sections that are asked for."""
    hand: ProjectOverlay | None = worker.opened(c.given).hand
    if hand is None:
        return []
    first, stop = c.sections[0], c.sections[-1] + 1
    within = (
        said.within((first, 0, 0), (stop, *c.shape))
        for said in hand.project.constraints
    )
    return [said for said in within if said is not None]


def labels_of(c: Context, corners: tuple[tuple[int, int], ...]) -> Path:
    """Return the file of a block's fragments."""
    return table_of(c, corners).with_suffix(".npy")


def table_of(c: Context, corners: tuple[tuple[int, int], ...]) -> Path:
    """Return the file of what was measured of a block."""
    return c.table("block-" + "-".join(str(first) for first, _ in corners))


def edges_table(c: Context, places: Sequence[int]) -> Path:
    """Return the file of the edges of some sections."""
    return c.table(f"edges-{places[0]}")
