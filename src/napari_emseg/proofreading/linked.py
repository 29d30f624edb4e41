"""Pictures of a stack that are edited together, and what was said of their parts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.regions import Constraint, Region, Voxel
from napari_emseg.core.stack import LazyArray
from napari_emseg.proofreading.edits import (
    NAMES,
    Change,
    Edit,
    IdChange,
    LabelArray,
    Name,
)
from napari_emseg.proofreading.section_view import SectionView


class LinkedLabels:
    """Membranes, cells and corrections of a stack, changed by edits only.

    A cell that changes its id through the stack does so where it is looked at: `settle`
    writes such changes into a section, and remembers which pixels they were.

    Parameters
    ----------
    membranes
        `(z, y, x)`: 1 on membranes.
    cells
        `(z, y, x)`: ids, 0 on membranes and background.
    corrections
        `(z, y, x)`: 0 unlabelled, 1 membrane, 2 inside, k + 1 class k.
    probabilities
        Of membrane `(z, y, x)`; None where there are none.
    last_id
        Largest id of a cell; looked for in all of the cells by default.

    Raises
    ------
    ValueError
        If their shapes differ.
    """

    def __init__(
        self,
        membranes: LabelArray,
        cells: LabelArray,
        corrections: LabelArray,
        *,
        probabilities: LazyArray | None = None,
        last_id: int | None = None,
    ) -> None:
        given = (membranes, cells, corrections)
        self.arrays: dict[Name, LabelArray] = dict(zip(NAMES, given, strict=True))
        shapes = {name: tuple(array.shape) for name, array in self.arrays.items()}
        if len(set(shapes.values())) > 1 or len(cells.shape) != 3:
            msg = f"linked arrays need one shape (z, y, x), got {shapes}"
            raise ValueError(msg)
        self.probabilities = probabilities
        self.locked: frozenset[int] = frozenset()
        self.regions: tuple[Region, ...] = ()
        self.constraints: tuple[Constraint, ...] = ()
        """What was said of places by merging and splitting in 3-D, in that order."""
        self.last_id = _largest(cells) if last_id is None else last_id
        # A log of id changes, written into a section only when it is looked at.
        # `_settled[z]` is how many of the log section z has; `_written[place, z]` is
        # what entry `place` changed there, for undo; entries before `_kept` can't be
        # undone any more and have none.
        self._ids: list[IdChange] = []
        self._settled = [0] * int(cells.shape[0])
        self._written: dict[tuple[int, int], Change] = {}
        self._kept = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(z, y, x)`."""
        z, y, x = self.arrays["cells"].shape
        return int(z), int(y), int(x)

    def sheet(self, z: int) -> SectionView:
        """Return section `z` for the tools to read.

        Raises
        ------
        ValueError
            If there is no such section.
        """
        if not 0 <= z < self.shape[0]:
            msg = f"there is no section {z}; sections are 0..{self.shape[0] - 1}"
            raise ValueError(msg)
        self.settle(z)
        return SectionView(
            z, self.arrays, self.probabilities, self.locked, self.last_id + 1
        )

    def settle(self, z: int) -> bool:
        """Write ids that wait into section `z`; tell if any pixel changed."""
        changed = False
        # in the order of the log: a later change may
        # rename what an earlier one has made
        for place in range(self._settled[z], len(self._ids)):
            # one that failed half-way is written again as it was begun
            change = self._written.get((place, z)) or self._renamed(z, self._ids[place])
            if change is not None:
                if place >= self._kept:
                    self._written[place, z] = change
                change.write(self.arrays["cells"])
                changed = True
        self._settled[z] = len(self._ids)
        return changed

    def first_waiting(self) -> int | None:
        """Return the first section into which ids are still to be written."""
        last = len(self._ids)
        return next((z for z, n in enumerate(self._settled) if n < last), None)

    def settle_all(self) -> None:
        """Write all changes of ids; before cells are saved or measured."""
        for z in range(self.shape[0]):
            self.settle(z)

    def up_to_date(self, z: int) -> NDArray[np.uint32]:
        """Return the cells of a section `(y, x)` with all ids, and write nothing.

        Any thread may ask.
        """
        # taken first: what is written in between is only renamed once more
        waiting = self._ids[self._settled[z] :]
        cells: NDArray[np.uint32] = np.array(self.arrays["cells"][z])
        for ids in waiting:
            if ids.first <= z < ids.stop:
                cells[cells == ids.source] = ids.target
        return cells

    def apply(self, edit: Edit) -> None:
        """Make an edit; if that fails half-way, the whole of it may be made again."""
        for z in edit.sections:
            self.settle(z)
        for change in edit.changes:
            change.write(self.arrays[change.name])
        # nothing from here on depends on the arrays, which may be files
        self._ids.extend(edit.ids)
        self.locked = (self.locked | edit.lock) - edit.unlock
        self.regions = _with(self.regions, edit.review, edit.unreview)
        self.constraints = (*self.constraints, *edit.constraints)
        self.last_id = max(self.last_id, edit.last_id)

    def revert(self, edit: Edit) -> frozenset[int]:
        """Take the latest edit back; return the sections whose cells changed ids.

        If that fails half-way, the whole of it may be done again.
        """
        # it is the latest edit, so its id changes are the end of the log
        first = len(self._ids) - len(edit.ids)
        written = sorted(
            (key for key in self._written if key[0] >= first), reverse=True
        )
        # id changes came after the pixels, so they go first; each keeps its own pixels,
        # since others may have had the target's id before
        for key in written:
            self._written[key].write(self.arrays["cells"], back=True)
        for change in reversed(edit.changes):
            change.write(self.arrays[change.name], back=True)
        # nothing from here on depends on the arrays, which may be files
        for key in written:
            del self._written[key]
        del self._ids[first:]
        # sections that hadn't seen these changes stay as they are
        self._settled = [min(done, first) for done in self._settled]
        self.locked = (self.locked - edit.lock) | edit.unlock
        if edit.reviewed_before is not None:
            self.regions = edit.reviewed_before
        else:
            self.regions = _with(self.regions, edit.unreview, edit.review)
        # it is the latest edit, so what it said stands last
        self.constraints = self.constraints[
            : len(self.constraints) - len(edit.constraints)
        ]
        return frozenset(z for _, z in written)

    def forget(self, edit: Edit) -> None:
        """Give up what the oldest edit that is kept would need to be taken back."""
        self._kept += len(edit.ids)
        for place, z in [key for key in self._written if key[0] < self._kept]:
            del self._written[place, z]

    def _renamed(self, z: int, ids: IdChange) -> Change | None:
        if not ids.first <= z < ids.stop:
            return None
        _, y, x = self.shape
        before: NDArray[np.generic] = np.asarray(self.arrays["cells"][z])
        after = np.where(before == ids.source, before.dtype.type(ids.target), before)
        return Change.between("cells", z, (slice(0, y), slice(0, x)), before, after)

    @property
    def nbytes(self) -> int:
        """Memory of what was remembered to undo changes of ids."""
        return sum(change.nbytes for change in self._written.values())


def _with(
    regions: tuple[Region, ...],
    more: tuple[Region, ...],
    fewer: tuple[Region, ...],
) -> tuple[Region, ...]:
    """Return regions with some more and some fewer, in the order of review."""
    # a dict keeps the order of review, by which regions are
    # parted in training and judging
    return tuple(r for r in dict.fromkeys((*regions, *more)) if r not in fewer)


def _largest(cells: LabelArray) -> int:
    return max((int(np.max(cells[z])) for z in range(int(cells.shape[0]))), default=0)


Place = tuple[int, Sequence[float]]
"""A section and a point `(y, x)` in it."""


def merge_through(linked: LinkedLabels, first: Place, second: Place) -> Edit:
    """Make the cell at one place the same as that at another, in all sections.

    The first one's id remains. No section is rewritten until it is looked at.

    Raises
    ------
    ValueError
        If there is no cell at a place, both are one already, or one is locked.
    """
    kept, gone = (_cell(linked, place) for place in (first, second))
    if kept == gone:
        msg = f"both are cell {kept} already"
        raise ValueError(msg)
    linked.sheet(first[0]).refuse_locked([kept, gone])
    change = IdChange(gone, kept, 0, linked.shape[0])
    words = f"merged cell {gone} into cell {kept} in all sections"
    said = Constraint(_voxel(linked, first), _voxel(linked, second), same=True)
    return Edit("merge in 3-D", words, ids=(change,), constraints=(said,))


def split_through(linked: LinkedLabels, place: Place) -> Edit:
    """Make a cell another one from a section on.

    Raises
    ------
    ValueError
        If there is no cell at the place, it is locked, or it starts in this section.
    """
    z = place[0]
    cell = _cell(linked, place)
    sheet = linked.sheet(z)
    sheet.refuse_locked([cell])
    if z == 0 or not _is_in(linked, cell, z - 1):
        msg = (
            f"cell {cell} is not in the section before {z}; "
            f"go to the first section that should be another cell"
        )
        raise ValueError(msg)
    change = IdChange(cell, sheet.next_id, z, linked.shape[0])
    words = f"split cell {cell}: from section {z} on it is cell {sheet.next_id}"
    there = _voxel(linked, place)
    said = Constraint(_nearest(linked, cell, there), there, same=False)
    return Edit(
        "split in 3-D",
        words,
        ids=(change,),
        constraints=(said,),
        last_id=sheet.next_id,
    )


def _voxel(linked: LinkedLabels, place: Place) -> Voxel:
    z, (y, x) = place
    return z, *linked.sheet(z).pixel((y, x))


def _nearest(linked: LinkedLabels, cell: int, voxel: Voxel) -> Voxel:
    """Return the pixel of a cell in the section before that is nearest to a voxel."""
    z, y, x = voxel
    sheet = linked.sheet(z - 1)
    pixels = np.argwhere(sheet.window("cells", sheet.whole) == cell)
    near = pixels[np.argmin(((pixels - (y, x)) ** 2).sum(1))]
    return z - 1, int(near[0]), int(near[1])


def _cell(linked: LinkedLabels, place: Place) -> int:
    z, (y, x) = place
    cell = linked.sheet(z).cell_at((y, x))
    if not cell:
        msg = f"there is no cell at ({y:.0f}, {x:.0f}) in section {z}"
        raise ValueError(msg)
    return cell


def _is_in(linked: LinkedLabels, cell: int, z: int) -> bool:
    sheet = linked.sheet(z)
    return bool((sheet.window("cells", sheet.whole) == cell).any())
