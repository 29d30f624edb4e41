"""The whole way in one call each: stack → membranes → cells → scores.

Each call drains the generator that the panels and the command line use too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.labels import Meaning
from napari_emseg.core.lock import Claim
from napari_emseg.core.paths import file_stem
from napari_emseg.core.records import Note, Record, drain
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import CellSettings, PredictSettings, Through
from napari_emseg.core.stack import LazyArray, Stack, VoxelSize, as_stack
from napari_emseg.core.training import FinetuneSettings
from napari_emseg.inference import predict_stack
from napari_emseg.io.fingerprint import require_unchanged
from napari_emseg.models.weights import Weights, load_weights
from napari_emseg.segmentation import segment_stack
from napari_emseg.segmentation.affinities import Affinities
from napari_emseg.segmentation.edge_classifier import (
    EdgeClassifier,
    check_used,
    read_edges,
    save_edges,
)

if TYPE_CHECKING:
    from napari_emseg.metrics.evaluation import Evaluation

OnRecord = Callable[[Record], None]


def predict(
    stack: Stack | LazyArray,
    weights: Weights | str | Path,
    *,
    voxel_size_nm: VoxelSize | None = None,
    sections: Sequence[int] | None = None,
    roi: tuple[slice, slice] | None = None,
    classes: Sequence[str] | None = None,
    settings: PredictSettings | None = None,
    on_record: OnRecord | None = None,
) -> NDArray[np.float32]:
    """Predict the probability of membrane.

    Parameters
    ----------
    stack
        EM sections `(z, y, x)`, or one `(y, x)`: a `Stack` or any array.
    weights
        Loaded ones, a bundled name or a file.
    voxel_size_nm
        `(z, y, x)`; wins over the stack's own. Where both it and the size that the
        weights were trained at are known, sections are resampled for the network, and
        the result is on the stack's own grid.
    sections
        Which sections along z; all by default. The result has them in this order.
    roi
        Rows and columns; the whole section by default.
    classes
        Names of the classes of the card; membrane by default.
    settings
        Device, tiles, inversion and so on, from `napari_emseg.core.settings`.
    on_record
        Called with what happens, e.g. `TileDone`.

    Returns
    -------
    ndarray
        `(z, y, x)` float32 in [0, 1]; `(c, z, y, x)` if classes were named.

    Raises
    ------
    ValueError
        If weights, sections, region, class or device don't exist.
    OSError
        If the weights file can't be read.
    """
    work = predict_stack(
        as_stack(stack).with_voxel_size(voxel_size_nm),
        load_weights(weights),
        settings=settings,
        sections=sections,
        roi=roi,
        classes=classes,
    )
    found = drain(work, on_record)
    if found.probabilities is None:
        msg = "the run kept no probabilities"
        raise RuntimeError(msg)
    if sections is None or tuple(sections) == found.sections:
        return found.probabilities
    # runs keep them ascending
    at = [found.sections.index(z) for z in sections]
    return found.probabilities[..., at, :, :]


def segment(
    probabilities: Stack | LazyArray,
    *,
    threshold: float | None = None,
    link: bool | None = None,
    through: Through | None = None,
    voxel_size_nm: VoxelSize | None = None,
    settings: CellSettings | None = None,
    excluded: Sequence[int] = (),
    source: Stack | LazyArray | None = None,
    affinities: Mapping[str, LazyArray] | None = None,
    edges: EdgeClassifier | str | Path | None = None,
    on_record: OnRecord | None = None,
) -> NDArray[np.uint32]:
    """Find the cells of each section, and which are one cell through the stack.

    Parameters
    ----------
    probabilities
        Of membrane, `(z, y, x)` or `(y, x)`: float in [0, 1], uint8 in steps of 1/255.
    threshold
        Probability above which a pixel is membrane; wins over the settings. The one to
        begin with is `weights.card.threshold`.
    link
        Give the profiles of one cell in all sections the same id; wins over the
        settings, where it is off.
    through
        `3-d` finds cells in three dimensions, `graph` by one graph of all sections,
        `auto` goes by the voxel size; wins over the settings, which go section by
        section.
    voxel_size_nm
        `(z, y, x)`; wins over the stack's own. Only `auto` asks for it.
    settings
        Method, smallest size and so on.
    excluded
        Sections along z that get no cells; links bridge them.
    source
        The EM they were made from: its alignment padding has no cells.
    affinities
        `(z, y, x)` by the names of the network's classes, `affinity z1`, `affinity y1`
        and `affinity x1`: probabilities that a voxel and the one before it are of one
        cell. Cells through the stack go by them.
    edges
        A classifier of edges, or its file, for `through` graph: what `learn_edges`
        gave. That of napari-emseg-data by default, where it is installed.
    on_record
        Called with what happens.

    Returns
    -------
    ndarray
        `(z, y, x)` uint32, 0 = membrane. Unless linked or found in three dimensions,
        no id is in two sections.

    Raises
    ------
    ValueError
        If a section can't be read or holds no probabilities, `source` or affinities
        have another shape, these have other names, the file holds no classifier, or
        cells are found without one.
    """
    said = {"threshold": threshold, "link": link, "through": through}
    given = {name: value for name, value in said.items() if value is not None}
    settings = CellSettings(**{**(settings or CellSettings()).model_dump(), **given})
    if edges is not None:
        check_used(settings)
    stack = as_stack(probabilities, name="probabilities")
    known = Affinities.named(affinities, stack.shape) if affinities else None
    work = segment_stack(
        stack.with_voxel_size(voxel_size_nm),
        settings=settings,
        excluded=excluded,
        source=None if source is None else as_stack(source),
        affinities=known,
        classifier=read_edges(Path(edges)) if isinstance(edges, str | Path) else edges,
    )
    found = drain(work, on_record)
    if found.cells is None or found.damaged:
        msg = "; ".join(f"section {z}: {why}" for z, why in found.damaged.items())
        raise ValueError(msg)
    return found.cells


def learn_edges(
    probabilities: Stack | LazyArray,
    cells: Stack | LazyArray,
    *,
    threshold: float | None = None,
    settings: CellSettings | None = None,
    affinities: Mapping[str, LazyArray] | None = None,
    start: EdgeClassifier | str | Path | None = None,
    output: str | Path | None = None,
    on_record: OnRecord | None = None,
) -> EdgeClassifier:
    """Let a classifier of edges learn from cells that are right through the stack.

    It says which fragments are one cell where `segment` goes by one graph of all
    sections.

    Parameters
    ----------
    probabilities
        Of membrane, `(z, y, x)`, as `segment` takes them.
    cells
        Ids of the same shape; 0 says nothing, so that only some may be known.
    threshold
        Probability above which a pixel is membrane; wins over the settings.
    settings
        Threshold and largest shift.
    affinities
        By their names, as `segment` takes them; it learns what they are worth, and
        still serves where there are none.
    start
        A classifier that learns on, or its file; else it begins from nothing.
    output
        Where to write it, .json.
    on_record
        Called with what happens, e.g. with how much of what was left out is right.

    Raises
    ------
    ValueError
        If there are too few edges between known cells, no cell is in two sections, the
        shapes differ, or the file holds no classifier.
    OSError
        If a file can't be read or written.
    """
    from napari_emseg.io.stored import own_ids
    from napari_emseg.segmentation.stack import ReadProbabilities
    from napari_emseg.training.edges import iter_learn_edges

    settings = settings or CellSettings()
    if threshold is not None:
        settings = CellSettings(**{**settings.model_dump(), "threshold": threshold})
    stack = as_stack(probabilities, name="probabilities")
    truth = own_ids(as_stack(cells, name="cells"))
    work = iter_learn_edges(
        ReadProbabilities(stack),
        truth.data,
        settings,
        affinities=Affinities.named(affinities, stack.shape) if affinities else None,
        start=read_edges(Path(start)) if isinstance(start, str | Path) else start,
        about=f"cells of {truth.source or truth.name}",
    )
    learnt = drain(work, on_record)
    if output is not None:
        save_edges(learnt, Path(output))
    return learnt


def evaluate(
    prediction: Stack | LazyArray,
    truth: Stack | LazyArray,
    *,
    truth_is: Meaning,
    prediction_is: Meaning = "membrane",
    threshold: float = 0.5,
    linked: bool | None = None,
    on_record: OnRecord | None = None,
) -> Evaluation:
    """Score a prediction by the ISBI 2012 scores and by the overlap of cells.

    Of membranes the cells that `segment` makes by default are scored, too.

    Parameters
    ----------
    prediction, truth
        `(z, y, x)` or `(y, x)` of one shape.
    truth_is, prediction_is
        What they are; never guessed. `membrane` and `inside` are masks in a truth, and
        in a prediction probabilities, float in [0, 1] or uint8 in steps of 1/255;
        `cells` are ids.
    threshold
        Probability of membrane above which a pixel counts as membrane, where one
        threshold is needed.
    linked
        Compare cells through sections; none does so where both are cells. False for
        cells whose ids are those of each section, as `segment` gives them.
    on_record
        Called with what happens.

    Returns
    -------
    Evaluation
        `scores()` by name, `rows()` for a table, `as_dict()` for JSON, `warnings`.

    Raises
    ------
    ValueError
        If the shapes differ, there is nothing to compare, or a meaning is unknown.
    """
    from napari_emseg.metrics.evaluation import evaluate_steps
    from napari_emseg.segmentation import usual_cells

    work = evaluate_steps(
        _array(prediction),
        _array(truth),
        prediction_is=prediction_is,
        truth_is=truth_is,
        threshold=threshold,
        linked=linked,
        # 0 and 1 are refused with the scores
        make_cells=usual_cells(threshold) if 0 < threshold < 1 else None,
    )
    return drain(work, on_record)


def finetune(
    weights: Weights | str | Path,
    stack: Stack | LazyArray,
    corrections: LazyArray,
    *,
    corrections_are: Literal["corrections", "membrane", "inside", "cells"] = (
        "corrections"
    ),
    extent: Literal["complete", "sparse"] | None = None,
    reviewed: Sequence[Region] = (),
    voxel_size_nm: VoxelSize | None = None,
    new_classes: Sequence[str] = (),
    output: str | Path | None = None,
    settings: FinetuneSettings | None = None,
    on_record: OnRecord | None = None,
) -> Weights:
    """Let weights learn from corrections.

    Parameters
    ----------
    weights
        Those to begin with: loaded ones, a bundled name or a file.
    stack
        EM sections `(z, y, x)`: a `Stack` or any array.
    corrections
        Of the same shape. By hand: 0 unlabelled, 1 membrane, 2 inside, k + 1 is class
        k. Or existing annotations.
    corrections_are
        What they are.
    extent
        Of existing annotations: `complete`, all of each section with any
        label counts; `sparse`, only what is labelled. By default complete, if at least
        5 % is labelled there; less could be strokes.
    reviewed
        Regions in which everything counts: what is not corrected there is right as the
        weights show it, and labels are drawn to the end.
    voxel_size_nm
        `(z, y, x)`; wins over the stack's own.
    new_classes
        Names of classes that the weights don't have yet, in the order of their codes.
    output
        Where to write the new weights, .safetensors; a temporary folder by default.
    settings
        Steps, what is trained, rehearsal, device and so on.
    on_record
        Called with what happens.

    Returns
    -------
    Weights
        Their card names the parent, the data, and the scores on held-out regions.

    Raises
    ------
    ValueError
        If shapes differ, nothing is corrected, a class has no name, or `extent` must be
        said.
    OSError
        If a file can't be read or written, or another run is writing the output.
    """
    from napari_emseg.inference.torch_runtime import choose_device
    from napari_emseg.training.corrections import training_set
    from napari_emseg.training.finetune import finetune_weights

    parent, settings = load_weights(weights), settings or FinetuneSettings()
    images = as_stack(stack).with_voxel_size(voxel_size_nm)
    known = training_set(
        images,
        corrections,
        corrections_are,
        extent=extent,
        reviewed=reviewed,
        invert=settings.invert,
    )
    if on_record is not None:
        for note in known.notes:
            on_record(Note(note))
    if output is None:
        stem = file_stem(parent.card.name, "weights")
        output = Path(mkdtemp(prefix="emseg-")) / f"{stem}-tuned.safetensors"
    output = Path(output)
    work = finetune_weights(
        parent,
        [known],
        output,
        settings=settings,
        device=choose_device(settings.device),
        new_classes=new_classes,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with Claim(output):
        return drain(work, on_record).weights


def _array(data: Stack | LazyArray) -> NDArray[Any]:
    with require_unchanged(data if isinstance(data, Stack) else None):
        return np.asarray(data.data[:] if isinstance(data, Stack) else data[:])
