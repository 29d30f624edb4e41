"""Batches run to their end, and their results."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_emseg.batch import Job, Summary, run_batch
from napari_emseg.core.records import Record
from napari_emseg.core.settings import PredictSettings
from napari_emseg.io import open_stack

CPU = PredictSettings(device="cpu", runtime="torch", threads=1, invert="no")


def run(job: Job, records: list[Record] | None = None) -> Summary:
    """Run a batch to its end."""
    work = run_batch(job)
    while True:
        try:
            record = next(work)
        except StopIteration as end:
            return end.value
        if records is not None:
            records.append(record)


def values(path: Path) -> np.ndarray:
    """All of a result."""
    return np.asarray(open_stack(path).data[:])
