from __future__ import annotations

import numpy as np
import pytest

from napari_emseg import metrics
from napari_emseg.metrics.isbi import KINDS
from napari_emseg.metrics.merge_split_errors import (
    SegmentationError,
    format_errors,
    merge_split_errors,
)

MERGER, SPLIT, HOLE = (
    KINDS.index(kind) + 1 for kind in ("mergers", "splits", "hole_additions")
)


def test_each_group_is_one_place_in_its_own_middle():
    kinds = np.zeros((20, 30), np.uint8)
    kinds[5:8, 20] = MERGER
    kinds[12, 4:9] = SPLIT
    kinds[15, 15] = HOLE
    assert merge_split_errors(kinds, z=3) == [
        SegmentationError("merger", 3, 6, 20, 3, 3),
        SegmentationError("split", 3, 12, 6, 5, 5),
    ]


def test_a_bent_group_has_its_place_on_itself():
    kinds = np.zeros((20, 20), np.uint8)
    kinds[2:12, 2] = kinds[2, 2:12] = SPLIT
    (place,) = merge_split_errors(kinds)
    assert kinds[place.y, place.x] == SPLIT
    assert (place.pixels, place.extent) == (19, 10)


def test_pixels_that_touch_at_a_corner_are_one_place():
    kinds = np.zeros((9, 9), np.uint8)
    kinds[2, 2] = kinds[3, 3] = MERGER
    assert len(merge_split_errors(kinds)) == 1


@pytest.mark.parametrize(
    ("mergers", "splits", "words"),
    [(0, 0, "0 mergers, 0 splits"), (1, 11, "1 merger, 11 splits")],
)
def test_counts_in_words(mergers, splits, words):
    one = {"z": 0, "y": 0, "x": 0, "pixels": 1, "extent": 1}
    found = [SegmentationError("merger", **one)] * mergers + [
        SegmentationError("split", **one)
    ] * splits
    assert format_errors(found) == words


def test_places_are_as_many_as_find_mistakes_counts():
    rng = np.random.default_rng(0)
    truth = np.ones((2, 60, 60), bool)
    truth[:, ::12] = truth[:, :, ::12] = False
    inside = truth ^ (rng.random(truth.shape) < 0.03)
    found = metrics.find_mistakes(inside, truth, 0.5)
    listed = [p for z in range(2) for p in merge_split_errors(found.kinds[z], z=z)]
    assert found.mergers > 0
    assert format_errors(listed) == found.in_words()
