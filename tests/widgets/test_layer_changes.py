"""Layers of the plugin come and go when napari is not changing its list itself."""

from __future__ import annotations

from typing import Any

import pytest
from napari._qt.containers import QtLayerList
from qtpy.QtCore import Qt
from qtpy.QtGui import QOpenGLContext

from napari_emseg.core.regions import Region


def corrected(open_window: Any, em: Any) -> Any:
    """Return a shown window with results, and outlines of a reviewed region."""
    window = open_window(em(), show=True)
    window.choose_scope(window.membranes, "all sections")
    window.choose_scope(window.cells, "all sections")
    assert window.run(window.membranes).error is None
    assert window.run(window.cells).error is None
    correct = window.dock.folds["Correct"]
    correct.expand()
    panel = correct.content()
    assert panel.suggested.regions.review(Region(0, 10, 10, 40, 40)), (
        panel.message.text()
    )
    window.qtbot.waitUntil(lambda: "regions" in window.viewer.layers)
    return window


@pytest.mark.parametrize("how", ["Delete", "button"])
def test_all_layers_are_deleted_at_once(open_window, em, how: str) -> None:
    window = corrected(open_window, em)
    layers = window.viewer.layers
    shown = window.viewer.window._qt_window.findChild(QtLayerList)
    layers.select_all()
    if how == "Delete":
        window.qtbot.keyClick(shown, Qt.Key.Key_Delete)
    else:
        buttons = window.viewer.window._qt_viewer.layerButtons
        window.click(buttons.deleteButton)
    window.qtbot.wait(50)
    assert [layer.name for layer in layers] == []
    assert window.controller.session.source is None
    window.viewer.add_layer(em("again"))
    assert window.run(window.membranes).error is None


def test_a_loop_over_the_list_finds_what_it_counted(open_window, em) -> None:
    window = corrected(open_window, em)
    layers = window.viewer.layers
    there = list(layers)
    assert "regions" in layers
    for layer in there:  # as napari does, in an order of its own
        layers.remove(layer)
    assert len(layers) == 0
    window.qtbot.wait(20)
    assert len(layers) == 0


def test_a_removed_layer_is_freed_in_the_context_it_was_drawn_in(
    open_window, em, monkeypatch
) -> None:
    """Otherwise Mesa ends the process as it draws the next time."""
    window = open_window(em(), em("other"), em("third"), show=True)
    canvas = window.viewer.window._qt_viewer.canvas
    window.qtbot.waitUntil(canvas.native.isValid)
    gl, found = canvas._scene_canvas.context, []
    finish = type(gl).finish

    def watched(*_: Any) -> None:
        found.append(QOpenGLContext.currentContext() == canvas.native.context())
        finish(gl)

    monkeypatch.setattr(gl, "finish", watched)
    foreign, surface = QOpenGLContext(), window.viewer.window._qt_window.windowHandle()
    assert foreign.create()
    assert foreign.makeCurrent(surface)
    window.viewer.layers.remove("other")
    window.viewer.layers.selection = {window.viewer.layers["third"]}
    assert foreign.makeCurrent(surface)
    window.viewer.layers.remove_selected()
    assert found == [True, True]
