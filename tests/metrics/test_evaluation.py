from __future__ import annotations

import json

import numpy as np
import pytest
from synthetic_pairs import PAIRS

from napari_emseg import metrics
from napari_emseg.core.records import Progress


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
    assert found.warnings == ("sections without a true cell were left out: [0]",)


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


def test_every_section_is_told(pair):
    work = metrics.evaluate_steps(*pair, prediction_is="inside", truth_is="inside")
    assert [record.done for record in work if isinstance(record, Progress)] == [1, 2, 3]


GOOD = np.eye(8)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (GOOD[:, :7], GOOD, r"prediction \(1, 8, 7\), truth \(1, 8, 8\)"),
        (GOOD[:0], GOOD[:0], "not empty"),
        (GOOD, np.zeros((8, 8)), "nothing but membrane"),
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
        ({"truth_is": "cells"}, "integer ids of cells, got float64"),
    ],
)
def test_options_that_make_no_sense_are_said(options, message):
    options = {"prediction_is": "inside", "truth_is": "inside"} | options
    with pytest.raises(ValueError, match=message):
        metrics.evaluate(GOOD, GOOD, **options)
