"""Hand work of a project: corrections burnt in, locked cells kept, some left out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_emseg.batch.inputs import Input, open_given
from napari_emseg.core.stack import Stack
from napari_emseg.io.fingerprint import fingerprint
from napari_emseg.project import Project
from napari_emseg.project.source import open_source
from napari_emseg.proofreading.edits import INSIDE, MEMBRANE
from napari_emseg.proofreading.rerun import keep_locked, parted

Area = tuple[slice, slice]


@dataclass(frozen=True, slots=True, eq=False)
class ProjectOverlay:
    """What a person did in a project, to be read only.

    Parameters
    ----------
    first_id
        Cells that are found get ids from here, above those of locked ones.
    """

    project: Project
    excluded: frozenset[int]
    locked: frozenset[int]
    first_id: int

    @classmethod
    def of(cls, folder: Path) -> ProjectOverlay:
        """Open the hand work of a project.

        Raises
        ------
        OSError
            If it is no project, or damaged.
        """
        project = Project(folder, read_only=True)
        excluded = project.review.named("excluded")
        locked = project.locked
        first = project.last_id + 1 if locked else 1
        return cls(project, excluded, locked, first)

    @property
    def state(self) -> str:
        """What changes with every save."""
        review = self.project.review
        return f"{self.project.info.id}-{review.saves}"

    def corrections(self, z: int, area: Area | None = None) -> NDArray[np.uint8]:
        """Return corrections `(y, x)` of a section."""
        values: NDArray[np.uint8] = self.project.section("corrections", z)
        return values if area is None else values[area]

    def burn(
        self, membrane: NDArray[np.float32], z: int, area: Area | None = None
    ) -> NDArray[np.float32]:
        """Return probabilities with the corrections in them: hand beats network."""
        known = self.corrections(z, area)
        out = np.where(known == MEMBRANE, np.float32(1), membrane)
        return np.where(known >= INSIDE, np.float32(0), out).astype(np.float32)

    def part(self, cells: NDArray[np.uint32], z: int) -> NDArray[np.uint32]:
        """Return cells `(y, x)` without membrane that was drawn by hand."""
        drawn = self.corrections(z) == MEMBRANE
        if not drawn.any():
            return cells
        return parted(cells, drawn, int(cells.max()) + 1)[0]

    def keep_locked(self, cells: NDArray[np.uint32], z: int) -> NDArray[np.uint32]:
        """Return cells `(y, x)` of a section with locked ones in their place."""
        if not self.locked:
            return cells
        old: NDArray[np.uint32] = self.project.section("cells", z)
        return keep_locked(old, cells, self.locked, shift=0)


@dataclass(frozen=True, slots=True, eq=False)
class OpenInput:
    """An input: its stack, the hand work on it, and by what it is known again."""

    stack: Stack
    hand: ProjectOverlay | None
    fingerprint: str

    @property
    def hand_state(self) -> str:
        """What changes with every save of the hand work; empty without any."""
        return "" if self.hand is None else self.hand.state


def open_input(given: Input) -> OpenInput:
    """Open an input.

    Raises
    ------
    OSError, ValueError
        If it can't be read, or a project's stack isn't there or has changed.
    """
    if not given.is_project:
        stack = open_given(given)
        return OpenInput(stack, None, fingerprint(given.path, stack))
    folder = Path(given.path)
    hand = ProjectOverlay.of(folder)
    source = open_source(hand.project.info.source, folder)
    if source.state == "changed":
        raise ValueError(source.words)
    stack = replace(source.stack, name=given.name)
    digits = fingerprint(str(stack.source), stack)
    return OpenInput(stack, hand, f"{digits}-{hand.state}")
