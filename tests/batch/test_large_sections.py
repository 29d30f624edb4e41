"""Sections in blocks give what whole sections give."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from batching import CPU, run, values

from napari_emseg.core.settings import CellSettings
from napari_emseg.io import save_stack
from napari_emseg.sample import synthetic


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Three sections of 1,300 × 1,100 px; a corner is padding."""
    stack, _ = synthetic((3, 325, 275), seed=2)
    em = np.kron(np.asarray(stack.data), np.ones((1, 4, 4), np.uint8))
    em[1, :200, :300] = 0
    path = tmp_path_factory.mktemp("large") / "large.zarr"
    return save_stack(path, em, voxel_size_nm=(50, 4, 4))


def test_blocks_are_as_the_whole(make_job, large) -> None:
    chosen = {
        "steps": ("membranes", "cells", "link"),
        "cells": CellSettings(minimum_size=50, threshold=0.45),
        "predict": CPU.model_copy(update={"tile": 512}),
    }
    whole = run(make_job(str(large), out="whole", **chosen))
    blocks = run(make_job(str(large), out="blocks", whole=512, block=1024, **chosen))
    assert whole.ok
    assert blocks.ok
    assert blocks.tasks > whole.tasks
    for one, other in zip(whole.rows[0].outputs, blocks.rows[0].outputs, strict=True):
        for level in ("0", "1"):
            a, b = (zarr.open_array(path / level, mode="r") for path in (one, other))
            np.testing.assert_array_equal(a[:], b[:])
    cells = values(whole.rows[0].outputs[1])
    assert len(np.unique(cells)) > 20
    assert not cells[1, :190, :290].any()
