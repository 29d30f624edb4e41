"""What a batch will take, said before it: sections, time, disk, memory."""

import errno
import os
import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path
from time import perf_counter

import numpy as np

from napari_emseg.batch.context import Context, advice, parts, piece_bytes
from napari_emseg.batch.planning import Plan
from napari_emseg.batch.step import steps_of
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.inference.estimate import RunEstimate, estimate
from napari_emseg.models.weights import Weights

SIDE = 384
"""Of the drawing, px."""


def seconds_per_pixel(context: Context) -> float:
    """Return what all steps that are wanted take, but for the network."""
    from napari_emseg.sample import synthetic

    cells = synthetic((2, SIDE, SIDE), seed=0)[1]
    membrane = np.asarray(cells == 0, np.float32)
    steps = steps_of(context.settings)
    trials = [step.trial(cells, membrane, context) for step in steps]
    works = [trial for trial in trials if trial is not None]
    for work in works:
        work()  # compiles, and loads what is loaded on first use
    start = perf_counter()
    for work in works:
        work()
    return (perf_counter() - start) / SIDE**2 if works else 0.0


BASE_BYTES = 600_000_000
"""Of a worker with PyTorch and a small network that does nothing."""


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
    # those whose cells are found alike take as long
    alike = {context.through: context for context in known}
    of_pixel = {
        way: seconds_per_pixel(context) if timed else 0.0
        for way, context in alike.items()
    }
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
        if seconds is not None:
            seconds += of_pixel[context.through] * prod(context.size)
        for step in steps_of(settings):
            usual, widest = step.memory(context, _threads(plan, context))
            memory, most = max(memory, usual), max(most, widest)
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
            f"{_size(estimate_batch.disk_bytes)}, {_size(free)} are left"
        )
        raise OSError(errno.ENOSPC, msg)


def _predicting(
    c: Context, stack: Stack, weights: Weights | None, settings: PredictSettings
) -> tuple[float, RunEstimate] | None:
    """Return how often the first part makes all of an input, and what it takes."""
    if weights is None:
        return None
    if settings.views == 3:
        of_all = estimate(stack, weights, settings=settings, sections=c.sections)
        return 1.0, of_all
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


def _threads(plan: Plan, c: Context) -> int:
    """Return how many parts a worker finds cells in at once."""
    where = plan.job.where
    if where.workers is not None or where.scheduler is not None:
        return 1
    return min(os.cpu_count() or 1, len(parts(len(c.sections), c.shape, c.settings)))


def _disk(c: Context) -> float:
    each = sum(step.disk(c) for step in steps_of(c.settings))
    copies = (c.settings.output == "tiff") + len(c.settings.export)
    return prod(c.size) * each * (1 + copies)


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
