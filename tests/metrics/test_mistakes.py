from __future__ import annotations

import numpy as np
import pytest

from napari_emseg import metrics
from napari_emseg.metrics.isbi import KINDS


@pytest.fixture
def pair():
    """Truth with one membrane; a prediction with two gaps in it and a false bar."""
    truth = np.ones((2, 30, 40), bool)
    truth[:, :, 20] = False
    inside = truth.astype(np.float32)
    inside[0, 5:8, 20] = inside[0, 15:19, 20] = 1
    inside[1, 10, :20] = 0
    return inside, truth


def test_mistakes_are_counted_and_shown_where_they_are(pair):
    found = metrics.find_mistakes(*pair, 0.5)
    assert (found.mergers, found.splits) == (2, 1)
    assert found.in_words() == "2 mergers, 1 split"
    merger, split = KINDS.index("mergers") + 1, KINDS.index("splits") + 1
    assert {*zip(*np.nonzero(found.kinds == merger), strict=True)} == {
        (0, y, 20) for y in (5, 6, 7, 15, 16, 17, 18)
    }
    assert (found.kinds[1, 10] == split).any()
    assert not found.kinds[1, :9].any()


def test_pixels_are_those_of_the_warping_error(pair):
    found = metrics.find_mistakes(*pair, 0.5)
    counts = metrics.isbi_scores(*pair).warping.counts[5]
    numbers = np.bincount(found.kinds.ravel(), minlength=7)[1:]
    assert numbers.tolist() == [getattr(counts, kind) for kind in KINDS]


def test_one_section_gives_one_picture(pair):
    inside, truth = pair
    assert metrics.find_mistakes(inside[0], truth[0], 0.5).kinds.shape == (30, 40)


def test_the_threshold_must_be_a_probability_below_1(pair):
    with pytest.raises(ValueError, match=r"below 1, got 1.0"):
        metrics.find_mistakes(*pair, 1.0)
