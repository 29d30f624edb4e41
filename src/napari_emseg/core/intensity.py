"""Grey values as stored → the values a network sees, by one rule for all that we do.

Used alike by training, tiles, preview and batch: percentiles of a strided sample of a
section (or of the stack), never of a tile. Alignment padding takes no part in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack

SAMPLE_SIDE = 1024
"""A section's statistics come from at most about this many pixels squared."""

PADDING_SIDE = 7
"""A constant area must hold a square this wide: saturated pixels don't count. At the
border part of the square may lie outside, but the area is at least as large as it."""


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

    Padding is a constant area of the lowest or highest value of the dtype (0 or 255 for
    uint8; 0 for float) that touches the border of the picture.
    """
    found: NDArray[np.bool_] | None = None
    if section.dtype.kind == "f":
        missing = ~np.isfinite(section)
        if missing.any():
            found = missing
    for value in _padding_values(section.dtype):
        if not any(_has_run(edge == value) for edge in _borders(section)):
            continue  # the usual case; looking for areas takes a hundred times longer
        area = _constant_area(section == value)
        if area is not None:
            found = area if found is None else found | area
    return found


def _padding_values(dtype: np.dtype[Any]) -> tuple[float, ...]:
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return tuple({info.min, 0, info.max})
    return (0.0,) if dtype.kind == "f" else ()


def _has_run(line: NDArray[np.bool_]) -> bool:
    """Tell if so many neighbours are True as padding must be wide."""
    side = min(PADDING_SIDE, len(line))
    return bool(sliding_window_view(line, side).all(axis=1).any())


def _borders(section: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    return section[0], section[-1], section[:, 0], section[:, -1]


def _constant_area(same: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Parts of `same` that are broad somewhere and touch the border."""
    side = min(PADDING_SIDE, *same.shape)
    wide = np.pad(same, side, mode="edge").view(np.uint8)
    eroded = ndi.minimum_filter(wide, side)
    # the opening of an even square needs its second half mirrored
    opened = ndi.maximum_filter(eroded, side, origin=side % 2 - 1)
    broad, _ = ndi.label(opened[side:-side, side:-side])
    at_border = np.unique(np.concatenate([e.ravel() for e in _borders(broad)]))
    seeds = np.zeros(broad.max() + 1, bool)
    seeds[at_border[at_border > 0]] = True
    parts, n = ndi.label(same)
    kept = np.zeros(n + 1, bool)
    kept[parts[seeds[broad]]] = True
    kept &= np.bincount(parts.ravel(), minlength=n + 1) >= side * side
    return kept[parts] if kept.any() else None


def section_range(
    section: NDArray[Any],
    rule: Normalisation,
    mask: NDArray[np.bool_] | None = None,
) -> GreyRange:
    """Percentiles of a strided sample of one section, without padding and NaN."""
    return _range(_sample(section, mask, SAMPLE_SIDE), rule)


def stack_range(stack: Stack, rule: Normalisation, *, sections: int = 16) -> GreyRange:
    """Percentiles of a strided sample of the whole stack.

    Sections that can't be read are passed over here; reading them says so later.
    """
    picked = np.unique(np.linspace(0, stack.shape[0] - 1, sections).astype(int))
    samples = []
    for z in picked:
        try:
            section = stack.section(int(z))
        except (OSError, ValueError):
            continue
        samples.append(_sample(section, padding(section), SAMPLE_SIDE // 4))
    if not samples:
        return GreyRange(0.0, 0.0)
    return _range(np.concatenate(samples), rule)


def _sample(
    section: NDArray[Any], mask: NDArray[np.bool_] | None, side: int
) -> NDArray[Any]:
    step = tuple(slice(None, None, max(1, n // side)) for n in section.shape)
    values = section[step]
    keep = None if mask is None else ~mask[step]
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
    out = values.astype(np.float32)
    out -= np.float32(grey.low)
    out *= np.float32(1 / (grey.high - grey.low))
    np.clip(out, -0.5, 1.5, out=out)
    if invert:
        np.subtract(1, out, out=out)
    if values.dtype.kind == "f":
        np.nan_to_num(out, copy=False, nan=0.5)
    return out
