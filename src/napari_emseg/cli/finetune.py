"""`emseg finetune`, `emseg learn-edges`: what a person corrected teaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from cyclopts import Group, Parameter
from numpy.typing import NDArray

from napari_emseg.cli.options import (
    CELLS,
    RUN,
    Exclude,
    InputOptions,
    Json,
    Overwrite,
    Region,
    ScopeOptions,
    Sections,
    pick_region,
    pick_sections,
)
from napari_emseg.cli.outputs import check_outputs
from napari_emseg.cli.predict import settled_run
from napari_emseg.cli.printing import print_json, print_line, say
from napari_emseg.cli.progress import run_with_progress
from napari_emseg.cli.segment import (
    InputKind,
    cropped,
    files_of_weights,
    kind_of_input,
    predict_through,
    with_threshold,
    without_excluded,
)
from napari_emseg.cli.weights import (
    WeightsName,
    claimed_weights,
    find_weights,
    print_card,
)
from napari_emseg.core.records import Provenance
from napari_emseg.core.regions import Region as Reviewed
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.stack import LazyArray, Stack, doubt_size
from napari_emseg.core.training import FinetuneSettings
from napari_emseg.io.fingerprint import (
    describe_sections,
    require_unchanged,
    source_states,
)
from napari_emseg.io.stored import own_ids
from napari_emseg.models.weights import DEFAULT_WEIGHTS, Weights, load_weights
from napari_emseg.segmentation.edge_classifier import (
    EdgeClassifier,
    default_classifier,
    read_edges,
    save_edges,
)
from napari_emseg.segmentation.stack import ReadProbabilities

if TYPE_CHECKING:
    from napari_emseg.segmentation.affinities import Affinities

LABELS_FILE = Group("How to read the labels", sort_key=3)
CELLS_FILE = Group("How to read the cells", sort_key=3)


def finetune(
    images: str,
    labels: str,
    output: Path,
    /,
    *,
    labels_are: Annotated[
        Literal["corrections", "membrane", "inside", "cells"],
        Parameter(
            help="corrections: 0 unlabelled, 1 membrane, 2 inside, k + 1 class k; "
            "membrane and inside are masks (> 0), cells are ids."
        ),
    ],
    weights: Annotated[
        str, Parameter(help="What to begin with: a bundled name or a file.")
    ],
    reviewed: Annotated[
        Sections,
        Parameter(
            help="Sections in which everything counts, A up to B - 1, counted from 0; "
            "of corrections none, of other labels as --extent says."
        ),
    ] = None,
    extent: Annotated[
        Literal["complete", "sparse"] | None,
        Parameter(
            help="Of other labels than corrections. complete: all of each section with "
            "any label counts; sparse: only what is labelled. By default complete, if "
            "at least 5 % is labelled there; less could be strokes."
        ),
    ] = None,
    roi: Region = None,
    new_class: Annotated[
        tuple[str, ...],
        Parameter(help="Name of a class that the weights don't have yet."),
    ] = (),
    overwrite: Overwrite = False,
    json: Json = False,
    settings: Annotated[
        FinetuneSettings, Parameter(name="*", group=RUN)
    ] = FinetuneSettings(),  # noqa: B008 - frozen
    source: InputOptions = InputOptions(),  # noqa: B008
    labels_source: Annotated[
        InputOptions, Parameter(name="labels", group=LABELS_FILE)
    ] = InputOptions(),  # noqa: B008
) -> None:
    """Let weights learn from corrections.

    What is not labelled is unknown and counts for nothing. Says at the end whether the
    new weights are better than the old ones, on reviewed regions that were held out.
    Ctrl-C keeps the best so far; the same command with --overwrite goes on from there.

    Parameters
    ----------
    images
        EM sections: TIFF, MRC, DM3/DM4, HDF5, OME-Zarr, npy, PNG, a folder or a glob.
    labels
        Corrections or labels of the same shape.
    output
        The weights file to write: .safetensors.
    """
    stack = source.open(images)
    drawn = own_ids(labels_source.open(labels, prefix="labels"))
    parent = load_weights(weights)
    regions = _regions(reviewed, roi, stack)
    checkpoint = output.with_name(f"{output.stem}.checkpoint")
    check_outputs(output, checkpoint, stacks=[stack, drawn], files=[parent.path])
    from napari_emseg.inference.torch_runtime import choose_device
    from napari_emseg.training.corrections import ExtentNeededError, training_set
    from napari_emseg.training.finetune import finetune_weights

    with (
        claimed_weights(output, overwrite=overwrite),
        require_unchanged(stack, drawn),
    ):
        sources = source_states(stack, drawn)
        try:
            known = training_set(
                stack,
                drawn.data,
                labels_are,
                reviewed=regions,
                invert=settings.invert,
                extent=extent,
            )
        except ExtentNeededError as e:
            msg = f"{labels}: {e}: --extent sparse or --extent complete"
            raise ValueError(msg) from e
        for note in (doubt_size(stack, drawn), *known.notes):
            if note:
                say(note)
        say(f"learning from {known.words}")
        if checkpoint.is_file():
            say(f"going on from {checkpoint}, if it is of this round")
        work = finetune_weights(
            parent,
            [known],
            output,
            settings=settings,
            device=choose_device(settings.device),
            new_classes=new_class,
            sources=sources,
        )
        try:
            found = run_with_progress(work)
        except KeyboardInterrupt as e:
            msg = (
                f"the best so far is {output}; the same command with --overwrite "
                "goes on"
            )
            raise KeyboardInterrupt(msg) from e
    words = found.comparison.words
    if json:
        card = found.weights.card.model_dump(mode="json")
        print_json({"output": str(output), "comparison": words, "card": card})
        return
    print_card(found.weights)
    print_line(words)


def _regions(
    sections: slice | None, roi: tuple[slice, slice] | None, stack: Stack
) -> list[Reviewed]:
    """Return what `--reviewed` and `--roi` mean."""
    if sections is None and roi is None:
        return []
    area = pick_region(roi, stack)
    return [Reviewed.of(z, area) for z in pick_sections(sections, stack)]


def learn_edges(
    input: str,  # noqa: A002 - the word on the command line
    cells: str,
    output: Path,
    /,
    *,
    input_is: InputKind = None,
    weights: WeightsName = DEFAULT_WEIGHTS,
    start: Annotated[
        Literal["default", "nothing"] | Path,
        Parameter(
            help="What learns on: a classifier of edges (.json), default (that of "
            "napari-emseg-data, where it is installed), or nothing."
        ),
    ] = "default",
    sections: Sections = None,
    exclude: Exclude = (),
    roi: Region = None,
    threshold: Annotated[
        float | None,
        Parameter(
            group=CELLS,
            help="Probability above which a pixel is membrane, as for the cells that "
            "will be found; by default that of the weights.",
        ),
    ] = None,
    shift: Annotated[
        int | None,
        Parameter(
            group=CELLS, help=f"{CellSettings.model_fields['shift'].description} Px."
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    run: Annotated[PredictSettings, Parameter(name="*", group=RUN)] = PredictSettings(),  # noqa: B008 - frozen
    source: InputOptions = InputOptions(),  # noqa: B008
    cells_source: Annotated[
        InputOptions, Parameter(name="cells", group=CELLS_FILE)
    ] = InputOptions(),  # noqa: B008
) -> None:
    """Let a classifier of edges learn from cells that are right through the stack.

    It says which fragments are one cell where emseg segment and emseg batch go by one
    graph of all sections: give it to these with --through graph --edges. Cells are ids
    that a person has corrected; 0 says nothing, so a few neurites are a beginning. From
    EM, membranes are predicted first, and affinities by weights that give them. Says
    how many of the edges that it wasn't shown it gets right, and how many before.

    Parameters
    ----------
    input
        EM sections or probabilities of membrane: a file, a folder or a glob.
    cells
        Cells through the stack, of the same shape.
    output
        The classifier to write: .json.
    """
    from napari_emseg.training.edges import check_linked, iter_learn_edges

    scope = ScopeOptions.of(source.open(input), sections, roi)
    stack = own_ids(cells_source.open(cells, prefix="cells"))
    truth = _cells_of(stack, scope)
    begun = _classifier(start)
    is_em = kind_of_input(scope.stack, input_is) == "em"
    chosen = find_weights(weights, run) if is_em else None
    used = files_of_weights(weights) if chosen is None else [chosen.path]
    used += [start] if isinstance(start, Path) else []
    with (
        claimed_weights(output, overwrite=overwrite, suffix=".json"),
        require_unchanged(scope.stack, stack),
    ):
        check_outputs(output, stacks=[scope.stack, stack], files=used)
        check_linked(truth)
        settings = _edge_settings(scope.stack, chosen, threshold, shift)
        membrane, affinities = _learnt_from(scope, chosen, run, exclude)
        work = iter_learn_edges(
            membrane,
            truth,
            settings,
            affinities=affinities,
            start=begun,
            about=f"cells of {stack.name}",
        )
        found = run_with_progress(work)
        save_edges(found, output)
    about = found.about
    if json:
        told = {name: about[name] for name in ("edges", "scores")}
        by = {"threshold": settings.threshold, "shift": settings.shift}
        start_name = None if begun is None else begun.name
        print_json({"output": str(output), "start": start_name, **by, **told})
        return
    within, between = (about["edges"][kind] for kind in ("within", "between"))
    before = "nothing" if begun is None else f"the classifier {begun.sha256[:8]}"
    print_line(
        f"{output}: learnt from {within:,} edges within sections and {between:,} "
        f"between them, beginning from {before}"
    )


@dataclass(frozen=True)
class _SectionsAsked:
    """Sections of an array `(z, y, x)`, counted from the first that is asked for."""

    data: LazyArray
    sections: range
    excluded: Sequence[int] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.sections), *self.data.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Return a section; NaN if it is excluded."""
        z = self.sections[int(key)]
        if z in self.excluded:
            return np.full(self.shape[1:], np.nan, np.float32)
        return np.asarray(self.data[z])


def _cells_of(stack: Stack, scope: ScopeOptions) -> LazyArray:
    """Return the cells of what is asked for, from a file of these or of all sections.

    Raises
    ------
    ValueError
        If they have another shape, or the file says that it holds something else.
    """
    made = Provenance.of(stack)
    if made is not None and made.kind != "cells":
        msg = f"{stack.name} holds {made.kind}, not cells"
        raise ValueError(msg)
    if stack.shape == scope.shape:
        return stack.data
    if stack.shape == scope.stack.shape:
        return _SectionsAsked(cropped(stack, scope.region).data, scope.sections)
    here, asked = (" × ".join(map(str, s)) for s in (stack.shape, scope.shape))
    msg = f"{stack.name} has {here} voxels (z, y, x), but {asked} are asked for"
    raise ValueError(msg)


def _classifier(start: str | Path) -> EdgeClassifier | None:
    """Return what learns on; None where it begins from nothing."""
    if isinstance(start, Path):
        return read_edges(start)
    return default_classifier() if start == "default" else None


def _edge_settings(
    stack: Stack, weights: Weights | None, threshold: float | None, shift: int | None
) -> CellSettings:
    """Return the settings by which edges are found, as cells will be."""
    asked = {"threshold": threshold, "shift": shift}
    settings = CellSettings(**{k: v for k, v in asked.items() if v is not None})
    made = Provenance.of(stack)
    known = None if made is None else made.threshold
    known = known if weights is None else weights.card.threshold
    return settings if known is None else with_threshold(settings, known)


def _learnt_from(
    scope: ScopeOptions,
    weights: Weights | None,
    run: PredictSettings,
    exclude: Sequence[int],
) -> tuple[LazyArray, Affinities | None]:
    """Return membranes, NaN where nothing is known, and affinities; predict of EM."""
    kept = without_excluded(scope, exclude)
    if weights is None:
        read = ReadProbabilities(cropped(scope.stack, scope.region))
        return _SectionsAsked(read, scope.sections, exclude), None
    run, _ = settled_run(scope, weights, run, kept, excluded=exclude)
    seen = predict_through(scope, weights, run, exclude)
    lost = seen.result.damaged
    if lost:
        words = describe_sections(lost)
        say(f"warning: {words} can't be read, so nothing is learnt there")
    membrane = ReadProbabilities(seen.stack)
    found = seen.affinities
    first = scope.sections[0]
    return (
        _SectionsAsked(membrane, scope.sections, (*exclude, *lost)),
        None if found is None else found.starting(first),
    )
