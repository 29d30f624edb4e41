"""The layers that are corrected together: one history, and napari's brush in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from napari.layers import Labels, Layer
from psygnal import Signal
from qtpy.QtCore import QObject, QTimer

from napari_emseg.session.brush import Stroke, take_back
from napari_emseg.session.handwork import HandWork, login_name
from napari_emseg.widgets.desk import Desk
from napari_emseg.widgets.keys import alone
from napari_emseg.widgets.layers import ResultLayers
from napari_emseg.widgets.preferences import preference
from napari_emseg.widgets.strokes import strokes_of
from napari_emseg.widgets.view import section_on_screen

Linked = Literal["membranes", "corrections", "cells"]
LINKED: tuple[Linked, ...] = ("membranes", "corrections", "cells")


class LinkedLayers(QObject):
    """Keeps membranes, corrections and cells of the source at work in step.

    Signals: `said` with what happened; `refused` with why something did not; `changed`
    after any edit, and after one is undone.
    """

    said = Signal(str)
    refused = Signal(str)
    changed = Signal()

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._key: str | None = None
        self._followed: dict[Linked, Layer] = {}
        self._bound: list[tuple[str, Callable[..., None]]] = []
        self._hand: HandWork | None = None
        self._painted: list[tuple[Linked, Layer, Any]] = []
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(0)
        self._soon.timeout.connect(self._absorb_all)

    @property
    def hand(self) -> HandWork:
        """The hand work on the source at work.

        Raises
        ------
        ValueError
            If there is no stack, or nothing to correct yet.
        """
        self._absorb_all()
        hand = self._desk.session.correcting()
        hand.author = preference("annotation", "author") or login_name()
        if self.layers() is None:
            msg = "there is nothing to correct yet; run 2 Membranes or 3 Cells first"
            raise ValueError(msg)
        return hand

    @property
    def linked(self) -> bool:
        """True if an id is one cell through the stack."""
        source = self._desk.session.source
        return source is not None and source.results.linked

    def layers(self) -> ResultLayers | None:
        """Return the layers of the source at work."""
        source = self._desk.session.source
        return None if source is None else self._desk.results(source.key)

    def layer(self, name: Linked) -> Labels | None:
        """Return one of the linked layers."""
        layers = self.layers()
        return None if layers is None else layers.get(name)

    def show(self) -> None:
        """Have all of them in the viewer, and follow what is painted on them.

        Raises
        ------
        ValueError
            If there is nothing to correct yet.
        """
        hand = self.hand
        layers = self.layers()
        if layers is None:
            return
        self._follow_hand(hand)
        arrays = {name: hand.linked.arrays[name] for name in LINKED}
        layers.show_now(arrays)
        self._follow_layers()

    def bind(self, keys: dict[str, Callable[..., None]]) -> None:
        """Bind keys on the linked layers, too, whose own ones come first."""
        self._bound = list(keys.items())

    def undo(self, *_: Any) -> None:
        """Take the latest edit of any layer back."""
        self._step("undo", "undone")

    def redo(self, *_: Any) -> None:
        """Make the edit again that was undone last."""
        self._step("redo", "redone")

    def settle(self) -> None:
        """Bring ids of the section on screen up to date."""
        layer = self._desk.source_layer
        if self._hand is not None and layer is not None:
            self._hand.settle(section_on_screen(self._desk.viewer, layer))

    def stop(self) -> None:
        """Follow nothing any more."""
        for layer in self._followed.values():
            layer.events.paint.disconnect(self._on_painted)
            for key, _ in self._bound:
                layer.bind_key(key, None)
        self._followed.clear()
        if self._hand is not None:
            self._hand.changed.disconnect(self._on_changed)
            self._hand = None

    def _step(self, what: Literal["undo", "redo"], done: str) -> None:
        try:
            edit = getattr(self.hand, what)()
        except ValueError as e:
            self.refused.emit(str(e))
        else:
            run = edit.tool == "run"
            stays = "; probabilities stay" if run and what == "undo" else ""
            self.said.emit(f"{done}: {edit.words if run else edit.tool}{stays}")

    def _follow_hand(self, hand: HandWork) -> None:
        if self._hand is hand:
            return
        self.stop()
        self._hand = hand
        hand.changed.connect(self._on_changed)

    def _follow_layers(self) -> None:
        for name in LINKED:
            layer = self.layer(name)
            if layer is None or self._followed.get(name) is layer:
                continue
            self._followed[name] = layer
            layer.events.paint.connect(self._on_painted)
            for key, act in self._bound:
                layer.bind_key(key, alone(act), overwrite=True)

    def _on_painted(self, event: Any) -> None:
        """Look at a stroke of napari's soon: it may tell before it writes."""
        for name, layer in self._followed.items():
            if layer is event.source:
                self._painted.append((name, layer, event.value))
                self._soon.start()

    def _absorb_all(self) -> None:
        """Make napari's strokes edits, in which the other layers follow.

        What waits is taken back first, so that each sees what was there before it.
        """
        painted, self._painted = self._painted, []
        hand = self._hand
        if hand is None:
            return
        taken: list[tuple[Linked, Layer, list[Stroke]]] = []
        for name, layer, value in reversed(painted):
            array = hand.linked.arrays[name]
            strokes = strokes_of(value, array, flat=layer.ndim == 2)
            take_back(array, strokes)
            taken.append((name, layer, strokes))
        for name, layer, strokes in reversed(taken):
            if strokes:
                self._repaint(hand, name, layer, strokes)

    def _repaint(
        self, hand: HandWork, name: Linked, layer: Layer, strokes: list[Stroke]
    ) -> None:
        try:
            edit = hand.repaint(name, strokes)
        except ValueError as e:
            self.refused.emit(str(e))
            layer.refresh()
        else:
            self.said.emit(edit.words)

    def _on_changed(self, sections: frozenset[int]) -> None:
        self.settle_quietly()
        layers = self.layers()
        if layers is not None:
            layers.refresh(set(LINKED), set(sections))
        self.changed.emit()

    def settle_quietly(self) -> None:
        """Write waiting ids into the section on screen, without telling."""
        layer = self._desk.source_layer
        if self._hand is not None and layer is not None:
            self._hand.linked.settle(section_on_screen(self._desk.viewer, layer))
