"""Draw membrane, or cut by it: a cell that falls apart becomes several."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.regions import Area, grown, union, within
from napari_emseg.core.settings import CorrectSettings
from napari_emseg.proofreading.edits import INSIDE, MEMBRANE, NAMES, Change, Edit, Name
from napari_emseg.proofreading.section_view import (
    SectionView,
    line_through,
    painted_along,
)

Mask = NDArray[np.bool_]


class PendingEdit:
    """Pictures of an area before and after an edit; tools write into `after`."""

    def __init__(self, sheet: SectionView, area: Area) -> None:
        self.sheet = sheet
        self.area = area
        self.before: dict[Name, NDArray[Any]] = {
            name: sheet.window(name, area) for name in NAMES
        }
        self.after = {name: window.copy() for name, window in self.before.items()}
        self.next_id = sheet.next_id

    def new_id(self) -> int:
        """Return an id that no cell has."""
        self.next_id += 1
        return self.next_id - 1

    def set(self, where: Mask, correction: int) -> None:
        """Correct pixels to membrane, inside, or another class."""
        self.after["corrections"][where] = correction
        self.after["membranes"][where] = correction == MEMBRANE

    def edit(self, tool: str, words: str) -> Edit:
        """Return what differs.

        Raises
        ------
        ValueError
            If nothing does.
        """
        changes = (
            Change.between(
                name, self.sheet.z, self.area, self.before[name], self.after[name]
            )
            for name in NAMES
        )
        real = tuple(change for change in changes if change is not None)
        if not real:
            msg = "nothing to change here"
            raise ValueError(msg)
        last = self.next_id - 1 if self.next_id > self.sheet.next_id else 0
        return Edit(tool, words, changes=real, last_id=last)


def placed(mask: NDArray[Any], area: Area, wide: Area) -> NDArray[Any]:
    """Return a mask of an area as one of a larger area."""
    out = np.zeros(tuple(part.stop - part.start for part in wide), mask.dtype)
    out[within(area, wide)] = mask
    return out


def draw_membrane(
    sheet: SectionView,
    where: Mask,
    area: Area,
    *,
    core: Mask | None = None,
    sliver: int = 0,
) -> tuple[PendingEdit, dict[int, list[int]]]:
    """Make pixels membrane; cells that fall apart there become several.

    Pixels of locked cells are spared.

    Parameters
    ----------
    where
        Mask `(y, x)` of the pixels in `area`.
    core
        Those of them that matter: a locked cell on them is refused, not spared.
    sliver
        Pieces smaller than this, px, become no cells.

    Returns
    -------
    draft
    split
        New ids of each cell that fell apart.

    Raises
    ------
    ValueError
        If locked cells leave nothing to draw, or lie on the core.
    """
    cells = sheet.window("cells", area)
    locked = sheet.is_locked(cells)
    if core is not None:
        sheet.refuse_locked(np.unique(cells[core & locked]))
    where = where & ~locked
    if not where.any():
        sheet.refuse_locked(np.unique(cells[locked]))
    touched = [int(i) for i in np.unique(cells[where]) if i > 0]
    # a cell is seen as a whole only where it may come apart: it
    # may be as large as the section
    apart = [i for i in touched if _may_fall_apart(sheet, i, where, area)]
    wide = union(area, *(sheet.pieces(i, area) for i in apart))
    draft = PendingEdit(sheet, wide)
    there = placed(where, area, wide)
    draft.set(there, MEMBRANE)
    draft.after["cells"][there] = 0
    split = {i: _fall_apart(draft, i, there, sliver) for i in apart}
    return draft, {i: new for i, new in split.items() if new}


def _may_fall_apart(sheet: SectionView, cell: int, where: Mask, area: Area) -> bool:
    """Tell if taking pixels from a cell parts it, as far as is seen close to them."""
    close = grown(area, 2, sheet.shape)
    mask = sheet.window("cells", close) == cell
    taken = placed(where, area, close)
    before, n = ndi.label(mask)
    after, _ = ndi.label(mask & ~taken)
    for piece in range(1, n + 1):
        of_it = before == piece
        if not (of_it & taken).any():
            continue
        left = np.unique(after[of_it])
        # 1 close to the stroke means one piece everywhere; more may be joined farther
        # away, which `_fall_apart` then sees
        if np.count_nonzero(left) != 1:
            return True
    return False


def _fall_apart(draft: PendingEdit, cell: int, taken: Mask, sliver: int) -> list[int]:
    """Give new ids to all but the largest piece of each place a cell was parted."""
    cells = draft.after["cells"]
    before, n = ndi.label(draft.before["cells"] == cell)
    after, m = ndi.label(cells == cell)
    sizes = np.bincount(after.ravel(), minlength=m + 1)
    new = []
    for piece in range(1, n + 1):
        of_it = before == piece
        if not (of_it & taken).any():
            continue
        left = np.unique(after[of_it])
        left = left[left > 0]
        # the largest keeps the id and so its colour; a cell had pieces before, and only
        # those that the membrane touched are looked at
        for part in sorted(left, key=lambda p: -int(sizes[p]))[1:]:
            small = sizes[part] < sliver
            cells[after == part] = 0 if small else draft.new_id()
            if not small:
                new.append(draft.next_id - 1)
    return new


def draw_inside(
    sheet: SectionView,
    where: Mask,
    area: Area,
    *,
    join: tuple[int, ...] = (),
) -> tuple[PendingEdit, dict[int, list[int]]]:
    """Take membrane away; cells that meet there become one, within this section.

    Pixels beside locked cells are spared.

    Parameters
    ----------
    where
        Mask `(y, x)` of the pixels in `area`.
    join
        Cells that become one in any case.

    Returns
    -------
    draft
    merged
        For each cell that remains, those that it took in.

    Raises
    ------
    ValueError
        If a cell to join is locked, or locked cells leave nothing to do.
    """
    sheet.refuse_locked(join)
    close = grown(area, 1, sheet.shape)
    cells = sheet.window("cells", close)
    locked = ndi.binary_dilation(sheet.is_locked(cells))
    there = placed(where, area, close) & ~locked
    if where.any() and not there.any():
        sheet.refuse_locked(np.unique(cells))
    spots, _ = ndi.label(there)
    # What is joined is found by spots, the connected parts of what becomes
    # inside: cells that touch one spot are one, and so are those that
    # several spots join (`_families`).
    groups = _beside(cells, spots)
    families = _families([*groups, set(join)])
    everyone = {i for family in families if len(family) > 1 for i in family}
    wide = union(close, *(sheet.pieces(i, close) for i in everyone))
    draft = PendingEdit(sheet, wide)
    merged = _merge(draft, families, close)
    _give_spots(draft, placed(spots, close, wide), groups, merged)
    return draft, merged


def _beside(cells: NDArray[Any], spots: NDArray[Any]) -> list[set[int]]:
    """Return for each spot the cells on it, or beside what of it is in no cell.

    Cells may touch: one beside a pixel of another cell is no part of the spot.
    """
    groups = []
    for spot, found in enumerate(ndi.find_objects(spots), start=1):
        close = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in found)
        mask, here = spots[close] == spot, cells[close]
        mask |= ndi.binary_dilation(mask & (here == 0))
        groups.append({int(i) for i in np.unique(here[mask]) if i > 0})
    return groups


def _families(groups: list[set[int]]) -> list[set[int]]:
    """Join groups that share a member."""
    families: list[set[int]] = []
    for group in groups:
        if not group:
            continue
        apart = [f for f in families if not f & group]
        families = [*apart, group.union(*(f for f in families if f & group))]
    return families


def _merge(
    draft: PendingEdit, families: list[set[int]], area: Area
) -> dict[int, list[int]]:
    """Give all pieces that reach into an area the id of their family's largest."""
    merged: dict[int, list[int]] = {}
    cells = draft.after["cells"]
    for family in families:
        if len(family) < 2:
            continue
        masks = {i: _reaching(cells == i, within(area, draft.area)) for i in family}
        largest = max(sorted(family), key=lambda i: int(masks[i].sum()))
        others = sorted(family - {largest})
        for i in others:
            cells[masks[i]] = largest
        merged[largest] = others
    return merged


def _reaching(mask: Mask, area: Area) -> Mask:
    """Return the pieces of a mask that reach into an area of it."""
    pieces, _ = ndi.label(mask)
    hit = np.unique(pieces[area])
    return np.isin(pieces, hit[hit > 0])


def _give_spots(
    draft: PendingEdit,
    spots: NDArray[Any],
    groups: list[set[int]],
    merged: dict[int, list[int]],
) -> None:
    """Make each spot inside, and part of the cell beside it if there is one."""
    draft.set(spots > 0, INSIDE)
    owner = {i: kept for kept, others in merged.items() for i in others}
    ids = np.zeros(len(groups) + 1, draft.after["cells"].dtype)
    for spot, group in enumerate(groups, start=1):
        if group:
            # all of a group have become one cell, so any of them tells the owner
            first = min(group)
            ids[spot] = owner.get(first, first)
    found = spots > 0
    draft.after["cells"][found] = ids[spots[found]]


def cut(
    sheet: SectionView, points: NDArray[Any], *, settings: CorrectSettings | None = None
) -> Edit:
    """Cut the cells that a stroke `(n, 2)` crosses from membrane to membrane.

    Cells that it only enters stay as they are.

    Raises
    ------
    ValueError
        If it crosses no cell, or a locked one.
    """
    settings = settings or CorrectSettings()
    wide, core, area = painted_along(sheet, line_through(points), settings.width)
    cells = sheet.window("cells", area)
    met = [int(i) for i in np.unique(cells[core]) if i > 0]
    if not met:
        msg = "there is no cell under the stroke; draw it across one"
        raise ValueError(msg)
    sheet.refuse_locked(met)
    # each cell by itself, on the stroke's pixels in it: only those that it crosses are
    # cut, so that a stroke may begin and end in neighbours
    parted = [
        i for i in met if _falls_apart(sheet, wide & (cells == i), area, settings)
    ]
    if not parted:
        names = ", ".join(str(i) for i in met[:3])
        msg = (
            f"the stroke doesn't cut cell {names} in two; "
            f"draw it from one membrane to the other"
        )
        raise ValueError(msg)
    draft, split = draw_membrane(
        sheet, wide & np.isin(cells, parted), area, sliver=settings.sliver
    )
    cuts = (
        f"cut cell {cell} into {' and '.join(str(i) for i in (cell, *new))}"
        for cell, new in split.items()
    )
    return draft.edit("cut", "; ".join(cuts))


def _falls_apart(
    sheet: SectionView, where: NDArray[np.bool_], area: Area, settings: CorrectSettings
) -> bool:
    """Tell if membrane on pixels of one cell parts it."""
    return bool(draw_membrane(sheet, where, area, sliver=settings.sliver)[1])
