"""The right to write to a project, and the thread that does."""

from __future__ import annotations

from pathlib import Path

from napari_emseg.core.lock import Hold
from napari_emseg.core.paths import path_inside
from napari_emseg.project.autosave import Autosave, Listener, Step
from napari_emseg.project.folder import WRITTEN
from napari_emseg.project.store import ProjectStore

SECONDS = 60.0
"""That closing waits for the last save."""


class ProjectWriter:
    """Writes to a project's folder if it may, else says why not.

    Parameters
    ----------
    refusal
        Why it shouldn't even try; empty if it should.

    Raises
    ------
    OSError
        If the folder is no project, or damaged.
    """

    def __init__(
        self, path: Path, author: str, refusal: str, on_record: Listener | None
    ) -> None:
        self.refusal = refusal
        """Why nothing can be changed here; empty if it can."""
        self._path = path
        self._hold: Hold | None = None
        self._autosave: Autosave | None = None
        if not refusal and path.is_dir():
            self._take_hold(author)
        try:
            self.disk = ProjectStore(path, writing=self._hold is not None)
        except OSError:
            self._release()
            raise
        if self._hold is not None:
            self._autosave = Autosave(self.disk, on_record)

    @property
    def read_only(self) -> bool:
        """True if nothing can be changed here."""
        return self._autosave is None

    @property
    def waiting(self) -> int:
        """How many changes are not on the disk yet."""
        return 0 if self._autosave is None else self._autosave.waiting

    @property
    def error(self) -> OSError | None:
        """Why the latest save failed; None if it didn't."""
        return None if self._autosave is None else self._autosave.error

    def check(self) -> Autosave:
        """Return the thread that writes.

        Raises
        ------
        ValueError
            If nothing can be changed here.
        """
        if self._autosave is None:
            msg = f"{self._path.name} is read-only: {self.refusal}"
            raise ValueError(msg)
        return self._autosave

    def add(self, step: Step) -> None:
        """Hand over a step; the same error as `check`."""
        self.check().add(step)

    def flush(self, timeout: float) -> None:
        """Wait until everything is on the disk.

        Raises
        ------
        OSError
            If it can't be saved.
        """
        if self._autosave is not None:
            self._autosave.flush(timeout)

    def close(self) -> None:
        """Save what is left, and let others write; the same errors as `flush`."""
        try:
            if self._autosave is not None:
                self._autosave.close(SECONDS)
        finally:
            self._release()

    def _take_hold(self, author: str) -> None:
        try:
            for name in WRITTEN:
                path_inside(self._path, name)
            self._hold = Hold(self._path, author)
        except OSError as e:
            self.refusal = e.strerror or str(e)

    def _release(self) -> None:
        if self._hold is not None:
            self._hold.release()
            self._hold = None
