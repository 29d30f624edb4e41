"""What corrects by hand in one viewer, whichever panels come and go."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Layer, Shapes
from numpy.typing import NDArray
from psygnal import Signal
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_emseg._napari import placement_of
from napari_emseg.core.regions import Region
from napari_emseg.session import StackState
from napari_emseg.session.review_queue import is_done
from napari_emseg.widgets.camera import (
    OUTLINES,
    area_in_view,
    section_here,
    shows_sections,
)
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.flow_row import FlowRow
from napari_emseg.widgets.keys import Act, Keys
from napari_emseg.widgets.layer_changes import OverlayLayer
from napari_emseg.widgets.linked_layers import LinkedLayers
from napari_emseg.widgets.pointer import Pointer
from napari_emseg.widgets.theme import button

if TYPE_CHECKING:
    from napari_emseg.active_learning import Suggestion


class RegionRow(QWidget):
    """Marks the view as reviewed, or the region in its middle as to do again."""

    said = Signal(str)
    refused = Signal(str)

    def __init__(self, controller: ViewerController, layers: LinkedLayers) -> None:
        super().__init__()
        self._controller = controller
        self._layers = layers
        self.view = button(
            "Mark view reviewed",
            tooltip="All that is on screen is right: it counts as a reviewed region",
        )
        self.back = button(
            "Not reviewed", tooltip="The reviewed region in the middle is to do again"
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(FlowRow(self.view, self.back, fill=True))
        self.view.clicked.connect(self._on_view)
        self.back.clicked.connect(self._on_back)

    def review(self, region: Region) -> bool:
        """Mark a region as reviewed; tell if it is."""
        try:
            self._layers.show()
            edit = self._layers.hand.review(region)
        except ValueError as e:
            self.refused.emit(str(e))
            return False
        self.said.emit(edit.words)
        return True

    def _on_view(self) -> None:
        """Mark what is on screen as reviewed."""
        region = self._on_screen()
        if region is not None:
            self.review(region)

    def _on_back(self) -> None:
        """Mark the smallest region in the middle of the view as to do again."""
        view, source = self._on_screen(), self._controller.session.source
        if view is None or source is None:
            return
        y, x = (view.top + view.bottom) // 2, (view.left + view.right) // 2
        middle = Region(view.z, y, x, y + 1, x + 1)
        known = source.editor.regions if source.editor.begun else ()
        found = [region for region in known if region.overlap(middle)]
        if not found:
            self.refused.emit("there is no reviewed region in the middle of the view")
            return
        try:
            self._layers.show()
            region = min(found, key=lambda region: region.pixels)
            edit = self._layers.hand.unreview(region)
        except ValueError as e:
            self.refused.emit(str(e))
        else:
            self.said.emit(edit.words)

    def _on_screen(self) -> Region | None:
        """Return what is on screen; None, and why, if that can't be told."""
        source, layer = self._controller.session.source, self._controller.source_layer
        if source is None or layer is None:
            self.refused.emit("no stack is chosen; choose one in 1 Data")
            return None
        if not shows_sections(self._controller.viewer, layer):
            self.refused.emit("sections are reviewed seen from the front, in 2-D")
            return None
        try:
            z = section_here(self._controller.viewer, layer)
        except ValueError as e:
            self.refused.emit(str(e))
            return None
        area = area_in_view(self._controller.viewer, layer)
        return _whole(source, z) if area is None else Region.of(z, area)


def _whole(source: StackState, z: int) -> Region:
    _, height, width = source.stack.shape
    return Region.whole(z, (height, width))


NAME = "regions"
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


class Correcting(QObject):
    """The linked layers, the pointer with its tool, and the list of suggested regions.

    There is one in a viewer, so a tool is attached to the mouse once, however many
    panels show it. It works as long as one of them can be seen.

    Signals: `changed` when the list is another one, or its current region.
    """

    changed = Signal()

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._panels: set[int] = set()
        self._key = ""
        self.suggestions: tuple[Suggestion, ...] = ()
        self.here: int | None = None
        self.layers = LinkedLayers(controller)
        self.pointer = Pointer(controller, self.layers)
        self.keys = controller.shared(Keys)
        self.outlines = Outlines(controller.overlay(NAME))
        controller.session.events.source.connect(self._on_source)
        for source in (self.layers, self.pointer):
            source.said.connect(self.pointer.help.say)
            source.refused.connect(self.pointer.help.say)
        self.layers.changed.connect(self._on_edited)
        controller.job.started.connect(self.pointer.drop)

    def attach(self, panel: object, acts: dict[str, Act]) -> None:
        """Let a panel that can be seen have keys, tools and outlines."""
        self._panels.add(id(panel))
        self.keys.take(acts)
        self._show_outlines()

    def detach(self, panel: object, acts: dict[str, Act]) -> None:
        """Take keys away from a panel, and with the last one tools and outlines."""
        self._panels.discard(id(panel))
        self.keys.release(acts)
        if not self._panels:
            self.pointer.choose(None)
            self.outlines.remove()

    def list_suggestions(self, key: str, found: Sequence[Suggestion]) -> None:
        """Have another list of regions to look at, in the source of a key."""
        self._key, self.suggestions, self.here = key, tuple(found), None
        self._on_list()

    def go_to(self, nth: int) -> None:
        """Make a region of the list the current one."""
        self.here = nth
        self._on_list()

    def is_done(self, nth: int) -> bool:
        """Tell if all of a region is reviewed."""
        source = self._controller.session.source
        return source is not None and is_done(source, self.suggestions[nth].region)

    def _on_source(self, source: StackState | None) -> None:
        self.pointer.drop()
        if self.suggestions and (source is None or source.key != self._key):
            self.suggestions, self.here = (), None
        self._on_list()

    def _on_edited(self) -> None:
        self.keys.on_edited()
        self._on_list()

    def _on_list(self) -> None:
        self._show_outlines()
        self.changed.emit()

    def _show_outlines(self, *_: Any) -> None:
        if not self._panels:
            return
        source = self._controller.session.source
        reviewed: tuple[Region, ...] = ()
        if source is not None and source.editor.begun:
            reviewed = source.editor.regions
        regions = [found.region for found in self.suggestions]
        to_do = [r for n, r in enumerate(regions) if not self.is_done(n)]
        current = None if self.here is None else regions[self.here]
        self.outlines.show(self._controller.source_layer, reviewed, to_do, current)
