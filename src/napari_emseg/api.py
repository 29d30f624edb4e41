"""The whole way in one call each: stack → membranes → cells → scores.

Each call drains the generator that the panels and the command line use too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.cells import segment_stack
from napari_emseg.core.records import Record, drain
from napari_emseg.core.settings import CellSettings, PredictSettings
from napari_emseg.core.stack import LazyArray, Stack, VoxelSize, as_stack
from napari_emseg.inference import predict_stack
from napari_emseg.models.weights import Weights, load_weights

if TYPE_CHECKING:
    from napari_emseg.core.labels import Meaning
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
        Which sections along z; all by default.
    roi
        Rows and columns; the whole section by default.
    classes
        Names of the classes of the card; membrane by default.
    settings
        Device, tiles, inversion and so on.
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
    probabilities = drain(work, on_record).probabilities
    if probabilities is None:
        msg = "the run kept no probabilities"
        raise RuntimeError(msg)
    return probabilities


def segment(
    probabilities: Stack | LazyArray,
    *,
    threshold: float | None = None,
    link: bool | None = None,
    settings: CellSettings | None = None,
    excluded: Sequence[int] = (),
    source: Stack | LazyArray | None = None,
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
    settings
        Method, smallest size and so on.
    excluded
        Sections along z that get no cells; links bridge them.
    source
        The EM they were made from: its alignment padding has no cells.
    on_record
        Called with what happens.

    Returns
    -------
    ndarray
        `(z, y, x)` uint32, 0 = membrane. Unless linked, no id is in two sections.

    Raises
    ------
    ValueError
        If a section can't be read or holds no probabilities, or `source` has another
        shape.
    """
    said = {"threshold": threshold, "link": link}
    given = {name: value for name, value in said.items() if value is not None}
    settings = CellSettings(**{**(settings or CellSettings()).model_dump(), **given})
    work = segment_stack(
        as_stack(probabilities, name="probabilities"),
        settings=settings,
        excluded=excluded,
        source=None if source is None else as_stack(source),
    )
    found = drain(work, on_record)
    if found.cells is None or found.damaged:
        msg = "; ".join(f"section {z}: {why}" for z, why in found.damaged.items())
        raise ValueError(msg)
    return found.cells


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

    work = evaluate_steps(
        _array(prediction),
        _array(truth),
        prediction_is=prediction_is,
        truth_is=truth_is,
        threshold=threshold,
        linked=linked,
    )
    return drain(work, on_record)


def _array(data: Stack | LazyArray) -> NDArray[Any]:
    return np.asarray(data.data[:] if isinstance(data, Stack) else data[:])
