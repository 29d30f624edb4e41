"""Batches run to their end, their results, and tables of cells made without one."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from napari_emseg.batch import BatchConfig, Summary, run_batch
from napari_emseg.core.records import Record, drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.io import open_stack
from napari_emseg.proofreading import cells_table
from napari_emseg.proofreading.table import write_table

CPU = PredictSettings(device="cpu", runtime="torch", threads=1, invert="no")


def run(job: BatchConfig, records: list[Record] | None = None) -> Summary:
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


def assert_same(found: Sequence[Path], expected: Sequence[Path | np.ndarray]) -> None:
    """Compare results pixel by pixel."""
    for one, other in zip(found, expected, strict=True):
        wanted = values(other) if isinstance(other, Path) else other
        np.testing.assert_array_equal(values(one), wanted)


def lines(path: Path) -> list[dict[str, str]]:
    """All rows of a table."""
    return list(csv.DictReader(path.read_text().splitlines()))


def plain(outputs: tuple[Path, ...], path: Path, *, linked: bool) -> list[dict]:
    """Measure results in memory, in one piece."""
    membrane = values(outputs[0]).astype(np.float32) / np.float32(255)
    rows = drain(cells_table(values(outputs[1]), membrane, linked=linked))
    return lines(write_table(path, rows, voxel_size_nm=(50, 4, 4)))
