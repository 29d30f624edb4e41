"""Windows in, probabilities out; smaller windows when memory runs out."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import Note
from napari_emseg.core.tiles import check_probabilities
from napari_emseg.inference.plan import RunPlan, TileTask
from napari_emseg.inference.reading import SectionSkipped, TileRead
from napari_emseg.inference.runtime import Runtime, is_device_lost, is_out_of_memory


@dataclass(frozen=True, slots=True, eq=False)
class TilePredicted:
    """A task and the network's output `(n_classes, y, x)` for it."""

    task: TileTask
    output: NDArray[np.float32]


ENOUGH_PIXELS = 500 * 500
"""Of network input, before the time they took says something of longer runs."""

SHARE_TO_KEEP = 0.1
"""Of the free memory: a runtime may keep so much between runs."""


class Engine:
    """Runs the network over the windows of one plan.

    Parameters
    ----------
    runtime
        The one that the plan fits.
    others
        Need less: the next is loaded when there is too little memory for this one, or
        its device is lost.
    shapes
        Of batches that the runtime has had in other runs. The first of a shape takes
        several times as long: kernels are chosen, and memory is asked for.
    """

    def __init__(
        self,
        plan: RunPlan,
        runtime: Runtime,
        others: Iterable[Runtime] = (),
        shapes: set[tuple[int, ...]] | None = None,
    ) -> None:
        self.runtime = runtime
        self._plan = plan
        self._others = iter(others)
        self._shapes = set() if shapes is None else shapes
        # of batches that were the first of their shape, and of all others
        self._seconds = {True: 0.0, False: 0.0}
        self._pixels = {True: 0, False: 0}
        self._most_pixels = 0
        # in the order in which they were used, as a set
        self._precisions: dict[str, None] = {}

    @property
    def precision(self) -> str:
        """Arithmetic of what was computed so far; several if memory ran out."""
        return ", then ".join(self._precisions) or self.runtime.precision

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

    def make_room(self) -> None:
        """Let the runtime give back its buffers, whatever that takes later."""
        self.runtime.release()

    def release(self) -> None:
        """Let the runtime give back its buffers, unless they are hardly missed.

        To ask the system for them again takes as long as a third of the computation.
        """
        held = self._most_pixels * self.runtime.bytes_per_pixel
        if held > SHARE_TO_KEEP * self.runtime.free_memory():
            self.runtime.release()

    def infer(
        self, items: Generator[TileRead | SectionSkipped, None, None]
    ) -> Generator[TilePredicted | SectionSkipped | Note, None, None]:
        """Run the network over windows, several of one shape at once.

        Closes `items` at its end.
        """
        waiting: list[TileRead] = []
        with closing(items):
            for item in items:
                if isinstance(item, SectionSkipped):
                    yield from self._flush(waiting)
                    yield item
                    continue
                # only windows of one shape can be stacked
                if waiting and waiting[0].window.shape != item.window.shape:
                    yield from self._flush(waiting)
                waiting.append(item)
                if len(waiting) >= self._plan.limits.batch:
                    yield from self._flush(waiting)
            yield from self._flush(waiting)

    def _flush(self, waiting: list[TileRead]) -> Iterator[TilePredicted | Note]:
        """Compute all that waits; what fails for want of memory is made smaller."""
        # what was read ahead is used if its task is still
        # as it was; parts are read anew
        windows = {read.task: read.window for read in waiting}
        left = self._plan.cut(windows, set())
        waiting.clear()
        begun: set[TileTask] = set()
        while left:
            group = _alike(left, self._plan.limits.batch)
            values = [windows.pop(t) if t in windows else t.read() for t in group]
            outputs, note = self._try(np.stack(values))
            if outputs is None:
                yield Note(note)
                left = self._plan.cut([*group, *left], begun)
                continue
            for task, output in zip(group, outputs, strict=True):
                check_probabilities(output, _place(task))
                begun.add(task.whole)
                yield TilePredicted(task, output)

    def _try(
        self, batch: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32] | None, str]:
        """Return the outputs; or None and what was done to make it work next time."""
        first = batch.shape not in self._shapes
        try:
            start = perf_counter()
            outputs = self.runtime(batch)
            self._precisions[self.runtime.precision] = None
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
        pixels = batch[:, 0].size  # of the sections that are predicted
        self._pixels[first] += pixels
        self._most_pixels = max(self._most_pixels, pixels)
        return outputs, ""

    def _step_down(self, shape: tuple[int, ...], *, lost: bool) -> str | None:
        """Take less: smaller tiles, fewer at once, another runtime; say so."""
        n, _, y, x = shape
        device, name = self.runtime.device, self.runtime.name
        before = self.runtime.precision
        if not lost:
            self.runtime.release()
            less = self._plan.lower((y, x), n)
            if less is not None:
                return f"out of memory on {device}: {less}"
        other = next(self._others, None)
        if other is None:
            return None
        self._plan.fit(other)
        self.runtime = other
        why = "the device stopped working" if lost else "out of memory"
        device = device if device != other.device else f"{device} ({name})"
        # who asked for int8 must know that the rest is in float32
        now = "" if other.precision == before else f" in {other.precision}"
        return (
            f"{why} on {device}: going on with {other.name} on {other.device}{now}; "
            "finished tiles are kept"
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
