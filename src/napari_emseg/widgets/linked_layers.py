"""The layers that are corrected together: one history, and napari's brush in it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal
from weakref import WeakSet

import numpy as np
from napari.layers import Labels, Layer
from numpy.typing import NDArray
from psygnal import Signal
from qtpy.QtCore import QObject, QTimer

from napari_emseg._napari.versions import preference
from napari_emseg.proofreading.painted import Stroke, take_back
from napari_emseg.session.annotation_editor import AnnotationEditor, login_name
from napari_emseg.widgets.camera import (
    go_to_section,
    nearest_section,
    section_on_screen,
    shows_sections,
)
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.layers import ResultLayers

Atom = tuple[tuple[Any, ...], NDArray[Any]]
"""An index into the layer's data, and the values there before."""


def strokes_of(
    painted: Iterable[Any], array: NDArray[Any], *, flat: bool
) -> list[Stroke]:
    """Return what one stroke changed, for each section and value.

    Parameters
    ----------
    painted
        The value of the layer's `events.paint`.
    array
        What was painted, `(z, y, x)`.
    flat
        The layer shows its only section, as `(y, x)`.
    """
    atoms = [_placed(atom, flat) for item in painted for atom in _atoms(item)]
    sections: dict[int, list[Atom]] = {}
    for atom in atoms:
        for z, part in _by_section(atom):
            sections.setdefault(z, []).append(part)
    strokes = []
    for z, parts in sections.items():
        strokes += _of_section(z, parts, np.asarray(array[z]))
    return strokes


def _atoms(item: Any) -> Iterator[Atom]:
    """Read either form in which napari keeps a change: a masked box, or indices."""
    if hasattr(item, "slice_key"):
        shape = tuple(part.stop - part.start for part in item.slice_key)
        if item.mask is None:
            mask = np.ones(shape, bool)
        else:
            mask = np.asarray(item.mask).reshape(shape)
        start = [part.start for part in item.slice_key]
        where = tuple(i + s for i, s in zip(np.nonzero(mask), start, strict=True))
        old = np.broadcast_to(np.asarray(item.old_values).ravel(), where[0].shape)
        yield where, old
    else:
        indices, old, _ = item
        where = tuple(np.atleast_1d(i) for i in indices)
        yield where, np.broadcast_to(old, where[0].shape)


def _placed(atom: Atom, flat: bool) -> Atom:
    where, old = atom
    return ((np.zeros_like(where[0]), *where), old) if flat else atom


def _by_section(atom: Atom) -> Iterator[tuple[int, Atom]]:
    (zs, ys, xs), old = atom
    for z in np.unique(zs):
        here = zs == z
        yield int(z), ((ys[here], xs[here]), old[here])


def _of_section(z: int, parts: list[Atom], now: NDArray[Any]) -> list[Stroke]:
    rows = np.concatenate([where[0] for where, _ in parts])
    columns = np.concatenate([where[1] for where, _ in parts])
    top, left = int(rows.min()), int(columns.min())
    area = slice(top, int(rows.max()) + 1), slice(left, int(columns.max()) + 1)
    now = now[area]
    old = now.copy()
    for (ys, xs), values in reversed(parts):
        old[ys - top, xs - left] = values
    changed = old != now
    return [
        Stroke(z, area, where, old[where], int(value))
        for value in np.unique(now[changed])
        if (where := changed & (now == value)).any()
    ]


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

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._followed: WeakSet[Layer] = WeakSet()
        self._hand: AnnotationEditor | None = None
        self._painted: list[tuple[Layer, Any]] = []
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(0)
        self._soon.timeout.connect(self._absorb_all)
        # whoever reads a layer (napari's own Save, 3-D display, scripts) finds ids that
        # are right in all sections: those out of sight are written one at a time
        self._elsewhere = QTimer(self)
        self._elsewhere.setInterval(0)
        self._elsewhere.timeout.connect(self._settle_elsewhere)
        viewer = controller.viewer
        controller.sources_changed.connect(self._follow_layers)
        viewer.dims.events.current_step.connect(self._on_step)
        controller.session.events.source.connect(self._on_source)
        controller.job.ended.connect(self._on_source)
        self._on_source()
        self._follow_layers()

    @property
    def hand(self) -> AnnotationEditor:
        """The hand work on the source at work.

        Raises
        ------
        ValueError
            If there is no stack, or nothing to correct yet.
        """
        hand = self._editor()
        if self.layers() is None:
            msg = "there is nothing to correct yet; run 2 Membranes or 3 Cells first"
            raise ValueError(msg)
        return hand

    def _editor(self) -> AnnotationEditor:
        """Return `hand` also where no layers are: sections are marked without them."""
        self._absorb_all()
        hand = self._controller.session.correcting()
        hand.author = preference("annotation", "author") or login_name()
        return hand

    @property
    def linked(self) -> bool:
        """True if an id is one cell through the stack."""
        source = self._controller.session.source
        return source is not None and source.results.linked

    def layers(self) -> ResultLayers | None:
        """Return the layers of the source at work."""
        source = self._controller.session.source
        return None if source is None else self._controller.results(source.key)

    def layer(self, name: Linked) -> Labels | None:
        """Return one of the linked layers."""
        layers = self.layers()
        return None if layers is None else layers.get(name)

    def show(self) -> None:
        """Have all of them in the viewer.

        Raises
        ------
        ValueError
            If there is nothing to correct yet.
        """
        hand = self.hand
        layers = self.layers()
        if layers is not None:
            self._on_source()
            layers.show_now({name: hand.linked.arrays[name] for name in LINKED})

    def undo(self, *_: Any) -> None:
        """Take the latest edit of any layer back."""
        self._step("undo", "undone")

    def redo(self, *_: Any) -> None:
        """Make the edit again that was undone last."""
        self._step("redo", "redone")

    def settle(self) -> None:
        """Bring ids of the section on screen up to date."""
        layer = self._controller.source_layer
        if self._hand is not None and layer is not None:
            self._hand.settle(nearest_section(self._controller.viewer, layer))

    def _on_step(self, *_: Any) -> None:
        self.settle()

    def _step(self, what: Literal["undo", "redo"], done: str) -> None:
        try:
            edit = getattr(self._editor(), what)()
        except ValueError as e:
            self.refused.emit(str(e))
        else:
            run = edit.tool == "run"
            stays = "; probabilities stay" if run and what == "undo" else ""
            where = self._go_where(edit.sections | edit.marked)
            words = edit.words if run or edit.whole else edit.tool
            if edit.whole and not edit.sections:
                where = ""  # the words name the section
            self.said.emit(f"{done}: {words}{stays}{where}")

    def _go_where(self, sections: frozenset[int]) -> str:
        """Bring a section that has changed on screen, if none is; say which it is."""
        viewer, layer = self._controller.viewer, self._controller.source_layer
        if layer is None or not sections or not shows_sections(viewer, layer):
            return ""
        if section_on_screen(viewer, layer) in sections:
            return ""
        here = nearest_section(viewer, layer)
        there = min(sections, key=lambda z: abs(z - here))
        go_to_section(viewer, layer, there)
        words = f", in section {there}"
        viewer.status = f"section {there} has changed"
        return words

    def _on_source(self, *_: Any) -> None:
        """Follow the hand work on the source at work, once there is some."""
        source = self._controller.session.source
        hand = source.editor if source and source.editor.begun else None
        if hand is self._hand:
            return
        if self._hand is not None:
            self._hand.changed.disconnect(self._on_changed)
        self._hand = hand
        if hand is not None:
            hand.changed.connect(self._on_changed)

    def _follow_layers(self, *_: Any) -> None:
        """Follow what is painted on results of any source, whether panels are open.

        napari's own history knows nothing of the other pictures, nor do they of it: its
        undo would put stale values back, so it has no key there.
        """
        known = {
            x for x in self._controller.viewer.layers if self._linked_as(x) is not None
        }
        for layer in known.difference(self._followed):
            layer.events.paint.connect(self._on_painted)
            # before what is in it is compared with what is recorded
            layer.events.data.connect(self._on_data, position="first")
            for key, act in (("Control-Z", self.undo), ("Control-Shift-Z", self.redo)):
                layer.bind_key(key, _alone(act), overwrite=True)
        for layer in set(self._followed).difference(known):  # of a stack that is gone
            layer.events.paint.disconnect(self._on_painted)
            layer.events.data.disconnect(self._on_data)
            for key in ("Control-Z", "Control-Shift-Z"):
                layer.bind_key(key, None, overwrite=True)
        self._followed = WeakSet(known)

    def _linked_as(self, layer: Layer) -> Linked | None:
        """Return which of the linked pictures a layer shows; None if it is no such."""
        for layers in self._controller.all_results:
            for name in LINKED:
                if layers.get(name) is layer:
                    return name
        return None

    def _on_painted(self, event: Any) -> None:
        """Look at a stroke of napari's soon: it may tell before it writes."""
        self._painted.append((event.source, event.value))
        self._soon.start()

    def _on_data(self, *_: Any) -> None:
        self._absorb_all()

    def _absorb_all(self) -> None:
        """Make napari's strokes edits, in which the other layers follow.

        What waits is taken back first, so that each sees what was there before it.
        """
        painted, self._painted = self._painted, []
        taken: list[tuple[AnnotationEditor, Linked, Layer, list[Stroke]]] = []
        for layer, value in reversed(painted):
            name, hand = self._linked_as(layer), self._controller.editor_of(layer)
            if name is None or hand is None:
                continue
            array = hand.linked.arrays[name]
            strokes = strokes_of(value, array, flat=layer.ndim == 2)
            take_back(array, strokes)
            taken.append((hand, name, layer, strokes))
        self._on_source()
        for hand, name, layer, strokes in reversed(taken):
            if strokes:
                self._repaint(hand, name, layer, strokes)

    def _repaint(
        self, hand: AnnotationEditor, name: Linked, layer: Layer, strokes: list[Stroke]
    ) -> None:
        hand.author = preference("annotation", "author") or login_name()
        try:
            if name == "corrections":
                classes = self._controller.learning.material
                classes.check_code(max(stroke.value for stroke in strokes))
            edit = hand.repaint(name, strokes)
        except ValueError as e:
            self.refused.emit(str(e))
            layer.refresh()
            return
        self.said.emit(edit.words)
        if hand is not self._hand:
            self._refresh_others(hand, edit.sections)

    def _refresh_others(self, hand: AnnotationEditor, sections: frozenset[int]) -> None:
        """Show what was painted over a stack that isn't at work."""
        for layers in self._controller.all_results:
            cells = layers.get("cells") or layers.get("membranes")
            if cells is not None and self._controller.editor_of(cells) is hand:
                layers.refresh(set(LINKED), set(sections))

    def _settle_elsewhere(self) -> None:
        """Write waiting ids into one more section; stop when there is none."""
        if self._hand is None or not self._hand.settle_next():
            self._elsewhere.stop()

    def _on_changed(self, sections: frozenset[int]) -> None:
        self.settle_quietly()
        self._elsewhere.start()
        layers = self.layers()
        if layers is not None:
            layers.refresh(set(LINKED), set(sections))
            self._controller.describe_cells()
        self.changed.emit()

    def settle_quietly(self) -> None:
        """Write waiting ids into the section on screen, without telling."""
        layer = self._controller.source_layer
        if self._hand is not None and layer is not None:
            self._hand.linked.settle(nearest_section(self._controller.viewer, layer))


def _alone(act: Callable[[], None]) -> Callable[..., None]:
    """Return a function for a key, which calls `act` with nothing.

    napari asks every function that is bound for its name, which a partial hasn't got.
    """

    def on_key(*_: Any) -> None:
        act()

    return on_key
