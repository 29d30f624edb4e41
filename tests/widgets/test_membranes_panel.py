from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec
from unittest.mock import Mock

import numpy as np
import pytest
from napari.layers import Image, Labels
from napari.utils.notifications import notification_manager
from thin import thin_weights

import napari_emseg
from napari_emseg.core import compiler
from napari_emseg.core.records import Provenance, Record, SectionDone
from napari_emseg.core.stack import Stack
from napari_emseg.inference import openvino_runtime
from napari_emseg.inference.openvino_runtime import CpuFacts
from napari_emseg.session import Session
from napari_emseg.session import results as session_results
from napari_emseg.widgets import background, membranes_panel, weights_box
from napari_emseg.widgets.linked_layers import LinkedLayers
from napari_emseg.widgets.save_status_label import untouched


def test_scopes_go_into_the_same_layers_over_their_source(
    open_window, em, weights
) -> None:
    layer = em(translate=(100, 40, -20))
    layer.rotate = 20
    window = open_window(layer)
    this_section_is_the_one_on_screen(window)
    results_lie_over_their_source_and_say_how_they_came(window)
    a_range_of_sections_goes_into_the_same_layer(window)
    all_sections_are_as_by_the_function(window, weights)


def all_sections_are_as_by_the_function(window, weights) -> None:
    window.choose_scope(window.membranes, "all sections")
    outcome = window.run(window.membranes)
    assert outcome.error is None
    probability = window.layer("em membrane probability")
    membranes = window.layer("em membranes")
    expected = napari_emseg.predict(
        window.layer("em").data,
        weights["thin"],
        settings=window.controller.session.predict_settings,
    )
    np.testing.assert_allclose(probability.data, expected, atol=1e-6)
    np.testing.assert_array_equal(membranes.data, expected > 0.4)
    assert isinstance(probability, Image)
    assert isinstance(membranes, Labels)


def test_after_membranes_the_kernels_of_cells_are_compiled(
    open_window, em, monkeypatch
) -> None:
    monkeypatch.setattr(compiler, "_used", set())
    window = open_window(em())
    window.choose_scope(window.membranes, "this section")
    window.run(window.membranes)
    window.qtbot.waitUntil(lambda: "cells" in compiler._used, timeout=60_000)


def results_lie_over_their_source_and_say_how_they_came(window) -> None:
    layer, corner = window.layer("em"), (1.0, 2.0, 3.0)
    for name in ("em membrane probability", "em membranes"):
        result = window.layer(name)
        np.testing.assert_allclose(
            result.data_to_world(corner), layer.data_to_world(corner)
        )
        assert result.units == layer.units
        assert result.axis_labels == layer.axis_labels
        made = Provenance.model_validate(result.metadata["emseg"])
        assert made.kind == "membrane"
        assert made.weights == "thin"
        assert made.weights_sha256
        assert made.threshold == 0.4


def this_section_is_the_one_on_screen(window) -> None:
    window.viewer.dims.set_current_step(0, 1)
    window.choose_scope(window.membranes, "this section")
    window.run(window.membranes)
    data = window.layer("em membrane probability").data
    assert data[1].any()
    assert not data[[0, 2, 3]].any()


def a_range_of_sections_goes_into_the_same_layer(window) -> None:
    first = window.layer("em membrane probability")
    window.choose_scope(window.membranes, "sections A–B")
    window.membranes.scope.first.setValue(2)
    window.membranes.scope.last.setValue(3)
    window.run(window.membranes)
    assert window.layer("em membrane probability") is first
    assert len(window.viewer.layers) == 3
    assert first.data.any(axis=(1, 2)).tolist() == [False, True, True, True]


def test_a_drawn_box(open_window, em) -> None:
    window = open_window(em())
    window.choose_scope(window.membranes, "drawn box")
    assert not window.membranes.run.button.isEnabled()
    assert "press Draw" in window.membranes.estimate.text()
    window.click(window.membranes.scope.draw)
    shapes = window.layer("box")
    shapes.add_rectangles(
        np.array([[1, 10, 20], [1, 10, 60], [1, 40, 60], [1, 40, 20]])
    )
    window.run(window.membranes)
    data = window.layer("em membrane probability").data
    z, y, x = np.nonzero(data > 1e-6)
    assert set(z) == {1}
    assert (y.min(), y.max()) == pytest.approx((10, 40), abs=1)
    assert (x.min(), x.max()) == pytest.approx((20, 60), abs=1)


def test_before_a_run_a_run_that_fails_and_weights_of_ones_own(
    open_window, em, tmp_path
) -> None:
    window = open_window(em())
    what_is_said_before_a_run(window)
    window.choose_scope(window.membranes, "this section")
    a_failing_network_is_told_and_another_run_works(window)
    a_run_that_gives_nothing_leaves_what_was_there(window)
    a_file_that_is_no_weights_is_refused_in_words(window, tmp_path)
    weights_from_a_file(window, tmp_path)


def what_is_said_before_a_run(window) -> None:
    window.choose_scope(window.membranes, "all sections")
    words = window.membranes.estimate.text()
    assert "4 sections" in words
    assert "tiles" in words
    assert "GB on cpu" in words
    panel = window.membranes
    assert panel.about.text() == "Dark is membrane."
    assert panel.card.text() == "<b>V_Rand 0.500</b> held out"
    for words in ("drawings", "BSD-3-Clause"):
        assert words in panel.details.text()
    tile = panel.advanced.findChild(object, "tile")
    tile.setValue(96)
    assert window.controller.session.predict_settings.tile == 96
    assert window.controller.session.predict_settings.runtime == "torch"


def test_too_coarse_a_picture_is_said_before_the_run(open_window, em, tmp_path) -> None:
    window = open_window(em())
    fine = thin_weights(tmp_path, "fine", pixel_size_nm=(1.5, 1.5))
    window.controller.session.choose_weights(fine)
    words = window.membranes.rescaling
    assert "4 → 1.5 nm/px (2.67×), enlarged more than 2×" in words.text()
    assert "poor membranes" in words.text()
    assert words.property("role") == "note"
    window.choose_scope(window.membranes, "this section")
    assert window.run(window.membranes).error is None
    told = window.membranes.run.message.text()
    assert "openvino" in told or "torch" in told
    assert "poor membranes" not in told, "it is said above"
    notified = [n.message for n in notification_manager.records]
    assert not any("poor membranes" in message for message in notified)
    assert "rescaled" not in told


def test_weights_follow_the_stack_until_somebody_chooses(
    open_window, em, tmp_path, monkeypatch
) -> None:
    known = {
        name: thin_weights(tmp_path, name, pixel_size_nm=(size, size))
        for name, size in (("fine", 1.0), ("coarse", 8.0))
    }
    monkeypatch.setattr(weights_box, "list_weights", lambda *_: known)
    window = open_window(em())  # 4 nm
    session = window.controller.session
    assert session.weights is known["coarse"]
    window.controller.set_voxel_size((50, 1, 1))
    assert session.weights is known["fine"]
    window.choose_weights("fine")
    window.controller.set_voxel_size((50, 8, 8))
    assert session.weights is known["fine"]


def weights_from_a_file(window, tmp_path) -> None:
    own = thin_weights(tmp_path, "mine", threshold=0.7)
    window.membranes.add_weights(own.path)
    assert window.membranes.weights.currentText() == "mine"
    assert window.controller.session.cell_settings.threshold == 0.7
    assert window.run(window.membranes).error is None


def a_file_that_is_no_weights_is_refused_in_words(window, tmp_path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"nothing of the kind")
    window.membranes.add_weights(bad)
    assert "bad.safetensors is no weights file" in window.membranes.run.message.text()


def a_failing_network_is_told_and_another_run_works(window) -> None:
    window.choose_weights("broken")
    outcome = window.run(window.membranes)
    assert outcome.error is not None
    message = window.membranes.run.message
    assert "shapes don't fit" in message.text()
    assert message.property("role") == "error"
    assert window.membranes.run.button.text() == "Run"
    assert [layer.name for layer in window.viewer.layers] == ["em"]
    window.choose_weights("thin")
    assert window.run(window.membranes).error is None
    assert message.property("role") != "error"
    assert "1 section in" in message.text()


def test_a_run_that_gives_nothing_leaves_no_layers(
    open_window, em, tmp_path, monkeypatch
) -> None:
    layer = em()
    window = open_window(layer)
    panel, controller = window.membranes, window.controller
    results = controller.session.source.results

    def nothing_is_there() -> None:
        assert list(window.viewer.layers) == [layer]
        assert controller.results(controller.session.source.key) is None
        assert results.predicted == ()
        assert results.membrane_provenance is None
        assert untouched(controller, layer) is not None

    window.start(panel)
    window.click(panel.run.button)  # before the thread has told of anything
    assert window.finish().cancelled
    nothing_is_there()
    with monkeypatch.context() as patch:
        full = OSError(28, "No space left on device")
        patch.setattr(session_results, "allocate", Mock(side_effect=full))
        assert window.run(panel).error is full
    nothing_is_there()
    with monkeypatch.context() as patch:
        patch.setattr(Stack, "section", Mock(side_effect=OSError("damaged")))
        assert window.run(panel).error is None
    assert "is left out: damaged" in panel.run.message.text()
    nothing_is_there()
    gone = thin_weights(tmp_path, "gone").path
    panel.add_weights(gone)
    gone.unlink()
    assert isinstance(window.run(panel).error, (OSError, ValueError))
    nothing_is_there()
    with pytest.raises(ValueError, match="nothing to correct yet"):
        _ = controller.shared(LinkedLayers).hand


def a_run_that_gives_nothing_leaves_what_was_there(window) -> None:
    before = [dict(layer.metadata) for layer in window.viewer.layers]
    window.choose_weights("broken")
    assert window.run(window.membranes).error is not None
    assert [layer.metadata for layer in window.viewer.layers] == before
    assert window.controller.session.source.results.membrane_provenance.weights == (
        "thin"
    )


def test_cancel_keeps_what_is_finished(open_window, em) -> None:
    window = open_window(em())
    window.choose_weights("slow")
    window.choose_scope(window.membranes, "all sections")
    window.start(window.membranes)
    button = window.membranes.run.button
    assert button.text() == "Cancel"
    there = window.controller.session.source.results
    window.qtbot.waitUntil(lambda: len(there.predicted) >= 2, timeout=120_000)
    window.click(button)
    outcome = window.finish()
    assert outcome.cancelled
    assert window.layer("em membranes") is not None
    assert there.unknown(0) is None or len(there.predicted) < 4
    assert there.probabilities.any()
    assert button.text() == "Run"
    assert "kept" in window.membranes.run.message.text()


def test_progress_is_shown_and_the_section_on_screen_comes_first(
    open_window, em
) -> None:
    window = open_window(em())
    window.viewer.dims.set_current_step(0, 2)
    window.choose_weights("slow")
    window.choose_scope(window.membranes, "all sections")
    window.start(window.membranes)
    run = window.membranes.run
    told: list[str] = []
    full: list[bool] = []
    seen: list[bool] = []
    done: list[int] = []

    def look() -> None:
        told.append(run.left.text())
        full.append(run.bar.value() == run.bar.maximum())
        seen.append(run.bar.value() > 0 and run.bar.isVisibleTo(window.membranes))

    def note(records: list[Record]) -> None:
        done.extend(record.z for record in records if isinstance(record, SectionDone))

    window.controller.job.advanced.connect(look)
    window.controller.job.recorded.connect(note)
    window.finish()
    assert any(seen)
    assert any("left" in words for words in told)
    assert not run.bar.isVisibleTo(window.membranes)
    assert not any(full), "a bar that is full has ended"
    assert any(words.startswith("2 of 4 sections") for words in told)
    assert done[0] == 2
    assert len(done) == 4


def test_three_views_are_offered_where_voxels_are_cubes(open_window, em) -> None:
    window = open_window(em(scale=(5, 4, 4)))
    panel = window.membranes
    assert panel.views.isVisibleTo(panel)
    panel.views.findChild(object, "views").setCurrentText("3")
    assert window.controller.session.predict_settings.views == 3
    window.choose_scope(panel, "all sections")
    # four tiles of a section of 96 × 112 px, and two of each plane of 4 sections
    assert panel.estimate.text().startswith("432 tiles · 4 sections")
    window.start(panel)
    window.finish()
    results = window.controller.session.source.results
    assert results.predicted == (0, 1, 2, 3)
    assert results.membrane_provenance.settings["views"] == 3


@pytest.mark.parametrize(
    ("scale", "why"),
    [((50, 4, 4), "these are 50 × 4 × 4 nm (z, y, x)"), (None, "which is unknown")],
)
def test_a_stack_without_three_views_is_run_with_one_and_that_is_said(
    open_window, em, scale, why
) -> None:
    unknown = {"scale": (1, 1, 1), "units": ("pixel",) * 3}
    window = open_window(em(**unknown if scale is None else {"scale": scale}))
    panel, session = window.membranes, window.controller.session
    assert not panel.one_view.isVisibleTo(panel)
    session.choose_settings(session.predict_settings.model_copy(update={"views": 3}))
    assert not panel.views.isVisibleTo(panel)
    assert panel.one_view.text().startswith("Run takes one view: three views need")
    assert why in panel.one_view.text()
    assert panel.one_view.isVisibleTo(panel)
    window.choose_scope(panel, "this section")
    assert window.run(panel).error is None
    made = session.source.results.membrane_provenance
    assert made.settings["views"] == 1
    assert not panel.shown.isVisibleTo(panel)  # Run would do just that again
    assert session.predict_settings.views == 3  # for stacks that have them


@pytest.fixture
def cpu_without_bf16(monkeypatch):
    """What OpenVINO says of the CPU, once it is asked."""
    if find_spec("openvino") is None:
        pytest.skip("OpenVINO isn't installed")

    @cache
    def ask():
        return CpuFacts("Some CPU", ("FP32", "INT8"), "1")

    for module in (openvino_runtime, membranes_panel):
        monkeypatch.setattr(module, "cpu_facts", ask)
    return ask


def choose_precision(window, name):
    session = window.controller.session
    settings = {"precision": name, "runtime": "openvino", "device": "cpu"}
    session.choose_settings(session.predict_settings.model_copy(update=settings))


def grey(window):
    box = window.membranes.advanced.findChild(object, "precision")
    items = [box.model().item(index) for index in range(box.count())]
    return {i.text(): i.toolTip() for i in items if not i.isEnabled()}


NO_BF16 = "this CPU has no bf16 instructions (Some CPU: FP32, INT8)"
OTHER = "choose another precision in 2 Membranes, under Advanced"


def test_bf16_is_refused_before_the_run_on_a_cpu_without(
    open_window, em, cpu_without_bf16
) -> None:
    window = open_window(em())
    panel = window.membranes
    assert NO_BF16 not in grey(window).values()  # nobody asked yet
    choose_precision(window, "bf16")
    window.qtbot.waitUntil(lambda: grey(window).get("bf16") == NO_BF16, timeout=20_000)
    assert not panel.run.button.isEnabled()
    assert panel.estimate.text() == f"{NO_BF16}; {OTHER}"
    choose_precision(window, "float32")
    assert panel.run.button.isEnabled()
    assert grey(window)["bf16"] == NO_BF16
    choose_precision(window, "auto")
    assert not {"auto", "float32"} & set(grey(window))


def test_a_run_in_what_the_cpu_lacks_leaves_no_layers_and_loads_no_network(
    open_window, em, cpu_without_bf16, monkeypatch
) -> None:
    window = open_window(em())
    panel = window.membranes
    monkeypatch.setattr(panel._cpu, "ask", lambda question: None)  # not known yet
    monkeypatch.setattr(background, "load_torch", lambda: pytest.fail("loaded"))
    choose_precision(window, "bf16")
    assert panel.run.button.isEnabled()
    window.choose_scope(panel, "this section")
    outcome = window.run(panel)
    assert str(outcome.error) == NO_BF16
    assert panel.run.message.text() == f"{NO_BF16}; {OTHER}"
    assert [layer.name for layer in window.viewer.layers] == ["em"]
    assert not panel.run.button.isEnabled()
    choose_precision(window, "float32")
    assert panel.run.message.text() == ""
    assert panel.run.button.isEnabled()


def test_opening_the_dock_loads_no_torch() -> None:
    import subprocess

    code = """
import sys, napari, numpy as np
viewer = napari.Viewer(show=False)
viewer.add_image(np.zeros((3, 32, 32), np.uint8))
viewer.window.add_plugin_dock_widget("napari-emseg", "EM segmentation")
from qtpy.QtWidgets import QApplication
from qtpy.QtCore import QTimer
QTimer.singleShot(600, QApplication.instance().quit)
QApplication.instance().exec()
assert "torch" not in sys.modules
viewer.close()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_what_is_said_of_a_stack_goes_with_it(open_window, em) -> None:
    window = open_window(em(), show=True)
    session = window.controller.session
    panels = window.membranes, window.cells
    for panel in panels:
        assert window.run(panel).error is None
        assert "section" in panel.run.message.text()
    window.cells.saving._say("saved as cells.tif", "hint")
    window.viewer.layers.clear()
    assert session.source is None
    for panel in panels:
        assert panel.run.message.text() == ""
    assert window.cells.saving.message.text() == ""
    assert "no stack is chosen" in window.membranes.estimate.text()
    assert window.membranes.rescaling.text() == ""
    window.viewer.add_layer(em("other"))
    for panel in panels:
        assert panel.run.message.text() == ""


def test_a_run_whose_stack_is_deleted_says_nothing_of_the_next(open_window, em) -> None:
    window = open_window(em(), em("other"))
    panel = window.membranes
    window.choose_weights("slow")
    window.start(panel)
    window.viewer.layers.remove("em")
    window.finish()
    assert panel.run.message.text() == ""
    assert "section" in panel.estimate.text()


def test_weights_that_are_not_installed_are_named(qtbot, without_data) -> None:
    session = Session()
    box = weights_box.WeightsBox(session)
    qtbot.addWidget(box)
    last = box.choice.count() - 1
    entry = box.choice.model().item(last)
    assert entry.text() == "em-membranes: pip install napari-emseg-data"
    assert "not for commercial use" in entry.toolTip()
    assert not entry.isEnabled()
    assert session.weights.card.name == box.choice.currentText() == "isbi2012-unet"
