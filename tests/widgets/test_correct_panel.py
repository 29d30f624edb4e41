"""The tools of 4 Correct by simulated mouse and keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pytest
from napari.layers import Image, Layer
from napari.utils._proxies import ReadOnlyWrapper
from napari.utils.action_manager import action_manager
from napari.utils.interactions import (
    mouse_double_click_callbacks,
    mouse_move_callbacks,
    mouse_press_callbacks,
    mouse_release_callbacks,
)
from napari.utils.notifications import notification_manager
from written_tables import written

from napari_emseg._napari import placement_of, stack_of
from napari_emseg._napari.layers import lies
from napari_emseg._napari.versions import camera_of
from napari_emseg.core.records import Provenance
from napari_emseg.core.regions import Region
from napari_emseg.proofreading import draw_wire
from napari_emseg.widgets import keys
from napari_emseg.widgets.correct_panel import CorrectPanel
from napari_emseg.widgets.linked_layers import LINKED
from napari_emseg.widgets.tools import TOOLS, CanvasPoint, Gesture, Tool


@dataclass
class Mouse:
    """What napari hands to mouse callbacks."""

    type: str
    position: tuple[float, ...]
    pos: np.ndarray
    button: int = 1
    handled: bool = False
    modifiers: tuple[str, ...] = ()
    dims_displayed: tuple[int, ...] = (1, 2)
    view_direction: Any = None
    is_dragging: bool = False


class Hand:
    """A hand on the mouse over a layer's pixels."""

    def __init__(self, window: Any, layer: Any) -> None:
        self.window, self.layer = window, layer

    def event(self, kind: str, z: int, y: float, x: float) -> Any:
        data = (z, y, x)[-self.layer.ndim :]
        world = tuple(self.layer.data_to_world(data))
        event = Mouse(kind, world, np.array([x * 10, y * 10]))
        return ReadOnlyWrapper(event, exceptions=("handled",))

    def move(self, z: int, y: float, x: float) -> None:
        event = self.event("mouse_move", z, y, x)
        mouse_move_callbacks(self.window.viewer, event)

    def drag(self, z: int, *points: tuple[float, float]) -> None:
        viewer = self.window.viewer
        mouse_press_callbacks(viewer, self.event("mouse_press", z, *points[0]))
        for point in points[1:]:
            mouse_move_callbacks(viewer, self.event("mouse_move", z, *point))
        mouse_release_callbacks(viewer, self.event("mouse_release", z, *points[-1]))

    def click(self, z: int, y: float, x: float) -> None:
        self.drag(z, (y, x))

    def double_click(self, z: int, y: float, x: float) -> None:
        event = self.event("mouse_double_click", z, y, x)
        mouse_double_click_callbacks(self.window.viewer, event)


def press(window: Any, key: str) -> None:
    """Press a key as the viewer does: the active layer's keys come first."""
    from napari.utils.key_bindings import coerce_keybinding

    key = coerce_keybinding(key)
    active = window.viewer.layers.selection.active
    for owner in (active, window.viewer):
        if owner is not None and key in owner.keymap:
            owner.keymap[key](owner)
            return
    msg = f"{key} is not bound"
    raise KeyError(msg)


@dataclass
class Sitting:
    window: Any
    panel: CorrectPanel
    hand: Hand

    def cells(self, z: int = 0) -> np.ndarray:
        return np.array(self.work.linked.arrays["cells"][z])

    def state(self) -> dict[str, np.ndarray]:
        self.work.linked.settle_all()
        return {name: np.array(a) for name, a in self.work.linked.arrays.items()}

    @property
    def work(self) -> Any:
        return self.window.controller.session.correcting()

    def choose(self, name: str) -> None:
        self.window.click(self.panel.tools[name])
        self.window.qtbot.waitUntil(
            lambda: self.panel.layers.layer("corrections") is not None, timeout=120_000
        )

    @property
    def message(self) -> str:
        return self.panel.message.text()


@pytest.fixture
def open_sitting(open_window, drawing) -> Callable[..., Sitting]:
    def open_sitting(
        *, sections: int = 1, link: bool = False, **options: Any
    ) -> Sitting:
        made = Provenance(kind="membrane").model_dump(mode="json")
        data = np.stack([drawing.membrane] * sections) if sections > 1 else None
        layer = Image(
            drawing.membrane if data is None else data,
            name="p",
            metadata={"emseg": made},
            **options,
        )
        window = open_window(layer)
        window.settle()
        window.cells.main.findChild(object, "minimum_size").setValue(20)
        window.cells.main.findChild(object, "link").setChecked(link)
        if sections > 1:
            window.choose_scope(window.cells, "all sections")
        assert window.run(window.cells).error is None
        window.dock.folds["Correct"].expand()
        panel = window.dock.panel("Correct")
        return Sitting(window, panel, Hand(window, layer))

    return open_sitting


def test_keys(open_sitting) -> None:
    sitting = open_sitting()
    keys_and_tooltips(sitting)
    sitting.choose("Split cell")
    napari_can_name_what_is_bound_to_keys(sitting)
    keys_go_with_the_panel(sitting)


def napari_can_name_what_is_bound_to_keys(sitting) -> None:
    # it does so at every key that is pressed over a layer, and fails on a partial
    layers = [sitting.panel.layers.layer(name) for name in LINKED]
    for owner in (sitting.window.viewer, *layers):
        assert owner.keymap
        assert all(act.__name__ for act in owner.keymap.values())


SPATIAL = {"scale": (50, 4, 4), "translate": (100, 30, -20), "units": ("nm",) * 3}


def cut_and_undo(sitting, z: int = 0) -> None:
    before = sitting.cells(z)
    cell = before[30, 10]
    assert cell > 0
    sitting.choose("Split cell")
    sitting.hand.drag(z, (28, 1), (29, 20), (28, 41))
    after = sitting.cells(z)
    assert len(np.unique(after)) == len(np.unique(before)) + 1, sitting.message
    assert "cut cell" in sitting.message
    assert (sitting.work.corrections[z] == 1).any()
    sitting.window.click(sitting.panel.undo)
    np.testing.assert_array_equal(sitting.cells(z), before)
    sitting.window.click(sitting.panel.redo)
    np.testing.assert_array_equal(sitting.cells(z), after)


TURNED = [[0.8, -0.6, 5], [0.6, 0.8, 0], [0, 0, 1]]


MOVED = {"translate": (0, 500), "affine": TURNED, "scale": (3, 3), "rotate": 30}


def test_in_a_shown_window(open_sitting) -> None:
    sitting = open_sitting()
    sitting.window.viewer.window.show()
    hints_and_refusals_stay_where_napari_writes(sitting)
    a_result_that_is_moved_by_itself_goes_back(sitting)
    what_was_made_follows_its_stack_when_that_is_moved(sitting)


def what_was_made_follows_its_stack_when_that_is_moved(sitting) -> None:
    viewer = sitting.window.viewer
    sitting.choose("Split cell")
    sitting.hand.drag(0, (28, 1), (29, 20), (28, 41))
    sitting.work.review(Region(0, 10, 10, 20, 20))
    source = sitting.hand.layer
    names = [layer.name for layer in viewer.layers]
    assert {"p cells", "p membranes", "p corrections", "correction preview"} < {*names}
    for name, value in MOVED.items():
        setattr(source, name, value)
        sitting.window.settle()
        for layer in viewer.layers:
            for which, placed in placement_of(source).items():
                at = np.asarray(getattr(layer, which))
                np.testing.assert_array_equal(at, np.asarray(placed), layer.name)
        stack = sitting.window.controller.session.source.stack
        assert stack.origin_nm == stack_of(source).origin_nm, name
    cells = sitting.cells()
    sitting.choose("Lock")
    over = Hand(sitting.window, sitting.panel.layers.layer("cells"))
    over.click(0, 6, 46)
    assert sitting.work.linked.locked == {cells[6, 46]}


def a_result_that_is_moved_by_itself_goes_back(sitting) -> None:
    cells, source = sitting.panel.layers.layer("cells"), sitting.hand.layer
    for name, value in MOVED.items():
        notification_manager.records.clear()
        setattr(cells, name, value)
        assert not lies(cells, placement_of(source)), name
        sitting.window.qtbot.waitUntil(lambda: lies(cells, placement_of(source)))
        assert [str(n.message) for n in notification_manager.records] == [
            "p cells was put back over p: move p, and its results follow"
        ]


def test_results_of_a_stack_that_was_deleted_are_no_stacks(open_sitting) -> None:
    sitting = open_sitting()
    window, session = sitting.window, sitting.window.controller.session
    sitting.choose("Split cell")
    results = window.controller.results(session.source.key)
    shown = {"membrane probability": np.zeros((1, 60, 60), np.float32)}
    results.show_now(shown)
    made = window.layer("p membrane probability")
    window.viewer.layers.remove("p")
    assert session.source is None
    window.viewer.add_layer(Layer.create(*made.as_layer_data_tuple()))
    made.translate = (0, 5)  # it is a layer like any other now
    assert not results._at_rest.isActive()
    assert session.source is None
    assert window.data.layers.findText(made.name) >= 0, "by hand it may be chosen"
    em = window.viewer.add_image(np.zeros((8, 8), np.uint8), name="other")
    assert session.source.key == str(em.unique_id)


def test_tools_on_a_picture(open_sitting) -> None:
    sitting = open_sitting()
    cut_and_undo(sitting)
    sitting.window.click(sitting.panel.undo)
    a_brush_over_a_locked_cell_is_refused_in_words(sitting)
    delete_fill_and_lock(sitting)
    merge_by_two_clicks(sitting)
    a_gap_shows_what_it_would_separate_first(sitting)


def merge_by_two_clicks(sitting) -> None:
    cells = sitting.cells()
    a, b = cells[15, 10], cells[6, 46]
    assert 0 < b != a > 0
    sitting.choose("Merge")
    assert cells[15, 30] != a
    sitting.hand.click(0, 15, 10)
    assert "now click the other cell" in sitting.message
    sitting.hand.click(0, 15, 30)
    merged = sitting.cells()
    assert merged[15, 10] == merged[15, 30] > 0, sitting.message


def delete_fill_and_lock(sitting) -> None:
    cells = sitting.cells()
    sitting.choose("Lock")
    sitting.hand.click(0, 30, 10)
    assert cells[30, 10] in sitting.work.linked.locked
    sitting.choose("Split cell")
    sitting.hand.drag(0, (28, 1), (29, 20), (28, 41))
    assert "is locked" in sitting.message
    np.testing.assert_array_equal(sitting.cells(), cells)
    sitting.choose("Lock")
    sitting.hand.click(0, 30, 10)
    assert not sitting.work.linked.locked
    sitting.choose("Delete membrane")
    sitting.hand.click(0, 30, 10)
    assert "there is no membrane at" in sitting.message
    sitting.choose("Fill")
    sitting.hand.click(0, 30, 10)
    assert "has no holes" in sitting.message


def hints_and_refusals_stay_where_napari_writes(sitting) -> None:
    viewer, panel = sitting.window.viewer, sitting.panel
    bar = viewer.window._qt_window.statusBar()._help

    def move(x: float) -> str:
        """Move the pointer as napari does; return what stands in the bar."""
        viewer.cursor.position = (5.0, x)
        viewer.window._qt_window.set_status_and_tooltip(("p [5 5]", ""))
        return bar.text()

    of_napari = move(1)
    sitting.choose("Split cell")
    hint = "Split cell: drag across a cell, from membrane to membrane"
    assert move(2) == hint
    assert panel.hint.text() == hint
    sitting.hand.drag(0, (28, 5), (28, 6), (28, 7))
    assert "doesn't cut" in sitting.message
    assert move(3) == sitting.message
    assert panel.hint.text() == hint
    mouse_press_callbacks(viewer, sitting.hand.event("mouse_press", 0, 28, 5))
    assert move(4) == hint
    mouse_release_callbacks(viewer, sitting.hand.event("mouse_release", 0, 28, 5))
    sitting.choose("Lock")
    sitting.hand.click(0, 30, 10)
    sitting.window.click(panel.undo)
    assert move(5) == sitting.message
    assert "undone" in sitting.message
    viewer.layers.selection.active = viewer.layers["p"]
    assert move(6) == sitting.message
    sitting.choose("Lock")
    viewer.layers.selection.active = viewer.layers["p cells"]
    viewer.layers.selection.active = viewer.layers["p"]
    assert panel.pointer.tool is None
    assert not panel.hint.isVisibleTo(panel)
    assert move(7) == of_napari


def test_tools_in_another_section_than_the_first(open_sitting) -> None:
    sitting = open_sitting(sections=2, **SPATIAL)
    live_wire_by_clicks_and_enter(sitting)
    cut_and_undo(sitting, z=1)
    sitting.window.click(sitting.panel.undo)
    sitting.window.viewer.layers.reverse()
    before = sitting.cells(1)
    sitting.hand.drag(1, (28, 1), (29, 20), (28, 41))
    assert len(np.unique(sitting.cells(1))) == len(np.unique(before)) + 1


def live_wire_by_clicks_and_enter(sitting) -> None:
    wiring = sitting.panel.pointer.wiring
    sitting.choose("Live-wire")
    assert "click along a membrane" in sitting.window.viewer.help
    sitting.hand.click(0, 19, 3)
    sitting.window.qtbot.waitUntil(lambda: wiring._field is not None, timeout=120_000)
    sitting.hand.move(0, 19, 40)
    shown = sitting.window.layer("correction preview")
    assert len(shown.data) == 1
    assert shown.data[0][:, 0].max() == 0
    sitting.hand.click(0, 19, 40)
    sitting.window.qtbot.waitUntil(lambda: not wiring.waiting, timeout=120_000)
    press(sitting.window, "Enter")
    assert "membrane of" in sitting.message
    assert (sitting.work.corrections[0] == 1).sum() > 40
    assert not wiring.active
    assert len(shown.data) == 0


def test_a_wire_is_set_and_dropped(open_sitting) -> None:
    sitting = open_sitting()
    escape_drops_the_wire_and_a_double_click_sets_it(sitting)
    press(sitting.window, "Control-Z")
    assert not sitting.work.corrections.any()
    clicks_of_the_wire_wait_their_turn(sitting)


def escape_drops_the_wire_and_a_double_click_sets_it(sitting) -> None:
    wiring = sitting.panel.pointer.wiring
    viewer = sitting.window.viewer
    zoom = list(viewer.mouse_double_click_callbacks)
    sitting.choose("Live-wire")
    sitting.hand.click(0, 19, 3)
    press(sitting.window, "Escape")
    assert not wiring.active
    sitting.window.settle()
    sitting.hand.click(0, 19, 3)
    sitting.window.qtbot.waitUntil(lambda: wiring._field is not None, timeout=120_000)
    sitting.hand.click(0, 19, 20)
    sitting.window.qtbot.waitUntil(lambda: not wiring.waiting, timeout=120_000)
    sitting.hand.double_click(0, 19, 20)
    assert sitting.work.corrections.any()
    sitting.choose("Live-wire")
    assert viewer.mouse_double_click_callbacks == zoom
    assert "correction preview" not in viewer.layers


def a_gap_shows_what_it_would_separate_first(sitting) -> None:
    sitting.choose("Merge")
    cells = sitting.cells()
    if cells[15, 10] != cells[15, 30]:
        sitting.hand.drag(0, (11, 15), (11, 25))
    assert len(set(sitting.cells()[15, [10, 30]])) == 1
    sitting.work.corrections[:] = 0
    before = sitting.cells()
    sitting.choose("Close gap")
    sitting.hand.move(0, 10, 22)
    sitting.window.qtbot.waitUntil(
        lambda: "separates" in sitting.window.viewer.help, timeout=120_000
    )
    np.testing.assert_array_equal(sitting.cells(), before)
    assert len(sitting.window.layer("correction preview").data) == 1
    sitting.hand.click(0, 10, 22)
    assert len(set(sitting.cells()[15, [10, 30]])) == 2, sitting.message


def test_tools_in_3d(open_sitting) -> None:
    sitting = open_sitting(sections=3, **SPATIAL)
    three_d_tools_across_sections(sitting)
    a_merge_in_3d_reaches_sections_that_nobody_looks_at(sitting)


def three_d_tools_across_sections(sitting) -> None:
    a, b = sitting.cells(0)[30, 10], sitting.cells(2)[30, 10]
    assert a != b
    sitting.choose("Merge in 3-D")
    sitting.hand.click(0, 30, 10)
    sitting.hand.click(2, 30, 10)
    sitting.window.viewer.dims.set_current_step(0, 2)
    assert sitting.cells(2)[30, 10] == a
    sitting.choose("Split in 3-D")
    sitting.hand.click(2, 30, 10)
    assert "not in the section before" in sitting.message
    press(sitting.window, "Control-Z")
    assert sitting.cells(2)[30, 10] == b


def a_merge_in_3d_reaches_sections_that_nobody_looks_at(sitting) -> None:
    """Whoever reads the layer, such as napari's own Save, finds it in all sections."""
    layer = sitting.panel.layers.layer("cells")
    a, b = layer.data[0, 30, 10], layer.data[2, 30, 10]
    sitting.choose("Merge in 3-D")
    sitting.hand.click(2, 30, 10)
    sitting.hand.click(0, 30, 10)
    sitting.window.viewer.dims.set_current_step(0, 1)
    for key, there in (("Control-Z", a), ("Control-Shift-Z", b)):
        press(sitting.window, key)
        sitting.window.qtbot.waitUntil(
            lambda there=there: layer.data[0, 30, 10] == there
        )
    assert a != b


def test_naparis_strokes_and_ours_are_one_history(open_sitting) -> None:
    sitting = open_sitting(sections=2, **SPATIAL)
    work = sitting.work
    first = {name: np.array(a) for name, a in work.linked.arrays.items()}
    sitting.choose("Split cell")
    sitting.hand.drag(0, (28, 1), (29, 20), (28, 41))
    sitting.choose("Split cell")
    membranes = sitting.panel.layers.layer("membranes")
    corrections = sitting.panel.layers.layer("corrections")
    sitting.window.viewer.layers.selection.active = membranes
    membranes.brush_size = 4
    membranes.paint((1, 15, 10), 1)
    sitting.window.settle()
    assert (work.corrections[1] == 1).any()
    assert not sitting.cells(1)[15, 10]
    corrections.paint((1, 30, 20), 1)
    sitting.window.settle()
    assert not sitting.cells(1)[30, 20]
    assert membranes.data[1, 30, 20] == 1
    states = len(work.history.undoable)
    press(sitting.window, "Control-Z")
    press(sitting.window, "Control-Z")
    assert len(work.history.undoable) == states - 2
    press(sitting.window, "Control-Shift-Z")
    press(sitting.window, "Control-Z")
    press(sitting.window, "Control-Z")
    np.testing.assert_equal(
        {name: np.array(a) for name, a in work.linked.arrays.items()}, first
    )


def test_strokes_that_wait_are_taken_one_after_the_other(open_sitting) -> None:
    sitting = open_sitting(sections=2)
    first = sitting.state()
    sitting.choose("Lock")
    sitting.hand.click(1, 30, 10)
    membranes = sitting.panel.layers.layer("membranes")
    corrections = sitting.panel.layers.layer("corrections")
    membranes.brush_size = corrections.brush_size = 5
    for _ in range(2):
        membranes.paint((1, 30, 10), 1)  # locked
        membranes.paint((1, 31, 11), 0)
        corrections.paint((0, 15, 10), 1)
        membranes.paint((0, 15, 11), 0)
        corrections.paint((0, 15, 12), 2)
        membranes.paint((0, 16, 13), 1)
        sitting.window.settle()
    while sitting.work.history.undoable[0].tool != "run":
        sitting.window.click(sitting.panel.undo)
    np.testing.assert_equal(sitting.state(), first)


STEPS = 300


def random_step(sitting: Sitting, rng: np.random.Generator) -> None:
    """Paint on a layer, use a tool, undo or redo, as it comes."""
    viewer, panel = sitting.window.viewer, sitting.panel
    y, x = (int(v) for v in rng.integers(0, sitting.cells().shape))
    z = int(rng.integers(2))
    kind = rng.choice(["paint", "drag", "fill", "tool", "undo", "redo", "look"])
    name = rng.choice(["membranes", "corrections", "cells"])
    layer = panel.layers.layer(name)
    value = int(rng.integers(0, 2 if name == "membranes" else 4))
    layer.brush_size = int(rng.integers(1, 9))
    if kind == "paint":
        layer.paint((z, y, x), value)
    elif kind == "drag":
        with layer.block_history():
            for k in range(5):
                layer.paint((z, y, (x + 3 * k) % layer.data.shape[2]), value)
    elif kind == "fill" and name != "membranes":
        layer.fill((z, y, x), value)
    elif kind == "tool":
        tool = TOOLS[rng.integers(len(TOOLS))]
        if panel.pointer.tool is not tool:
            panel._on_tool(tool)
        ends = rng.integers(0, sitting.cells().shape, (2, 2))
        if tool.gesture == "wire":
            random_wire(sitting, rng, z, ends)
        elif tool.gesture in ("stroke", "stroke or two clicks"):
            sitting.hand.drag(z, *(tuple(end) for end in ends))
        else:
            sitting.hand.click(z, y, x)
    elif kind == "undo":
        done = len(panel.layers.hand.history.undoable) - 1  # the run stays
        for _ in range(min(done, rng.integers(1, 3))):
            panel.layers.undo()
    elif kind == "redo":
        for _ in range(rng.integers(1, 3)):
            panel.layers.redo()
    else:
        viewer.dims.set_current_step(0, z)
    if rng.random() < 0.5:
        sitting.window.qtbot.wait(1)


def random_wire(
    sitting: Sitting, rng: np.random.Generator, z: int, ends: np.ndarray
) -> None:
    """Click along a membrane; set it, drop it, or leave it while other things are done.

    Clicks may come too soon, and in another section than those before.
    """
    wiring = sitting.panel.pointer.wiring
    for y, x in ends:
        sitting.hand.click(z, y, x)
        if rng.random() < 0.8:
            sitting.window.qtbot.waitUntil(lambda: not wiring.waiting, timeout=120_000)
    how = rng.choice(["set", "set", "double click", "drop", "leave"])
    if how == "set":
        press(sitting.window, "Enter")
    elif how == "double click":
        sitting.hand.double_click(z, *ends[-1])
    elif how == "drop":
        press(sitting.window, "Escape")


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_all_steps_through_the_viewer_can_be_taken_back(open_sitting, seed) -> None:
    sitting = open_sitting(sections=2, **SPATIAL)
    first = sitting.state()
    sitting.choose("Split cell")
    rng = np.random.default_rng(seed)
    for _ in range(STEPS):
        random_step(sitting, rng)
    work = sitting.panel.layers.hand
    steps = len(work.history.undoable) - 1
    assert steps > STEPS / 20
    last = sitting.state()
    for _ in range(steps):
        press(sitting.window, "Control-Z")
    np.testing.assert_equal(sitting.state(), first)
    assert not work.linked.locked
    for _ in range(steps):
        press(sitting.window, "Control-Shift-Z")
    np.testing.assert_equal(sitting.state(), last)
    for name in ("membranes", "corrections", "cells"):
        assert panel_shows(sitting, name)


def panel_shows(sitting: Sitting, name: str) -> bool:
    shown = sitting.panel.layers.layer(name).data
    return np.array_equal(shown, sitting.work.linked.arrays[name])


def a_brush_over_a_locked_cell_is_refused_in_words(sitting) -> None:
    before = sitting.cells()
    sitting.choose("Lock")
    sitting.hand.click(0, 30, 10)
    membranes = sitting.panel.layers.layer("membranes")
    membranes.brush_size = 3
    membranes.paint((30, 10), 1)
    sitting.window.settle()
    assert "is locked" in sitting.message
    np.testing.assert_array_equal(sitting.cells(), before)
    assert membranes.data[30, 10] == 0
    sitting.hand.click(0, 30, 10)
    assert not sitting.work.linked.locked
    sitting.choose("Lock")


def test_sections_are_gone_to(open_sitting) -> None:
    sitting = open_sitting(sections=3)
    undo_goes_to_the_section_that_changes(sitting)
    review_by_key_and_button(sitting)
    sitting.choose("Split cell")  # off
    a_turned_view_is_refused_in_words(sitting)


def a_turned_view_is_refused_in_words(sitting) -> None:
    sitting.choose("Split cell")
    sitting.window.viewer.dims.order = (1, 2, 0)
    sitting.hand.drag(0, (28, 1), (29, 20))
    assert "the view is turned" in sitting.message
    sitting.window.click(sitting.panel.tools["Split cell"])
    sitting.window.click(sitting.panel.tools["Split cell"])
    assert "roll the dimensions back" in sitting.message
    assert not sitting.panel.tools["Split cell"].isChecked()


def test_nothing_to_correct_is_said(open_window, em) -> None:
    window = open_window(em())
    panel = window.dock.panel("Correct")
    panel._on_tool(panel_tool("Live-wire"))
    assert "nothing to correct yet" in panel.message.text()
    assert not panel.tools["Live-wire"].isChecked()


def undo_goes_to_the_section_that_changes(sitting) -> None:
    viewer = sitting.window.viewer
    viewer.dims.set_current_step(0, 1)
    sitting.choose("Split cell")
    sitting.hand.drag(1, (28, 1), (29, 20), (28, 41))
    viewer.dims.set_current_step(0, 2)
    press(sitting.window, "Control-Z")
    assert viewer.dims.current_step[0] == 1
    assert sitting.message == "undone: cut, in section 1"
    viewer.dims.set_current_step(0, 0)
    press(sitting.window, "Control-Shift-Z")
    assert viewer.dims.current_step[0] == 1


def clicks_of_the_wire_wait_their_turn(sitting) -> None:
    wiring = sitting.panel.pointer.wiring
    sitting.choose("Live-wire")
    for x in (3, 12, 20):  # none waits for the paths of the one before
        sitting.hand.click(0, 19, x)
    press(sitting.window, "Enter")
    sitting.window.qtbot.waitUntil(lambda: not wiring.active, timeout=120_000)
    drawn = np.nonzero((sitting.work.corrections[0] == 1).any(axis=0))[0]
    assert drawn.min() <= 4
    assert drawn.max() >= 19


def panel_tool(name: str) -> Any:
    return next(tool for tool in TOOLS if tool.name == name)


def keys_and_tooltips(sitting) -> None:
    press(sitting.window, "K")
    assert sitting.panel.tools["Split cell"].isChecked()
    press(sitting.window, "G")
    assert sitting.panel.tools["Close gap"].isChecked()
    assert not sitting.panel.tools["Split cell"].isChecked()
    press(sitting.window, "G")
    assert sitting.panel.pointer.tool is None
    for tool, made in sitting.panel.tools.items():
        assert f"Key: {panel_tool(tool).key}" in made.toolTip()
        assert panel_tool(tool).hint[1:] in made.toolTip()
        assert made.text() == f"{tool} ({panel_tool(tool).key})"


def test_every_tool_is_complete() -> None:
    assert len({tool.name for tool in TOOLS}) == len(TOOLS)
    bound = [act.key for act in keys.key_acts()]
    assert len(set(bound)) == len(bound)
    for tool in TOOLS:
        assert re.fullmatch("[A-Z]", tool.key)
        assert tool.gesture in get_args(Gesture)
        assert (tool.use is None) == (tool.gesture == "wire")
        for words in (tool.hint, tool.when):
            assert re.fullmatch("[a-z].*[^.]", words)
        assert re.fullmatch(r"[A-Z].*\.", tool.about)


def draw_upright(hand: Any, places: list[CanvasPoint]) -> Any:
    """Draw membrane of 11 px through a point."""
    (y, x), z = places[0].point, places[0].z
    path = np.array([(y - 5, x), (y + 5, x)]).round().astype(np.int64)
    return draw_wire(hand.sheet(z), path, settings=hand.settings)


@pytest.fixture
def upright() -> Iterator[Tool]:
    """A tool of one's own: a function that returns an Edit, and one entry."""
    tool = Tool(
        name="Draw upright",
        key="X",
        gesture="click",
        hint="click where membrane is missing",
        about="Draws a short membrane.",
        when="a short membrane is missing",
        use=draw_upright,
    )
    TOOLS.append(tool)
    yield tool
    TOOLS.remove(tool)
    name = f"{keys.PLUGIN}:draw_upright"
    action_manager.unbind_shortcut(name)
    del action_manager._actions[name]
    keys._registered.discard("draw_upright")


def test_a_tool_of_ones_own_has_key_button_hint_undo_and_docs(
    upright: Tool, open_sitting
) -> None:
    sitting = open_sitting()
    press(sitting.window, "X")
    made = sitting.panel.tools["Draw upright"]
    assert made.isChecked()
    assert made.text() == "Draw upright (X)"
    assert sitting.panel.hint.text() == "Draw upright: click where membrane is missing"
    before = sitting.state()
    y, x = np.argwhere(sitting.cells() == sitting.cells().max()).mean(0).round()
    sitting.hand.click(0, y, x)
    assert (sitting.work.corrections[0][int(y) - 4 : int(y) + 5, int(x)] == 1).all()
    assert sitting.message.startswith("membrane of 11 px")
    press(sitting.window, "Control-Z")
    for name, values in sitting.state().items():
        np.testing.assert_array_equal(values, before[name])
    row = "| Draw upright | X | click where membrane is missing | a short membrane is"
    assert row in written("docs/correct.md")


def review_by_key_and_button(sitting) -> None:
    viewer, session = sitting.window.viewer, sitting.window.controller.session
    viewer.dims.set_current_step(0, 0)
    press(sitting.window, "R")
    assert session.source.reviewed == {0}
    assert "1 reviewed" in sitting.panel.review.label.text()
    press(sitting.window, "N")
    assert viewer.dims.current_step[0] == 1
    sitting.panel.review.status.setCurrentText("excluded")
    sitting.panel.review.status.activated.emit(2)
    assert session.source.excluded == {1}
    sitting.window.click(sitting.panel.review.before)
    assert viewer.dims.current_step[0] == 2
    press(sitting.window, "N")
    assert "no other section is to do" in sitting.message


def test_the_table_of_cells_goes_there(open_sitting) -> None:
    sitting = open_sitting(sections=2)
    table = sitting.panel.cells
    table.measure.click()
    sitting.window.qtbot.waitUntil(lambda: table.table.rowCount() > 4, timeout=120_000)
    assert "cells ·" in sitting.message
    last = table.table.rowCount() - 1
    table.table.cellClicked.emit(last, 0)
    z, y, x = table._rows[last].at
    assert sitting.window.viewer.dims.current_step[0] == z
    centre = camera_of(sitting.window.viewer).center
    np.testing.assert_allclose(centre[-2:], (y, x), atol=1)


def test_the_table_says_how_strong_membranes_are_and_which_cells_end(
    open_sitting,
) -> None:
    sitting = open_sitting(sections=3, link=True)
    cell = sitting.cells()[30, 10]
    assert cell in sitting.cells(2), "cells are linked"
    stack = sitting.work.linked.arrays["cells"]
    border = np.ones_like(stack, bool)
    border[:, 2:-2, 2:-2] = False
    stack[border] = 0
    stack[2][stack[2] == cell] = 0
    table = sitting.panel.cells
    table.measure.click()
    sitting.window.qtbot.waitUntil(lambda: table.table.rowCount() > 2, timeout=120_000)
    assert all(table.table.item(row, 3).text() for row in range(3))
    said = {row.cell: row.suspicion for row in table._rows}
    assert "ends in mid-stack" in said[cell]


def test_the_author_is_the_login_name_or_as_preferred(
    open_sitting, monkeypatch
) -> None:
    from napari_emseg.widgets import linked_layers

    monkeypatch.setattr(linked_layers, "login_name", lambda: "ada")
    sitting = open_sitting()
    sitting.choose("Lock")
    sitting.hand.click(0, 30, 10)
    monkeypatch.setattr(linked_layers, "preference", lambda *_: "Ada Lovelace")
    sitting.hand.click(0, 30, 10)
    authors = [edit.author for edit in sitting.work.history.undoable]
    assert authors[:2] == ["Ada Lovelace", "ada"]


def keys_go_with_the_panel(sitting) -> None:
    sitting.window.dock.folds["Correct"].collapse()
    with pytest.raises(KeyError):
        press(sitting.window, "K")
    assert camera_of(sitting.window.viewer).mouse_pan
