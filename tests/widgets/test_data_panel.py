from __future__ import annotations

import h5py
import numpy as np
import pytest
import tifffile
from napari.layers import Image, Labels
from napari.utils.notifications import notification_manager

from napari_emseg._napari.versions import camera_of
from napari_emseg.widgets.camera import area_in_view, section_on_screen


def type_size(window, text: str) -> None:
    line = window.data.voxel_size
    line.setText(text)
    line.editingFinished.emit()


def opened(window, path, count: int) -> None:
    window.data.open_path(str(path))
    window.qtbot.waitUntil(lambda: len(window.viewer.layers) == count, timeout=120_000)


def test_files_are_opened(open_window, em, tmp_path) -> None:
    window = open_window()
    for what in (
        lambda: an_empty_viewer_asks_for_a_stack(window, em),
        lambda: a_damaged_file_a_file_and_a_folder(window, tmp_path),
        lambda: a_file_with_several_stacks_asks_which(window, tmp_path),
        lambda: planes_of_colour_may_be_the_sections(window, tmp_path),
    ):
        window.viewer.layers.clear()
        window.settle()
        what()


def an_empty_viewer_asks_for_a_stack(window, em) -> None:
    window.settle()
    assert window.data.words.text() == "no stack yet"
    assert not window.membranes.run.button.isEnabled()
    assert "1 Data" in window.membranes.estimate.text()
    window.viewer.add_layer(em("late"))
    window.settle()
    assert window.data.layers.currentText() == "late"
    assert window.membranes.run.button.isEnabled()


def test_what_is_listed_and_what_is_no_stack(open_window, em) -> None:
    window = open_window(em("a"))
    the_list_follows_layers(window, em)
    what_is_no_stack_is_refused_with_a_way_out(window)
    window.viewer.layers.clear()
    a_pyramid_is_used_at_full_resolution(window)
    window.viewer.layers.clear()
    the_users_voxel_size_wins(window)


def the_list_follows_layers(window, em) -> None:
    window.viewer.add_layer(em("b"))
    box = window.data.layers
    names = lambda: [box.itemText(i) for i in range(box.count())]  # noqa: E731
    assert names() == ["a", "b"]
    assert box.currentText() == "a"
    window.layer("a").name = "renamed"
    assert names() == ["renamed", "b"]
    assert window.controller.session.source.name == "renamed"
    window.viewer.layers.remove(window.layer("renamed"))
    assert names() == ["b"]
    assert window.controller.session.source.name == "b"
    window.viewer.layers.clear()
    assert window.controller.session.source is None
    assert window.data.words.text() == "no stack yet"


def test_two_stacks_each_with_its_own_results(open_window, em) -> None:
    window = open_window(em("a"), em("b"))
    window.run(window.membranes)
    box = window.data.layers
    box.setCurrentIndex(1)
    box.activated.emit(1)
    assert window.controller.session.source.name == "b"
    window.run(window.membranes)
    names = {layer.name for layer in window.viewer.layers}
    assert {"a membrane probability", "b membrane probability"} <= names


def test_a_stack_opened_in_napari_goes_to_work_and_into_view(
    open_window, em, tmp_path
) -> None:
    """It lies over the one before, which R and Run would go on with unseen."""
    window = open_window(em("a"))
    rng, shape = np.random.default_rng(0), window.layer("a").data.shape
    mask = np.full(shape, 100, np.uint8)
    mask[:, ::8] = 0
    em_too = rng.integers(0, 255, shape, np.uint8)
    tall = np.full((6, 130, 90), 100, np.uint8)
    opened = {"mask": mask, "em too": em_too, "tall": tall}
    for name, values in opened.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric="minisblack")
    # a mask of a's shape is one of a's; another EM of that shape isn't
    for name, at_work in (("mask", "a"), ("em too", "em too"), ("tall", "tall")):
        window.viewer.open(str(tmp_path / f"{name}.tif"), plugin=None)
        window.settle()
        assert window.controller.session.at_work.name == at_work
        assert window.layer(at_work).visible
        assert window.layer("a").visible == (at_work == "a")
        told = [n.message for n in notification_manager.records]
        assert any(f"{name} is at work; a is hidden" in m for m in told) == (
            name == "em too"
        ), told
        notification_manager.records.clear()


def test_the_stack_that_takes_over_comes_into_view(open_window, em) -> None:
    window = open_window(em("a"), em("b", translate=(0, 9000, 9000)))
    window.layer("b").visible = False
    window.viewer.layers.remove("a")
    window.settle()
    assert window.controller.session.at_work.name == "b"
    assert window.layer("b").visible
    centre = np.mean(window.layer("b").extent.world, axis=0)[-2:]
    np.testing.assert_allclose(camera_of(window.viewer).center[-2:], centre, atol=4)


def what_is_no_stack_is_refused_with_a_way_out(window) -> None:
    for shape, rgb, words in (
        ((8, 9, 3), True, "Split RGB"),
        ((2, 3, 8, 9), False, "Split Stack"),
    ):
        window.viewer.layers.clear()
        window.viewer.add_image(np.zeros(shape, np.uint8), rgb=rgb, name="x")
        window.settle()
        assert words in window.data.message.text()
        assert window.data.message.isVisibleTo(window.data)
        assert not window.membranes.run.button.isEnabled()


def the_users_voxel_size_wins(window) -> None:
    window.viewer.add_layer(Image(np.zeros((4, 8, 9), np.uint8), name="em"))
    window.settle()
    assert window.data.voxel_size.text() == ""
    assert "voxel size unknown" in window.data.words.text()
    type_size(window, "50 x 4.6, 4.6")
    source = window.controller.session.source
    assert source.stack.voxel_size_nm == pytest.approx((50, 4.6, 4.6))
    np.testing.assert_allclose(window.layer("em").scale, (50, 4.6, 4.6))
    assert window.data.voxel_size.text() == "50 × 4.6 × 4.6"
    type_size(window, "")
    assert window.controller.session.source.stack.voxel_size_nm is None
    assert window.data.voxel_size.text() == ""
    type_size(window, "? × 5 × 5")  # sections of unknown thickness
    assert window.controller.session.source.stack.voxel_size_nm == (None, 5, 5)
    assert window.data.voxel_size.text() == "? × 5 × 5"


def test_a_typed_voxel_size_keeps_what_is_on_screen(open_window, drawn_stack) -> None:
    values = np.array(drawn_stack[0].data)
    window = open_window(Image(values, name="em"), show=True)
    viewer, layer = window.viewer, window.layer("em")
    viewer.dims.set_current_step(0, 2)
    camera = camera_of(viewer)
    camera.center, camera.zoom = (0, 30, 70), 3 * camera.zoom
    window.qtbot.waitUntil(lambda: area_in_view(viewer, layer) is not None)
    window.settle()
    area = area_in_view(viewer, layer)
    for text in ("10 x 10 x 10", "", "30 x 6 x 6", "? x 4 x 4", ""):
        type_size(window, text)
        window.settle()
        assert section_on_screen(viewer, layer) == 2, text
        np.testing.assert_array_equal(layer._slice.image.raw, values[2])
        window.qtbot.waitUntil(lambda: area_in_view(viewer, layer) == area)


def test_stacks_in_pixels_and_in_nm_are_each_seen_whole(open_window, em) -> None:
    plain = em("plain", scale=(1, 1, 1), units=("pixel",) * 3)
    window = open_window(em("sized"), plain)
    window.viewer.dims.set_current_step(0, 0)
    for layer in (plain, window.layer("sized"), plain):
        window.controller.choose(layer)
        window.controller.show_alone(layer)
        middle = np.multiply((95 / 2, 111 / 2), layer.scale[-2:])
        np.testing.assert_allclose(camera_of(window.viewer).center[-2:], middle)


def test_a_stack_in_words_and_what_is_wrong_with_a_voxel_size(open_window, em) -> None:
    window = open_window(em())
    assert window.data.words.text() == "4 sections 96 × 112 · 50 × 4 × 4 nm"
    assert window.data.layers.currentText() == "em"
    assert window.dock.folds["Data"].summary.text() == "em"
    for text in ("many", "1 2", "-4", "0", "4 4 nan"):
        assert not window.data.message.isVisibleTo(window.data)
        type_size(window, text)
        assert window.data.message.isVisibleTo(window.data), text
        assert window.controller.session.source.stack.voxel_size_nm == (50, 4, 4)
        type_size(window, "50 4 4")
    window.run(window.membranes)
    window.viewer.add_layer(Labels(np.zeros((4, 96, 112), int), name="mine"))
    window.settle()
    assert window.data.layers.count() == 1, "neither results nor labels are offered"
    window.viewer.layers.remove("mine")
    type_size(window, "40 8 8")  # results follow
    for layer in window.viewer.layers:
        np.testing.assert_allclose(layer.scale, (40, 8, 8))


def a_damaged_file_a_file_and_a_folder(window, tmp_path) -> None:
    (tmp_path / "bad.tif").write_bytes(b"II*\0 nothing")
    assert window.data.message.text() == ""
    window.data.open_path(str(tmp_path / "bad.tif"))
    window.qtbot.waitUntil(lambda: bool(window.data.message.text()), timeout=120_000)
    assert "bad.tif" in window.data.message.text()
    assert window.data.open.isEnabled()
    values = np.random.default_rng(0).integers(0, 255, (3, 20, 30), np.uint8)
    tifffile.imwrite(tmp_path / "some.tif", values, photometric="minisblack")
    opened(window, tmp_path / "some.tif", 1)
    assert window.controller.session.source.name == "some"
    np.testing.assert_array_equal(np.asarray(window.layer("some").data), values)
    assert window.data.words.text().startswith("3 sections 20 × 30")
    (tmp_path / "folder").mkdir()
    for z in range(3):
        tifffile.imwrite(
            tmp_path / "folder" / f"s{z}.tif", np.full((8, 9), z, np.uint8)
        )
    opened(window, tmp_path / "folder", 2)
    assert window.controller.session.source.stack.shape == (3, 8, 9)


def a_file_with_several_stacks_asks_which(window, tmp_path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (3, 20, 30), np.uint8)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["raw"], file["other"] = values, values[:2]
    window.data.open_path(str(tmp_path / "two.h5"))
    choice = window.data.choice
    window.qtbot.waitUntil(lambda: choice.isVisibleTo(window.data), timeout=120_000)
    assert choice.choices.count() == 2
    choice.choices.setCurrentIndex(choice.choices.findData("raw"))
    window.click(choice.chosen)
    window.qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=120_000)
    assert window.controller.session.source.stack.shape == (3, 20, 30)
    assert not choice.isVisibleTo(window.data)


def planes_of_colour_may_be_the_sections(window, tmp_path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (3, 20, 30), np.uint8)
    notes = {"metadata": None, "software": False, "planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", **notes)
    window.data.open_path(str(tmp_path / "a.tif"))
    choice = window.data.choice
    window.qtbot.waitUntil(lambda: choice.isVisibleTo(window.data), timeout=120_000)
    choice.choices.setCurrentIndex(choice.choices.findData("z"))
    assert choice.choices.currentText() == "z: they are the sections"
    window.click(choice.chosen)
    window.qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=120_000)
    stack = window.controller.session.source.stack
    np.testing.assert_array_equal(stack.data[:], values)


def a_pyramid_is_used_at_full_resolution(window) -> None:
    levels = [np.zeros((2, 64, 64), np.uint8), np.zeros((2, 32, 32), np.uint8)]
    window.viewer.add_layer(Image(levels, name="pyramid"))
    window.settle()
    assert "2 sections 64²" in window.data.words.text()
    assert "full resolution" in window.data.words.text()
