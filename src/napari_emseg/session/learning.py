"""Learning from corrections: rounds, what they came to, and which weights are used.

Like the session, it is written to by the GUI thread only. The work of a round is a
generator for a thread of its own, with a snapshot of what there is to learn.
"""

import re
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import ClassVar, Protocol

from psygnal import Signal, SignalGroupDescriptor

from napari_emseg.core.paths import file_stem, path_inside
from napari_emseg.core.records import Record
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.training import FinetuneSettings, NewWeightsSettings
from napari_emseg.models.weights import SUFFIX, Weights, read_weights
from napari_emseg.project.folder import PROJECT_SUFFIX
from napari_emseg.session.project_sync import ProjectSync
from napari_emseg.session.round_history import RoundHistory
from napari_emseg.session.round_preview import NOTHING
from napari_emseg.session.rounds import CANDIDATES, Round
from napari_emseg.session.training_inputs import OpenStacks, TrainingInputs
from napari_emseg.session.training_request import (
    Learnt,
    Settings,
    TrainingRequest,
    going_on,
    learning,
)


class LearningContext(OpenStacks, Protocol):
    """What is learnt from, begun with and replaced, such as a `Session`."""

    events: ClassVar[SignalGroupDescriptor]
    predict_settings: PredictSettings

    @property
    def project(self) -> ProjectSync | None:
        """Of the stack at work."""

    def choose_weights(self, weights: Weights | None) -> None:
        """Use other weights from now on."""


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """A round on its way: `work` is for a thread, `stop` keeps the best so far.

    `sources` are the keys of the stacks that it learns from.
    """

    name: str
    work: Generator[Record, None, Learnt]
    stop: Callable[[], None]
    sources: frozenset[str] = frozenset()


class Learning:
    """What one window learns.

    Signals: `changed` when there is something new to say of rounds, classes, or what
    is learnt from.

    Parameters
    ----------
    context
        Its sources are learnt from, its weights are begun with and replaced.
    """

    changed = Signal()

    def __init__(self, context: LearningContext) -> None:
        self._context = context
        self.material = TrainingInputs(context)
        self.settings = FinetuneSettings()
        self.new_settings = NewWeightsSettings()
        self.ledger = RoundHistory()
        self._chosen: Path | None = None
        self._project: Path | None = None
        self.material.changed.connect(self._on_changed)
        self.ledger.changed.connect(self._on_changed)
        context.events.source.connect(self._on_source)
        self._on_source()

    @property
    def folder(self) -> Path:
        """Where accepted weights are; candidates lie in a folder of their own in it.

        The project's, or the user's own.
        """
        return self.ledger.folder

    @folder.setter
    def folder(self, folder: Path | None) -> None:
        self._chosen = folder
        self._choose_folder()

    @property
    def rounds(self) -> tuple[Round, ...]:
        """Of this folder, oldest first."""
        return self.ledger.rounds

    @property
    def busy(self) -> bool:
        """True while a round is on its way."""
        return any(r.state == "learning" for r in self.rounds)

    @property
    def since(self) -> int:
        """Corrections since the latest round began."""
        latest = self._latest
        return 0 if latest is None else self.material.corrected(latest.began)

    @property
    def _latest(self) -> Round | None:
        """The latest round, and not weights that only lie in the folder."""
        return next((r for r in reversed(self.rounds) if not r.found), None)

    def start(self, *, new: bool = False) -> Attempt:
        """Begin a round: from the weights in use, or of `new` ones.

        Raises
        ------
        ValueError
            If one is on its way, no weights are chosen, or there is nothing to learn
            from.
        OSError
            If candidates can't lie in the folder.
        """
        self._refuse_while_busy()
        teachers, parent = self.material.teachers(), self._context.weights
        if parent is None and not new:
            msg = "no weights are chosen; choose some in 2 Membranes, or train new ones"
            raise ValueError(msg)
        if not teachers:
            raise ValueError(NOTHING)
        settings = self._own_settings(new=new)
        began_with = None if new else parent
        stem = _stem(began_with) or self.new_settings.architecture
        name = self.ledger.free_name(stem)
        output = path_inside(self.folder, f"{CANDIDATES}/{name}{SUFFIX}")
        round_ = Round(
            name,
            "learning",
            output,
            parent="" if began_with is None else began_with.card.name,
            learnt_from=", ".join(dict.fromkeys(t.stack.name for t in teachers)),
            beginning=began_with,
        )
        lesson = TrainingRequest(
            parent,
            teachers,
            output,
            self._context.predict_settings,
            self.material.classes,
        )
        self.ledger.add(round_)
        keys = frozenset(t.source_key for t in teachers)
        return self._begin(round_, lesson, learning(lesson, settings), keys)

    def _own_settings(self, *, new: bool) -> Settings:
        """Return the settings of a round, on the device and as bright as runs are."""
        chosen = self._context.predict_settings
        if not new:
            told = {"device": chosen.device, "invert": chosen.invert}
            return self.settings.model_copy(update=told)
        training = self.new_settings.training
        training = training.model_copy(update={"device": chosen.device})
        return self.new_settings.model_copy(update={"training": training})

    @property
    def resumable(self) -> Round | None:
        """The latest round, if it was stopped and can go on, also after a restart."""
        latest = None if self.busy else self._latest
        return latest if latest is not None and latest.resumable else None

    def resume(self) -> Attempt:
        """Go on with the round that was stopped, with what it learnt from.

        Raises
        ------
        ValueError
            If there is none, or the weights are gone that it began with.
        """
        round_ = self.resumable
        if round_ is None:
            msg = "no round was stopped that could go on; start a new one"
            raise ValueError(msg)
        if round_.parent and round_.beginning is None:
            msg = (
                f"{round_.parent}, which {round_.name} began with, is gone: start anew"
            )
            raise ValueError(msg)
        lesson = TrainingRequest(
            round_.beginning or self._context.weights,
            self.material.teachers(),
            round_.output,
            self._context.predict_settings,
            self.material.classes,
        )
        settings = self._own_settings(new=not round_.parent)
        sources = self._context.sources
        names = round_.learnt_from.split(", ")
        keys = frozenset(s.key for s in sources if s.name in names)
        work = going_on(lesson, settings, [source.stack for source in sources])
        return self._begin(round_, lesson, work, keys)

    def _begin(
        self,
        round_: Round,
        lesson: TrainingRequest,
        work: Generator[Record, None, Learnt],
        sources: frozenset[str],
    ) -> Attempt:
        stopping = Event()
        lesson.stop = stopping.is_set
        self.ledger.change(round_.name, state="learning")
        return Attempt(round_.name, work, stopping.set, sources)

    def is_about(self, sources: frozenset[str]) -> bool:
        """Tell if the stack at work is one of these."""
        source = self._context.source
        return source is not None and source.key in sources

    def describe_whereabouts(self, name: str, sources: frozenset[str]) -> str:
        """Say where a round is found while what it learnt from isn't at work.

        Raises
        ------
        ValueError
            If there is no such round.
        """
        round_ = self.ledger.known(name)
        project = next(
            (x for x in round_.output.parents if x.suffix == PROJECT_SUFFIX), None
        )
        if any(source.key in sources for source in self._context.sources):
            there = f"choose {round_.learnt_from} in 1 Data"
        elif project is not None:
            there = f"open the project {project.name} again"
        else:
            there = "see Rounds in 5 Train"
        return f"{there} ({round_.output})"

    def finish(self, name: str, learnt: Learnt) -> None:
        """Keep what a round gave, as a candidate."""
        outcome = "" if learnt.comparison is None else learnt.comparison.words
        round_ = self.ledger.known(name)
        if not round_.checkpoint.is_file():  # it wasn't stopped
            round_.forget_checkpoint()
        self.ledger.change(
            name,
            state="candidate",
            weights=learnt.weights,
            comparison=learnt.comparison,
            outcome=outcome,
            verdict="" if learnt.comparison is None else learnt.comparison.verdict,
        )

    def fail(self, name: str, message: str) -> None:
        """Say that a round came to nothing."""
        self.ledger.change(name, state="failed", outcome=message)

    def break_off(self, name: str) -> None:
        """Say that a round was cancelled; it may have weights that weren't compared."""
        round_ = self.ledger.known(name)
        weights = read_weights(round_.output) if round_.output.is_file() else None
        self.ledger.change(
            name,
            state="stopped",
            weights=weights,
            outcome="stopped before it was compared",
        )

    def accept(self, name: str) -> Weights:
        """Use the weights of a round from now on; return them where they are now.

        Raises
        ------
        ValueError
            If it has none.
        OSError
            If their file can't be moved beside the accepted ones.
        """
        round_ = self.ledger.known(name)
        weights = round_.weights
        if weights is None:
            msg = f"{name} has no weights that could be accepted"
            raise ValueError(msg)
        candidate = round_
        if round_.output.parent.name == CANDIDATES:
            round_, weights = round_.moved(round_.output.parent.parent)
        self.ledger.put(replace(round_, state="accepted", rolled_back=False))
        if candidate is not round_:  # its weights are where they belong
            with suppress(OSError):
                candidate.forget_checkpoint()
        self._context.choose_weights(weights)
        return weights

    def reject(self, name: str) -> None:
        """Turn a candidate down; its file stays among the candidates."""
        round_ = self.ledger.known(name)
        self.ledger.change(name, state="rejected")
        with suppress(OSError):  # it only takes space
            round_.forget_checkpoint()

    def roll_back(self, name: str | None = None) -> Weights:
        """Use earlier weights again: those of a round, or what the present began with.

        Raises
        ------
        ValueError
            If there are none.
        """
        weights = self.before if name is None else self.ledger.known(name).weights
        if weights is None:
            msg = "there are no earlier weights to go back to"
            raise ValueError(msg)
        for round_ in self.rounds:
            target = round_.weights is not None and round_.weights.path == weights.path
            back = not target and (round_.rolled_back or self.in_use(round_))
            if back != round_.rolled_back:
                self.ledger.change(round_.name, rolled_back=back)
        self._context.choose_weights(weights)
        self.changed.emit()
        return weights

    @property
    def before(self) -> Weights | None:
        """The weights that those in use began with, as far as they are known."""
        used = self._context.weights
        if used is None:
            return None
        for round_ in self.rounds:
            if round_.weights is not None and round_.weights.path == used.path:
                return round_.beginning or self.ledger.weights_named(round_.parent)
        return None

    def in_use(self, round_: Round) -> bool:
        """Tell if a round's weights are those in use."""
        used = self._context.weights
        return (
            used is not None
            and round_.weights is not None
            and used.path == round_.weights.path
        )

    def _refuse_while_busy(self) -> None:
        if self.busy:
            msg = "weights are being trained already; wait for the end, or stop it"
            raise ValueError(msg)

    def _on_source(self) -> None:
        """Follow the project of the stack at work."""
        project = self._context.project
        writable = project is not None and not project.read_only
        folder = project.weights_folder if project is not None and writable else None
        if folder != self._project:
            self._project = folder
            self._choose_folder()
        self.changed.emit()

    def _choose_folder(self) -> None:
        names = self.ledger.choose(self._chosen or self._project)
        self.material.remember_classes(names)

    def _on_changed(self) -> None:
        self.ledger.write(self.material.classes)
        self.changed.emit()


def _stem(weights: Weights | None) -> str:
    """Return the name of the family of weights."""
    if weights is None:
        return ""
    return file_stem(re.sub(r"-round\d+$", "", weights.card.name), "weights")
