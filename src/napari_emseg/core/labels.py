"""What a label picture means, said once: membrane, inside or cells."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Meaning = Literal["membrane", "inside", "cells"]
"""`membrane` and `inside` are masks (> 0); `cells` are ids with 0 between them."""


def inside_mask(labels: NDArray[Any], meaning: Meaning) -> NDArray[np.bool_]:
    """Return where a truth `(…, y, x)` is inside a cell; the rest is membrane.

    Cells that touch without a gap (FIB-SEM) get a membrane of two pixels, one on each
    side of their common boundary.

    Raises
    ------
    ValueError
        If the meaning is unknown.
    """
    if meaning not in get_args(Meaning):
        msg = f"labels are {', '.join(get_args(Meaning))}; got {meaning!r}"
        raise ValueError(msg)
    if meaning == "membrane":
        return np.asarray(labels == 0)
    inside = np.asarray(labels > 0)
    if meaning == "cells":
        inside &= ~touching(labels)
    return inside


def touching(cells: NDArray[Any]) -> NDArray[np.bool_]:
    """Return pixels of cells `(…, y, x)` with a 4-neighbour of another cell."""
    found = np.zeros(cells.shape, bool)
    for axis in (-2, -1):
        a = np.moveaxis(cells, axis, -1)
        out = np.moveaxis(found, axis, -1)
        differs = (a[..., 1:] != a[..., :-1]) & (a[..., 1:] > 0) & (a[..., :-1] > 0)
        out[..., 1:] |= differs
        out[..., :-1] |= differs
    return found
