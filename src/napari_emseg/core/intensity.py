"""Grey values as stored → what a network sees: range, polarity, size."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.card import Card
from napari_emseg.core.padding import HUGE_PIXELS, Padding, Read, find_padding, reading
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack

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
    # NaN may lie anywhere, but nothing can be seen there either
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
    # spread over the stack, whose contrast often drifts from end to end
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
    # `upto[v]` is how many values are v or below, so the k-th smallest (from 0) is the
    # first v with `upto[v]` above k. Between two of them percentiles are interpolated.
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


SIDE = 512
"""Only the middle of a section is looked at, at most so many pixels squared."""

SMALLEST = 100
"""A smaller picture shows too few membranes to tell."""

SCALES = (1.0, 2.0)
"""Standard deviations of the Gaussian, in px."""

MARGIN = 0.08
"""A smaller score than this, either way, can't tell.

Seen: 0.11 to 0.35 on stacks of two fly nerve cords, fly brain, fly optic medulla by
FIB-SEM and mouse cortex, -0.35 to -0.11 on their inversions.
"""


@dataclass(frozen=True, slots=True)
class Polarity:
    """How much stronger dark lines are than bright ones: log of the ratio, mean."""

    score: float

    @property
    def inverted(self) -> bool | None:
        """True if membranes look bright, False if dark, None if it can't be told."""
        if abs(self.score) < MARGIN:
            return None
        return self.score < 0

    @property
    def words(self) -> str:
        """The finding as a sentence."""
        if self.inverted is None:
            return "can't tell whether membranes are dark or bright"
        return f"membranes look {'bright' if self.inverted else 'dark'}"


def polarity(stack: Stack, *, sections: int = 5) -> Polarity:
    """Look at some sections of a stack; those that are damaged or blank don't count."""
    picked = np.unique(np.linspace(0, stack.shape[0] - 1, sections).astype(int))
    scores = [_score(section) for z in picked for section in _read(stack, int(z))]
    known = [score for score in scores if score is not None]
    return Polarity(float(np.mean(known)) if known else 0.0)


def is_micrograph(stack: Stack) -> bool:
    """Tell if grey values look taken, and not like a mask, ids or probabilities.

    Neighbours of a mask or of cells are mostly the same, those of EM seldom are.
    """
    for section in _read(stack, stack.shape[0] // 2):
        if section.dtype.kind == "f" and section.min() >= 0 and section.max() <= 1:
            return False
        same = float(np.mean(section[:, 1:] == section[:, :-1]))
        return same < MOSTLY and np.unique(section).size > FEW_VALUES
    return False


MOSTLY = 0.5
FEW_VALUES = 16
"""Masks and drawings have no more."""


def _read(stack: Stack, z: int) -> list[NDArray[Any]]:
    """Return the section's middle in a list, or no section if it can't be read."""
    middle = tuple(
        slice(max(0, (n - SIDE) // 2), (n + SIDE) // 2) for n in stack.shape[1:]
    )
    try:
        return [np.asarray(stack.data[(z, *middle)])]
    except (OSError, ValueError):
        return []


def _score(section: NDArray[Any]) -> float | None:
    if min(section.shape) < SMALLEST:
        return None
    mask = padding(section)
    grey = section_range(section, Normalisation(), mask)
    if grey.blank:
        return None
    values = normalise(section, grey)
    keep = np.ones(values.shape, bool) if mask is None else ~ndi.binary_dilation(mask)
    scores = [_lines(values, sigma, keep) for sigma in SCALES]
    return float(np.mean(scores))


def _lines(values: NDArray[np.float32], sigma: float, keep: NDArray[np.bool_]) -> float:
    """Log of the strength of dark lines over that of bright lines."""
    yy, xy, xx = (
        ndi.gaussian_filter(values, sigma, order=order)
        for order in ((2, 0), (1, 1), (0, 2))
    )
    # eigenvalues of the Hessian, `high` >= `low`. Across a dark line grey values curve
    # upwards, along it hardly at all; spots curve both ways and are taken off.
    spread = np.sqrt((yy - xx) ** 2 + 4 * xy**2)
    high, low = (yy + xx + spread) / 2, (yy + xx - spread) / 2
    dark, bright = (
        np.percentile(np.clip(strong - np.abs(weak), 0, None)[keep], 97)
        for strong, weak in ((high, low), (-low, high))
    )
    tiny = 1e-6
    return float(np.log((dark + tiny) / (bright + tiny)))


SAME_SIZE = 0.02
"""Voxel sizes that differ by less than this part are not worth a resampling."""

LARGE_UPSAMPLING = 2.0
TOO_COARSE = (
    f"enlarged more than {LARGE_UPSAMPLING:g}×: the picture is much coarser than what "
    "the weights learnt from, so expect poor membranes"
)

MOST_ZOOM = 16.0
"""Beyond it a voxel size is a mistake (µm or Å given as nm)."""


def zoom_of(
    stack: Stack, card: Card, *, rescale: bool = True
) -> tuple[tuple[float, float], tuple[str, ...]]:
    """Return network pixels per source pixel `(y, x)`, and what to tell the user.

    Raises
    ------
    ValueError
        If the sizes differ by more than `MOST_ZOOM`.
    """
    wanted = card.pixel_size_nm
    if not rescale or wanted is None:
        return (1.0, 1.0), ()
    if stack.voxel_size_nm is None:
        sizes = _format_pair(wanted)
        note = f"no voxel size given, used as it is (the weights expect {sizes} nm/px)"
        return (1.0, 1.0), (note,)
    given = stack.voxel_size_nm[1:]
    zoom = (given[0] / wanted[0], given[1] / wanted[1])
    if all(abs(z - 1) < SAME_SIZE for z in zoom):
        return (1.0, 1.0), ()
    if max(zoom) > MOST_ZOOM or min(zoom) < 1 / MOST_ZOOM:
        msg = (
            f"{stack.name}: {_format_pair(given)} nm/px is too far from the weights' "
            f"{_format_pair(wanted)} nm/px (at most {MOST_ZOOM:g}× either way); "
            "check the voxel size, or turn rescaling off"
        )
        raise ValueError(msg)
    times = _format_pair((round(zoom[0], 2), round(zoom[1], 2)))
    notes = [
        f"rescaled {_format_pair(given)} → {_format_pair(wanted)} nm/px ({times}×)"
    ]
    if max(zoom) > LARGE_UPSAMPLING:
        notes.append(TOO_COARSE)
    return zoom, tuple(notes)


def _format_pair(pair: tuple[float, float]) -> str:
    y, x = pair
    return f"{y:g}" if y == x else f"{y:g} × {x:g}"
