"""Outlines over a stack: places to look at, and regions that are reviewed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Layer, Shapes
from numpy.typing import NDArray

from napari_emseg._napari import placement_of
from napari_emseg.core.regions import Region
from napari_emseg.widgets.camera import OUTLINES
from napari_emseg.widgets.layer_changes import OverlayLayer

NAME = "places"
# told apart by colour-blind people too (Okabe and Ito)
REVIEWED = (0.0, 0.62, 0.45, 1.0)
TO_DO = (0.94, 0.89, 0.26, 1.0)
CURRENT = (0.84, 0.37, 0.0, 1.0)

WIDTH = 2.0
"""Of a line, px of the picture."""


class Outlines:
    """One layer of rectangles, which is there as long as there are some."""

    def __init__(self, overlay: OverlayLayer) -> None:
        self._overlay = overlay
        self._shown: tuple[Any, ...] = ()

    @property
    def layer(self) -> Shapes | None:
        """The layer; None if there is none, or it was removed."""
        layer: Shapes | None = self._overlay.layer
        return layer

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
        regions = (*reviewed, *to_do)
        if source is None or not regions:
            self._overlay.remove()
            return
        colours = [REVIEWED] * len(reviewed)
        colours += [CURRENT if r == current else TO_DO for r in to_do]
        self._overlay.show(partial(_made, source, regions, colours), source)

    def remove(self) -> None:
        """Take the layer away, until something is shown again."""
        self._shown = ()
        self._overlay.remove()


def _made(source: Layer, regions: Sequence[Region], colours: list[Any]) -> Shapes:
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
    return layer


def _corners(region: Region) -> NDArray[np.float64]:
    """Return the corners `(4, 3)` of a region: pixels are centred on whole numbers."""
    top, left = region.top - 0.5, region.left - 0.5
    bottom, right = region.bottom - 0.5, region.right - 0.5
    corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
    return np.array([(region.z, y, x) for y, x in corners], float)
