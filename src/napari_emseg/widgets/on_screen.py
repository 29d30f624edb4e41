"""Whether panels can be seen: their dock is open and in front, they are unfolded."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtWidgets import QDockWidget, QWidget

from napari_emseg.widgets.collapsible import CollapsibleBox
from napari_emseg.widgets.jobs import any_job_is_busy

LATER_MS = 200


@runtime_checkable
class Attached(Protocol):
    """A panel that attaches something to the viewer: a tool, keys, a preview."""

    def attach(self) -> None:
        """Put up what works outside of the panel; it can be seen now."""

    def detach(self) -> None:
        """Put all of that down; the panel can't be seen any more."""


class OnScreen(QObject):
    """Attaches the panels in a dock as long as they can be seen.

    A dock can be closed, hidden from the menu, or be behind another one's tab. One that
    napari has closed never comes back (it makes a new one), so its panels are deleted.
    """

    def __init__(
        self, widget: QWidget, panels: dict[QWidget, CollapsibleBox | None]
    ) -> None:
        super().__init__(widget)
        self._widget = widget
        self._panels = {x: f for x, f in panels.items() if isinstance(x, Attached)}
        self._dock: QDockWidget | None = None
        self._in_front = self._there = True
        self._attached: set[QWidget] = set()
        for fold in self._panels.values():
            if fold is not None:
                fold.toggled.connect(self._look)
        widget.installEventFilter(self)
        self._look()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Notice that the dock is another one, or none any more."""
        if watched is self._widget and event.type() == QEvent.Type.ParentChange:
            self._on_parent()
        return False

    def _on_parent(self) -> None:
        parent = self._widget.parentWidget()
        if isinstance(parent, QDockWidget):
            self._there, self._in_front = True, True
            self._dock = parent
            parent.visibilityChanged.connect(self._on_visible)
        elif parent is None and self._dock is not None:
            self._there = False
            QTimer.singleShot(0, self._on_closed)
        self._look()

    def _on_visible(self, visible: bool) -> None:
        if self.sender() in (None, self._dock):
            self._in_front = visible
            self._look()

    def _on_closed(self) -> None:
        """Delete the panels, after what they wait for: a project that is saved, say."""
        if self._there or not isalive(self._widget):
            return
        if any_job_is_busy():
            QTimer.singleShot(LATER_MS, self._on_closed)
        else:
            self._widget.deleteLater()

    def _look(self, *_: object) -> None:
        for panel, fold in self._panels.items():
            seen = self._there and self._in_front
            seen = seen and (fold is None or fold.isExpanded())
            if seen and panel not in self._attached:
                self._attached.add(panel)
                panel.attach()
            elif not seen and panel in self._attached:
                self._attached.discard(panel)
                panel.detach()
