"""What is in a project: its stack, pictures, review, edits and weights."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from napari_emseg.core.regions import Region
from napari_emseg.core.stack import Stack
from napari_emseg.models.weights import Weights
from napari_emseg.project.folder import read_edits, shelved
from napari_emseg.project.source import OpenedSource, compare_source
from napari_emseg.project.state import EditLine, ProjectInfo, ReviewState
from napari_emseg.project.store import ProjectStore
from napari_emseg.proofreading.edits import Name


class ProjectReader:
    """A project's folder, to read."""

    def __init__(self, path: Path, disk: ProjectStore) -> None:
        self.path = path
        self._disk = disk
        self._info = disk.info
        self._review = disk.review

    @property
    def info(self) -> ProjectInfo:
        """What the project is about."""
        return self._info

    @property
    def review(self) -> ReviewState:
        """Sections that are reviewed or excluded."""
        return self._review

    @property
    def locked(self) -> frozenset[int]:
        """Cells that were locked when the project was opened."""
        return frozenset(self._review.locked)

    @property
    def regions(self) -> tuple[Region, ...]:
        """Reviewed parts of sections when the project was opened, in that order."""
        return self._review.reviewed_regions

    @property
    def last_id(self) -> int:
        """Largest id of a cell when the project was opened."""
        return self._review.last_id

    def section(self, name: Name, z: int) -> NDArray[Any]:
        """Return `cells` or `corrections` of a section `(y, x)`, as they are saved."""
        values: NDArray[Any] = self._disk.section(name, z)
        return values

    def edits(self) -> tuple[EditLine, ...]:
        """Return every edit that is saved, oldest first."""
        return read_edits(self.path)

    def compare_source(self, stack: Stack) -> OpenedSource:
        """Tell if a stack that is open already is the project's.

        Raises
        ------
        ValueError
            If its shape is another one.
        """
        return compare_source(self._info.source, stack)

    def lineage(self) -> tuple[Weights, ...]:
        """Return the project's weights, parents before their children."""
        return shelved(self.path)
