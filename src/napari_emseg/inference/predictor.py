"""Stack and weights in, membrane probabilities out, section by section."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from time import perf_counter
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from napari_emseg._version import __version__
from napari_emseg.core.intensity import polarity
from napari_emseg.core.records import Note, Provenance, Record
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.sinks import SectionSink
from napari_emseg.core.stack import LazyArray, Stack
from napari_emseg.inference import throughput
from napari_emseg.inference.assembly import Assembly
from napari_emseg.inference.engine import Engine
from napari_emseg.inference.estimate import Limits, choose_limits
from napari_emseg.inference.runtime import Runtime, TTARuntime, load_runtime
from napari_emseg.inference.scope import PredictionScope, refuse_results, scope_of
from napari_emseg.inference.sections import SectionReader, prefetch
from napari_emseg.io.fingerprint import check_sources_after
from napari_emseg.models.weights import Weights


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
    """

    def __init__(
        self, weights: Weights, *, at_hand: int = 1, remember: bool = False
    ) -> None:
        self.weights = weights
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
            stack, card, settings, sections=sections, roi=roi, classes=classes
        )
        results = Assembly(scope, sink, keep=keep, squeeze=classes is None)
        return self._run(scope, settings, results, reader)

    def is_loaded(self, settings: PredictSettings) -> bool:
        """Tell if the network is ready to run in this way."""
        return self._way(settings) in self._loaded

    def _way(self, settings: PredictSettings) -> tuple[object, ...]:
        s, part = settings, self._part(settings)
        return (
            *(part.depth, part.heads, s.tta),
            *(s.device, s.runtime, s.half_precision, s.threads),
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
        runtime = load_runtime(self._part(settings), settings)
        return TTARuntime(runtime) if settings.tta else runtime

    def measure(self, settings: PredictSettings | None = None) -> float:
        """Time one small window; return ms per megapixel of network input.

        Loads the network. `estimate` knows the time of a run from then on.
        """
        settings = settings or PredictSettings()
        ms = throughput.known(self.weights, settings)
        if ms is None:
            ms = throughput.measure(self.runtime(settings))
            throughput.remember(self.weights, settings, ms)
        return ms

    def _run(
        self,
        scope: PredictionScope,
        settings: PredictSettings,
        results: Assembly,
        reader: SectionReader | None,
    ) -> Generator[Record, None, PredictionResult]:
        start = perf_counter()
        notes: list[str] = []
        engine = self._engine(scope, settings, results.kept_bytes)
        try:
            words = ""
            if reader is None:
                inverted, words = self._inverting.decide(scope.stack, settings)
                reader = self._reader_of(scope, inverted=inverted)
            for record in _records(scope, words, reader, engine, results):
                if isinstance(record, Note):
                    notes.append(record.message)
                yield record
        # also when the run is stopped: what it measured holds
        finally:
            engine.release()
            self._note_speed(engine, settings)
        return PredictionResult(
            probabilities=results.probabilities,
            sections=results.sections,
            roi=scope.roi,
            damaged=results.damaged,
            blank=tuple(sorted(results.blank)),
            notes=tuple(notes),
            runtime=engine.runtime.name,
            device=engine.runtime.device,
            seconds=perf_counter() - start,
            provenance=provenance(scope.stack, self.weights, settings),
        )

    def _engine(
        self, scope: PredictionScope, settings: PredictSettings, kept: int
    ) -> Engine:
        runtime = self.runtime(settings)
        limits = _limits(scope, settings, runtime, kept)

        def instead(**less: str) -> tuple[Runtime, Limits]:
            # before the other runtime is loaded: memory is what was short
            self._loaded.clear()
            self._shapes.clear()
            other = self._load(settings.model_copy(update={"device": "cpu", **less}))
            return other, _limits(scope, settings, other, kept)

        ways: list[Callable[[], tuple[Runtime, Limits]]] = []
        if runtime.device != "cpu":
            # in this order: the CPU for a GPU, then PyTorch for OpenVINO
            ways.append(instead)
        if runtime.name == "openvino" or (ways and settings.runtime == "auto"):
            # needs less memory than OpenVINO, which is as good where there is enough
            ways.append(lambda: instead(runtime="torch"))
        shapes = self._shapes.setdefault(id(runtime), set())
        return Engine(scope, runtime, limits, ways, shapes)

    def _note_speed(self, engine: Engine, settings: PredictSettings) -> None:
        """Remember how fast a run was, unless only a slow first window tells."""
        ms = engine.ms_per_megapixel
        known = throughput.known(self.weights, settings) is not None
        if ms is not None and self._loaded and (engine.typical or not known):
            throughput.remember(self.weights, settings, ms)

    def _reader_of(self, scope: PredictionScope, *, inverted: bool) -> SectionReader:
        if self._reader is not None and self._reader.serves(
            scope.stack, scope.rule, invert=inverted
        ):
            return self._reader
        reader = SectionReader(
            scope.stack, scope.rule, invert=inverted, remember=self._remember
        )
        if self._remember:
            self._reader = reader
        return reader


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
    )
    return check_sources_after(work, stack, unread=lambda found: found.damaged)


def provenance(
    stack: Stack, weights: Weights, settings: PredictSettings, *, kind: str = "membrane"
) -> Provenance:
    """Say how probabilities came to be, for a layer or a file.

    Raises
    ------
    ValueError
        If the stack is a result itself, or the weights have no such depth as the
        settings say.
    """
    refuse_results(stack)
    part = weights.at(settings.depth, settings.heads)
    way = {"depth": part.depth, "heads": part.heads}
    return Provenance(
        kind=kind,
        source=stack.source or stack.name,
        weights=part.card.name,
        weights_sha256=part.sha256,
        threshold=part.card.threshold,
        settings=settings.model_dump(mode="json") | way,
        version=__version__,
    )


def _limits(
    scope: PredictionScope, settings: PredictSettings, runtime: Runtime, kept: int
) -> Limits:
    """Choose limits from what is free beside a result of `kept` bytes."""
    on_cpu = runtime.device == "cpu"
    return choose_limits(
        scope,
        runtime.geometry,
        settings,
        bytes_per_pixel=runtime.bytes_per_pixel,
        free=max(0, runtime.free_memory() - kept * on_cpu),
        gpu=not on_cpu,
    )


def _records(
    scope: PredictionScope,
    words: str,
    reader: SectionReader,
    engine: Engine,
    results: Assembly,
) -> Generator[Record, None, None]:
    """Chain the stages: reading, computing and writing run in threads of their own."""
    for note in (*scope.notes, *engine.runtime.notes):
        yield Note(note)
    if words:
        yield Note(words)
    read = prefetch(engine.read(reader), name="emseg-read")
    # closing the outer generator closes the inner ones, so no thread outlives a run
    with closing(prefetch(engine.compute(read), name="emseg-compute")) as items:
        yield from results.collect(items, engine)
