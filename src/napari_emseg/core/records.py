"""Frozen records that long work yields, and the way to run such work to its end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from napari_emseg.core.stack import Stack

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Record:
    """Something that happened in long work; every other record derives from it."""


TILES = "tiles"
"""The step of `Progress` over tiles that aren't told by `TileDone`."""


@dataclass(frozen=True, slots=True)
class Progress(Record):
    """`done` of `total` units of work of a named step.

    A `total` of 0 begins a step of which nobody can tell how far it is.
    """

    step: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class ViewProgress(Progress):
    """`TILES` of views along several axes; `view` says how far the one at work is.

    That is its axis, how many of its tiles are done, and of how many.
    """

    view: tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Note(Record):
    """Something the user must be told in words, e.g. that memory ran out."""

    message: str


@dataclass(frozen=True, slots=True, eq=False)
class TileDone(Record):
    """A tile is computed.

    `values` are the probabilities `(c, y, x)` of `core` in section `z`, on the source's
    grid; `done` of `total` tiles of the whole run are finished. Cores of networks that
    depend on the tile overlap: where they do, the latest values have all earlier ones
    blended in, and the last are final. Of a `damaged` section, which couldn't be read,
    nothing is known: all is 0.
    """

    z: int
    core: tuple[slice, slice]
    values: NDArray[np.float32]
    done: int
    total: int
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class SectionDone(Record):
    """Section `z` is written; `done` of `total` sections are finished."""

    z: int
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class EpochDone(Record):
    """A stretch of training between two validations ended."""

    step: int
    steps: int
    loss: float
    validation: dict[str, float]
    best: bool
    ms_per_step: float


class ClassifierRef(NamedTuple):
    """Which classifier of edges said which fragments are one cell."""

    name: str
    """What it learnt from, for people."""
    sha256: str = ""
    """Checksum of its numbers; empty where a file of an earlier version has none."""


class Provenance(BaseModel):
    """How a layer or a file came to be; JSON under the key `emseg`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: str
    """`membrane` (probabilities of membrane), `inside`, `class NAME` (of a further
    class), `cells`, `corrections`, or `em` for grey values."""
    source: str | None = None
    weights: str | None = None
    weights_sha256: str | None = None
    threshold: float | None = None
    scale: float = 1.0
    """Stored value of probability 1: 1 for float, 255 for uint8."""
    settings: dict[str, Any] = Field(default_factory=dict)
    version: str = ""
    recipe: str | None = None
    """Name and checksum of the recipe that a batch went by."""

    @classmethod
    def of(cls, stack: Stack) -> Self | None:
        """Return how a stack came to be, if it is one of our results."""
        made = stack.metadata.get("emseg")
        return None if made is None else cls.model_validate(made)

    @property
    def is_of_probabilities(self) -> bool:
        """True if it is about probabilities, of whatever class."""
        return self.kind in ("membrane", "inside") or self.kind.startswith("class ")

    @property
    def is_linked(self) -> bool:
        """True if cells are known to have one id in all their sections."""
        cells = self.settings.get("cells", {})
        return bool(cells.get("link")) or cells.get("through") in ("3-d", "graph")

    def of_class(self, name: str) -> Provenance:
        """Return it for a further class of the same run."""
        return self.model_copy(update={"kind": f"class {name}", "threshold": None})


def drain(
    work: Generator[Record, None, R], on_record: Callable[[Record], None] | None = None
) -> R:
    """Run a generator of records to its end and return its result."""
    while True:
        try:
            record = next(work)
        except StopIteration as stop:
            result: R = stop.value
            return result
        if on_record is not None:
            on_record(record)
