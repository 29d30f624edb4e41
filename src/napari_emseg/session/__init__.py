"""One sitting: the stack at work, what the user chose for it, and the runs over it."""

from napari_emseg.core.regions import RunScope, from_here
from napari_emseg.session.results import Results
from napari_emseg.session.session import Session
from napari_emseg.session.stack_state import Run, StackState

__all__ = ["Results", "Run", "RunScope", "Session", "StackState", "from_here"]
