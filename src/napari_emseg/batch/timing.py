"""How long the steps after the network take here, measured on a drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from napari_emseg.batch.settings import BatchSettings

SIDE = 384
"""Of the drawing, px."""

COMPARED = 3
"""Sections before it that a section is compared with, at the most."""


def seconds_per_pixel(settings: BatchSettings) -> float:
    """Return what finding cells takes, and the links and the table that are wanted."""
    steps = list(_steps(settings))
    for step in steps:
        step()  # compiles, and loads what is loaded on first use
    start = perf_counter()
    for step in steps:
        step()
    return (perf_counter() - start) / SIDE**2


def _steps(settings: BatchSettings) -> Iterator[Callable[[], object]]:
    """Yield each step on the drawing."""
    from napari_emseg.sample import synthetic

    drawn = synthetic((2, SIDE, SIDE), seed=0)[1]
    membrane = np.asarray(drawn == 0, np.float32)
    if "cells" in settings.steps:
        yield lambda: _cells(membrane[0])
    if "link" in settings.steps:
        yield lambda: _link(drawn[0], drawn[1])
    if settings.table:
        yield lambda: _table(drawn[0], membrane[0])


def _cells(membrane: NDArray[np.float32]) -> None:
    from napari_emseg.segmentation import segment_section

    segment_section(membrane)


def _link(before: NDArray[np.uint32], after: NDArray[np.uint32]) -> None:
    from napari_emseg.segmentation.overlap import best_overlap, overlap_of

    best_overlap(before, after, BatchSettings().cells.shift)
    for _ in range(1, COMPARED):
        overlap_of(before, after)


def _table(cells: NDArray[np.uint32], membrane: NDArray[np.float32]) -> None:
    from napari_emseg.proofreading.table import measured

    measured(
        cells,
        membrane,
        shape=(SIDE, SIDE),
        inner=(slice(0, SIDE), slice(0, SIDE)),
        origin=(0, 0),
    )
