from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.metrics import adapted_rand_error, variation_of_information

from napari_emseg import metrics
from napari_emseg.metrics import cell_scores, overlap_scores

IDS = arrays(np.uint16, (2, 6, 7), elements=st.integers(0, 5))


@pytest.fixture
def halves():
    """Two true cells of 4 x 4 px, and one prediction that covers both."""
    truth = np.ones((4, 8), np.uint16)
    truth[:, 4:] = 2
    return np.ones_like(truth), truth


def test_a_merger_costs_one_bit_of_merge_and_nothing_of_split(halves):
    scores = metrics.overlap_scores(*halves)
    assert (scores.vi_split, scores.vi_merge) == (0, 1)
    assert scores.adapted_rand_split == 1
    # pairs in true cells 2 * 16 * 15, in the predicted one 32 * 31
    assert scores.adapted_rand_merge == pytest.approx(480 / 992)
    assert scores.adapted_rand_error == pytest.approx(1 - 2 * 480 / (480 + 992))
    assert (scores.iou, scores.dice) == (0.5, pytest.approx(2 / 3))
    assert (scores.true_cells, scores.predicted_cells) == (2, 1)


def test_a_split_costs_one_bit_of_split_and_nothing_of_merge(halves):
    scores = metrics.overlap_scores(*halves[::-1])
    assert (scores.vi_split, scores.vi_merge) == (1, 0)
    assert scores.adapted_rand_merge == 1
    assert scores.adapted_rand_split == pytest.approx(480 / 992)
    assert scores.variation_of_information == 1


@given(prediction=IDS, truth=IDS)
def test_scores_are_those_of_scikit_image(prediction, truth):
    truth[0, 0, :2] = 1  # one pair at least
    found = metrics.overlap_scores(prediction, truth)
    with np.errstate(invalid="ignore", divide="ignore"):
        error, split, merge = adapted_rand_error(truth, prediction)
    vi = variation_of_information(truth, prediction, ignore_labels=(0,))
    np.testing.assert_allclose(
        [found.adapted_rand_error, found.adapted_rand_split, found.adapted_rand_merge],
        [error, split, merge],
    )
    np.testing.assert_allclose([found.vi_split, found.vi_merge], vi, atol=1e-12)


@given(prediction=IDS, truth=IDS)
def test_names_of_cells_do_not_matter_however_large(prediction, truth):
    truth[0, 0, :2] = 1
    renamed = metrics.overlap_scores(
        prediction.astype(np.uint64) * 2**50, truth.astype(np.uint32) * 10**8
    )
    found = metrics.overlap_scores(prediction, truth)
    np.testing.assert_allclose(
        list(renamed.as_dict().values()), list(found.as_dict().values())
    )


@given(truth=IDS)
def test_iou_is_the_best_match_weighted_by_size(truth):
    truth[0, 0, :2] = 1
    prediction = np.roll(truth, 1, axis=2)
    covered = 0.0
    kept = truth > 0
    for i in np.unique(truth[kept]):
        cell = truth == i
        ious = [
            (cell & other).sum() / (cell | other).sum()
            for j in np.unique(prediction[prediction > 0])
            for other in [(prediction == j) & kept]
        ]
        covered += cell.sum() * max(ious)
    found = metrics.overlap_scores(prediction, truth)
    assert found.iou == pytest.approx(covered / kept.sum())


def test_linked_cells_are_one_object_through_sections():
    truth = np.ones((2, 4, 4), np.uint8)
    prediction = truth.copy()
    prediction[1] = 2  # right in each section, but not linked
    by_section = metrics.overlap_scores(prediction, truth, linked=False)
    assert by_section.adapted_rand_error == 0
    linked = metrics.overlap_scores(prediction, truth)
    assert linked.vi_split == 1
    assert linked.adapted_rand_error > 0.3


def test_a_cell_that_a_section_cuts_twice_has_two_profiles_there():
    """Cells of 2-D can't know it; linked ones lose nothing either."""
    truth = np.array([[1, 1, 0, 1, 1], [1, 1, 0, 1, 1]])
    apart = np.array([[1, 1, 0, 2, 2], [1, 1, 0, 2, 2]])
    for prediction in (apart, truth):
        scores = metrics.overlap_scores(prediction, truth, linked=False)
        assert scores.adapted_rand_error == scores.variation_of_information == 0
        assert scores.true_cells == scores.predicted_cells == 2
    assert metrics.overlap_scores(apart, truth).vi_split == 1


def test_pixels_that_meet_at_a_corner_are_two_profiles():
    corner = np.array([[1, 1, 0, 0], [0, 0, 1, 1]])
    assert metrics.overlap_scores(corner, corner, linked=False).true_cells == 2


def test_sections_without_truth_are_no_part_of_the_mean():
    truth = np.ones((3, 4, 4), np.uint8)
    truth[1] = 0
    sections = metrics.overlap_by_section(truth, truth)
    assert sections[1] is None
    assert sections[0] == sections[2]
    assert metrics.overlap_scores(truth, truth, linked=False).adapted_rand_error == 0


def test_truth_0_is_ignored_and_prediction_0_is_one_more_cell():
    truth = np.ones((4, 4), np.uint8)
    truth[0] = 0
    prediction = truth.copy()
    prediction[0] = 7
    assert metrics.overlap_scores(prediction, truth).adapted_rand_error == 0
    prediction[1:, :2] = 0
    assert metrics.overlap_scores(prediction, truth).vi_split == 1


def test_cells_of_one_pixel_have_no_pairs_to_score():
    scores = metrics.overlap_scores(np.array([[1, 2]]), np.array([[1, 2]]))
    assert math.isnan(scores.adapted_rand_error)
    assert scores.iou == 1


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.ones((4, 4), int), np.ones((4, 5), int), r"prediction \(4, 4\).*\(4, 5\)"),
        (np.full((4, 4), 0.5), np.ones((4, 4), int), "whole numbers, got 0.5"),
        (np.ones((4, 4), bool), np.ones((4, 4), int), "ids of cells, .* got bool"),
        (np.ones((4, 4), int), np.zeros((4, 4), int), "no cells"),
        (np.ones((0, 4, 4), int), np.ones((0, 4, 4), int), "not empty"),
        (np.ones((4, 4), int), -np.ones((4, 4), int), "no cells"),
    ],
)
def test_what_cannot_be_scored_is_said(prediction, truth, message):
    with pytest.raises(ValueError, match=message):
        metrics.overlap_scores(prediction, truth)


def drawn_cells():
    """Two sections of three true cells, and cells that are wrong in the second."""
    true = np.zeros((2, 40, 62), np.uint32)
    for k in range(3):
        true[:, :, 21 * k : 21 * k + 20] = k + 1
    predicted = true.copy()
    predicted[1, :, :41] = 1  # the first two are one
    predicted[1, 20:, 42:] = 7  # the third is two
    predicted[1, 19:21, 42:] = 0
    return predicted, true


def test_cells_have_all_scores_and_counts_of_what_is_wrong():
    predicted, true = drawn_cells()
    found = cell_scores(predicted, true)
    assert (found.false_merges, found.false_splits, found.true_cells) == (1, 1, 6)
    right, wrong = (cell_scores(predicted[z], true[z]) for z in (0, 1))
    assert (right.v_rand, right.v_info) == (1, 1)
    assert right.variation_of_information == right.adapted_rand_error == 0
    assert found.v_rand == pytest.approx((1 + wrong.v_rand) / 2)
    overlap = overlap_scores(predicted[1], true[1], linked=False)
    assert wrong.adapted_rand_error == overlap.adapted_rand_error
    assert wrong.vi_merge == pytest.approx(2 / 3), "two of three cells, one bit each"
    assert found.as_dict()["vi"] == found.variation_of_information
    assert found.words.endswith("1 false merge, 1 false split")


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
def test_every_cell_of_a_grid_counts_when_all_are_one_or_one_is_all(side):
    grid = np.zeros((1, 19 * side, 19 * side), np.uint32)
    for k in range(side**2):
        y, x = 19 * (k // side), 19 * (k % side)
        grid[0, y : y + 18, x : x + 18] = k + 1
    one = np.ones_like(grid)
    merged, split = cell_scores(one, grid), cell_scores(grid, one)
    assert (merged.false_merges, merged.false_splits) == (side**2 - 1, 0)
    assert (split.false_merges, split.false_splits) == (0, side**2 - 1)


def test_small_cells_count_that_a_large_one_has_swallowed():
    true = np.ones((1, 100, 100), np.uint32)
    for k in range(4):
        true[0, 20 * k : 20 * k + 8, 10:18] = k + 2  # 64 px of 10,000
    found = cell_scores(np.ones_like(true), true)
    assert (found.false_merges, found.false_splits) == (4, 0)


def test_small_parts_are_no_false_splits():
    predicted, true = drawn_cells()
    predicted = true[:1].copy()
    predicted[0, :5, :5] = 9  # 25 px
    predicted[0, :2, 42:] = 8  # a twentieth of its cell
    found = cell_scores(predicted, true[:1])
    assert (found.false_merges, found.false_splits) == (0, 0)


def test_sections_without_a_true_cell_are_left_out_of_the_scores_of_cells():
    predicted, true = drawn_cells()
    true[1] = 0
    assert cell_scores(predicted, true).v_rand == 1


def test_one_cell_that_fills_a_section_can_be_scored():
    whole = np.ones((1, 30, 30), np.uint32)
    assert cell_scores(whole, whole).v_rand == 1
