"""Outlines over a stack: places to look at, and regions that are reviewed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import ReferenceType, ref

import numpy as np
from napari import Viewer
from napari.layers import Layer, Shapes
from numpy.typing import NDArray

from napari_emseg._napari import placement_of
from napari_emseg.core.regions import Region
from napari_emseg.widgets.view import OUTLINES

NAME = "places"
# told apart by colour-blind people too (Okabe and Ito)
REVIEWED = (0.0, 0.62, 0.45, 1.0)
TO_DO = (0.94, 0.89, 0.26, 1.0)
CURRENT = (0.84, 0.37, 0.0, 1.0)

WIDTH = 2.0
"""Of a line, px of the picture."""


class Outlines:
    """One layer of rectangles, which is there as long as there are some."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer: ReferenceType[Viewer] = ref(viewer)
        self._layer: ReferenceType[Layer] | None = None
        self._shown: tuple[Any, ...] = ()

    @property
    def layer(self) -> Shapes | None:
        """The layer; None if there is none, or it was removed."""
        viewer = self._viewer()
        layer = None if self._layer is None else self._layer()
        there = viewer is not None and layer is not None and layer in viewer.layers
        return layer if there else None

    def show(
        self,
        source: Layer | None,
        reviewed: Sequence[Region],
        to_do: Sequence[Region] = (),
        current: Region | None = None,
    ) -> None:
        """Outline regions of a source; nothing happens if they are there already."""
        wanted = (None if source is None else id(source), *reviewed, None, *to_do)
        wanted = (*wanted, current)
        if wanted == self._shown:
            return
        self._shown = wanted
        self.remove()
        regions = (*reviewed, *to_do)
        if source is not None and regions:
            colours = [REVIEWED] * len(reviewed)
            colours += [CURRENT if r == current else TO_DO for r in to_do]
            self._add(source, regions, colours)

    def remove(self) -> None:
        """Take the layer away."""
        viewer, layer = self._viewer(), self.layer
        self._layer = None
        if viewer is not None and layer is not None:
            viewer.layers.remove(layer)

    def _add(
        self, source: Layer, regions: Sequence[Region], colours: list[Any]
    ) -> None:
        viewer = self._viewer()
        if viewer is None:
            return
        active = viewer.layers.selection.active
        layer = Shapes(
            [_corners(region)[:, -source.ndim :] for region in regions],
            shape_type="rectangle",
            ndim=source.ndim,
            name=NAME,
            edge_color=colours,
            edge_width=WIDTH,
            face_color="transparent",
            metadata={OUTLINES: True},
            **placement_of(source),
        )
        layer.editable = False
        self._layer = ref(layer)
        viewer.add_layer(layer)
        viewer.layers.selection.active = active


def _corners(region: Region) -> NDArray[np.float64]:
    """Return the corners `(4, 3)` of a region: pixels are centred on whole numbers."""
    top, left = region.top - 0.5, region.left - 0.5
    bottom, right = region.bottom - 0.5, region.right - 0.5
    corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
    return np.array([(region.z, y, x) for y, x in corners], float)
