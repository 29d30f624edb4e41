"""The state of one sitting, evented: panels are functions of it.

Only the GUI thread (or whoever else is in charge) writes to a session. Runs get a
snapshot of it and write into results only.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ClassVar

from psygnal import SignalGroupDescriptor

from napari_emseg.check import SectionCheck
from napari_emseg.core.settings import CellSettings, CheckSettings, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.models.weights import Weights
from napari_emseg.proofreading.marking import Status
from napari_emseg.segmentation.edge_classifier import EdgeClassifier
from napari_emseg.session.annotation_editor import AnnotationEditor
from napari_emseg.session.project_sync import MACHINE, ProjectSync
from napari_emseg.session.results import OpenedProbabilities, Results
from napari_emseg.session.stack_state import StackState


@dataclass(frozen=True, slots=True)
class Choices:
    """Weights and settings, as they are chosen while a stack is at work."""

    weights: Weights | None
    proposed: Weights | None
    """Those that nobody chose."""
    predict_settings: PredictSettings
    cell_settings: CellSettings
    check_settings: CheckSettings
    edges: EdgeClassifier | None = None


@dataclass(eq=False)
class Session:
    """What is at work in one window; every field tells of its changes by `events`."""

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    source: StackState | None = None
    refusal: str = ""
    """Why no stack is at work, if one was asked for."""
    weights: Weights | None = None
    predict_settings: PredictSettings = field(default_factory=PredictSettings)
    cell_settings: CellSettings = field(default_factory=CellSettings)
    check_settings: CheckSettings = field(default_factory=CheckSettings)
    edges: EdgeClassifier | None = None
    """Says which fragments are one cell through the stack; None for the usual one."""
    redo_reviewed: bool = False
    """Runs go over reviewed sections, too; what was done by hand stays all the same."""

    def __post_init__(self) -> None:
        self._sources: dict[str, StackState] = {}
        self._projects: dict[str, ProjectSync] = {}
        self._proposed: Weights | None = None
        self._choices: dict[str, Choices] = {}
        """Of stacks that aren't at work now, as they were left."""
        self._shared: Choices | None = None
        """Of stacks without results and projects, while one has its own."""

    @property
    def sources(self) -> tuple[StackState, ...]:
        """All stacks that were put to work and not forgotten."""
        return tuple(self._sources.values())

    @property
    def projects(self) -> Mapping[str, ProjectSync]:
        """Open projects, by the keys of their stacks."""
        return MappingProxyType(self._projects)

    @property
    def project(self) -> ProjectSync | None:
        """The project of the stack at work; None if there is none."""
        return None if self.source is None else self._projects.get(self.source.key)

    def select(self, key: str, stack: Stack) -> StackState:
        """Put a stack to work; what was said of it and made from it comes back.

        So do weights and settings, if it has results or a project: those of another
        stack are neither run over it nor saved in its project.
        """
        known = self._sources.get(key)
        if known is None or known.stack.shape != stack.shape:
            self._close_project(key)
            self._choices.pop(key, None)
            known = StackState(key, stack, AnnotationEditor(Results(stack.shape)))
        source = known.with_stack(stack)
        self._put(source)
        return source

    def deselect(self, refusal: str = "") -> None:
        """Put no stack to work; `refusal` says why, if one was asked for."""
        self._leave()
        self.refusal = refusal
        self.source = None

    def take_data(self, key: str, stack: Stack | None) -> None:
        """Know other data of a stack, at work or not.

        Of another shape, or None for data that are no stack, all else is forgotten;
        of the same shape it stays, see `StackState.warning`.

        Raises
        ------
        OSError
            If its project can't be saved.
        """
        known = self._sources.get(key)
        if known is None:
            return
        if stack is None or known.stack.shape != stack.shape:
            self.forget(key)
        else:
            self._renew(known.with_stack(stack))

    def forget(self, key: str) -> None:
        """Drop all that is known of a stack; its project is saved and closed.

        Raises
        ------
        OSError
            If it can't be saved.
        """
        self._sources.pop(key, None)
        if self.source is not None and self.source.key == key:
            self.deselect()
        self._choices.pop(key, None)
        self._close_project(key)

    def take(self, source: StackState, project: ProjectSync) -> None:
        """Put a stack of a project to work, with all that is known of it."""
        editor = source.editor
        editor.reviewed, editor.excluded = source.reviewed, source.excluded
        self._projects[source.key] = project
        if self._shared is None and self.weights is not None:
            self._shared = self._chosen()
        self._choices.pop(source.key, None)  # those of the project count
        self._put(source)

    def save_in(self, key: str, project: ProjectSync) -> ProjectSync | None:
        """Save what is done to a stack in a project; return the one before."""
        known = self._sources.get(key)
        if known is None:
            return None
        before = self._projects.get(key)
        self._projects[key] = project
        self._renew(replace(known))  # whoever shows it asks for its project again
        return before

    def _close_project(self, key: str) -> None:
        project = self._projects.pop(key, None)
        if project is not None:
            project.close()

    def exclude(self, z: int, *, excluded: bool = True) -> None:
        """Leave a section out of all runs, or take it back in: a step, as `review`.

        Raises
        ------
        ValueError
            If there is no stack, or nobody may edit now, as in a read-only project.
        """
        self._marking().exclude(z, excluded=excluded)

    def review(self, z: int, *, reviewed: bool = True) -> None:
        """Mark a section as reviewed, or as to do again: a step that can be undone.

        Raises
        ------
        ValueError
            If there is no stack, or nobody may edit now, as in a read-only project.
        """
        self._marking().finish(z, finished=reviewed)

    def mark(self, z: int, status: Status) -> None:
        """Say that a section is to do, reviewed or excluded, in one step.

        Raises
        ------
        ValueError
            If there is no stack, or nobody may edit now, as in a read-only project.
        """
        self._marking().mark(z, status)

    def _marking(self) -> AnnotationEditor:
        """Return what marks sections of the stack at work, and is listened to."""
        editor = self._writable().editor
        editor.marked.connect(self._on_marked, unique=True)
        return editor

    def _on_marked(self) -> None:
        """Know which sections are reviewed and excluded, after a step or its undo."""
        for source in self.sources:
            editor = source.editor
            if not editor.begun:
                continue
            marks = editor.reviewed, editor.excluded
            if marks != (source.reviewed, source.excluded):
                self._renew(replace(source, reviewed=marks[0], excluded=marks[1]))

    def correcting(self) -> AnnotationEditor:
        """Return the editor of the stack at work, ready for work.

        Raises
        ------
        ValueError
            If there is no stack.
        """
        source = self.at_work
        editor = source.editor
        editor.begin()
        editor.given = (
            OpenedProbabilities(source.stack.data) if source.is_probabilities else None
        )
        return editor

    def note_findings(self, key: str, findings: Sequence[SectionCheck]) -> None:
        """Keep what a check of a stack found."""
        known = self._sources.get(key)
        if known is not None:
            self._renew(replace(known, findings=tuple(findings)))

    def choose_weights(self, weights: Weights | None) -> None:
        """Use other weights; the threshold becomes the one in their card.

        A depth or heads that they don't have are forgotten.
        """
        self._proposed = None
        if weights is not None and not weights.card.depths:
            self.predict_settings = self.predict_settings.model_copy(
                update={"depth": None, "heads": "last"}
            )
        self.weights = weights
        threshold = self._own_threshold()
        if threshold is not None:
            self.cell_settings = self.cell_settings.model_copy(
                update={"threshold": threshold}
            )

    def propose_weights(self, known: Mapping[str, Weights], wanted: str = "") -> None:
        """Use the weights that fit the stack at work, as long as nobody chose any.

        Not once something was predicted: a voxel size that is typed later changes
        nothing that is on screen.

        Parameters
        ----------
        known
            Those that there are to choose from.
        wanted
            Name of those that the user prefers to any other.
        """
        from napari_emseg.models.weights import choose_fitting_weights

        chosen = self.weights is not None and self.weights is not self._proposed
        source = self.source
        if chosen or not known or (source is not None and source.results.predicted):
            return
        size = None if source is None else source.stack.voxel_size_nm
        fitting = choose_fitting_weights(
            known, None if size is None else size[1:], wanted
        )
        if fitting is not self.weights:
            self.choose_weights(fitting)
            self._proposed = fitting

    def choose_settings(self, settings: PredictSettings) -> None:
        """Use other settings; a threshold that comes with a depth comes along.

        Unless the user has chosen another one.
        """
        own = self._own_threshold()
        self.predict_settings = settings
        if own is not None and self.cell_settings.threshold == own:
            self.cell_settings = self.cell_settings.model_copy(
                update={"threshold": self._own_threshold()}
            )

    def choose_edges(self, edges: EdgeClassifier | None, key: str) -> None:
        """Find cells of a stack by another classifier of edges; None: the usual one.

        Parameters
        ----------
        key
            Of the stack. If another one is at work by now, it counts when this one is
            at work again.
        """
        if self.source is not None and self.source.key == key:
            self.edges = edges
        elif key in self._choices:
            self._choices[key] = replace(self._choices[key], edges=edges)

    def _own_threshold(self) -> float | None:
        """Return the threshold that validation fixed for the chosen way to run."""
        if self.weights is None:
            return None
        s = self.predict_settings
        return self.weights.card.threshold_of(s.depth, s.heads, tta=s.tta)

    @property
    def at_work(self) -> StackState:
        """The stack at work.

        Raises
        ------
        ValueError
            If none is chosen.
        """
        if self.source is None:
            msg = "no stack is chosen; open one or choose an image layer in 1 Data"
            raise ValueError(msg)
        return self.source

    def _writable(self) -> StackState:
        source, project = self.at_work, self.project
        if project is not None and project.read_only:
            raise ValueError(source.editor.refusal)
        return source

    def _put(self, source: StackState) -> None:
        """Put a stack to work, told of when all that belongs to it is there."""
        other = self.source is None or self.source.key != source.key
        new = source.key not in self._sources
        with ExitStack() as told_after:
            for signal in reversed(list(self.events.signals.values())):
                told_after.enter_context(signal.paused())
            if other:
                self._leave()
                self._return_to(source, new=new)
            self._sources[source.key] = source
            self.refusal = ""
            self.source = source

    def _leave(self) -> None:
        if self.source is not None:
            self._choices[self.source.key] = self._chosen()

    def _return_to(self, source: StackState, *, new: bool) -> None:
        """Choose what was chosen when a stack was left, if it has something of it."""
        results = source.results
        made = bool(results.predicted or results.segmented)
        if made or source.key in self._projects:
            own = self._choices.get(source.key)
            if own is not None:
                self._shared = self._shared or self._chosen()
                self._choose(replace(own, proposed=None))
        elif self._shared is not None:
            if not new:
                self._choose(self._shared)
            self._shared = None

    def _chosen(self) -> Choices:
        return Choices(
            self.weights,
            self._proposed,
            self.predict_settings,
            self.cell_settings,
            self.check_settings,
            self.edges,
        )

    def _choose(self, choices: Choices) -> None:
        """Choose all of it as it was; what suits the machine stays."""
        here = {name: getattr(self.predict_settings, name) for name in MACHINE}
        self._proposed = choices.proposed
        self.weights = choices.weights
        self.predict_settings = choices.predict_settings.model_copy(update=here)
        self.cell_settings = choices.cell_settings
        self.check_settings = choices.check_settings
        self.edges = choices.edges

    def _renew(self, source: StackState) -> None:
        """Know something else of a source, whether it is at work or not."""
        self._sources[source.key] = source
        if self.source is not None and self.source.key == source.key:
            self.source = source
