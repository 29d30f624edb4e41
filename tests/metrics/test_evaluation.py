from __future__ import annotations

import json

import numpy as np
import pytest
from synthetic_pairs import PAIRS

from napari_emseg import metrics
from napari_emseg.core.records import Progress, drain


@pytest.fixture
def pair():
    """Three sections of 64 x 64 px: probability of inside, and a mask of inside."""
    return PAIRS["r05_synth_stack_3x64"]


@pytest.fixture
def touching():
    """Four cells of 8 x 8 px without a gap, as in dense FIB-SEM truths."""
    return np.kron(np.array([[1, 2], [3, 4]], np.uint16), np.ones((8, 8), np.uint16))


@pytest.mark.parametrize("prediction_is", ["membrane", "inside"])
@pytest.mark.parametrize("truth_is", ["membrane", "inside"])
def test_each_meaning_leads_to_the_same_scores(pair, prediction_is, truth_is):
    inside, truth = pair
    prediction = 1 - inside if prediction_is == "membrane" else inside
    mask = truth == 0 if truth_is == "membrane" else truth
    found = metrics.evaluate(
        prediction, mask, prediction_is=prediction_is, truth_is=truth_is
    )
    assert found.isbi.as_dict() == metrics.isbi_scores(*pair).as_dict()
    assert found.warnings == ()


@pytest.mark.parametrize("prediction_is", ["membrane", "inside"])
def test_bytes_are_probabilities_in_steps_of_255ths(pair, prediction_is):
    inside, truth = pair
    steps = np.round(inside * 255).astype(np.uint8)
    given = 255 - steps if prediction_is == "membrane" else steps
    found = metrics.evaluate(
        given, truth, prediction_is=prediction_is, truth_is="inside"
    )
    expected = metrics.isbi_scores(steps / np.float32(255), truth)
    assert found.isbi.as_dict() == expected.as_dict()


def test_membrane_overlap_is_that_of_the_membrane_not_of_the_inside():
    truth = np.zeros((10, 10), bool)
    truth[:, 4:6] = True
    prediction = np.zeros((10, 10))
    prediction[:, 5:7] = 0.9
    found = metrics.evaluate(
        prediction, truth, prediction_is="membrane", truth_is="membrane"
    )
    assert found.membrane.iou == pytest.approx(1 / 3)
    assert found.membrane.dice == pytest.approx(1 / 2)
    assert (found.membrane.precision, found.membrane.recall) == (0.5, 0.5)
    never = metrics.evaluate(
        prediction,
        truth,
        prediction_is="membrane",
        truth_is="membrane",
        threshold=0.95,
    )
    assert never.membrane.iou == 0


def test_cells_that_touch_get_a_membrane(touching):
    found = metrics.evaluate(
        touching, touching, prediction_is="cells", truth_is="cells"
    )
    assert found.isbi.v_rand == 1
    words = {name: meaning for name, *_, meaning in found.rows()}
    assert words["cells_v_rand"].startswith("of the cells that were given")
    assert found.membrane.both == 2 * 16 * 2 - 4  # a cross, two pixels wide
    assert found.overlap.adapted_rand_error == 0
    merged = np.where(touching > 2, 3, touching)
    worse = metrics.evaluate(merged, touching, prediction_is="cells", truth_is="cells")
    assert worse.isbi.v_rand_merge < 0.7
    assert worse.isbi.v_rand_split == 1
    assert worse.overlap.vi_merge == pytest.approx(0.5)


def test_a_border_that_is_drawn_stays_as_it_is(touching):
    drawn = touching.copy()
    drawn[7:9] = drawn[:, 7:9] = 0
    found = metrics.evaluate(drawn, drawn, prediction_is="cells", truth_is="cells")
    assert found.membrane.both == (drawn == 0).sum()


def test_a_membrane_prediction_is_cut_into_cells_for_their_overlap(touching):
    membrane = np.zeros(touching.shape)
    membrane[7] = membrane[:, 7] = 1
    found = metrics.evaluate(
        membrane, touching, prediction_is="membrane", truth_is="cells"
    )
    assert not found.linked
    assert found.overlap.predicted_cells == 4
    assert found.overlap.iou > 0.7


def test_linked_cells_are_compared_through_sections_unless_asked_not_to(touching):
    truth = np.stack([touching, touching])
    prediction = np.stack([touching, touching + 4])
    options = {"prediction_is": "cells", "truth_is": "cells"}
    linked = metrics.evaluate(prediction, truth, **options)
    assert linked.linked
    assert linked.overlap.vi_split == 1
    apart = metrics.evaluate(prediction, truth, **options, linked=False)
    assert apart.overlap.vi_split == 0


def test_sections_without_a_true_cell_are_left_out(touching):
    truth = np.stack([np.zeros_like(touching), touching])
    prediction = np.stack([touching.T, touching])
    found = metrics.evaluate(prediction, truth, prediction_is="cells", truth_is="cells")
    assert found.isbi.v_rand == 1
    assert found.warnings == ("section 0 left out: the truth is empty there",)


@pytest.mark.parametrize("truth_is", ["membrane", "inside", "cells"])
def test_sections_that_nobody_drew_are_left_out_by_their_numbers(touching, truth_is):
    """As in a file of which sections 4 to 8 are compared, and 4, 5 and 7 are empty."""
    drawn = touching.copy()
    drawn[7:9] = drawn[:, 7:9] = 0
    truth = {"cells": drawn, "inside": drawn > 0, "membrane": drawn == 0}[truth_is]
    stack = np.stack([truth if z in (6, 8) else truth & False for z in range(4, 9)])
    prediction = np.broadcast_to(drawn, stack.shape)
    work = metrics.evaluate_steps(
        prediction,
        stack,
        prediction_is="cells",
        truth_is=truth_is,
        sections=range(4, 9),
    )
    found = drain(work)
    assert found.isbi.v_rand == 1
    assert found.membrane.iou == 1
    assert found.warnings == ("sections 4-5, 7 left out: the truth is empty there",)


def no_label(cells, unknown, how):
    """Write cells as other programs do that have no label for some pixels."""
    kind, value = how
    return np.where(unknown, kind(value), cells.astype(kind))


HOW = [
    (np.uint64, 2**64 - 1),
    (np.uint64, 2**64 - 3),
    (np.uint32, 2**32 - 1),
    (np.uint16, 2**16 - 1),
    (np.int16, -1),
    (np.int64, -2),
    (np.float32, np.nan),
    (np.float64, -1),
    (np.float64, 2.0**64),
]


@pytest.mark.parametrize("how", HOW, ids=lambda how: f"{how[0].__name__}:{how[1]}")
@pytest.mark.parametrize("linked", [True, False])
def test_a_perfect_prediction_is_perfect_where_the_truth_has_a_label(how, linked):
    """What has no label lies across a cell, so that it is in two pieces without."""
    cells = np.kron(np.arange(1, 17).reshape(4, 4), np.ones((12, 12), int))
    cells[::12] = cells[:, ::12] = 0
    cells = np.stack([cells, cells])
    unknown = np.zeros(cells.shape, bool)
    unknown[:, 15:18, :20] = unknown[1, 20:, 30:] = True
    truth = no_label(cells, unknown, how)
    found = metrics.evaluate(
        cells, truth, prediction_is="cells", truth_is="cells", linked=linked
    )
    scores = found.scores()
    assert {k for k, v in scores.items() if v == pytest.approx(1)} >= {
        *("v_rand", "v_info", "membrane_iou", "membrane_dice"),
        *("cell_iou", "cell_dice", "adapted_rand_split", "adapted_rand_merge"),
        *("cells_v_rand", "cells_v_info"),
    }
    bad = ("error", "vi_", "false")
    errors = [scores[k] for k in scores if any(part in k for part in bad)]
    assert errors == pytest.approx([0] * 11, abs=1e-12)
    assert found.warnings[0].startswith(f"{unknown.mean():.1%} of the truth has no lab")
    by_zero = np.where(unknown, 0, cells)
    plain = metrics.evaluate(
        cells, by_zero, prediction_is="cells", truth_is="cells", linked=linked
    )
    assert found.overlap.true_cells == plain.overlap.true_cells


@pytest.mark.parametrize("truth_is", ["membrane", "inside"])
@pytest.mark.parametrize("prediction_is", ["membrane", "inside"])
def test_masks_may_lack_labels_too_and_what_lies_there_counts_for_nothing(
    pair, prediction_is, truth_is
):
    _, truth = pair
    unknown = np.zeros(truth.shape, bool)
    unknown[:, 20:40] = True
    mask = (truth > 0) if truth_is == "inside" else (truth == 0)
    given = np.where(unknown, np.nan, mask.astype(float))
    scores = []
    for wrong in (0.0, 1.0, np.nan):
        right = (truth > 0) if prediction_is == "inside" else (truth == 0)
        prediction = np.where(unknown, wrong, right.astype(float))
        found = metrics.evaluate(
            prediction, given, prediction_is=prediction_is, truth_is=truth_is
        )
        scores.append(found.scores())
    assert scores[0] == scores[1] == scores[2]
    assert scores[0]["pixel_error"] == 0
    assert scores[0]["membrane_iou"] == scores[0]["v_rand"] == 1


def test_the_bare_scores_take_no_label_as_unknown_too(pair):
    _, truth = pair
    unknown = np.zeros(truth.shape, bool)
    unknown[:, :, 30:50] = True
    known = (truth > 0).astype(np.float32)
    labels = np.where(unknown, -1, (truth > 0).astype(int))
    assert metrics.v_rand_v_info(known, labels).v_rand == 1
    assert metrics.isbi_scores(known, labels).pixel_error == 0


def test_pixels_without_a_label_in_a_prediction_are_no_cell(touching):
    prediction = touching.astype(np.int32)
    prediction[:8, :8] = -1
    options = {"prediction_is": "cells", "truth_is": "cells"}
    found = metrics.evaluate(prediction, touching, **options)
    as_zero = metrics.evaluate(np.maximum(prediction, 0), touching, **options)
    assert found.scores() == as_zero.scores()
    assert "25.0% of the prediction has no label: taken as no cell" in found.warnings


@pytest.mark.parametrize(("wrong", "which"), [("membrane", "truth"), ("inside", "")])
def test_an_inverted_stack_is_warned_of(pair, wrong, which):
    inside, truth = pair
    options = {"prediction_is": "inside", "truth_is": "inside"}
    name = "truth_is" if which == "truth" else "prediction_is"
    options[name] = "membrane"
    found = metrics.evaluate(inside, truth, **options)
    (warning,) = found.warnings
    said = "truth" if which == "truth" else "prediction"
    assert f"of the {said} is membrane" in warning
    assert "is it inside rather than membrane?" in warning


def test_a_mask_of_bytes_is_warned_of(pair):
    inside, truth = pair
    mask = (inside > 0.5).astype(np.uint8)
    found = metrics.evaluate(mask, truth, prediction_is="inside", truth_is="inside")
    assert "give it as bool" in found.warnings[0]


def test_results_can_be_written_as_json_and_as_a_table(pair):
    found = metrics.evaluate(*pair, prediction_is="inside", truth_is="inside")
    plain = json.loads(json.dumps(found.as_dict()))
    assert plain["isbi"]["v_rand"] == found.isbi.v_rand
    assert plain["overlap"]["vi_split"] == found.overlap.vi_split
    rows = {name: (value, threshold) for name, value, threshold, _ in found.rows()}
    assert rows["v_rand"] == (found.isbi.v_rand, 0.6)
    assert rows["membrane_iou"] == (found.membrane.iou, None)
    assert all(meaning for *_, meaning in found.rows())


def test_cells_are_scored_beside_the_membranes_that_they_are_made_of(touching):
    """The membrane has a gap: its mask joins two cells, who makes cells closes it."""
    membrane = np.zeros(touching.shape)
    membrane[7:9] = membrane[:, 7:9] = 1
    membrane[7:9, 3] = 0

    def made(p):
        assert p[7, 3] == 0
        return np.where(p > 0.5, 0, touching)

    options = {"prediction_is": "membrane", "truth_is": "cells"}
    found = metrics.evaluate(membrane, touching, **options, make_cells=made)
    scores = found.scores()
    assert scores["v_rand_merge"] < 0.7
    assert scores["cells_v_rand"] == 1
    counts = [scores[f"cells_false_{what}"] for what in ("merges", "splits")]
    assert counts == [0, 0]
    assert all(isinstance(n, int) for n in counts), "tables show them without digits"
    plain = json.loads(json.dumps(found.as_dict()))
    assert plain["cells"]["vi"] == pytest.approx(found.cells.variation_of_information)
    without = metrics.evaluate(membrane, touching, **options)
    assert without.cells is None
    assert "cells_v_rand" not in without.scores()


def test_every_section_is_told(pair):
    work = metrics.evaluate_steps(*pair, prediction_is="inside", truth_is="inside")
    assert [record.done for record in work if isinstance(record, Progress)] == [1, 2, 3]


GOOD = np.eye(8)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (GOOD[:, :7], GOOD, r"prediction \(1, 8, 7\), truth \(1, 8, 8\)"),
        (GOOD[:0], GOOD[:0], "not empty"),
        (GOOD, np.zeros((8, 8)), "truth has no inside: its values are 0"),
        (GOOD, np.full((8, 8), np.nan), "truth has no inside: its values are nan"),
        (GOOD, np.ones((8, 8)), "no membrane"),
        (GOOD * 1.5, GOOD, r"\[0, 1\], got 0 to 1.5"),
        (GOOD - 0.5, GOOD, r"\[0, 1\], got -0.5 to 0.5"),
        (np.where(GOOD, np.nan, 0), GOOD, "8 NaN"),
        (GOOD.astype(np.uint16), GOOD, "got uint16; divide integers"),
        (GOOD[0], GOOD[0], r"got \(8,\)"),
    ],
)
def test_what_cannot_be_scored_is_said(prediction, truth, message):
    with pytest.raises(ValueError, match=message):
        metrics.evaluate(prediction, truth, prediction_is="inside", truth_is="inside")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truth_is": "labels"}, "truth_is must be one of membrane, inside, cells"),
        ({"threshold": 1.0}, "between 0 and 1, got 1.0"),
        ({"linked": True}, "cells on both sides, got inside and inside"),
        ({"threads": 0}, "at least 1, got 0"),
        ({"truth_is": "cells", "truth": 0.5}, "whole numbers, got 0.5; is it a mask?"),
    ],
)
def test_options_that_make_no_sense_are_said(options, message):
    options = {"prediction_is": "inside", "truth_is": "inside", "truth": 1} | options
    truth = GOOD * options.pop("truth")
    with pytest.raises(ValueError, match=message):
        metrics.evaluate(GOOD, truth, **options)
