"""The one place that adds layers to a viewer's list, and takes them out of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ReferenceType, ref

from napari import Viewer
from napari.layers import Layer
from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer

from napari_emseg._napari.layers import PLACEMENT, place, placement_of

EVENTS = ("inserting", "inserted", "removing", "removed", "moving", "moved")
"""Of a list of layers while somebody changes it."""

Change = Callable[[], None]
Placing = Callable[[Layer], dict[str, Any]]


class LayerChanges(QObject):
    """Changes a viewer's list of layers when nobody else is changing it.

    napari removes or moves several layers in a loop over the list, and its views follow
    one event at a time. A layer that is taken out or added in a handler of such an
    event ends the loop half-way ("… is not in list") and leaves the views with another
    list than the model. So after any event that wasn't caused here, changes wait until
    the event loop is reached again; those caused by a change of ours wait for its end.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer: ReferenceType[Viewer] = ref(viewer)
        self._waiting: list[Change] = []
        self._settled = True
        self._at_work = False
        self._batches = 0
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(0)
        self._soon.timeout.connect(self._on_settled)
        events = viewer.layers.events
        for name in EVENTS:
            events[name].connect(self.wait)
        for emitter in (events.begin_batch, events.removing):
            emitter.connect(self._have_canvas_current)
        events.begin_batch.connect(self._on_begin)
        events.end_batch.connect(self._on_end)

    def do(self, change: Change) -> None:
        """Make a change now, or as soon as the list is at rest; each only once."""
        if change not in self._waiting:
            self._waiting.append(change)
        if self._settled and not self._at_work:
            self._make()

    def wait(self, *_: Any) -> None:
        """Make no change until the event loop is reached again."""
        if not self._at_work:
            self._settled = False
            self._soon.start()

    def _have_canvas_current(self, *_: Any) -> None:
        """Have napari free what a removed layer was drawn with in its own GL context.

        napari 0.9 does that outside of drawing, in whichever context is current: mostly
        the one in which Qt composes the window. Mesa then follows a pointer to nothing
        when the canvas is drawn next, and the process ends. By the event that follows,
        it would be too late: napari's callbacks are called before those of plugins.
        """
        viewer = self._viewer()
        shown = None if viewer is None else getattr(viewer.window, "_qt_viewer", None)
        if shown is not None and isalive(shown) and shown.canvas.native.isValid():
            shown.canvas.native.makeCurrent()

    def _on_begin(self, *_: Any) -> None:
        self._batches += 1
        self.wait()

    def _on_end(self, *_: Any) -> None:
        self._batches = max(0, self._batches - 1)
        self.wait()

    def _on_settled(self) -> None:
        if not self._batches:
            self._settled = True
            self._make()

    def add(self, layer: Layer) -> None:
        """Add a layer on top, and leave selected what is selected; for changes."""
        viewer = self._viewer()
        if viewer is not None:
            with selection_kept(viewer):
                viewer.add_layer(layer)

    def _make(self) -> None:
        self._at_work = True
        try:
            while self._waiting:
                change = self._waiting.pop(0)
                if self._viewer() is not None:
                    change()
        finally:
            self._at_work = False


class OverlayLayer:
    """One layer of this plugin's own, such as outlines or a preview.

    It never becomes the active layer by itself. The user may remove it at any time.
    """

    def __init__(self, viewer: Viewer, changes: LayerChanges) -> None:
        self._viewer: ReferenceType[Viewer] = ref(viewer)
        self._changes = changes
        self._layer: ReferenceType[Layer] | None = None
        self._make: Callable[[], Layer] | None = None
        self._source: ReferenceType[Layer] | None = None
        self._place: Placing = placement_of

    @property
    def layer(self) -> Any:
        """The layer; None if it isn't in the list (yet, or any more)."""
        viewer = self._viewer()
        layer = None if self._layer is None else self._layer()
        there = viewer is not None and layer is not None and layer in viewer.layers
        return layer if there else None

    def owns(self, layer: Layer) -> bool:
        """Tell if this is the layer, also after somebody has removed it."""
        return self._layer is not None and self._layer() is layer

    def show(self, make: Callable[[], Layer], over: Layer) -> None:
        """Have what `make` returns in the list, in the place of what is there.

        It stays over another layer, wherever that is moved.
        """
        self._make = make
        self.stay_over(over)
        self._changes.do(self._renew)

    def stay_over(self, source: Layer, placing: Placing = placement_of) -> None:
        """Follow another layer, from now on where `placing` says it lies."""
        before = None if self._source is None else self._source()
        self._place = placing
        if before is not source:
            for name in PLACEMENT:
                if before is not None:
                    before.events[name].disconnect(self._on_placed)
                source.events[name].connect(self._on_placed)
            self._source = ref(source)
        self._follow(source)

    def _on_placed(self, event: Any) -> None:
        self._follow(event.source)

    def _follow(self, source: Layer) -> None:
        layer = self.layer
        if layer is not None and layer.ndim == source.ndim:
            place(layer, self._place(source))

    def remove(self) -> None:
        """Take the layer away."""
        self._make = None
        self._changes.do(self._renew)

    def _renew(self) -> None:
        viewer, old, make = self._viewer(), self.layer, self._make
        self._make = None
        if viewer is None or (old is None and make is None):
            return
        self._layer = None
        with selection_kept(viewer):
            if old is not None:
                viewer.layers.remove(old)
            if make is not None:
                layer = make()
                self._layer = ref(layer)
                viewer.add_layer(layer)


@contextmanager
def selection_kept(viewer: Viewer) -> Iterator[None]:
    """Have the same layers selected afterwards, but for those that are gone."""
    selected = list(viewer.layers.selection)
    yield
    viewer.layers.selection = {x for x in selected if x in viewer.layers}
