"""Steps that change a project's folder, to be made when it is saved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from napari_emseg.models.weights import Weights
from napari_emseg.project.autosave import Step
from napari_emseg.project.state import EditLine
from napari_emseg.project.store import ProjectStore, pieces_of
from napari_emseg.project.weights_folder import keep_weights
from napari_emseg.proofreading.edits import Edit


def steps_of(edit: Edit, line: EditLine, *, back: bool) -> Iterator[Step]:
    """Yield what makes an edit, or takes it back: in pieces if it is large.

    Its line comes with the last of them.
    """
    pieces = tuple(pieces_of(edit))
    pieces = pieces[::-1] if back else pieces
    for piece in pieces[:-1]:
        yield making((piece,), back=back)
    yield making(pieces[-1:], back=back, line=line)


def making(
    edits: tuple[Edit, ...], *, back: bool = False, line: EditLine | None = None
) -> Step:
    """Return what makes edits, or takes them back, and writes a line about it."""

    def make(disk: ProjectStore) -> None:
        for edit in edits:
            disk.make(edit, back=back)
        if line is not None:
            disk.log(line)

    return make


def shelving(weights: Weights) -> Step:
    """Return what copies weights into the folder."""

    def shelve(disk: ProjectStore) -> None:
        if weights.path.is_file():  # else there is nothing to keep any more
            keep_weights(disk.folder, weights)

    return shelve


def marking(marked: dict[int, Any]) -> Step:
    """Return what says which sections are reviewed and excluded."""

    def mark(disk: ProjectStore) -> None:
        disk.mark(lambda review: review.model_copy(update={"sections": marked}))

    return mark
