"""What there is to learn from: stacks that were corrected, labels, names of classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from psygnal import Signal

from napari_emseg.core.stack import Stack
from napari_emseg.models.weights import Weights
from napari_emseg.session.annotations import (
    AnnotationSource,
    CorrectionCounter,
    ImportedLabels,
    ManualCorrections,
    corrected,
)
from napari_emseg.session.round_preview import RoundPreview, preview_round
from napari_emseg.session.stack_state import StackState
from napari_emseg.session.training_request import CLASSES

if TYPE_CHECKING:
    from napari_emseg.training.corrections import LabelMeaning


class OpenStacks(Protocol):
    """The stacks of a window, and the weights in use, as in a `Session`."""

    source: StackState | None
    weights: Weights | None

    @property
    def sources(self) -> tuple[StackState, ...]:
        """All stacks, at work or not."""


class TrainingInputs:
    """What one window could learn from.

    The stack at work always counts, others when they are joined.

    Signals: `changed` when there is more or less of it.
    """

    changed = Signal()

    def __init__(self, opened: OpenStacks) -> None:
        self._opened = opened
        self._names: tuple[str, ...] = CLASSES
        self._joined: frozenset[str] = frozenset()
        self._drawn: dict[str, ImportedLabels] = {}
        self._tallies: dict[str, CorrectionCounter] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of classes by code less one: those of the weights, and added ones."""
        weights = self._opened.weights
        own = CLASSES if weights is None else weights.card.pixel_classes
        return (*self._names, *own[len(self._names) :])

    def check_code(self, code: int) -> None:
        """Check that corrections may be painted with a code.

        Raises
        ------
        ValueError
            If it is none of a class, nor 0.
        """
        if code > len(self.classes):
            known = ", ".join(f"{k} {name}" for k, name in enumerate(self.classes, 1))
            msg = (
                f"{code} is no class: paint {known}, or 0 to erase; name another class "
                f"with New… in 4 Correct"
            )
            raise ValueError(msg)

    def add_class(self, name: str) -> int:
        """Name a class; return the code by which it is drawn.

        Raises
        ------
        ValueError
            If it has no name, or there is one of that name.
        """
        name = " ".join(name.split())
        if not name:
            msg = "type a name for the class, e.g. mitochondria"
            raise ValueError(msg)
        if name.casefold() in (known.casefold() for known in self.classes):
            msg = f"there is a class {name} already"
            raise ValueError(msg)
        self._names = (*self.classes, name)
        self.changed.emit()
        return len(self._names)

    def remember_classes(self, names: tuple[str, ...]) -> None:
        """Take names of classes from a project."""
        if len(names) > len(self._names):
            self._names = names
            self.changed.emit()

    def others(self) -> list[StackState]:
        """Return further stacks that were worked on, and could be learnt from."""
        here = self._opened.source
        return [
            source
            for source in self._opened.sources
            if (here is None or source.key != here.key) and self._teaches(source)
        ]

    def join(self, key: str, *, joined: bool = True) -> None:
        """Learn from another stack, too, or no more."""
        change = self._joined.union if joined else self._joined.difference
        self._joined = frozenset(change({key}))
        self.changed.emit()

    def is_joined(self, key: str) -> bool:
        """Tell if another stack is learnt from."""
        return key in self._joined

    def draw(
        self, key: str, labels: Stack, meaning: LabelMeaning, *, sparse: bool = False
    ) -> None:
        """Learn from existing annotations of the stack at work, too.

        Of `sparse` ones only what is labelled counts.

        Raises
        ------
        ValueError
            If there is no stack, or the shapes differ.
        """
        self._drawn[key] = self.imported(key, labels, meaning, sparse=sparse)
        self.changed.emit()

    def imported(
        self, key: str, labels: Stack, meaning: LabelMeaning, *, sparse: bool = False
    ) -> ImportedLabels:
        """Return labels of the stack at work as something to learn from.

        Raises
        ------
        ValueError
            If there is no stack, or the shapes differ.
        """
        source = self._opened.source
        if source is None:
            msg = "no stack is chosen; choose one in 1 Data"
            raise ValueError(msg)
        if labels.shape != source.stack.shape:
            msg = (
                f"{labels.name} has {_size(labels)}, but {source.name} has "
                f"{_size(source.stack)} (z × y × x)"
            )
            raise ValueError(msg)
        return ImportedLabels(
            key, source.key, source.stack, labels, meaning, sparse=sparse
        )

    def undraw(self, key: str) -> None:
        """Learn no more from existing annotations."""
        if self._drawn.pop(key, None) is not None:
            self.changed.emit()

    def drawn(self, of: str) -> list[ImportedLabels]:
        """Return existing annotations of a source."""
        return [labels for labels in self._drawn.values() if labels.of == of]

    def teachers(self) -> list[AnnotationSource]:
        """Return what a round would learn from."""
        here = self._opened.source
        sources = [] if here is None or not self._teaches(here) else [here]
        sources += [source for source in self.others() if self.is_joined(source.key)]
        found: list[AnnotationSource] = []
        for source in sources:
            if _is_worked_on(source):
                found.append(ManualCorrections.of(source))
            found += [
                replace(labels, stack=source.stack, excluded=source.excluded)
                for labels in self.drawn(source.key)
            ]
        return found

    def ask(self, *, new: bool = False) -> Callable[[], RoundPreview]:
        """Return a question for a thread: what a round would learn from."""
        teachers, weights = self.teachers(), self._opened.weights
        card = None if weights is None else weights.card
        tallies = {
            n: self._tally(t.source)
            for n, t in enumerate(teachers)
            if isinstance(t, ManualCorrections)
        }

        keys = {teacher.source_key for teacher in teachers}
        warnings = [s.warning for s in self._opened.sources if s.key in keys]

        def answer() -> RoundPreview:
            pixels = {n: sum(t.count().values()) for n, t in tallies.items()}
            preview = preview_round(teachers, pixels, card, new=new)
            return preview.warned(filter(None, warnings))

        return answer

    def corrected(self, since: datetime) -> int:
        """Count corrections since a moment."""
        return sum(corrected(source, since) for source in self._opened.sources)

    def _teaches(self, source: StackState) -> bool:
        """Tell if something of a stack may be learnt, as far as is seen at a glance."""
        known = _is_worked_on(source) or bool(self.drawn(source.key))
        return known and not source.is_probabilities

    def _tally(self, source: StackState) -> CorrectionCounter:
        tally = self._tallies.get(source.key)
        if tally is None or tally.editor is not source.editor:
            tally = self._tallies[source.key] = CorrectionCounter(source.editor)
        return tally


def _is_worked_on(source: StackState) -> bool:
    return source.editor.begun or bool(source.reviewed)


def _size(stack: Stack) -> str:
    return " × ".join(map(str, stack.shape))
