"""Values as formats store them: ids that may be too large, probabilities as bytes."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import Progress, Provenance, Record
from napari_emseg.core.sinks import PassingSink, SectionSink
from napari_emseg.core.stack import LazyArray, Stack
from napari_emseg.io.errors import IdsDontFitError
from napari_emseg.io.formats import NO_LIMIT, OutputKind
from napari_emseg.io.sections import SectionArray

Ids = Literal["keep", "renumber", "float"]
"""How ids are stored where they may be too large: as they are or not at all; counted
anew from 1; as 32-bit float."""

FLOAT_IDS = 2**24
"""Whole numbers up to here are exact in a 32-bit float."""


def own_ids(stack: Stack) -> Stack:
    """Return a stack in which each id of cells is an id, where that is sure.

    In a file of ours 65,535 is a cell like any other, and means "no label" only in
    files of others: as 32 bit it can't be mistaken, see `core.labels.unlabelled`.
    """
    made = stack.metadata.get("emseg")
    if made is None or made.get("kind") != "cells" or stack.dtype != np.uint16:
        return stack
    if not isinstance(stack.data, SectionArray):
        return stack
    return replace(stack, data=stack.data.as_type(np.dtype(np.uint32)))


@dataclass(frozen=True, slots=True)
class Coding:
    """How ids become stored values; `known` are all ids in order, if renumbered."""

    dtype: np.dtype[Any]
    known: NDArray[np.uint64] | None = None

    def __call__(self, section: NDArray[Any]) -> NDArray[Any]:
        """Return the stored values of a section."""
        if self.known is None:
            return section.astype(self.dtype)
        # `known` begins with 0, so ranks are the new ids and membrane stays 0
        ranks: NDArray[Any] = np.searchsorted(self.known, section)
        return ranks.astype(self.dtype)


def needs_coding(kind: OutputKind, dtype: np.dtype[Any]) -> bool:
    """Tell if ids of this type may not fit into the format."""
    narrow = kind.whole_ids < NO_LIMIT
    return narrow and dtype.kind in "iu" and dtype.name not in kind.dtypes


def unsigned(kind: OutputKind, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in which a format holds signed ids; the same if it takes them."""
    if dtype.kind != "i" or dtype.itemsize < 4 or dtype.name in kind.dtypes:
        return dtype
    wide = np.dtype(f"u{dtype.itemsize}")
    return wide if wide.name in kind.dtypes else dtype


def as_unsigned(
    section: NDArray[Any], z: int, dtype: np.dtype[Any], kind: OutputKind
) -> NDArray[Any]:
    """Return signed ids as unsigned ones.

    Raises
    ------
    ValueError
        If one is below 0.
    """
    lowest = int(section.min())
    if lowest < 0:
        msg = (
            f"section {z} has the value {lowest}; {kind.title} holds {section.dtype} "
            "only as ids, which are 0 and above; take zarr for values below 0"
        )
        raise ValueError(msg)
    return section.astype(dtype)


def coding(
    cells: LazyArray, kind: OutputKind, ids: Ids
) -> Generator[Record, None, Coding]:
    """Look through all cells `(z, y, x)`, and find how they are stored.

    Raises
    ------
    IdsDontFitError
        If they don't fit; it names the choices.
    ValueError
        If an id is below 0.
    """
    if ids not in get_args(Ids):
        msg = f"ids must be one of {', '.join(get_args(Ids))}; got {ids!r}"
        raise ValueError(msg)
    n = int(cells.shape[0])
    known = np.zeros(1, np.uint64)  # 0 is membrane, whether there is any or not
    for z in range(n):
        found = np.unique(np.asarray(cells[z]))
        if found.dtype.kind == "i" and found[0] < 0:
            msg = f"section {z} has the id {int(found[0])}; ids are 0 and above"
            raise ValueError(msg)
        known = np.union1d(known, found.astype(np.uint64))
        yield Progress("looking at ids", z + 1, n)
    return _chosen(known, kind, ids)


def _chosen(known: NDArray[np.uint64], kind: OutputKind, ids: Ids) -> Coding:
    largest, count = int(known[-1]), known.size - 1
    uint16, float32 = np.dtype(np.uint16), np.dtype(np.float32)
    if ids == "renumber" and count <= kind.whole_ids:
        return Coding(uint16, known)
    if ids == "float" and largest <= FLOAT_IDS:
        return Coding(float32)
    if ids == "keep" and largest <= kind.whole_ids:
        return Coding(uint16)
    raise _refusal(largest, count, kind)


def _refusal(largest: int, count: int, kind: OutputKind) -> IdsDontFitError:
    ways: dict[str, str] = {}
    if count <= kind.whole_ids:
        ways["renumber"] = "count them anew from 1"
    if largest <= FLOAT_IDS:
        ways["float"] = "store them as 32-bit float, still exact"
    fact = (
        f"the {count:,} cells have ids up to {largest:,}, more than the "
        f"{kind.whole_ids:,} that {kind.title} holds"
    )
    return IdsDontFitError(fact, ways)


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
