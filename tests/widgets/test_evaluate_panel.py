from __future__ import annotations

import json

import numpy as np
import pytest
from napari.layers import Image, Labels, Points
from qtpy.QtWidgets import QApplication

from napari_emseg._napari.versions import camera_of
from napari_emseg.core import compiler
from napari_emseg.core.records import Progress, Provenance
from napari_emseg.metrics import isbi_scores
from napari_emseg.widgets.camera import section_on_screen
from napari_emseg.widgets.evaluate_panel import ALL, SECTION
from napari_emseg.widgets.result import COLOURS

SCALE = {"scale": (50, 4, 4), "units": ("nm",) * 3, "translate": (0, 100, 40)}


@pytest.fixture
def membrane():
    """Two sections of 16 square cells, 1 = membrane."""
    values = np.zeros((2, 96, 96), np.uint8)
    values[:, 23::24] = values[:, :, 23::24] = 1
    return values


@pytest.fixture
def probability(membrane):
    """A gap beside a cell of section 0, two false membranes in section 1."""
    values = np.where(membrane > 0, 0.9, 0.1).astype(np.float32)
    values[0, 4:8, 23] = 0.1
    values[1, 60, 48:71] = values[1, 10, 0:23] = 0.9
    return values


def said(kind: str = "membrane", **more) -> dict[str, dict[str, object]]:
    return {"emseg": Provenance(kind=kind, **more).model_dump(mode="json")}


@pytest.fixture
def window(open_window, membrane, probability):
    """A window with a prediction that says what it is, and a truth that doesn't."""
    prediction = Image(
        probability, name="predicted", metadata=said(threshold=0.35), **SCALE
    )
    window = open_window(prediction, Labels(membrane, name="drawn", **SCALE))
    window.dock.folds["Evaluate"].expand()
    choose(window.evaluate.prediction.layers, "predicted")
    choose(window.evaluate.truth.layers, "drawn")
    return window


def choose(box, text: str) -> None:
    QApplication.processEvents()  # layers are listed when the event loop comes round
    box.setCurrentIndex(box.findText(text))
    box.activated.emit(box.currentIndex())


def evaluate(window, *, truth_is: str = "membrane", scope: str = ALL) -> None:
    panel = window.evaluate
    choose(panel.truth.meaning, truth_is)
    panel.scope.setCurrentText(scope)
    window.click(panel.run.button)
    assert panel.run.button.text() == "Cancel"
    with window.qtbot.waitSignal(panel.run.job.ended, timeout=120_000):
        pass


def test_what_can_be_compared(window, membrane) -> None:
    a_meaning_comes_from_the_layer_or_from_the_user(window)
    layers_of_other_shapes_are_refused_with_both_shapes(window)
    choose(window.evaluate.truth.layers, "drawn")
    cells_go_through_sections_only_if_they_say_so(window, membrane)
    many_layers_are_listed_once_and_no_run_takes_one_that_is_gone(window)
    choose(window.evaluate.prediction.layers, "predicted")
    choose(window.evaluate.truth.layers, "drawn")
    for layer in list(window.viewer.layers):
        if layer.name not in ("predicted", "drawn"):
            window.viewer.layers.remove(layer)
    a_removed_layer_is_no_longer_compared(window)


def a_meaning_comes_from_the_layer_or_from_the_user(window) -> None:
    panel = window.evaluate
    assert panel.prediction.meaning.currentData() == "membrane"
    assert panel.truth.meaning.currentData() is None
    assert not panel.run.button.isEnabled()
    assert "choose the type of drawn" in panel.state.text()
    choose(panel.truth.meaning, "membrane")
    assert panel.run.button.isEnabled()
    choose(panel.truth.layers, "predicted")
    choose(panel.truth.layers, "drawn")
    assert panel.truth.meaning.currentData() == "membrane"


def test_an_outcome_in_words_rings_a_curve_and_files(
    window, membrane, probability, tmp_path
) -> None:
    evaluate(window)
    words_tell_of_the_scores(window, membrane, probability)
    mistakes_are_ringed_where_they_are(window)
    a_click_on_a_mistake_goes_there(window)
    the_curve_marks_the_best_threshold_and_that_of_validation(window)
    a_table_and_json_are_written(window, tmp_path)


def words_tell_of_the_scores(window, membrane, probability) -> None:
    result = window.evaluate.result
    score = isbi_scores(1 - probability, membrane == 0).v_rand
    assert result.words.text() == f"{score:.3f} V_Rand: 1 merger, 2 splits"
    assert "predicted against drawn · 2 sections" in result.about.text()
    assert "0.35, fixed on validation" in result.about.text()
    shown = {
        result.scores.item(row, 0).text(): result.scores.item(row, 1).text()
        for row in range(result.scores.rowCount())
    }
    assert shown["V_Rand"] == f"{score:.4f}"
    assert {"V_Info", "warping error", "adapted Rand error", "cell IoU"} <= set(shown)


def test_the_first_scores_say_that_they_compile(window, monkeypatch) -> None:
    # the panel compiles beforehand, and notes it in the set that is there at its end
    beforehand = window.controller._compiler
    window.qtbot.waitUntil(lambda: not beforehand.waiting, timeout=120_000)
    monkeypatch.setattr(compiler, "_used", set())
    records = []
    window.evaluate.run.job.recorded.connect(records.extend)
    evaluate(window)
    assert Progress("compiling (first time only)", 0, 0) in records


def test_runs_one_after_the_other(window, membrane, probability) -> None:
    a_truth_that_can_not_be_one_is_refused(window)
    window.layer("drawn").data = membrane
    this_section_is_the_one_on_screen(window)
    another_run_replaces_the_rings(window)
    scores_of_before_are_marked_where_a_run_gives_none(window, membrane)
    what_looks_inverted_is_told(window, probability)


def this_section_is_the_one_on_screen(window) -> None:
    window.viewer.dims.set_current_step(0, 1)
    evaluate(window, scope=SECTION)
    assert window.evaluate.result.words.text().endswith("0 mergers, 2 splits")


def mistakes_are_ringed_where_they_are(window) -> None:
    rings = window.layer("mistakes")
    assert isinstance(rings, Points)
    kinds = rings.features["kind"].tolist()
    assert sorted(kinds) == ["merger", "split", "split"]
    merger, split = kinds.index("merger"), kinds.index("split")
    z, y, x = rings.data[merger]
    assert (z, x) == (0, 23)
    assert 4 <= y < 8
    corner = (1.0, 2.0, 3.0)
    np.testing.assert_allclose(
        rings.data_to_world(corner), window.layer("predicted").data_to_world(corner)
    )
    assert COLOURS["merger"] != COLOURS["split"]
    assert not np.array_equal(rings.border_color[merger], rings.border_color[split])


def a_click_on_a_mistake_goes_there(window) -> None:
    table = window.evaluate.result.mistakes.table
    assert table.rowCount() == 3
    for row in (2, 0):
        place = window.layer("mistakes").data[row]
        table.setCurrentCell(row, 0)
        assert window.viewer.dims.current_step[0] == place[0]
        world = window.layer("mistakes").data_to_world(place)
        np.testing.assert_allclose(camera_of(window.viewer).center[1:], world[1:])


def another_run_replaces_the_rings(window) -> None:
    evaluate(window)
    evaluate(window, scope=SECTION)
    assert sum(isinstance(x, Points) for x in window.viewer.layers) == 1
    window.viewer.layers.remove("mistakes")
    window.evaluate.result.mistakes.table.setCurrentCell(0, 0)  # nowhere to go
    evaluate(window)
    assert "mistakes" in window.viewer.layers


def scores_of_before_are_marked_where_a_run_gives_none(window, membrane) -> None:
    result, before = window.evaluate.result, window.evaluate.result.words.text()
    assert not result.earlier.isVisibleTo(window.evaluate)
    window.layer("drawn").data = np.zeros_like(membrane)
    evaluate(window)
    assert window.evaluate.run.message.property("role") == "error"
    assert result.words.text() == before
    assert result.earlier.isVisibleTo(window.evaluate)
    window.layer("drawn").data = membrane
    evaluate(window)
    assert not result.earlier.isVisibleTo(window.evaluate)


def the_curve_marks_the_best_threshold_and_that_of_validation(window) -> None:
    from pyqtgraph import InfiniteLine, PlotDataItem

    plot = window.evaluate.result.plot
    assert plot.isVisibleTo(window.evaluate)
    items = plot.plot.getPlotItem().items
    lines = sorted(x.value() for x in items if isinstance(x, InfiniteLine))
    curves = {x.name(): x for x in items if isinstance(x, PlotDataItem)}
    best = curves["V_Rand"].xData[np.argmax(curves["V_Rand"].yData)]
    assert 0.35 in lines
    assert len(lines) == 2
    assert curves["V_Rand"].yData.max() == pytest.approx(
        curves["V_Rand"].yData[curves["V_Rand"].xData == best][0]
    )
    assert "validation:&nbsp;0.35" in plot.legend.text()


def a_table_and_json_are_written(window, tmp_path) -> None:
    result = window.evaluate.result
    for name in ("scores.csv", "scores.json"):
        result.save(tmp_path / name)
    header, first, *_ = (tmp_path / "scores.csv").read_text().splitlines()
    assert header == "score,value,membrane_threshold,meaning"
    assert first.startswith("cells_v_rand,0.")
    everything = json.loads((tmp_path / "scores.json").read_text())
    assert everything["words"] == result.words.text()
    assert (everything["prediction"], everything["truth"]) == ("predicted", "drawn")
    assert len(everything["mistakes"]) == 3


def layers_of_other_shapes_are_refused_with_both_shapes(window) -> None:
    window.viewer.add_labels(np.ones((2, 9, 96), np.uint8), name="small")
    choose(window.evaluate.truth.layers, "small")
    assert "drawn" not in window.evaluate.state.text()
    assert "small has 2 × 9 × 96" in window.evaluate.state.text()
    assert not window.evaluate.run.button.isEnabled()


def a_truth_that_can_not_be_one_is_refused(window) -> None:
    for values, meaning, words in (
        (1, "inside", "truth has no membrane"),
        (0, "membrane", "drawn is empty there"),
    ):
        window.layer("drawn").data = np.full((2, 96, 96), values, np.uint8)
        evaluate(window, truth_is=meaning)
        assert words in window.evaluate.run.message.text()
        assert window.evaluate.run.message.property("role") == "error"
        assert not window.evaluate.result.isVisibleTo(window.evaluate)


def what_looks_inverted_is_told(window, probability) -> None:
    window.layer("predicted").data = 1 - probability
    evaluate(window)
    assert "is it inside rather than membrane?" in window.evaluate.run.message.text()
    window.layer("predicted").data = probability


def test_a_run_can_be_cancelled(window, membrane) -> None:
    many = np.repeat(membrane, 100, axis=0)
    noise = np.random.default_rng(0).random(many.shape).astype(np.float32)
    window.viewer.add_image(noise, name="noise", metadata=said())
    window.viewer.add_labels(many, name="many")
    panel = window.evaluate
    choose(panel.prediction.layers, "noise")
    choose(panel.truth.layers, "many")
    choose(panel.truth.meaning, "membrane")
    panel.scope.setCurrentText(ALL)
    window.click(panel.run.button)
    with window.qtbot.waitSignal(panel.run.job.ended, timeout=120_000):
        window.click(panel.run.button)
    assert panel.run.message.text() == "cancelled"
    assert panel.run.button.text() == "Evaluate"


def test_results_of_this_sitting_are_proposed_and_compared_where_they_are(
    open_window, em, drawn_stack
) -> None:
    window = open_window(em(), Labels(drawn_stack[1].astype(np.uint32), name="cells"))
    here = section_on_screen(window.viewer, window.layer("em"))
    window.choose_scope(window.membranes, "this section")
    window.run(window.membranes)
    panel = window.evaluate
    assert panel.prediction.layers.currentText() == "em membrane probability"
    assert panel.prediction.meaning.currentData() == "membrane"
    assert panel.truth.layers.currentText() == "cells"
    assert panel.truth.meaning.currentData() is None
    evaluate(window, truth_is="cells")
    others = ", ".join(str(z) for z in range(4) if z != here)
    words = f"sections {others} left out: nothing was run there"
    assert words in panel.run.message.text()
    assert "1 section" in panel.result.about.text()


def cells_go_through_sections_only_if_they_say_so(window, membrane) -> None:
    cells = np.where(membrane > 0, 0, 1).astype(np.uint32)
    linked = {"cells": {"link": True}}
    for name, settings in (("alone", {}), ("linked", linked)):
        about = said("cells", settings=settings)
        window.viewer.add_labels(cells, name=name, metadata=about)
    panel = window.evaluate
    panel.scope.setCurrentText(ALL)
    choose(panel.truth.meaning, "cells")
    for name, through in (("alone", False), ("predicted", None), ("linked", True)):
        choose(panel.prediction.layers, name)
        if through is None:
            assert not panel.linked.isVisibleTo(panel)
        else:
            assert panel.linked.isVisibleTo(panel)
            assert panel.linked.isChecked() is through


def test_the_box_changes_what_is_said_of_cells(window, membrane) -> None:
    sections = np.arange(2)[:, None, None]
    squares = np.indices((96, 96)) // 24
    cells = np.where(membrane > 0, 0, 1 + squares[0] * 4 + squares[1]).astype(np.uint32)
    halves = np.where(cells, cells + 16 * sections, 0).astype(np.uint32)
    for name, ids in (("true", cells), ("halves", halves)):
        window.viewer.add_labels(ids, name=name, metadata=said("cells"))
    panel = window.evaluate
    panel.scope.setCurrentText(ALL)
    choose(panel.prediction.layers, "halves")
    choose(panel.truth.layers, "true")
    assert panel.state.text() == "compares 2 sections, each by itself"
    evaluate(window, truth_is="cells")
    assert "through sections" not in panel.result.about.text()
    assert "VI 0.000 bits" in panel.result.about.text()
    panel.linked.click()
    assert panel.state.text() == "compares 2 sections, and cells through them"
    evaluate(window, truth_is="cells")
    # halves of n = 23² px: 1 - F of pairs is n / (3 n - 2)
    found = (
        "adapted Rand error 0.334, VI 1.000 bits (1.000 by splits, 0.000 by mergers)"
    )
    assert f"cells through sections: {found}" in panel.result.about.text()


def a_removed_layer_is_no_longer_compared(window) -> None:
    window.viewer.layers.remove("drawn")
    window.settle()
    assert "as the truth" in window.evaluate.state.text()
    assert not window.evaluate.run.button.isEnabled()


def many_layers_are_listed_once_and_no_run_takes_one_that_is_gone(window) -> None:
    picker, lists = window.evaluate.truth, []
    window.settle()
    picker.changed.connect(lambda: lists.append(picker.layers.count()))
    before = picker.layers.count()
    for n in range(10):
        window.viewer.add_labels(np.ones((2, 96, 96), np.uint8), name=f"more {n}")
    assert not lists
    window.settle()
    assert lists == [before + 10]
    choose(picker.layers, "more 3")
    window.viewer.layers.remove("more 3")
    side = picker.side()  # asked before the event loop has come round
    assert side is None or side.name != "more 3"
    assert picker.layers.count() == before + 9
