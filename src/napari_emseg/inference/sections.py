"""Sections of a stack as a network wants them: normalised, with their padding known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
    """

    z: int
    grey: GreyRange
    invert: bool
    blank: bool
    read: Callable[[Area], NDArray[Any]]
    empty: Callable[[Area], NDArray[np.bool_]] | None

    def window(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Return normalised grey values of an area."""
        return normalise(self.read((rows, columns)), self.grey, invert=self.invert)

    def clear(self, values: NDArray[np.float32], area: Area) -> None:
        """Set probabilities `(c, y, x)` of an area to 0 where there is no picture."""
        if self.empty is not None:
            values[:, self.empty(area)] = 0


class SectionReader:
    """Opens sections of one stack by one rule of normalisation.

    Parameters
    ----------
    remember
        Keep the section that was opened last.
    whole_range
        Of the stack, if the rule asks for it and it is known already.
    most
        Sections of more pixels are read by windows, if they can be.
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
    ) -> None:
        self._stack = stack
        self._rule = rule
        self._invert = invert
        self._whole_range = whole_range
        self._most = most
        self._remember = remember
        self._last: Section | None = None

    def serves(self, stack: Stack, rule: Normalisation, *, invert: bool) -> bool:
        """Tell if this opens sections of the same array in the same way."""
        same = stack.data is self._stack.data
        return same and (rule, invert) == (self._rule, self._invert)

    def open(self, z: int) -> Section:
        """Read section `z`, or only its border and a sample of it if it is huge.

        Raises
        ------
        OSError, ValueError
            From the reader, when the section is damaged.
        """
        if self._last is not None and self._last.z == z:
            return self._last
        shape = self._stack.shape[1:]
        read = reading(self._stack, z, most=self._most)
        found = find_padding(read, shape, self._stack.dtype)
        own = range_in_parts(read, shape, self._rule, found)
        section = Section(
            z=z,
            grey=self._grey(own),
            invert=self._invert,
            # by its own range: a constant section is blank even
            # where the stack's range is used
            blank=own.blank,
            read=lambda area: read(*area),
            empty=_empty(read, found, self._stack.dtype),
        )
        if self._remember:
            self._last = section
        return section

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
