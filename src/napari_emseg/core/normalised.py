"""Sections of a stack as networks see them, normalised by the weights' rule."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.intensity import (
    GreyRange,
    normalise,
    padding,
    section_range,
    stack_range,
)
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack


@dataclass(frozen=True, slots=True, eq=False)
class NormalisedSection:
    """Grey values `(y, x)` float32, and where alignment padding is (None: nowhere)."""

    image: NDArray[np.float32]
    padding: NDArray[np.bool_] | None


class NormalisedStack:
    """Reads and normalises whole sections; keeps the last one.

    Parameters
    ----------
    rule
        From the weights' card.
    invert
        Swap dark and bright.
    """

    def __init__(
        self, stack: Stack, rule: Normalisation, *, invert: bool = False
    ) -> None:
        self.stack = stack
        self._rule = rule
        self._invert = invert
        self._last: tuple[int, NormalisedSection | None] | None = None

    def section(self, z: int) -> NormalisedSection | None:
        """Return section `z`; None if it is blank.

        Raises
        ------
        IndexError
            If there is no such section.
        OSError, ValueError
            From the reader, when the section is damaged.
        """
        if self._last is None or self._last[0] != z:
            self._last = z, self._read(z)
        return self._last[1]

    def _read(self, z: int) -> NormalisedSection | None:
        section = self.stack.section(z)
        mask = padding(section)
        # a `GreyRange` is never false, so `or` takes the
        # section's own only where there is none
        grey = self._whole or section_range(section, self._rule, mask)
        if grey.blank:
            return None
        return NormalisedSection(normalise(section, grey, invert=self._invert), mask)

    @cached_property
    def _whole(self) -> GreyRange | None:
        """Of the stack, if the rule says so."""
        if self._rule.scope == "section":
            return None
        return stack_range(self.stack, self._rule)
