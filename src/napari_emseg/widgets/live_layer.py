"""The layer of the live preview: a patch of one section, where it belongs."""

from __future__ import annotations

from typing import Any
from weakref import ReferenceType, ref

import numpy as np
from napari import Viewer
from napari.layers import Image, Layer
from napari.utils.colormaps import Colormap
from numpy.typing import NDArray

from napari_emseg._napari import placement_of
from napari_emseg._napari.layers import LIVE
from napari_emseg.session.region import Area

NAME = "live membranes"
SKY = (0.34, 0.71, 0.91)
"""Not the colour of results, and told apart from it by colour-blind people too."""

NOTHING = np.zeros((1, 1), np.float32)


class LiveLayer:
    """Shows patches in one layer, which is added with the first of them."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer: ReferenceType[Viewer] = ref(viewer)
        self._layer: ReferenceType[Layer] | None = None

    @property
    def layer(self) -> Image | None:
        """The layer; None if it isn't there, or was removed."""
        viewer = self._viewer()
        layer = None if self._layer is None else self._layer()
        there = viewer is not None and layer is not None and layer in viewer.layers
        return layer if there else None

    def owns(self, layer: Layer) -> bool:
        """Tell if this is the layer, also after somebody has removed it."""
        return self._layer is not None and self._layer() is layer

    def show(
        self, source: Layer, z: int, area: Area, values: NDArray[np.float32]
    ) -> None:
        """Show probabilities `(y, x)` of an area of section z of a source."""
        viewer, layer = self._viewer(), self.layer
        if viewer is None:
            return
        corner = (z, area[0].start, area[1].start)[-source.ndim :]
        placement = placement_of(source) | {"translate": _moved(source, corner)}
        data = values if source.ndim == 2 else values[None]
        if layer is not None and layer.ndim != source.ndim:
            self.remove()
            layer = None
        if layer is None:
            self._add(viewer, data, placement)
            return
        layer.data = data
        for name, value in placement.items():
            if not np.array_equal(np.asarray(getattr(layer, name)), np.asarray(value)):
                setattr(layer, name, value)

    def clear(self) -> None:
        """Show nothing, without taking the layer away."""
        layer = self.layer
        if layer is not None and max(layer.data.shape) > 1:
            layer.data = NOTHING if layer.ndim == 2 else NOTHING[None]

    def remove(self) -> None:
        """Take the layer away."""
        viewer, layer = self._viewer(), self.layer
        self._layer = None
        if viewer is not None and layer is not None:
            viewer.layers.remove(layer)

    def _add(
        self, viewer: Viewer, data: NDArray[np.float32], placement: dict[str, Any]
    ) -> None:
        active = viewer.layers.selection.active
        layer = Image(
            data,
            name=NAME,
            contrast_limits=(0, 1),
            colormap=Colormap([(*SKY, 0.0), (*SKY, 1.0)], name="live"),
            blending="translucent",
            opacity=0.7,
            metadata={LIVE: True},
            **placement,
        )
        self._layer = ref(layer)
        viewer.add_layer(layer)
        viewer.layers.selection.active = active


def _moved(layer: Layer, corner: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the translation of a layer that begins at a voxel of another one."""
    here = np.asarray(layer.data_to_world(corner), float)
    there = np.asarray(layer.data_to_world(np.zeros(layer.ndim)), float)
    # data_to_world has the affine in, which comes after the translation
    shift = np.linalg.solve(np.asarray(layer.affine.linear_matrix), here - there)
    return np.asarray(layer.translate, float) + shift
