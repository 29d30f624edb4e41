"""An edit: which pixels of which linked arrays get which values, there and back."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.regions import Area, Constraint, Region, shape_of

Name = Literal["membranes", "cells", "corrections"]
NAMES: tuple[Name, ...] = ("membranes", "cells", "corrections")

NO_OPINION, MEMBRANE, INSIDE = 0, 1, 2
"""Values of corrections; k + 1 is class k of the weights."""

WORTH_PACKING = 256
"""Bytes above which a difference is compressed."""


class LabelArray(Protocol):
    """What is asked of a linked array `(z, y, x)`: numpy and zarr have it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""

    def __getitem__(self, key: Any, /) -> Any: ...

    def __setitem__(self, key: Any, value: Any, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Packed:
    """An array in as few bytes as is quickly done: once if constant, else deflated."""

    content: bytes
    dtype: str
    size: int
    form: Literal["constant", "plain", "deflated"]

    @classmethod
    def of(cls, values: NDArray[Any]) -> Packed:
        """Pack a one-dimensional array."""
        dtype, size = values.dtype.str, values.size
        # most edits set one value, and most of what they replace is one cell or none
        if size and (values == values[0]).all():
            return cls(values[:1].tobytes(), dtype, size, "constant")
        content = values.tobytes()
        if len(content) <= WORTH_PACKING:
            return cls(content, dtype, size, "plain")
        return cls(zlib.compress(content, 1), dtype, size, "deflated")

    def values(self) -> NDArray[Any]:
        """Return the array; a constant as one element, which broadcasts."""
        plain = self.form != "deflated"
        content = self.content if plain else zlib.decompress(self.content)
        return np.frombuffer(content, self.dtype)


@dataclass(frozen=True, slots=True)
class Change:
    """Some pixels of section `z` of one array, before and after.

    Parameters
    ----------
    area
        The smallest that holds them.
    """

    name: Name
    z: int
    area: Area
    count: int
    old: Packed = field(repr=False)
    new: Packed = field(repr=False)
    _where: Packed = field(repr=False)

    @classmethod
    def between(
        cls,
        name: Name,
        z: int,
        area: Area,
        old: NDArray[Any],
        new: NDArray[Any],
    ) -> Change | None:
        """Return the difference of two windows `(y, x)`; None if they are equal."""
        differ = old != new
        rows = np.flatnonzero(differ.any(axis=1))
        if rows.size == 0:
            return None
        columns = np.flatnonzero(differ.any(axis=0))
        tight = (
            slice(int(rows[0]), int(rows[-1]) + 1),
            slice(int(columns[0]), int(columns[-1]) + 1),
        )
        top, left = area[0].start, area[1].start
        placed = (
            slice(tight[0].start + top, tight[0].stop + top),
            slice(tight[1].start + left, tight[1].stop + left),
        )
        mask = differ[tight]
        return cls(
            name,
            z,
            placed,
            int(mask.sum()),
            Packed.of(old[tight][mask]),
            Packed.of(new[tight][mask]),
            # values are kept for the pixels that differ only, in the order of this
            # mask; a stroke is a small part of the area around it
            Packed.of(np.packbits(mask)),
        )

    @property
    def where(self) -> NDArray[np.bool_]:
        """Mask `(y, x)` of the pixels in `area`."""
        shape = shape_of(self.area)
        size = shape[0] * shape[1]
        bits = np.broadcast_to(self._where.values(), (size + 7) // 8)
        return np.unpackbits(bits, count=size).view(bool).reshape(shape)

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        return sum(len(p.content) for p in (self.old, self.new, self._where)) + 300

    def write(self, array: LabelArray, *, back: bool = False) -> None:
        """Give the pixels their new values, or `back` their old ones."""
        values = (self.old if back else self.new).values()
        key = (self.z, *self.area)
        # as a window, since not all kinds of arrays can be written through a mask
        window = np.array(array[key])
        window[self.where] = values
        array[key] = window


@dataclass(frozen=True, slots=True)
class IdChange:
    """Cell `source` becomes `target` in sections `first` … `stop` - 1."""

    source: int
    target: int
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class Edit:
    """One step of correcting, over all linked arrays.

    Parameters
    ----------
    tool
        What made it, e.g. `cut`.
    words
        What it does, for the person who did it.
    changes
        Of pixels, in the order in which they are written.
    ids
        Cells that change their id through the stack.
    lock, unlock
        Cells that become locked or unlocked.
    review, unreview
        Regions that become reviewed, or are to do again.
    finish, reopen
        Sections that become reviewed as a whole, or are to do again.
    exclude, include
        Sections that are left out from now on, or taken back in.
    reviewed_before
        All reviewed regions in their order, which tells which of them judge; given by
        what has regions to do again, so that undo puts each back in its place.
    constraints
        What it says of places, for later solutions to keep.
    last_id
        Largest new cell id that it gives; 0 if it gives none.
    author, time
        Who, and when (UTC).
    """

    tool: str
    words: str = ""
    changes: tuple[Change, ...] = ()
    ids: tuple[IdChange, ...] = ()
    lock: frozenset[int] = frozenset()
    unlock: frozenset[int] = frozenset()
    review: tuple[Region, ...] = ()
    unreview: tuple[Region, ...] = ()
    finish: frozenset[int] = frozenset()
    reopen: frozenset[int] = frozenset()
    exclude: frozenset[int] = frozenset()
    include: frozenset[int] = frozenset()
    reviewed_before: tuple[Region, ...] | None = None
    constraints: tuple[Constraint, ...] = ()
    last_id: int = 0
    author: str = ""
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        locks = 32 * (len(self.lock) + len(self.unlock))
        locks += 32 * len(self.whole)
        ids = 64 * (len(self.ids) + len(self.review) + len(self.unreview))
        return 300 + locks + ids + sum(change.nbytes for change in self.changes)

    @property
    def sections(self) -> frozenset[int]:
        """Sections in which it changes pixels."""
        return frozenset(change.z for change in self.changes)

    @property
    def whole(self) -> frozenset[int]:
        """Sections that it marks as reviewed, to do, or excluded."""
        return self.finish | self.reopen | self.exclude | self.include

    @property
    def marked(self) -> frozenset[int]:
        """Sections that it marks, or parts of them."""
        regions = frozenset(region.z for region in (*self.review, *self.unreview))
        return regions | self.whole

    def of(self, name: Name) -> tuple[Change, ...]:
        """Return the changes of one array."""
        return tuple(change for change in self.changes if change.name == name)

    def by(self, author: str) -> Edit:
        """Return this edit as made by someone."""
        return replace(self, author=author)


def joined(tool: str, edits: Iterable[Edit], words: str = "") -> Edit:
    """Return several edits, made one on top of the other, as one step."""
    edits = tuple(edits)
    return Edit(
        tool,
        words or "; ".join(edit.words for edit in edits if edit.words),
        changes=tuple(change for edit in edits for change in edit.changes),
        ids=tuple(change for edit in edits for change in edit.ids),
        lock=frozenset().union(*(edit.lock for edit in edits)),
        unlock=frozenset().union(*(edit.unlock for edit in edits)),
        review=tuple(region for edit in edits for region in edit.review),
        unreview=tuple(region for edit in edits for region in edit.unreview),
        finish=frozenset().union(*(edit.finish for edit in edits)),
        reopen=frozenset().union(*(edit.reopen for edit in edits)),
        exclude=frozenset().union(*(edit.exclude for edit in edits)),
        include=frozenset().union(*(edit.include for edit in edits)),
        # of several, what the first of them found is what undo has to bring back
        reviewed_before=next(
            (e.reviewed_before for e in edits if e.review or e.unreview), None
        ),
        constraints=tuple(said for edit in edits for said in edit.constraints),
        last_id=max((edit.last_id for edit in edits), default=0),
    )
