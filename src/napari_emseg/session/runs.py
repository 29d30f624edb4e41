"""The generators behind a session's runs: they fill results and tell by records."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import adler32

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.compiler import announce_compiling
from napari_emseg.core.records import (
    Progress,
    Provenance,
    Record,
    SectionDone,
    TileDone,
    drain,
)
from napari_emseg.core.regions import Area, Constraint, RunScope
from napari_emseg.core.requirements import relabel_sequential
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.sinks import ArraySink
from napari_emseg.core.stack import LazyArray, Stack
from napari_emseg.io.fingerprint import check_sources_after
from napari_emseg.proofreading.edits import INSIDE, MEMBRANE
from napari_emseg.session.annotation_editor import AnnotationEditor
from napari_emseg.session.results import PredictedProbabilities, Results
from napari_emseg.session.stack_state import StackState

if TYPE_CHECKING:
    from napari_emseg.inference import PrecisionChoice, PredictionResult, Predictor
    from napari_emseg.segmentation import CellsResult, Fragments
    from napari_emseg.segmentation.affinities import Affinities
    from napari_emseg.segmentation.edge_classifier import EdgeClassifier
    from napari_emseg.segmentation.stack_graph import StackFragments


def iter_predict(
    predictor: Predictor,
    source: StackState,
    region: RunScope,
    *,
    settings: PredictSettings,
    threshold: float,
    affinities: Sequence[str] = (),
) -> Generator[Record, None, PredictionResult]:
    """Return a run of the network; what can't work raises a ValueError at once.

    It gives membranes, all classes beyond inside that the weights know, and the
    affinities that are named.
    """
    card = predictor.weights.card
    further = [name for name in card.further_classes if name not in affinities]
    work = predictor.run(
        source.stack,
        settings=settings,
        sections=region.sections,
        roi=region.roi,
        classes=("membrane", *further, *affinities),
        keep=False,
        excluded=source.excluded,
    )
    work = check_sources_after(work, source.stack, unread=lambda found: found.damaged)
    return _predicting(
        work, predictor, source, region, settings, threshold, further, affinities
    )


def _predicting(
    work: Generator[Record, None, PredictionResult],
    predictor: Predictor,
    source: StackState,
    region: RunScope,
    settings: PredictSettings,
    threshold: float,
    further: Sequence[str],
    affinities: Sequence[str],
) -> Generator[Record, None, PredictionResult]:
    results = source.results
    with closing(work):
        choice = yield from predictor.settle(
            source.stack,
            settings,
            sections=region.sections,
            roi=region.roi,
            excluded=source.excluded,
        )
        yield from _preparing(predictor, choice.settings)
        made = _provenance(predictor, source, choice)
        begun = False
        while True:
            try:
                record = next(work)
            except StopIteration as stop:
                result: PredictionResult = stop.value
                _note_precision(source, made, result)
                return result
            if isinstance(record, TileDone) and not record.damaged:
                _put(source, record, threshold, further, affinities)
                results.made[record.z] = made
                if not begun:
                    _note_run(source, made, further)
                    begun = True
            elif isinstance(record, SectionDone):
                results.settle(record.z)
            yield record


def _note_run(source: StackState, made: Provenance, further: Sequence[str]) -> None:
    """Say what made the results; with the first: a run that gives none changes none."""
    source.results.membrane_provenance = made
    source.results.class_provenance |= {name: made.of_class(name) for name in further}
    # a run leaves nothing in sections that were excluded since the last one
    source.editor.clear(sorted(source.excluded))


def _note_precision(
    source: StackState, made: Provenance, result: PredictionResult
) -> None:
    """Say of what a run has made what it computed in at last, if that has changed."""
    now = result.provenance.settings.get("precision")
    if made.settings.get("precision") == now:
        return
    said = made.settings | {"precision": now}
    at_last, results = made.model_copy(update={"settings": said}), source.results
    for z, known in list(results.made.items()):
        if known is made:
            results.made[z] = at_last
    if results.membrane_provenance is made:
        results.membrane_provenance = at_last
    for name, known in list(results.class_provenance.items()):
        if known == made.of_class(name):
            results.class_provenance[name] = at_last.of_class(name)


def _put(
    source: StackState,
    tile: TileDone,
    threshold: float,
    further: Sequence[str],
    affinities: Sequence[str],
) -> None:
    results = source.results
    source.editor.put_prediction(tile.z, tile.core, tile.values[0], threshold)
    found = dict(zip((*further, *affinities), tile.values[1:], strict=True))
    for name in further:
        results.of_class(name)[tile.z][tile.core] = found[name]
    said = {name: found[name] for name in affinities}
    results.put_affinities(tile.z, tile.core, said)


def iter_predict_again(
    predictor: Predictor,
    source: StackState,
    z: int,
    settings: PredictSettings,
    threshold: float,
    affinities: Sequence[str] = (),
) -> Generator[Record, None, None]:
    """Make the probabilities of a section again, and membranes that are gone.

    A project doesn't keep them; the live-wire and the places to look at need them.
    Membranes came back with cells, where there are any.
    """
    results = source.results
    kept = z in results.segmented
    _, height, width = results.shape
    whole = (slice(0, height), slice(0, width))
    found = []
    for roi in (whole,) if kept else results.lost[z]:
        work = predictor.run(
            source.stack,
            settings=settings,
            sections=[z],
            roi=roi,
            keep=False,
            excluded=source.excluded,
            classes=("membrane", *affinities),
        )
        with closing(work):
            choice = yield from predictor.settle(
                source.stack,
                settings,
                sections=[z],
                roi=roi,
                excluded=source.excluded,
            )
            yield from _preparing(predictor, choice.settings)
            made = _provenance(predictor, source, choice)
            for record in work:
                if isinstance(record, TileDone) and not record.damaged:
                    said = dict(zip(affinities, record.values[1:], strict=True))
                    found.append((record.core, record.values[0], said))
                yield record
    if z in results.made or not found:  # a run was faster; or it is damaged
        return
    for core, values, said in found:
        results.put_affinities(z, core, said)
        if kept:
            results.probabilities[z][core] = values
            results.note_predicted(z, core)
        else:
            source.editor.put_prediction(z, core, values, threshold)
    results.settle(z)
    results.made[z] = made


def _provenance(
    predictor: Predictor, source: StackState, choice: PrecisionChoice
) -> Provenance:
    """Say how results are made by the network that is loaded."""
    from napari_emseg.inference import provenance

    return provenance(
        source.stack,
        predictor.weights,
        choice.settings,
        precision=predictor.runtime(choice.settings).precision,
        reason=choice.reason,
    )


def _preparing(
    predictor: Predictor, settings: PredictSettings
) -> Generator[Record, None, None]:
    """Load the network, if it isn't: that takes longer than many a run."""
    if predictor.is_loaded(settings):
        return
    yield Progress("preparing the network (first time only)", 0, 0)
    if predictor.runtime(settings).name == "openvino":  # by its first tile
        yield Progress("compiling the network (first time only)", 0, 0)


def iter_segment(
    source: StackState,
    region: RunScope,
    settings: CellSettings,
    edges: EdgeClassifier | None = None,
) -> Generator[Record, None, CellsResult]:
    """Return a run of the watershed over probabilities that are there.

    Corrections are burnt into them. Cells that were there before keep their ids; those
    of others go on, so that cells of different runs never share one.
    """
    from napari_emseg.segmentation import segment_stack

    settings = source.settled(settings, len(region.sections))
    results = source.results
    roi = region.roi or (slice(0, results.shape[1]), slice(0, results.shape[2]))
    membrane, em = _given(source, roi)
    work = segment_stack(
        membrane,
        settings=settings,
        sections=region.sections,
        source=em,
        affinities=affinities_of(source, roi),
        constraints=_said_of(source, roi),
        classifier=edges,
        sink=_CellSink(source.editor, region, roi, membrane, settings.threshold),
    )
    work = check_sources_after(work, source.stack, unread=lambda found: found.damaged)
    name = edges.name if edges is not None and settings.through == "graph" else ""
    return _keeping_hand_work(
        work, source.editor, region, linked=settings.link, edges=name
    )


CELLS = "cells"


def compile_cells() -> None:
    """Have the kernels of cells compiled, so that the first run needn't wait."""
    from napari_emseg.segmentation import segment_stack

    values = np.zeros((1, 32, 32), np.float32)
    values[:, ::8] = values[:, :, ::8] = 1
    work = segment_stack(Stack(values, name=CELLS), settings=CellSettings())
    drain(announce_compiling(CELLS, work))


def probabilities_of(
    source: StackState, z: int
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return probabilities of section `z` with corrections, and where no picture is."""
    from napari_emseg.core.intensity import padding
    from napari_emseg.segmentation.stack import nothing_predicted

    _, height, width = source.results.shape
    membrane, em = _given(source, (slice(0, height), slice(0, width)))
    values = membrane.section(z)
    if em is None:
        return values, nothing_predicted(values)
    return values, padding(em.section(z))


def _given(source: StackState, roi: Area) -> tuple[Stack, Stack | None]:
    """Return probabilities with corrections, and their EM if they were predicted."""
    results = source.results
    given: LazyArray = source.stack.data
    em = None
    if not source.is_probabilities:
        given = PredictedProbabilities(results)
        em = Stack(_Cropped(source.stack.data, roi), name=source.name)
    given = _Corrected(given, results.corrections)
    return Stack(_Cropped(given, roi), name=f"probabilities of {source.name}"), em


def _said_of(source: StackState, roi: Area, first: int = 0) -> list[Constraint]:
    """Return what a person said of a rectangle, from a section on."""
    start = (first, roi[0].start, roi[1].start)
    stop = (source.results.shape[0], roi[0].stop, roi[1].stop)
    within = (c.within(start, stop) for c in source.editor.constraints)
    return [c for c in within if c is not None]


def affinities_of(source: StackState, roi: Area) -> Affinities | None:
    """Return the affinities of a rectangle, with corrections; None if there are none.

    They are unknown in sections whose membranes came from a run without.
    """
    from napari_emseg.segmentation.affinities import Affinities

    results = source.results
    if not results.with_affinities or source.is_probabilities:
        return None
    arrays = {name: _Cropped(_Said(results, name), roi) for name in results.affinities}
    shape = (results.shape[0], *(part.stop - part.start for part in roi))
    return Affinities.named(arrays, shape)


class _Said:
    """Affinities by section: 0 on membranes that were drawn, 1 inside by hand."""

    def __init__(self, results: Results, name: str) -> None:
        self._results = results
        self._array = results.affinities[name]
        # what is inside says nothing of the section before
        self._within = not name.startswith("affinity z")
        self.shape = results.shape
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        z = int(key)
        if z not in self._results.with_affinities:
            return np.full(self.shape[1:], np.nan, np.float32)
        said: NDArray[np.float32] = self._array[z].copy()
        corrections = self._results.corrections[z]
        said[corrections == MEMBRANE] = 0
        if self._within:
            said[corrections >= INSIDE] = 1
        return said


def _keeping_hand_work(
    work: Generator[Record, None, CellsResult],
    editor: AnnotationEditor,
    region: RunScope,
    *,
    linked: bool,
    edges: str = "",
) -> Generator[Record, None, CellsResult]:
    """Run to the end, or as far as it goes; then see which cells were there before."""
    try:
        return (yield from announce_compiling(CELLS, work))
    finally:
        # also when it is cancelled: what was found until then is kept
        editor.results.note_links(region.sections, linked=linked)
        editor.results.edges = edges
        editor.finish_run()


def iter_recut(
    editor: AnnotationEditor, threshold: float
) -> Generator[Record, None, None]:
    """Make the membranes of all predicted sections anew by another threshold."""
    predicted = editor.results.predicted
    for done, z in enumerate(predicted, start=1):
        editor.apply_threshold(z, threshold)
        yield Progress("threshold", done, len(predicted))


class _Cropped:
    """A rectangle of each section of an array `(z, y, x)`."""

    def __init__(self, data: LazyArray, roi: Area) -> None:
        rows, columns = roi
        self._data = data
        self._roi = roi
        height, width = rows.stop - rows.start, columns.stop - columns.start
        self.shape = (int(data.shape[0]), height, width)
        self.dtype = data.dtype

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        z, *rest = key if isinstance(key, tuple) else (key,)
        section = np.asarray(self._data[z])[..., self._roi[0], self._roi[1]]
        return section[tuple(rest)] if rest else section


class _Corrected:
    """Probabilities by section, 0 or 1 where a person said what is there."""

    def __init__(self, data: LazyArray, corrections: NDArray[np.uint8]) -> None:
        self._data = data
        self._corrections = corrections
        self.shape = data.shape
        self.dtype = data.dtype

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        z = int(key)
        section: NDArray[Any] = np.asarray(self._data[z])
        corrections = self._corrections[z]
        if not corrections.any():
            return section
        section = section.copy()
        section[corrections == MEMBRANE] = 255 if section.dtype == np.uint8 else 1
        section[corrections >= INSIDE] = 0
        return section


class _CellSink(ArraySink):
    """Puts the cells of a rectangle, and its membranes, where they belong."""

    def __init__(
        self,
        editor: AnnotationEditor,
        region: RunScope,
        roi: Area,
        membrane: Stack,
        threshold: float,
    ) -> None:
        self.shape = (len(region.sections), *membrane.shape[1:])
        self.dtype = np.dtype(np.uint32)
        self._editor = editor
        self._sections = sorted(region.sections)
        self._roi = roi
        self._membrane = membrane
        self._threshold = threshold

    def write(self, z: int, section: NDArray[Any]) -> None:
        """Store the cells `(y, x)` of the z-th of the run's ascending sections."""
        at = self._sections[z]
        values = self._membrane.section(at)
        full = 255 if values.dtype == np.uint8 else 1
        membranes = values > self._threshold * full
        self._editor.put_cells(at, self._roi, section, membranes)


Token = tuple[str, int, float, int]
"""Of what fragments were made: stack, section, threshold, checksum of probabilities."""


MOST_VOXELS = 2**24
"""Of stacks whose cells through sections can be tried: more is a run's work."""


@dataclass(frozen=True, slots=True)
class CellsKept:
    """How many cells are in how many sections now, by settings that were on trial."""

    cells: int
    sections: int
    constraints: tuple[int, int] = (0, 0)
    """How many merges and splits by hand were kept, and of how many."""


class AgglomerationPreview:
    """Tries cell settings on one section of a stack.

    `show` puts cells in place in milliseconds once `find` has been there; they are only
    on trial until `keep` makes them a step that can be undone, or `drop` takes them
    back. Where cells are found through the stack, `find` is for all sections, `show`
    for one, and `keep`, in moments, for all again.

    Parameters
    ----------
    edges
        Gives the classifier of edges that runs would go by; None for the usual one.
    """

    def __init__(
        self,
        source: StackState,
        edges: Callable[[], EdgeClassifier | None] = lambda: None,
    ) -> None:
        self.source = source
        self._edges = edges
        self._named = ""
        self._token: Token | None = None
        self._fragments: Fragments | None = None
        self._stack: _HeldStack | None = None
        self._trial: tuple[int, CellSettings] | None = None
        self._before: _Before | None = None

    @property
    def on_trial(self) -> bool:
        """True between `show` and `keep` or `drop`."""
        return self._trial is not None

    def able(self, z: int, settings: CellSettings | None = None) -> bool:
        """Tell if the whole section has cells and probabilities, and is not reviewed.

        By settings for cells through the stack all of its sections must have them, as
        cells would be cut of nothing elsewhere, and fit into memory.
        """
        if self._unknown(z) or z in self.source.editor.reviewed:
            return False
        alone = settings is None or self._through(settings).through == "sections"
        missing = self.missing(z, settings)
        return not missing and (alone or self._can_hold())

    def missing(self, z: int, settings: CellSettings | None = None) -> list[int]:
        """Return sections with cells whose probabilities aren't there (any more)."""
        if self.source.is_probabilities:
            return []
        alone = settings is None or self._through(settings).through == "sections"
        results = self.source.results
        asked = [z] if alone else self._whole
        return [each for each in asked if results.unknown(each) is not None]

    def _through(self, settings: CellSettings) -> CellSettings:
        """Return settings that say how the stack's cells are found."""
        return self.source.settled(settings, len(self._whole))

    @property
    def _whole(self) -> list[int]:
        """Sections of which all has cells."""
        results = self.source.results
        return [z for z in sorted(results.segmented) if not self._unknown(z)]

    def _unknown(self, z: int) -> bool:
        return self.source.results.unknown_cells(z) is not None

    def _can_hold(self) -> bool:
        """Tell if the stack's fragments can be kept, and a run would join them all."""
        from napari_emseg.segmentation.linker import BRIDGE

        whole, (_, *sides) = self._whole, self.source.results.shape
        span = whole[-1] - whole[0] + 1
        together = bool(max(np.diff(whole), default=1) <= BRIDGE + 1)
        return together and span * int(np.prod(sides)) <= MOST_VOXELS

    def knows(self, z: int, settings: CellSettings) -> bool:
        """Tell if `show` can be called."""
        return self._token == self._token_of(z, settings)

    def find(self, z: int, settings: CellSettings) -> Generator[Record, None, None]:
        """Find the fragments of a section: a quarter of a second for 1024² px.

        Of a stack it takes what a run would, less the writing.
        """
        from napari_emseg.segmentation import section_fragments

        settled = self._through(settings)
        if settled.through != "sections":
            yield from self._find_stack(z, settled)
            return
        yield Progress("fragments", 0, 1)
        token = self._token_of(z, settings)
        values, exclude = probabilities_of(self.source, z)
        found = section_fragments(values, settings.threshold, exclude=exclude)
        self._fragments, self._stack, self._token = found, None, token
        yield Progress("fragments", 1, 1)

    def _find_stack(
        self, z: int, settings: CellSettings
    ) -> Generator[Record, None, None]:
        """Find the fragments of all sections."""
        from napari_emseg.segmentation.stack import iter_find_for_preview, read_volume

        token, whole = self._token_of(z, settings), self._whole
        _, height, width = self.source.results.shape
        membrane, absent = yield from read_volume(
            lambda at: probabilities_of(self.source, at), whole, (height, width)
        )
        area: Area = (slice(0, height), slice(0, width))
        said, edges = affinities_of(self.source, area), self._edges()
        found = yield from iter_find_for_preview(
            membrane,
            absent,
            settings,
            said and said.starting(whole[0]),
            _said_of(self.source, area, whole[0]),
            edges,
        )
        by_graph = edges is not None and settings.through == "graph"
        self._named = edges.name if edges is not None and by_graph else ""
        self._fragments, self._token = None, token
        self._stack = _HeldStack(found, whole[0], frozenset(absent))

    def show(self, z: int, settings: CellSettings) -> None:
        """Put the cells of other settings in place, on trial.

        Raises
        ------
        ValueError
            If the fragments aren't known.
        """
        if not self.knows(z, settings):
            msg = f"the fragments of section {z} must be found first"
            raise ValueError(msg)
        if self._trial is not None and self._trial[0] != z:
            self.keep()
        results = self.source.results
        if self._before is None:
            self._before = _Before.of(results.cells[z])
        found = self._cells(settings)(z)
        named = self._before.named(found, results.last_id)
        self.source.editor.try_cells(z, named)
        self._trial = (z, settings)

    def keep(self) -> None:
        """Make what is on trial a step: hand work stays, known cells keep their ids."""
        drain(self.iter_keep())

    def iter_keep(self) -> Generator[Record, None, CellsKept | None]:
        """Do so section by section; of a stack it takes a moment."""
        trial = self._trial
        self.drop()
        if trial is None:
            return None
        z, settings = trial
        editor, cells = self.source.editor, self._cells(settings, local=False)
        _, height, width = editor.results.shape
        area: Area = (slice(0, height), slice(0, width))
        together = [each for each in self._together(z) if self.able(each)]
        ids = set[int]()
        try:
            for done, each in enumerate(together, start=1):
                found = cells(each)
                ids.update(np.unique(found).tolist())
                editor.put_cells(each, area, found)
                yield Progress("cells", done, len(together))
        finally:
            if self._stack is not None:
                editor.results.note_links(tuple(together), linked=True)
                editor.results.edges = self._named
            editor.finish_run()
        said = () if self._stack is None else editor.constraints
        kept = sum(c.is_kept(editor.results.cells) for c in said)
        return CellsKept(len(ids - {0}), len(together), (kept, len(said)))

    @property
    def of_stack(self) -> bool:
        """True if what is on trial is kept in all sections."""
        return self._stack is not None

    def _together(self, z: int) -> list[int]:
        return [z] if self._stack is None else self._whole

    def _cells(
        self, settings: CellSettings, *, local: bool = True
    ) -> Callable[[int], NDArray[np.uint32]]:
        """Return what gives the cells of a section; `local` ones are 1, 2, …."""
        if self._fragments is not None:
            fragments = self._fragments
            return lambda _: fragments.cells(settings)
        held = self._stack
        if held is None:
            msg = "no fragments are known"
            raise ValueError(msg)
        ids = held.fragments.joined(settings)

        def section(z: int) -> NDArray[np.uint32]:
            if z - held.first in held.absent:
                return np.zeros(self.source.results.shape[1:], np.uint32)
            found = held.fragments.section(z - held.first, ids, settings)
            return np.asarray(relabel_sequential(found)[0]) if local else found

        return section

    def drop(self) -> None:
        """Put back what was there before."""
        if self._trial is not None and self._before is not None:
            self.source.editor.try_cells(self._trial[0], self._before.cells)
        self._trial = self._before = None

    def _token_of(self, z: int, settings: CellSettings) -> Token:
        results = self.source.results
        values: NDArray[Any] = (
            np.asarray(self.source.stack.section(z))
            if self.source.is_probabilities
            else results.probabilities[z]
        )
        # a checksum, since arrays are changed in place;
        # quick, and only against oversight
        sums = adler32(np.ascontiguousarray(values).data)
        sums = adler32(np.ascontiguousarray(results.corrections[z]).data, sums)
        if self._through(settings).through == "sections":
            return self.source.key, z, settings.threshold, sums
        return self._stack_token(settings)

    def _stack_token(self, settings: CellSettings) -> Token:
        """Of what the fragments of all sections are made, whichever is looked at."""
        results, whole = self.source.results, self._whole
        settled = self._through(settings)
        known = sorted(results.with_affinities)
        by_hand = self.source.editor.constraints
        edges = self._edges()
        by = "" if edges is None else edges.sha256
        said = f"{settled.through} {settled.shift} {whole} {known} {by_hand} {by}"
        sums = adler32(np.ascontiguousarray(results.corrections[whole]).data)
        sums = adler32(said.encode(), sums)
        if not self.source.is_probabilities:
            # every eighth pixel sees what a run has changed, and is quick enough
            sample = results.probabilities[whole][:, ::8, ::8]
            sums = adler32(np.ascontiguousarray(sample).data, sums)
        return self.source.key, -1, settings.threshold, sums


@dataclass(frozen=True, slots=True, eq=False)
class _HeldStack:
    """Fragments of sections from `first` on; `absent` places have no picture."""

    fragments: StackFragments
    first: int
    absent: frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class _Before:
    """Cells `(y, x)` as they were, and numbered 1 … n; `ids[k]` is what k was."""

    cells: NDArray[np.uint32]
    local: NDArray[np.uint32]
    ids: NDArray[np.uint32]

    @classmethod
    def of(cls, cells: NDArray[np.uint32]) -> _Before:
        kept = np.ascontiguousarray(cells).copy()
        local, _, ids = relabel_sequential(kept)
        return cls(kept, local, np.asarray(ids, np.uint32))

    def named(self, found: NDArray[np.uint32], last_id: int) -> NDArray[np.uint32]:
        """Give cells the ids of those that they share most with, others new ones."""
        from napari_emseg.segmentation import overlap_of

        overlap = overlap_of(self.local, found)
        # ascending, so that the largest overlap of each cell is written last and stays
        order = np.argsort(overlap.shared, kind="stable")
        n = int(found.max()) + 1
        theirs, ours = np.zeros(n, np.int64), np.zeros(len(self.ids), np.int64)
        theirs[overlap.after[order]] = overlap.before[order]
        ours[overlap.before[order]] = overlap.after[order]
        # each is the other's best: so no id is given twice
        mutual = (theirs > 0) & (ours[theirs] == np.arange(n))
        new = last_id + np.arange(n)
        ids = np.where(mutual, self.ids[theirs], new).astype(np.uint32)
        ids[0] = 0
        named: NDArray[np.uint32] = np.take(ids, found)
        return named
