"""What differs between the versions of napari that are supported: 0.7 and newer.

One place for all of it, so that raising the lowest version is deleting lines here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Layer

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.components.camera import Camera
    from napari.utils.events import EventEmitter
    from napari.utils.theme import Theme

PLUGIN = "napari-emseg"


def camera_of(viewer: ViewerModel) -> Camera:
    """Return the camera of a viewer, which moved into its scene with napari 0.9."""
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera


def fit_to_view(viewer: ViewerModel, layer: Layer) -> None:
    """Have a layer fill the view, as napari does by itself since 0.9.

    Before, and for a layer with fewer axes than the viewer has, of which napari raises
    an IndexError, all layers are fitted; then the view is moved and enlarged by how
    much larger they are than this one.
    """
    if hasattr(viewer, "scene") and layer.ndim == viewer.dims.ndim:
        viewer.fit_to_view(layers=[layer])
        return
    viewer.fit_to_view()
    shown = [axis - viewer.dims.ndim for axis in viewer.dims.displayed]
    low, high = layer.extent.world[:, shown]
    every = np.ptp(viewer.layers.extent.world[:, shown], axis=0)
    camera = camera_of(viewer)
    camera.center = (*(0.0,) * (3 - len(shown)), *((low + high) / 2))
    camera.zoom *= float(np.min(every / np.maximum(high - low, 1e-9)))


def slice_anew(viewer: ViewerModel) -> None:
    """Have layers cut at the sliders once more, after scale or units have changed.

    Since 0.9 layers learn the units of the window only when a slider moves. One that
    was given others while it was hidden, or while the slider was at 0, is all 0 else.
    """
    viewer.dims.events.point(value=viewer.dims.point)
    for layer in viewer.layers:
        layer.refresh()


def shortcut_changes() -> EventEmitter:
    """Return what napari emits when a key is changed; 0.7 misspells its name."""
    from napari.utils.action_manager import action_manager

    events = action_manager.events
    emitters: dict[str, EventEmitter] = events.emitters
    return emitters.get("shortcut_changed") or emitters["shorcut_changed"]


def is_dark(theme: Theme) -> bool:
    """Tell if a theme is dark; 0.7 doesn't say, so its background is looked at."""
    if hasattr(theme, "type"):
        return bool(theme.type == "dark")
    red, green, blue = theme.background.as_rgb_tuple()[:3]
    return bool(red + green + blue < 3 * 128)


def preference(category: str, name: str) -> str | None:
    """Return a preference of the manifest's `configurations`; None if not there.

    It is not there in napari before 0.9, which keeps none for plugins, and where the
    plugin isn't installed, such as in some tests.
    """
    from napari import settings as napari_settings  # 0.7 brings Qt along with it

    get: Any = getattr(napari_settings, "get_plugin_settings", None)
    if get is None:
        return None
    try:
        settings = get(PLUGIN)
    except KeyError:
        return None
    value: str = getattr(getattr(settings, category), name)
    return value
