"""Two threads that let reading, computing and writing overlap in time."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.sinks import SectionSink

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
            while len(pending) <= items:
                pending.append(pool.submit(next, source, _END))
            item = pending.popleft().result()
            if item is _END:
                return
            yield item  # type: ignore[misc]
    finally:
        for future in pending:
            future.cancel()
        pool.submit(source.close)
        pool.shutdown(wait=True)


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
            future.result()
            out.append(z)
        return out

    def __enter__(self) -> AsyncSectionWriter:
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
