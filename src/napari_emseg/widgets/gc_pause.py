"""Garbage collections that would hold up the window, put off while work is on.

Python looks through all objects that there are when many were made, and nothing else
runs meanwhile: a third of a second in napari with PyTorch.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

SELDOM = 1000
"""Collections of younger objects between two of all, while work is on; else 10."""


@contextmanager
def no_collection() -> Iterator[None]:
    """Put garbage collection off while hundreds of thousands of objects are made."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # calls all of them old, as they are; else it would soon look through everything
        gc.freeze()
        gc.unfreeze()
        if was_on:
            gc.enable()


class RareFullGC:
    """Collects all objects seldom as long as any work is on; young ones as ever.

    What lives long and is garbage at last waits a little longer; a batch that runs for
    hours is collected all the same.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._at_work = 0
        self._before = gc.get_threshold()

    def __enter__(self) -> None:
        with self._lock:
            if self._at_work == 0:
                self._before = gc.get_threshold()
                gc.set_threshold(*self._before[:2], SELDOM)
            self._at_work += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._at_work -= 1
            if self._at_work == 0:
                gc.set_threshold(*self._before)


full_collections_are_seldom = RareFullGC()
"""Of the whole program, as the collector is."""
