"""What a panel attaches to the viewer is there as long as the panel can be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari import Viewer
from napari.layers import Labels, Shapes
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QDockWidget, QLabel

from napari_emseg._napari.versions import camera_of
from napari_emseg.core.regions import Region
from napari_emseg.widgets.controller import controller_for
from napari_emseg.widgets.correct_panel import CorrectPanel
from napari_emseg.widgets.dock import CorrectDock, EmSegmentation
from napari_emseg.widgets.tools import TOOLS

NAME = "EM segmentation"


def panel_of(dock: Any) -> CorrectPanel:
    if isinstance(dock, CorrectDock):
        return dock.panel
    return dock.panel("Correct")


def dock_of(widget: Any) -> QDockWidget:
    return widget.parentWidget()


def open_dock(viewer: Viewer) -> EmSegmentation:
    dock = EmSegmentation(viewer)
    viewer.window.add_dock_widget(dock, name=NAME)
    dock.folds["Correct"].expand()
    return dock


def close(window: Any, widget: Any) -> None:
    """Press the button of napari's that closes a dock."""
    window.click(dock_of(widget).titleBarWidget().close_button)
    window.qtbot.wait(20)


def attached(viewer: Viewer) -> dict[str, Any]:
    """Return what somebody attached to the viewer: callbacks, keys, overlays."""
    return {
        "drag": len(viewer.mouse_drag_callbacks),
        "move": len(viewer.mouse_move_callbacks),
        "double click": [f.__name__ for f in viewer.mouse_double_click_callbacks],
        "keys": sorted(str(key) for key in viewer.keymap),
        "layers": [layer.name for layer in viewer.layers],
        "pan": camera_of(viewer).mouse_pan,
    }


@pytest.fixture
def window(open_window, em) -> Any:
    """A shown window with results, whose dock was closed; and how napari is then."""
    window = open_window(em(), show=True)
    window.choose_scope(window.membranes, "all sections")
    window.choose_scope(window.cells, "all sections")
    assert window.run(window.membranes).error is None
    assert window.run(window.cells).error is None
    panel = window.dock.panel("Correct")
    window.dock.folds["Correct"].expand()
    assert panel.suggested.regions.review(Region(0, 10, 10, 40, 40))
    close(window, window.dock)
    window.bare = attached(window.viewer)
    assert window.bare["keys"] == []
    assert window.bare["pan"]
    assert "regions" not in window.bare["layers"]
    return window


def by_close_button(window: Any, dock: Any) -> Callable[[], Any]:
    close(window, dock)
    return lambda: open_dock(window.viewer)


def by_hiding(window: Any, dock: Any) -> Callable[[], Any]:
    window.qtbot.waitUntil(dock_of(dock).isVisible)
    action = dock_of(dock).toggleViewAction()
    action.trigger()
    return lambda: (action.trigger(), dock)[1]


def by_tabbing(window: Any, dock: Any) -> Callable[[], Any]:
    viewer = window.viewer
    other = viewer.window.add_dock_widget(QLabel("other"), tabify=True)
    viewer.window._qt_window.tabifyDockWidget(dock_of(dock), other)
    other.show()
    other.raise_()

    def back() -> Any:
        dock_of(dock).raise_()
        return dock

    return back


def by_folding(window: Any, dock: Any) -> Callable[[], Any]:
    fold = dock.folds["Correct"]
    window.click(fold.toggleButton())

    def back() -> Any:
        window.click(fold.toggleButton())
        return dock

    return back


def test_a_tool_is_there_as_long_as_a_dock_can_be_seen(window) -> None:
    two_docks_share_one_tool(window)
    a_dock_that_floats_keeps_its_tool(window)
    what_cannot_be_seen_does_nothing(window)


def what_cannot_be_seen_does_nothing(window) -> None:
    viewer, qtbot = window.viewer, window.qtbot
    dock = open_dock(viewer)
    for away in (by_close_button, by_hiding, by_tabbing, by_folding) * 2:
        qtbot.waitUntil(lambda: "K" in attached(viewer)["keys"])
        qtbot.waitUntil(lambda: "regions" in viewer.layers)
        panel = panel_of(dock)
        qtbot.waitUntil(lambda: panel.height() > 100)  # noqa: B023 - at once
        window.click(panel.tools["Merge"])
        here = attached(viewer)
        assert here["drag"] == window.bare["drag"] + 1, away
        assert here["move"] == window.bare["move"] + 1
        assert here["double click"] == ["_on_double_click"]
        assert [x for x in here["layers"] if x.startswith("regions")] == ["regions"]
        assert not here["pan"]
        back = away(window, dock)
        qtbot.waitUntil(lambda: attached(viewer)["keys"] == [])
        qtbot.wait(20)
        gone = attached(viewer)
        shown = {"em corrections", *window.bare["layers"]}
        assert set(gone.pop("layers")) == shown, away
        assert gone == {k: v for k, v in window.bare.items() if k != "layers"}
        dock = back()


def a_dock_that_floats_keeps_its_tool(window) -> None:
    viewer, qtbot = window.viewer, window.qtbot
    dock = open_dock(viewer)
    panel = panel_of(dock)
    qtbot.waitUntil(lambda: "K" in attached(viewer)["keys"])
    qtbot.waitUntil(lambda: panel.height() > 100)
    window.click(panel.tools["Merge"])
    here = attached(viewer)
    for floats in (True, False):
        dock_of(dock).setFloating(floats)
        qtbot.waitUntil(lambda: dock_of(dock).isFloating() == floats)  # noqa: B023
        qtbot.waitUntil(dock.isVisible)
        QApplication.processEvents()
        assert panel.tools["Merge"].isChecked(), floats
        assert attached(viewer) == here
    close(window, dock)


def two_docks_share_one_tool(window) -> None:
    viewer = window.viewer
    first = open_dock(viewer)
    second = CorrectDock(viewer)
    viewer.window.add_dock_widget(second, name="4 Correct")
    window.click(panel_of(first).tools["Split cell"])
    window.click(panel_of(second).tools["Merge"])
    assert attached(viewer)["drag"] == window.bare["drag"] + 1
    for dock in (first, second):
        pressed = [n for n, b in panel_of(dock).tools.items() if b.isChecked()]
        assert pressed == ["Merge"]
    close(window, second)
    assert attached(viewer)["drag"] == window.bare["drag"] + 1, "one can be seen"
    assert "K" in attached(viewer)["keys"]
    press(window, Qt.Key.Key_K)
    assert panel_of(first).tools["Split cell"].isChecked()
    close(window, first)
    assert attached(viewer)["drag"] == window.bare["drag"]
    assert attached(viewer)["keys"] == []


def press(window: Any, key: Qt.Key, modifiers: Any = None) -> None:
    """Press a key where napari looks for keys: the canvas of the shown window."""
    none = Qt.KeyboardModifier.NoModifier
    canvas = window.viewer.window._qt_viewer.canvas.native
    window.qtbot.keyClick(canvas, key, none if modifiers is None else modifiers)


def select(viewer: Viewer, kind: str) -> None:
    if kind == "other labels":
        viewer.add_labels(np.zeros((4, 96, 112), np.uint8))
    elif kind == "shapes":
        viewer.add_shapes(ndim=3)
    elif kind == "points":
        viewer.add_points(ndim=3)
    elif kind == "image":
        viewer.layers.selection.active = viewer.layers["em"]
    else:
        viewer.layers.selection.clear()


def test_keys_are_ours_as_long_as_a_dock_is_open(window) -> None:
    dock = open_dock(window.viewer)
    panel = panel_of(dock)
    keys_are_listed_and_rebound_in_preferences(window, panel)
    keys_work_whatever_layer_is_selected(window, panel)
    panel.pointer.choose(None)
    a_stroke_on_labels_of_ones_own_is_undone_first(window)
    shapes_are_still_shapes(window)
    napari_has_its_keys_back(window, dock)
    strokes_count_while_no_dock_is_open(window)


def keys_work_whatever_layer_is_selected(window, panel) -> None:
    viewer = window.viewer
    hand = window.controller.session.source.editor
    done = len(hand.history.undoable)
    both = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    for kind in ("other labels", "shapes", "points", "image", "none"):
        select(viewer, kind)
        press(window, Qt.Key.Key_D)
        assert panel.tools["Delete membrane"].isChecked(), kind
        press(window, Qt.Key.Key_T)
        assert panel.tools["Merge"].isChecked()
        press(window, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
        assert len(hand.history.undoable) == done - 1
        press(window, Qt.Key.Key_Z, both)
        assert len(hand.history.undoable) == done
        active = viewer.layers.selection.active
        assert active is None or getattr(active, "mode", "pan_zoom") == "pan_zoom"


def a_stroke_on_labels_of_ones_own_is_undone_first(window) -> None:
    viewer = window.viewer
    own = viewer.add_labels(np.zeros((4, 96, 112), np.uint8), name="own")
    hand = window.controller.session.source.editor
    done = len(hand.history.undoable)
    own.data_setitem((np.array([0]), np.array([3]), np.array([4])), 7)
    press(window, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert own.data[0, 3, 4] == 0
    assert len(hand.history.undoable) == done
    press(window, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert len(hand.history.undoable) == done - 1


def napari_has_its_keys_back(window, dock) -> None:
    shapes = window.viewer.add_shapes(ndim=3)
    close(window, dock)
    press(window, Qt.Key.Key_T)
    assert shapes.mode == "add_ellipse" or shapes.mode != "pan_zoom"


def keys_are_listed_and_rebound_in_preferences(window, panel) -> None:
    from napari._qt.widgets.qt_keyboard_settings import ShortcutEditor

    editor = ShortcutEditor()
    window.qtbot.addWidget(editor)
    table = editor._table
    rows = {table.item(r, 0).text(): r for r in range(table.rowCount())}
    row = rows["EM segmentation: Split cell: turn the tool on or off"]
    assert table.item(row, 2).text() == "K"
    try:
        table.item(row, 2).setText("Alt+J")
        assert panel.tools["Split cell"].text() == "Split cell (Alt+J)"
        press(window, Qt.Key.Key_K)
        assert not panel.tools["Split cell"].isChecked()
        press(window, Qt.Key.Key_J, Qt.KeyboardModifier.AltModifier)
        assert panel.tools["Split cell"].isChecked()
    finally:
        table.item(row, 2).setText("K")
    assert panel.tools["Split cell"].text() == "Split cell (K)"


def strokes_count_while_no_dock_is_open(window) -> None:
    viewer = window.viewer
    cells: Labels = viewer.layers["em cells"]
    hand = controller_for(viewer).session.source.editor
    done = len(hand.history.undoable)
    cells.selected_label = 0
    cells.data_setitem((np.array([1]), np.array([50]), np.array([50])), 99)
    window.qtbot.waitUntil(lambda: len(hand.history.undoable) == done + 1)
    viewer.layers.selection.active = cells
    press(window, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert len(hand.history.undoable) == done


def shapes_are_still_shapes(window) -> None:
    """Escape and Enter are left to a layer where no tool has begun anything."""
    shapes: Shapes = window.viewer.add_shapes(ndim=3)
    finished = []
    shapes._finish_drawing = lambda *_: finished.append(True)
    press(window, Qt.Key.Key_Escape)
    assert finished


def test_nothing_is_done_to_a_section_that_is_not_seen(open_window, em) -> None:
    """The slider goes as far as the largest stack, which needn't be that at work."""
    window = open_window(em("st"), show=True)
    for panel in (window.membranes, window.cells):
        window.choose_scope(panel, "all sections")
        assert window.run(panel).error is None
    more = em("st2")
    more.data = np.concatenate([more.data, more.data[:2]])
    window.viewer.add_layer(more)
    source = window.controller.session.source
    assert source.name == "st"
    n = source.stack.shape[0]
    why = f"st has no section here; move the slider to 0-{n - 1}"
    window.dock.folds["Correct"].expand()
    panel, checks = window.dock.panel("Correct"), window.data.checks
    panel.pointer.choose(next(t for t in TOOLS if t.name == "Lock"))
    window.viewer.dims.set_current_step(0, n)
    window.choose_scope(window.membranes, "this section")
    hand = source.editor
    done = len(hand.history.undoable)

    assert checks.exclude.toolTip() == why
    assert not checks.exclude.isEnabled()
    checks._on_exclude(checked=True)  # whatever else may call it
    assert panel.review.label.text().startswith(why)
    assert not panel.review.status.isEnabled()
    press(window, Qt.Key.Key_R)
    assert panel.message.text() == why
    assert window.membranes.estimate.text() == why
    assert not window.membranes.run.button.isEnabled()
    panel.suggested.regions.view.click()
    panel.suggested.regions.back.click()
    panel.pointer.choose(None)
    press(window, Qt.Key.Key_K)
    assert panel.message.text() == why
    assert panel.pointer.tool is None
    now = window.controller.session.source
    assert not now.reviewed
    assert not now.excluded
    assert not hand.regions
    assert len(hand.history.undoable) == done

    window.viewer.dims.set_current_step(0, n - 1)
    # the number of napari's slider, and the same one in what is said of it
    assert window.viewer.dims.current_step[0] == n - 1
    assert panel.review.label.text().startswith(f"Section {n - 1} (0 to {n - 1})")
    assert checks.exclude.isEnabled()
    press(window, Qt.Key.Key_R)
    assert panel.message.text() == f"section {n - 1} is reviewed"
    assert window.controller.session.source.reviewed == {n - 1}


def test_what_was_done_is_taken_back_one_by_one(window) -> None:
    dock = open_dock(window.viewer)
    ctrl_z_takes_back_r_and_no_other_edit(window, panel_of(dock))
    ctrl_z_takes_back_that_a_section_is_excluded(window, dock)
    a_stroke_with_no_class_is_refused_and_put_back(window, panel_of(dock))


def ctrl_z_takes_back_r_and_no_other_edit(window, panel) -> None:
    viewer = window.viewer
    session = window.controller.session
    hand = session.source.editor
    before, done = np.array(hand.corrections), len(hand.history.undoable)
    viewer.dims.set_current_step(0, 3)
    press(window, Qt.Key.Key_R)
    assert panel.review.status.currentText() == "reviewed"
    viewer.dims.set_current_step(0, 1)
    press(window, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert viewer.dims.current_step[0] == 3, "it is seen what is taken back"
    assert panel.message.text() == "undone: marked section 3 as reviewed"
    assert panel.review.status.currentText() == "to do"
    assert session.source.reviewed == frozenset()
    assert len(hand.history.undoable) == done
    np.testing.assert_array_equal(hand.corrections, before)
    both = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    press(window, Qt.Key.Key_Z, both)
    assert session.source.reviewed == {3}
    assert panel.review.status.currentText() == "reviewed"
    press(window, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert session.source.reviewed == frozenset()


def ctrl_z_takes_back_that_a_section_is_excluded(window, dock) -> None:
    viewer, session = window.viewer, window.controller.session
    panel = panel_of(dock)
    viewer.dims.set_current_step(0, 3)
    press(window, Qt.Key.Key_R)
    panel.review.status.setCurrentText("excluded")
    panel.review.status.activated.emit(panel.review.status.currentIndex())
    assert (session.source.reviewed, session.source.excluded) == (set(), {3})
    viewer.dims.set_current_step(0, 1)
    press(window, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert panel.message.text() == "undone: marked section 3 as excluded"
    assert panel.review.status.currentText() == "reviewed"
    assert (session.source.reviewed, session.source.excluded) == ({3}, set())
    assert not dock.panel("Data").checks.exclude.isChecked()


def a_stroke_with_no_class_is_refused_and_put_back(window, panel) -> None:
    layer = window.viewer.layers["em corrections"]
    hand = window.controller.session.source.editor
    before, done = np.array(hand.corrections), len(hand.history.undoable)
    at = (np.array([1]), np.array([50]), np.array([50]))
    layer.data_setitem(at, 200)
    window.qtbot.waitUntil(lambda: panel.message.text().startswith("200 is no class"))
    words = panel.message.text()
    assert "1 membrane, 2 inside, or 0" in words
    assert "New…" in words
    np.testing.assert_array_equal(hand.corrections, before)
    assert len(hand.history.undoable) == done
    code = window.controller.learning.material.add_class("mitochondria")
    layer.data_setitem(at, code)
    window.qtbot.waitUntil(lambda: len(hand.history.undoable) == done + 1)
    assert hand.corrections[1, 50, 50] == code
