from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_emseg.core.records import Progress, Provenance
from napari_emseg.core.regions import Constraint, RunScope
from napari_emseg.core.settings import CellSettings
from napari_emseg.segmentation import segment_section
from napari_emseg.segmentation.edge_classifier import SEEN, EdgeClassifier
from napari_emseg.session import Run
from napari_emseg.session.edge_learning import EdgesLearnt

GRAPH = CellSettings(through="graph")


@pytest.fixture
def predicted(open_window, em):
    """A window whose stack has membranes."""
    window = open_window(em())
    window.choose_scope(window.membranes, "all sections")
    assert window.run(window.membranes).error is None
    return window


def test_before_a_run_and_of_one_section(open_window, em) -> None:
    window = open_window(em())
    window.settle()
    assert not window.cells.run.button.isEnabled()
    assert "run 2 Membranes first" in window.cells.state.text()
    window.choose_scope(window.membranes, "all sections")
    assert window.run(window.membranes).error is None
    without_cells_settings_wait_for_a_run(window)
    scope_of_cells(window)
    a_larger_minimum_size_gives_fewer_cells(window)


def test_cells_of_all_sections(segmented) -> None:
    window = segmented
    cells = window.layer("em cells")
    assert isinstance(cells, Labels)
    assert cells.data.dtype == np.uint32
    assert cells.data.any(axis=(1, 2)).all()
    ids = [set(np.unique(section)) - {0} for section in cells.data]
    assert len(set.union(*ids)) == sum(len(i) for i in ids)
    words = f"{sum(len(i) for i in ids)} cells in 4 sections"
    assert words in window.cells.run.message.text()
    made = Provenance.model_validate(cells.metadata["emseg"])
    assert made.kind == "cells"
    assert made.weights == "thin"
    np.testing.assert_allclose(cells.scale, window.layer("em").scale)
    unchanged_cells_keep_their_ids_and_a_recut_can_be_undone(window)


def scope_of_cells(window) -> None:
    window.viewer.dims.set_current_step(0, 3)
    window.choose_scope(window.cells, "this section")
    window.run(window.cells)
    data = window.layer("em cells").data
    assert data[3].any()
    assert not data[:3].any()


def test_the_threshold_is_previewed_and_then_goes_everywhere(predicted) -> None:
    window = predicted
    the_threshold_is_seen_at_once(window)
    it_goes_everywhere_also_when_another_stack_is_chosen(window)


def the_threshold_is_seen_at_once(window) -> None:
    z = window.viewer.dims.current_step[0]
    probability = window.layer("em membrane probability").data
    membranes = window.layer("em membranes")
    slider = window.cells.main.findChild(object, "threshold")
    slider.setValue(0.9)
    assert membranes.visible
    np.testing.assert_array_equal(membranes.data[z], probability[z] > 0.9)
    window.qtbot.waitUntil(
        lambda: np.array_equal(membranes.data, probability > 0.9), timeout=120_000
    )


def it_goes_everywhere_also_when_another_stack_is_chosen(window) -> None:
    probability = window.layer("em membrane probability").data
    window.viewer.add_image(np.zeros((3, 40, 40), np.uint8), name="other")
    stacks = window.dock.panel("Data").layers
    window.qtbot.waitUntil(lambda: stacks.findText("other") >= 0, timeout=20_000)
    window.cells.main.findChild(object, "threshold").setValue(0.8)
    stacks.setCurrentIndex(stacks.findText("other"))
    stacks.activated.emit(stacks.currentIndex())
    assert window.controller.session.source.name == "other"
    membranes = window.layer("em membranes").data
    window.qtbot.waitUntil(
        lambda: np.array_equal(membranes, probability > 0.8), timeout=20_000
    )


def a_larger_minimum_size_gives_fewer_cells(window) -> None:
    cells = window.layer("em cells")
    many = len(np.unique(cells.data))
    window.cells.main.findChild(object, "minimum_size").setValue(600)
    window.run(window.cells)
    assert len(np.unique(cells.data)) < many


def test_both_forms_edit_the_same_settings(open_window) -> None:
    window = open_window()
    window.cells.advanced.findChild(object, "grow").setValue(9)
    window.cells.main.findChild(object, "minimum_size").setValue(50)
    settings = window.controller.session.cell_settings
    assert (settings.grow, settings.minimum_size) == (9, 50)


def test_opened_probabilities_become_cells(open_window, drawing) -> None:
    made = Provenance(kind="membrane").model_dump(mode="json")
    window = open_window(
        Image(drawing.membrane, name="opened", metadata={"emseg": made})
    )
    window.settle()
    assert not window.membranes.run.button.isEnabled()
    assert "holds probabilities already" in window.membranes.estimate.text()
    window.cells.main.findChild(object, "minimum_size").setValue(20)
    window.run(window.cells)
    cells = window.layer("opened cells").data
    assert cells.shape == drawing.membrane.shape
    assert len(np.unique(cells)) > 3


@pytest.fixture
def segmented(predicted):
    """A window whose stack has cells, on a section with some."""
    predicted.choose_scope(predicted.cells, "all sections")
    assert predicted.run(predicted.cells).error is None
    return predicted


def shown(window) -> np.ndarray:
    z = window.viewer.dims.current_step[0]
    return window.layer("em cells").data[z]


def wait_for_step(window) -> None:
    panel = window.cells
    window.qtbot.waitUntil(
        lambda: not (panel._fragments.busy or panel._kept.isActive()), timeout=120_000
    )


def test_join_is_shown_at_once_on_the_section_on_screen(segmented) -> None:
    window = segmented
    z = window.viewer.dims.current_step[0]
    before = np.array(window.layer("em cells").data)
    slider = window.cells.main.findChild(object, "join")
    slider.setValue(1.0)
    wait_for_step(window)
    after = window.layer("em cells").data
    few = len(np.unique(after[z]))
    assert 0 < few < len(np.unique(before[z]))
    others = [k for k in range(4) if k != z]
    np.testing.assert_array_equal(after[others], before[others])
    expected = segment_section(
        window.layer("em membrane probability").data[z],
        window.controller.session.cell_settings,
    )
    np.testing.assert_array_equal(after[z] > 0, expected > 0)
    # fragments are known now: the next value is there before the event loop runs
    slider.setValue(0.0)
    assert len(np.unique(shown(window))) > few


def unchanged_cells_keep_their_ids_and_a_recut_can_be_undone(window) -> None:
    before = shown(window).copy()
    window.cells.main.findChild(object, "minimum_size").setValue(300)
    wait_for_step(window)
    during = shown(window).copy()
    assert len(np.unique(during)) < len(np.unique(before))
    same = [k for k in np.unique(before) if np.array_equal(before == k, during == k)]
    assert len(same) > 1
    window.controller.session.source.editor.undo()
    np.testing.assert_array_equal(shown(window), before)


def test_links_are_an_option(segmented) -> None:
    window = segmented
    window.cells.main.findChild(object, "link").setChecked(True)
    window.choose_scope(window.cells, "all sections")
    assert window.run(window.cells).error is None
    cells = window.layer("em cells").data
    in_two = set(np.unique(cells[0])) & set(np.unique(cells[3]))
    assert len(in_two - {0}) > 2
    made = Provenance.model_validate(window.layer("em cells").metadata["emseg"])
    assert made.settings["cells"]["link"] is True


def without_cells_settings_wait_for_a_run(window) -> None:
    join = window.cells.main.findChild(object, "join")
    before = join.value()
    for value in (0.5, before):
        join.setValue(value)
        window.settle()
        assert not window.cells._fragments.busy
        assert "em cells" not in window.viewer.layers


def test_cells_through_the_stack_follow_a_slider_here_and_then_everywhere(
    predicted,
) -> None:
    window, panel = predicted, predicted.cells
    panel.main.findChild(object, "through").setCurrentText("3-d")
    window.choose_scope(panel, "all sections")
    assert window.run(panel).error is None
    z = window.viewer.dims.current_step[0]
    before = np.array(window.layer("em cells").data)
    assert set(np.unique(before[0])) & set(np.unique(before[3])) - {0}
    panel.main.findChild(object, "join").setValue(1.0)
    others = [k for k in range(4) if k != z]
    if panel._fragments.busy:
        with window.qtbot.waitSignal(panel._fragments.ended, timeout=120_000):
            pass
    assert len(np.unique(shown(window))) < len(np.unique(before[z]))
    np.testing.assert_array_equal(window.layer("em cells").data[others], before[others])
    with window.qtbot.waitSignal(panel._keeping.started, timeout=120_000):
        pass
    assert not panel.run.button.isEnabled(), "a run now would mix its cells with these"
    window.qtbot.waitUntil(lambda: not panel._keeping.busy, timeout=120_000)
    assert panel.run.button.isEnabled()
    after = np.array(window.layer("em cells").data)
    n = len(set(np.unique(after)) - {0})
    assert panel.run.message.text() == f"{n} cells in 4 sections"
    assert all(len(np.unique(after[k])) < len(np.unique(before[k])) for k in range(4))
    made = Provenance.model_validate(window.layer("em cells").metadata["emseg"])
    assert (made.settings["cells"]["join"], made.settings["cells"]["link"]) == (1, True)
    source = window.controller.session.source
    source.editor.undo()
    np.testing.assert_array_equal(window.layer("em cells").data, before)
    # as a file that is written now
    source.editor.linked.constraints = (Constraint((0, 1, 1), (1, 1, 1), same=True),)
    source.editor.redo()
    made = Provenance.model_validate(window.layer("em cells").metadata["emseg"])
    assert made.settings["constraints"] == 1


def test_edges_are_learnt_saved_put_back_and_opened(
    open_window, em, tmp_path, monkeypatch
) -> None:
    window = open_window(em())
    session, box = window.controller.session, window.cells.edges
    window.click(box.learn.button)
    assert "no cell is known to be right" in box.learn.message.text()
    assert not box.usual.isEnabled()
    assert not box.save.isEnabled()

    kinds = {
        kind: {
            "mean": [0.0] * n,
            "scale": [1.0] * n,
            "networks": [[[[[0.5]] * n, [0.0]]]],
        }
        for kind, n in SEEN.items()
    }
    made = EdgeClassifier(kinds, {"about": "<b>cells</b> of em"})

    def learning(right: float) -> Run:
        def work():
            yield Progress("learning", 1, 2)
            key = session.source.key
            return EdgesLearnt(made, key, 60, 70, 20, right, 0.75)

        source = session.source
        return Run("Edges of em", source, RunScope((0,)), GRAPH, work())

    def learn(right: float) -> None:
        monkeypatch.setattr(
            window.controller.runs, "learn_edges", lambda: learning(right)
        )
        with window.qtbot.waitSignal(box.learn.job.ended, timeout=60_000):
            window.click(box.learn.button)

    learn(0.5)
    assert session.edges is None
    assert "not taken" in box.learn.message.text()
    learn(0.9)
    assert session.edges is made
    assert "90.0% are right, 75.0% were before" in box.learn.message.text()
    assert box.state.text() == f"In use: <b>cells</b> of em ({made.sha256[:8]})"
    box.save_file(tmp_path / "mine.json")
    window.click(box.usual)
    assert session.edges is None
    box.open_file(tmp_path / "mine.json")
    assert session.edges.sha256 == made.sha256
    (tmp_path / "mine.json").write_text("{}")
    box.open_file(tmp_path / "mine.json")
    assert "holds no classifier" in box.learn.message.text()
    assert session.edges.sha256 == made.sha256
