"""A line over the picture that shows what a tool would do."""

from __future__ import annotations

from functools import partial

import numpy as np
from napari.layers import Layer, Shapes
from numpy.typing import NDArray
from skimage.measure import approximate_polygon

from napari_emseg._napari import placement_of
from napari_emseg.widgets.camera import OUTLINES
from napari_emseg.widgets.layer_changes import OverlayLayer

NAME = "correction preview"
YELLOW = "#f0e442"
TOLERANCE = 0.6
"""A path is drawn this exactly, px."""


class Preview:
    """One line in a layer that comes and goes with the tools."""

    def __init__(self, overlay: OverlayLayer) -> None:
        self._overlay = overlay

    def show(self, source: Layer, z: int, path: NDArray[np.generic]) -> None:
        """Show a path `(n, 2)` in section `z` of the source."""
        line = approximate_polygon(np.asarray(path, float), TOLERANCE)
        if len(line) < 2:
            line = np.concatenate([line, line + 0.5])
        if source.ndim > 2:
            line = np.column_stack([np.full(len(line), z), line])
        layer = self._overlay.layer
        if layer is None or layer.ndim != source.ndim:
            self._overlay.show(partial(_made, source, line), source)
            return
        self._overlay.stay_over(source)
        layer.data = []
        _draw(layer, line)

    def hide(self) -> None:
        """Show nothing."""
        layer = self._overlay.layer
        if layer is not None and len(layer.data):
            layer.data = []

    def remove(self) -> None:
        """Take the layer away."""
        self._overlay.remove()


def _made(source: Layer, line: NDArray[np.float64]) -> Shapes:
    layer = Shapes(
        ndim=source.ndim,
        name=NAME,
        metadata={OUTLINES: True},
        **placement_of(source),
    )
    _draw(layer, line)
    layer.editable = False
    return layer


def _draw(layer: Shapes, line: NDArray[np.float64]) -> None:
    layer.add_paths(line, edge_color=YELLOW, edge_width=2)
