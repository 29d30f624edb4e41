"""Probabilities before they are stored: looked at, and as bytes if so asked."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import Provenance
from napari_emseg.core.sinks import PassingSink, SectionSink

PROBABILITIES = ("membrane", "inside")
"""Kinds of provenance whose values are probabilities."""

_SLACK = 1e-4
"""Rounding of means may leave [0, 1] by so much."""


def are_probabilities(provenance: Provenance | None, dtype: np.dtype[Any]) -> bool:
    """Tell if values are said to be probabilities in [0, 1]."""
    said = provenance is not None and provenance.is_of_probabilities
    return said and dtype.kind == "f"


def checked_probabilities(
    section: NDArray[Any], z: int, *, may_be_unknown: bool
) -> NDArray[Any]:
    """Return a section of probabilities that lie in [0, 1].

    Raises
    ------
    ValueError
        If they don't, or some are NaN and the format has no way to say so.
    """
    unknown = np.isnan(section)
    if unknown.any() and not may_be_unknown:
        msg = (
            f"section {z} has {int(unknown.sum()):,} px without a probability (NaN), "
            "which only formats of 32-bit float can say; run it first, or leave it out"
        )
        raise ValueError(msg)
    low, high = (float(end.reduce(section, None)) for end in (np.fmin, np.fmax))
    if low < -_SLACK or high > 1 + _SLACK:
        msg = (
            f"section {z} has values from {low:g} to {high:g}; probabilities lie in "
            "0 to 1"
        )
        raise ValueError(msg)
    return section


def as_bytes(section: NDArray[Any]) -> NDArray[np.uint8]:
    """Return probabilities as round(255 p)."""
    stored: NDArray[np.uint8] = np.rint(np.clip(section, 0, 1) * 255).astype(np.uint8)
    return stored


def told_as_bytes(provenance: Provenance | None) -> Provenance:
    """Return the provenance of probabilities that are stored as bytes."""
    made = provenance or Provenance(kind="membrane")
    return made.model_copy(update={"scale": 255.0})


class BytesSink(PassingSink):
    """Takes probabilities and passes round(255 p) on."""

    def __init__(self, sink: SectionSink) -> None:
        super().__init__(sink)
        self.dtype = np.dtype(np.float32)

    def write(self, z: int, section: NDArray[Any]) -> None:
        """Store section `z`, `(y, x)`."""
        known = checked_probabilities(section, z, may_be_unknown=False)
        super().write(z, as_bytes(known))
