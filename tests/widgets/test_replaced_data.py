"""Data that napari or a plugin puts in a layer of ours, in a real viewer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels
from napari.layers._layer_actions import _convert_dtype
from napari.utils.notifications import notification_manager

from napari_emseg.core.records import Provenance


@pytest.fixture
def window(request, open_window: Callable[..., Any], drawing: Any) -> Any:
    """A window in which cells were found in a stack and panel 4 is open."""
    made = Provenance(kind="membrane").model_dump(mode="json")
    sections = getattr(request, "param", 2)
    data = drawing.membrane
    data = np.stack([data] * sections) if sections > 1 else data
    window = open_window(Image(data, name="p", metadata={"emseg": made}))
    window.settle()
    window.cells.main.findChild(object, "minimum_size").setValue(20)
    if sections > 1:
        window.choose_scope(window.cells, "all sections")
    assert window.run(window.cells).error is None
    window.dock.panel("Correct").layers.show()
    notification_manager.records.clear()
    return window


ALSO_A_PICTURE = pytest.mark.parametrize(
    "window", [1, 2], ids=["a picture", "a stack"], indirect=True
)


def layer_of(window: Any, kind: str) -> Labels:
    return window.viewer.layers[f"p {kind}"]


def recorded(window: Any, kind: str) -> np.ndarray:
    linked = window.controller.session.correcting().linked
    return np.array(linked.arrays[kind]).reshape(layer_of(window, kind).data.shape)


def stroke(window: Any, kind: str, y: int, x: int, value: int) -> None:
    layer = layer_of(window, kind)
    layer.paint((0, y, x)[-layer.ndim :], value)
    window.settle()


def said() -> str:
    return "\n".join(str(n.message) for n in notification_manager.records)


@ALSO_A_PICTURE
def test_strokes_after_another_data_type_are_recorded(window: Any) -> None:
    for kind in ("corrections", "cells", "membranes"):
        layer = layer_of(window, kind)
        before = recorded(window, kind)
        dtype = layer.data.dtype
        window.viewer.layers.selection.active = layer
        notification_manager.records.clear()
        _convert_dtype(window.viewer.layers, "int32")
        assert f"stays {dtype}" in said()
        stroke(window, kind, 30, 20, 1)
        after = recorded(window, kind)
        assert (after != before).any(), kind
        np.testing.assert_array_equal(layer.data, after)
        window.dock.panel("Correct").layers.undo()
        np.testing.assert_array_equal(recorded(window, kind), before)
        np.testing.assert_array_equal(layer.data, before)


def test_cells_that_a_plugin_merged_are_one_step(window: Any) -> None:
    layer, layers = layer_of(window, "cells"), window.dock.panel("Correct").layers
    before = recorded(window, "cells")
    a, b = np.unique(before[before > 0])[:2]
    layer.data = np.where(before == b, a, before).astype(np.int64)
    assert "taken over as one step" in said()
    assert not (recorded(window, "cells") == b).any()
    stroke(window, "cells", 30, 20, 503)
    assert (recorded(window, "cells") == 503).any()
    np.testing.assert_array_equal(layer.data, recorded(window, "cells"))
    layers.undo()
    layers.undo()
    np.testing.assert_array_equal(recorded(window, "cells"), before)


def test_a_stroke_that_waits_is_recorded_before(window: Any) -> None:
    layer, layers = layer_of(window, "corrections"), window.dock.panel("Correct").layers
    layer.paint((0, 30, 20)[-layer.ndim :], 1)
    painted = layer.data.copy()
    changed = painted.copy()
    changed[..., :4, :4] = 2
    layer.data = changed
    np.testing.assert_array_equal(recorded(window, "corrections"), changed)
    layers.undo()
    np.testing.assert_array_equal(recorded(window, "corrections"), painted)
    layers.undo()
    assert not recorded(window, "corrections").any()


CANT_BE_CELLS = {
    "another shape": lambda data: data[..., :-1],
    "negative": lambda data: np.full(data.shape, -1),
    "too large": lambda data: np.full(data.shape, 2**40),
}


@ALSO_A_PICTURE
def test_what_cant_be_cells_is_put_back_and_said(window: Any) -> None:
    layer = layer_of(window, "cells")
    for new, (what, make) in enumerate(CANT_BE_CELLS.items(), 503):
        before = recorded(window, "cells")
        notification_manager.records.clear()
        layer.data = make(layer.data)
        assert "was replaced, and is as before" in said(), what
        np.testing.assert_array_equal(layer.data, before)
        assert layer.data.dtype == np.uint32
        stroke(window, "cells", 30, 20, new)
        assert (recorded(window, "cells") == new).any()


def test_the_layer_shows_what_is_recorded_itself_also_after_a_run(window: Any) -> None:
    layer = layer_of(window, "cells")
    changed = layer.data.copy()
    changed[..., :4, :4] = 700
    layer.data = changed
    assert (recorded(window, "cells")[..., :4, :4] == 700).all()
    assert np.shares_memory(
        layer.data, window.controller.session.correcting().linked.arrays["cells"]
    )
    layer.data = np.where(layer.data > 0, layer.data + 100, 0)
    assert window.run(window.cells).error is None
    np.testing.assert_array_equal(layer.data, recorded(window, "cells"))


def test_corrections_that_are_no_class_are_not_taken_over(window: Any) -> None:
    before = recorded(window, "corrections")
    layer = layer_of(window, "corrections")
    layer.data = np.full(layer.data.shape, 200, np.uint8)
    assert "200 is no class" in said()
    np.testing.assert_array_equal(recorded(window, "corrections"), before)
    np.testing.assert_array_equal(np.asarray(layer.data), before)
