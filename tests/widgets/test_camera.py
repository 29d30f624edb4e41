"""What the viewer shows, found out on the model alone: no window is needed."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_emseg._napari import set_voxel_size
from napari_emseg._napari.versions import camera_of
from napari_emseg.widgets.camera import (
    area_in_view,
    drawn_box,
    is_on_screen,
    nearest_section,
    no_section,
    section_here,
    section_on_screen,
    view_kept,
)


@pytest.fixture
def viewer() -> ViewerModel:
    viewer = ViewerModel()
    viewer.add_image(
        np.zeros((5, 40, 60), np.uint8), scale=(50, 4, 4), units=("nm",) * 3, name="em"
    )
    return viewer


def test_the_section_at_the_slider(viewer) -> None:
    viewer.dims.set_current_step(0, 3)
    assert section_on_screen(viewer, viewer.layers["em"]) == 3


def test_the_section_of_a_moved_layer(viewer) -> None:
    viewer.layers["em"].translate = (100, 0, 0)  # two sections further
    viewer.dims.set_point(0, 150)
    assert section_on_screen(viewer, viewer.layers["em"]) == 1


def test_a_picture_has_one_section() -> None:
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((40, 60)))
    viewer.add_image(np.zeros((7, 40, 60)))
    viewer.dims.set_current_step(0, 6)
    assert section_on_screen(viewer, layer) == 0


def test_what_is_on_screen(viewer) -> None:
    layer = viewer.layers["em"]
    viewer.dims.set_current_step(0, 3)
    assert is_on_screen(viewer, layer, {1, 3})
    assert not is_on_screen(viewer, layer, {1, 2})
    viewer.dims.roll()
    assert is_on_screen(viewer, layer, {1, 2})
    assert not is_on_screen(viewer, layer, set())


def test_the_whole_section_is_in_view_before_anything_is_drawn(viewer) -> None:
    assert area_in_view(viewer, viewer.layers["em"]) is None


def test_the_part_that_is_zoomed_to(viewer) -> None:
    layer = viewer.layers["em"]
    layer.corner_pixels = np.array([[0, 10, 20], [0, 30, 75]])
    assert area_in_view(viewer, layer) == (slice(10, 31), slice(20, 60))
    viewer.dims.ndisplay = 3
    assert area_in_view(viewer, layer) is None


def test_without_a_box_it_says_how_to_draw_one(viewer) -> None:
    with pytest.raises(ValueError, match="press Draw"):
        drawn_box(viewer, viewer.layers["em"])


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_box_in_another_layer_of_other_scale(viewer, ndim) -> None:
    corners = np.array([[10, 20], [10, 50], [25, 50], [25, 20]])  # px of em
    if ndim == 3:
        corners = np.insert(corners, 0, 2, axis=1)
    spatial = {"units": ("nm",) * ndim, "scale": (50.0, 4.0, 4.0)[-ndim:]}
    viewer.add_shapes([corners], shape_type="rectangle", **spatial)
    viewer.dims.set_current_step(0, 4)
    region = drawn_box(viewer, viewer.layers["em"])
    assert region.sections == ((2,) if ndim == 3 else (4,))
    assert region.roi == (slice(10, 26), slice(20, 51))


def test_a_box_outside_of_the_picture_is_refused(viewer) -> None:
    corners = np.array([[500, 500], [500, 600], [600, 600], [600, 500]]) * 4
    viewer.add_shapes([corners], shape_type="rectangle")
    with pytest.raises(ValueError, match="outside of em"):
        drawn_box(viewer, viewer.layers["em"])


def test_a_box_reaching_over_the_border_is_cut(viewer) -> None:
    corners = np.array([[-50, -50], [-50, 10], [10, 10], [10, -50]])
    viewer.add_shapes(
        [corners], shape_type="rectangle", scale=(4, 4), units=("nm", "nm")
    )
    region = drawn_box(viewer, viewer.layers["em"])
    assert region.roi == (slice(0, 11), slice(0, 11))


def test_the_last_box_counts_unless_one_is_selected(viewer) -> None:
    boxes = [
        np.array([[a, a], [a, a + 4], [a + 4, a + 4], [a + 4, a]]) for a in (0, 20)
    ]
    spatial = {"scale": (4, 4), "units": ("nm", "nm")}
    shapes = viewer.add_shapes(boxes, shape_type="rectangle", **spatial)
    layer = viewer.layers["em"]
    assert drawn_box(viewer, layer).roi[0].start == 20
    shapes.selected_data = {0}
    assert drawn_box(viewer, layer).roi[0].start == 0


def test_a_pyramid_is_measured_at_full_resolution() -> None:
    viewer = ViewerModel()
    levels = [np.zeros((2, 64, 64), np.uint8), np.zeros((2, 32, 32), np.uint8)]
    layer = viewer.add_layer(Image(levels))
    layer.data_level = 1
    layer.corner_pixels = np.array([[0, 4, 6], [0, 19, 31]])
    assert area_in_view(viewer, layer) == (slice(8, 40), slice(12, 64))


def test_beyond_its_sections_a_layer_has_none_on_screen(viewer) -> None:
    layer = viewer.layers["em"]
    viewer.add_image(np.zeros((7, 40, 60), np.uint8), scale=(50, 4, 4), name="more")
    viewer.dims.set_current_step(0, 5)
    assert section_on_screen(viewer, layer) is None
    assert nearest_section(viewer, layer) == 4
    assert not is_on_screen(viewer, layer, {4})
    with pytest.raises(ValueError, match="em has no section here; move the slider to "):
        section_here(viewer, layer)
    assert no_section(viewer, layer).endswith("the slider to 0-4")
    layer.translate = (100, 0, 0)
    assert section_on_screen(viewer, layer) == 3
    viewer.dims.set_current_step(0, 1)
    assert section_on_screen(viewer, layer) is None
    assert no_section(viewer, layer).endswith("the slider to 2-6")
    viewer.dims.set_current_step(0, 6)
    assert section_here(viewer, layer) == 4


def test_a_box_beyond_the_sections_is_refused(viewer) -> None:
    layer = viewer.layers["em"]
    corners = np.array([[9, 2, 2], [9, 2, 12], [9, 12, 12], [9, 12, 2]])
    viewer.add_shapes([corners], ndim=3, scale=(50, 4, 4), name="box")
    with pytest.raises(ValueError, match="in no section of em"):
        drawn_box(viewer, layer)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
@pytest.mark.parametrize("ndisplay", [2, 3])
@pytest.mark.parametrize("size", [(10, 10, 10), (None, 5, 5), None])
def test_another_voxel_size_keeps_the_view(viewer, size, ndisplay, order) -> None:
    layer, camera = viewer.layers["em"], camera_of(viewer)
    viewer.dims.order, viewer.dims.ndisplay = order, ndisplay
    viewer.dims.set_point((0, 1, 2), (150, 48, 100))  # voxel (3, 12, 25)
    middle = np.array([100, 64, 200])  # voxel (2, 16, 50)
    camera.center = (*[0] * (3 - ndisplay), *middle[list(order)][-ndisplay:])
    with view_kept(viewer, layer):
        set_voxel_size(layer, size)
    np.testing.assert_allclose(layer.world_to_data(viewer.dims.point), (3, 12, 25))
    shown = list(order)[-ndisplay:]
    center = camera.center[-ndisplay:] / layer.scale[shown]
    np.testing.assert_allclose(center, np.array([2, 16, 50])[shown])


def test_the_zoom_follows_the_scale_and_a_picture_in_a_stack_its_own(viewer) -> None:
    flat = viewer.add_image(np.zeros((40, 60)), name="flat", scale=(2, 2))
    viewer.dims.set_point(0, 150)
    camera = camera_of(viewer)
    camera.center, camera.zoom = (0, 20, 30), 6
    with view_kept(viewer, flat):
        flat.scale = (6, 6)
    assert camera.zoom == pytest.approx(2)
    np.testing.assert_allclose(camera.center[-2:], (60, 90))
    assert viewer.dims.point[0] == pytest.approx(150)


def test_a_layer_given_units_while_hidden_is_seen_in_its_first_section() -> None:
    viewer = ViewerModel()
    viewer.add_image(np.ones((5, 40, 60), np.uint8))
    layer = viewer.add_image(np.full((5, 40, 60), 7, np.uint8), visible=False)
    viewer.dims.set_current_step(0, 0)
    with view_kept(viewer, layer):
        set_voxel_size(layer, (10, 10, 10))
    layer.visible = True
    assert np.asarray(layer._slice.image.raw).min() == 7
