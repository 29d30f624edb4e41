"""The layer of the live preview: a patch of one section, where it belongs."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from napari.layers import Image, Layer
from napari.utils.colormaps import Colormap
from numpy.typing import NDArray

from napari_emseg._napari import placement_of
from napari_emseg._napari.layers import LIVE, place
from napari_emseg.session.run_scope import Area
from napari_emseg.widgets.layer_changes import OverlayLayer

NAME = "live membranes"
SKY = (0.34, 0.71, 0.91)
"""Not the colour of results, and told apart from it by colour-blind people too."""

NOTHING = np.zeros((1, 1), np.float32)


class LiveLayer:
    """Shows patches in one layer, which is added with the first of them."""

    def __init__(self, overlay: OverlayLayer) -> None:
        self._overlay = overlay

    @property
    def layer(self) -> Image | None:
        """The layer; None if it isn't there, or was removed."""
        layer: Image | None = self._overlay.layer
        return layer

    def owns(self, layer: Layer) -> bool:
        """Tell if this is the layer, also after somebody has removed it."""
        return self._overlay.owns(layer)

    def show(
        self, source: Layer, z: int, area: Area, values: NDArray[np.float32]
    ) -> None:
        """Show probabilities `(y, x)` of an area of section z of a source."""
        corner = (z, area[0].start, area[1].start)[-source.ndim :]
        placement = _begun_at(corner, source)
        data = values if source.ndim == 2 else values[None]
        layer = self.layer
        if layer is None or layer.ndim != source.ndim:
            self._overlay.show(partial(_made, data, placement), source)
        else:
            layer.data = data
            place(layer, placement)
        self._overlay.stay_over(source, partial(_begun_at, corner))

    def clear(self) -> None:
        """Show nothing, without taking the layer away."""
        layer = self.layer
        if layer is not None and max(layer.data.shape) > 1:
            layer.data = NOTHING if layer.ndim == 2 else NOTHING[None]

    def remove(self) -> None:
        """Take the layer away."""
        self._overlay.remove()


def _made(data: NDArray[np.float32], placement: dict[str, Any]) -> Image:
    return Image(
        data,
        name=NAME,
        contrast_limits=(0, 1),
        colormap=Colormap([(*SKY, 0.0), (*SKY, 1.0)], name="live"),
        blending="translucent",
        opacity=0.7,
        metadata={LIVE: True},
        **placement,
    )


def _begun_at(corner: tuple[int, ...], source: Layer) -> dict[str, Any]:
    return placement_of(source) | {"translate": _moved(source, corner)}


def _moved(layer: Layer, corner: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the translation of a layer that begins at a voxel of another one."""
    here = np.asarray(layer.data_to_world(corner), float)
    there = np.asarray(layer.data_to_world(np.zeros(layer.ndim)), float)
    # data_to_world has the affine in, which comes after the translation
    shift = np.linalg.solve(np.asarray(layer.affine.linear_matrix), here - there)
    return np.asarray(layer.translate, float) + shift
