"""Hand work in a sitting: it outlives runs, and every step can be taken back."""

from __future__ import annotations

import numpy as np
import pytest
from thin import thin_weights

from napari_emseg.core.labels import touching
from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region as Rectangle
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.proofreading import cut, lock, paint
from napari_emseg.proofreading.painted import Stroke, take_back
from napari_emseg.session import RunScope, Session, annotation_editor
from napari_emseg.session.annotation_editor import AnnotationEditor
from napari_emseg.session.annotations import ManualCorrections
from napari_emseg.session.run_factory import RunFactory

FAST = PredictSettings(runtime="torch", tile=64)
ALL = RunScope((0, 1, 2, 3))


@pytest.fixture
def session(drawn_stack, tmp_path) -> Session:
    session = Session(predict_settings=FAST)
    session.select("a", drawn_stack[0])
    session.choose_weights(thin_weights(tmp_path, threshold=0.4))
    session.cell_settings = CellSettings(threshold=0.4)
    runs = RunFactory(session)
    drain(runs.predict(ALL).work)
    drain(runs.segment(ALL).work)
    return session


def state(hand: AnnotationEditor) -> dict[str, np.ndarray]:
    return {name: np.array(a) for name, a in hand.linked.arrays.items()}


def large_cell(hand: AnnotationEditor, z: int = 1) -> tuple[int, np.ndarray]:
    cells = np.asarray(hand.linked.arrays["cells"][z])
    cell = int(np.argmax(np.bincount(cells[cells > 0])))
    return cell, cells == cell


def across(mask: np.ndarray) -> np.ndarray:
    """Return a stroke from side to side through the middle of a cell."""
    rows = np.flatnonzero(mask.any(axis=1))
    row = int(rows[len(rows) // 2])
    return np.array([[row, 0], [row, mask.shape[1] - 1]]) * [1, 1]


def test_what_a_run_found_is_a_step(session) -> None:
    hand = session.correcting()
    found = state(hand)
    assert found["cells"].any()
    undone = hand.undo()
    assert undone.tool == "run"
    assert not hand.linked.arrays["cells"][:].any()
    hand.redo()
    np.testing.assert_equal(state(hand), found)


def test_undo_of_a_run_with_links_says_again_that_ids_are_profiles(
    session, runs
) -> None:
    hand = session.correcting()
    results = session.source.results
    assert not results.linked
    session.cell_settings = session.cell_settings.model_copy(update={"link": True})
    drain(runs.segment(ALL).work)
    assert results.linked
    seen = []
    hand.edited.connect(lambda *_: seen.append(results.linked))
    hand.undo()
    assert not results.linked
    hand.redo()
    assert results.linked
    assert seen == [False, True]


def test_predict_edit_predict_undo(session, runs, tmp_path) -> None:
    hand = session.correcting()
    hand.author = "Ada"
    first = state(hand)
    cell, mask = large_cell(hand)
    edit = cut(hand.sheet(1), across(mask), settings=hand.settings)
    hand.do(edit)
    corrections = hand.corrections.copy()
    assert hand.history.corrections()[-1].author == "Ada"

    session.choose_weights(thin_weights(tmp_path, "other", threshold=0.6))
    drain(runs.predict(ALL).work)
    drawn = hand.corrections[1] == 1
    assert drawn.any()
    assert (hand.linked.arrays["membranes"][1][drawn] == 1).all()
    np.testing.assert_array_equal(hand.corrections, corrections)
    drain(runs.segment(ALL).work)
    cells = hand.linked.arrays["cells"]
    assert not cells[1][drawn].any()
    untouched = np.setdiff1d(np.unique(first["cells"][0]), [0])
    kept = np.intersect1d(untouched, np.unique(cells[0]))
    assert len(kept) > len(untouched) / 2

    hand.undo()
    hand.undo()
    np.testing.assert_array_equal(hand.corrections, first["corrections"])
    np.testing.assert_array_equal(cells, first["cells"])
    likely = session.source.results.probabilities
    np.testing.assert_array_equal(
        hand.linked.arrays["membranes"][1][drawn], likely[1][drawn] > 0.6
    )
    assert cell in cells[1]


def test_a_locked_cell_outlives_a_run(session, runs) -> None:
    hand = session.correcting()
    cell, mask = large_cell(hand)
    point = np.argwhere(mask)[0]
    hand.do(lock(hand.sheet(1), point))
    session.cell_settings = CellSettings(threshold=0.9, minimum_size=3000)
    drain(runs.segment(ALL).work)
    np.testing.assert_array_equal(hand.linked.arrays["cells"][1] == cell, mask)


def test_reviewed_sections_are_left_alone_unless_asked(session, runs) -> None:
    hand = session.correcting()
    before = state(hand)
    session.review(1)
    session.cell_settings = CellSettings(threshold=0.9, minimum_size=3000)
    run = runs.segment(ALL)
    assert run.region.sections == (0, 2, 3)
    drain(run.work)
    drain(runs.cut().work)
    np.testing.assert_array_equal(state(hand)["cells"][1], before["cells"][1])
    np.testing.assert_array_equal(state(hand)["membranes"][1], before["membranes"][1])
    with pytest.raises(ValueError, match="reviewed"):
        runs.predict(RunScope((1,)))
    session.redo_reviewed = True
    assert runs.segment(ALL).region.sections == ALL.sections
    session.redo_reviewed = False
    session.review(1, reviewed=False)
    assert runs.segment(ALL).region.sections == ALL.sections


def test_clearing_an_excluded_section_is_a_step(session, runs) -> None:
    hand = session.correcting()
    cell, mask = large_cell(hand)
    point = np.argwhere(mask)[0]
    one, area = np.ones((6, 6), bool), (slice(10, 16), slice(10, 16))
    first = state(hand)
    hand.do(paint(hand.sheet(1), "membranes", one, area, 1))
    edited = state(hand)
    session.exclude(1)
    steps = len(hand.history.undoable)
    drain(runs.predict(ALL).work)
    assert hand.history.undoable[0].words == "1 excluded section cleared"
    assert len(hand.history.undoable) == steps + 1
    assert not hand.linked.arrays["cells"][1].any()
    drawn = np.zeros_like(mask)
    drawn[area] = True
    np.testing.assert_array_equal(hand.linked.arrays["membranes"][1] == 1, drawn)
    hand.undo()
    for name in ("cells", "corrections"):
        np.testing.assert_array_equal(state(hand)[name], edited[name])
    np.testing.assert_array_equal(
        hand.linked.arrays["membranes"][1], edited["membranes"][1]
    )
    hand.undo()
    hand.undo()
    assert session.source.excluded == frozenset()
    np.testing.assert_equal(
        {name: array[1] for name, array in state(hand).items()},
        {name: array[1] for name, array in first.items()},
    )
    hand.do(lock(hand.sheet(1), point))
    session.exclude(1)
    drain(runs.predict(ALL).work)
    np.testing.assert_array_equal(hand.linked.arrays["cells"][1] == cell, mask)
    np.testing.assert_array_equal(hand.linked.arrays["cells"][1] > 0, mask)


def test_the_results_know_whether_cells_are_linked(session, runs) -> None:
    results = session.source.results
    assert not results.linked
    session.cell_settings = CellSettings(link=True)
    drain(runs.segment(ALL).work)
    assert results.linked
    drain(runs.segment(RunScope((1,))).work)
    assert results.linked, "a section found again takes its ids from before"
    session.cell_settings = CellSettings(link=False)
    drain(runs.segment(RunScope((2, 3))).work)
    assert not results.linked


def test_somebody_is_always_the_author(session, monkeypatch) -> None:
    monkeypatch.setattr(annotation_editor, "getuser", lambda: "ada")
    assert AnnotationEditor(session.source.results).author == "ada"

    def nobody() -> str:
        msg = "no such user"
        raise KeyError(msg)

    monkeypatch.setattr(annotation_editor, "getuser", nobody)
    assert annotation_editor.login_name() == ""


def test_a_threshold_spares_corrections(session, runs) -> None:
    hand = session.correcting()
    one = np.ones((6, 6), bool)
    area = (slice(10, 16), slice(10, 16))
    hand.do(paint(hand.sheet(0), "membranes", one, area, 1))
    session.cell_settings = CellSettings(threshold=0.95)
    drain(runs.cut().work)
    assert (hand.linked.arrays["membranes"][0][area] == 1).all()
    hand.undo()
    likely = session.source.results.probabilities[0][area]
    np.testing.assert_array_equal(
        hand.linked.arrays["membranes"][0][area], likely > 0.95
    )


def test_no_edits_while_cells_are_found(session, runs) -> None:
    hand = session.correcting()
    run = runs.segment(ALL)
    next(run.work)
    for act in (hand.undo, hand.redo, lambda: hand.sheet(0)):
        with pytest.raises(ValueError, match="cells are being found"):
            act()
    run.work.close()
    hand.sheet(0)


def test_strokes_of_a_brush_become_edits(session) -> None:
    hand = session.correcting()
    before = state(hand)
    told: list[frozenset[int]] = []
    hand.changed.connect(told.append)
    array = hand.linked.arrays["membranes"]
    area = (slice(4, 8), slice(4, 30))
    where = np.ones((4, 26), bool)
    strokes = []
    for z in (0, 2):
        old = array[z][area].copy()
        array[z][area] = 1
        strokes.append(Stroke(z, area, where, old[where], 1))
    take_back(array, strokes)
    edit = hand.repaint("membranes", strokes)
    assert edit.sections == {0, 2}
    assert (hand.corrections[0][area] == 1).any()
    assert not hand.linked.arrays["cells"][0][area].any()
    assert told == [frozenset({0, 2})]
    hand.undo()
    np.testing.assert_equal(state(hand), before)


def test_a_stroke_over_a_locked_cell_is_taken_back(session) -> None:
    hand = session.correcting()
    _, mask = large_cell(hand)
    y, x = (int(v) for v in np.argwhere(mask)[5])
    hand.do(lock(hand.sheet(1), (y, x)))
    before = state(hand)
    area = (slice(y, y + 1), slice(x, x + 1))
    hand.linked.arrays["cells"][1][area] = 0
    stroke = Stroke(1, area, np.ones((1, 1), bool), before["cells"][1][area][0], 0)
    take_back(hand.linked.arrays["cells"], [stroke])
    with pytest.raises(ValueError, match="locked"):
        hand.repaint("cells", [stroke])
    np.testing.assert_equal(state(hand), before)


def test_opened_probabilities_can_be_followed(drawing) -> None:
    session = Session()
    stack = Stack(
        drawing.membrane[None], metadata={"emseg": {"kind": "membrane", "scale": 1.0}}
    )
    session.select("p", stack)
    drain(RunFactory(session).segment(RunScope((0,))).work)
    hand = session.correcting()
    part = (slice(0, 9), slice(0, 9))
    assert hand.sheet(0).probability(part).shape == (9, 9)
    np.testing.assert_array_equal(hand.probabilities[0], drawing.membrane)


def test_opened_probabilities_are_read_as_parts_of_one(drawing) -> None:
    session = Session()
    grey = np.round(drawing.membrane * 255).astype(np.uint8)
    made = {"emseg": {"kind": "membrane", "scale": 255.0}}
    session.select("p", Stack(grey[None], metadata=made))
    sheet = session.correcting().sheet(0)
    whole = sheet.probability(sheet.whole)
    np.testing.assert_allclose(whole, drawing.membrane, atol=1 / 255)


def test_probabilities_are_unknown_where_nothing_was_predicted(session) -> None:
    hand = session.correcting()
    assert not np.isnan(hand.probabilities[1]).any()
    session.source.editor.clear([1])
    assert np.isnan(hand.probabilities[1]).all()


def test_hand_work_needs_a_stack() -> None:
    with pytest.raises(ValueError, match="no stack is chosen"):
        Session().correcting()


def test_a_reviewed_region_outlives_runs_and_can_be_taken_back(
    session, runs, tmp_path
) -> None:
    hand, source = session.correcting(), session.source
    region = Rectangle(1, 4, 6, 30, 40)
    before = state(hand)
    hand.review(region)
    assert source.reviewed_regions == (region,)
    assert (hand.corrections[1][region.area] > 0).all()
    session.choose_weights(thin_weights(tmp_path, threshold=0.05))
    drain(runs.predict(ALL).work)
    shown = hand.linked.arrays["membranes"][1]
    np.testing.assert_array_equal(
        shown[region.area], before["membranes"][1][region.area]
    )
    assert shown.sum() > before["membranes"][1].sum()
    session.review(1)
    whole = Rectangle.whole(1, source.stack.shape[1:])
    assert session.source.reviewed_regions == (whole,)
    session.review(1, reviewed=False)
    hand.unreview(region)
    assert session.source.reviewed_regions == ()
    assert not hand.corrections.any()
    with pytest.raises(ValueError, match="no reviewed region"):
        hand.unreview(region)


def test_what_is_not_predicted_cannot_be_reviewed(drawn_stack, tmp_path) -> None:
    session = Session(predict_settings=FAST)
    session.select("a", drawn_stack[0])
    session.choose_weights(thin_weights(tmp_path))
    drain(
        RunFactory(session).predict(RunScope((0,), (slice(0, 32), slice(0, 32)))).work
    )
    with pytest.raises(ValueError, match="not predicted to its end"):
        session.correcting().review(Rectangle(0, 16, 16, 48, 48))
    with pytest.raises(ValueError, match="nothing is shown"):
        session.correcting().review(Rectangle(1, 16, 16, 48, 48))


@pytest.mark.parametrize("name", ["membranes", "corrections", "cells"])
def test_what_another_program_put_in_place_is_one_step(session, name) -> None:
    hand = session.correcting()
    before = state(hand)
    values = np.array(before[name], np.int64)
    values[1, 20:30, 20:40] = {"membranes": 1, "corrections": 2, "cells": 900}[name]
    values[2, 50:55, 10:40] = {"membranes": 0, "corrections": 1, "cells": 0}[name]
    steps = len(hand.history.undoable)
    edit = hand.take_over(name, values)
    assert edit is not None
    assert len(hand.history.undoable) == steps + 1
    np.testing.assert_array_equal(hand.linked.arrays[name], values)
    after = state(hand)
    hand.undo()
    np.testing.assert_equal(state(hand), before)
    hand.redo()
    np.testing.assert_equal(state(hand), after)


def test_replaced_cells_outlive_a_run(session, runs) -> None:
    hand = session.correcting()
    values = np.array(hand.linked.arrays["cells"])
    values[1, 20:30, 20:40] = 900
    hand.take_over("cells", values)
    said = hand.corrections[1, 20:30, 20:40]
    np.testing.assert_array_equal(said == 1, touching(values[1])[20:30, 20:40])
    assert (said > 0).all()
    drain(runs.segment(ALL).work)
    (found,) = np.unique(hand.linked.arrays["cells"][1, 22:28, 22:38])
    assert found > 0


def test_dense_cells_have_walls_that_are_run_over_taught_and_undone(
    session, runs
) -> None:
    hand = session.correcting()
    before = state(hand)
    # 4 × 4 cells of 24 × 28 px, without a line between
    y, x = np.indices((96, 112))
    ids = np.broadcast_to(500 + y // 24 * 4 + x // 28, (4, 96, 112))
    edit = hand.take_over("cells", ids)
    assert edit is not None
    assert edit.words.endswith("membrane drawn where cells touch")
    walls = ((y % 24 == 0) & (y > 0)) | ((y % 24 == 23) & (y < 95))
    walls |= ((x % 28 == 0) & (x > 0)) | ((x % 28 == 27) & (x < 111))
    for z in range(4):
        np.testing.assert_array_equal(hand.linked.arrays["membranes"][z], walls)
    np.testing.assert_array_equal(hand.linked.arrays["cells"], ids)
    session.review(1)
    known = drain(ManualCorrections.of(session.source).read("no")).opinions
    whole = Rectangle.whole(1, (96, 112))
    np.testing.assert_array_equal(known.window(whole), np.where(walls, 1, 2))
    after = state(hand)
    drain(runs.segment(RunScope((0,))).work)
    found = hand.linked.arrays["cells"][0]
    assert len(np.unique(found[found > 0])) == 16
    hand.undo()
    np.testing.assert_equal(state(hand), after)
    hand.undo()
    hand.undo()
    np.testing.assert_equal(state(hand), before)


def test_cells_of_a_project_that_touch_have_walls() -> None:
    session = Session()
    session.select("a", Stack(np.zeros((2, 4, 6), np.uint8)))
    hand = session.correcting()
    hand.linked.arrays["cells"][:] = [1, 1, 1, 2, 2, 0]
    hand.remember({0: [(slice(0, 4), slice(0, 3))]}, ())
    membranes = hand.linked.arrays["membranes"]
    assert membranes[0].tolist() == [[0, 0, 1, 0, 0, 0]] * 4
    assert not membranes[1].any()
    session.review(1)
    hand.linked.locked = frozenset({1})
    known = drain(ManualCorrections.of(session.source).read("no")).opinions
    assert known.window(Rectangle.whole(1, (4, 6))).tolist() == [[2, 2, 1, 1, 2, 1]] * 4
    assert known.window(Rectangle.whole(0, (4, 6))).tolist() == [[2, 2, 1, 1, 0, 0]] * 4


def test_the_same_values_in_another_type_are_no_step(session) -> None:
    hand = session.correcting()
    steps = hand.history.undoable
    assert hand.take_over("cells", hand.linked.arrays["cells"].astype(np.int64)) is None
    assert hand.history.undoable == steps


def test_replaced_data_spare_locked_cells(session) -> None:
    hand = session.correcting()
    cell, mask = large_cell(hand)
    row, column = (int(i[0]) for i in np.nonzero(mask))
    hand.do(lock(hand.sheet(1), (row, column)))
    before = state(hand)
    values = before["cells"].copy()
    values[1][mask] = 900
    with pytest.raises(ValueError, match="locked"):
        hand.take_over("cells", values)
    np.testing.assert_equal(state(hand), before)
    values[0, :9, :9] = 901
    assert hand.take_over("cells", values) is not None
    assert (hand.linked.arrays["cells"][1][mask] == cell).all()
    assert (hand.linked.arrays["cells"][0, :9, :9] == 901).all()


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.zeros((4, 96, 111), np.uint8), "have .* voxels"),
        (np.zeros((96, 112), np.uint8), "have .* voxels"),
        (np.full((4, 96, 112), -1), "from 0 to"),
        (np.full((4, 96, 112), 2**40), "from 0 to"),
        (np.full((4, 96, 112), 0.5), "whole numbers"),
    ],
)
def test_what_cant_be_labels_is_refused(session, values, why) -> None:
    hand = session.correcting()
    before = state(hand)
    for name in ("membranes", "corrections", "cells"):
        with pytest.raises(ValueError, match=why):
            hand.take_over(name, values)
    np.testing.assert_equal(state(hand), before)


def test_nothing_is_taken_over_where_nobody_may_edit(session) -> None:
    hand = session.correcting()
    hand.refusal = "read-only"
    with pytest.raises(ValueError, match="read-only"):
        hand.take_over("cells", np.ones((4, 96, 112), np.uint8))


def test_marking_a_section_is_a_step_among_the_others(session) -> None:
    """Undo takes back the latest of all, and nothing else, in both directions."""
    hand = session.correcting()
    cell, mask = large_cell(hand)
    told = []
    session.events.source.connect(lambda source: told.append(source.reviewed))
    done = len(hand.history.undoable)
    session.review(3)
    hand.do(lock(hand.sheet(1), np.argwhere(mask)[0]))
    session.review(0)
    session.review(0)  # is reviewed already: no step
    session.review(3, reviewed=False)
    expected = [
        (frozenset(), False),
        (frozenset({3}), False),
        (frozenset({3}), True),
        (frozenset({0, 3}), True),
        (frozenset({0}), True),
    ]

    def now() -> tuple[frozenset[int], bool]:
        assert hand.reviewed == session.source.reviewed
        return session.source.reviewed, cell in hand.linked.locked

    assert now() == expected[-1]
    for wanted in expected[-2::-1]:
        hand.undo()
        assert now() == wanted
    for wanted in expected[1:]:
        hand.redo()
        assert now() == wanted
    assert len(hand.history.undoable) == done + 4
    assert told[:3] == [{3}, {0, 3}, {0}]


def test_a_section_can_be_marked_while_cells_are_found(session) -> None:
    hand, results = session.correcting(), session.source.results
    before = state(hand)
    area = (slice(0, 96), slice(0, 112))
    hand.put_cells(0, area, np.array(results.cells[0]))
    session.review(2)
    assert session.source.reviewed == {2}
    hand.finish_run()
    hand.undo()
    assert session.source.reviewed == frozenset()
    np.testing.assert_array_equal(state(hand)["cells"], before["cells"])


def test_nobody_marks_a_section_while_all_is_held(session) -> None:
    hand = session.correcting()
    done = hand.history.undoable
    with hand.held("being copied"), pytest.raises(ValueError, match="being copied"):
        session.review(2)
    assert not session.source.reviewed
    assert hand.history.undoable == done
