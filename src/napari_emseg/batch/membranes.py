"""The step EM → membranes: sections in runs, or blocks of one that is too large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_emseg.batch import stores, worker
from napari_emseg.batch.completion_log import Facts
from napari_emseg.batch.context import (
    EMPTY,
    MEMBRANES,
    PROFILES,
    Area,
    Context,
    Part,
    blocks,
)
from napari_emseg.core.intensity import GreyRange, padding
from napari_emseg.core.records import drain
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack
from napari_emseg.inference.sections import Section, SectionReader
from napari_emseg.io.zarr_sink import fill
from napari_emseg.segmentation.stack import nothing_predicted, segment_section


@dataclass(frozen=True, slots=True)
class MeasureSections:
    """Find out the grey values of a section that is too large to be read at once.

    Facts: `low`, `high`, `blank`, and `empty` if it has padding, which is stored.
    """

    context: Context
    place: int

    def run(self) -> Facts:
        """Read the section once."""
        c = self.context
        reader = _reader(c, worker.opened(c.given).stack)
        section = reader.open(c.sections[self.place])
        grey = section.grey
        facts = {"low": grey.low, "high": grey.high, "blank": section.blank}
        facts["empty"] = self._store_padding(section)
        worker.require_same(c)
        return facts

    def files(self) -> list[Path]:
        """Return what it has written."""
        return self.context.chunks(EMPTY, [self.place])

    def _store_padding(self, section: Section) -> bool:
        if section.empty is None:
            return False
        out, some = self.context.array(EMPTY), False
        for area in blocks(self.context.shape, self.context.settings.block):
            mask = section.empty(area)
            some |= bool(mask.any())
            out[(self.place, *area)] = mask
        return some


@dataclass(frozen=True, slots=True)
class Membranes:
    """Predict a part.

    Facts: `failed`, the reason by place, of sections that can't be read; `blank`.

    Parameters
    ----------
    only
        Places of the part that are left to do; all by default.
    seen
        Facts of `MeasureSections`, for a block.
    """

    context: Context
    part: Part
    only: tuple[int, ...] | None = None
    seen: tuple[tuple[str, Any], ...] = ()

    def run(self) -> Facts:
        """Predict and store."""
        c, part = self.context, self.part
        places = range(part.first, part.stop) if self.only is None else self.only
        left = [place for place in places if place not in c.excluded]
        blank: list[int] = []
        failed: dict[int, str] = {}
        for _ in range(1 + c.settings.retries):
            failed, more = self._predict(left) if left else ({}, [])
            blank += more
            # only sections that couldn't be read are
            # tried again, with files opened anew
            left = list(failed)
            if not left:
                break
            worker.open_anew()
        worker.require_same(c)
        words = {str(place): why for place, why in failed.items()}
        return {"failed": words, "blank": sorted(blank)}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return self.context.chunks(MEMBRANES, self.part.places, self.part.area)

    def _predict(self, places: list[int]) -> tuple[dict[int, str], list[int]]:
        c = self.context
        if c.weights is None:
            msg = "membranes need weights"
            raise ValueError(msg)
        opened = worker.opened(c.given)
        at = {c.sections[place]: place for place in places}
        wanted = list(at)
        burn = None if opened.hand is None else opened.hand.burn
        sink = _Store(c, burn, places, self.part.area)
        predictor = worker.predictor(c.weights)
        with worker.gpu_lock(c.settings.predict):
            done = drain(
                predictor.run(
                    opened.stack,
                    settings=c.settings.predict,
                    sections=wanted,
                    roi=self.part.area,
                    sink=sink,
                    reader=self._reader(opened.stack),
                )
            )
        failed = {at[z]: why for z, why in done.damaged.items()}
        return failed, [at[z] for z in done.blank]

    def _reader(self, stack: Stack) -> SectionReader:
        reader = _reader(self.context, stack)
        return (
            _Seen(reader, self.context, self.part.first, dict(self.seen))
            if (self.part.area is not None)
            else reader
        )


class _Seen(SectionReader):
    """Opens the one section that was looked at before, and reads only parts of it."""

    def __init__(
        self, like: SectionReader, context: Context, place: int, seen: Facts
    ) -> None:
        self._like = like
        self._context = context
        self._place = place
        self._seen = seen

    def open(self, z: int) -> Section:
        """Return the section, of which nothing is read yet."""
        c, seen = self._context, self._seen
        data = worker.opened(c.given).stack.data
        stored = c.array(EMPTY) if seen["empty"] else None
        return Section(
            z=z,
            grey=GreyRange(seen["low"], seen["high"]),
            invert=c.invert,
            blank=seen["blank"],
            read=lambda area: np.asarray(data[(z, *area)]),
            empty=None
            if stored is None
            else lambda area: np.asarray(stored[(self._place, *area)]),
        )


def _reader(context: Context, stack: Stack) -> SectionReader:
    return SectionReader(
        stack,
        rule(context),
        invert=context.invert,
        whole_range=context.whole_range,
        most=context.most,
    )


def rule(context: Context) -> Normalisation:
    """Return how grey values are normalised.

    Raises
    ------
    ValueError
        Without weights, whose card says it.
    """
    if context.weights is None:
        msg = "the rule of normalisation is in the weights' card"
        raise ValueError(msg)
    found = worker.weights(context.weights).card.normalisation
    wanted = context.settings.predict.statistics
    return found if wanted == "card" else found.model_copy(update={"scope": wanted})


Burn = Callable[[NDArray[np.float32], int, Area | None], NDArray[np.float32]]


class _Store:
    """Takes probabilities of some sections, or of a block, into the result."""

    def __init__(
        self, context: Context, burn: Burn | None, places: list[int], area: Area | None
    ) -> None:
        self._context = context
        self._burn = burn
        self._places = sorted(places)
        self._area = area
        self.levels = context.levels(MEMBRANES)
        y, x = context.shape if area is None else (a.stop - a.start for a in area)
        self.shape = len(places), y, x
        self.dtype = np.dtype(np.float32)

    def write(self, z: int, section: NDArray[Any]) -> None:
        """Store a section, or the block, with the corrections in it.

        Raises
        ------
        ValueError
            If the network gave what is no number.
        """
        place = self._places[z]
        values: NDArray[Any] = np.asarray(section, np.float32)
        source = self._context.sections[place]
        if not np.isfinite(values).all():
            msg = f"section {source}: the network's output is not a number (NaN)"
            raise ValueError(msg)
        if self._burn is not None:
            values = self._burn(values, source, self._area)
        if self._context.settings.probabilities == "uint8":
            # 1/255 steps; corrections are burnt in before, so
            # that they are exactly 0 and 255
            values = np.rint(values * np.float32(255)).astype(np.uint8)
        if self._area is None:
            fill(self.levels, place, values, ids=False)
        else:
            self.levels[0][(place, *self._area)] = values

    def close(self) -> Path | None:
        """Do nothing: what is written is stored."""

    def abort(self, *, keep: bool = False) -> Path | None:
        """Do nothing: what is written is stored."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


Missing = tuple[tuple[int, tuple[int, int, int, int] | None], ...]
"""Places, and corners of their blocks (None: all of it), that have no probabilities."""


@dataclass(frozen=True, slots=True)
class SegmentSections:
    """Find the cells of whole sections. Facts: `counts` by place."""

    context: Context
    part: Part
    missing: Missing = ()

    def run(self) -> Facts:
        """Find and store them."""
        places = range(self.part.first, self.part.stop)
        counts = {str(place): self._find(place) for place in places}
        worker.require_same(self.context)
        return {"counts": counts}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return self.context.chunks(PROFILES, self.part.places)

    def _find(self, place: int) -> int:
        c = self.context
        out = c.array(PROFILES)
        gone = [area for at, area in self.missing if at == place]
        if place in c.excluded or None in gone:
            out[place] = 0
            return 0
        opened = worker.opened(c.given)
        values = probabilities(c, place)
        exclude = self._exclude(place, values)
        cells = segment_section(values, c.settings.cell_settings, exclude=exclude)
        if opened.hand is not None:
            cells = opened.hand.part(cells, c.sections[place])
        out[place] = cells
        return int(cells.max(initial=0))

    def _exclude(self, place: int, values: NDArray[Any]) -> NDArray[np.bool_] | None:
        c = self.context
        if c.weights is None:
            return nothing_predicted(values)
        return padding(worker.opened(c.given).stack.section(c.sections[place]))


def probabilities(context: Context, place: int, area: Area | None = None) -> Any:
    """Return stored probabilities `(y, x)` of a section, or those that were given."""
    area = area or (slice(0, context.shape[0]), slice(0, context.shape[1]))
    if context.weights is not None:
        return np.asarray(context.array(MEMBRANES)[(place, *area)])
    stack = worker.opened(context.given).stack
    return np.asarray(stack.data[(context.sections[place], *area)])


def as_float(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return probabilities as float32 in [0, 1]."""
    if values.dtype == np.uint8:
        return values.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(np.nan_to_num(values), np.float32)


def ranked(
    context: Context, place: int, area: Area | None = None
) -> NDArray[np.uint32]:
    """Return the profiles `(y, x)` of a section as 1 … n, as they are stored or not."""
    area = area or (slice(0, context.shape[0]), slice(0, context.shape[1]))
    stored: NDArray[np.uint32] = np.asarray(context.array(PROFILES)[(place, *area)])
    if context.whole:
        return stored
    there = stores.read(context.table(f"ranks-{place}"))["there"]
    return np.where(stored > 0, np.searchsorted(there, stored) + 1, 0).astype(np.uint32)


def missing_of(failed: Sequence[tuple[Part, dict[str, str] | None]]) -> Missing:
    """Return what has no probabilities, from parts that failed in whole or in part.

    Parameters
    ----------
    failed
        A part with its failed places and their reasons; None if all of it failed.
    """
    found: list[tuple[int, tuple[int, int, int, int] | None]] = []
    for part, places in failed:
        if places is None:
            found += [(place, part.corners) for place in range(part.first, part.stop)]
        else:
            found += [(int(place), part.corners) for place in places]
    return tuple(sorted(found, key=str))
