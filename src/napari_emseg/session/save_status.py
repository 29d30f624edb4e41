"""Whether a project's changes are on the disk, in words for the user."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from napari_emseg.core.records import Record
from napari_emseg.project import Project, Saved


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
