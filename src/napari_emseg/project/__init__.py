"""The project folder `NAME.emseg/`: work on a stack, saved while it goes on."""

from napari_emseg.project.folder import read_edits, read_info
from napari_emseg.project.merge_projects import Conflict, Merged, iter_merge
from napari_emseg.project.project import Project
from napari_emseg.project.source import OpenedSource, StackNotFoundError
from napari_emseg.project.state import (
    EditLine,
    ProjectInfo,
    ReviewState,
    Saved,
    SaveFailed,
)

__all__ = [
    "Conflict",
    "EditLine",
    "Merged",
    "OpenedSource",
    "Project",
    "ProjectInfo",
    "ReviewState",
    "SaveFailed",
    "Saved",
    "StackNotFoundError",
    "iter_merge",
    "read_edits",
    "read_info",
]
