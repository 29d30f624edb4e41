"""A line that says whether all that was done is saved."""

from __future__ import annotations

from collections.abc import Callable

from napari.utils.notifications import show_warning
from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QLabel

from napari_emseg.session.project_sync import ProjectSync
from napari_emseg.session.save_status import SaveState
from napari_emseg.widgets.theme import set_role

POLL_MS = 250
"""How often it is asked whether all is saved."""

ROLES = {"read-only": "error", "failing": "error", "saved": "hint", "saving": "hint"}


class SaveStatusLabel(QObject):
    """Says in a label how the saving of a project goes; a failure is announced, once.

    Parameters
    ----------
    taken
        Tells if the label says something else now.
    """

    def __init__(self, label: QLabel, taken: Callable[[], bool]) -> None:
        super().__init__(label)
        self._label = label
        self._taken = taken
        self._keeping: ProjectSync | None = None
        self._shown: SaveState | None = None
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._show)

    def follow(self, keeping: ProjectSync | None) -> None:
        """Tell of this project from now on, or of none."""
        self._keeping, self._shown = keeping, None
        if keeping is None:
            self._timer.stop()
        else:
            self._timer.start()
            self._show()

    def _show(self) -> None:
        keeping = self._keeping
        if keeping is None or self._taken():
            return
        state, before = keeping.state, self._shown
        if state == before:
            return
        self._shown = state
        words = f"{keeping.name}: {state.words}"
        if keeping.read_only:
            words += ". You can look, but not correct; save a copy to go on."
        self._label.setText(words)
        self._label.setToolTip(str(keeping.path))
        self._label.setVisible(True)
        set_role(self._label, ROLES[state.kind])
        if state.kind == "failing" and (before is None or before.kind != "failing"):
            show_warning(words)
