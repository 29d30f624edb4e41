"""`emseg segment`: an EM stack or its probabilities in, a file of cells out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from napari_emseg.cli.options import (
    CELLS,
    RUN,
    Edges,
    Exclude,
    Ids,
    InputOptions,
    Json,
    OutputFormat,
    Overwrite,
    Region,
    ScopeOptions,
    Sections,
)
from napari_emseg.cli.outputs import (
    OutputTarget,
    Probabilities,
    Table,
    TablePath,
    check_outputs,
    writing,
)
from napari_emseg.cli.predict import (
    facts,
    made_facts,
    precision_facts,
    refuse_if_unreadable,
    run_words,
    settled_run,
    size_words,
    unread_words,
)
from napari_emseg.cli.printing import print_json, print_line, say
from napari_emseg.cli.progress import run_with_progress
from napari_emseg.cli.weights import WeightsName, find_weights
from napari_emseg.core.records import Provenance, drain
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.sinks import ArraySink, CountingSink, SectionSink
from napari_emseg.core.stack import Stack
from napari_emseg.io.fingerprint import check_sources_after
from napari_emseg.models.weights import DEFAULT_WEIGHTS, Weights
from napari_emseg.segmentation import (
    cells_provenance,
    link_stack,
    scratch,
    segment_stack,
    settle_through,
)
from napari_emseg.segmentation.affinities import Affinities, affinity_classes
from napari_emseg.segmentation.edge_classifier import (
    EdgeClassifier,
    check_used,
    read_edges,
)

if TYPE_CHECKING:
    from napari_emseg.inference import PredictionResult


@dataclass(frozen=True)
class SegmentSummary:
    """What a run gave, for JSON and for people."""

    record: dict[str, Any]
    words: str


class CellsSink(CountingSink):
    """Takes probabilities of some sections and passes their cells on.

    Parameters
    ----------
    places
        Where each section that comes belongs in the sink.
    kept
        Takes the probabilities too, each section at its place.
    """

    def __init__(
        self,
        sink: SectionSink,
        places: Sequence[int],
        settings: CellSettings,
        kept: NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__(sink)
        self.shape = (len(places), *sink.shape[1:])
        self._places = places
        self._settings = settings
        self._kept = kept
        self.cells = 0

    def write(self, z: int, section: NDArray[Any]) -> None:
        """Find the cells of section `z` and store them; ids go on counting."""
        alone = self._settings.model_copy(update={"link": False})
        work = segment_stack(
            section[np.newaxis], settings=alone, first_id=self.cells + 1
        )
        found = drain(work)
        if found.cells is None or found.damaged:
            msg = f"section {z} gave no cells: {found.damaged.get(0)}"
            raise RuntimeError(msg)
        super().write(self._places[z], found.cells[0])
        if self._kept is not None:
            self._kept[self._places[z]] = section
        self.cells += found.counts[0]


def cells_from_em(
    scope: ScopeOptions,
    place: OutputTarget,
    weights: Weights,
    run: PredictSettings,
    settings: CellSettings,
    *,
    exclude: Sequence[int] = (),
    table: Table | None = None,
    edges: EdgeClassifier | None = None,
) -> SegmentSummary:
    """Predict, find cells and write them, section by section."""
    from napari_emseg.inference import predict_stack

    settings = with_threshold(settings, weights.card.threshold)
    names = affinity_classes(weights.card.classes)
    settings = _settled(settings, scope, affinities=bool(names))
    kept = without_excluded(scope, exclude)
    if settings.through != "sections":
        return _cells_in_3d(
            scope,
            place,
            weights,
            run,
            settings,
            exclude=exclude,
            table=table,
            edges=edges,
        )
    run, of_run = settled_run(scope, weights, run, kept, excluded=exclude)
    made = cells_provenance(settings, of_run, excluded=exclude)
    membrane = None if table is None else scratch(scope.shape).view(np.float32)
    with writing(place.open(scope, np.uint32, made)) as counted:
        apart = _Scratch(counted.shape) if settings.link else counted
        places = [scope.sections.index(z) for z in kept]
        sink = CellsSink(apart, places, settings, membrane)
        result = run_with_progress(
            predict_stack(
                scope.stack,
                weights,
                settings=run,
                sections=kept,
                roi=scope.region,
                sink=sink,
                excluded=exclude,
            )
        )
        refuse_if_unreadable(result)
        counted.note_settings({"predict": of_run.settings | precision_facts(result)})
        cells = sink.cells
        if isinstance(apart, _Scratch):
            linking = link_stack(apart.data, settings=settings, sink=counted)
            cells = run_with_progress(linking).count
    if table is not None:
        table.write(membrane, scope, linked=settings.link)
    return _outcome(scope, place, made, cells, run=result)


def _settled(
    settings: CellSettings, scope: ScopeOptions, *, affinities: bool = False
) -> CellSettings:
    """Settle `auto`; say so where the voxel size is missed."""
    size, sections = scope.stack.voxel_size_nm, len(scope.sections)
    settled = settle_through(settings, size, sections, affinities=affinities)
    if settings.through == "auto" and size is None and sections > 1:
        way = "section by section"
        if settled.through == "graph":
            way = "by one graph of all sections"
        say(
            f"the voxel size is unknown, so cells are found {way}; with "
            "--voxel-size z,y,x that is chosen by it"
        )
    return settled


def _cells_in_3d(
    scope: ScopeOptions,
    place: OutputTarget,
    weights: Weights,
    run: PredictSettings,
    settings: CellSettings,
    *,
    exclude: Sequence[int],
    table: Table | None,
    edges: EdgeClassifier | None,
) -> SegmentSummary:
    """Predict all sections, then find cells through them and write these."""
    names = affinity_classes(weights.card.classes)
    kept = without_excluded(scope, exclude)
    run, of_run = settled_run(scope, weights, run, kept, excluded=exclude)
    made = cells_provenance(
        settings,
        of_run,
        affinities=names,
        edges=edges.ref if edges else None,
        excluded=exclude,
    )
    with writing(place.open(scope, np.uint32, made)) as sink:
        seen = predict_through(scope, weights, run, exclude)
        sink.note_settings({"predict": of_run.settings | precision_facts(seen.result)})
        found = run_with_progress(
            segment_stack(
                seen.stack,
                settings=settings,
                sections=scope.sections,
                excluded=exclude,
                affinities=seen.affinities,
                classifier=edges,
                sink=sink,
            )
        )
    if table is not None:
        known = Probabilities(seen.stack, scope.sections)
        table.write(known, scope, linked=True)
    return _outcome(scope, place, made, found.count, run=seen.result)


@dataclass(frozen=True)
class PredictedStack:
    """Probabilities of some sections by their places in the stack; others are NaN.

    Parameters
    ----------
    affinities
        None if the weights give none along z.
    """

    stack: Stack
    affinities: Affinities | None
    result: PredictionResult


def predict_through(
    scope: ScopeOptions, weights: Weights, run: PredictSettings, exclude: Sequence[int]
) -> PredictedStack:
    """Predict membranes and affinities of a scope, to wait on disk.

    Raises
    ------
    OSError
        If no section can be read.
    """
    from napari_emseg.inference import predict_stack

    names = affinity_classes(weights.card.classes)
    kept = without_excluded(scope, exclude)
    # membranes first, then affinities, which are as large each
    shape = (len(kept), 1 + len(names), *scope.shape[1:])
    sink = ArraySink.on(scratch(shape, np.float32))
    result = run_with_progress(
        predict_stack(
            scope.stack,
            weights,
            settings=run,
            sections=kept,
            roi=scope.region,
            classes=("membrane", *names),
            sink=sink,
            excluded=exclude,
        )
    )
    refuse_if_unreadable(result)
    known, *said = (
        _Kept(sink.data[:, k], kept, scope.stack.shape[0])
        for k in range(1 + len(names))
    )
    stack = Stack(known, voxel_size_nm=scope.stack.voxel_size_nm)
    affinities = dict(zip(names, said, strict=True))
    return PredictedStack(
        stack,
        Affinities.named(affinities, stack.shape) if names else None,
        result,
    )


class _Kept:
    """Probabilities of some sections, by their places in the stack; else NaN."""

    def __init__(
        self, data: NDArray[np.float32], sections: Sequence[int], n: int
    ) -> None:
        self._data = data
        self._places = {z: place for place, z in enumerate(sections)}
        self.shape = (n, *data.shape[1:])
        self.dtype = data.dtype

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        place = self._places.get(int(key))
        if place is None:
            return np.full(self.shape[1:], np.nan, np.float32)
        section: NDArray[np.float32] = self._data[place]
        return section


def cells_from_probabilities(
    scope: ScopeOptions,
    place: OutputTarget,
    settings: CellSettings,
    *,
    exclude: Sequence[int] = (),
    table: Table | None = None,
    edges: EdgeClassifier | None = None,
) -> SegmentSummary:
    """Find the cells of probabilities and write them, section by section."""
    before = Provenance.of(scope.stack)
    if before is not None and before.threshold is not None:
        settings = with_threshold(settings, before.threshold)
    settings = _settled(settings, scope)
    made = cells_provenance(
        settings, before, edges=edges.ref if edges else None, excluded=exclude
    )
    without_excluded(scope, exclude)
    membrane = cropped(scope.stack, scope.region)
    with writing(place.open(scope, np.uint32, made)) as sink:
        work = segment_stack(
            membrane,
            settings=settings,
            sections=scope.sections,
            excluded=exclude,
            classifier=edges,
            sink=sink,
        )
        # a part of a stack doesn't know the files
        whole = () if membrane is scope.stack else (scope.stack,)
        result = run_with_progress(
            check_sources_after(work, *whole, unread=lambda found: found.damaged)
        )
        if not result.counts:
            msg = f"no section gave cells: {next(iter(result.damaged.values()))}"
            raise OSError(msg)
    if table is not None:
        known = Probabilities(membrane, scope.sections)
        table.write(known, scope, linked=settings.link)
    return _outcome(scope, place, made, result.count, damaged=result.damaged)


class _Scratch(ArraySink):
    """Keeps sections on disk until they are linked."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.dtype = np.dtype(np.uint32)
        self.data = scratch(shape)


def without_excluded(scope: ScopeOptions, exclude: Sequence[int]) -> tuple[int, ...]:
    """Return the sections of the scope that are not excluded.

    Raises
    ------
    ValueError
        If an excluded one isn't in it, or none is left.
    """
    outside = [z for z in exclude if z not in scope.sections]
    if outside:
        msg = f"--exclude {outside[0]}: there is no such section in what is asked for"
        raise ValueError(msg)
    kept = tuple(z for z in scope.sections if z not in exclude)
    if not kept:
        msg = "--exclude leaves no section"
        raise ValueError(msg)
    return kept


def with_threshold(settings: CellSettings, known: float) -> CellSettings:
    """Take the threshold that the weights bring, unless the user gave one."""
    if "threshold" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"threshold": known})


def cropped(stack: Stack, region: tuple[slice, slice]) -> Stack:
    """Return a region of all sections, read when it is asked for."""
    if region == (slice(0, stack.shape[1]), slice(0, stack.shape[2])):
        return stack
    import dask.array as da

    data = da.from_array(  # type: ignore[no-untyped-call]
        stack.data, chunks=(1, *stack.shape[1:]), asarray=False, name=False
    )
    return replace(stack, data=data[:, region[0], region[1]])


def _outcome(
    scope: ScopeOptions,
    place: OutputTarget,
    made: Provenance,
    cells: int,
    *,
    run: PredictionResult | None = None,
    damaged: Mapping[int, str] | None = None,
) -> SegmentSummary:
    unread = damaged or {}
    record = {
        "state": "incomplete" if unread else "done",
        "damaged": {str(z): reason for z, reason in unread.items()},
        "output": str(place.path),
        "shape": scope.shape,
        "sections": list(scope.sections),
        **made_facts(made),
        **({} if run is None else facts(run)),
        "threshold": made.threshold,
        "cells": cells,
    }
    by = unread_words(unread) if run is None else f", {run_words(run)}"
    words = (
        f"{place.path}: {cells} cells in {size_words(scope.shape)}, "
        f"threshold {made.threshold:g}{by}"
    )
    return SegmentSummary(record, words)


InputIs = Literal["em", "probabilities"]

InputKind = Annotated[
    InputIs | None,
    Parameter(
        help="Grey values of EM, or probabilities of membrane; known by itself "
        "for files that emseg wrote."
    ),
]


def segment(
    input: str,  # noqa: A002 - the word on the command line
    output: Path,
    /,
    *,
    input_is: InputKind = None,
    weights: WeightsName = DEFAULT_WEIGHTS,
    sections: Sections = None,
    exclude: Exclude = (),
    roi: Region = None,
    format: OutputFormat = None,  # noqa: A002
    ids: Ids = "keep",
    table: TablePath = None,
    edges: Edges = None,
    overwrite: Overwrite = False,
    json: Json = False,
    cells: Annotated[CellSettings, Parameter(name="*", group=CELLS)] = CellSettings(),  # noqa: B008 - frozen
    run: Annotated[PredictSettings, Parameter(name="*", group=RUN)] = PredictSettings(),  # noqa: B008
    source: InputOptions = InputOptions(),  # noqa: B008
) -> int:
    """Make cells, uint32 ids, from an EM stack or from probabilities of membrane.

    0 is membrane. No id is in two sections, unless --link finds which profiles are one
    cell, or cells are found in three dimensions (--through). The threshold is that of
    the weights unless --threshold is given. From probabilities the weights and the
    options of the run are not used. Sections that can't be read have no cells: the
    result is incomplete, and the exit code 1.

    Parameters
    ----------
    input
        A file, a folder or a glob of sections.
    output
        What to write: .tif, .zarr, .mrc, .h5 or .precomputed; --format has more.
    """
    scope = ScopeOptions.of(source.open(input), sections, roi)
    place = OutputTarget(output, format, overwrite, ids)
    asked = None if table is None else Table(table, place)
    if edges is not None:
        check_used(cells)
    classifier = None if edges is None else read_edges(edges)
    is_em = kind_of_input(scope.stack, input_is) == "em"
    chosen = find_weights(weights, run) if is_em else None
    used = files_of_weights(weights) if chosen is None else [chosen.path]
    used += [] if edges is None else [edges]
    outputs = place.paths(np.uint32)
    check_outputs(*outputs, table, stacks=[scope.stack], files=used)
    if chosen is not None:
        found = cells_from_em(
            scope,
            place,
            chosen,
            run,
            cells,
            exclude=exclude,
            table=asked,
            edges=classifier,
        )
    else:
        found = cells_from_probabilities(
            scope, place, cells, exclude=exclude, table=asked, edges=classifier
        )
    if json:
        print_json(found.record)
    else:
        print_line(found.words)
    return int(found.record["state"] == "incomplete")


def files_of_weights(weights: str) -> list[Path]:
    """Return the file that was named as weights, also where they aren't used."""
    path = Path(weights)
    return [path] if path.is_file() else []


def kind_of_input(stack: Stack, said: InputIs | None) -> InputIs:
    """Return what the input holds: what the user says, else what it says itself.

    Raises
    ------
    ValueError
        If neither says it, or it holds cells already.
    """
    if said is not None:
        return said
    made = Provenance.of(stack)
    if made is not None and made.kind == "membrane":
        return "probabilities"
    what = "doesn't say what it is" if made is None else f"holds {made.kind}"
    msg = f"{stack.name} {what}; say it with --input-is em or probabilities"
    raise ValueError(msg)
