"""Candidate against current weights: in words and on screen; accept or reject."""

from collections.abc import Generator, Iterator
from functools import partial
from typing import Any
from weakref import ReferenceType, ref

import numpy as np
from napari import Viewer
from napari.layers import Labels, Layer
from napari.utils.colormaps import CyclicLabelColormap
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Qt, QTimer
from qtpy.QtWidgets import QTableWidget, QTableWidgetItem, QVBoxLayout, QWidget

from napari_emseg._napari import placement_of
from napari_emseg.core.records import Record
from napari_emseg.session.comparison import PredictionDiff, iter_predict_both
from napari_emseg.session.learning import Learning
from napari_emseg.session.results import allocate
from napari_emseg.session.rounds import Round
from napari_emseg.training.measures import UNDEFINED, Comparison
from napari_emseg.widgets.background import with_torch
from napari_emseg.widgets.camera import area_in_view, section_here
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.flow_row import FlowRow
from napari_emseg.widgets.keys import Act, Keys, key_of
from napari_emseg.widgets.result import FittedTable
from napari_emseg.widgets.run import JobRow
from napari_emseg.widgets.theme import button, follow, set_role, text_label

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


ACCEPT = "Use the candidate from now on: in 2 Membranes, and on the command line."
REJECT = "Go on with the current weights; the candidate's file stays."
DIFFER = "Predict what is in view with both, and show where they differ."
FLIP = "Flip between membranes of current and candidate weights."


class CandidateBox(QWidget):
    """Shows the latest candidate that nobody has decided on."""

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._learning: Learning = controller.learning
        self.headline = text_label(role="headline")
        self.table = ComparisonTable()
        self.words = text_label(role="plain")
        self.accept = button("Accept", tooltip=ACCEPT)
        self.reject = button("Reject", tooltip=REJECT)
        self.differ = JobRow("Show where they differ", self._prepare, role="plain")
        self.flip = button("Flip", "tool", FLIP)
        self.said = text_label()
        self.layers = controller.shared(Differences)
        self._keys = controller.shared(Keys)
        self._acts: dict[str, Act] = {"flip": self._on_flip}
        self._asked: tuple[Any, tuple[str, str]] | None = None
        self._lay_out()
        self._connect()
        self._on_changed()

    def _lay_out(self) -> None:
        choice = FlowRow(self.accept, self.reject, self.flip, fill=True)
        self._box = QWidget()
        inner = QVBoxLayout(self._box)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.addWidget(self.headline)
        inner.addWidget(self.table)
        inner.addWidget(self.words)
        inner.addWidget(choice)
        inner.addWidget(self.differ)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        layout.addWidget(self.said)

    def _connect(self) -> None:
        self.accept.clicked.connect(self._on_accept)
        self.reject.clicked.connect(self._on_reject)
        self.flip.clicked.connect(self._on_flip)
        self.differ.done.connect(self._on_seen)
        self.differ.button.setToolTip(DIFFER)
        follow(self, self._learning.changed, self._on_changed)
        follow(self, self._keys.changed, self._name_key)
        follow(self, self._controller.session.events.weights, self._on_weights)
        self._name_key()
        self.say("")

    def attach(self) -> None:
        """Have the key that flips while the panel can be seen."""
        self._keys.take(self._acts)

    def detach(self) -> None:
        """Give the key back."""
        self._keys.release(self._acts)

    def _name_key(self) -> None:
        key = key_of("flip")
        self.flip.setText(f"Flip ({key})" if key else "Flip")

    @property
    def round(self) -> Round | None:
        """The candidate that is shown."""
        found = (r for r in reversed(self._learning.rounds) if r.decidable)
        return next(found, None)

    def say(self, words: str, role: str = "hint") -> None:
        """Show a line below."""
        self.said.setText(words)
        self.said.setVisible(bool(words))
        set_role(self.said, role)

    def _on_weights(self) -> None:
        self.say("")  # it is about the weights that were in use until now

    def _on_changed(self) -> None:
        candidate = self.round
        self._box.setVisible(candidate is not None)
        if candidate is None:
            return
        headline, words = format_comparison(candidate)
        self.headline.setText(headline)
        self.words.setText(words)
        self.words.setVisible(bool(words))
        self.table.show_comparison(candidate.comparison)
        # what the measurement speaks for; neither where it speaks for none
        set_role(self.accept, "primary" if candidate.verdict == "better" else "")
        set_role(self.reject, "primary" if candidate.verdict == "worse" else "")
        self.flip.setEnabled(candidate.beginning is not None)
        self.differ.set_ready(self._current(candidate) is not None, DIFFER)

    def _current(self, candidate: Round) -> Any:
        return candidate.beginning or self._controller.session.weights

    def _on_accept(self) -> None:
        candidate = self.round
        if candidate is None:
            return
        try:
            weights = self._learning.accept(candidate.name)
        except (OSError, ValueError) as e:
            self.say(str(e), "error")
            return
        self.layers.remove()
        self.say(
            f"{candidate.name} is in use now: in 2 Membranes, and on the command line "
            f"as --weights {weights.path}"
        )

    def _on_reject(self) -> None:
        candidate = self.round
        if candidate is not None:
            self._learning.reject(candidate.name)
            self.layers.remove()
            self.say(f"{candidate.name} was rejected; its file is {candidate.output}")

    def _prepare(self) -> tuple[str, Generator[Record, None, PredictionDiff]]:
        candidate, source = self.round, self._controller.session.source
        layer = self._controller.source_layer
        if candidate is None or candidate.weights is None:
            msg = "there is no candidate to look at"
            raise ValueError(msg)
        if source is None or layer is None:
            msg = "no stack is chosen; choose one in 1 Data"
            raise ValueError(msg)
        viewer = self._controller.viewer
        _, height, width = source.stack.shape
        area = area_in_view(viewer, layer) or (slice(0, height), slice(0, width))
        current = self._current(candidate)
        self._asked = layer, (current.card.name, candidate.name)
        work = iter_predict_both(
            source.stack,
            (current, candidate.weights),
            section_here(viewer, layer),
            area,
            self._controller.session.predict_settings,
            source.excluded,
        )
        return "Where they differ", with_torch(work)

    def _on_seen(self, seen: PredictionDiff) -> None:
        layer, of = self._asked or (None, ("", ""))
        if layer is None or layer not in self._controller.viewer.layers:
            self.differ.say("the layer of the stack is gone", "note")
            return
        shape = (1, *layer.data.shape) if layer.ndim == 2 else layer.data.shape
        self.layers.show(seen, layer, of, tuple(shape))
        self.differ.say(f"{seen.words}; Flip shows either of them")

    def _on_flip(self, *_: Any) -> None:
        try:
            words = self.layers.flip()
        except ValueError as e:
            words = str(e)
        self.differ.say(words)
        self._controller.viewer.status = words


class ComparisonTable(FittedTable):
    """What was measured of candidate and current weights, a row for each score."""

    def __init__(self) -> None:
        super().__init__("", "candidate", "current", "difference", "95 % interval")
        self.setSelectionMode(QTableWidget.SelectionMode.NoSelection)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)

    def show_comparison(self, found: Comparison | None) -> None:
        """Show another one; nothing for none, or where nothing was measured."""
        rows = [] if found is None or not found.pixels else list(_rows(found))
        self.setRowCount(len(rows))
        for row, (tip, *cells) in enumerate(rows):
            for column, words in enumerate(cells):
                item = QTableWidgetItem(words)
                item.setToolTip(tip)
                self.setItem(row, column, item)
        self.setVisible(bool(rows))
        self.fit()


SCORES = {
    "vi": ("VI, bits", "Variation of information of cells; 0 is perfect."),
    "cells_v_rand": ("V_Rand", "Of cells, pairs of pixels; 1 is perfect."),
    "cells_v_info": ("V_Info", "Of cells, information shared; 1 is perfect."),
    "cells_adapted_rand_error": ("adapted Rand error", "Of cells; 0 is perfect."),
    "splits": ("false splits", "Cells that fell apart; fewer is better."),
    "mergers": ("false merges", "Cells that run together; fewer is better."),
    "pixel_f": ("pixel F", "Of membrane pixels; 1 is perfect, more is better."),
}
"""Of the table: name, and what it says."""

COUNTS = ("splits", "mergers")


def _rows(found: Comparison) -> Iterator[tuple[str, ...]]:
    """Yield tooltip, name, candidate, current, difference and interval."""
    for key, (name, tip) in SCORES.items():
        if key not in found.candidate or key not in found.current:
            continue
        ours, theirs = found.candidate[key], found.current[key]
        interval = found.differences.get(key)
        if interval is None:
            digits = 0 if key in COUNTS else 3
            numbers = f"{ours:.{digits}f}", f"{theirs:.{digits}f}"
            yield tip, name, *numbers, f"{ours - theirs:+.{digits}f}", "–"
        else:
            numbers = f"{ours:.3f}", f"{theirs:.3f}", f"{interval.value:+.3f}"
            ends = f"{interval.low:+.3f} to {interval.high:+.3f}"
            yield tip, name, *numbers, ends if interval.known else "–"


def format_comparison(candidate: Round) -> tuple[str, str]:
    """Return a headline, and what is to be said beside the table."""
    comparison = candidate.comparison
    said = candidate.outcome if comparison is None else comparison.words
    headline, colon, rest = said.partition(": ")
    if not colon:
        return candidate.name, said or "there was nothing to compare with"
    words = rest if comparison is None else _basis(comparison)
    whose = f"{candidate.name}, learnt from {candidate.learnt_from}"
    words = f"{whose}: {words}" if candidate.learnt_from else words
    return headline[:1].upper() + headline[1:], words


def _basis(found: Comparison) -> str:
    """Say on what it was measured."""
    if not found.pixels:
        return found.words
    if not found.candidate:
        return UNDEFINED
    if found.basis == "corrections":
        return (
            f"measured only where you corrected, on {found.pixels:,} px: that flatters "
            "any candidate. Review a region away from your corrections to know more."
        )
    return f"measured on {found.pixels:,} held-out px"
