"""Result layers: made beside their source, and shown again when something is new."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import Any
from weakref import ReferenceType, ref

from napari import Viewer
from napari.layers import Image, Labels, Layer
from napari.utils.colormaps import Colormap, CyclicLabelColormap
from napari.utils.notifications import show_info
from numpy.typing import NDArray
from psygnal import Signal
from qtpy.QtCore import QObject, QTimer

from napari_emseg._napari import KEY, placement_of
from napari_emseg._napari.layers import PLACEMENT, RESULT, lies, place
from napari_emseg.core.records import Provenance
from napari_emseg.widgets.camera import is_on_screen
from napari_emseg.widgets.layer_changes import LayerChanges

Kind = str
"""`membranes`, `corrections`, `cells`, `membrane probability`, or the last of another
class; see `likelihood`."""

# told apart by colour-blind people too (Okabe and Ito)
ORANGE = (0.90, 0.62, 0.0)
"""Membrane: its probability, membranes cut at the threshold, and corrections."""
BLUE = (0.0, 0.45, 0.70)
"""Inside of cells."""
UNCERTAIN = (1.0, 0.6, 0.9)
PURPLE = (0.80, 0.47, 0.65)
GREEN = (0.0, 0.62, 0.45)
SKY = (0.35, 0.70, 0.90)
OF_CLASSES = (PURPLE, GREEN, SKY)
"""Of classes beside membrane and inside, in turn: of corrections and probabilities."""

PAUSE_MS = 20
"""Between two layers that are added, for events that wait."""

AT_REST_MS = 200
"""After the latest move of a result, until it is put back: a drag tells many."""

SHARE_OF_TIME = 0.1
"""Showing results may take this part of the GUI thread's time, and no more."""


def likelihood(name: str) -> Kind:
    """Return the kind of layer that shows the probabilities of a class."""
    return f"{name} probability"


class ResultLayers(QObject):
    """The layers that show what runs over one source give.

    The user may hide, rename or remove any of them at any time.

    Signals: `replaced` with the kind of a layer when somebody else has put other data
    in it, so that it doesn't show the results any more; see `restore`.
    """

    replaced = Signal(str)

    def __init__(self, viewer: Viewer, source: Layer, changes: LayerChanges) -> None:
        super().__init__()
        self._changes = changes
        self._viewer: ReferenceType[Viewer] = ref(viewer)
        self._layers: dict[Kind, ReferenceType[Layer]] = {}
        self._shown: dict[Kind, NDArray[Any]] = {}
        self._assigning = False
        self._placement = placement_of(source)
        self._placing = False
        self._moved: set[Kind] = set()
        self._at_rest = QTimer(self)
        self._at_rest.setSingleShot(True)
        self._at_rest.setInterval(AT_REST_MS)
        self._at_rest.timeout.connect(self._put_back)
        self._flat = source.ndim == 2
        self._name = source.name
        for name in PLACEMENT:
            source.events[name].connect(self._on_placed)
        self._free_at = 0.0
        self._waiting: set[Kind] = set()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._on_free)
        self._to_add: dict[Kind, NDArray[Any]] = {}
        self._while: Callable[[], bool] = bool
        self._then: Callable[[], None] = _nothing
        self._adding = QTimer(self)
        self._adding.setInterval(PAUSE_MS)
        self._adding.timeout.connect(self._on_adding)

    @property
    def begun(self) -> bool:
        """True if there is any layer, or there was one that the user removed."""
        return bool(self._layers)

    def get(self, kind: Kind) -> Layer | None:
        """Return a layer; None if it isn't there or the user removed it."""
        viewer = self._viewer()
        layer = self._layers[kind]() if kind in self._layers else None
        there = viewer is not None and layer is not None and layer in viewer.layers
        return layer if there else None

    def owns(self, layer: Layer) -> bool:
        """Tell if a layer is one of these."""
        return any(known() is layer for known in self._layers.values())

    def let_go(self) -> None:
        """Have no layers any more: their stack is gone, they are anybody's."""
        self._layers.clear()

    def align(self, source: Layer) -> None:
        """Follow the source, after its scale or its name has changed."""
        self._placement = placement_of(source)
        self._name = source.name
        for kind in self._layers:
            self._place(kind)

    def _place(self, kind: Kind) -> bool:
        """Lay a layer over the source; tell if it wasn't there."""
        layer = self.get(kind)
        if layer is None or lies(layer, self._placement):
            return False
        self._placing = True
        try:
            place(layer, self._placement)
        finally:
            self._placing = False
        return True

    def _on_placed(self, event: Any) -> None:
        self.align(event.source)

    def _on_moved(self, event: Any) -> None:
        """Notice that somebody moves a result by itself; wait until it is let go."""
        known = self._layers.items()
        moved = {kind for kind, layer in known if layer() is event.source}
        if moved and not self._placing:
            self._moved |= moved
            self._at_rest.start()

    def _put_back(self) -> None:
        """Lay results over their source again, where tools and files have them."""
        moved, self._moved = self._moved, set()
        for kind in moved:
            if self._place(kind):
                layer = self.get(kind)
                name = kind if layer is None else layer.name
                show_info(
                    f"{name} was put back over {self._name}: move {self._name}, and "
                    f"its results follow"
                )

    def show(
        self,
        arrays: Mapping[Kind, NDArray[Any]],
        *,
        while_: Callable[[], bool],
        then: Callable[[], None],
    ) -> None:
        """Have a layer for each result `(z, y, x)`, the lowest first, `then` go on.

        `while_` it is wanted: not when the window is closing, for one. They
        are added one at a time, since each takes a good part of a second in which the
        window does nothing else.
        """
        self._while, self._then = while_, then
        self._to_add = {}
        for kind, data in arrays.items():
            shown = data[0] if self._flat else data
            layer = self.get(kind)
            if layer is None:
                self._to_add[kind] = shown
            else:
                self._shown[kind] = shown
                self.restore(kind)
        self._adding.start()

    def restore(self, kind: Kind) -> None:
        """Have a layer show the results again."""
        layer, shown = self.get(kind), self._shown[kind]
        if layer is not None and not _same_memory(layer.data, shown):
            self._assigning = True
            try:
                layer.data = shown
            finally:
                self._assigning = False

    def _on_data(self, event: Any) -> None:
        layer = event.source
        if self._assigning:
            return
        for kind, known in self._layers.items():
            if known() is layer and not _same_memory(layer.data, self._shown[kind]):
                self.replaced.emit(kind)
                return

    def show_now(self, arrays: Mapping[Kind, NDArray[Any]]) -> None:
        """Have a layer for each result at once, where few are missing."""
        for kind, data in arrays.items():
            shown = data[0] if self._flat else data
            self._changes.do(partial(self._add, kind, shown))

    def _on_adding(self) -> None:
        if self._viewer() is None or not self._to_add or not self._while():
            self._adding.stop()
            self._then()
            return
        kind = next(iter(self._to_add))
        self._changes.do(partial(self._add, kind, self._to_add.pop(kind)))

    def describe(self, kind: Kind, provenance: Provenance | None) -> None:
        """Write into a layer how it came to be."""
        layer = self.get(kind)
        if layer is not None and provenance is not None:
            layer.metadata[KEY] = provenance.model_dump(mode="json")

    def refresh(self, kinds: set[Kind], sections: set[int]) -> None:
        """Show sections anew if they are on screen, now or when there is time."""
        viewer = self._viewer()
        if viewer is None:
            return
        for kind in kinds:
            layer = self.get(kind)
            seen = layer is not None and layer.visible
            if seen and is_on_screen(viewer, layer, sections):
                self._waiting.add(kind)
        if self._waiting and not self._timer.isActive():
            self._timer.start(max(0, round(1000 * (self._free_at - perf_counter()))))

    def refresh_all(self) -> None:
        """Show everything anew, thumbnails too."""
        self._timer.stop()
        self._waiting.clear()
        for kind in self._layers:
            layer = self.get(kind)
            if layer is not None:
                layer.refresh()

    def _on_free(self) -> None:
        start = perf_counter()
        for kind in self._waiting:
            layer = self.get(kind)
            if layer is not None:
                layer.refresh(thumbnail=False, highlight=False, extent=False)
        self._waiting.clear()
        end = perf_counter()
        self._free_at = end + (end - start) / SHARE_OF_TIME

    def _add(self, kind: Kind, data: NDArray[Any]) -> None:
        if self.get(kind) is not None:
            return
        made = f"{self._name} {kind}"
        if kind in _MAKE:
            layer = _MAKE[kind](data, made, self._placement)
        else:
            nth = sum(known not in _MAKE for known in self._layers)
            colour = OF_CLASSES[nth % len(OF_CLASSES)]
            layer = _probability(data, made, self._placement, colour)
        self._layers[kind] = ref(layer)
        self._shown[kind] = data
        layer.metadata[RESULT] = True
        layer.events.data.connect(self._on_data)
        for name in PLACEMENT:
            layer.events[name].connect(self._on_moved)
        self._changes.add(layer)


def _nothing() -> None:
    """Do nothing."""


def _same_memory(a: Any, b: NDArray[Any]) -> bool:
    there = getattr(a, "__array_interface__", None)
    return (
        there is not None
        and there["data"] == b.__array_interface__["data"]
        and a.shape == b.shape
        and a.dtype == b.dtype
    )


def _probability(
    data: NDArray[Any],
    name: str,
    placement: dict[str, Any],
    colour: tuple[float, float, float] = ORANGE,
) -> Image:
    return Image(
        data,
        name=name,
        contrast_limits=(0, 1),
        colormap=Colormap([(*colour, 0.0), (*colour, 1.0)], name="probability"),
        blending="translucent",
        opacity=0.7,
        **placement,
    )


def _membranes(data: NDArray[Any], name: str, placement: dict[str, Any]) -> Labels:
    # one colour for all labels; a direct colormap would have numba compile for seconds
    colours = CyclicLabelColormap(colors=[(0, 0, 0, 0), (*ORANGE, 1)], name="membranes")
    return Labels(
        data, name=name, colormap=colours, opacity=0.7, visible=False, **placement
    )


def _corrections(data: NDArray[Any], name: str, placement: dict[str, Any]) -> Labels:
    # in turn: unlabelled, membrane, inside, then classes
    colours = [(*colour, 1) for colour in (ORANGE, BLUE, *OF_CLASSES)]
    shown = CyclicLabelColormap(colors=[(0, 0, 0, 0), *colours], name="corrections")
    layer = Labels(data, name=name, colormap=shown, opacity=0.8, **placement)
    layer.contour = 1  # reviewed regions are full of corrections, and the EM is seen
    # In 3-D napari fills labels, and would say so each time as a notification.
    warnings.filterwarnings("ignore", "Contours are not displayed")
    return layer


def _cells(data: NDArray[Any], name: str, placement: dict[str, Any]) -> Labels:
    return Labels(data, name=name, opacity=0.45, **placement)


_MAKE = {
    "membrane probability": _probability,
    "membranes": _membranes,
    "corrections": _corrections,
    "cells": _cells,
}
