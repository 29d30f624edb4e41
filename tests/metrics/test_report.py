from __future__ import annotations

import csv
import json
from io import StringIO

import numpy as np
import pytest

from napari_emseg import metrics
from napari_emseg.core.records import Progress, drain
from napari_emseg.metrics.report import Curve, report_steps


@pytest.fixture
def truth():
    """Two sections of 16 square cells each: 1 = membrane."""
    membrane = np.zeros((2, 64, 64), np.uint8)
    membrane[:, 15::16] = membrane[:, :, 15::16] = 1
    return membrane


@pytest.fixture
def prediction(truth):
    """Membrane at 0.65, two gaps at 0.25, and a false one at 0.75 across a cell."""
    probability = np.where(truth > 0, 0.65, 0.05).astype(np.float32)
    probability[0, 4:8, 15] = probability[1, 31, 20:24] = 0.25
    probability[1, 40, 32:47] = 0.75
    return probability


def report(prediction, truth, **options):
    options = {"prediction_is": "membrane", "truth_is": "membrane"} | options
    return drain(report_steps(prediction, truth, **options))


def test_the_outcome_in_words_counts_mistakes_at_the_best_threshold(prediction, truth):
    found = report(prediction, truth)
    best = metrics.isbi_scores(1 - prediction, truth == 0)
    assert found.words == f"{best.v_rand:.3f} V_Rand: 0 mergers, 1 split"
    assert found.threshold == 0.2
    assert found.about_thresholds == (
        f"probabilities: V_Rand {best.v_rand:.3f} at 0.2, the best of eleven thresholds"
    )


def test_a_threshold_fixed_on_validation_has_its_own_score(prediction, truth):
    found = report(prediction, truth, threshold=0.45)
    at = metrics.v_rand_at(1 - prediction, truth == 0, 0.55).mean()
    assert found.fixed.v_rand == pytest.approx(at, abs=1e-12)
    assert found.fixed.v_rand < found.evaluation.isbi.v_rand
    assert f"{at:.3f} at 0.45, fixed on validation" in found.about_thresholds
    assert found.evaluation.threshold == 0.45


def test_the_curve_runs_over_the_probability_of_membrane(prediction, truth):
    curve = report(prediction, truth).curve
    assert curve.thresholds == tuple(round(i / 10, 1) for i in range(11))
    for i in (2, 5, 7):
        at = metrics.v_rand_at(1 - prediction, truth == 0, 1 - curve.thresholds[i])
        assert curve.v_rand[i] == pytest.approx(at.mean(), abs=1e-12)
    assert curve.best == 0.2
    assert curve.v_rand[2] == max(curve.v_rand)


def test_of_equal_thresholds_the_challenges_is_the_best(truth):
    inside = np.where(truth > 0, 0.33, 0.87).astype(np.float32)
    scores = metrics.v_rand_v_info(inside, truth == 0)
    assert Curve.of(scores).best == pytest.approx(1 - scores.v_rand_threshold)


def test_sections_keep_their_numbers(prediction, truth):
    found = report(prediction[1:], truth[1:], sections=[7])
    (place,) = found.places
    assert (place.kind, place.z, place.y) == ("split", 7, 40)
    assert found.sections == (7,)


def test_mistakes_of_cells_and_masks_need_no_threshold(truth):
    gap = truth.copy()
    gap[0, 4:8, 15] = 0
    for given, meaning in (
        (gap > 0, "membrane"),
        (metrics.thin(gap == 0), "cells"),
    ):
        found = report(given, truth, prediction_is=meaning)
        assert found.words.endswith("V_Rand: 1 merger, 0 splits")
        assert found.curve is None
        assert found.about_thresholds == ""
        assert {row[2] for row in found.rows()} == {None}


def test_a_section_of_one_true_cell_can_be_split(truth):
    cells = np.where(truth == 0, 1, 0) * 0 + 1
    cells[0, 30:] = 2
    prediction = np.zeros(truth.shape, np.float32)
    prediction[1, 20] = 1
    found = report(prediction, cells, truth_is="cells")
    assert ("split", 1) in {(place.kind, place.z) for place in found.places}


def test_progress_runs_to_its_end(prediction, truth):
    done = []
    drain(
        report_steps(prediction, truth, prediction_is="membrane", truth_is="membrane"),
        lambda r: done.append((r.done, r.total)) if isinstance(r, Progress) else None,
    )
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_largest_mistakes_come_first(prediction, truth):
    prediction[0, 1:15, 23] = prediction[0, 35:38, 31] = 0.02
    prediction[0, 8, 0:15] = 0.9
    sizes = [place.pixels for place in report(prediction, truth).places]
    assert len(sizes) > 1
    assert sizes == sorted(sizes, reverse=True)


def test_tables_for_other_programs(prediction, truth):
    found = report(prediction, truth, threshold=0.45)
    lines = list(csv.DictReader(StringIO(found.as_csv())))
    scores = found.evaluation.scores()
    assert {line["score"] for line in lines} == set(scores)
    assert float(lines[0]["value"]) == scores["v_rand"]
    assert float(lines[0]["membrane_threshold"]) == 0.2
    back = json.loads(json.dumps(found.as_dict()))
    assert back["words"] == found.words
    assert back["mistakes"][0]["kind"] == "split"
    assert back["curve"]["v_rand"][2] == scores["v_rand"]
    assert back["fixed"]["threshold"] == 0.45
    assert back["evaluation"]["isbi"]["v_rand"] == scores["v_rand"]


def test_what_can_not_be_scored_is_refused_in_words(truth):
    with pytest.raises(ValueError, match="truth has no membrane"):
        report(truth > 0, np.zeros_like(truth))
    with pytest.raises(ValueError, match="shapes differ"):
        report(truth > 0, truth[:, 1:])


def test_cells_are_told_in_words_and_progress_never_goes_back(prediction, truth):
    def made(membrane):
        return metrics.thin(membrane < 0.5).astype(np.uint32)

    options = {"prediction_is": "membrane", "truth_is": "membrane", "threshold": 0.4}
    work = report_steps(prediction, truth, **options, make_cells=made)
    done = []
    try:
        while True:
            done.append(next(work).done)
    except StopIteration as stop:
        found = stop.value
    assert done == sorted(done)
    assert found.about_cells == f"{found.evaluation.cells.words} at 0.4"
    assert found.about_cells.startswith("cells: V_Rand")
    assert report(prediction, truth).about_cells == ""
