"""Candidate against current weights: in words and on screen; accept or reject."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from napari_emseg.core.records import Record
from napari_emseg.session.learning import Learning
from napari_emseg.session.model_difference import PredictionDiff, iter_predict_both
from napari_emseg.session.rounds import Round
from napari_emseg.widgets.background import with_torch
from napari_emseg.widgets.camera import area_in_view, section_here
from napari_emseg.widgets.controller import ViewerController
from napari_emseg.widgets.differences import Differences
from napari_emseg.widgets.job_row import JobRow
from napari_emseg.widgets.keys import Act, Keys, key_of
from napari_emseg.widgets.theme import SPACING, button, follow, set_role, text_label

if TYPE_CHECKING:
    from napari_emseg.training.model_comparison import Comparison

ACCEPT = "Use the candidate from now on: in 2 Membranes, and on the command line."
REJECT = "Go on with the current weights; the candidate's file stays."
DIFFER = "Predict what is in view with both, and show where they differ."
FLIP = "Flip between membranes of current and candidate weights."


class CandidateBox(QWidget):
    """Shows the latest candidate that nobody has decided on."""

    def __init__(self, controller: ViewerController) -> None:
        super().__init__()
        self._controller = controller
        self._learning: Learning = controller.session.learning
        self.headline = text_label(role="headline")
        self.words = text_label(role="plain")
        self.accept = button("Accept", "primary", ACCEPT)
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
        choice = QHBoxLayout()
        choice.setSpacing(SPACING)
        for widget in (self.accept, self.reject, self.flip):
            choice.addWidget(widget)
        self._box = QWidget()
        inner = QVBoxLayout(self._box)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.addWidget(self.headline)
        inner.addWidget(self.words)
        inner.addLayout(choice)
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

    def _on_changed(self) -> None:
        candidate = self.round
        self._box.setVisible(candidate is not None)
        if candidate is None:
            return
        headline, words = format_comparison(candidate)
        self.headline.setText(headline)
        self.words.setText(words)
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


def format_comparison(candidate: Round) -> tuple[str, str]:
    """Return a headline, and what was measured."""
    comparison = candidate.comparison
    said = candidate.outcome if comparison is None else comparison.words
    headline, colon, rest = said.partition(": ")
    if not colon:
        return candidate.name, said or "there was nothing to compare with"
    lines = [rest] if comparison is None else _lines(comparison)
    return headline[:1].upper() + headline[1:], "\n".join(lines)


def _lines(found: Comparison) -> list[str]:
    """Return what was measured, a line for each score."""
    if not found.pixels:
        return [found.words]
    names = {"pixel_f": "pixel F", "vi": "VI"}
    lines = []
    for name, interval in found.differences.items():
        pair = f"{found.candidate[name]:.3f} against {found.current[name]:.3f}"
        lines.append(f"{names[name]} {pair} ({interval.words})")
    counts = [
        f"{name} {found.candidate[name]:.0f} against {found.current[name]:.0f}"
        for name in ("splits", "mergers")
        if name in found.candidate
    ]
    lines += [", ".join(counts)] if counts else []
    if found.basis == "corrections":
        lines.append(
            f"measured only where you corrected, on {found.pixels:,} px: that flatters "
            "any candidate. Review a region away from your corrections to know more."
        )
    else:
        lines.append(f"on {found.pixels:,} held-out px")
    return lines
