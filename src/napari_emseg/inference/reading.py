"""Tiles in, windows of grey values out, read ahead of the network."""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_emseg.inference.plan import RunPlan, TileTask
from napari_emseg.inference.sections import Section, SectionReader


@dataclass(frozen=True, slots=True, eq=False)
class TileRead:
    """A task and its window `(context, y, x)`."""

    task: TileTask
    window: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SectionSkipped:
    """A section without result: damaged (it can't be read) or blank."""

    z: int
    reason: str
    damaged: bool
    tiles: int
    """Tiles that will not come."""


def read_tiles(
    plan: RunPlan, reader: SectionReader, *, make_room: Callable[[], None]
) -> Generator[TileRead | SectionSkipped, None, None]:
    """Yield the windows of all sections in their order.

    Parameters
    ----------
    make_room
        Gives memory back that is held only to be faster; called where a section finds
        none, before it is opened once more.
    """
    for z in plan.scope.sections:
        # limits may become less while this section is read: its
        # own tiles stay, and inference cuts them
        tiles = plan.take_section()
        left = len(tiles)
        try:
            section = _open(reader, z, make_room)
            if section.blank:
                yield SectionSkipped(z, "it is blank", damaged=False, tiles=left)
                continue
            for tile in tiles:
                task = TileTask(section, tiles, tile)
                read = TileRead(task, task.read())
                left -= 1
                yield read
        except (OSError, ValueError) as e:
            yield SectionSkipped(z, str(e), damaged=True, tiles=left)


def _open(reader: SectionReader, z: int, make_room: Callable[[], None]) -> Section:
    try:
        return reader.open(z)
    except MemoryError:
        make_room()
        return reader.open(z)


T = TypeVar("T")

_END: Final = object()


def prefetch(
    source: Generator[T, None, None], *, items: int = 1, name: str = "emseg-ahead"
) -> Generator[T, None, None]:
    """Yield from `source`, which runs up to `items` items ahead in its own thread.

    `source` is only ever touched by that thread. Errors come out where their item would
    have come; closing this generator closes `source` and ends the thread.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix=name)
    pending: deque[Future[T | object]] = deque()
    try:
        while True:
            # one more than `items`, since the first is waited for. A pool of one thread
            # runs them in order, so `next` is never called twice at once.
            while len(pending) <= items:
                pending.append(pool.submit(next, source, _END))
            item = pending.popleft().result()
            if item is _END:
                return
            yield item  # type: ignore[misc]
    finally:
        for future in pending:
            future.cancel()
        # by the same thread, after what runs there: a
        # generator can't be closed while it runs
        pool.submit(source.close)
        pool.shutdown(wait=True)
