"""Work on a stack and its project in step: what is done is saved, without waiting."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from psygnal import SignalGroupDescriptor
from pydantic import ValidationError

from napari_emseg.core.records import ClassifierRef, Record
from napari_emseg.core.settings import (
    CellSettings,
    CheckSettings,
    PredictSettings,
    Settings,
)
from napari_emseg.models.weights import (
    Weights,
    list_weights,
    missing_weights,
    own_folder,
)
from napari_emseg.project import EditLine, Project, ProjectInfo, Saved
from napari_emseg.project.autosave import SECONDS
from napari_emseg.project.folder import FOLDER
from napari_emseg.project.state import corners
from napari_emseg.proofreading import Correction, Edit, LinkedLabels
from napari_emseg.proofreading.marking import status_of
from napari_emseg.segmentation.edge_classifier import EdgeClassifier
from napari_emseg.session.annotation_editor import AnnotationEditor, Step
from napari_emseg.session.stack_state import StackState

S = TypeVar("S", bound=Settings)

MACHINE = ("device", "runtime", "tile", "batch", "precision", "threads")
"""Settings that suit a machine, and not a stack."""


class ProjectChoices(Protocol):
    """What a project saves beside the edits, and restores, such as a `Session`."""

    events: ClassVar[SignalGroupDescriptor]
    source: StackState | None
    weights: Weights | None
    predict_settings: PredictSettings
    cell_settings: CellSettings
    check_settings: CheckSettings
    edges: EdgeClassifier | None

    def choose_weights(self, weights: Weights | None) -> None:
        """Use other weights."""

    def choose_settings(self, settings: PredictSettings) -> None:
        """Use other settings of runs."""


def settings_of(
    session: ProjectChoices, hand: AnnotationEditor
) -> dict[str, dict[str, Any]]:
    """Return the settings of each stage, as a project keeps them."""
    return {
        "predict": session.predict_settings.model_dump(
            mode="json", exclude=set(MACHINE)
        ),
        "cells": session.cell_settings.model_dump(mode="json"),
        "check": session.check_settings.model_dump(mode="json"),
        "correct": hand.settings.model_dump(mode="json"),
    }


def restore(
    session: ProjectChoices, hand: AnnotationEditor, project: Project
) -> tuple[str, ...]:
    """Choose what was chosen when a project was closed; return what can't be."""
    info = project.info
    notes = []
    if info.weights is not None:
        weights = chosen_weights(info, project.lineage())
        if weights is None and (weights := list_weights().get(info.weights)):
            notes.append(
                f"the weights {info.weights} that were used are another file than "
                "those of this version, which are chosen now; cells that are there stay"
            )
        if weights is None:
            otherwise = "choose others in 2 Membranes"
            remedy = missing_weights().get(info.weights, otherwise)
            notes.append(
                f"the weights {info.weights} that were used are not here; {remedy}"
            )
        else:
            session.choose_weights(weights)
    try:
        session.edges = project.edges()
    except (OSError, ValueError) as e:
        session.edges = None
        notes.append(f"the classifier of edges is not here, the usual one is used: {e}")
    known = info.settings
    session.choose_settings(_with(session.predict_settings, known.get("predict", {})))
    session.cell_settings = _with(session.cell_settings, known.get("cells", {}))
    session.check_settings = _with(session.check_settings, known.get("check", {}))
    hand.settings = _with(hand.settings, known.get("correct", {}))
    return tuple(notes)


def chosen_weights(info: ProjectInfo, shelf: Iterable[Weights]) -> Weights | None:
    """Return the weights that a project names: its own, or those of the program."""
    known = [*shelf, *list_weights(own_folder()).values()]
    same = (w for w in known if w.card.name == info.weights)
    return next((w for w in same if w.sha256 == info.weights_sha256), None)


def _with(settings: S, values: Mapping[str, Any]) -> S:
    """Return settings with other values; those that aren't known any more stay out."""
    for name, value in values.items():
        if name not in type(settings).model_fields:
            continue
        try:
            settings = type(settings).model_validate(
                settings.model_dump() | {name: value}
            )
        except ValidationError:
            continue
    return settings


@dataclass(frozen=True, slots=True)
class SaveState:
    """Where saving stands.

    Parameters
    ----------
    waiting
        How many changes are not on the disk.
    saved
        When the latest save ended, by the local clock; None before the first.
    why
        The latest save failed, or why the project is read-only.
    """

    kind: Literal["saved", "saving", "failing", "read-only"]
    waiting: int = 0
    saved: datetime | None = None
    why: str = ""

    @property
    def words(self) -> str:
        """For the user, e.g. `saved 14:02:31`."""
        if self.kind == "read-only":
            return f"read-only: {self.why}"
        if self.kind == "failing":
            changes = f"{self.waiting} change{'s' * (self.waiting != 1)}"
            wait = "waits" if self.waiting == 1 else "wait"
            return f"saving failed: {self.why}; {changes} {wait}, it is tried again"
        if self.kind == "saving":
            return "saving …"
        return "saved" if self.saved is None else f"saved {self.saved:%H:%M:%S}"


class SaveStatus:
    """Listens to a project; its thread calls, anybody may ask."""

    def __init__(self) -> None:
        self._saved: datetime | None = None

    def __call__(self, record: Record) -> None:
        """Take what a project tells."""
        if isinstance(record, Saved):
            self._saved = datetime.now().astimezone()

    def state(self, project: Project) -> SaveState:
        """Return where saving stands now."""
        if project.read_only:
            return SaveState("read-only", why=project.why_read_only)
        waiting, error = project.waiting, project.error
        if waiting and error is not None:
            why = error.strerror or str(error)
            return SaveState("failing", waiting, self._saved, why)
        return SaveState("saving" if waiting else "saved", waiting, self._saved)


CHOSEN = ("weights", "predict_settings", "cell_settings", "check_settings", "edges")
"""Of a session: what is saved beside the edits."""


class Settled:
    """Cells `(z, y, x)`, whose ids are brought up to date when they are read."""

    def __init__(self, linked: LinkedLabels) -> None:
        self._linked = linked

    def __getitem__(self, z: int, /) -> NDArray[np.uint32]:
        self._linked.settle(z)
        return np.asarray(self._linked.arrays["cells"][z])


class ProjectSync:
    """Saves what is done to one stack in its project.

    From the beginning it takes all edits; what is said of sections and what is chosen
    from `follow` on.

    Parameters
    ----------
    project
        Open; this closes it.
    saves
        What the project tells.
    notes
        What the user should know of the project, in words.
    """

    def __init__(
        self,
        project: Project,
        editor: AnnotationEditor,
        saves: SaveStatus,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.project = project
        self.notes = notes
        self._hand = editor
        editor.begin()
        self._saves = saves
        self._session: ProjectChoices | None = None
        self._key = ""
        self._unread = False
        """The classifier of edges that was chosen."""
        if not project.read_only:
            self._hand.edited.connect(self._on_edited)

    @property
    def path(self) -> Path:
        """The project's folder."""
        return self.project.path

    @property
    def name(self) -> str:
        """The project's."""
        return self.path.stem

    @property
    def read_only(self) -> bool:
        """True if nothing is saved, and nobody may edit."""
        return self.project.read_only

    @property
    def state(self) -> SaveState:
        """Whether all is saved."""
        return self._saves.state(self.project)

    @property
    def weights_folder(self) -> Path:
        """Where the project's weights are; candidates may be written into it."""
        return self.path / FOLDER

    def keep(self, weights: Weights | str | Path) -> Weights:
        """Copy weights into the project, and return them from there.

        Raises
        ------
        ValueError, OSError
            If the project is read-only, or they can't be copied.
        """
        return self.project.keep_weights(weights)

    def lineage(self) -> tuple[Weights, ...]:
        """Return the project's weights, parents before their children."""
        return self.project.lineage()

    def follow(self, session: ProjectChoices, key: str) -> None:
        """Save from now on what a session says of the stack, and what is chosen."""
        self._session, self._key = session, key
        self._unread = session.edges is None and self.project.info.edges is not None
        self._hand.refusal = ""
        if self.read_only:
            self._hand.refusal = f"{self.state.words}; save a copy to go on"
            return
        session.events.source.connect(self._on_source)
        for name in CHOSEN:
            session.events[name].connect(self._on_chosen)
        self._on_source(session.source)

    def flush(self, timeout: float = SECONDS) -> None:
        """Wait until everything is saved.

        Raises
        ------
        OSError
            If it can't be saved; it will be tried again.
        """
        self.project.flush(timeout)

    def close(self) -> None:
        """Save what is left, and let others write; a second time does nothing.

        Raises
        ------
        OSError
            If it can't be saved; then it is lost.
        """
        self._hand.edited.disconnect(self._on_edited)
        session, self._session = self._session, None
        if session is not None:
            session.events.source.disconnect(self._on_source)
            for name in CHOSEN:
                session.events[name].disconnect(self._on_chosen)
        self.project.close()

    def _on_edited(self, step: Step, edit: Edit) -> None:
        """Save a step; may be called in the thread of a run."""
        if step != "undone":
            self.project.do(edit)
        else:
            self.project.undo(edit, Settled(self._hand.linked))
        self._save_marks(edit)
        if edit.tool == "run":
            self.tell_runs()

    def _save_marks(self, edit: Edit) -> None:
        """Save which whole sections are reviewed and excluded now."""
        reviewed, excluded = self._hand.reviewed, self._hand.excluded
        for z in edit.whole:
            self.project.mark([z], status_of(z, reviewed, excluded))

    def tell_runs(self) -> None:
        """Save where runs have found cells and membranes."""
        results = self._hand.results
        edges = results.edges or ClassifierRef("")
        segmented, predicted = (
            {z: tuple(map(corners, areas)) for z, areas in found.items()}
            for found in (results.segmented, results.membranes_in)
        )
        self.project.tell(
            segmented=segmented,
            segmented_by=results.runs,
            linked=tuple(sorted(results.linked_sections)),
            predicted=predicted,
            cells_edges=edges.name,
            cells_edges_sha256=edges.sha256,
        )

    def _on_source(self, source: StackState | None) -> None:
        """Save which sections are reviewed and excluded, and the voxel size."""
        if source is None or source.key != self._key:
            return
        known = self.project.review.sections
        for z in range(source.stack.shape[0]):
            status = status_of(z, source.reviewed, source.excluded)
            if known.get(z, "to do") != status:
                self.project.mark([z], status)
        if source.stack.voxel_size_nm != self.project.info.source.voxel_size_nm:
            self.project.tell_voxel_size(source.stack.voxel_size_nm)
        self._on_chosen()

    def _on_chosen(self) -> None:
        """Save weights and settings that were chosen while this stack is at work."""
        session = self._session
        if session is None or session.source is None or session.source.key != self._key:
            return
        info = self.project.info
        told = settings_of(session, self._hand)
        if told != info.settings:
            invert = session.predict_settings.invert
            self.project.tell(settings=told, invert=invert)
        weights = session.weights
        if weights is not None and weights.sha256 != info.weights_sha256:
            self.project.tell(weights=weights, classes=weights.card.pixel_classes)
        edges = session.edges
        # one that couldn't be read stays chosen until there is another
        self._unread = self._unread and edges is None
        if not self._unread and (edges and edges.sha256) != info.edges:
            self.project.tell_edges(edges)


def corrections_in(lines: Iterable[EditLine]) -> tuple[Correction, ...]:
    """Return what was done and not taken back, oldest first."""
    standing: list[EditLine] = []
    for line in lines:
        if not line.undone:
            standing.append(line)
            continue
        same = (i for i, other in enumerate(standing) if _is_one(line, other))
        # a line that undoes has no number of what it undoes: that is the latest alike
        latest = max(same, default=None)
        if latest is not None:
            del standing[latest]
    return tuple(_correction(line) for line in standing)


def _is_one(line: EditLine, other: EditLine) -> bool:
    return (line.what, line.words, line.areas) == (other.what, other.words, other.areas)


def _correction(line: EditLine) -> Correction:
    areas = {
        z: (slice(y0, y1), slice(x0, x1)) for z, (y0, y1, x0, x1) in line.areas.items()
    }
    return Correction(line.what, line.words, areas, line.author, line.time)
