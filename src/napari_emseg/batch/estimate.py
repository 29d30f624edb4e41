"""What a batch will take, said before it: sections, time, disk, memory."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from napari_emseg.batch.context import Context, parts
from napari_emseg.batch.planning import Plan
from napari_emseg.batch.settings import BatchSettings
from napari_emseg.batch.unchunked_inputs import advice, piece_bytes
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.inference.estimate import RunEstimate, estimate
from napari_emseg.models.weights import Weights
from napari_emseg.segmentation.blocks import HALO, WIDEST

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


CELL_BYTES = 40
"""Of memory for each pixel of a section, or of a block's window, while cells are found.

33 were seen for whole sections of 2,560², 31 for blocks.
"""

JOIN_BYTES = 1.5
"""Of memory for each pixel of a large section while its fragments are joined.

600 were seen for each fragment, of which 2,100 came on a million pixels.
"""

BASE_BYTES = 600_000_000
"""Of a worker with PyTorch and a small network that does nothing."""

COPIES = 4 / 3
"""All scale levels take so much more than the first."""

PACKED = {"uint8": 0.8, "float32": 0.95, "uint32": 0.1}
"""What compression leaves; seen were 0.5, 0.9 and 0.03 on EM of nerve tissue."""

SCRATCH = 0.15
"""Bytes for each pixel of what is removed at the end, in blocks of large sections."""


@dataclass(frozen=True, slots=True)
class BatchEstimate:
    """What a batch is expected to take.

    Parameters
    ----------
    seconds
        None where the network wasn't timed.
    disk_bytes
        At the most at one time.
    memory_bytes, most_bytes
        Of each worker; the second where cells are so wide that blocks need more.
    notes
        What would make it cheaper.
    """

    sections: int
    inputs: int
    seconds: float | None
    disk_bytes: int
    memory_bytes: int
    most_bytes: int
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """One line: `184 sections, about 41 min, 12 GB on disk, 1.3 GB …`."""
        said = [f"{self.sections} section{'s' * (self.sections != 1)}"]
        if self.seconds is not None:
            said.append(_time(self.seconds))
        said.append(f"{_size(self.disk_bytes)} on disk")
        memory = f"{self.memory_bytes / 1e9:.1f} GB of memory for each worker"
        if self.most_bytes > self.memory_bytes:
            memory += f" (up to {self.most_bytes / 1e9:.1f} GB where cells are wide)"
        return ", ".join([*said, memory])


def estimate_batch(plan: Plan, *, timed: bool = False) -> BatchEstimate:
    """Say what a plan will take.

    Parameters
    ----------
    timed
        Load the network and time it, if nobody knows how fast it is here.
    """
    weights, settings = plan.job.weights, plan.job.settings
    known = [p.context for p in plan.planned if p is not None]
    if timed and weights is not None:
        from napari_emseg.inference import Predictor

        Predictor(weights).measure(settings.predict)
    wants_cells = "cells" in settings.steps
    of_cells = seconds_per_pixel(settings) if timed and wants_cells else 0.0
    seconds: float | None = 0.0
    disk = memory = most = pieces = 0.0
    notes: list[str] = []
    for planned in (p for p in plan.planned if p is not None):
        context = planned.context
        run = _predicting(context, planned.stack, weights, settings.predict)
        if run is not None:
            share, one = run
            memory = max(memory, one.peak_bytes)
            own = None if one.seconds is None else one.seconds * share
            seconds = None if own is None or seconds is None else seconds + own
        if wants_cells:
            if seconds is not None:
                seconds += of_cells * prod(context.size)
            each = CELL_BYTES * _threads(plan, context)
            memory = max(memory, each * _window(context, HALO), _joining(context))
            most = max(most, each * _window(context, WIDEST))
        pieces = max(pieces, piece_bytes(context, planned.stack))
        notes += advice(context, planned.stack)
        disk += _disk(context)
    if seconds is not None:
        seconds = seconds / _at_once(plan) if timed else None
    return BatchEstimate(
        sum(len(c.sections) for c in known),
        len(known),
        seconds,
        int(disk),
        int(memory + pieces + BASE_BYTES),
        int(max(memory, most) + pieces + BASE_BYTES),
        tuple(notes),
    )


def refuse_if_full(estimate_batch: BatchEstimate, folder: Path) -> None:
    """Raise an OSError if the results won't fit on the disk."""
    free = shutil.disk_usage(folder).free
    if estimate_batch.disk_bytes > free:
        msg = (
            f"not enough space in {folder}: results need about "
            f"{estimate_batch.disk_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are left"
        )
        raise OSError(errno.ENOSPC, msg)


def _predicting(
    c: Context, stack: Stack, weights: Weights | None, settings: PredictSettings
) -> tuple[float, RunEstimate] | None:
    """Return how often the first part makes all of an input, and what it takes."""
    if weights is None:
        return None
    part = parts(len(c.sections), c.shape, c.settings)[0]
    of_part = estimate(
        stack,
        weights,
        settings=settings,
        sections=[c.sections[place] for place in range(part.first, part.stop)],
        roi=part.area,
    )
    height, width = (
        c.shape if part.area is None else (a.stop - a.start for a in part.area)
    )
    return prod(c.size) / ((part.stop - part.first) * height * width), of_part


def _window(c: Context, halo: int) -> int:
    """Return the pixels that finding cells holds at once."""
    if c.whole:
        return prod(c.shape)
    return prod(min(n, c.settings.block + 2 * halo) for n in c.shape)


def _joining(c: Context) -> float:
    return 0.0 if c.whole else JOIN_BYTES * prod(c.shape)


def _threads(plan: Plan, c: Context) -> int:
    """Return how many parts a worker finds cells in at once."""
    where = plan.job.where
    if where.workers is not None or where.scheduler is not None:
        return 1
    return min(os.cpu_count() or 1, len(parts(len(c.sections), c.shape, c.settings)))


def _disk(c: Context) -> float:
    pixels = prod(c.size)
    steps, stored = c.settings.steps, c.settings.probabilities
    each = 0.0
    if "membranes" in steps:
        each += {"uint8": 1, "float32": 4}[stored] * PACKED[stored] * COPIES
    if "cells" in steps:
        each += 4 * PACKED["uint32"] * COPIES + 4 * PACKED["uint32"]
        each += 0 if c.whole else SCRATCH * 8
    copies = (c.settings.output == "tiff") + len(c.settings.export)
    return pixels * each * (1 + copies)


def _at_once(plan: Plan) -> int:
    """Return how many parts are worked on together, the network's own threads aside."""
    return plan.job.where.workers or 1


def _size(n: int) -> str:
    return f"{n / 1e9:.2g} GB" if n >= 1e8 else f"{-(-n // 10**6)} MB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
