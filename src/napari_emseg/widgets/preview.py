"""A line over the picture that shows what a tool would do."""

from __future__ import annotations

from weakref import ReferenceType, ref

import numpy as np
from napari import Viewer
from napari.layers import Layer, Shapes
from numpy.typing import NDArray
from skimage.measure import approximate_polygon

from napari_emseg._napari import placement_of

NAME = "correction preview"
YELLOW = "#f0e442"
TOLERANCE = 0.6
"""A path is drawn this exactly, px."""


class Preview:
    """One line in a layer that comes and goes with the tools."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer: ReferenceType[Viewer] = ref(viewer)
        self._layer: ReferenceType[Shapes] | None = None

    def show(self, source: Layer, z: int, path: NDArray[np.generic]) -> None:
        """Show a path `(n, 2)` in section `z` of the source."""
        layer = self._ready(source)
        if layer is None:
            return
        line = approximate_polygon(np.asarray(path, float), TOLERANCE)
        if len(line) < 2:
            line = np.concatenate([line, line + 0.5])
        if source.ndim > 2:
            line = np.column_stack([np.full(len(line), z), line])
        layer.data = []
        layer.add_paths(line, edge_color=YELLOW, edge_width=2)

    def hide(self) -> None:
        """Show nothing."""
        layer = self._there()
        if layer is not None and len(layer.data):
            layer.data = []

    def remove(self) -> None:
        """Take the layer away."""
        layer, viewer = self._there(), self._viewer()
        if layer is not None and viewer is not None:
            active = viewer.layers.selection.active
            viewer.layers.remove(layer)
            if active is not layer:
                viewer.layers.selection.active = active

    def _there(self) -> Shapes | None:
        viewer = self._viewer()
        layer = None if self._layer is None else self._layer()
        return layer if viewer is not None and layer in viewer.layers else None

    def _ready(self, source: Layer) -> Shapes | None:
        layer, viewer = self._there(), self._viewer()
        if layer is None and viewer is not None:
            active = viewer.layers.selection.active
            layer = viewer.add_shapes(
                ndim=source.ndim, name=NAME, **placement_of(source)
            )
            layer.editable = False
            viewer.layers.selection.active = active
            self._layer = ref(layer)
        return layer
