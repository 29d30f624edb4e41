"""Undo and redo over all linked arrays together, one step for each edit."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from napari_emseg.core.regions import Area, union
from napari_emseg.core.settings import CorrectSettings
from napari_emseg.proofreading.edits import Edit
from napari_emseg.proofreading.linked import LinkedLabels

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Correction:
    """What a person corrected, to be written down beside the pixels.

    Parameters
    ----------
    what
        The tool.
    areas
        Rows and columns that it changed of each section.
    """

    what: str
    words: str
    areas: dict[int, Area]
    author: str
    time: datetime


class History:
    """Makes edits, and takes them back.

    Holds what edits changed and nothing of the arrays besides. The oldest are forgotten
    when there are more than the settings allow, or when they take too much memory.
    """

    def __init__(
        self, linked: LinkedLabels, settings: CorrectSettings | None = None
    ) -> None:
        self.linked = linked
        self._settings = settings or CorrectSettings()
        # oldest first; `_undone` in the order of taking back, so that
        # the next to redo is last; `_forgotten` can't be taken back any
        # more but still counts as corrected
        self._done: deque[Edit] = deque()
        self._undone: list[Edit] = []
        self._forgotten: list[Correction] = []

    @property
    def undoable(self) -> tuple[Edit, ...]:
        """Edits that can be taken back, latest first."""
        return tuple(reversed(self._done))

    @property
    def redoable(self) -> tuple[Edit, ...]:
        """Edits that can be made again, next first."""
        return tuple(reversed(self._undone))

    @property
    def nbytes(self) -> int:
        """Memory of all edits that are kept."""
        edits = (*self._done, *self._undone)
        return sum(edit.nbytes for edit in edits) + self.linked.nbytes

    def do(self, edit: Edit) -> None:
        """Make an edit; what was undone before can't be made again."""
        self._undone.clear()
        self.linked.apply(edit)
        self._done.append(edit)
        self._forget()

    def note(self, edit: Edit) -> None:
        """Keep an edit that is made already, such as what a run changed."""
        self._undone.clear()
        # as in `apply`: an id that was given once is never given to another cell
        self.linked.last_id = max(self.linked.last_id, edit.last_id)
        self._done.append(edit)
        self._forget()

    def undo(self) -> Edit:
        """Take the latest edit back.

        Raises
        ------
        ValueError
            If there is none.
        """
        if not self._done:
            msg = "there is nothing to undo"
            raise ValueError(msg)
        edit = self._done.pop()
        self.linked.revert(edit)
        self._undone.append(edit)
        return edit

    def redo(self) -> Edit:
        """Make the edit again that was undone last.

        Raises
        ------
        ValueError
            If there is none.
        """
        if not self._undone:
            msg = "there is nothing to redo"
            raise ValueError(msg)
        edit = self._undone.pop()
        self.linked.apply(edit)
        self._done.append(edit)
        return edit

    def remember(self, corrections: Iterable[Correction]) -> None:
        """Know of corrections that were made before, and can't be taken back."""
        self._forgotten.extend(corrections)

    def clear(self) -> None:
        """Forget how to undo; what was corrected is still known."""
        while self._done:
            self._drop()
        self._undone.clear()

    def corrections(self) -> tuple[Correction, ...]:
        """Return what was corrected and not taken back, oldest first."""
        return (*self._forgotten, *(_correction(edit) for edit in self._done))

    def _forget(self) -> None:
        """Drop the oldest edits that are too many."""
        # from the oldest; what can be made again is the newest and stays
        while len(self._done) > self._settings.steps or (
            self._done and self.nbytes > self._settings.memory * MB
        ):
            self._drop()

    def _drop(self) -> None:
        edit = self._done.popleft()
        self.linked.forget(edit)
        self._forgotten.append(_correction(edit))


def _correction(edit: Edit) -> Correction:
    areas: dict[int, Area] = {}
    for change in edit.changes:
        known = areas.get(change.z, change.area)
        areas[change.z] = union(known, change.area)
    return Correction(edit.tool, edit.words, areas, edit.author, edit.time)
