from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest
import tifffile
from synthetic_pairs import PAIRS, REFERENCE

from napari_emseg import metrics
from napari_emseg.core.records import Progress
from napari_emseg.metrics.isbi import simple_points

KINDS = {
    "mergers": "merge",
    "splits": "split",
    "hole_additions": "hole_addition",
    "hole_deletions": "hole_deletion",
    "object_additions": "object_addition",
    "object_deletions": "object_deletion",
    "mismatches": "mismatches",
}


def assert_as_in(reference, inside, truth):
    found = metrics.isbi_scores(inside, truth)
    for name, expected in reference["summary"].items():
        expected = np.nan if expected is None else expected
        np.testing.assert_allclose(getattr(found, name), expected, atol=1e-12)
    np.testing.assert_allclose(found.rand_f, reference["rand_f"], atol=1e-12)
    np.testing.assert_allclose(found.pixel_f, reference["pixel_f"], atol=1e-12)
    for counts, expected in zip(
        found.warping.counts, reference["warping"], strict=True
    ):
        assert {theirs: getattr(counts, n) for n, theirs in KINDS.items()} == expected


@pytest.mark.parametrize("reference", REFERENCE["pairs"], ids=lambda r: r["name"])
def test_scores_are_the_challenges_own(reference):
    assert_as_in(reference, *PAIRS[reference["name"]])


@pytest.mark.shared_data
def test_every_reference_pair_agrees(shared_data):
    folder = shared_data / "isbi_scores"
    pairs = json.loads((folder / "reference.json").read_text())["pairs"]
    assert len(pairs) >= 13
    for reference in pairs:
        inside = tifffile.imread(folder / f"{reference['name']}.prop_f32.tif")
        truth = tifffile.imread(folder / f"{reference['name']}.gt.tif")
        assert_as_in(reference, inside, truth)


def test_simple_points_are_those_of_the_challenge():
    round_about = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
    simple = simple_points()
    for k, expected in enumerate(REFERENCE["simple_point_table"]):
        patch = np.array([k >> i & 1 for i in range(9)]).reshape(3, 3)
        code = sum(patch[1 + y, 1 + x] << i for i, (x, y) in enumerate(round_about))
        assert simple[code] == (expected == "1")


def test_one_section_scores_as_a_stack_of_one():
    inside, truth = PAIRS["r01_synth_prob_96"]
    alone = metrics.isbi_scores(inside, truth)
    assert alone.as_dict() == metrics.isbi_scores(inside[None], truth[None]).as_dict()


def test_threads_do_not_change_scores():
    inside, truth = PAIRS["r05_synth_stack_3x64"]
    one, three = (metrics.isbi_scores(inside, truth, threads=n) for n in (1, 3))
    assert one.as_dict() == three.as_dict()


@pytest.fixture
def two_cells():
    """Two cells of 40 x 20 and 40 x 19 px beside one membrane of 1 px."""
    truth = np.full((40, 40), 255, np.uint8)
    truth[:, 20] = 0
    return truth


def test_a_gap_is_a_merger_and_lowers_the_merge_score(two_cells):
    inside = (two_cells > 0).astype(np.float32)
    inside[10:20, 20] = 1
    scores = metrics.isbi_scores(inside, two_cells)
    assert scores.v_rand_split == 1
    assert scores.v_rand_merge == pytest.approx((800**2 + 760**2) / 1560**2)
    assert (scores.warping_mergers, scores.warping_splits) == (10, 0)


def test_a_false_membrane_is_a_split_and_lowers_the_split_score(two_cells):
    inside = (two_cells > 0).astype(np.float32)
    inside[30] = 0
    scores = metrics.isbi_scores(inside, two_cells)
    assert scores.v_rand_merge == 1
    assert scores.v_rand_split < 0.7
    assert scores.warping_mergers == 0
    assert scores.warping_splits > 0


def test_every_section_is_told_and_the_work_can_be_left():
    inside, truth = PAIRS["r05_synth_stack_3x64"]
    work = metrics.isbi_scores_steps(inside, truth, threads=1)
    assert next(work) == Progress("ISBI 2012 scores", 1, 3)
    work.close()


def test_numbers_as_json_know_no_nan():
    inside, truth = np.ones((8, 8)), np.ones((8, 8))
    truth[4] = 0
    scores = metrics.isbi_scores(inside, truth)
    assert scores.as_dict()["v_info_split"] is None
    assert json.loads(json.dumps(scores.as_dict()))["v_info"] == 0
    assert {"v_rand_threshold", "warping_error"} <= {f.name for f in fields(scores)}
