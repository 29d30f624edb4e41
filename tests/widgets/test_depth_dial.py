from __future__ import annotations

import numpy as np
import pytest
from nested import nested_weights


@pytest.fixture
def window(open_window, em, tmp_path):
    """A window with U-Net++ weights on a stack."""
    window = open_window(em())
    session = window.controller.session
    session.predict_settings = session.predict_settings.model_copy(
        update={"tile": None}
    )
    window.membranes.add_weights(nested_weights(tmp_path).path)
    window.choose_scope(window.membranes, "this section")
    return window


def shown(window, column: int) -> list[str]:
    table = window.membranes.depth.table
    return [table.item(row, column).text() for row in range(table.rowCount())]


def test_the_dial_its_table_and_the_heads(window) -> None:
    panel = window.membranes
    for name, there in (("thin", False), ("nested", True)):
        window.choose_weights(name)
        assert panel.depth.isVisibleTo(panel) is there
        assert panel.heads.isHidden() is not there
    # each depth with its parameters, time and score
    assert shown(window, 0) == ["1", "2", "3", "4"]
    assert all("M" in words for words in shown(window, 1))
    assert shown(window, 2) == ["–"] * 4
    assert shown(window, 3) == ["0.910", "0.920", "0.930", "0.940"]
    assert window.membranes.depth.words.text() == "4 of 4"
    # dial and table are one
    depth = window.membranes.depth
    depth.dial.setValue(2)
    assert window.controller.session.predict_settings.depth == 2
    assert depth.table.selectionModel().selectedRows()[0].row() == 1
    depth.table.cellClicked.emit(2, 0)
    assert window.controller.session.predict_settings.depth == 3
    assert depth.dial.value() == 3
    assert depth.words.text() == "3 of 4"
    box = window.membranes.heads.findChild(object, "heads")
    box.setCurrentText("mean")
    assert window.controller.session.predict_settings.heads == "mean"
    assert shown(window, 3) == ["0.910", "–", "–", "–"]


def test_another_depth_runs_only_when_asked(window) -> None:
    panel = window.membranes
    window.run(panel)
    before = window.layer("em membrane probability").data.copy()
    assert not panel.shown.isVisibleTo(panel)
    panel.depth.dial.setValue(1)
    window.settle()
    assert not window.controller.job.busy
    np.testing.assert_array_equal(window.layer("em membrane probability").data, before)
    assert panel.shown.isVisibleTo(panel)
    assert panel.shown.text() == (
        "On screen: nested, depth 4. Run to see nested, depth 1."
    )
    window.run(panel)
    assert not panel.shown.isVisibleTo(panel)
    assert (window.layer("em membrane probability").data != before).any()
    panel.depth.dial.setValue(4)
    assert panel.shown.isVisibleTo(panel)


def test_what_is_on_screen_is_told_of_the_section_on_screen(window) -> None:
    panel = window.membranes
    window.viewer.dims.set_current_step(0, 1)
    window.settle()
    panel.depth.dial.setValue(2)
    window.run(panel)
    panel.depth.dial.setValue(3)
    assert "depth 2" in panel.shown.text()
    window.viewer.dims.set_current_step(0, 2)
    window.settle()
    assert not panel.shown.isVisibleTo(panel)


def test_times_can_be_measured(window) -> None:
    dial = window.membranes.depth
    window.click(dial.measure)
    with window.qtbot.waitSignal(dial.measured, timeout=120_000):
        pass
    assert all("–" not in words and "≈" not in words for words in shown(window, 2))
    assert not dial.measure.isVisibleTo(dial)
    assert "on this machine" in window.membranes.details.text()
