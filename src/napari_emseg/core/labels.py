"""What a label picture means, said once: membrane, inside or cells, or no label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.stack import LazyArray

Meaning = Literal["membrane", "inside", "cells"]
"""`membrane` and `inside` are masks (> 0); `cells` are ids with 0 between them."""

RESERVED_IDS = 3
"""The largest values of uint64 that mean no label; CREMI, Paintera and others write
2⁶⁴ − 1 (transparent), 2⁶⁴ − 2 (invalid) and 2⁶⁴ − 3 (outside)."""

UNREAL = 2.0**63
"""Floats from here on are reserved values of 64 bits that were converted."""


def unlabelled(labels: NDArray[Any], meaning: Meaning) -> NDArray[np.bool_] | None:
    """Return where a label picture says that a pixel has no label; None: nowhere.

    That is NaN and infinity, values below 0, and the values that unsigned types keep
    for it: the three largest of uint64, the largest of uint32, and of uint16 in `cells`
    (in a 16-bit mask the largest value is true). 0 is no such value.
    """
    kind, size = labels.dtype.kind, labels.dtype.itemsize
    if kind == "f":
        found = ~(np.isfinite(labels) & (labels >= 0))
        if size > 2:
            # float32 has no 2⁶⁴ - 1: that value has become 2⁶⁴; half floats end below
            found |= labels >= UNREAL
    elif kind == "i":
        found = labels < 0
    elif kind == "u" and (size > 2 or (size == 2 and meaning == "cells")):
        reserved = RESERVED_IDS if size == 8 else 1
        found = labels > np.iinfo(labels.dtype).max - reserved
    else:
        return None
    return found if found.any() else None


def as_labels(labels: NDArray[Any], meaning: Meaning) -> NDArray[Any]:
    """Return labels with 0 where there is none, see `unlabelled`.

    Ids that are kept as floats become integers.

    Raises
    ------
    ValueError
        If ids are floats with a fraction.
    """
    unknown = unlabelled(labels, meaning)
    if unknown is not None:
        labels = np.where(unknown, labels.dtype.type(0), labels)
    if meaning != "cells" or labels.dtype.kind != "f":
        return labels
    ids = labels.astype(np.int64)
    if not np.array_equal(ids, labels):
        value = labels[ids != labels].flat[0]
        msg = f"ids of cells must be whole numbers, got {value:g}; is it a mask?"
        raise ValueError(msg)
    return ids


class Numbering:
    """Gives ids small numbers in the order in which they come, the same in a stack."""

    def __init__(self) -> None:
        self._known = {0: 0}

    def __call__(self, ids: NDArray[np.integer]) -> NDArray[np.int32]:
        """Return the numbers of ids `(y, x)`, 0 for 0."""
        found, place = np.unique(ids, return_inverse=True)
        known = self._known
        numbers = [known.setdefault(int(value), len(known)) for value in found]
        return np.array(numbers, np.int32)[place].reshape(ids.shape)


def is_drawn(section: NDArray[Any], meaning: Meaning) -> bool:
    """Tell if anything is labelled in a section `(y, x)`: if any value is above 0.

    Stacks are often labelled in a few sections only; the others are empty. That says
    nothing about them: they are unknown, neither all membrane nor all inside.
    """
    return bool((as_labels(section, meaning) > 0).any())


def inside_mask(labels: NDArray[Any], meaning: Meaning) -> NDArray[np.bool_]:
    """Return where a truth `(…, y, x)` is inside a cell; the rest is membrane.

    Cells that touch without a gap (FIB-SEM) get a membrane of two pixels, one on each
    side of their common boundary. Pixels without a label count as membrane here, and
    not as a cell that others touch; `unlabelled` tells them apart.

    Raises
    ------
    ValueError
        If the meaning is unknown, or ids are no whole numbers.
    """
    if meaning not in get_args(Meaning):
        msg = f"labels are {', '.join(get_args(Meaning))}; got {meaning!r}"
        raise ValueError(msg)
    if meaning == "membrane":
        unknown = unlabelled(labels, meaning)
        inside = np.asarray(labels == 0)
        return inside if unknown is None else inside & ~unknown
    labels = as_labels(labels, meaning)
    inside = np.asarray(labels > 0)
    if meaning == "cells":
        inside &= ~touching(labels)
    return inside


def only_class(section: NDArray[Any], meaning: Meaning) -> str | None:
    """Return the class that a whole section `(y, x)` is; empty if it has several.

    None if nothing is drawn in it. With pixels that have no label it isn't one class.
    """
    if not is_drawn(section, meaning):
        return None
    if unlabelled(section, meaning) is not None:
        return ""
    inside = inside_mask(section, meaning)
    if inside.all():
        return "inside"
    return "" if inside.any() else "membrane"


USUAL = 0.5
"""EM of tissue has 10 to 35 % membrane; more than this looks inverted."""


def doubt_share(share: float, what: str, meaning: Meaning) -> str | None:
    """Ask what labels are whose share of membrane is unusual; None if it is not."""
    if share <= USUAL:
        return None
    asked = {
        "membrane": "is it inside rather than membrane?",
        "inside": "is it membrane rather than inside?",
        "cells": "is it a mask rather than cells, or are only some cells drawn?",
    }[meaning]
    return f"{share:.0%} of {what} is membrane, usual are 10 to 35 %: {asked}"


def touching(cells: NDArray[Any]) -> NDArray[np.bool_]:
    """Return pixels of cells `(…, y, x)` with a 4-neighbour of another cell."""
    found = np.zeros(cells.shape, bool)
    for axis in (-2, -1):
        a = np.moveaxis(cells, axis, -1)
        out = np.moveaxis(found, axis, -1)
        # `out` is a view of `found`, so both axes write to the same array
        differs = (a[..., 1:] != a[..., :-1]) & (a[..., 1:] > 0) & (a[..., :-1] > 0)
        out[..., 1:] |= differs
        out[..., :-1] |= differs
    return found


def format_sections(sections: Sequence[int]) -> str:
    """Return the numbers of sections for a message: `section 4`, `sections 0-2, 7`."""
    if not sections:
        return "none"
    runs: list[list[int]] = []
    for z in sorted(set(sections)):
        if runs and z == runs[-1][-1] + 1:
            runs[-1].append(z)
        else:
            runs.append([z])
    numbers = ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)
    return f"section{'s' * (len(set(sections)) != 1)} {numbers}"


FEW = 0.05
"""Labelled part of sections, below which it is doubted that they are complete."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Sections with any label, and which part of them has one."""

    sections: tuple[int, ...]
    share: float

    @classmethod
    def of(cls, labels: LazyArray, meaning: Meaning) -> Labelled:
        """Look at labels `(z, y, x)`; reads all sections."""
        n, y, x = labels.shape
        counts = {}
        for z in range(n):
            section = as_labels(np.asarray(labels[z]), meaning)
            if found := int(np.count_nonzero(section > 0)):
                counts[z] = found
        share = sum(counts.values()) / (len(counts) * y * x) if counts else 0.0
        return cls(tuple(counts), share)

    @property
    def doubtful(self) -> bool:
        """True if it is too little to be taken as drawn to the end unasked."""
        return bool(self.sections) and self.share < FEW

    @property
    def words(self) -> str:
        """For people: `0.4 % of section 2 is labelled`."""
        if not self.sections:
            return "nothing is labelled"
        percent = f"{100 * self.share:.2g}" if self.share < 0.995 else "100"
        return f"{percent} % of {format_sections(self.sections)} is labelled"
