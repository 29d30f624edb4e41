"""Three views of a stack of about isotropic voxels, each by the one loop over tiles.

A view along y or x is a stack, too: its planes `(z, x)` or `(z, y)` are read lazily
from the sections. Views are combined by *bands* of sections, so that memory doesn't
grow with their number. Bands lie on one grid of the whole stack, whatever is asked for,
and where tiles of a network are blended, bands are. So a part of the stack gets what
all of it would.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.intensity import GreyRange
from napari_emseg.core.padding import reading
from napari_emseg.core.records import TILES, Note, Record, TileDone, ViewProgress
from napari_emseg.core.regions import Area
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.sinks import ClosingSink, SectionSink
from napari_emseg.core.stack import Stack
from napari_emseg.core.tiles import Geometry, ImportanceMap, TilePlan, reach_of
from napari_emseg.inference.scope import PredictionScope
from napari_emseg.inference.sections import Section, SectionReader
from napari_emseg.segmentation.linking import scratch

BAND = 384
"""Network pixels of a band along z: with halos of 64 a third more is computed."""

STRIP_VOXELS = 2**25
"""So many grey values, as float32, are held for planes that are read together."""

IN_MEMORY = 2**27
"""Larger bands of results, as float32, are put together on disk."""


class BoxReader:
    """Normalised grey values of any box of a stack.

    In place of sections without a picture, which would be a stripe in planes along z,
    the nearest one is read.

    Parameters
    ----------
    reader
        Opens sections; its rule of normalisation holds in all views.
    excluded
        Sections that aren't to be looked at.
    """

    def __init__(
        self, stack: Stack, reader: SectionReader, excluded: Collection[int] = ()
    ) -> None:
        self._stack = stack
        self._reader = reader
        # by number: without grey values, which are read anew; None without a picture
        self._known: dict[int, Section | None] = dict.fromkeys(excluded)
        self._with_gaps: set[int] = set()

    def box(self, box: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        """Return grey values `(z, y, x)` of a box."""
        sections, rows, columns = box
        shape = tuple(part.stop - part.start for part in box)
        out = np.empty(shape, np.float32)
        for k, z in enumerate(range(sections.start, sections.stop)):
            out[k] = self._window(z, rows, columns)
        return out

    def clear(self, z: int, values: NDArray[np.float32], area: Area) -> None:
        """Set values `(c, y, x)` of an area to 0 where section `z` has no picture."""
        if z in self._with_gaps:
            self._reader.open_alone(z).clear(values, area)

    def _window(self, z: int, rows: slice, columns: slice) -> NDArray[np.float32]:
        while (section := self._nearest(z)) is not None:
            try:
                return section.window(rows, columns)
            except (OSError, ValueError):  # it could be opened, but not read to its end
                self._known[section.z] = None
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        return np.full(shape, 0.5, np.float32)

    def _nearest(self, z: int) -> Section | None:
        for away in range(self._stack.shape[0]):
            for at in (z - away, z + away):
                found = self._section(at) if 0 <= at < self._stack.shape[0] else None
                if found is not None:
                    return found
        return None

    def _section(self, z: int) -> Section | None:
        if z not in self._known:
            try:
                section = self._reader.open_alone(z)
            except (OSError, ValueError):
                self._known[z] = None
                return None
            if section.empty is not None:
                self._with_gaps.add(z)
            # nothing that is kept holds the section's pixels
            again = replace(section, read=_Again(self._stack, z), empty=None)
            self._known[z] = None if section.blank else again
        return self._known[z]


@dataclass(frozen=True, slots=True)
class _Again:
    """Reads an area of a section, which may be read as a whole for that."""

    stack: Stack
    z: int

    def __call__(self, area: Area) -> NDArray[Any]:
        return reading(self.stack, self.z, most=0)(*area)


class AxisView:
    """Planes of a volume along y or x: a lazy array `(plane, z, x)` or `(plane, z, y)`.

    Planes are read by strips, in their order.

    Parameters
    ----------
    axis
        1 for planes along y, 2 for planes along x.
    area
        Sections, and columns or rows, that are read of each plane.
    beside
        Planes on each side that are looked at with one.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self,
        volume: BoxReader,
        shape: tuple[int, ...],
        axis: int,
        area: Area,
        beside: int = 0,
    ) -> None:
        self._volume = volume
        self._axis = axis
        self._area = area
        self._beside = beside
        self.shape = shape
        self._first = -1
        self._strip: NDArray[np.float32] | None = None

    def __getitem__(self, key: tuple[int, slice, slice]) -> NDArray[np.float32]:
        """Return an area of a plane."""
        plane, *wanted = key
        inside = all(
            have.start <= part.start and part.stop <= have.stop
            for have, part in zip(self._area, wanted, strict=True)
        )
        if not inside:  # tiles became smaller, and reach elsewhere
            self._area = (
                _hull(self._area[0], wanted[0]),
                _hull(self._area[1], wanted[1]),
            )
            self._strip = None
        strip = self._strip
        if strip is None or not 0 <= plane - self._first < len(strip):
            self._strip = strip = None  # before the next one takes its place
            # asked for as the farthest beside another one, whose own are still needed
            self._first = max(0, plane - 2 * self._beside)
            self._strip = strip = self._read(self._first)
        rows, columns = (
            slice(part.start - have.start, part.stop - have.start)
            for have, part in zip(self._area, wanted, strict=True)
        )
        return strip[plane - self._first, rows, columns]

    def _read(self, plane: int) -> NDArray[np.float32]:
        """Return a strip of planes from `plane` on."""
        sections, across = self._area
        deep = STRIP_VOXELS // max(1, prod(p.stop - p.start for p in self._area))
        last = plane + max(1, deep) + 2 * self._beside
        planes = slice(plane, min(last, self.shape[0]))
        if self._axis == 1:
            return self._volume.box((sections, planes, across)).transpose(1, 0, 2)
        return self._volume.box((sections, across, planes)).transpose(2, 0, 1)


def _hull(a: slice, b: slice) -> slice:
    return slice(min(a.start, b.start), max(a.stop, b.stop))


class PlaneReader(SectionReader):
    """Opens planes, whose values are normalised already, with those beside them."""

    def __init__(self, view: AxisView, context: int = 1) -> None:
        super().__init__(Stack(view), Normalisation(), invert=False, context=context)
        self._view = view

    def open_alone(self, z: int) -> Section:
        """Return a plane, of which nothing is read yet."""
        return _Plane(
            z=z,
            grey=GreyRange(0, 1),
            invert=False,
            blank=False,
            read=lambda area: self._view[(z, *area)],
            empty=None,
        )


class _Plane(Section):
    def window(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Return grey values of an area."""
        return self.read((rows, columns))


@dataclass(frozen=True, slots=True)
class Band:
    """Sections that are worked on together.

    Parameters
    ----------
    core
        Of the band's grid.
    rows
        What is computed of planes: sections that are wanted, with those beyond the core
        in which the bands above and below are blended in.
    weights
        Of each of `rows`; those of all bands add up to 1.
    """

    core: slice
    rows: slice
    weights: NDArray[np.float32]


def bands_of(n: int, zoom: float, geometry: Geometry, wanted: slice) -> list[Band]:
    """Cut `n` sections into bands; return those in which wanted sections lie.

    Parameters
    ----------
    zoom
        Network pixels per section.
    """
    edges = band_edges(n, zoom)
    cores = [slice(a, b) for a, b in pairwise(edges)]
    shortest = min(core.stop - core.start for core in cores)
    reach = reach_of(geometry, zoom, shortest) if len(cores) > 1 else 0
    found = []
    for core in cores:
        first = core.start if core.start > 0 else None
        last = core.stop if core.stop < n else None
        rows = slice(
            max(wanted.start, core.start - (0 if first is None else reach)),
            min(wanted.stop, core.stop + (0 if last is None else reach)),
        )
        if rows.start < rows.stop:
            share = ImportanceMap(first, last, reach).weights(rows.start, rows.stop)
            found.append(Band(core, rows, share))
    return found


def band_edges(n: int, zoom: float) -> list[int]:
    """Return where bands of `n` sections begin, and the end of the last."""
    deep = max(1, round(BAND / zoom))
    edges = [*range(0, n, deep), n]
    if len(edges) > 2:
        # the last two share what is left, so that none is thin and none is deeper
        edges[-2] = (edges[-3] + n) // 2
    return edges


@dataclass(frozen=True, slots=True)
class Pass:
    """One view of one band; `axis` 0 are the sections themselves."""

    axis: int
    band: Band
    scope: PredictionScope
    area: tuple[int, int]
    """`(y, x)` of the region in source pixels."""


def passes_of(scope: PredictionScope, geometry: Geometry) -> list[Pass]:
    """Return what a run over three views consists of, band by band.

    Planes of the scopes are not there yet: their array takes no memory.
    """
    n, height, width = scope.stack.shape
    wanted = slice(min(scope.sections), max(scope.sections) + 1)
    found = []
    for band in bands_of(n, scope.zoom_z, geometry, wanted):
        core = range(band.core.start, band.core.stop)
        own = tuple(sorted(z for z in scope.sections if z in core))
        if own:
            found.append(Pass(0, band, replace(scope, sections=own), scope.shape))
        for axis, sizes in ((1, (height, width)), (2, (width, height))):
            channels = tuple(channel for _, channel in scope.turned[axis - 1])
            if not channels:  # affinities that only sections have
                continue
            planes, across = scope.roi[axis - 1], scope.roi[2 - axis]
            nothing = np.broadcast_to(np.float32(0), (sizes[0], n, sizes[1]))
            turned = replace(
                scope,
                stack=Stack(nothing, name=scope.stack.name),
                sections=tuple(range(planes.start, planes.stop)),
                roi=(band.rows, across),
                zoom=(scope.zoom_z, scope.zoom[2 - axis]),
                channels=channels,
                notes=(),
                band=None if geometry.exact else band.core,
            )
            found.append(Pass(axis, band, turned, scope.shape))
    return found


class Outcome(Protocol):
    """What is asked of the result of a pass."""

    @property
    def damaged(self) -> dict[int, str]:
        """Sections that can't be read, and why."""

    @property
    def blank(self) -> tuple[int, ...]:
        """Sections without a picture."""


@dataclass(frozen=True, slots=True, eq=False)
class SectionCombined(Record):
    """A section is whole: `values` `(c, y, x)`, None if it is `damaged`.

    `done` of `total` tiles of the whole run are finished.
    """

    z: int
    values: NDArray[np.float32] | None
    damaged: str
    blank: bool
    done: int
    total: int


RunPass = Callable[
    [PredictionScope, SectionSink, SectionReader | None],
    Generator[Record, None, Outcome],
]


class ViewsRun:
    """A run over three views.

    Parameters
    ----------
    plan
        How sections or planes of a scope are cut into tiles.
    run
        The loop over tiles, for one scope; without a reader it opens sections itself.
    """

    def __init__(
        self,
        scope: PredictionScope,
        geometry: Geometry,
        volume: BoxReader,
        plan: Callable[[PredictionScope], TilePlan],
        run: RunPass,
    ) -> None:
        self._scope = scope
        self._volume = volume
        self._run = run
        self._passes = passes_of(scope, geometry)
        self._plans = [plan(one.scope) for one in self._passes]
        self._tiles = [
            len(one.scope.sections) * len(tiles)
            for one, tiles in zip(self._passes, self._plans, strict=True)
        ]
        self._done = 0
        self._done_of = [0] * len(self._passes)
        self._told: set[str] = set()
        self._damaged: dict[int, str] = {}
        self._blank: set[int] = set()

    def records(self, told: Collection[str]) -> Generator[Record, None, None]:
        """Yield tiles as `ViewProgress`, notes, and sections in ascending order.

        Parameters
        ----------
        told
            Notes that were given already.
        """
        self._told |= set(told)
        bands = list({id(one.band): one.band for one in self._passes}.values())
        total: BandSum | None = None
        for band, below in zip(bands, [*bands[1:], None], strict=True):
            total = BandSum(self._scope, band, total)
            for nth, one in enumerate(self._passes):
                if one.band is band:
                    yield from self._follow(nth, one, total)
            stop = band.rows.stop if below is None else below.rows.start
            yield from self._finished(total, stop)

    def _follow(
        self, nth: int, one: Pass, total: BandSum
    ) -> Generator[Record, None, None]:
        """Run a pass, and tell how far all of them are."""
        scope, reader = one.scope, None
        if one.axis:
            view = self._view(one, self._plans[nth])
            scope = replace(scope, stack=Stack(view))
            reader = PlaneReader(view, scope.context)
        before = self._done
        work = self._run(scope, total.sink(one), reader)
        try:
            while True:
                record = next(work)
                if isinstance(record, TileDone):
                    self._tiles[nth] = record.total
                    self._done = before + record.done
                    self._done_of[nth] = record.done
                    yield ViewProgress(
                        *(TILES, self._done, sum(self._tiles), self._far(one.axis))
                    )
                elif isinstance(record, Note) and record.message not in self._told:
                    self._told.add(record.message)
                    yield record
        except StopIteration as stop:
            if one.axis == 0:
                self._damaged |= stop.value.damaged
                self._blank |= set(stop.value.blank)
        finally:
            work.close()

    def _far(self, axis: int) -> tuple[str, int, int]:
        """Say how far the view along an axis is, over all bands."""
        of = [nth for nth, one in enumerate(self._passes) if one.axis == axis]
        done = sum(self._done_of[nth] for nth in of)
        return "zyx"[axis], done, sum(self._tiles[nth] for nth in of)

    def _view(self, one: Pass, plan: TilePlan) -> AxisView:
        """Return the planes of a pass, of which no more is read than its tiles see."""
        seen = [
            tuple(
                slice(*axis.to_network(part.start, part.stop).span)
                for axis, part in zip(plan.axes, tile.window, strict=True)
            )
            for tile in plan
        ]
        rows, columns = (reduce(_hull, parts) for parts in zip(*seen, strict=True))
        shape = one.scope.stack.shape
        beside = one.scope.context // 2
        return AxisView(self._volume, shape, one.axis, (rows, columns), beside)

    def _finished(self, total: BandSum, stop: int) -> Generator[Record, None, None]:
        for z in sorted(self._scope.sections):
            if not total.first <= z < stop or z in total.given:
                continue
            total.given.add(z)
            values = None if z in self._damaged else total.section(z)
            if values is not None:
                values[:] *= z not in self._blank
                self._volume.clear(z, values, self._scope.roi)
            yield SectionCombined(
                *(z, values, self._damaged.get(z, ""), z in self._blank),
                *(self._done, sum(self._tiles)),
            )


class BandSum:
    """The mean of views of the sections of a band, as far as they are run.

    Parameters
    ----------
    before
        The band above, from which what both share is taken over.
    """

    def __init__(
        self, scope: PredictionScope, band: Band, before: BandSum | None
    ) -> None:
        self.first = band.rows.start
        self.given: set[int] = set()
        self._band = band
        self._turned = scope.turned
        # how many views say something of each channel
        self._views = np.ones(len(scope.channels), np.float32)
        for pairs in scope.turned:
            self._views[[place for place, _ in pairs]] += 1
        deep = band.rows.stop - band.rows.start
        shape = (len(scope.channels), deep, *scope.shape)
        in_memory = prod(shape) <= IN_MEMORY
        self._sum = (
            np.zeros(shape, np.float32) if in_memory else scratch(shape, np.float32)
        )
        if before is not None:
            shared = before.first + before._sum.shape[1] - self.first
            if shared > 0:
                self._sum[:, :shared] = before._sum[:, -shared:]
            self.given = before.given

    def section(self, z: int) -> NDArray[np.float32]:
        """Return a copy `(c, y, x)` of a section."""
        return np.array(self._sum[:, z - self.first])

    def sink(self, one: Pass) -> SectionSink:
        """Return what takes the results of a pass."""
        return _Adding(self._add_section if one.axis == 0 else self._add_plane, one)

    def _add_section(self, one: Pass, k: int, values: NDArray[Any]) -> None:
        total = self._sum[:, one.scope.sections[k] - self.first]
        total += values / self._views[:, None, None]

    def _add_plane(self, one: Pass, k: int, values: NDArray[Any]) -> None:
        for (place, _), said in zip(self._turned[one.axis - 1], values, strict=True):
            share = said * (self._band.weights[:, None] / self._views[place])
            total = self._sum[place]
            if one.axis == 1:
                total[:, k] += share
            else:
                total[:, :, k] += share


class _Adding(ClosingSink):
    """Hands what a pass gives to a sum."""

    def __init__(
        self, add: Callable[[Pass, int, NDArray[Any]], None], one: Pass
    ) -> None:
        self._add = add
        self._one = one
        self.shape = (len(one.scope.sections), *one.scope.shape)
        self.dtype = np.dtype(np.float32)

    def write(self, z: int, section: NDArray[Any]) -> None:
        """Add section or plane `z` of the pass, `(c, y, x)`."""
        self._add(self._one, z, section)

    def close(self) -> Path | None:
        """Do nothing: what came is added."""

    def abort(self, *, keep: bool = False) -> Path | None:
        """Do nothing: the sum goes with the run."""
