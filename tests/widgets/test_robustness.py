"""Things that users do while a run is on, and layers of all sorts."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from napari.layers import Image

from napari_emseg._napari.versions import camera_of
from napari_emseg.widgets.controller import controller_for
from napari_emseg.widgets.dock import CellsDock, DataDock, MembranesDock


def started(open_window, *layers):
    """A window with a slow run of all sections."""
    window = open_window(*layers)
    window.choose_weights("slow")
    window.choose_scope(window.membranes, "all sections")
    window.start(window.membranes)
    return window


def wait_for_layers(window, count: int) -> None:
    window.qtbot.waitUntil(lambda: len(window.viewer.layers) >= count, timeout=120_000)


def test_layers_of_all_sorts(open_window, drawn_stack) -> None:
    stack, _ = drawn_stack
    values = np.array(stack.data)
    sorts = {
        "2-D": values[0],
        "dask": da.from_array(values, chunks=(1, 48, 112)),
        "multiscale": [values, values[:, ::2, ::2]],
        "uint16": values.astype(np.uint16) * 100,
        "float32": values.astype(np.float32) / 255,
    }
    window = open_window()
    for sort, data in sorts.items():
        window.viewer.layers.clear()
        window.viewer.add_layer(Image(data, name="em"))
        assert window.run(window.membranes).error is None, sort
        result = window.layer("em membrane probability").data
        z = window.viewer.dims.current_step[0] if result.ndim == 3 else None
        section = result if z is None else result[z]
        dark = values[0 if z is None else z] < 100
        assert section[dark].mean() > 0.5 > section[~dark].mean(), sort
        window.settle()
        assert window.run(window.cells).error is None, sort
        assert window.layer("em cells").data.shape == result.shape


def test_removing_the_source_in_mid_run(open_window, em) -> None:
    window = started(open_window, em())
    wait_for_layers(window, 3)
    window.viewer.layers.remove(window.layer("em"))
    assert window.finish().error is None
    assert window.layer("em membrane probability").data.any(axis=(1, 2)).all()
    window.settle()
    assert not window.membranes.run.button.isEnabled()


def test_removing_a_result_in_mid_run(open_window, em) -> None:
    window = started(open_window, em())
    wait_for_layers(window, 3)
    window.viewer.layers.remove(window.layer("em membrane probability"))
    assert window.finish().error is None
    assert "em membrane probability" not in window.viewer.layers
    window.choose_weights("thin")
    window.run(window.membranes)
    assert window.layer("em membrane probability").data.any(axis=(1, 2)).all()


def test_renaming_and_hiding_in_mid_run(open_window, em) -> None:
    window = started(open_window, em())
    wait_for_layers(window, 3)
    window.layer("em").name = "specimen"
    window.layer("em membrane probability").name = "mine"
    window.layer("mine").visible = False
    window.layer("specimen").visible = False
    assert window.finish().error is None
    assert window.layer("mine").data.any(axis=(1, 2)).all()
    window.choose_weights("thin")
    window.run(window.membranes)
    assert len(window.viewer.layers) == 3


def test_clearing_the_viewer_in_mid_run(open_window, em) -> None:
    window = started(open_window, em())
    wait_for_layers(window, 3)
    window.viewer.layers.clear()
    assert window.finish().error is None
    assert len(window.viewer.layers) == 0


def test_choosing_another_stack_in_mid_run(open_window, em) -> None:
    window = started(open_window, em("a"), em("b"))
    wait_for_layers(window, 4)
    window.controller.choose(window.layer("b"))
    assert window.finish().error is None
    assert window.layer("a membrane probability").data.any(axis=(1, 2)).all()
    assert "b membrane probability" not in window.viewer.layers


def test_a_second_run_has_to_wait(open_window, em) -> None:
    window = started(open_window, em())
    assert not window.cells.run.button.isEnabled()
    assert "running" in window.cells.run.button.toolTip()
    with pytest.raises(RuntimeError, match="still running"):
        window.controller.start(window.membranes._prepare(), "membranes")
    window.finish()


@pytest.mark.parametrize(
    ("close", "when"), [("viewer", "at once"), ("window", "later")]
)
def test_closing_the_window_in_mid_run(open_window, em, qtbot, close, when) -> None:
    window = started(open_window, em())
    job = window.controller.job
    if when == "later":
        wait_for_layers(window, 3)
    with qtbot.waitSignal(job.ended, timeout=120_000) as ended:
        window.viewer.close() if close == "viewer" else window.viewer.window.close()
    assert ended.args[0].cancelled


def test_closing_the_dock_in_mid_run_leaves_the_run_alone(open_window, em) -> None:
    window = started(open_window, em())
    controller = window.controller
    window.viewer.window.remove_dock_widget(window.dock)
    window.dock.deleteLater()
    window.qtbot.wait(100)
    assert window.finish().error is None
    assert controller.session.source.results.probabilities.any(axis=(1, 2)).all()
    window.layer("em").name = "renamed"  # nobody listens any more, and nobody fails
    window.viewer.dims.set_current_step(0, 1)
    controller.session.exclude(1)


@pytest.mark.parametrize("turned", ["rolled", "transposed", "3-D"])
def test_turned_views(open_window, em, turned) -> None:
    window = open_window(em())
    if turned == "rolled":
        window.viewer.dims.roll()
    elif turned == "transposed":
        window.viewer.dims.transpose()
    else:
        window.viewer.dims.ndisplay = 3
    assert window.run(window.membranes).error is None
    data = window.layer("em membrane probability").data
    assert data.any(axis=(1, 2)).sum() == 1
    window.settle()
    assert window.run(window.cells).error is None


def test_beside_a_layer_of_more_axes(open_window, em) -> None:
    window = open_window(em())
    window.viewer.add_image(np.zeros((2, 4, 96, 112), np.uint8), scale=(1, 50, 4, 4))
    window.viewer.dims.set_current_step(1, 3)
    window.choose_scope(window.membranes, "this section")
    window.run(window.membranes)
    data = window.layer("em membrane probability").data
    assert data[3].any()
    assert not data[:3].any()


def test_panels_alone_share_their_session(open_window, em) -> None:
    window = open_window(em())
    alone = [panel(window.viewer) for panel in (DataDock, MembranesDock, CellsDock)]
    for dock in alone:
        window.viewer.window.add_dock_widget(dock, name=type(dock).__name__)
    data, membranes, _ = (dock.panel for dock in alone)
    assert data.words.text() == window.data.words.text()
    window.choose_weights("slow")
    assert membranes.weights.currentText() == "slow"
    window.start(membranes)
    assert window.membranes.run.button.text() == "Cancel"
    window.click(window.membranes.run.button)
    assert window.finish().cancelled
    assert membranes.run.button.text() == "Run"


def test_two_viewers_have_controllers_of_their_own(
    make_napari_viewer, weights, em
) -> None:
    first, second = make_napari_viewer(), make_napari_viewer()
    first.add_layer(em())
    assert controller_for(first).session.source is not None
    assert controller_for(second).session.source is None


def test_a_proxied_viewer_has_the_controller_of_its_viewer(
    make_napari_viewer_proxy,
) -> None:
    proxy = make_napari_viewer_proxy()
    assert controller_for(proxy) is controller_for(proxy.__wrapped__)


def test_layer_data_of_another_shape_starts_afresh(open_window, em) -> None:
    window = open_window(em())
    window.run(window.membranes)
    window.layer("em").data = np.zeros((2, 40, 40), np.uint8)
    assert window.controller.session.source.stack.shape == (2, 40, 40)
    assert window.run(window.membranes).error is None
    assert window.layer("em membrane probability").data.shape == (4, 96, 112)
    assert window.layer("em membrane probability [1]").data.shape == (2, 40, 40)


def test_other_data_of_the_same_shape_are_said_where_results_are_used(
    open_window, em
) -> None:
    window = open_window(em())
    train, evaluate = window.dock.panel("Train"), window.dock.panel("Evaluate")
    layer, before = window.layer("em"), window.layer("em").data
    window.run(window.membranes)
    window.controller.session.review(1)
    probability = window.layer("em membrane probability")
    made = np.array(probability.data)
    window.viewer.add_labels((made > 0.5).astype(np.uint8), name="truth")
    meaning = evaluate.truth.meaning
    window.qtbot.waitUntil(lambda: evaluate.truth.layer is not None)
    meaning.setCurrentIndex(meaning.findData("membrane"))
    meaning.activated.emit(meaning.currentIndex())
    warning = "The data of em were replaced"
    layer.data = before[:, ::-1].copy()
    assert window.data.message.text().startswith(warning)
    assert window.data.message.property("role") == "note"
    assert warning in evaluate.state.text()
    window.qtbot.waitUntil(lambda: warning in train.judges.text(), timeout=120_000)
    assert train.run.button.isEnabled()
    np.testing.assert_array_equal(probability.data, made)
    layer.data = before
    assert not window.data.message.text()
    assert warning not in evaluate.state.text()
    window.qtbot.waitUntil(lambda: warning not in train.judges.text(), timeout=120_000)


def test_data_of_a_stack_that_is_not_at_work_are_replaced(open_window, em) -> None:
    window = open_window(em(), em("other"))
    session, first = window.controller.session, window.layer("em")
    window.run(window.membranes)
    session.review(1)
    window.controller.choose(window.layer("other"))
    values = np.zeros((4, 96, 112), np.uint8)
    first.data = values
    (known,) = (x for x in session.sources if x.key == str(first.unique_id))
    assert known.stack.data is values
    assert known.reviewed == {1}
    first.data = np.zeros((2, 40, 40), np.uint8)
    assert str(first.unique_id) not in {x.key for x in session.sources}
    window.controller.choose(first)
    assert session.source.stack.shape == (2, 40, 40)
    assert not session.source.reviewed


def test_a_theme_restyles_the_panels(open_window) -> None:
    window = open_window()
    dark = window.dock.styleSheet()
    window.viewer.theme = "light"
    assert window.dock.styleSheet() != dark
    window.viewer.theme = "dark"
    assert window.dock.styleSheet() == dark


def test_this_view_follows_the_zoom(open_window, em) -> None:
    window = open_window(em(), show=True)
    window.choose_scope(window.membranes, "this view")
    window.viewer.reset_view()
    window.settle()
    assert window.membranes.scope.region().roi is None
    camera = camera_of(window.viewer)
    camera.zoom *= 6
    camera.center = (0, 30 * 4, 40 * 4)
    window.settle()
    region = window.membranes.scope.region()
    assert region.roi is not None
    rows, columns = region.roi
    assert rows.start <= 30 < rows.stop
    assert columns.start <= 40 < columns.stop
    assert rows.stop - rows.start < 60
