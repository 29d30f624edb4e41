"""What is to be saved before a window closes."""

from __future__ import annotations

from weakref import ReferenceType, ref

from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QMainWindow, QWidget

from napari_emseg.session import Session
from napari_emseg.session.project_sync import ProjectSync
from napari_emseg.widgets.controller import ViewerController

WATCHED = "emseg_watched"


def watch(controller: ViewerController, widget: QWidget) -> None:
    """Save the projects of a controller when the window closes that a widget is in."""
    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, QMainWindow):
        parent = parent.parentWidget()
    if parent is None or parent.property(WATCHED):
        return
    parent.setProperty(WATCHED, True)
    parent.installEventFilter(_Closing(controller.session, parent))


class _Closing(QObject):
    """Lets a window close when all is saved; or the second time, if it can't be."""

    def __init__(self, session: Session, window: QMainWindow) -> None:
        super().__init__(window)
        self._session: ReferenceType[Session] = ref(session)
        self._warned = False
        window.destroyed.connect(_Release(session))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Wait for the last save."""
        if event.type() != QEvent.Type.Close:
            return False
        for keeping in _keepings(self._session()):
            try:
                keeping.flush()
            except OSError as e:
                if not self._warned:
                    self._warned = True
                    show_error(
                        f"{keeping.name} can't be saved: {e}. Make room, or close the "
                        f"window again to lose {keeping.state.waiting} changes."
                    )
                    event.ignore()
                    return True
        return False


class _Release:
    """Lets other windows write when this one is gone."""

    def __init__(self, session: Session) -> None:
        self._session: ReferenceType[Session] = ref(session)

    def __call__(self) -> None:
        for keeping in _keepings(self._session()):
            try:
                keeping.close()
            except OSError as e:
                show_error(f"{keeping.name} could not be saved: {e}")


def _keepings(session: Session | None) -> list[ProjectSync]:
    sources = () if session is None else session.sources
    return [source.keeping for source in sources if source.keeping is not None]
