"""What weights are sure of is rehearsed, but never what somebody corrected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from finetuning import TORCH, drawn, untaught

from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region
from napari_emseg.core.stack import Stack
from napari_emseg.inference.region import RegionPredictor
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.crops import BESIDE, rehearsal_crops, surest
from napari_emseg.training.losses import IGNORE

SIDE = 16


def rehearsed(tmp_path: Path, known: TrainingSet) -> np.ndarray:
    """Return where something is rehearsed, `(z, y, x)`."""
    weights = untaught(tmp_path / "weights.safetensors")
    work = rehearsal_crops(RegionPredictor(weights, TORCH), known, side=SIDE, sure=1.0)
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


def test_of_each_class_the_surest_share_is_rehearsed() -> None:
    """Sure of inside, unsure of membrane: one limit would keep no membrane at all."""
    rng = np.random.default_rng(0)
    classes = (rng.random((2, 60, 60)) > 0.2).astype(np.uint8)
    likely = np.where(classes == 0, 0.5 + 0.3 * rng.random(classes.shape), 0.99)
    likely -= 0.01 * rng.random(classes.shape)
    shown = [(classes[k], likely[k].astype(np.float32)) for k in (0, 1)]
    codes = np.stack(surest(shown, 0.7))
    for k in (0, 1):
        kept = codes == k + 1
        assert not (kept & (classes != k)).any()
        assert kept.sum() == pytest.approx(0.7 * (classes == k).sum(), rel=0.01)
        left = (classes == k) & ~kept
        assert likely[left].max() <= likely[kept].min() + 1e-6


def test_the_share_is_of_all_squares_together() -> None:
    """Where a class is never sure, little of it is rehearsed."""
    shown = [
        (np.zeros((10, 10), np.uint8), np.full((10, 10), p, np.float32))
        for p in (0.9, 0.6)
    ]
    first, second = surest(shown, 0.5)
    assert first.all()
    assert not second.any()


def test_a_least_probability_holds_besides() -> None:
    shown = [(np.ones((4, 4), np.uint8), np.linspace(0, 1, 16).reshape(4, 4))]
    (codes,) = surest(shown, 1.0, 0.9)
    assert codes.sum() == 2 * np.count_nonzero(np.linspace(0, 1, 16) >= 0.9)
