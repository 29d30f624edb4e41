"""Where candidate and current weights differ, and a key to flip between them."""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import ReferenceType, ref

import numpy as np
from napari import Viewer
from napari.layers import Labels, Layer
from napari.utils.colormaps import CyclicLabelColormap
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from napari_emseg._napari import placement_of
from napari_emseg.session.model_difference import PredictionDiff
from napari_emseg.session.results import allocate
from napari_emseg.widgets.controller import ViewerController

GREEN = (0.0, 0.62, 0.45)
PINK = (0.80, 0.47, 0.65)
CURRENT, CANDIDATE = (0.15, 0.8, 0.75), (0.94, 0.89, 0.26)

PAUSE_MS = 20
"""Between two layers that are added, for events that wait."""


class Differences(QObject):
    """Two layers over a source: membranes of either weights, and where they differ.

    They hold what was asked for so far, section by section.
    """

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._viewer: ReferenceType[Viewer] = ref(controller.viewer)
        self._source: ReferenceType[Layer] | None = None
        self._layers = {
            name: controller.overlay(name) for name in ("membranes", "differences")
        }
        self._arrays: dict[str, NDArray[np.uint8]] = {}
        self._of: tuple[str, str] = ("", "")
        self.shows_candidate = True

    def show(
        self, seen: PredictionDiff, source: Layer, of: tuple[str, str], shape: Any
    ) -> None:
        """Put what was seen into the layers.

        Parameters
        ----------
        of
            Names of current and candidate weights.
        shape
            `(z, y, x)` of the source.
        """
        known = None if self._source is None else self._source()
        if of != self._of or known is not source or not self._arrays:
            self._of, self._source = of, ref(source)
            names = ("current", "candidate", "differences")
            self._arrays = {name: allocate(shape, np.uint8) for name in names}
        for name in self._arrays:
            self._arrays[name][seen.z][seen.area] = getattr(seen, name)
        self._show_layer("membranes", self._membranes(), source)
        QTimer.singleShot(PAUSE_MS, self._show_differences)

    def _show_differences(self) -> None:
        source = None if self._source is None else self._source()
        if source is not None and self._arrays:
            self._show_layer("differences", self._arrays["differences"], source)

    def flip(self, *_: Any) -> str:
        """Show the other weights' membranes; say which they are.

        Raises
        ------
        ValueError
            If nothing was predicted by both yet.
        """
        layer = self._there("membranes")
        if layer is None or not self._arrays:
            msg = "press Show where they differ first"
            raise ValueError(msg)
        self.shows_candidate = not self.shows_candidate
        layer.visible = True
        layer.colormap = _colours(CANDIDATE if self.shows_candidate else CURRENT)
        layer.data = _as_shown(self._membranes(), layer.ndim)
        layer.name = self._name("membranes")
        return f"membranes of {self._shown}"

    def remove(self) -> None:
        """Take the layers away."""
        for overlay in self._layers.values():
            overlay.remove()
        self._arrays = {}

    @property
    def _shown(self) -> str:
        current, candidate = self._of
        if self.shows_candidate:
            return f"the candidate {candidate}"
        return f"the current {current}"

    def _membranes(self) -> NDArray[np.uint8]:
        return self._arrays["candidate" if self.shows_candidate else "current"]

    def _name(self, name: str) -> str:
        if name == "differences":
            return "where they differ"
        return self._shown.removeprefix("the ")

    def _there(self, name: str) -> Labels | None:
        layer: Labels | None = self._layers[name].layer
        return layer

    def _show_layer(self, name: str, data: NDArray[np.uint8], source: Layer) -> None:
        viewer, layer = self._viewer(), self._there(name)
        if viewer is None or source not in viewer.layers:
            return
        shown = _as_shown(data, source.ndim)
        if layer is not None and layer.ndim == shown.ndim:
            layer.data = shown
            layer.name = self._name(name)
            return
        self._layers[name].show(partial(self._made, name, shown, source), source)

    def _made(self, name: str, shown: NDArray[np.uint8], source: Layer) -> Labels:
        colours = _colours(CANDIDATE if self.shows_candidate else CURRENT)
        if name == "differences":
            colours = _colours(GREEN, PINK)
        made = Labels(
            shown,
            name=self._name(name),
            colormap=colours,
            opacity=0.7,
            **placement_of(source),
        )
        made.editable = False
        return made


def _as_shown(data: NDArray[np.uint8], ndim: int) -> NDArray[np.uint8]:
    return data[0] if ndim == 2 else data


def _colours(*colours: tuple[float, float, float]) -> CyclicLabelColormap:
    shown = [(0, 0, 0, 0), *((*colour, 1) for colour in colours)]
    return CyclicLabelColormap(colors=shown, name="differences")
