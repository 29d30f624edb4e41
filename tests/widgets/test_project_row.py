"""Projects from 1 Data: made, opened, asked about, saved by themselves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Image

from napari_emseg._napari.versions import camera_of, fit_to_view
from napari_emseg.io import save_stack
from napari_emseg.project import Project, autosave
from napari_emseg.project import journal as journals
from napari_emseg.proofreading import lock
from napari_emseg.session.project_sync import ProjectSync
from napari_emseg.widgets import save_status_label
from napari_emseg.widgets.camera import area_in_view, section_on_screen
from napari_emseg.widgets.project_row import NONE, ProjectRow

WHOLE = slice(0, 96), slice(0, 112)


@pytest.fixture
def file(drawn_stack, tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    return save_stack(tmp_path / "data" / "em.tif", drawn_stack[0])


@pytest.fixture
def open_work(open_window, drawn_stack, file) -> Callable[[], Any]:
    """Open a window on the stack's file, with cells of all sections.

    Layers of results take half of a second; `cells=False` leaves them out.
    """

    def open_work(*, cells: bool = True) -> Any:
        window = open_window()
        window.data.open_path(str(file), voxel_size_nm=(50, 4, 4))
        window.qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=120_000)
        if not cells:
            return window
        source = window.controller.session.source
        for z in range(4):
            source.editor.put_cells(z, WHOLE, drawn_stack[1][z])
        source.results.note_links(range(4), linked=True)
        source.editor.finish_run()
        window.controller.show_results()
        return window

    return open_work


def row(window: Any) -> ProjectRow:
    return window.data.project


def wait(window: Any) -> ProjectSync:
    window.qtbot.waitUntil(lambda: not row(window).busy, timeout=120_000)
    assert row(window).keeping is not None, row(window).message.text()
    return row(window).keeping


def saved(window: Any, path: Path) -> ProjectSync:
    row(window).save_path(path)
    return wait(window)


def opened(window: Any, path: Path) -> ProjectSync:
    window.data.open_path(str(path))
    return wait(window)


def arrays(window: Any) -> dict[str, np.ndarray]:
    linked = window.controller.session.correcting().linked
    linked.settle_all()
    return {name: np.array(linked.arrays[name]) for name in ("cells", "corrections")}


def on_disk(folder: Path) -> dict[str, np.ndarray]:
    with Project(folder, read_only=True) as project:
        return {
            name: np.stack([project.section(name, z) for z in range(4)])
            for name in ("cells", "corrections")
        }


def paint(window: Any, z: int = 0, at: int = 20) -> None:
    """Paint on the layer corrections with napari's own brush."""
    panel = window.dock.panel("Correct")
    panel.layers.show()
    layer = panel.layers.layer("corrections")
    layer.selected_label = 1
    layer.brush_size = 5
    layer.paint((z, at, at), 1)
    window.qtbot.wait(20)


def test_what_is_painted_is_saved_by_itself(open_work, tmp_path) -> None:
    window = open_work()
    assert row(window).state.text() == NONE
    keeping = saved(window, tmp_path / "work")
    assert keeping.path == tmp_path / "work.emseg"
    window.qtbot.waitUntil(
        lambda: row(window).state.text().startswith("work: saved "), timeout=120_000
    )
    np.testing.assert_equal(on_disk(keeping.path), arrays(window))
    assert arrays(window)["cells"].any()
    paint(window)
    assert arrays(window)["corrections"].any()
    window.qtbot.waitUntil(lambda: keeping.state.kind == "saved", timeout=120_000)
    np.testing.assert_equal(on_disk(keeping.path), arrays(window))
    window.dock.panel("Correct").undo.click()
    window.dock.panel("Correct").review.toggle()
    window.qtbot.waitUntil(lambda: keeping.state.kind == "saved", timeout=120_000)
    np.testing.assert_equal(on_disk(keeping.path), arrays(window))
    assert not on_disk(keeping.path)["corrections"].any()
    assert keeping.project.review.sections == {
        window.viewer.dims.current_step[0]: "reviewed"
    }


def test_projects_are_offered_again_while_they_are_there(
    open_work, open_window, tmp_path
) -> None:
    window = open_work(cells=False)
    assert not row(window).recent.isVisibleTo(row(window))
    for name in ("first", "second"):
        saved(window, tmp_path / name)
    window.viewer.layers.clear()  # which closes the project
    shutil.rmtree(tmp_path / "first.emseg")

    window = open_window()
    button = row(window).recent
    assert button.isVisibleTo(row(window))
    second, first = button.menu().actions()
    assert (second.text(), second.isEnabled()) == ("second", True)
    assert (first.text(), first.isEnabled()) == ("first (gone)", False)
    assert first.toolTip() == str(tmp_path / "first.emseg")
    second.trigger()
    assert wait(window).path == tmp_path / "second.emseg"


def test_opened_in_another_window_as_it_was_left(
    open_work, open_window, tmp_path
) -> None:
    window = open_work()
    keeping = saved(window, tmp_path / "work.emseg")
    paint(window)
    hand = window.controller.session.correcting()
    y, x = np.argwhere(arrays(window)["cells"][1] > 0)[0]
    hand.do(lock(hand.sheet(1), (y, x)))
    before = arrays(window)
    window.viewer.layers.clear()  # which closes the project
    np.testing.assert_equal(on_disk(keeping.path), before)

    window = open_window()
    keeping = opened(window, tmp_path / "work.emseg")
    assert not keeping.read_only
    names = {layer.name for layer in window.viewer.layers}
    assert names == {"em", "em cells", "em corrections", "em membranes"}
    np.testing.assert_equal(arrays(window), before)
    assert window.data.voxel_size.text() == "50 × 4 × 4"
    paint(window, z=2)
    keeping.flush()
    np.testing.assert_equal(on_disk(keeping.path), arrays(window))


def test_a_project_opened_over_another_stack_is_what_is_seen(
    open_work, open_window, em, tmp_path
) -> None:
    path = saved(open_work(), tmp_path / "work").path
    window = open_window(show=True)
    viewer, controller = window.viewer, window.controller
    far = np.zeros((9, 500, 500), np.uint8)
    other = viewer.add_image(far, name="other", translate=(0, 5000, 5000))
    made = controller._layers_of(controller.session.source, other)
    made.show_now({"cells": np.zeros(far.shape, np.uint32)})
    window.qtbot.waitUntil(lambda: "other cells" in viewer.layers)
    over = viewer.add_image(np.zeros((4, 96, 112), np.uint8), name="over")
    viewer.dims.set_current_step(0, 8)
    fit_to_view(viewer, other)
    opened(window, path)
    layer = controller.source_layer
    assert layer.visible
    assert over.visible
    assert not other.visible
    assert not viewer.layers["other cells"].visible
    assert section_on_screen(viewer, layer) is not None
    middle = camera_of(viewer).center[-2:]
    assert all(0 <= at <= 4 * n for at, n in zip(middle, (96, 112), strict=True))
    panel = window.data
    for chosen in (other, layer):
        panel.layers.setCurrentIndex(panel.layers.findText(chosen.name))
        panel.layers.activated.emit(panel.layers.currentIndex())
        assert other.visible == viewer.layers["other cells"].visible
        assert (layer.visible, other.visible) == (chosen is layer, chosen is other)
        assert over.visible == (chosen is layer)


def test_a_project_over_a_hidden_layer_in_pixels_is_seen_whole(
    open_work, open_window, file, tmp_path, drawn_stack
) -> None:
    first = open_work(cells=False)
    path = saved(first, tmp_path / "work").path
    row(first).keeping.close()
    values = np.array(drawn_stack[0].data)
    layer = Image(values, name="em")
    window = open_window(layer, Image(values[:, ::-1], name="other"), show=True)
    window.controller.choose(window.layer("other"))
    window.controller.show_alone(window.layer("other"))
    assert not layer.visible
    window.viewer.dims.set_current_step(0, 0)
    row(window).open_path(path, layer=layer)
    wait(window)
    window.settle()
    np.testing.assert_allclose(layer.scale, (50, 4, 4))
    assert layer.visible
    assert section_on_screen(window.viewer, layer) == 0
    np.testing.assert_array_equal(layer._slice.image.raw, values[0])
    window.qtbot.waitUntil(lambda: area_in_view(window.viewer, layer) is None)
    camera = camera_of(window.viewer)
    np.testing.assert_allclose(camera.center[-2:], (4 * 95 / 2, 4 * 111 / 2))


def test_choosing_another_stack_and_back_leaves_a_project_as_it_is(
    open_work, tmp_path
) -> None:
    window = open_work(cells=False)
    panel, box = window.data, window.membranes.weights
    window.choose_weights("thin")
    keeping = saved(window, tmp_path / "work")
    keeping.flush()
    info = keeping.path / "project.json"
    before, threshold = info.read_bytes(), window.controller.session.cell_settings
    window.viewer.add_image(np.zeros((2, 40, 40), np.uint8), name="other")

    def choose(name: str) -> None:
        panel.layers.setCurrentIndex(panel.layers.findText(name))
        panel.layers.activated.emit(panel.layers.currentIndex())

    choose("other")
    window.choose_weights("slow")
    for name, weights in (("em", "thin"), ("other", "slow"), ("em", "thin")):
        choose(name)
        assert box.currentText() == weights
    assert window.controller.session.cell_settings == threshold
    keeping.flush()
    assert info.read_bytes() == before


def test_probabilities_of_what_is_on_screen_are_made_again(
    open_work, open_window, tmp_path, drawn_stack
) -> None:
    import napari_emseg

    path = saved(open_work(), tmp_path / "work").path
    window = open_window()
    window.choose_weights("thin")
    opened(window, path)
    session, z = window.controller.session, window.viewer.dims.current_step[0]
    results = session.source.results
    before = np.array(results.membranes)
    window.qtbot.waitUntil(lambda: results.predicted == (z,), timeout=120_000)
    window.qtbot.waitUntil(lambda: "Live-wire works" in window.viewer.help)
    expected = napari_emseg.predict(
        session.source.stack, session.weights, settings=session.predict_settings
    )
    shown = session.correcting().probabilities
    np.testing.assert_allclose(shown[z], expected[z], atol=1e-5)
    np.testing.assert_array_equal(results.membranes, before)
    window.viewer.dims.set_current_step(0, z - 1)
    both = tuple(sorted((z - 1, z)))
    window.qtbot.waitUntil(lambda: results.predicted == both, timeout=120_000)


def test_membranes_of_a_section_without_cells_are_made_again(
    open_work, open_window, tmp_path
) -> None:
    """They were gone: a project keeps cells and corrections."""
    work = open_work(cells=False)
    path = saved(work, tmp_path / "work").path
    z = 1
    work.viewer.dims.set_current_step(0, z)
    work.choose_scope(work.membranes, "this section")
    assert work.run(work.membranes).error is None
    before = np.array(work.controller.session.source.results.membranes)
    assert before[z].any()
    assert not before[0].any()
    keeping = work.controller.session.project
    keeping.flush()
    keeping.close()
    window = open_window()
    window.choose_weights("thin")
    opened(window, path)
    results = window.controller.session.source.results
    window.viewer.dims.set_current_step(0, z)
    window.qtbot.waitUntil(lambda: results.predicted == (z,), timeout=120_000)
    window.qtbot.waitUntil(lambda: "Live-wire works" in window.viewer.help)
    np.testing.assert_array_equal(window.layer("em membranes").data, before)
    assert results.membranes_in.keys() == {z}


def test_the_second_window_says_that_it_only_reads(
    open_work, open_window, tmp_path
) -> None:
    window = open_work()
    saved(window, tmp_path / "work.emseg")
    second = open_window()
    keeping = opened(second, tmp_path / "work.emseg")
    assert keeping.read_only
    second.settle()
    assert "read-only: it is open for writing already" in row(second).state.text()
    assert row(second).state.property("role") == "error"
    before = arrays(second)
    paint(second)
    np.testing.assert_equal(arrays(second), before)
    assert "read-only" in second.dock.panel("Correct").message.text()
    second.dock.panel("Correct").review.toggle()
    assert "save a copy" in second.dock.panel("Correct").message.text()
    saved(second, tmp_path / "own")
    paint(second)
    assert arrays(second)["corrections"].any()


def test_a_stack_that_was_moved_is_asked_for(open_work, file, tmp_path) -> None:
    window = open_work(cells=False)
    saved(window, tmp_path / "work.emseg")
    window.viewer.layers.clear()
    moved = file.rename(tmp_path / "moved.tif")
    row(window).open_path(tmp_path / "work.emseg")
    asked = row(window).moved
    window.qtbot.waitUntil(lambda: asked.isVisibleTo(window.dock), timeout=120_000)
    assert "4 sections of 96 × 112" in asked.question.text()
    assert not asked.layer.isVisibleTo(asked)
    asked.found.emit(moved)
    wait(window)
    assert not asked.isVisibleTo(window.dock)
    assert window.controller.session.source.stack.source == str(moved)
    assert not row(window).message.isVisibleTo(window.dock)


def test_a_layer_may_be_the_stack_that_is_missing(
    open_window, drawn_stack, tmp_path, em
) -> None:
    """An image that no file has, as other plugins show them."""
    window = open_window(em())
    saved(window, tmp_path / "work.emseg")
    window.viewer.layers.clear()
    window.viewer.add_layer(em("the same"))
    row(window).open_path(tmp_path / "work.emseg")
    asked = row(window).moved
    window.qtbot.waitUntil(lambda: asked.isVisibleTo(window.dock), timeout=120_000)
    assert "the same" in asked.layer.text()
    asked.layer.click()
    wait(window)
    assert [layer.name for layer in window.viewer.layers] == ["the same"]
    window.viewer.layers.clear()
    window.viewer.add_layer(Image(np.zeros((4, 96, 112), np.uint8), name="black"))
    row(window).open_path(tmp_path / "work.emseg")
    window.qtbot.waitUntil(lambda: asked.isVisibleTo(window.dock), timeout=120_000)
    asked.layer.click()
    wait(window)
    assert "has changed since" in row(window).message.text()


def test_closing_the_window_waits_for_the_last_save(
    open_work, tmp_path, monkeypatch
) -> None:
    window = open_work()
    keeping = saved(window, tmp_path / "work.emseg")
    monkeypatch.setattr(autosave, "DELAY", 300.0)  # nothing is saved by itself
    paint(window)
    expected = arrays(window)
    assert keeping.state.kind == "saving"
    main = row(window)
    while main.parentWidget() is not None:
        main = main.parentWidget()
    main.close()
    np.testing.assert_equal(on_disk(keeping.path), expected)


def test_a_full_disk_is_announced_once_and_keeps_the_window_open(
    open_work, tmp_path, monkeypatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(save_status_label, "show_warning", said.append)
    monkeypatch.setattr("napari_emseg.widgets.project_row.show_error", said.append)
    window = open_work()
    keeping = saved(window, tmp_path / "work.emseg")
    keeping.flush()

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journals, "write", full)
        paint(window)
        window.qtbot.waitUntil(
            lambda: "1 change waits" in row(window).state.text(), timeout=120_000
        )
        paint(window, at=60)
        window.qtbot.waitUntil(
            lambda: "2 changes wait" in row(window).state.text(), timeout=120_000
        )
        assert len(said) == 1
        main = row(window)
        while main.parentWidget() is not None:
            main = main.parentWidget()
        assert not main.close()
        assert "close the window again to lose 2 changes" in said[-1]
    keeping.flush()
    np.testing.assert_equal(on_disk(keeping.path), arrays(window))


def test_what_is_no_project_is_said(open_window, tmp_path) -> None:
    window = open_window()
    row(window).open_path(tmp_path)
    assert "is no project" in row(window).message.text()
