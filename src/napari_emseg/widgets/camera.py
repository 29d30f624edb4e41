"""What a viewer shows of a stack: which section, which part of it, which box."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, floor
from typing import Any

import numpy as np
from napari import Viewer
from napari.layers import Image, Layer, Shapes
from numpy.typing import NDArray

from napari_emseg._napari import placement_of
from napari_emseg._napari.versions import camera_of, fit_to_view, slice_anew
from napari_emseg.core.regions import Area
from napari_emseg.session import RunScope

OUTLINES = "emseg_outlines"
"""Of `layer.metadata`: shapes of ours, which are no box that somebody drew."""

NEAR = 2.0
"""Pixels of the screen for one of the picture, at which a small place is seen."""


def section_on_screen(viewer: Viewer, layer: Layer) -> int | None:
    """Return the section at the sliders' position, also when z is not on a slider.

    None where the layer has none: sliders go as far as the largest of all layers.
    """
    if layer.ndim < 3:
        return 0
    z = round(float(layer.world_to_data(viewer.dims.point)[-3]))
    return z if 0 <= z < _shape(layer)[-3] else None


def section_here(viewer: Viewer, layer: Layer) -> int:
    """Return the section on screen, for what is done to it.

    Raises
    ------
    ValueError
        If the layer has none there.
    """
    z = section_on_screen(viewer, layer)
    if z is None:
        raise ValueError(no_section(viewer, layer))
    return z


def nearest_section(viewer: Viewer, layer: Layer) -> int:
    """Return the section on screen or the nearest to it, to begin with or go on from.

    Nothing may be done to it as the one that is seen; see `section_here`.
    """
    if layer.ndim < 3:
        return 0
    z = layer.world_to_data(viewer.dims.point)[-3]
    return int(np.clip(round(float(z)), 0, _shape(layer)[-3] - 1))


def no_section(viewer: Viewer, layer: Layer) -> str:
    """Say that a layer has no section at the sliders' position, and where it has."""
    axis = viewer.dims.ndim - 3
    start, _, step = viewer.dims.range[axis]
    ends = ((z, *np.zeros(layer.ndim - 1)) for z in (0, _shape(layer)[-3] - 1))
    world = (float(layer.data_to_world(end)[-3]) for end in ends)
    first, last = sorted(round((at - start) / step) for at in world)
    slider = f"{first}-{last}" if last > first else f"{first}"
    return f"{layer.name} has no section here; move the slider to {slider}"


def go_to_section(viewer: Viewer, layer: Layer, z: int) -> None:
    """Move the sliders so that a section comes on screen."""
    if layer.ndim < 3:
        return
    world = layer.data_to_world((z, *np.zeros(layer.ndim - 1)))
    viewer.dims.set_point(viewer.dims.ndim - 3, float(world[-3]))


@contextmanager
def view_kept(viewer: Viewer, layer: Layer) -> Iterator[None]:
    """Have the same section and pixels on screen when a layer has another scale.

    Sliders and camera are in units of the window, which means other pixels then.
    """
    camera, scale = camera_of(viewer), np.array(layer.scale)
    offset = viewer.dims.ndim - layer.ndim
    axes = [axis for axis in viewer.dims.displayed if axis >= offset]
    middle = np.array(viewer.dims.point, float)
    middle[list(viewer.dims.displayed)] = camera.center[-viewer.dims.ndisplay :]
    pixel, zoom = layer.world_to_data(middle), camera.zoom
    section = layer.world_to_data(viewer.dims.point)
    try:
        yield
    finally:
        point = [float(x) for x in layer.data_to_world(section)]
        viewer.dims.set_point(range(offset, viewer.dims.ndim), point)
        middle[offset:] = layer.data_to_world(pixel)
        center = middle[list(viewer.dims.displayed)]
        camera.center = (*camera.center[: 3 - len(center)], *map(float, center))
        own = [axis - offset for axis in axes]
        before, now = (
            max(each[own] * np.array(_shape(layer))[own], default=1.0)
            for each in (scale, np.asarray(layer.scale))
        )
        camera.zoom = zoom * float(before / now)
        slice_anew(viewer)


def bring_into_view(viewer: Viewer, layer: Layer, *, fit: bool = False) -> None:
    """Have a section of a layer on screen, and some of it in the view, or all."""
    if section_on_screen(viewer, layer) is None:
        go_to_section(viewer, layer, nearest_section(viewer, layer))
    if not shows_sections(viewer, layer):
        return
    ends = ([0] * layer.ndim, (*([0] * (layer.ndim - 2)), *_shape(layer)[-2:]))
    corners = [np.asarray(layer.data_to_world(end), float)[-2:] for end in ends]
    low, high = np.minimum(*corners), np.maximum(*corners)
    middle = np.asarray(camera_of(viewer).center, float)[-2:]
    if fit or (middle < low).any() or (middle > high).any():
        fit_to_view(viewer, layer)


def go_to_place(viewer: Viewer, layer: Layer, place: tuple[int, int, int]) -> None:
    """Bring a voxel `(z, y, x)` into the middle of the view, near enough to be seen."""
    go_to_section(viewer, layer, place[0])
    if not shows_sections(viewer, layer):
        return
    camera = camera_of(viewer)
    at = layer.data_to_world(np.asarray(place, float)[-layer.ndim :])
    camera.center = (camera.center[0], float(at[-2]), float(at[-1]))
    camera.zoom = max(camera.zoom, NEAR / abs(float(layer.scale[-1])))


def shows_sections(viewer: Viewer, layer: Layer) -> bool:
    """Tell if the view is of single sections: not turned, and not 3-D."""
    if viewer.dims.ndisplay != 2:
        return False
    last = (viewer.dims.ndim - 2, viewer.dims.ndim - 1)
    return tuple(sorted(viewer.dims.displayed)) == last


def is_on_screen(viewer: Viewer, layer: Layer, sections: set[int]) -> bool:
    """Tell if some of these sections are seen now."""
    if not shows_sections(viewer, layer):
        return bool(sections)
    return section_on_screen(viewer, layer) in sections


def area_in_view(viewer: Viewer, layer: Layer) -> Area | None:
    """Return rows and columns of the section that are on screen; None for all.

    All is also the answer for a turned or a 3-D view, and before anything was drawn.
    """
    if not shows_sections(viewer, layer):
        return None
    factor = np.ones(2)
    if isinstance(layer, Image) and layer.multiscale:  # corners are those of a level
        factor = np.asarray(layer.downsample_factors[layer.data_level])[-2:]
    corners = np.asarray(layer.corner_pixels)[:, -2:]
    shape = _shape(layer)[-2:]
    low = np.clip(np.floor(corners[0] * factor), 0, shape).astype(int)
    high = np.clip(np.ceil((corners[1] + 1) * factor), 0, shape).astype(int)
    if not corners.any():
        return None
    whole = all(low == 0) and all(high >= shape)
    if whole or any(high <= low):
        return None
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


def drawn_box(viewer: Viewer, layer: Layer) -> RunScope:
    """Return the box around the shape that was drawn or selected last.

    Raises
    ------
    ValueError
        If there is none, or it lies outside of the picture.
    """
    shapes = _shapes_layer(viewer)
    if shapes is None:
        msg = "there is no box yet: press Draw and drag a rectangle over the picture"
        raise ValueError(msg)
    selected = sorted(shapes.selected_data)
    vertices = shapes.data[selected[-1] if selected else -1]
    world = [shapes.data_to_world(vertex) for vertex in vertices]
    points = np.array([_from_world(layer, point) for point in world])
    shape = np.array(_shape(layer)[-2:])
    low, high = points[:, -2:].min(axis=0), points[:, -2:].max(axis=0)
    low, high = np.clip(low + 0.5, 0, shape), np.clip(high + 0.5, 0, shape)
    rows, columns = (slice(floor(a), ceil(b)) for a, b in zip(low, high, strict=True))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        msg = f"the box in {shapes.name} lies outside of {layer.name}; draw another one"
        raise ValueError(msg)
    if layer.ndim > 2 and shapes.ndim > 2:
        z = round(float(points[0, -3]))
        if not 0 <= z < _shape(layer)[-3]:
            msg = f"the box in {shapes.name} is in no section of {layer.name}"
            raise ValueError(f"{msg}; draw another one")
    else:
        z = section_here(viewer, layer)
    return RunScope((z,), (rows, columns))


def add_box_layer(viewer: Viewer, layer: Layer) -> Shapes:
    """Add a layer to draw a box in, aligned with another layer."""
    shapes = viewer.add_shapes(
        ndim=layer.ndim,
        name="box",
        face_color="transparent",
        **placement_of(layer),
    )
    shapes.current_edge_width = max(1, max(_shape(layer)[-2:]) // 256)
    shapes.current_edge_color = "yellow"
    shapes.mode = "add_rectangle"
    return shapes


def _shapes_layer(viewer: Viewer) -> Shapes | None:
    """Return the active layer if it has shapes, else the topmost one that has."""
    active = viewer.layers.selection.active
    candidates = [active, *reversed(viewer.layers)]
    for layer in candidates:
        drawn = isinstance(layer, Shapes) and OUTLINES not in layer.metadata
        if drawn and layer.visible and len(layer.data):
            return layer
    return None


def _from_world(layer: Layer, point: Any) -> NDArray[np.float64]:
    """Return data coordinates of a point that may lack the leading axes."""
    missing = layer.ndim - len(point)
    padded = np.concatenate([np.zeros(max(0, missing)), np.asarray(point, float)])
    return np.asarray(layer.world_to_data(padded))


def _shape(layer: Layer) -> tuple[int, ...]:
    if isinstance(layer, Image) and layer.multiscale:
        return tuple(layer.data[0].shape)
    return tuple(layer.data.shape)
