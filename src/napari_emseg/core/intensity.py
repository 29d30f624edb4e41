"""Grey values as stored → the values a network sees, by one rule for all that we do.

Used alike by training, tiles, preview and batch: percentiles of a strided sample of a
section (or of the stack), never of a tile. Alignment padding takes no part in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.padding import Padding, find_padding
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack
from napari_emseg.core.windows import HUGE_PIXELS, Read, reading

SAMPLE_SIDE = 1024
"""A section's statistics come from at most about this many pixels squared."""

LARGE = 1e30
"""Above it, or below its inverse, 32-bit floats soon end."""


@dataclass(frozen=True, slots=True)
class GreyRange:
    """Grey values that become 0 and 1; equal when there is nothing to see."""

    low: float
    high: float

    @property
    def blank(self) -> bool:
        """True if the section is constant, all padding or all NaN."""
        return not self.high > self.low


def padding(section: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Mask `(y, x)` of alignment padding and NaN; None where there is none.

    See `core.padding` for what padding is.
    """
    found: NDArray[np.bool_] | None = None
    if section.dtype.kind == "f":
        missing = ~np.isfinite(section)
        if missing.any():
            found = missing
    height, width = section.shape
    area = find_padding(lambda y, x: section[y, x], (height, width), section.dtype)
    if area is not None:
        mask = area.mask(slice(None), slice(None))
        found = mask if found is None else found | mask
    return found


def section_range(
    section: NDArray[Any],
    rule: Normalisation,
    mask: NDArray[np.bool_] | None = None,
) -> GreyRange:
    """Percentiles of a strided sample of one section, without padding and NaN."""
    return _range(_sample(section, mask, SAMPLE_SIDE), rule)


def range_in_parts(
    read: Read, shape: tuple[int, int], rule: Normalisation, found: Padding | None
) -> GreyRange:
    """Return what `section_range` does of a section that isn't held as a whole.

    Parameters
    ----------
    shape
        `(y, x)` of the section.
    found
        Its padding.
    """
    return _range(_sample_in_parts(read, shape, found, SAMPLE_SIDE), rule)


def stack_range(
    stack: Stack,
    rule: Normalisation,
    *,
    sections: int = 16,
    most: int = HUGE_PIXELS,
) -> GreyRange:
    """Percentiles of a strided sample of the whole stack.

    Sections that can't be read are passed over here; reading them says so later.

    Parameters
    ----------
    most
        Sections of more pixels are read by windows, if they can be.
    """
    picked = np.unique(np.linspace(0, stack.shape[0] - 1, sections).astype(int))
    shape = stack.shape[1:]
    samples = []
    for z in picked:
        try:
            read = reading(stack, int(z), most=most)
            found = find_padding(read, shape, stack.dtype)
            samples.append(_sample_in_parts(read, shape, found, SAMPLE_SIDE // 4))
        except (OSError, ValueError):
            continue
    if not samples:
        return GreyRange(0.0, 0.0)
    return _range(np.concatenate(samples), rule)


def _sample(
    section: NDArray[Any], mask: NDArray[np.bool_] | None, side: int
) -> NDArray[Any]:
    step = tuple(slice(None, None, max(1, n // side)) for n in section.shape)
    return _known(section[step], None if mask is None else mask[step])


def _sample_in_parts(
    read: Read, shape: tuple[int, int], found: Padding | None, side: int
) -> NDArray[Any]:
    rows, columns = (slice(None, None, max(1, n // side)) for n in shape)
    mask = None if found is None else found.mask(rows, columns)
    return _known(read(rows, columns), mask)


def _known(values: NDArray[Any], mask: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Return values that are no padding and finite."""
    keep = None if mask is None else ~mask
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        keep = finite if keep is None else keep & finite
    return values.ravel() if keep is None else values[keep]


def _range(values: NDArray[Any], rule: Normalisation) -> GreyRange:
    if values.size == 0:
        return GreyRange(0.0, 0.0)
    low, high = _percentiles(values, rule.low_percentile, rule.high_percentile)
    if not high > low:  # a few bright pixels on a flat ground, or nothing at all
        low, high = float(values.min()), float(values.max())
    return GreyRange(low, high)


def _percentiles(values: NDArray[Any], *percents: float) -> list[float]:
    """Return what `numpy.percentile` does; by counting, if there are few values."""
    if values.dtype not in (np.uint8, np.uint16):
        if _is_wide(values.dtype, float(values.min()), float(values.max())):
            half = values.astype(np.float64) / 2  # no difference of two is infinite
            return [2 * float(value) for value in np.percentile(half, percents)]
        wide = values.astype(np.float32, copy=False)
        return [float(value) for value in np.percentile(wide, percents)]
    upto = np.cumsum(np.bincount(values))
    at = (upto[-1] - 1) * np.asarray(percents) / 100
    below, above = (
        np.searchsorted(upto, end(at), "right") for end in (np.floor, np.ceil)
    )
    return [float(value) for value in below + (above - below) * (at % 1)]


def normalise(
    values: NDArray[Any], grey: GreyRange, *, invert: bool = False
) -> NDArray[np.float32]:
    """Map `grey.low`…`grey.high` to 0…1, float32, clipped to [-0.5, 1.5].

    `invert` swaps dark and bright. Blank sections and NaN become 0.5.
    """
    if grey.blank:
        return np.full(values.shape, 0.5, np.float32)
    if _is_wide(values.dtype, grey.low, grey.high):
        out = _stretched(values, grey)
    else:
        out = values.astype(np.float32)
        out -= np.float32(grey.low)
        out *= np.float32(1 / (grey.high - grey.low))
        np.clip(out, -0.5, 1.5, out=out)
    if invert:
        np.subtract(1, out, out=out)
    if values.dtype.kind == "f":
        np.nan_to_num(out, copy=False, nan=0.5)
    return out


def _is_wide(dtype: np.dtype[Any], low: float, high: float) -> bool:
    """Tell values that 32-bit floats can't hold, or whose differences they can't."""
    exact = dtype.itemsize <= 2 or dtype == np.float32
    large, small = max(abs(low), abs(high)) > LARGE, high - low < 1 / LARGE
    return not exact or large or small


def _stretched(values: NDArray[Any], grey: GreyRange) -> NDArray[np.float32]:
    """Map the range to 0…1 in double precision, by halves so that nothing overflows."""
    low, high = grey.low / 2, grey.high / 2
    out = values.astype(np.float64)
    out /= 2
    np.clip(out, low - (high - low), high + (high - low), out=out)
    out -= low
    out /= high - low
    return np.clip(out, -0.5, 1.5).astype(np.float32)
