"""A menu of the projects that were used last."""

from __future__ import annotations

from pathlib import Path

from psygnal import Signal
from qtpy.QtWidgets import QMenu, QPushButton

from napari_emseg.session.recent import recent_projects


class RecentButton(QPushButton):
    """Offers projects that were used last; hidden as long as there are none.

    Signals: `chosen` with the folder of one.
    """

    chosen = Signal(Path)

    def __init__(self) -> None:
        super().__init__("Recent")
        self.setToolTip("Projects that were used last.")
        self._menu = QMenu(self)
        self._menu.setToolTipsVisible(True)
        self._menu.aboutToShow.connect(self.list_projects)
        self.setMenu(self._menu)
        self.list_projects()

    def list_projects(self) -> None:
        """List them anew; those that are gone can't be chosen."""
        self._menu.clear()
        paths = recent_projects()
        for path in paths:
            there = path.is_dir()
            action = self._menu.addAction(path.stem if there else f"{path.stem} (gone)")
            action.setToolTip(str(path))
            action.setEnabled(there)
            action.triggered.connect(lambda *_, path=path: self.chosen.emit(path))
        self.setVisible(bool(paths))
