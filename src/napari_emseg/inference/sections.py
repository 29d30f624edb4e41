"""Sections of a stack as a network wants them: normalised, with their neighbours.

A network with context sees sections below and above the one that it says something of.
Where one of them is missing the nearest good one stands in:

    z      0   1   2   3   4 (blank)   5        seen with a context of five:
    of 0   0   0 | 0 | 1   2                    beyond the end the last one again
    of 3           1   2 | 3 | 5   6            what is blank, excluded or damaged
                                                is left out: the next one follows
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.intensity import (
    GreyRange,
    normalise,
    range_in_parts,
    stack_range,
)
from napari_emseg.core.padding import HUGE_PIXELS, Padding, Read, find_padding, reading
from napari_emseg.core.regions import Area
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """One section, ready to be read by windows.

    Parameters
    ----------
    read
        Grey values as stored of an area, in source pixels.
    empty
        Mask of padding and missing values of an area; None where there are none.
    context
        Sections that are seen, this one in the middle.
    below, above
        Its neighbours, the nearest first; fewer than are seen where there are no more.
    """

    z: int
    grey: GreyRange
    invert: bool
    blank: bool
    read: Callable[[Area], NDArray[Any]]
    empty: Callable[[Area], NDArray[np.bool_]] | None
    context: int = 1
    below: tuple["Section", ...] = ()
    above: tuple["Section", ...] = ()

    def windows(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Return normalised grey values of an area `(context, y, x)`, in order of z."""
        own = self.window(rows, columns)
        half = self.context // 2
        below, above = (
            stand_in(_outwards(side, own, (rows, columns)), own, half)
            for side in (self.below, self.above)
        )
        return np.stack([*below[::-1], own, *above])

    def window(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Return normalised grey values of an area."""
        return normalise(self.read((rows, columns)), self.grey, invert=self.invert)

    def clear(self, values: NDArray[np.float32], area: Area) -> None:
        """Set probabilities `(c, y, x)` of an area to 0 where there is no picture."""
        if self.empty is not None:
            values[:, self.empty(area)] = 0


T = TypeVar("T")


def stand_in(found: Sequence[T], own: T, half: int) -> list[T]:
    """Return `half` neighbours, nearest first; the last good one where there are none.

    Parameters
    ----------
    found
        The good ones, nearest first.
    own
        The section itself.
    """
    seen = list(found[:half])
    return seen + [seen[-1] if seen else own] * (half - len(seen))


def _outwards(
    sections: Sequence[Section], own: NDArray[np.float32], area: Area
) -> list[NDArray[np.float32]]:
    """Read neighbours, nearest first; where one has no picture the one before has."""
    found: list[NDArray[np.float32]] = []
    for section in sections:
        values = section.window(*area)
        if section.empty is not None:
            inner = found[-1] if found else own
            values = np.where(section.empty(area), inner, values)
        found.append(values)
    return found


MOST_MISSING = 2
"""So many sections in a row are left out; beyond a wider gap nothing goes on."""


def reach(context: int) -> int:
    """Return how far from a section its farthest neighbour may be."""
    return context // 2 * (MOST_MISSING + 1)


class SectionReader:
    """Opens sections of one stack by one rule of normalisation.

    Sections that are neighbours of the one opened last stay in memory, so that going
    through a stack reads each of them once.

    Parameters
    ----------
    remember
        Keep the section that was opened last.
    whole_range
        Of the stack, if the rule asks for it and it is known already.
    most
        Sections of more pixels are read by windows, if they can be.
    context
        Sections that the network sees.
    excluded
        Sections that are no neighbours, whatever they hold.
    """

    def __init__(
        self,
        stack: Stack,
        rule: Normalisation,
        *,
        invert: bool,
        remember: bool = False,
        whole_range: GreyRange | None = None,
        most: int = HUGE_PIXELS,
        context: int = 1,
        excluded: Collection[int] = (),
    ) -> None:
        self._stack = stack
        self._rule = rule
        self._invert = invert
        self._whole_range = whole_range
        self._most = most
        self._remember = remember
        self._context = context
        self._excluded = frozenset(excluded)
        # neighbours that were found to be blank or damaged
        self._bad: set[int] = set()
        self._kept: dict[int, Section] = {}

    def serves(self, other: "SectionReader") -> bool:
        """Tell if this opens sections of the same array in the same way as another."""
        ways = ((r._rule, r._invert, r._context, r._excluded) for r in (self, other))
        own, wanted = ways
        return self._stack.data is other._stack.data and own == wanted

    def open(self, z: int) -> Section:
        """Read section `z`, or only its border and a sample of it if it is huge.

        Raises
        ------
        OSError, ValueError
            From the reader, when the section is damaged.
        """
        own = self._kept.get(z) or self.open_alone(z)
        if self._context == 1:
            self._kept = {z: own} if self._remember else {}
            return own
        below, above = (
            () if own.blank else self._neighbours(z, step) for step in (-1, 1)
        )
        self._kept = {section.z: section for section in (*below, own, *above)}
        return replace(own, context=self._context, below=below, above=above)

    def _neighbours(self, z: int, step: int) -> tuple[Section, ...]:
        """Return good sections on one side of `z`, the nearest first."""
        found: list[Section] = []
        half = self._context // 2
        missing = 0
        near = z + step
        while len(found) < half and missing <= MOST_MISSING:
            if not 0 <= near < self._stack.shape[0]:
                break
            section = self._good(near)
            if section is None:
                missing += 1
            else:
                found.append(section)
                missing = 0
            near += step
        return tuple(found)

    def _good(self, z: int) -> Section | None:
        """Return a section that may be shown beside another one, if it is one."""
        if z in self._excluded or z in self._bad:
            return None
        try:
            section = self._kept.get(z) or self.open_alone(z)
        except (OSError, ValueError):
            section = None
        if section is None or section.blank:
            self._bad.add(z)
            return None
        return section

    def open_alone(self, z: int) -> Section:
        """Read a section, without its neighbours; see `open`."""
        shape = self._stack.shape[1:]
        read = reading(self._stack, z, most=self._most)
        found = find_padding(read, shape, self._stack.dtype)
        own = range_in_parts(read, shape, self._rule, found)
        return Section(
            z=z,
            grey=self._grey(own),
            invert=self._invert,
            # by its own range: a constant section is blank even
            # where the stack's range is used
            blank=own.blank,
            read=lambda area: read(*area),
            empty=_empty(read, found, self._stack.dtype),
        )

    def _grey(self, own: GreyRange) -> GreyRange:
        if self._rule.scope == "section":
            return own
        if self._whole_range is None:
            self._whole_range = stack_range(self._stack, self._rule, most=self._most)
        return self._whole_range


def _empty(
    read: Read, found: Padding | None, dtype: np.dtype[Any]
) -> Callable[[Area], NDArray[np.bool_]] | None:
    """Return what tells where an area has no picture; None if it has one everywhere."""
    if dtype.kind == "f":
        missing = found

        def empty(area: Area) -> NDArray[np.bool_]:
            nothing = ~np.isfinite(read(*area))
            return nothing if missing is None else nothing | missing.mask(*area)

        return empty
    return None if found is None else lambda area: found.mask(*area)
