from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from thin import thin_weights

from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.inference import predict_stack
from napari_emseg.inference.region import RegionPredictor

AREA = Region(1, 8, 20, 60, 84)


def stack_of(seed: int) -> Stack:
    """Three sections of noise: one is blank, one has padding on its left."""
    grey = np.random.default_rng(seed).integers(60, 190, (3, 96, 112), np.uint8)
    grey[1, :, :30] = 0
    grey[2] = 7
    return Stack(grey, voxel_size_nm=(50, 5, 5))


@pytest.mark.parametrize("invert", [False, True])
def test_a_region_is_as_a_run_gives_it(tmp_path: Path, *, invert: bool) -> None:
    """Normalised, resampled and cleared in padding as for users; of each stack."""
    weights = thin_weights(tmp_path)
    predictor = RegionPredictor(weights, "cpu")
    settings = PredictSettings(
        runtime="torch", device="cpu", invert="yes" if invert else "no"
    )
    for stack in (stack_of(0), stack_of(1), stack_of(0)):
        found = predictor.membrane(stack, AREA, invert=invert)
        run = predict_stack(
            stack, weights, settings=settings, sections=(1,), roi=AREA.area
        )
        np.testing.assert_array_equal(found, drain(run).probabilities[0])
        assert not found[:, :10].any()
        assert found[:, 10:].any()


def test_a_blank_section_has_nothing_to_show(tmp_path: Path) -> None:
    predictor = RegionPredictor(thin_weights(tmp_path), "cpu")
    blank = Region(2, 0, 0, 32, 32)
    assert predictor.membrane(stack_of(0), blank, invert=False) is None
    assert predictor.open(stack_of(0), 2, invert=False).blank
