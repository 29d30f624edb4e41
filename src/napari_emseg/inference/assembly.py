"""Pieces of sections in, whole sections out: to a sink, or into one array."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from fractions import Fraction
from math import prod
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.memory import free_ram
from napari_emseg.core.records import Note, Record, SectionDone, TileDone
from napari_emseg.core.sinks import SectionSink
from napari_emseg.core.tiles import core_of
from napari_emseg.inference.engine import Engine, TilePredicted
from napari_emseg.inference.plan import RunPlan
from napari_emseg.inference.reading import SectionSkipped, prefetch, read_tiles
from napari_emseg.inference.scope import PredictionScope
from napari_emseg.inference.sections import SectionReader
from napari_emseg.inference.views import SectionCombined
from napari_emseg.io.fingerprint import BLANK, LEFT_OUT, LossNotes


class Blend:
    """The mean of what tiles say of each pixel, by their weights, tile after tile.

    Where tiles are missing yet, it is the mean of those that are there.

    Parameters
    ----------
    channels, shape
        Of the section's result.
    values
        `(channels, y, x)`, to be filled in place; an array of its own if None.
    """

    def __init__(
        self,
        channels: int,
        shape: tuple[int, int],
        values: NDArray[np.float32] | None = None,
    ) -> None:
        if values is None:
            values = np.empty((channels, *shape), np.float32)
        values[:] = 0
        self._values = values
        self._weight = np.zeros(shape, np.float32)

    def add(
        self,
        area: tuple[slice, slice],
        values: NDArray[np.float32],
        weights: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Add a tile's values `(c, y, x)`; return a copy of the mean in its area."""
        total = self._weight[area]
        total += weights
        # a running mean, so that what is there is right at any time and can be shown;
        # at the end it is Σ w v / Σ w whatever the order of tiles
        mean = self._values[:, area[0], area[1]]
        # the first tile of a pixel is taken as it is: the quotient is 1
        mean += (values - mean) * (weights / total)
        return mean.copy()


class AsyncSectionWriter:
    """Writes sections to a sink in a thread, at most `waiting` behind.

    A context manager: leaving it writes what was handed over and ends the thread. An
    error of the sink is raised by the next call, as it is.
    """

    def __init__(self, sink: SectionSink | None, *, waiting: int = 2) -> None:
        self._sink = sink
        self._waiting = waiting
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="emseg-write")
        self._pending: deque[tuple[int, Future[None]]] = deque()

    def put(self, z: int, index: int, section: NDArray[np.float32]) -> None:
        """Hand over section `z`, the sink's `index`."""
        if self._sink is None:
            self.skip(z)
        else:
            write = self._pool.submit(self._sink.write, index, section)
            self._pending.append((z, write))

    def skip(self, z: int) -> None:
        """Let section `z` count as written when its turn comes."""
        nothing: Future[None] = Future()
        nothing.set_result(None)
        self._pending.append((z, nothing))

    def written(self, *, wait: bool = False) -> list[int]:
        """Return sections that were written since the last call.

        Waits for those that are too many to stay in memory; with `wait` for all.
        """
        out = []
        while self._pending:
            z, future = self._pending[0]
            if not (wait or future.done() or len(self._pending) > self._waiting):
                break
            self._pending.popleft()
            # raises the sink's error, in the order in which sections were handed over
            future.result()
            out.append(z)
        return out

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True)
        if kind is None or issubclass(kind, GeneratorExit):
            self.written(wait=True)


LARGE = 2**28
"""Bytes of a section's result; larger ones don't wait in memory to be written."""


class Assembly:
    """The last stage of a run.

    Parameters
    ----------
    sink
        Gets whole sections; None to collect an array if `keep`.
    squeeze
        Sections are `(y, x)` of the only channel, not `(c, y, x)`.
    """

    def __init__(
        self,
        scope: PredictionScope,
        sink: SectionSink | None,
        *,
        keep: bool,
        squeeze: bool,
    ) -> None:
        self._scope = scope
        self._sink = sink
        self._squeeze = squeeze
        self.sections = tuple(sorted(scope.sections))
        self.damaged: dict[int, str] = {}
        self.blank: list[int] = []
        self._all: NDArray[np.float32] | None = None
        if sink is None and keep:
            shape = (len(scope.channels), len(self.sections), *scope.shape)
            _refuse_to_thrash(4 * prod(shape))
            self._all = np.zeros(shape, np.float32)
        section_bytes = 4 * len(scope.channels) * prod(scope.shape)
        self._waiting = 2 if section_bytes < LARGE else 0
        # By section, while it is being put together: its result `(c, y, x)`, the part
        # of it that is missing (1 … 0), and sums of weights where tiles overlap.
        self._open: dict[int, NDArray[np.float32] | None] = {}
        self._missing: dict[int, Fraction] = {}
        self._blends: dict[int, Blend] = {}
        self._tiles = 0
        self._written = 0

    @property
    def kept_bytes(self) -> int:
        """Memory that the result will fill."""
        return 0 if self._all is None else self._all.nbytes

    @property
    def probabilities(self) -> NDArray[np.float32] | None:
        """`(z, y, x)` or `(c, z, y, x)`; None if not kept."""
        if self._all is None:
            return None
        return self._all[0] if self._squeeze else self._all

    def collect(
        self, items: Iterable[TilePredicted | SectionSkipped | Note], plan: RunPlan
    ) -> Generator[Record, None, None]:
        """Put pieces together; yield what happened."""
        notes = {True: LossNotes(LEFT_OUT), False: LossNotes(BLANK)}
        with AsyncSectionWriter(self._sink, waiting=self._waiting) as writer:
            for item in items:
                if isinstance(item, Note):
                    yield item
                elif isinstance(item, SectionSkipped):
                    yield from notes[item.damaged].add(item.z, item.reason)
                    yield self._skip(item, plan, writer)
                else:
                    yield self._add(item, plan, writer)
                yield from self._sections_done(writer.written())
            yield from self._sections_done(writer.written(wait=True))
        for each in notes.values():
            yield from each.rest()

    def collect_sections(
        self, items: Iterable[Record | SectionCombined]
    ) -> Generator[Record, None, None]:
        """Take sections that are whole already; yield what happened."""
        with AsyncSectionWriter(self._sink, waiting=self._waiting) as writer:
            for item in items:
                yield (
                    self._take(item, writer)
                    if isinstance(item, SectionCombined)
                    else item
                )
                yield from self._sections_done(writer.written())
            yield from self._sections_done(writer.written(wait=True))

    def _take(self, section: SectionCombined, writer: AsyncSectionWriter) -> TileDone:
        z, values = section.z, section.values
        canvas = self._canvas(z)
        if section.damaged:
            self.damaged[z] = section.damaged
        if section.blank:
            self.blank.append(z)
        if values is None:
            shape = (len(self._scope.channels), *self._scope.shape)
            values = np.zeros(shape, np.float32)
        if canvas is not None:
            canvas[:] = values
        self._finish(z, writer, write=not section.damaged)
        done, total = section.done, section.total
        damaged = bool(section.damaged)
        return TileDone(z, self._scope.roi, values, done, total, damaged)

    def _sections_done(self, sections: list[int]) -> Generator[Record, None, None]:
        for z in sections:
            self._written += 1
            yield SectionDone(z, self._written, len(self.sections))

    def _add(
        self, piece: TilePredicted, plan: RunPlan, writer: AsyncSectionWriter
    ) -> TileDone:
        task = piece.task
        z, core = task.section.z, task.tile.core
        output = piece.output[list(self._scope.channels)]
        # channels are chosen before resampling, padding is cleared after:
        # no 0 leaks into pixels beside it
        values = core_of(output, task.plan, task.tile)
        task.section.clear(values, core)
        values = self._place(z, core, values, task.weights)
        self._missing[z] -= task.share
        if self._missing[z] == 0:
            self._finish(z, writer)
        self._tiles += 1
        return TileDone(z, core, values, self._tiles, plan.tiles)

    def _place(
        self,
        z: int,
        core: tuple[slice, slice],
        values: NDArray[np.float32],
        weights: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        """Put values where they belong; return what is known there now."""
        rows, columns = self._scope.roi
        y = slice(core[0].start - rows.start, core[0].stop - rows.start)
        x = slice(core[1].start - columns.start, core[1].stop - columns.start)
        canvas = self._canvas(z)
        if weights is not None:
            if z not in self._blends:
                channels = len(self._scope.channels)
                self._blends[z] = Blend(channels, self._scope.shape, canvas)
            return self._blends[z].add((y, x), values, weights)
        if canvas is not None:
            canvas[:, y, x] = values
        return values

    def _skip(
        self, skipped: SectionSkipped, plan: RunPlan, writer: AsyncSectionWriter
    ) -> TileDone:
        """Give a section probability 0; a damaged one is left out of the sink."""
        canvas = self._canvas(skipped.z)
        if canvas is not None:
            canvas[:] = 0
        if skipped.damaged:
            self.damaged[skipped.z] = skipped.reason
        else:
            self.blank.append(skipped.z)
        self._finish(skipped.z, writer, write=not skipped.damaged)
        self._tiles += skipped.tiles
        shape = (len(self._scope.channels), *self._scope.shape)
        # one number seen as a section; listeners only read it
        zeros = np.broadcast_to(np.float32(0), shape)
        tiles = self._tiles, plan.tiles
        return TileDone(skipped.z, self._scope.roi, zeros, *tiles, skipped.damaged)

    def _canvas(self, z: int) -> NDArray[np.float32] | None:
        """Return where section `z` is put together, `(c, y, x)`."""
        if z not in self._missing:
            self._missing[z] = Fraction(1)
            shape = (len(self._scope.channels), *self._scope.shape)
            if self._all is not None:
                # a view: sections are put together where they stay
                self._open[z] = self._all[:, self.sections.index(z)]
            else:
                self._open[z] = (
                    None if self._sink is None else np.empty(shape, np.float32)
                )
        return self._open[z]

    def _finish(
        self, z: int, writer: AsyncSectionWriter, *, write: bool = True
    ) -> None:
        canvas = self._open.pop(z)
        self._blends.pop(z, None)
        del self._missing[z]
        if canvas is None or not write:
            writer.skip(z)
            return
        section = canvas[0] if self._squeeze else canvas
        writer.put(z, self.sections.index(z), section)


def _refuse_to_thrash(needed: int) -> None:
    free = free_ram()
    if needed > free:
        msg = (
            f"the result needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB "
            "are free; write it to a file section by section (with a sink, or by "
            "`emseg predict`), or take fewer sections"
        )
        raise MemoryError(msg)


def iter_tiles(
    plan: RunPlan,
    reader: SectionReader,
    engine: Engine,
    assembly: Assembly,
    *,
    ahead: bool = True,
) -> Generator[Record, None, None]:
    """Read, infer and assemble the tiles of a plan: the one loop over tiles there is.

    Parameters
    ----------
    ahead
        Read and infer in threads of their own, each a step ahead. For pictures that are
        in memory that isn't worth the threads.
    """
    read = read_tiles(plan, reader, make_room=engine.make_room)
    read = prefetch(read, name="emseg-read") if ahead else read
    predicted = engine.infer(read)
    predicted = prefetch(predicted, name="emseg-compute") if ahead else predicted
    # closing the outer generator closes the inner ones, so no thread outlives a run
    with closing(predicted) as tiles:
        yield from assembly.collect(tiles, plan)
