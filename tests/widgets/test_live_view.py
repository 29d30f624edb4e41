"""The live preview in a viewer: it follows the view, and is never in the way."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Image
from nested import nested_weights
from thin import thin_weights

from napari_emseg.core.settings import LiveSettings, PredictSettings
from napari_emseg.session import live
from napari_emseg.widgets import live_view
from napari_emseg.widgets.layer_changes import LayerChanges, OverlayLayer
from napari_emseg.widgets.live_view import NAME, LiveLayer

FAST = PredictSettings(runtime="torch", device="cpu", threads=1)


def wait_for(window, condition) -> None:
    window.qtbot.waitUntil(condition, timeout=120_000)


def turn_on(window) -> None:
    window.membranes.live.box.click()


def shown(window) -> np.ndarray | None:
    """Return what the preview shows `(…, y, x)`; None where it shows nothing."""
    layer = window.membranes.live.layer.layer
    return None if layer is None or max(layer.data.shape) == 1 else layer.data


def said(window) -> str:
    return window.membranes.live.message.text()


def opened(open_window, em, weights):
    window = open_window(em)
    window.controller.session.predict_settings = FAST
    window.controller.session.choose_weights(weights)
    window.settle()
    return window


@pytest.fixture
def window(open_window, em, tmp_path):
    return opened(open_window, em(), nested_weights(tmp_path))


def test_it_goes_on_and_off(window, monkeypatch) -> None:
    it_is_off_at_first_and_adds_nothing(window)
    the_view_is_predicted_shallow_first(window, monkeypatch)
    it_follows_the_section_and_the_camera(window)
    off_takes_the_layer_away_and_removing_it_turns_it_off(window)
    removing_the_stack_ends_it(window)


def it_is_off_at_first_and_adds_nothing(window) -> None:
    assert not window.membranes.live.box.isChecked()
    assert [layer.name for layer in window.viewer.layers] == ["em"]


def the_view_is_predicted_shallow_first(window, monkeypatch) -> None:
    depths = []
    found = live_view._format_picture
    monkeypatch.setattr(
        live_view,
        "_format_picture",
        lambda picture, *rest: (depths.append(picture.depth), found(picture, *rest))[1],
    )
    active = window.viewer.layers.selection.active
    turn_on(window)
    wait_for(window, lambda: depths == [1, 2])
    layer = window.layer(NAME)
    assert layer.data.shape == (1, 96, 112)
    assert 0 < layer.data.max() <= 1
    assert said(window).startswith("depth 2 · 96 × 112 px in ")
    assert window.viewer.layers.selection.active is active
    assert window.controller.session.source.results.predicted == ()
    assert window.controller.sources() == [window.layer("em")]


def it_follows_the_section_and_the_camera(window) -> None:
    window.viewer.dims.set_point(0, 150)  # section 3 of 50 nm
    layer = window.layer(NAME)
    wait_for(window, lambda: layer.translate[0] == pytest.approx(150))
    assert layer.scale.tolist() == window.layer("em").scale.tolist()


def test_a_patch_lies_where_it_belongs(make_napari_viewer) -> None:
    viewer = make_napari_viewer()
    source = Image(
        np.zeros((4, 90, 80)),
        scale=(50, 4, 4),
        translate=(7, 8, 9),
        rotate=(0, 0, 20),
        affine=np.diag([1, 2, 3, 1]) + np.eye(4, k=1) * [0, 0.5, 0, 0],
    )
    viewer.add_layer(source)
    patch = LiveLayer(OverlayLayer(viewer, LayerChanges(viewer)))
    for z, area in (
        (2, (slice(10, 30), slice(20, 60))),
        (3, (slice(0, 9), slice(5, 7))),
    ):
        values = np.zeros([s.stop - s.start for s in area], np.float32)
        patch.show(source, z, area, values)
        for corner in ((0, 0, 0), (0, 3, 4)):
            there = np.add((z, area[0].start, area[1].start), corner)
            np.testing.assert_allclose(
                patch.layer.data_to_world(corner), source.data_to_world(there)
            )


def test_flat_pictures_have_one_too(open_window, em, tmp_path) -> None:
    flat = Image(np.array(em().data[1]), name="flat", scale=(4, 4))
    window = opened(open_window, flat, thin_weights(tmp_path))
    turn_on(window)
    wait_for(window, lambda: shown(window) is not None)
    assert window.layer(NAME).data.shape == (96, 112)


def test_an_outdated_view_is_never_shown(window, weights) -> None:
    window.controller.session.choose_weights(weights["slow"])
    turn_on(window)
    preview = window.membranes.live
    wait_for(window, lambda: preview._latest.waiting)
    asked = preview._asked
    window.viewer.dims.set_point(0, 100)
    assert asked.stopped.is_set()
    wait_for(window, lambda: shown(window) is not None)
    assert window.layer(NAME).translate[0] == pytest.approx(100)


def test_what_it_says(window, weights) -> None:
    too_large_a_view_asks_to_zoom_in(window)
    other_weights_refresh_the_view(window, weights)
    errors_are_said_and_pass(window, weights)
    it_says_why_there_is_none(window)


def other_weights_refresh_the_view(window, weights) -> None:
    turn_on(window)
    wait_for(window, lambda: said(window).startswith("depth 2"))
    before = np.array(shown(window))
    window.controller.session.choose_weights(weights["thin"])
    wait_for(window, lambda: said(window).startswith("96 × 112"))
    assert not np.array_equal(before, shown(window))


def it_says_why_there_is_none(window) -> None:
    window.viewer.dims.set_point(0, 0)
    wait_for(window, lambda: shown(window) is not None)
    session = window.controller.session
    session.exclude(0)
    wait_for(window, lambda: said(window) == "no preview: section 0 is excluded")
    assert shown(window) is None
    session.exclude(0, excluded=False)
    wait_for(window, lambda: shown(window) is not None)
    window.viewer.dims.ndisplay = 3
    wait_for(window, lambda: "in 2-D" in said(window))


def too_large_a_view_asks_to_zoom_in(window) -> None:
    preview = window.membranes.live
    usual = preview.settings
    preview.settings = LiveSettings(most_megapixels=0.004)
    turn_on(window)
    wait_for(window, lambda: said(window).startswith("zoom in: 96 × 112 px"))
    assert shown(window) is None
    turn_on(window)  # off
    preview.settings = usual


def test_it_pauses_while_a_run_is_on(window, weights) -> None:
    window.controller.session.choose_weights(weights["slow"])
    window.choose_scope(window.membranes, "all sections")
    window.start(window.membranes)
    turn_on(window)
    wait_for(window, lambda: said(window) == "paused: Membranes of em is running")
    window.finish()
    wait_for(window, lambda: "up to date" in said(window))
    assert shown(window) is None


def errors_are_said_and_pass(window, weights) -> None:
    window.controller.session.choose_weights(weights["broken"])
    wait_for(window, lambda: "shapes don't fit" in said(window))
    window.controller.session.choose_weights(weights["thin"])
    wait_for(window, lambda: said(window).startswith("96 × 112"))
    assert shown(window) is not None


def off_takes_the_layer_away_and_removing_it_turns_it_off(window) -> None:
    turn_on(window)  # off
    assert NAME not in window.viewer.layers
    assert said(window) == ""
    turn_on(window)
    wait_for(window, lambda: shown(window) is not None)
    window.viewer.layers.remove(NAME)
    assert not window.membranes.live.box.isChecked()


def removing_the_stack_ends_it(window) -> None:
    turn_on(window)
    wait_for(window, lambda: shown(window) is not None)
    window.viewer.layers.remove("em")
    wait_for(window, lambda: NAME not in window.viewer.layers)
    assert said(window) == "no preview: choose a stack first"


@pytest.mark.parametrize("seconds", [0.1, 0.5])
def test_a_run_shows_whether_it_is_quick_enough(
    open_window, em, tmp_path, monkeypatch, seconds
) -> None:
    monkeypatch.setattr(live_view, "paces_of", lambda *_: {1: seconds, 2: 0.9})
    monkeypatch.setattr(live_view, "is_quick", live.is_quick)
    window = opened(open_window, em(), nested_weights(tmp_path))
    window.run(window.membranes)
    on = seconds < 0.3
    assert window.membranes.live.box.isChecked() == on
    if not on:
        words = "Off: 512² px take 0.5 s at depth 1, 0.9 s at depth 2 here."
        assert said(window) == words
        return
    turn_on(window)
    window.run(window.membranes)
    assert not window.membranes.live.box.isChecked()  # somebody wanted it off


def test_closing_the_window_meanwhile_is_fine(window, weights) -> None:
    window.controller.session.choose_weights(weights["slow"])
    turn_on(window)
    wait_for(window, lambda: window.membranes.live._latest.waiting)
    window.viewer.close()
