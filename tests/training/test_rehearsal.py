"""What weights are sure of is rehearsed, but never what somebody corrected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from finetuning import drawn, untaught

from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region
from napari_emseg.core.stack import Stack
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.crops import BESIDE, rehearsal_crops
from napari_emseg.training.losses import IGNORE

SIDE = 16


def rehearsed(tmp_path: Path, known: TrainingSet) -> np.ndarray:
    """Return where something is rehearsed, `(z, y, x)`."""
    weights = untaught(tmp_path / "weights.safetensors")
    work = rehearsal_crops(
        weights.network().eval(), weights.card, known, side=SIDE, confidence=0.5
    )
    found = np.zeros(known.stack.shape, bool)
    for crop in drain(work):
        around = crop.region.grown(SIDE // 2, known.stack.shape[1:])
        found[(around.z, *around.area)] |= crop.target != IGNORE
    return found


@pytest.fixture
def stack() -> Stack:
    return drawn()[0]


def test_what_lies_around_a_correction_is_rehearsed_but_not_the_correction(
    stack: Stack, tmp_path: Path
) -> None:
    codes = np.zeros(stack.shape, np.uint8)
    codes[2, 60:64, 40:90] = 1
    found = rehearsed(tmp_path, TrainingSet.from_corrections(stack, codes))
    near = np.zeros_like(found)
    near[2, 60 - BESIDE : 64 + BESIDE, 40 - BESIDE : 90 + BESIDE] = True
    assert not found[near].any()
    assert found[2, 55 - BESIDE : 60 - BESIDE].any()  # a few rows above the stroke
    assert found[[0, 1, 3, 4, 5]].any()  # and some of other sections


def test_reviewed_regions_and_excluded_sections_are_left_out(
    stack: Stack, tmp_path: Path
) -> None:
    codes = np.zeros(stack.shape, np.uint8)
    codes[2, 60:64, 30:34] = codes[4, 60:64, 30:34] = 1
    known = TrainingSet.from_corrections(
        stack, codes, reviewed=[Region(2, 0, 0, 128, 128)], excluded=[4]
    )
    found = rehearsed(tmp_path, known)
    assert found.any(axis=(1, 2)).tolist()[2] is False
    assert found.any(axis=(1, 2)).tolist()[4] is False


def test_without_corrections_squares_lie_anywhere(stack: Stack, tmp_path: Path) -> None:
    known = TrainingSet.from_corrections(stack, np.zeros(stack.shape, np.uint8))
    assert rehearsed(tmp_path, known).any()
