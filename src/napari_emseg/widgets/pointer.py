"""The pointer over the picture, while a correcting tool is active."""

from collections.abc import Generator
from typing import Any

import numpy as np
from napari.layers import Labels, Layer
from numpy.typing import NDArray
from psygnal import Signal
from qtpy.QtCore import QObject

from napari_emseg._napari.versions import camera_of
from napari_emseg.proofreading import Edit
from napari_emseg.widgets.camera import section_here, shows_sections
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.linked_layers import LINKED, LinkedLayers
from napari_emseg.widgets.preview import GapLook, LiveWireTool, Preview
from napari_emseg.widgets.tools import CanvasPoint, Tool


class StatusHelp(QObject):
    """The hint of the active tool, and over it what was said last, in the status bar.

    napari writes the keys of the active layer there whenever the pointer moves. They
    come back when no tool is active, and another layer or mode is chosen.
    """

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._hint = ""
        self._said = ""
        self._of_napari: str = controller.viewer.help
        # the last one, so that the bar hears of ours after it heard of napari's
        controller.viewer.events.help.connect(self._on_help, position="last")

    def hint(self, words: str) -> None:
        """Show the hint of another tool; none if it is empty."""
        self._hint, self._said = words, ""
        self._show()

    def say(self, words: str) -> None:
        """Show what an act did, or why not, until the next one."""
        self._said = words
        self._show()

    def begin(self) -> None:
        """Show the hint again: the next act begins."""
        self.say("")

    def _on_help(self, event: Any) -> None:
        ours = self._said or self._hint
        if ours and event.value == ours:
            return
        if not self._hint and event.value != self._of_napari:
            self._said = ""
        self._of_napari = event.value
        self._show()

    def _show(self) -> None:
        words = self._said or self._hint or self._of_napari
        if self._controller.viewer.help != words:
            self._controller.viewer.help = words


STILL = 3.0
"""A press that moves less than this is a click, px of the screen."""


class Pointer(QObject):
    """Turns clicks and strokes on the canvas into edits.

    Signals: `said` with what was or would be done; `refused` with why not; `changed`
    with the tool that is active now, or None.
    """

    said = Signal(str)
    refused = Signal(str)
    changed = Signal(object)

    def __init__(self, controller: ViewerController, layers: LinkedLayers) -> None:
        super().__init__()
        self._controller = controller
        self._layers = layers
        self.tool: Tool | None = None
        self.help = controller.shared(StatusHelp)
        self.wiring = LiveWireTool()
        self._gaps = GapLook(layers)
        self._preview = Preview(controller.overlay("preview"))
        self._first: CanvasPoint | None = None
        self._at: CanvasPoint | None = None
        self._double_clicks: list[Any] = []
        self.wiring.ready.connect(self._show_wire)
        self.wiring.complete.connect(self.set)
        self.wiring.refused.connect(self.refused.emit)
        self._gaps.found.connect(self._on_gap)
        self._gaps.refused.connect(self._on_no_gap)

    def choose(self, tool: Tool | None) -> None:
        """Make a tool active, or none.

        Raises
        ------
        ValueError
            If there is nothing to correct yet, or the view is turned.
        """
        if tool is not None:
            self._layers.show()
            self._source()
        if (self.tool is None) != (tool is None):
            self._listen(tool is not None)
        self.drop()
        self.tool = tool
        camera = camera_of(self._controller.viewer)
        camera.mouse_pan = tool is None or "stroke" not in tool.gesture
        self.help.hint("" if tool is None else f"{tool.name}: {tool.hint}")
        if tool is None:
            self._preview.remove()
        else:
            for name in LINKED:
                layer = self._layers.layer(name)
                if layer is not None:
                    layer.mode = "pan_zoom"
        self.changed.emit(tool)

    @property
    def begun(self) -> bool:
        """True if something was clicked that can be set or dropped."""
        return self.wiring.active or self._first is not None

    def drop(self, *_: Any) -> None:
        """Forget what was begun."""
        self.wiring.drop()
        self._gaps.stop()
        self._first = None
        self._preview.hide()

    def set(self, *_: Any) -> None:
        """Set the membrane that was clicked, after the clicks that wait."""
        if self.wiring.active and not self.wiring.finish():
            self._attempt(lambda: self.wiring.edit(self._layers.hand))
            self._preview.hide()

    def _listen(self, on: bool) -> None:
        viewer = self._controller.viewer
        if on:
            viewer.mouse_drag_callbacks.append(self._on_drag)
            viewer.mouse_move_callbacks.append(self._on_move)
            # napari zooms on a double click
            self._double_clicks = list(viewer.mouse_double_click_callbacks)
            viewer.mouse_double_click_callbacks[:] = [self._on_double_click]
        else:
            viewer.mouse_drag_callbacks.remove(self._on_drag)
            viewer.mouse_move_callbacks.remove(self._on_move)
            viewer.mouse_double_click_callbacks[:] = self._double_clicks

    def _source(self) -> Layer:
        """Return the layer at work if its sections are what is seen.

        Raises
        ------
        ValueError
            If not, or if it has no section there.
        """
        layer = self._controller.source_layer
        if layer is None:
            msg = "the layer of the stack is gone; choose another one in 1 Data"
            raise ValueError(msg)
        if not shows_sections(self._controller.viewer, layer):
            msg = (
                "the view is turned or 3-D, and corrections are made on sections (y, x)"
                "; roll the dimensions back (Ctrl+E) or leave 3-D (Ctrl+Y)"
            )
            raise ValueError(msg)
        section_here(self._controller.viewer, layer)
        return layer

    def _place(self, event: Any) -> CanvasPoint:
        layer = self._source()
        data = np.asarray(layer.world_to_data(event.position), float)
        z = round(float(data[-3])) if layer.ndim > 2 else 0
        n = layer.data.shape[-3] if layer.ndim > 2 else 1
        return CanvasPoint(int(np.clip(z, 0, n - 1)), float(data[-2]), float(data[-1]))

    def _on_drag(self, _: Any, event: Any) -> Generator[None, None, None]:
        tool = self.tool
        if tool is None or event.button != 1 or self._painting():
            return
        self.help.begin()
        start = np.asarray(event.pos, float)
        try:
            places = [self._place(event)]
        except ValueError as e:
            self.refused.emit(str(e))
            return
        moved = False
        yield
        while event.type == "mouse_move":
            moved |= bool(np.hypot(*(np.asarray(event.pos, float) - start)) > STILL)
            if "stroke" in tool.gesture and moved:
                places.append(self._place(event))
                self._show([place.point for place in places], places[0].z)
            yield
        if "stroke" in tool.gesture and moved:
            self._preview.hide()
            self._use(places)
        elif not moved:
            self._on_click(places[0])

    def _on_click(self, place: CanvasPoint) -> None:
        tool = self.tool
        if tool is None:
            return
        if tool.gesture == "wire":
            try:
                self.wiring.click(self._layers.hand, place)
            except ValueError as e:
                self.refused.emit(str(e))
            return
        if "two clicks" not in tool.gesture:
            if "click" in tool.gesture:
                self._gaps.stop()
                self._use([place])
            return
        if self._first is None:
            self._first = place
            self.said.emit(f"{tool.name}: now click the other cell; Esc drops it")
            return
        first, self._first = self._first, None
        self._use([first, place])

    def _on_double_click(self, _: Any, event: Any) -> None:
        del event
        self.set()

    def _on_move(self, _: Any, event: Any) -> None:
        try:
            self._at = self._place(event)
        except ValueError:
            return
        if self.tool is not None and self.tool.gesture == "click after a look":
            self._gaps.at(self._at)
            return
        if self.wiring.active:
            self._show_wire()

    def _show_wire(self) -> None:
        if self._at is not None:
            path = self.wiring.path_to(self._at)
            if path is not None:
                self._show(path, self.wiring.z)

    def _on_gap(self, path: NDArray[np.int64], z: int, words: str) -> None:
        self._show(path, z)
        self.help.say(words)

    def _on_no_gap(self, words: str) -> None:
        self._preview.hide()
        self.help.say(words)

    def _show(self, path: Any, z: int) -> None:
        layer = self._controller.source_layer
        if layer is not None:
            self._preview.show(layer, z, np.asarray(path))

    def _use(self, places: list[CanvasPoint]) -> None:
        tool = self.tool
        if tool is not None and tool.use is not None:
            use = tool.use
            self._attempt(lambda: use(self._layers.hand, places))
            self._preview.hide()

    def _attempt(self, make: Any) -> None:
        try:
            self._source()
            edit: Edit = make()
            self._layers.hand.do(edit)
        except ValueError as e:
            self.refused.emit(str(e))
        else:
            self.said.emit(edit.words)

    def _painting(self) -> bool:
        """Tell if napari's own brush is out: then the pointer is its."""
        active = self._controller.viewer.layers.selection.active
        return isinstance(active, Labels) and active.mode != "pan_zoom"
