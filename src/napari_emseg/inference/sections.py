"""Sections of a stack as a network wants them: normalised, with their padding known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.intensity import (
    SAMPLE_SIDE,
    GreyRange,
    normalise,
    padding,
    section_range,
    stack_range,
)
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack

HUGE_PIXELS = 8192 * 8192
"""Sections beyond this are read window by window where the array allows it."""

Area = tuple[slice, slice]


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
    """

    def __init__(
        self,
        stack: Stack,
        rule: Normalisation,
        *,
        invert: bool,
        remember: bool = False,
        whole_range: GreyRange | None = None,
    ) -> None:
        self._stack = stack
        self._rule = rule
        self._invert = invert
        self._whole_range = whole_range
        self._by_window = _sliced_lazily(stack)
        self._remember = remember
        self._last: Section | None = None

    def serves(self, stack: Stack, rule: Normalisation, *, invert: bool) -> bool:
        """Tell if this opens sections of the same array in the same way."""
        same = stack.data is self._stack.data
        return same and (rule, invert) == (self._rule, self._invert)

    def open(self, z: int) -> Section:
        """Read section `z`, or only a sample of it if it is huge.

        Raises
        ------
        OSError, ValueError
            From the reader, when the section is damaged.
        """
        if self._last is not None and self._last.z == z:
            return self._last
        section = self._open_huge(z) if self._by_window else self._open_whole(z)
        if self._remember:
            self._last = section
        return section

    def _open_whole(self, z: int) -> Section:
        values = self._stack.section(z)
        mask = padding(values)
        own = section_range(values, self._rule, mask)
        return Section(
            z=z,
            grey=self._grey(own),
            invert=self._invert,
            blank=own.blank,
            read=lambda area: values[area],
            empty=None if mask is None else lambda area: mask[area],
        )

    def _open_huge(self, z: int) -> Section:
        """Statistics from every n-th row and column; the rest is read when asked."""
        data = self._stack.data
        step = max(1, min(self._stack.shape[1:]) // SAMPLE_SIDE)
        sample = np.asarray(data[z, ::step, ::step])
        mask = padding(sample)
        own = section_range(sample, self._rule, mask)
        return Section(
            z=z,
            grey=self._grey(own),
            invert=self._invert,
            blank=own.blank,
            read=lambda area: np.asarray(data[z, area[0], area[1]]),
            empty=_empty_of_sample(data, z, sample, mask, step),
        )

    def _grey(self, own: GreyRange) -> GreyRange:
        if self._rule.scope == "section":
            return own
        if self._whole_range is None:
            self._whole_range = stack_range(self._stack, self._rule)
        return self._whole_range


def _sliced_lazily(stack: Stack) -> bool:
    """Tell if sections are huge and a part of one can be read without the rest."""
    if stack.shape[1] * stack.shape[2] <= HUGE_PIXELS:
        return False
    if isinstance(stack.data, np.ndarray):
        return True
    chunks = getattr(stack.data, "chunks", None)
    if not isinstance(chunks, tuple) or len(chunks) != 3:
        return False
    # dask has a tuple of lengths for each axis, zarr and h5py one length
    y, x = (max(c) if isinstance(c, tuple) else int(c) for c in chunks[1:])
    return bool(y * x <= HUGE_PIXELS)


def _empty_of_sample(
    data: Any,
    z: int,
    sample: NDArray[Any],
    mask: NDArray[np.bool_] | None,
    step: int,
) -> Callable[[Area], NDArray[np.bool_]] | None:
    """Find padding of an area by where it is in a sample and by its grey values."""
    if mask is None and sample.dtype.kind != "f":
        return None
    near = np.zeros(sample.shape, bool)
    constants = np.empty(0, sample.dtype)
    if mask is not None:
        near = ndi.binary_dilation(mask, structure=np.ones((3, 3), bool))
        constants = np.unique(sample[mask])

    def empty(area: Area) -> NDArray[np.bool_]:
        values = np.asarray(data[z, area[0], area[1]])
        rows, columns = (np.arange(part.start, part.stop) // step for part in area)
        found = np.isin(values, constants) & near[np.ix_(rows, columns)]
        return found if values.dtype.kind != "f" else found | ~np.isfinite(values)

    return empty
