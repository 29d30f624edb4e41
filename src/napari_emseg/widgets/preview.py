"""A line over the picture that shows what a tool would do."""

from functools import partial

import numpy as np
from napari.layers import Layer, Shapes
from numpy.typing import NDArray
from psygnal import Signal
from qtpy.QtCore import QObject, QTimer
from skimage.measure import approximate_polygon

from napari_emseg._napari import placement_of
from napari_emseg.proofreading import (
    Edit,
    SectionView,
    WireField,
    draw_wire,
    find_gap,
    wire_field,
)
from napari_emseg.session.annotation_editor import AnnotationEditor
from napari_emseg.widgets.background import LatestOnlyWorker
from napari_emseg.widgets.camera import OUTLINES
from napari_emseg.widgets.layer_changes import OverlayLayer
from napari_emseg.widgets.linked_layers import LinkedLayers
from napari_emseg.widgets.tools import CanvasPoint

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


REST_MS = 60
"""The pointer rests for so long before it is looked for a gap under it."""


class GapLook(QObject):
    """Looks for a gap in a thread.

    Signals: `found` with the path, its section, and what a click would do; `refused`
    with why a click would do nothing.
    """

    found = Signal(object, int, str)
    refused = Signal(str)

    def __init__(self, layers: LinkedLayers) -> None:
        super().__init__()
        self._layers = layers
        self._place: CanvasPoint | None = None
        self._gaps = LatestOnlyWorker()
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(REST_MS)
        self._rest.timeout.connect(self._on_rest)
        self._gaps.found.connect(self._on_gap)
        self._gaps.failed.connect(self._on_none)

    def at(self, place: CanvasPoint) -> None:
        """Look at a place if the pointer stays there."""
        self._gaps.drop()
        self._place = place
        self._rest.start()

    def stop(self) -> None:
        """Look no more, and forget what is being looked for."""
        self._rest.stop()
        self._gaps.drop()

    def _on_rest(self) -> None:
        place = self._place
        if place is None:
            return
        try:
            hand = self._layers.hand
            sheet = hand.sheet(place.z)
        except ValueError as e:
            self._on_none(e)
            return
        self._gaps.ask(partial(find_gap, sheet, place.point, settings=hand.settings))

    def _on_gap(self, gap: tuple[NDArray[np.int64], Edit]) -> None:
        path, edit = gap
        if self._place is not None:
            self.found.emit(path, self._place.z, f"click: {edit.words}")

    def _on_none(self, error: Exception) -> None:
        self.refused.emit(str(error))


class LiveWireTool(QObject):
    """Clicks along a membrane, and the path between them.

    A click while paths are still looked for waits its turn; none is dropped.

    Signals: `ready` when a new field is there; `complete` when the last click that
    waited is part of the path, if it is to be set; `refused` with why there is none.
    """

    ready = Signal()
    complete = Signal()
    refused = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._field: WireField | None = None
        self._parts: list[NDArray[np.int64]] = []
        self._clicks: list[tuple[AnnotationEditor, CanvasPoint]] = []
        self._sets = False
        self._z = 0
        self._fields = LatestOnlyWorker()
        self._fields.found.connect(self._on_field)
        self._fields.failed.connect(self._on_error)

    @property
    def active(self) -> bool:
        """True from the first click until it is set or dropped."""
        return self._field is not None or self.waiting

    @property
    def waiting(self) -> bool:
        """True while the paths from the latest click are looked for."""
        return self._fields.waiting

    @property
    def z(self) -> int:
        """The section that it is drawn in."""
        return self._z

    def click(self, hand: AnnotationEditor, place: CanvasPoint) -> None:
        """Fix the path up to a place, and go on from there.

        Raises
        ------
        ValueError
            If the section is another one.
        """
        sheet = hand.sheet(place.z)
        if self.active and place.z != self._z:
            msg = f"this membrane is in section {self._z}; set or drop it first"
            raise ValueError(msg)
        if self.waiting:
            self._clicks.append((hand, place))
            return
        if self._field is not None:
            self._parts.append(self._field.path_to(place.point))
            place = CanvasPoint(place.z, *(float(v) for v in self._parts[-1][-1]))
        self._z = place.z
        self._look(hand, sheet, place)

    def finish(self) -> bool:
        """Tell that it is to be set; True if that must wait for clicks before."""
        self._sets = self.waiting and bool(self._clicks)
        return self._sets

    def path_to(self, place: CanvasPoint) -> NDArray[np.int64] | None:
        """Return the whole path, as it would be with a click here; None without."""
        if self._field is None or place.z != self._z:
            return self._so_far()
        return np.concatenate([*self._parts, self._field.path_to(place.point)])

    def edit(self, hand: AnnotationEditor) -> Edit:
        """Return the edit that sets the membrane, and start afresh.

        Raises
        ------
        ValueError
            If it is too short, or runs through a locked cell.
        """
        path = self._so_far()
        if path is None:
            self.drop()
            msg = "a membrane needs two points; click along it"
            raise ValueError(msg)
        edit = draw_wire(hand.sheet(self._z), path, settings=hand.settings)
        self.drop()
        return edit

    def drop(self) -> None:
        """Forget what was clicked."""
        self._fields.drop()
        self._field, self._parts = None, []
        self._clicks, self._sets = [], False

    def _so_far(self) -> NDArray[np.int64] | None:
        return np.concatenate(self._parts) if self._parts else None

    def _look(
        self, hand: AnnotationEditor, sheet: SectionView, place: CanvasPoint
    ) -> None:
        look = partial(wire_field, sheet, place.point, settings=hand.settings)
        self._fields.ask(look)

    def _on_field(self, field: WireField) -> None:
        self._field = field
        if self._clicks:
            hand, place = self._clicks.pop(0)
            try:
                self.click(hand, place)
            except ValueError as e:
                self._on_error(e)
                return
        self.ready.emit()
        if self._sets and not self._clicks:
            self.complete.emit()

    def _on_error(self, error: Exception) -> None:
        self.drop()
        self.refused.emit(str(error))
