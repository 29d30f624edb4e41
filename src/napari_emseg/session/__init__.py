"""One sitting: the stack at work, what the user chose for it, and the runs over it."""

from napari_emseg.session.region import Region, from_here
from napari_emseg.session.results import Results
from napari_emseg.session.session import Session
from napari_emseg.session.source import Run, Source

__all__ = ["Region", "Results", "Run", "Session", "Source", "from_here"]
