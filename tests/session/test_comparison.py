from __future__ import annotations

import json

import numpy as np
import pytest

from napari_emseg.core import compiler
from napari_emseg.core.card import Card
from napari_emseg.core.records import Note, Progress, Provenance, drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.inference import predict_stack
from napari_emseg.models.weights import Weights, save_weights
from napari_emseg.models.zoo import build
from napari_emseg.session.annotation_editor import AnnotationEditor
from napari_emseg.session.comparison import (
    Side,
    check_pair,
    compile_scores,
    iter_compare,
    iter_predict_both,
    meaning_said,
    says_linked,
)
from napari_emseg.session.results import Results


@pytest.fixture
def truth():
    """Three sections of 16 square cells, 1 = membrane."""
    membrane = np.zeros((3, 64, 64), np.uint8)
    membrane[:, 15::16] = membrane[:, :, 15::16] = 1
    return membrane


def stack(values, name="em", **made) -> Stack:
    metadata = {"emseg": Provenance(**made).model_dump(mode="json")} if made else {}
    return Stack(values, name=name, metadata=metadata)


def gap(membrane, z, y=slice(4, 8)):
    """Open the membrane beside one cell."""
    opened = membrane.astype(np.float32) * 0.9
    opened[z, y, 15] = 0
    return opened


def compare(prediction, truth, sections=range(3), **options):
    said: list[str] = []
    found = drain(
        iter_compare(prediction, truth, sections, **options),
        lambda r: said.append(r.message) if isinstance(r, Note) else None,
    )
    assert tuple(said) == found.notes
    return found


def sides(prediction, truth, **options):
    given = Side(stack(prediction, "prediction", **options), "membrane")
    return given, Side(stack(truth, "truth"), "membrane", mask=True)


def test_some_sections_are_compared(truth) -> None:
    found = compare(*sides(gap(truth, 2), truth), sections=[1, 2])
    assert found.report.sections == (1, 2)
    assert found.report.words.endswith("V_Rand: 1 merger, 0 splits")
    assert [place.z for place in found.report.places] == [2]
    assert found.notes == ()
    about = json.loads(json.dumps(found.as_dict()))
    assert (about["prediction"], about["truth"]) == ("prediction", "truth")


def test_the_threshold_that_validation_fixed_comes_with_the_prediction(truth) -> None:
    found = compare(*sides(gap(truth, 0), truth, kind="membrane", threshold=0.35))
    assert found.report.fixed is not None
    assert found.report.fixed.threshold == 0.35


def test_sections_without_truth_are_left_out_and_named(truth) -> None:
    empty = truth.copy()
    empty[[0, 2]] = 0
    found = compare(*sides(gap(truth, 1), empty))
    assert found.report.sections == (1,)
    assert found.notes == ("sections 0, 2 left out: truth is empty there",)


def test_only_what_was_predicted_is_compared(truth) -> None:
    editor = AnnotationEditor(Results(truth.shape))
    results = editor.results
    area = (slice(8, 60), slice(2, 50))
    editor.put_prediction(1, area, gap(truth, 1, slice(20, 24))[1][area], 0.5)
    found = compare(*sides(results.probabilities, truth), results=results)
    (place,) = found.report.places
    assert (place.z, place.x) == (1, 15)
    assert 20 <= place.y < 24
    assert "sections 0, 2 left out: nothing was run there" in found.notes
    assert (
        "compared where there is a prediction: rows 8 to 59 and columns 2 to 49"
        in found.notes
    )


def test_whole_sections_win_over_parts(truth) -> None:
    editor = AnnotationEditor(Results(truth.shape))
    results = editor.results
    whole, part = (slice(0, 64),) * 2, (slice(0, 40),) * 2
    for z, area in ((0, whole), (1, part), (2, whole)):
        editor.put_prediction(z, area, gap(truth, 0)[z][area], 0.5)
    found = compare(*sides(results.probabilities, truth), results=results)
    assert found.report.sections == (0, 2)
    assert found.notes == ("section 1 left out: run in another part only",)


def test_only_cells_that_were_found_are_compared(truth) -> None:
    editor = AnnotationEditor(Results(truth.shape))
    results = editor.results
    area = (slice(0, 40), slice(0, 64))
    editor.put_cells(1, area, np.where(truth[1][area] > 0, 0, 1).astype(np.uint32))
    given = Side(stack(results.cells, "cells"), "cells")
    found = compare(given, sides(truth, truth)[1], results=results)
    assert found.report.sections == (1,)
    assert "rows 0 to 39" in found.notes[1]
    editor.clear([1])
    with pytest.raises(ValueError, match="nothing was run there"):
        compare(given, sides(truth, truth)[1], results=results)


def test_parts_that_make_no_rectangle_are_not_compared(truth) -> None:
    editor = AnnotationEditor(Results(truth.shape))
    results = editor.results
    for area in ((slice(0, 20),) * 2, (slice(30, 50),) * 2):
        editor.put_prediction(0, area, truth[0][area].astype(np.float32), 0.5)
    with pytest.raises(ValueError, match=r"nothing to compare: section 0 .*parts"):
        compare(*sides(results.probabilities, truth), sections=[0], results=results)


def test_a_mask_is_no_picture_in_8_bits(truth) -> None:
    mask = (gap(truth, 0) > 0).astype(np.uint8)
    given, right = sides(mask, truth)
    found = compare(given, right)
    assert found.notes == ("prediction has values 0 and 1: taken as a mask",)
    assert found.report.words.endswith("1 merger, 0 splits")
    assert found.report.curve is None
    said = compare(Side(given.stack, "membrane", mask=True), right)
    assert said.notes == ()
    assert said.report.words == found.report.words


def test_probabilities_in_8_bits_keep_their_curve(truth) -> None:
    given = np.round(gap(truth, 0) * 255).astype(np.uint8)
    assert compare(*sides(given, truth)).report.curve is not None


def test_an_inverted_prediction_is_told_of(truth) -> None:
    given, right = sides(1 - gap(truth, 0), truth)
    assert any(
        "is it inside rather than membrane?" in n for n in compare(given, right).notes
    )


def test_cells_through_sections_or_each_by_itself(truth) -> None:
    through = np.where(truth > 0, 0, 1).astype(np.uint32)
    cells = through * np.arange(1, len(through) + 1, dtype=np.uint32)[:, None, None]
    given, right = Side(stack(cells, "p"), "cells"), Side(stack(through, "t"), "cells")
    linked = compare(given, right, linked=True).report.evaluation
    alone = compare(given, right, linked=False).report.evaluation
    assert (linked.linked, alone.linked) == (True, False)
    assert linked.overlap.adapted_rand_error > alone.overlap.adapted_rand_error


def test_a_damaged_section_is_an_error_in_words(truth) -> None:
    nan = gap(truth, 0)
    nan[1, 3, 3] = np.nan
    with pytest.raises(ValueError, match="1 NaN"):
        compare(*sides(nan, truth))


def test_a_truth_without_membrane_is_refused(truth) -> None:
    right = Side(stack(np.ones_like(truth), "truth"), "inside", mask=True)
    with pytest.raises(ValueError, match="no membrane"):
        compare(sides(gap(truth, 0), truth)[0], right)


def test_an_empty_truth_is_refused(truth) -> None:
    with pytest.raises(ValueError, match="sections 0, 1, 2 left out: truth is empty"):
        compare(*sides(gap(truth, 0), np.zeros_like(truth)))


@pytest.mark.parametrize(
    ("prediction", "right", "words"),
    [
        (None, Side(stack(np.ones((1, 4, 4))), "membrane"), "as the prediction"),
        (Side(stack(np.ones((1, 4, 4))), "membrane"), None, "as the truth"),
        (
            Side(stack(np.ones((1, 4, 4)), "a"), "membrane"),
            Side(stack(np.ones((2, 4, 5)), "b"), "membrane"),
            "shapes differ: a has 1 × 4 × 4, b has 2 × 4 × 5",
        ),
        (
            Side(stack(np.ones((1, 4, 4))), "membrane"),
            Side(stack(np.ones((1, 4, 4)), "drawn"), None),
            "choose the type of drawn",
        ),
        (
            Side(stack(np.ones((1, 4, 4), bool), "p"), "cells"),
            Side(stack(np.ones((1, 4, 4), int)), "cells"),
            "p can't be cells: it holds bool",
        ),
    ],
)
def test_what_is_missing_is_said(prediction, right, words) -> None:
    with pytest.raises(ValueError, match=words):
        check_pair(prediction, right)


def test_meanings_come_from_provenance_only() -> None:
    values = np.zeros((1, 4, 4), np.float32)
    assert meaning_said(stack(values)) is None
    assert meaning_said(stack(values, kind="membrane")) == "membrane"
    assert meaning_said(stack(values, kind="corrections")) is None
    assert says_linked(stack(values))
    assert not says_linked(stack(values, kind="cells"))
    linked = {"cells": {"link": True}}
    assert says_linked(stack(values, kind="cells", settings=linked))
    through = {"cells": {"link": False, "through": "3-d"}}
    assert says_linked(stack(values, kind="cells", settings=through))


def test_reading_can_be_stopped(truth) -> None:
    work = iter_compare(*sides(gap(truth, 0), truth), range(3))
    assert isinstance(next(work), Progress)
    work.close()


def test_compiling_is_a_step_of_the_first_scores_only(truth, monkeypatch) -> None:
    monkeypatch.setattr(compiler, "_used", set())

    def steps() -> list[str]:
        work = iter_compare(*sides(gap(truth, 1), truth), [1])
        return [record.step for record in work if isinstance(record, Progress)]

    assert steps()[:2] == ["reading", "compiling (first time only)"]
    assert "compiling (first time only)" not in steps()


def test_scores_compile_each_kernel_once(truth) -> None:
    """A second set of types would take as long as the first."""
    from napari_emseg.metrics.kernels import section, warping

    compile_scores()
    compare(*sides(gap(truth, 1), truth))
    kernels = {**vars(section), **vars(warping)}.values()
    # none of its own has what is called by one that was compiled in an earlier process
    assert max(len(k.signatures) for k in kernels if hasattr(k, "signatures")) == 1


def test_candidates_are_compared_by_what_runs_see(tmp_path) -> None:
    """An excluded section isn't seen beside another one."""
    import torch

    config = {"base": 2, "levels": 1, "n_classes": 2, "context": 3}
    torch.manual_seed(0)
    state = build("unet", config).state_dict()
    grey = np.random.default_rng(0).integers(0, 255, (4, 32, 32)).astype(np.uint8)
    settings = PredictSettings(device="cpu", runtime="torch", invert="no")

    def saved(threshold: float) -> Weights:
        card = Card(name="3", architecture="unet", config=config, threshold=threshold)
        return save_weights(tmp_path / "3.safetensors", state, card)

    def seen(excluded) -> np.ndarray:
        work = predict_stack(
            Stack(grey), saved(0.5), settings=settings, sections=[2], excluded=excluded
        )
        return drain(work).probabilities[0]

    # halfway between all pixels: there it counts what was seen
    threshold = float(np.median(seen([1])))
    expected = seen([1]) > threshold
    assert not np.array_equal(seen([]) > threshold, expected)
    whole = (slice(0, 32), slice(0, 32))
    pair = [saved(threshold)] * 2
    work = iter_predict_both(Stack(grey), pair, 2, whole, settings, frozenset({1}))
    found = drain(work)
    np.testing.assert_array_equal(found.current, expected)
    np.testing.assert_array_equal(found.candidate, expected)
