"""Contours over the EM, uncertainty, and a cell in 3-D; each, and back again."""

from __future__ import annotations

import warnings
from itertools import combinations

import numpy as np
import pytest
from napari.layers import Image, Labels
from skimage.measure import marching_cubes

from napari_emseg._napari.versions import camera_of
from napari_emseg.session.results import Uncertainty
from napari_emseg.widgets import correcting, layers
from napari_emseg.widgets.correct_view import (
    DARKEST,
    TO_3D,
    TO_SECTIONS,
    CellView,
    light_on,
)
from napari_emseg.widgets.layers import _corrections


def shown(window) -> dict[str, tuple]:
    """Return all that a view may change of each layer."""
    return {
        layer.name: (layer.visible, layer.opacity, getattr(layer, "contour", None))
        for layer in window.viewer.layers
    }


@pytest.fixture
def window(open_window, em):
    """A window with membranes and cells of all sections, linked, and 4 Correct open."""
    window = open_window(em("em"))
    session = window.controller.session
    session.cell_settings = session.cell_settings.model_copy(update={"link": True})
    for panel in (window.membranes, window.cells):
        window.choose_scope(panel, "all sections")
        assert window.run(panel).error is None
    window.dock.folds["Correct"].expand()
    return window


def test_what_is_seen_of_a_section(window) -> None:
    the_correct_view_is_contours_alone_and_all_comes_back(window)
    window.settle()  # layers are added when those that go are gone
    uncertainty_follows_probabilities_and_is_no_stack(window)
    membrane_has_one_colour_and_corrections_are_contours(window)
    a_panel_that_is_folded_leaves_the_view(window)


def the_correct_view_is_contours_alone_and_all_comes_back(window) -> None:
    panel, viewer = window.dock.panel("Correct"), window.viewer
    viewer.add_labels(np.zeros(viewer.layers["em"].data.shape, int), name="mine")
    viewer.layers["mine"].opacity = 0.3
    viewer.layers["em cells"].contour = 3
    before = shown(window)
    window.click(panel.views.contours)
    seen = {x.name for x in viewer.layers if x.visible}
    assert seen >= {"em", "em membranes"}
    assert not seen & {"em cells", "em membrane probability", "mine"}
    assert viewer.layers["em membranes"].contour == 1
    assert panel.views.contours.isChecked()
    viewer.layers.remove("mine")
    window.click(panel.views.contours)
    del before["mine"]
    assert shown(window) == before
    assert not panel.views.contours.isChecked()


def a_panel_that_is_folded_leaves_the_view(window) -> None:
    before = shown(window)
    window.click(window.dock.panel("Correct").views.contours)
    assert shown(window) != before
    window.dock.folds["Correct"].collapse()
    assert shown(window) == before


def test_without_results_the_view_says_why_not(open_window, em) -> None:
    window = open_window(em())
    window.dock.folds["Correct"].expand()
    panel = window.dock.panel("Correct")
    window.click(panel.views.contours)
    assert "nothing to correct yet" in panel.message.text()
    assert not panel.views.contours.isChecked()
    panel.views.uncertainty.click()
    assert "no probabilities" in panel.message.text()
    assert not panel.views.uncertainty.isChecked()


def uncertainty_follows_probabilities_and_is_no_stack(window) -> None:
    panel, viewer = window.dock.panel("Correct"), window.viewer
    stacks = window.controller.sources()
    panel.views.uncertainty.click()
    layer = viewer.layers["uncertainty"]
    assert isinstance(layer, Image)
    assert window.controller.sources() == stacks
    p = window.layer("em membrane probability").data
    np.testing.assert_allclose(layer.data[1], 1 - abs(2 * p[1] - 1), atol=1e-6)
    np.testing.assert_allclose(layer.scale, viewer.layers["em"].scale)
    panel.views.uncertainty.click()
    assert "uncertainty" not in viewer.layers


def test_uncertainty_reads_only_what_is_looked_at() -> None:
    class Sections:
        shape, dtype, read = (3, 1, 3), np.dtype(np.uint8), []

        def __getitem__(self, key):
            self.read.append(key)
            return np.array([[0, 51, 255]], np.uint8)

    sections = Sections()
    unsure = Uncertainty(sections)
    assert sections.read == []
    np.testing.assert_allclose(unsure[1], [[0, 0.4, 0]], atol=1e-6)
    assert sections.read == [1]
    np.testing.assert_allclose(
        Uncertainty(np.array([[[0.5, np.nan, 0.9]]], np.float32))[0], [[1, 0, 0.2]],
        atol=1e-6,
    )  # fmt: skip


def test_what_is_seen_in_3d(window) -> None:
    a_cell_that_is_not_there_is_said(window)
    a_cell_is_seen_in_3d_and_the_sections_come_back(window)
    a_cell_from_corner_to_corner_is_seen_whole(window)
    napari_s_own_button_goes_back_too(window)
    the_correct_view_is_refused_in_3d(window)
    corrections_are_seen_in_3d_without_a_warning(window)


def a_cell_is_seen_in_3d_and_the_sections_come_back(window) -> None:
    panel, viewer = window.dock.panel("Correct"), window.viewer
    cells = window.layer("em cells")
    cell = int(np.bincount(cells.data.ravel())[1:].argmax()) + 1
    cells.selected_label = cell
    camera_of(viewer).zoom = 3.25
    viewer.dims.set_current_step(0, 1)
    camera, before = camera_of(viewer).center, shown(window)
    row = panel.cells.in_3d
    with window.qtbot.waitSignal(row.job.ended):
        window.click(row.button)
    surface = viewer.layers[f"cell {cell}"]
    assert viewer.dims.ndisplay == 3
    assert [x.name for x in viewer.layers if x.visible] == [surface.name]
    corners = surface.data[0]
    where = np.argwhere(cells.data == cell)
    np.testing.assert_allclose(corners.min(axis=0), where.min(axis=0) - 0.5)
    np.testing.assert_allclose(corners.max(axis=0), where.max(axis=0) + 0.5)
    assert row.button.text() == TO_SECTIONS
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2 * surface.scale
    np.testing.assert_allclose(camera_of(viewer).center, middle, atol=1)
    window.click(row.button)
    assert viewer.dims.ndisplay == 2
    assert shown(window) == before
    assert viewer.dims.current_step[0] == 1
    assert camera_of(viewer).zoom == 3.25
    np.testing.assert_allclose(camera_of(viewer).center, camera)
    assert row.button.text() == TO_3D


def a_cell_from_corner_to_corner_is_seen_whole(window) -> None:
    """However it is turned: its longest diagonal is no longer than the view is wide."""
    view, viewer = window.controller.shared(CellView), window.viewer
    ends = np.array([[0, 0, 0], [0, 0, 1], [3, 95, 111], [3, 95, 110]], float)
    view.enter((ends, np.array([[0, 1, 2], [1, 2, 3]])), 1)
    longest = np.linalg.norm((ends[2] - ends[0]) * viewer.layers["em"].scale)
    canvas = min(viewer.window._qt_viewer.canvas.size)
    assert 0.7 * canvas < camera_of(viewer).zoom * longest <= canvas
    view.leave()


def napari_s_own_button_goes_back_too(window) -> None:
    before, view = shown(window), window.controller.shared(CellView)
    tetrahedron = np.eye(4, 3), np.array([[0, 1, 2], [0, 1, 3], [1, 2, 3], [0, 2, 3]])
    view.enter(tetrahedron, 1)
    assert "cell 1" in window.viewer.layers
    window.viewer.dims.ndisplay = 2
    assert not view.on
    assert shown(window) == before


def the_correct_view_is_refused_in_3d(window) -> None:
    """Two views that each put back what they found would hide the EM in the end."""
    panel, before = window.dock.panel("Correct"), shown(window)
    view = window.controller.shared(CellView)
    view.enter((np.eye(4, 3), np.array([[0, 1, 2], [0, 1, 3]])), 1)
    window.click(panel.views.contours)
    assert not panel.views.contours.isChecked()
    assert "leave the 3-D display first" in panel.message.text()
    view.leave()
    assert shown(window) == before


def corrections_are_seen_in_3d_without_a_warning(window) -> None:
    window.dock.panel("Correct").layers.show()
    with warnings.catch_warnings(record=True) as told:
        _corrections(np.ones((2, 8, 8), np.uint8), "filters", {})
        window.viewer.dims.ndisplay = 3
    assert not [w for w in told if "Contours" in str(w.message)]


def a_cell_that_is_not_there_is_said(window) -> None:
    row = window.dock.panel("Correct").cells.in_3d
    window.layer("em cells").selected_label = 9999
    with window.qtbot.waitSignal(row.job.ended):
        window.click(row.button)
    assert row.message.text() == "there is no cell 9999"
    window.layer("em cells").selected_label = 0
    window.click(row.button)
    words = "no cell is chosen; click a row of the table, or pick a cell"
    assert row.message.text() == words
    assert window.viewer.dims.ndisplay == 2


def test_what_is_seen_of_a_cell_at_first_is_not_dark() -> None:
    """Whichever way its triangles are wound."""
    ball = np.sum((np.mgrid[:11, :41, :41].T - (5, 20, 20)) ** 2 / (16, 225, 225), -1)
    corners, triangles, _, _ = marching_cubes((ball.T < 1).astype(np.float32), 0.5)
    corners = corners * (4, 1, 1)
    light = light_on(corners, triangles)
    np.testing.assert_allclose(light, light_on(corners, triangles[:, ::-1]))
    outwards = corners - corners.mean(axis=0)
    # of napari's camera at these angles
    towards = outwards @ (0.43, -0.87, 0.25) / np.linalg.norm(outwards, axis=1)
    assert light[towards > 0.5].min() > 0.5
    assert light.min() >= DARKEST
    assert light[towards > 0.5].mean() > light[towards < -0.5].mean() + 0.2


def membrane_has_one_colour_and_corrections_are_contours(window) -> None:
    window.dock.panel("Correct").layers.show()
    drawn = {name: window.layer(f"em {name}") for name in ("membranes", "corrections")}
    for layer in drawn.values():
        assert isinstance(layer, Labels)
        np.testing.assert_allclose(layer.get_color(1)[:3], layers.ORANGE, atol=0.01)
    likely = window.layer("em membrane probability").colormap.map(np.array([1.0]))
    np.testing.assert_allclose(likely[0, :3], layers.ORANGE, atol=0.01)
    assert drawn["corrections"].contour == 1


# Machado, Oliveira, Fernandes 2009: no red cones, no green cones, on linear RGB
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]


@pytest.mark.parametrize("seen_by", [np.eye(3), PROTANOPIA, DEUTERANOPIA])
def test_colours_are_told_apart_by_colour_blind_people(seen_by) -> None:
    from skimage.color import rgb2lab

    colours = np.array(
        [layers.ORANGE, layers.BLUE, layers.UNCERTAIN, correcting.REVIEWED[:3]]
    )
    linear = colours**2.2 @ np.asarray(seen_by).T
    lab = rgb2lab(np.clip(linear, 0, 1) ** (1 / 2.2))
    for one, other in combinations(lab, 2):
        assert np.linalg.norm(one - other) > 20
