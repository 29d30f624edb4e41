"""Cells of a section: probabilities of membrane `(y, x)` in, ids out."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.intensity import padding
from napari_emseg.core.settings import CellSettings
from napari_emseg.segmentation.fragments import Fragments, find_fragments


def segment_section(
    membrane: NDArray[Any],
    settings: CellSettings | None = None,
    *,
    exclude: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint32]:
    """Return cells `(y, x)`: ids 1, 2, … by place, 0 between them and where excluded.

    No two cells touch by an edge. To try several settings on one section, keep its
    `section_fragments`.

    Parameters
    ----------
    membrane
        Probabilities of membrane `(y, x)`: floats in [0, 1], uint8 from 0 to 255, or
        bool. NaN counts as excluded.
    exclude
        Where there is no picture, e.g. alignment padding: no cells there.

    Raises
    ------
    ValueError
        If it isn't a picture of probabilities, or `exclude` has another shape.
    """
    settings = settings or CellSettings()
    found = section_fragments(membrane, settings.threshold, exclude=exclude)
    return found.cells(settings)


def usual_cells(
    threshold: float | None = None,
) -> Callable[[NDArray[np.float32]], NDArray[np.uint32]]:
    """Return what makes cells of a section as it is done by default, at a threshold."""
    settings = (
        CellSettings() if threshold is None else CellSettings(threshold=threshold)
    )
    return partial(segment_section, settings=settings)


def section_fragments(
    membrane: NDArray[Any],
    threshold: float = 0.5,
    *,
    exclude: NDArray[np.bool_] | None = None,
) -> Fragments:
    """Return the fragments of a section, from which cells are made in milliseconds.

    Blank sections have none. Parameters and errors as in `segment_section`.
    """
    values, missing = _probabilities(membrane)
    exclude = _either(exclude, missing, values.shape)
    # nothing was seen, so nothing is known: a section of one value isn't one large cell
    if _blank(values, exclude):
        exclude = np.ones(values.shape, bool)
    return find_fragments(values, threshold, exclude=exclude)


def masked(
    membrane: NDArray[Any], exclude: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Return probabilities that are NaN where there is no picture, and if blank."""
    values, missing = _probabilities(membrane)
    exclude = _either(exclude, missing, values.shape)
    if _blank(values, exclude):
        return np.full(values.shape, np.nan, np.float32)
    return values if exclude is None else np.where(exclude, np.float32(np.nan), values)


def nothing_predicted(membrane: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Mask `(y, x)` of probabilities that were set to 0 for want of a picture.

    They are exactly 0 in a broad area at the border. None where there are none, and
    for probabilities that were once stored in 8 bits, whose 0 is also a small one.
    """
    if membrane.dtype.kind != "f" or _from_8_bits(membrane):
        return None
    return padding(membrane)


def _from_8_bits(membrane: NDArray[Any]) -> bool:
    # 8 bits leave multiples of 1/255; one pixel in 64 is enough to see others
    sample = membrane[::8, ::8].astype(np.float32) * 255
    return bool((np.abs(sample - sample.round()) < 1e-3).all())


def _probabilities(
    membrane: NDArray[Any],
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Return float32 probabilities and where they are NaN (None: nowhere)."""
    if membrane.ndim != 2 or membrane.size == 0:
        msg = f"a section needs (y, x) probabilities, got shape {membrane.shape}"
        raise ValueError(msg)
    if membrane.dtype == np.uint8:
        return membrane.astype(np.float32) / np.float32(255), None
    if membrane.dtype.kind not in "bf":
        msg = (
            f"probabilities of membrane are floats from 0 to 1, uint8 or bool, "
            f"not {membrane.dtype}"
        )
        raise ValueError(msg)
    values = np.ascontiguousarray(membrane, np.float32)
    missing = np.isnan(values)
    if missing.any():
        values = np.where(missing, np.float32(0), values)
    # rounding and resampling leave a little outside; `strength_of` clips it
    if values.min() < -1e-3 or values.max() > 1 + 1e-3:
        msg = (
            f"probabilities of membrane go from 0 to 1, "
            f"got {values.min():g} to {values.max():g}; is this a grey picture?"
        )
        raise ValueError(msg)
    return values, missing if missing.any() else None


def _either(
    exclude: NDArray[np.bool_] | None,
    missing: NDArray[np.bool_] | None,
    shape: tuple[int, ...],
) -> NDArray[np.bool_] | None:
    if exclude is None:
        return missing
    if exclude.shape != shape:
        msg = f"exclude is {exclude.shape} px (y, x), but the section is {shape}"
        raise ValueError(msg)
    exclude = np.asarray(exclude, bool)
    return exclude if missing is None else exclude | missing


def _blank(values: NDArray[np.float32], exclude: NDArray[np.bool_] | None) -> bool:
    """Tell if all that counts has one value: nothing was seen, so nothing is cut."""
    seen = values if exclude is None else values[~exclude]
    return seen.size == 0 or bool(seen.min() == seen.max())
