"""Windows in, probabilities out; smaller windows when memory runs out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import Note
from napari_emseg.core.tiles import Tile, TilePlan, check_probabilities, read_tile
from napari_emseg.inference.estimate import Limits, lowered
from napari_emseg.inference.runtime import Runtime, is_device_lost, is_out_of_memory
from napari_emseg.inference.scope import PredictionScope
from napari_emseg.inference.sections import Section, SectionReader


@dataclass(frozen=True, slots=True, eq=False)
class TileTask:
    """A tile of a section; `parent` is the one that it was cut from, if it was."""

    section: Section
    plan: TilePlan
    tile: Tile
    parent: TileTask | None = None

    @property
    def whole(self) -> TileTask:
        """The tile of the run's own plan that this is, or is a part of."""
        return self if self.parent is None else self.parent.whole

    @property
    def share(self) -> Fraction:
        """Part of the section; all that are computed add up to 1."""
        # exact, so that the parts of a section add up to 1 and
        # its end is noticed; floats don't
        above = Fraction(1) if self.parent is None else self.parent.share
        return above / len(self.plan)

    @property
    def weights(self) -> NDArray[np.float32] | None:
        """Weight `(y, x)` of each pixel of the core; None if it has no overlap.

        Parts of a tile that overlap its neighbours share its weight.
        """
        own = self.tile.weights
        if self.parent is None or (above := self.parent.weights) is None:
            return own
        y, x = (
            slice(a.start - b.start, a.stop - b.start)
            for a, b in zip(self.tile.core, self.parent.tile.core, strict=True)
        )
        return above[y, x] if own is None else own * above[y, x]

    def read(self) -> NDArray[np.float32]:
        """Return the window `(y, x)` as the network sees it."""
        return read_tile(self.section.window, self.plan, self.tile)


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A task and its window, read ahead."""

    task: TileTask
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A task and the network's output `(n_classes, y, x)` for it."""

    task: TileTask
    output: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A section without result: damaged (it can't be read) or blank."""

    z: int
    reason: str
    damaged: bool
    tiles: int
    """Tiles that will not come."""


ENOUGH_PIXELS = 500 * 500
"""Of network input, before the time they took says something of longer runs."""

SHARE_TO_KEEP = 0.1
"""Of the free memory: a runtime may keep so much between runs."""


class Engine:
    """The two middle stages of a run, which share what memory allows.

    Parameters
    ----------
    fallbacks
        Each loads a runtime that needs less, and says what may be used there: the next
        is taken when there is too little memory for this one, or its device is lost.
    shapes
        Of batches that the runtime has had in other runs. The first of a shape takes
        several times as long: kernels are chosen, and memory is asked for.
    """

    def __init__(
        self,
        scope: PredictionScope,
        runtime: Runtime,
        limits: Limits,
        fallbacks: Sequence[Callable[[], tuple[Runtime, Limits]]],
        shapes: set[tuple[int, ...]] | None = None,
    ) -> None:
        self.runtime = runtime
        self.limits = limits
        self._scope = scope
        self._geometry = runtime.geometry
        self._fallbacks = deque(fallbacks)
        self._shapes = set() if shapes is None else shapes
        self._planned: tuple[Limits, TilePlan] | None = None
        # of batches that were the first of their shape, and of all others
        self._seconds = {True: 0.0, False: 0.0}
        self._pixels = {True: 0, False: 0}
        self._most_pixels = 0
        self._tiles_read = 0
        self._tiles_split = 0
        self._sections_read = 0

    @property
    def tiles(self) -> int:
        """Tiles of the whole run; grows when tiles are made smaller."""
        left = len(self._scope.sections) - self._sections_read
        each = len(self._plan()) if left else 0
        return self._tiles_read + self._tiles_split + left * each

    @property
    def ms_per_megapixel(self) -> float | None:
        """Measured so far, of network input; None if that was too little to tell.

        See `typical`.
        """
        first = not self.typical
        pixels = self._pixels[first]
        return self._seconds[first] * 1e9 / pixels if pixels > ENOUGH_PIXELS else None

    @property
    def typical(self) -> bool:
        """Whether the time is not of first windows of a shape, which take longer."""
        return self._pixels[False] > ENOUGH_PIXELS

    def release(self) -> None:
        """Let the runtime give back its buffers, unless they are hardly missed.

        To ask the system for them again takes as long as a third of the computation.
        """
        held = self._most_pixels * self.runtime.bytes_per_pixel
        if held > SHARE_TO_KEEP * self.runtime.free_memory():
            self.runtime.release()

    def _plan(self) -> TilePlan:
        limits = self.limits
        if self._planned is None or self._planned[0] != limits:
            self._planned = limits, limits.plan(self._scope, self._geometry)
        return self._planned[1]

    def read(self, reader: SectionReader) -> Generator[Ready | Skipped, None, None]:
        """Yield the windows of all sections in their order."""
        for z in self._scope.sections:
            plan = self._plan()
            # limits may become less while this section is read: its
            # own plan stays, and `_flush` cuts
            left = len(plan)
            self._tiles_read += left
            self._sections_read += 1
            try:
                section = self._open(reader, z)
                if section.blank:
                    yield Skipped(z, "it is blank", damaged=False, tiles=left)
                    continue
                for tile in plan:
                    task = TileTask(section, plan, tile)
                    ready = Ready(task, task.read())
                    left -= 1
                    yield ready
            except (OSError, ValueError) as e:
                yield Skipped(z, str(e), damaged=True, tiles=left)

    def _open(self, reader: SectionReader, z: int) -> Section:
        """Open a section; where memory is short, without what the runtime holds."""
        try:
            return reader.open(z)
        except MemoryError:
            self.runtime.release()
            return reader.open(z)

    def compute(
        self, items: Generator[Ready | Skipped, None, None]
    ) -> Generator[Piece | Skipped | Note, None, None]:
        """Run the network over windows, several of one shape at once.

        Closes `items` at its end.
        """
        waiting: list[Ready] = []
        with closing(items):
            for item in items:
                if isinstance(item, Skipped):
                    yield from self._flush(waiting)
                    yield item
                    continue
                # only windows of one shape can be stacked
                if waiting and waiting[0].values.shape != item.values.shape:
                    yield from self._flush(waiting)
                waiting.append(item)
                if len(waiting) >= self.limits.batch:
                    yield from self._flush(waiting)
            yield from self._flush(waiting)

    def _flush(self, waiting: list[Ready]) -> Iterator[Piece | Note]:
        """Compute all that waits; what fails for want of memory is made smaller."""
        # what was read ahead is used if its task is still
        # as it was; parts are read anew
        windows = {ready.task: ready.values for ready in waiting}
        left = self._cut(list(windows), set())
        waiting.clear()
        begun: set[TileTask] = set()
        while left:
            group = _alike(left, self.limits.batch)
            values = [windows.pop(t) if t in windows else t.read() for t in group]
            outputs, note = self._try(np.stack(values)[:, None])
            if outputs is None:
                yield Note(note)
                left = self._cut([*group, *left], begun)
                continue
            for task, output in zip(group, outputs, strict=True):
                check_probabilities(output, _place(task))
                begun.add(task.whole)
                yield Piece(task, output)

    def _cut(self, tasks: list[TileTask], begun: set[TileTask]) -> deque[TileTask]:
        """Cut tasks to the present limit, starting from whole ones where possible."""
        # A tile of which nothing has been given out is cut anew from the
        # whole, which leaves less halo than cutting its parts. Once a part
        # is out only the rest can be cut.
        whole = [t if t.whole in begun else t.whole for t in tasks]
        pieces = [
            piece for task in dict.fromkeys(whole) for piece in self._cut_one(task)
        ]
        self._tiles_split += len(pieces) - len(tasks)
        return deque(pieces)

    def _cut_one(self, task: TileTask) -> list[TileTask]:
        limit = self.limits.tile
        if limit is None or max(task.plan.window_shape) <= limit:
            return [task]
        shape, zoom = task.plan.shape, task.plan.zoom
        # still a plan of the whole section: halos reach beyond the core that
        # is cut, so results don't change
        part = TilePlan(shape, self._geometry, zoom, limit, task.tile.core)
        return [TileTask(task.section, part, tile, task) for tile in part]

    def _try(
        self, batch: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32] | None, str]:
        """Return the outputs; or None and what was done to make it work next time."""
        first = batch.shape not in self._shapes
        try:
            start = perf_counter()
            outputs = self.runtime(batch)
        # PyTorch and OpenVINO say a lack of memory as RuntimeError, told by its words
        except (MemoryError, RuntimeError, OSError) as e:
            lost = is_device_lost(e)
            if not lost and not is_out_of_memory(e):
                raise
            note = self._step_down(batch.shape, lost=lost)
            if note is None:
                msg = (
                    f"not enough memory for a window of {batch.shape[2:]} px (y, x) "
                    f"on {self.runtime.device}; close other programs or set a "
                    "smaller tile"
                )
                raise MemoryError(msg) from e
            return None, note
        self._shapes.add(batch.shape)
        self._seconds[first] += perf_counter() - start
        self._pixels[first] += batch.size
        self._most_pixels = max(self._most_pixels, batch.size)
        return outputs, ""

    def _step_down(self, shape: tuple[int, ...], *, lost: bool) -> str | None:
        n, _, y, x = shape
        device, name = self.runtime.device, self.runtime.name
        if not lost:
            self.runtime.release()
        limits = None if lost else lowered(self.limits, self._geometry, (y, x), n)
        if limits is not None:
            before, self.limits = self.limits, limits
            if limits.tile != before.tile:
                return (
                    f"out of memory on {device}: going on with tiles of "
                    f"{limits.tile} px instead of {max(y, x)}; finished tiles are kept"
                )
            return f"out of memory on {device}: going on with {limits.batch} at once"
        if not self._fallbacks:
            return None
        self.runtime, self.limits = self._fallbacks.popleft()()
        why = "the device stopped working" if lost else "out of memory"
        device = device if device != self.runtime.device else f"{device} ({name})"
        return (
            f"{why} on {device}: going on with {self.runtime.name} on "
            f"{self.runtime.device}; finished tiles are kept"
        )


def _place(task: TileTask) -> str:
    """Return where a task is, for a message."""
    rows, columns = task.tile.core
    return (
        f"in section {task.section.z}, rows {rows.start} to {rows.stop - 1}, columns "
        f"{columns.start} to {columns.stop - 1}"
    )


def _alike(left: deque[TileTask], most: int) -> list[TileTask]:
    """Take the first tasks of one window shape."""
    group = [left.popleft()]
    shape = group[0].plan.window_shape
    while left and len(group) < most and left[0].plan.window_shape == shape:
        group.append(left.popleft())
    return group
