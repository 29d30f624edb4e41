"""The step EM → membranes: sections in runs, or blocks of one that is too large."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.batch import worker
from napari_emseg.batch.completion_log import Facts, stamp
from napari_emseg.batch.context import (
    EMPTY,
    MEMBRANES,
    QUANTISED,
    Context,
    Part,
    advice,
    affinity_array,
    blocks,
)
from napari_emseg.batch.inputs import ProjectOverlay
from napari_emseg.batch.step import COPIES, Step, StepResult, packed_bytes
from napari_emseg.batch.stores import make_result, make_scratch, note_settings
from napari_emseg.batch.tasks import (
    Failure,
    Missing,
    Stages,
    Task,
    TaskBuilder,
    TaskResult,
)
from napari_emseg.core.atomic import write_whole
from napari_emseg.core.errors import OtherPrecisionError, WorkFailedError
from napari_emseg.core.intensity import GreyRange, stack_range, zoom_of
from napari_emseg.core.records import drain
from napari_emseg.core.regions import Area
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.sinks import ClosingSink
from napari_emseg.core.stack import Stack
from napari_emseg.inference.predictor import Inverting
from napari_emseg.inference.scope import scope_of
from napari_emseg.inference.sections import Section, SectionReader, reach
from napari_emseg.inference.views import band_edges
from napari_emseg.io.fingerprint import LEFT_OUT, NO_MEMBRANES
from napari_emseg.io.zarr_sink import fill

RESULT = StepResult(MEMBRANES, "membranes")


@dataclass(frozen=True, slots=True)
class EstimateStats:
    """Find out polarity, and the grey values of the whole stack if they count.

    Facts: `invert`, `range` (low and high, or None), `notes` for a person, and
    `beside`, further sections that the network sees; for int8 `quantised`, the checksum
    of the network that was calibrated, or `precision`, if it couldn't be.
    """

    context: Context

    def run(self) -> Facts:
        """Look at some sections."""
        c = self.context
        stack = worker.opened(c.given).stack
        invert, words = Inverting().decide(stack, c.settings.predict)
        found = rule(c)
        whole = found.scope == "stack"
        grey = stack_range(stack, found, most=c.most) if whole else None
        notes = [words] if words else []
        notes += advice(c, stack)
        if c.weights is not None:
            card = worker.weights(c.weights).card
            notes += zoom_of(stack, card, rescale=c.settings.predict.rescale)[1]
        calibrated = self._calibrate(stack, notes)
        worker.require_same(c)
        return {
            "invert": invert,
            "range": None if grey is None else [grey.low, grey.high],
            "notes": notes,
            "beside": _beside(c, stack.shape[0]),
            **calibrated,
        }

    def _calibrate(self, stack: Stack, notes: list[str]) -> Facts:
        """Calibrate int8 on this input, for all workers; check what was chosen."""
        c, predict = self.context, self.context.settings.predict
        checks = c.chosen and predict.precision == "bf16"
        if c.weights is None or not (checks or predict.precision == "int8"):
            return {}
        from napari_emseg.inference import Predictor

        work = Predictor(worker.weights(c.weights)).settle(
            stack, predict, excluded=_excluded(c), checks=c.chosen
        )
        try:
            choice = drain(work)
        except OtherPrecisionError as e:
            notes.append(f"computed in float32 instead of {predict.precision}: {e}")
            return {"precision": "float32", "precision_reason": str(e)}
        if choice.settings.precision != predict.precision:
            why = choice.reason.removeprefix("precision float32: ")
            notes.append(f"computed in float32 instead of {predict.precision}: {why}")
            return {"precision": "float32", "precision_reason": choice.reason}
        made = choice.quantised
        if made is None:
            return {}
        path = c.path(QUANTISED)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, made.pack())
        return {"quantised": made.sha256}

    def files(self) -> list[Path]:
        """Return what it has written."""
        path = self.context.path(QUANTISED)
        return [path] if path.exists() else []


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
        section = reader.open_alone(c.looked_at[self.place])
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

    Facts: `failed`, the reason by place, of sections that can't be read; `blank`;
    `precision`, what the network computed in.

    Parameters
    ----------
    only
        Places of the part that are left to do; all by default.
    seen
        Facts of `MeasureSections` by place, of a block's section and its neighbours.
    """

    context: Context
    part: Part
    only: tuple[int, ...] | None = None
    seen: tuple[tuple[int, tuple[tuple[str, Any], ...]], ...] = ()

    def run(self) -> Facts:
        """Predict and store."""
        c, part = self.context, self.part
        places = range(part.first, part.stop) if self.only is None else self.only
        left = [place for place in places if place not in c.excluded]
        blank: list[int] = []
        precision = ""

        def predict(these: list[int]) -> dict[int, str]:
            nonlocal precision
            failed, more, precision = self._predict(these)
            blank.extend(more)
            return failed

        failed = worker.retry_unread(left, c.settings.retries, predict)
        worker.require_same(c)
        words = {str(place): why for place, why in failed.items()}
        return {"failed": words, "blank": sorted(blank), "precision": precision}

    def files(self) -> list[Path]:
        """Return what it has written."""
        c, part = self.context, self.part
        found = c.chunks(MEMBRANES, part.places, part.area)
        for name in c.affinities:
            found += c.chunks(affinity_array(name), part.places)
        return found

    def _predict(self, places: list[int]) -> tuple[dict[int, str], list[int], str]:
        from napari_emseg.inference.precision import unreduced

        c = self.context
        if c.weights is None:
            msg = "membranes need weights"
            raise ValueError(msg)
        opened = worker.opened(c.given)
        # places count the results, sections the source; a run speaks of sections
        at = {c.sections[place]: place for place in places}
        wanted = list(at)
        sink = _Store(c, opened.hand, places, self.part.area)
        predictor = worker.predictor(c.weights)
        if c.settings.predict.precision == "int8":
            predictor.quantised = worker.quantised(c.path(QUANTISED), c.quantised)
        run = partial(
            predictor.run,
            opened.stack,
            sections=wanted,
            roi=self.part.area,
            classes=("membrane", *c.affinities) if c.affinities else None,
            sink=sink,
            excluded=_excluded(c),
        )
        predict = c.settings.predict
        reader = self._reader(opened.stack)
        with worker.gpu_lock(predict):
            try:
                done = drain(run(settings=predict, reader=reader))
            except OtherPrecisionError:
                # this worker can't: the result says of which parts
                done = drain(run(settings=unreduced(predict), reader=reader))
        failed = {at[z]: why for z, why in done.damaged.items()}
        precision = str(done.provenance.settings["precision"])
        return failed, [at[z] for z in done.blank], precision

    def _reader(self, stack: Stack) -> SectionReader:
        if self.part.area is None:
            return _reader(self.context, stack)
        return _Seen(
            self.context, stack, {place: dict(facts) for place, facts in self.seen}
        )


class _Seen(SectionReader):
    """Opens sections that were looked at before, and reads only parts of them."""

    def __init__(
        self, context: Context, stack: Stack, seen: Mapping[int, Facts]
    ) -> None:
        super().__init__(
            stack, rule(context), invert=context.invert, context=seen_sections(context)
        )
        self._batch = context
        self._seen = seen

    def open_alone(self, z: int) -> Section:
        """Return a section, of which nothing is read yet."""
        c, place = self._batch, self._batch.looked_at.index(z)
        if place not in self._seen:  # excluded, or it couldn't be read
            msg = f"section {z} was not looked at"
            raise OSError(msg)
        facts, data = self._seen[place], worker.opened(c.given).stack.data
        stored = c.array(EMPTY) if facts["empty"] else None
        return Section(
            z=z,
            grey=GreyRange(facts["low"], facts["high"]),
            invert=c.invert,
            blank=facts["blank"],
            read=lambda area: np.asarray(data[(z, *area)]),
            empty=None
            if stored is None
            else lambda area: np.asarray(stored[(place, *area)]),
        )


def _reader(context: Context, stack: Stack) -> SectionReader:
    return SectionReader(
        stack,
        rule(context),
        invert=context.invert,
        whole_range=context.whole_range,
        most=context.most,
        context=seen_sections(context),
        excluded=_excluded(context),
    )


def seen_sections(context: Context) -> int:
    """Return how many sections the network sees at once."""
    if context.weights is None:
        return 1
    return worker.weights(context.weights).card.context


def _excluded(context: Context) -> frozenset[int]:
    """Return sections of the source that a person excluded, chosen or not."""
    hand = worker.opened(context.given).hand
    return frozenset[int]() if hand is None else hand.excluded


def _beside(context: Context, depth: int) -> list[int]:
    """Return sections of the source that are seen beside those of the results."""
    far = reach(seen_sections(context))
    near = {z + k for z in context.sections for k in range(-far, far + 1)}
    kept = near - set(context.sections) - _excluded(context)
    return sorted(z for z in kept if 0 <= z < depth)


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


class _Store(ClosingSink):
    """Takes probabilities of some sections, or of a block, into the result.

    Sections are `(y, x)`, or `(c, y, x)` where affinities are wanted.
    """

    def __init__(
        self,
        context: Context,
        hand: ProjectOverlay | None,
        places: list[int],
        area: Area | None,
    ) -> None:
        self._context = context
        self._hand = hand
        self._places = sorted(places)
        self._area = area
        self.levels = context.levels(MEMBRANES)
        names = context.affinities
        self._affinities = {n: context.array(affinity_array(n)) for n in names}
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
        place, hand = self._places[z], self._hand
        values: NDArray[np.float32] = np.asarray(section, np.float32)
        source = self._context.sections[place]
        if not np.isfinite(values).all():
            msg = f"section {source}: the network's output is not a number (NaN)"
            raise WorkFailedError(msg)
        membrane, *affinities = values if values.ndim == 3 else [values]
        if hand is not None:
            membrane = hand.burn(membrane, source, self._area)
        for (name, array), said in zip(
            self._affinities.items(), affinities, strict=True
        ):
            known = said if hand is None else hand.burn_affinity(said, source, name)
            array[place] = self._stored(known)
        if self._area is None:
            fill(self.levels, place, self._stored(membrane), ids=False)
        else:
            self.levels[0][(place, *self._area)] = self._stored(membrane)

    def _stored(self, values: NDArray[np.float32]) -> NDArray[Any]:
        if self._context.settings.probabilities == "float32":
            return values
        # 1/255 steps; corrections are burnt in before, so
        # that they are exactly 0 and 255
        stored: NDArray[np.uint8] = np.rint(values * np.float32(255)).astype(np.uint8)
        return stored

    def close(self) -> Path | None:
        """Do nothing: what is written is stored."""

    def abort(self, *, keep: bool = False) -> Path | None:
        """Do nothing: what is written is stored."""


def probabilities(context: Context, place: int, area: Area | None = None) -> Any:
    """Return stored probabilities `(y, x)` of a section, or those that were given.

    Corrections are in both.
    """
    area = area or (slice(0, context.shape[0]), slice(0, context.shape[1]))
    if context.weights is not None:
        return np.asarray(context.array(MEMBRANES)[(place, *area)])
    opened, z = worker.opened(context.given), context.sections[place]
    values = np.asarray(opened.stack.data[(z, *area)])
    return values if opened.hand is None else opened.hand.burn(values, z, area)


def as_float(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return probabilities as float32 in [0, 1]."""
    if values.dtype == np.uint8:
        return values.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(np.nan_to_num(values), np.float32)


class MembranesStep(Step):
    """EM → membranes, by a network."""

    name = "membranes"
    reads = "EM"
    settings = ("probabilities",)
    needs_weights = True
    results = (RESULT,)

    def cost(self, context: Context) -> Mapping[str, float]:
        """Return what a pixel costs; large sections are looked at before."""
        look = {} if context.whole else {"look": 0.2}
        return {**look, "membranes": 10.0}

    def disk(self, context: Context) -> float:
        """Return what is stored: all scale levels, and affinities until the end."""
        each = packed_bytes(context.settings.probabilities)
        return each * (COPIES + len(context.affinities))

    def tasks(self, course: TaskBuilder) -> Stages:
        """Yield looking at the stack, at large sections, and predicting."""
        yield from _prepare(course)
        yield from _look(course)
        gone = {place for place, _ in course.found.missing}
        c = course.context
        parts = course.parts() if c.settings.predict.views == 1 else _view_parts(c)
        wanted = [part for part in parts if part.first not in gone]
        dtype = c.settings.probabilities
        scale = 255.0 if dtype == "uint8" else 1.0
        told = course.provenance.model_copy(update={"scale": scale})
        make_result(course, RESULT, dtype, told)
        for name in c.affinities:
            make_scratch(course, affinity_array(name), dtype)
        tasks = [_task(course, part) for part in wanted]
        outcomes = yield tasks
        more = _missing(course, wanted, outcomes)
        _note_precision(course, wanted, outcomes)
        course.found.missing = tuple(sorted({*course.found.missing, *more}, key=str))


def _prepare(course: TaskBuilder) -> Stages:
    outcomes = yield [course.task("prepare", "all", EstimateStats(course.context), 0)]
    facts = outcomes[0]
    if isinstance(facts, Failure):
        raise OSError(facts.why)
    low_high = facts["range"]
    course.found.warnings += facts["notes"]
    settings = course.context.settings
    if "precision" in facts:
        update = {"precision": facts["precision"]}
        predict = settings.predict.model_copy(update=update)
        settings = settings.model_copy(update={"predict": predict})
        if "precision_reason" in facts:
            why = {"precision_reason": facts["precision_reason"]}
            said = course.provenance.settings | why
            course.provenance = course.provenance.model_copy(update={"settings": said})
    course.context = replace(
        course.context,
        settings=settings,
        quantised=facts.get("quantised", ""),
        invert=facts["invert"],
        # batches that an older version began were of weights that see one section
        beside=tuple(facts.get("beside", ())),
        whole_range=None if low_high is None else GreyRange(*low_high),
    )


def _note_precision(
    course: TaskBuilder, parts: list[Part], outcomes: list[TaskResult]
) -> None:
    """Say in the result what it was computed in, and which parts otherwise."""
    used: dict[str, list[str]] = {}
    for part, outcome in zip(parts, outcomes, strict=True):
        # an older version didn't say
        if not isinstance(outcome, Failure) and outcome.get("precision"):
            used.setdefault(outcome["precision"], []).append(part.words)
    if not used:
        return
    usual = max(used, key=lambda name: len(used[name]))
    asked: str = course.context.settings.predict.precision
    wanted = asked if asked in used or asked in ("bf16", "int8") else usual
    others = [
        f"{name} in {'all parts' if len(used) == 1 else ', '.join(where)}"
        for name, where in used.items()
        if name != wanted
    ]
    course.found.warnings += [
        f"{words}: computed there instead of in {wanted}" for words in others
    ]
    told = "; ".join([wanted, *others] if wanted in used else others)
    said = course.provenance.settings | {"precision": told}
    course.provenance = course.provenance.model_copy(update={"settings": said})
    note_settings(course.context.path(MEMBRANES), {"precision": told})


def _look(course: TaskBuilder) -> Stages:
    """Look at each section that is too large to be read at once."""
    c = course.context
    if c.whole:
        return
    make_scratch(course, EMPTY, "bool", len(c.beside))
    places = [p for p in range(len(c.looked_at)) if p not in c.excluded]
    tasks = [course.task("look", f"z {p}", MeasureSections(c, p), 1) for p in places]
    outcomes = yield tasks
    missing = []
    for place, outcome in zip(places, outcomes, strict=True):
        if not isinstance(outcome, Failure):
            course.found.seen[place] = outcome
        elif place < len(c.sections):
            missing.append((place, None))
            course.lose(c.sections[place], LEFT_OUT, outcome.why)
    course.found.missing = tuple(missing)


BLENDED_BANDS = 4
"""In one part, where bands are blended: those above and below are computed, too."""


def _view_parts(context: Context) -> list[Part]:
    """Cut an input where views along y and x are cut into bands."""
    if context.weights is None:
        return []
    stack, predict = worker.opened(context.given).stack, context.settings.predict
    card = worker.weights(context.weights).at(predict.depth, predict.heads).card
    exact = card.geometry is not None and card.geometry.exact
    n, zoom = stack.shape[0], scope_of(stack, card, predict).zoom_z
    cuts = band_edges(n, zoom)[:: 1 if exact else BLENDED_BANDS]
    first, stop = context.sections[0], context.sections[-1] + 1
    edges = [first, *(z for z in cuts if first < z < stop), stop]
    found = [Part(a - first, b - first) for a, b in pairwise(edges)]
    return [part for part in found if not context.excluded.issuperset(part.places)]


def _task(course: TaskBuilder, part: Part) -> Task:
    only = _left(course, part)
    known = _seen_by(course, part) if part.corners else ()
    return course.part_task(
        "membranes", part, Membranes(course.context, part, only, known)
    )


def _seen_by(
    course: TaskBuilder, part: Part
) -> tuple[tuple[int, tuple[tuple[str, Any], ...]], ...]:
    """Return what is known of a block's section and its neighbours, by place."""
    c = course.context
    z, far = c.sections[part.first], reach(seen_sections(c))
    return tuple(
        (place, tuple(sorted(facts.items())))
        for place, facts in sorted(course.found.seen.items())
        if abs(c.looked_at[place] - z) <= far
    )


def _left(course: TaskBuilder, part: Part) -> tuple[int, ...] | None:
    """Return what failed of a part when it was done before; None: do all."""
    known = course.ledger.facts(stamp(course.base, "membranes", part.words))
    if known is None or not known["failed"]:
        return None
    return tuple(int(place) for place in known["failed"])


def _missing(
    course: TaskBuilder, wanted: list[Part], outcomes: list[TaskResult]
) -> Missing:
    """Return what has no probabilities, from parts that failed in whole or in part."""
    found: list[tuple[int, tuple[int, int, int, int] | None]] = []
    for part, outcome in zip(wanted, outcomes, strict=True):
        if isinstance(outcome, Failure):
            found += [(place, part.corners) for place in part.places]
            course.lose(part.words, NO_MEMBRANES, outcome.why)
            continue
        for place, why in outcome["failed"].items():
            found.append((int(place), part.corners))
            source = course.context.sections[int(place)]
            course.lose(source, LEFT_OUT, why)
    return tuple(found)
