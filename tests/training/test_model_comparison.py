from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from finetuning import drawn, reviewed, untaught
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage.metrics import variation_of_information

from napari_emseg.core.labels import touching
from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.inference import predict_stack
from napari_emseg.models.weights import Weights, replace_card
from napari_emseg.training import model_comparison
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.losses import IGNORE
from napari_emseg.training.measures import (
    Interval,
    Measured,
    difference,
    measure,
    true_cells,
)
from napari_emseg.training.model_comparison import (
    GAINED,
    LOST,
    OTHER,
    SAME,
    Comparison,
    compare_weights,
)


@given(
    hnp.arrays(np.uint8, (20, 24), elements=st.sampled_from([0, 1, IGNORE])),
    hnp.arrays(np.uint32, (20, 24), elements=st.integers(0, 5)),
)
def test_sums_over_squares_give_the_scores_of_the_whole(
    truth: NDArray[np.uint8], cells: NDArray[np.uint32]
) -> None:
    membrane = cells == 0
    found = measure(membrane, cells, truth)
    known, wall = truth != IGNORE, truth == 0
    both = np.count_nonzero(membrane & wall)
    sizes = np.count_nonzero(membrane & known) + np.count_nonzero(wall)
    if wall.any():
        assert found.scores["pixel_f"] == pytest.approx(2 * both / sizes)
    else:
        assert "pixel_f" not in found.scores
    assert found.pixels == np.count_nonzero(known)
    true = true_cells(truth)
    assert not true[~known | wall].any()
    keep = true > 0
    if keep.any():
        vi = sum(variation_of_information(true[keep], cells[keep]))
        assert found.scores["vi"] == pytest.approx(vi, abs=1e-9)


def test_splits_and_mergers_are_counted() -> None:
    truth = np.ones((64, 120), np.uint8)
    truth[:, 39:41] = truth[:, 79:81] = 0
    cells = np.zeros((64, 120), np.uint32)
    cells[:30, :39] = 1
    cells[31:, :39] = 2  # the first of three true cells is split
    cells[:, 41:] = 3  # the other two are merged
    found = measure(cells == 0, cells, truth)
    assert (found.splits, found.mergers) == (1, 1)
    perfect = ndi.label(truth)[0].astype(np.uint32)
    found = measure(truth == 0, perfect, truth)
    assert found.scores == {
        **{"pixel_f": 1, "vi": 0, "splits": 0, "mergers": 0},
        **{"cells_v_rand": 1, "cells_v_info": 1, "cells_adapted_rand_error": 0},
    }


def halves(hole: int) -> NDArray[np.uint8]:
    """Draw two cells of one size, and a wall of 64 px with a hole in its middle."""
    truth = np.ones((64, 82), np.uint8)
    truth[:, 40:42] = 0
    truth[32 - hole // 2 : 32 - hole // 2 + hole, 40:42] = 1
    return truth


@pytest.mark.parametrize(("hole", "cells"), [(0, 2), (1, 2), (6, 2), (58, 1)])
def test_a_hole_left_in_a_wall_makes_no_cells_one(hole: int, cells: int) -> None:
    assert len(np.unique(true_cells(halves(hole)))) - 1 == cells


def test_a_hole_left_in_a_wall_favours_nobody() -> None:
    """Whoever shows the whole wall is right, and one cell is a merger: one bit."""
    truth = halves(6)
    apart = ndi.label(halves(0))[0].astype(np.uint32)
    found = measure(apart == 0, apart, truth)
    # the hole's pixels are of no predicted cell
    assert found.scores["vi"] == pytest.approx(0, abs=0.02)
    assert (found.splits, found.mergers) == (0, 0)
    one = np.ones(truth.shape, np.uint32)
    found = measure(one == 0, one, truth)
    assert found.scores["vi"] == pytest.approx(1)
    assert (found.splits, found.mergers) == (0, 1)


@pytest.mark.parametrize("unknown", [(), (slice(None), slice(0, 60))])
def test_a_region_without_membrane_is_one_cell(unknown: tuple[slice, ...]) -> None:
    truth = np.ones((64, 80), np.uint8)
    if unknown:
        truth[unknown] = IGNORE
    assert np.array_equal(true_cells(truth), truth != IGNORE)


def test_what_was_drawn_completely_is_taken_as_drawn() -> None:
    rng = np.random.default_rng(0)
    nearest = ndi.distance_transform_edt(
        rng.random((128, 128)) > 0.004, return_distances=False, return_indices=True
    )
    ids = nearest[0] * 128 + nearest[1]
    truth = np.where(touching(ids + 1), 0, 1).astype(np.uint8)
    drawn_cells, n = ndi.label(truth)
    pairs = np.unique(np.stack([drawn_cells, true_cells(truth)]).reshape(2, -1), axis=1)
    assert n > 20
    assert pairs.shape[1] == n + 1, "each has one of its own"


def test_the_interval_is_that_of_paired_squares() -> None:
    """Squares differ much from each other, but the gain is the same in each."""
    rng = np.random.default_rng(0)
    hits = rng.integers(100, 900, 40).astype(float)
    base = np.stack([hits, 1000 - hits, 1000 - hits], axis=1)
    better = np.stack([hits + 50, 950 - hits, 950 - hits], axis=1)
    a, b = (Measured(counts, None, 40_000) for counts in (base, better))
    interval = difference(a, b)["pixel_f"]
    assert interval.value == pytest.approx(0.05)
    assert 0.04 < interval.low <= interval.value <= interval.high < 0.06
    assert difference(a, a)["pixel_f"].high == 0
    assert difference(a, b) == difference(a, b), "the same draws each time"


def test_three_squares_give_no_interval() -> None:
    counts = np.array([[5.0, 1, 1]] * 3)
    interval = difference(*[Measured(counts, None, 21)] * 2)["pixel_f"]
    assert not interval.known
    assert interval.words == "+0.000"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Weights, Weights]:
    return (
        untaught(tmp_path / "current.safetensors"),
        untaught(tmp_path / "candidate.safetensors"),
    )


def compare(
    pair: tuple[Weights, Weights],
    known: TrainingSet,
    held_out: list[Region],
    monkeypatch: pytest.MonkeyPatch,
    *,
    wrong: dict[str, float],
) -> Comparison:
    """Compare two that see the truth, but for a share of wrong pixels."""

    def shown(
        judged: object, known: TrainingSet, region: Region
    ) -> tuple[NDArray[np.bool_], NDArray[np.uint32]]:
        rng = np.random.default_rng(region.z)
        codes = known.opinions.window(region)
        flip = rng.random(codes.shape) < wrong[judged.predictor.weights.card.name]
        membrane = (codes == 1) ^ flip
        return membrane, ndi.label(~membrane)[0].astype(np.uint32)

    monkeypatch.setattr(model_comparison._Judged, "shown", shown)
    return drain(compare_weights(*pair, [known], held_out=[held_out]))


@pytest.mark.parametrize(
    ("current", "candidate", "verdict"),
    [(0.1, 0.0, "better"), (0.0, 0.1, "worse"), (0.1, 0.1, "no difference")],
)
def test_which_is_better(
    current: float,
    candidate: float,
    verdict: str,
    pair: tuple[Weights, Weights],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = reviewed(*drawn(), 3)
    wrong = {"current": current, "candidate": candidate}
    found = compare(pair, known, list(known.reviewed), monkeypatch, wrong=wrong)
    assert found.verdict == verdict
    assert found.pixels == 128 * 128
    assert "on 16,384 held-out px" in found.words
    assert set(found.scores) >= {"held_out_vi", "parent_pixel_f"}
    (changed,) = found.changed
    assert changed.region == known.reviewed[0]
    kinds = set(np.unique(changed.map))
    assert (
        kinds
        == {
            "better": {SAME, GAINED},
            "worse": {SAME, LOST},
            "no difference": {SAME},
        }[verdict]
    )


def of_cells(vi: tuple[float, float], f: tuple[float, float]) -> str:
    """Judge by 95 % intervals of VI, less is better, and of pixel F."""
    found = {
        name: Interval(sum(ends) / 2, *ends)
        for name, ends in (("vi", vi), ("pixel_f", f))
    }
    measured = Measured(np.ones((9, 3)), np.ones((9, 2)), 9 * 64**2)
    return model_comparison._verdict("held-out regions", measured, found)


def test_what_is_worse_in_cells_is_never_called_better() -> None:
    better, worse, neither = (0.01, 0.03), (-0.03, -0.01), (-0.01, 0.03)
    fewer_bits, more_bits = (-0.2, -0.1), (0.1, 0.2)
    for f in (better, worse, neither):
        assert of_cells(fewer_bits, f) == "better"
        assert of_cells(more_bits, f) == "worse"
    unclear, against = (-0.2, 0.1), (-0.1, 0.2)
    assert of_cells(unclear, better) == "better"
    assert of_cells(against, better) == "no difference"
    assert of_cells(against, worse) == "no difference"
    assert of_cells(unclear, worse) == "no difference"
    assert of_cells(unclear, neither) == "no difference"


def test_small_regions_are_too_little_to_tell(
    pair: tuple[Weights, Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, codes = drawn()
    region = Region(3, 0, 0, 80, 80)
    known = TrainingSet.from_corrections(stack, codes, reviewed=[region])
    wrong = {"current": 0.1, "candidate": 0.0}
    found = compare(pair, known, [region], monkeypatch, wrong=wrong)
    assert found.verdict == "too little data"
    assert found.words.startswith("too little data to tell: VI 0.000 against")


def test_without_regions_only_corrections_are_measured(
    pair: tuple[Weights, Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, codes = drawn()
    codes[:, 20:] = 0
    known = TrainingSet.from_corrections(stack, codes)
    wrong = {"current": 0.1, "candidate": 0.0}
    found = compare(pair, known, [], monkeypatch, wrong=wrong)
    assert found.basis == "corrections"
    assert found.verdict == "too little data"
    assert "measured only where you corrected, 15,360 px" in found.words
    assert found.scores == {}
    assert "vi" not in found.candidate
    assert any((changed.map == OTHER).any() for changed in found.changed)


def test_where_no_membrane_is_known_there_is_no_score(
    pair: tuple[Weights, Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, codes = drawn()
    codes[codes == 1] = 0
    known = TrainingSet.from_corrections(stack, codes)
    wrong = {"current": 0.1, "candidate": 0.1}
    found = compare(pair, known, [], monkeypatch, wrong=wrong)
    assert found.verdict == "too little data"
    assert found.candidate == found.current == found.differences == {}
    assert "no membrane is known there, so no score can be given" in found.words


def test_with_nothing_to_measure_on_it_says_so(pair: tuple[Weights, Weights]) -> None:
    stack, codes = drawn()
    known = TrainingSet.from_corrections(stack, np.zeros_like(codes))
    found = drain(compare_weights(*pair, [known], held_out=[[]]))
    assert found.verdict == "too little data"
    assert found.words.startswith("nothing to measure on")


def test_padding_is_not_measured(
    pair: tuple[Weights, Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, codes = drawn()
    grey = np.array(stack.data)
    grey[3, :, :28] = 0
    known = reviewed(Stack(grey, voxel_size_nm=(50, 4, 4)), codes, 3)
    wrong = {"current": 0.0, "candidate": 0.0}
    found = compare(pair, known, list(known.reviewed), monkeypatch, wrong=wrong)
    assert found.pixels == 128 * 100


@pytest.mark.parametrize("way", [{}, {"tta": True}, {"statistics": "stack"}])
def test_weights_are_judged_by_what_a_run_gives(
    way: dict[str, object], pair: tuple[Weights, Weights]
) -> None:
    """One network at two thresholds, on a picture that is resampled and padded."""
    stack, codes = drawn()
    grey = np.array(stack.data)
    grey[3, :, :28] = 0
    em = Stack(grey, voxel_size_nm=(50, 5, 5))
    region = Region(3, 10, 12, 110, 120)
    known = TrainingSet.from_corrections(em, codes, reviewed=[region])
    predict = PredictSettings(runtime="torch", device="cpu", **way)
    settings = predict.model_copy(update={"invert": "no"})
    run = predict_stack(em, pair[0], settings=settings, sections=(3,), roi=region.area)
    p = drain(run).probabilities[0]
    middle = float(np.median(p[p > 0]))
    card = pair[1].card.model_copy(update={"threshold": middle})
    pair = pair[0], replace_card(pair[1], card)
    work = compare_weights(*pair, [known], held_out=[[region]], predict=predict)
    (changed,) = drain(work).changed
    current, candidate = (p > weights.card.threshold for weights in pair)
    truth = codes[3][region.area] - 1
    wanted = np.where(candidate == (truth == 0), GAINED, LOST)
    wanted[:, :16] = OTHER  # padding is not known
    wanted[current == candidate] = SAME
    np.testing.assert_array_equal(changed.map, wanted)
    assert {SAME, GAINED, LOST} == set(np.unique(wanted))
    assert current.mean() != candidate.mean()
