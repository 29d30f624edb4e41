"""The generators behind a session's runs: they fill results and tell by records."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.compiler import announce_compiling
from napari_emseg.core.records import (
    ClassifierRef,
    Progress,
    Provenance,
    Record,
    SectionDone,
    TileDone,
    drain,
)
from napari_emseg.core.regions import Area, Constraint, RunScope
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.sinks import ArraySink
from napari_emseg.core.stack import LazyArray, Stack
from napari_emseg.io.fingerprint import check_sources_after
from napari_emseg.proofreading.edits import INSIDE, MEMBRANE
from napari_emseg.proofreading.rerun import burnt_in_probabilities
from napari_emseg.session.annotation_editor import AnnotationEditor
from napari_emseg.session.results import PredictedProbabilities, Results
from napari_emseg.session.stack_state import StackState

if TYPE_CHECKING:
    from napari_emseg.inference import PrecisionChoice, PredictionResult, Predictor
    from napari_emseg.segmentation import CellsResult
    from napari_emseg.segmentation.affinities import Affinities
    from napari_emseg.segmentation.edge_classifier import EdgeClassifier


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
        constraints=constraints_of(source, roi),
        classifier=edges,
        sink=_CellSink(source.editor, region, roi, membrane, settings),
        drawn=lambda z: results.corrections[z][roi] == MEMBRANE,
    )
    work = check_sources_after(work, source.stack, unread=lambda found: found.damaged)
    by = edges.ref if edges is not None and settings.through == "graph" else None
    return _keeping_hand_work(
        work, source.editor, region, linked=settings.link, edges=by
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
    from napari_emseg.segmentation.section import nothing_predicted

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


def constraints_of(source: StackState, roi: Area, first: int = 0) -> list[Constraint]:
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
    edges: ClassifierRef | None = None,
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
    """Probabilities by section, with what a person said in them."""

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
        return burnt_in_probabilities(section, corrections)


class _CellSink(ArraySink):
    """Puts the cells of a rectangle, and its membranes, where they belong."""

    def __init__(
        self,
        editor: AnnotationEditor,
        region: RunScope,
        roi: Area,
        membrane: Stack,
        settings: CellSettings,
    ) -> None:
        self.shape = (len(region.sections), *membrane.shape[1:])
        self.dtype = np.dtype(np.uint32)
        self._editor = editor
        self._sections = sorted(region.sections)
        self._roi = roi
        self._membrane = membrane
        self._settings = settings

    def write(self, z: int, section: NDArray[Any]) -> None:
        """Store the cells `(y, x)` of the z-th of the run's ascending sections."""
        at = self._sections[z]
        values = self._membrane.section(at)
        full = 255 if values.dtype == np.uint8 else 1
        membranes = values > self._settings.threshold * full
        smallest = self._settings.minimum_size
        self._editor.put_cells(at, self._roi, section, membranes, minimum_size=smallest)
