from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_emseg.core.card import Card
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.inference.scope import PredictionScope, scope_of

CARD = Card(name="tiny", architecture="unet", pixel_size_nm=(4, 4))


def scope(voxel: Any, card: Card = CARD, **settings: Any) -> PredictionScope:
    stack = Stack(np.zeros((3, 20, 30), np.uint8), voxel_size_nm=voxel)
    return scope_of(stack, card, PredictSettings(**settings))


def test_other_pixel_size_is_rescaled_and_said() -> None:
    made = scope((50, 4.6, 4.6))
    assert made.zoom == pytest.approx((1.15, 1.15))
    assert made.notes == ("rescaled 4.6 → 4 nm/px (1.15×)",)


def test_unlike_pixels_are_named_by_both_sides() -> None:
    made = scope((50, 2, 4))
    assert made.zoom == (0.5, 1)
    assert made.notes == ("rescaled 2 × 4 → 4 nm/px (0.5 × 1×)",)


def test_large_upsampling_is_warned_of() -> None:
    notes = scope((50, 10, 10)).notes
    assert notes[0] == "rescaled 10 → 4 nm/px (2.5×)"
    assert "enlarged more than 2×" in notes[1]
    assert len(scope((50, 8, 8)).notes) == 1


def test_no_voxel_size_is_used_as_it_is() -> None:
    made = scope(None)
    assert made.zoom == (1, 1)
    (note,) = made.notes
    assert "no voxel size given, used as it is" in note


@pytest.mark.parametrize("voxel", [(50, 4, 4), (50, 4.05, 3.95)])
def test_nearly_the_same_size_is_left_alone(voxel: Any) -> None:
    assert scope(voxel).zoom == (1, 1)
    assert not scope(voxel).notes


def test_rescaling_can_be_turned_off() -> None:
    assert scope((50, 8, 8), rescale=False).zoom == (1, 1)


def test_weights_for_any_pixel_size_take_it_as_it_is() -> None:
    card = CARD.model_copy(update={"pixel_size_nm": None})
    assert scope((50, 8, 8), card).zoom == (1, 1)
    assert not scope((50, 8, 8), card).notes


@pytest.mark.parametrize("voxel", [(50, 4600, 4600), (50, 0.2, 4)])
def test_an_absurd_voxel_size_is_refused(voxel: Any) -> None:
    with pytest.raises(ValueError, match="check the voxel size, or turn rescaling off"):
        scope(voxel)


def test_statistics_are_the_cards_or_as_asked() -> None:
    assert scope(None).rule.scope == "section"
    assert scope(None, statistics="stack").rule.scope == "stack"
    stackwise = CARD.normalisation.model_copy(update={"scope": "stack"})
    card = CARD.model_copy(update={"normalisation": stackwise})
    assert scope(None, card).rule.scope == "stack"
    assert scope(None, card, statistics="section").rule.scope == "section"


def test_sections_keep_their_order_and_come_once() -> None:
    stack = Stack(np.zeros((5, 20, 30), np.uint8))
    made = scope_of(stack, CARD, PredictSettings(), sections=[3, 0, 3, np.int64(4)])
    assert made.sections == (3, 0, 4)


def test_open_ends_of_a_region_are_filled_in() -> None:
    stack = Stack(np.zeros((5, 20, 30), np.uint8))
    roi = slice(None, 10), slice(5, None)
    made = scope_of(stack, CARD, PredictSettings(), roi=roi)
    assert made.roi == (slice(0, 10), slice(5, 30))
    assert made.shape == (10, 25)
