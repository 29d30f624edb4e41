"""What corrects by hand in one viewer, whichever panels come and go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from psygnal import Signal
from qtpy.QtCore import QObject

from napari_emseg.core.regions import Region
from napari_emseg.session import StackState
from napari_emseg.session.review_queue import is_done
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.keys import Act, Keys
from napari_emseg.widgets.linked_layers import LinkedLayers
from napari_emseg.widgets.pointer import Pointer
from napari_emseg.widgets.region_row import Outlines

if TYPE_CHECKING:
    from napari_emseg.active_learning import Suggestion


class Correcting(QObject):
    """The linked layers, the pointer with its tool, and the list of places.

    There is one in a viewer, so a tool is attached to the mouse once, however many
    panels show it. It works as long as one of them can be seen.

    Signals: `changed` when the list of places is another one, or its current place.
    """

    changed = Signal()

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._panels: set[int] = set()
        self._key = ""
        self.places: tuple[Suggestion, ...] = ()
        self.here: int | None = None
        self.layers = LinkedLayers(controller)
        self.pointer = Pointer(controller, self.layers)
        self.keys = controller.shared(Keys)
        self.outlines = Outlines(controller.overlay("places"))
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

    def list_places(self, key: str, places: Sequence[Suggestion]) -> None:
        """Have another list of places to look at, in the source of a key."""
        self._key, self.places, self.here = key, tuple(places), None
        self._on_places()

    def go_to(self, place: int) -> None:
        """Make a place of the list the current one."""
        self.here = place
        self._on_places()

    def is_done(self, place: int) -> bool:
        """Tell if all of a place is reviewed."""
        source = self._controller.session.source
        return source is not None and is_done(source, self.places[place].region)

    def _on_source(self, source: StackState | None) -> None:
        self.pointer.drop()
        if self.places and (source is None or source.key != self._key):
            self.places, self.here = (), None
        self._on_places()

    def _on_edited(self) -> None:
        self.keys.on_edited()
        self._on_places()

    def _on_places(self) -> None:
        self._show_outlines()
        self.changed.emit()

    def _show_outlines(self, *_: Any) -> None:
        if not self._panels:
            return
        source = self._controller.session.source
        reviewed: tuple[Region, ...] = ()
        if source is not None and source.editor.begun:
            reviewed = source.editor.regions
        regions = [place.region for place in self.places]
        to_do = [r for n, r in enumerate(regions) if not self.is_done(n)]
        current = None if self.here is None else regions[self.here]
        self.outlines.show(self._controller.source_layer, reviewed, to_do, current)
