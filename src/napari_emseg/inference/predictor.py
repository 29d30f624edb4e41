"""Stack and weights in, membrane probabilities out, section by section.

A run has five steps, each a file: what is wanted (`scope`), how it is cut into tiles
(`plan`), their windows (`reading`), what the network says of them (`engine`), and
whole sections again (`assembly`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from napari_emseg._installed import __version__
from napari_emseg.core.intensity import polarity
from napari_emseg.core.records import Note, Provenance, Record
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.sinks import SectionSink
from napari_emseg.core.stack import LazyArray, Stack
from napari_emseg.core.tiles import TilePlan
from napari_emseg.inference import throughput
from napari_emseg.inference.assembly import Assembly, iter_tiles
from napari_emseg.inference.engine import Engine
from napari_emseg.inference.plan import RunPlan
from napari_emseg.inference.precision import (
    PrecisionChoice,
    Settles,
    iter_choose,
    unreduced,
)
from napari_emseg.inference.runtime import Runtime, TTARuntime, load_runtime
from napari_emseg.inference.scope import PredictionScope, refuse_results, scope_of
from napari_emseg.inference.sections import Section, SectionReader
from napari_emseg.inference.views import BoxReader, ViewsRun
from napari_emseg.io.fingerprint import check_sources_after
from napari_emseg.models.weights import Weights

if TYPE_CHECKING:
    from napari_emseg.inference.openvino_runtime import QuantisedModel


class Inverting:
    """Looks at each stack once: that takes as long as a small section's network."""

    def __init__(self) -> None:
        self._seen: tuple[ref[LazyArray], bool] | None = None

    def decide(self, stack: Stack, settings: PredictSettings) -> tuple[bool, str]:
        """Return whether to invert, and words for the user if so."""
        if settings.invert == "yes":
            return True, "inverted, as asked: bright membranes are taken as dark ones"
        if settings.invert == "auto" and self._looks_inverted(stack):
            return (
                True,
                "inverted, since membranes look bright; set Invert to no if not",
            )
        return False, ""

    def _looks_inverted(self, stack: Stack) -> bool:
        if self._seen is None or self._seen[0]() is not stack.data:
            found = polarity(stack).inverted is True
            try:
                self._seen = ref(stack.data), found
            except TypeError:  # an array that can't be watched is looked at again
                return found
        return self._seen[1]


@dataclass(frozen=True, slots=True, eq=False)
class PredictionResult:
    """What a run gave.

    Parameters
    ----------
    probabilities
        `(z, y, x)` of membrane, or `(c, z, y, x)` if classes were asked for; None if
        they went to a sink or were not kept.
    sections
        Source sections along z, ascending; a sink's index counts these.
    damaged
        Sections that couldn't be read, with the reason; probability 0.
    blank
        Sections with nothing to see; probability 0.
    """

    probabilities: NDArray[np.float32] | None = field(repr=False)
    sections: tuple[int, ...]
    roi: tuple[slice, slice]
    damaged: dict[int, str]
    blank: tuple[int, ...]
    notes: tuple[str, ...]
    runtime: str
    device: str
    seconds: float
    provenance: Provenance


class Predictor:
    """Runs one set of weights over stacks; keeps the loaded network between runs.

    Parameters
    ----------
    at_hand
        So many ways to run it, such as depths, are kept loaded.
    remember
        Keep the section that was read last, for runs over one part of it after the
        other. What is painted into it meanwhile isn't seen.
    load
        Loads a runtime that gives something else than the classes of the weights.
    settles
        What of the precision is settled before a run: see `precision.iter_choose`.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        at_hand: int = 1,
        remember: bool = False,
        load: Callable[[Weights, PredictSettings], Runtime] | None = None,
        settles: Settles = "all",
    ) -> None:
        self.weights = weights
        self.quantised: QuantisedModel | None = None
        """For int8, of the stack of the last run, or of the run to come."""
        self._settles = settles
        self._other = load
        self._at_hand = at_hand
        self._remember = remember
        self._reader: SectionReader | None = None
        # in the order of loading, the oldest first to go;
        # `_shapes` by id of the runtime
        self._loaded: dict[tuple[object, ...], Runtime] = {}
        self._shapes: dict[int, set[tuple[int, ...]]] = {}
        self._inverting = Inverting()

    def run(
        self,
        stack: Stack,
        *,
        settings: PredictSettings | None = None,
        sections: Sequence[int] | None = None,
        roi: tuple[slice, slice] | None = None,
        classes: Sequence[str] | None = None,
        sink: SectionSink | None = None,
        keep: bool = True,
        excluded: Collection[int] = (),
        reader: SectionReader | None = None,
    ) -> Generator[Record, None, PredictionResult]:
        """Return the run as a generator of records.

        The network is loaded by the generator's first `next`. Closing it stops the run
        after the tile in hand; finished sections stay in the sink, which remains the
        caller's to close.

        Parameters
        ----------
        sections
            Which, in the order of work; all by default. Results are stored ascending.
        roi
            Rows and columns that are wanted; all by default. Results have its size.
        classes
            Names of the card's classes; membrane by default.
        sink
            Gets each finished section `(y, x)`, or `(c, y, x)` if classes were asked
            for, by its place among the ascending `sections`. Damaged ones are left out.
        keep
            Without a sink: collect an array for the result. False if records suffice.
        excluded
            Sections that a network with context isn't shown beside others, and that
            views along y and x don't see: the nearest one stands in.
        reader
            Opens the sections, for those who know grey ranges and polarity already.

        Raises
        ------
        ValueError
            At once, if a section, region, class or the voxel size can't be served;
            at the first `next`, if the device isn't there or the tile is too small.
        MemoryError
            At once, if the result is larger than the free memory; later, if memory
            runs out with the smallest tiles on the CPU.
        """
        settings = settings or PredictSettings()
        card = self._part(settings).card
        scope = scope_of(
            stack,
            card,
            settings,
            sections=sections,
            roi=roi,
            classes=classes,
            excluded=excluded,
        )
        assembly = Assembly(scope, sink, keep=keep, squeeze=classes is None)
        return self._run_settled(scope, settings, assembly, reader)

    def _run_settled(
        self,
        scope: PredictionScope,
        settings: PredictSettings,
        assembly: Assembly,
        reader: SectionReader | None,
    ) -> Generator[Record, None, PredictionResult]:
        choice = yield from self._choose(scope, settings)
        run = self._run_views if settings.views == 3 else self.run_scope
        yield from map(Note, choice.notes)
        found = yield from run(scope, choice.settings, assembly, reader)
        said = found.provenance.settings
        if choice.reason:
            said = said | {"precision_reason": choice.reason}
        return replace(
            found,
            notes=(*choice.notes, *found.notes),
            provenance=found.provenance.model_copy(update={"settings": said}),
        )

    def _run_views(
        self,
        scope: PredictionScope,
        settings: PredictSettings,
        assembly: Assembly,
        reader: SectionReader | None,
    ) -> Generator[Record, None, PredictionResult]:
        """Run over views along all three axes, and combine them; see `run`."""
        start, runtime = perf_counter(), self.runtime(settings)
        precisions = {runtime.precision: None}
        notes = [*scope.notes, *runtime.notes]
        if reader is None:
            reader, words = self._reader_of(scope, settings)
            notes += [words] if words else []
        yield from map(Note, notes)
        runs = ViewsRun(
            *(scope, runtime.geometry, BoxReader(scope.stack, reader, scope.excluded)),
            plan=lambda part: self._tiles(part, settings, runtime),
            run=lambda part, sink, planes: self.run_scope(
                part,
                settings,
                Assembly(part, sink, keep=False, squeeze=False),
                planes or reader,
            ),
        )
        with closing(assembly.collect_sections(runs.records(notes))) as records:
            for record in records:
                if isinstance(record, Note):
                    notes.append(record.message)
                yield record
        runtime = self.runtime(settings)  # another one, if memory ran out
        precisions[runtime.precision] = None
        precision = ", then ".join(precisions)
        made = provenance(scope.stack, self.weights, settings, precision=precision)
        seconds = perf_counter() - start
        return _result(scope, assembly, notes, runtime, seconds, made)

    def _tiles(
        self, scope: PredictionScope, settings: PredictSettings, runtime: Runtime
    ) -> TilePlan:
        plan = RunPlan(scope, settings)
        plan.fit(runtime)
        return plan.limits.plan(scope, runtime.geometry)

    def run_scope(
        self,
        scope: PredictionScope,
        settings: PredictSettings,
        assembly: Assembly,
        reader: SectionReader | None = None,
    ) -> Generator[Record, None, PredictionResult]:
        """Plan, read, infer and assemble what is in a scope; see `run`.

        The precision is settled: `auto` is float32, but float16 on CUDA.
        """
        start = perf_counter()
        plan = RunPlan(scope, settings, kept=assembly.kept_bytes)
        engine = self._engine(plan, settings)
        notes = [*scope.notes, *engine.runtime.notes]
        try:
            if reader is None:
                reader, words = self._reader_of(scope, settings)
                notes += [words] if words else []
            yield from map(Note, notes)
            with closing(iter_tiles(plan, reader, engine, assembly)) as records:
                for record in records:
                    if isinstance(record, Note):
                        notes.append(record.message)
                    yield record
        # also when the run is stopped: what it measured holds
        finally:
            engine.release()
            self._note_speed(engine, settings)
        precision = engine.precision
        made = provenance(scope.stack, self.weights, settings, precision=precision)
        seconds = perf_counter() - start
        return _result(scope, assembly, notes, engine.runtime, seconds, made)

    def settle(
        self,
        stack: Stack,
        settings: PredictSettings,
        *,
        sections: Sequence[int] | None = None,
        roi: tuple[slice, slice] | None = None,
        excluded: Collection[int] = (),
        share: float = 1.0,
        checks: bool = False,
    ) -> Generator[Record, None, PrecisionChoice]:
        """Settle the precision of a run to come, as `run` would do at its beginning.

        For those who write how results are made before they are.

        Parameters
        ----------
        share
            Part of all that will be run that this is, where there is more.
        checks
            What is asked for was chosen by another stack, see `iter_choose`.

        Raises
        ------
        ValueError
            As `run`; or if nothing here computes in the precision that is asked for.
        """
        card = self._part(settings).card
        scope = scope_of(
            stack, card, settings, sections=sections, roi=roi, excluded=excluded
        )
        return (yield from self._choose(scope, settings, share, checks=checks))

    def _choose(
        self,
        scope: PredictionScope,
        settings: PredictSettings,
        share: float = 1.0,
        *,
        checks: bool = False,
    ) -> Generator[Record, None, PrecisionChoice]:
        choice = yield from iter_choose(
            self._part(settings),
            scope,
            settings,
            lambda: self._reader_of(scope, settings)[0],
            settles=self._settles,
            share=share,
            checks=checks,
        )
        self.quantised = choice.quantised or self.quantised
        return choice

    def open(
        self,
        stack: Stack,
        z: int,
        settings: PredictSettings,
        *,
        excluded: Collection[int] = (),
    ) -> Section:
        """Return section `z` as a run would read it.

        Raises
        ------
        OSError, ValueError
            From the reader, when the section is damaged.
        """
        card = self._part(settings).card
        scope = scope_of(stack, card, settings, sections=(z,), excluded=excluded)
        reader, _ = self._reader_of(scope, settings)
        return reader.open(z)

    def is_loaded(self, settings: PredictSettings) -> bool:
        """Tell if the network is ready to run in this way."""
        return self._way(settings) in self._loaded

    def _way(self, settings: PredictSettings) -> tuple[object, ...]:
        s, part = settings, self._part(settings)
        return (
            *(part.depth, part.heads, s.tta),
            *(s.device, s.runtime, s.precision, s.threads),
            self.quantised if s.precision == "int8" else None,
        )

    def runtime(self, settings: PredictSettings) -> Runtime:
        """Return the runtime for these settings, loaded once.

        Raises
        ------
        ValueError
            If the device or the runtime isn't there, the weights don't fit, or their
            network has no such depth.
        """
        wanted = self._way(settings)
        if wanted not in self._loaded:
            # give memory back before the next one takes some
            for known in list(self._loaded)[: len(self._loaded) + 1 - self._at_hand]:
                self._shapes.pop(id(self._loaded.pop(known)), None)
            self._loaded[wanted] = self._load(settings)
        return self._loaded[wanted]

    def _part(self, settings: PredictSettings) -> Weights:
        """Return the weights as deep as the settings say."""
        return self.weights.at(settings.depth, settings.heads)

    def _load(self, settings: PredictSettings) -> Runtime:
        part = self._part(settings)
        if self._other is not None:
            return self._other(part, settings)
        runtime = (
            load_runtime(part, settings, None, self.quantised)
            if settings.precision == "int8"
            else load_runtime(part, settings)
        )
        return TTARuntime(runtime, part.card.affinities) if settings.tta else runtime

    def measure(self, settings: PredictSettings | None = None) -> float:
        """Time one small window; return ms per megapixel of network input.

        Loads the network. `estimate` knows the time of a run from then on.
        """
        settings = settings or PredictSettings()
        if settings.precision == "int8" and self.quantised is None:
            settings = unreduced(settings)  # it isn't slower
        ms = throughput.known(self.weights, settings)
        if ms is None:
            ms = throughput.measure(self.runtime(settings))
            throughput.remember(self.weights, settings, ms)
        return ms

    def _engine(self, plan: RunPlan, settings: PredictSettings) -> Engine:
        runtimes = self._runtimes(settings)
        runtime = next(runtimes)
        plan.fit(runtime)
        shapes = self._shapes.setdefault(id(runtime), set())
        return Engine(plan, runtime, runtimes, shapes)

    def _runtimes(self, settings: PredictSettings) -> Iterator[Runtime]:
        """Yield the runtime of these settings, then those that need less memory.

        These are loaded when they are asked for.
        """
        runtime = self.runtime(settings)
        on_cpu, name = runtime.device == "cpu", runtime.name
        yield runtime
        del runtime
        less: list[dict[str, str]] = []
        if not on_cpu:
            # in this order: the CPU for a GPU, then PyTorch for OpenVINO
            less.append({"device": "cpu"})
        if name == "openvino" or (not on_cpu and settings.runtime == "auto"):
            # needs less memory than OpenVINO, which is as good where there is enough
            less.append({"device": "cpu", "runtime": "torch"})
        for update in less:
            # before the other runtime is loaded: memory is what was short
            self._loaded.clear()
            self._shapes.clear()
            yield self._load(unreduced(settings).model_copy(update=update))

    def _note_speed(self, engine: Engine, settings: PredictSettings) -> None:
        """Remember how fast a run was, unless only a slow first window tells."""
        if self._other is not None:  # which may take more passes
            return
        ms = engine.ms_per_megapixel
        known = throughput.known(self.weights, settings) is not None
        if ms is not None and self._loaded and (engine.typical or not known):
            throughput.remember(self.weights, settings, ms)

    def _reader_of(
        self, scope: PredictionScope, settings: PredictSettings
    ) -> tuple[SectionReader, str]:
        """Return what opens sections, and what to say of their polarity."""
        inverted, words = self._inverting.decide(scope.stack, settings)
        reader = SectionReader(
            scope.stack,
            scope.rule,
            invert=inverted,
            remember=self._remember,
            context=scope.context,
            excluded=scope.excluded,
        )
        if self._reader is not None and self._reader.serves(reader):
            reader = self._reader
        self._reader = reader if self._remember else None
        return reader, words


def _result(
    scope: PredictionScope,
    assembly: Assembly,
    notes: Sequence[str],
    runtime: Runtime,
    seconds: float,
    made: Provenance,
) -> PredictionResult:
    return PredictionResult(
        probabilities=assembly.probabilities,
        sections=assembly.sections,
        roi=scope.roi,
        damaged=assembly.damaged,
        blank=tuple(sorted(assembly.blank)),
        notes=tuple(notes),
        runtime=runtime.name,
        device=runtime.device,
        seconds=seconds,
        provenance=made,
    )


def predict_stack(
    stack: Stack,
    weights: Weights,
    *,
    settings: PredictSettings | None = None,
    sections: Sequence[int] | None = None,
    roi: tuple[slice, slice] | None = None,
    classes: Sequence[str] | None = None,
    sink: SectionSink | None = None,
    keep: bool = True,
    excluded: Collection[int] = (),
) -> Generator[Record, None, PredictionResult]:
    """Run weights over a stack once; see `Predictor.run`.

    Raises
    ------
    SourceChangedError
        At the end, if files of the stack changed or went away meanwhile.
    """
    work = Predictor(weights).run(
        stack,
        settings=settings,
        sections=sections,
        roi=roi,
        classes=classes,
        sink=sink,
        keep=keep,
        excluded=excluded,
    )
    return check_sources_after(work, stack, unread=lambda found: found.damaged)


def provenance(
    stack: Stack,
    weights: Weights,
    settings: PredictSettings,
    *,
    kind: str = "membrane",
    precision: str = "",
    reason: str = "",
) -> Provenance:
    """Say how probabilities came to be, for a layer or a file.

    Parameters
    ----------
    precision
        Arithmetic that was really used, where that is known.
    reason
        Why, where it was chosen.

    Raises
    ------
    ValueError
        If the stack is a result itself, or the weights have no such depth as the
        settings say.
    """
    refuse_results(stack)
    part = weights.at(settings.depth, settings.heads)
    way: dict[str, object] = {"depth": part.depth, "heads": part.heads}
    way |= {"precision": precision} if precision else {}
    way |= {"precision_reason": reason} if reason else {}
    return Provenance(
        kind=kind,
        source=stack.source or stack.name,
        weights=part.card.name,
        weights_sha256=part.sha256,
        threshold=part.card.threshold,
        settings=settings.model_dump(mode="json") | way,
        version=__version__,
    )
