"""What it means for a batch that sections of a file can't be read in parts."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from batching import run

from napari_emseg.batch import estimate_batch, plan_batch

SIDE = 1100


@pytest.fixture
def plan(make_job, tmp_path):
    """Plan one large section, in a TIFF that is written as asked."""

    def plan(**options):
        path = tmp_path / "big.tif"
        values = np.random.default_rng(0).integers(0, 255, (1, SIDE, SIDE), np.uint8)
        tifffile.imwrite(path, values, photometric="minisblack", **options)
        job = make_job(str(path), whole=512, block=1024, steps=("membranes",))
        return job, plan_batch(job)

    return plan


def test_a_section_in_one_piece_counts_and_is_told(plan) -> None:
    tiled = estimate_batch(plan(tile=(256, 256), compression="zlib")[1])
    job, whole = plan(rowsperstrip=SIDE, compression="zlib")
    found = estimate_batch(whole)
    assert tiled.notes == ()
    assert found.memory_bytes - tiled.memory_bytes > 2 * SIDE**2
    assert "emseg export" in found.notes[0]
    assert "big.tif" in found.notes[0]
    summary = run(job)
    assert summary.ok
    assert "one piece" in summary.rows[0].warnings[0]
