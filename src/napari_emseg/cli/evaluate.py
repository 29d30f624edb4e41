"""`emseg evaluate`: a prediction and its truth in, scores out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import numpy as np
from cyclopts import Group, Parameter

from napari_emseg.cli.options import (
    InputOptions,
    Json,
    Meaning,
    Sections,
    pick_sections,
)
from napari_emseg.cli.printing import print_json, print_line, print_table, say
from napari_emseg.cli.progress import run_with_progress
from napari_emseg.core.records import Provenance
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import Stack, doubt_size
from napari_emseg.io.fingerprint import require_unchanged
from napari_emseg.io.stored import own_ids

if TYPE_CHECKING:
    from napari_emseg.metrics.evaluation import Evaluation

TRUTH_FILE = Group("How to read the truth", sort_key=3)


def evaluate(
    prediction: str,
    truth: str,
    /,
    *,
    truth_is: Annotated[
        Meaning | None,
        Parameter(help="membrane and inside are masks (> 0), cells are ids."),
    ] = None,
    prediction_is: Annotated[
        Meaning | None,
        Parameter(
            help="membrane and inside are probabilities, cells are ids; known by "
            "itself for files that emseg wrote."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        Parameter(
            help="Probability of membrane above which a pixel counts as membrane, for "
            "the scores of cells (cells_…) and of overlap; by default the one that the "
            "weights bring, else 0.5."
        ),
    ] = None,
    linked: Annotated[
        bool | None,
        Parameter(
            help="Compare cells through sections, where both are cells. By default so, "
            "but not where a file says that its cells were found in each section by "
            "itself."
        ),
    ] = None,
    sections: Sections = None,
    json: Json = False,
    source: InputOptions = InputOptions(),  # noqa: B008 - frozen
    truth_source: Annotated[
        InputOptions, Parameter(name="truth", group=TRUTH_FILE)
    ] = InputOptions(),  # noqa: B008
) -> None:
    """Score a prediction against a truth by the ISBI 2012 scores and by overlap.

    Of membranes the cells that emseg segment makes of them by default are scored, too.
    V_Rand and V_Info are the challenge's, after border thinning; 1 is best.

    Parameters
    ----------
    prediction
        Probabilities or cells: a file, a folder or a glob of sections.
    truth
        What is right, of the same shape.
    """
    from napari_emseg.metrics.evaluation import evaluate_steps
    from napari_emseg.segmentation import usual_cells

    given = own_ids(source.open(prediction))
    right = own_ids(truth_source.open(truth, prefix="truth"))
    made = Provenance.of(given)
    with require_unchanged(given, right):
        predicted, drawn = (_sections_of(s, sections) for s in (given, right))
    at = _threshold(threshold, made)
    work = evaluate_steps(
        predicted,
        drawn,
        prediction_is=meaning_of(given, prediction_is, "--prediction-is"),
        truth_is=meaning_of(right, truth_is, "--truth-is"),
        threshold=at,
        linked=False if linked is None and _is_unlinked(made) else linked,
        sections=pick_sections(sections, right),
        # 0 and 1 are refused with the scores
        make_cells=usual_cells(at) if 0 < at < 1 else None,
    )
    found = run_with_progress(work)
    for warning in (doubt_size(given, right), *found.warnings):
        if warning:
            say(f"warning: {warning}")
    if json:
        print_json(found.as_dict())
    else:
        print_scores(found)


def print_scores(found: Evaluation) -> None:
    """Print the scores as a table."""
    rows = [
        (name, _number(value), _number(best, digits=1), words)
        for name, value, best, words in found.rows()
    ]
    print_table(("score", "value", "at", ""), rows)
    print_line(
        "at: the threshold of inside that is best; "
        f"where one is needed, membrane is above {found.threshold:g}"
    )


def meaning_of(stack: Stack, said: Meaning | None, option: str) -> Meaning:
    """Return what a file holds: what the user says, else what it says itself.

    Raises
    ------
    ValueError
        If neither says it.
    """
    if said is not None:
        return said
    made = Provenance.of(stack)
    if made is not None and made.kind in ("membrane", "inside", "cells"):
        return cast("Meaning", made.kind)
    msg = (
        f"{stack.name} doesn't say what it is; say it with {option} "
        "membrane, inside or cells"
    )
    raise ValueError(msg)


def _threshold(said: float | None, made: Provenance | None) -> float:
    if said is not None:
        return said
    known = None if made is None else made.threshold
    return CellSettings().threshold if known is None else known


def _is_unlinked(made: Provenance | None) -> bool:
    return made is not None and made.kind == "cells" and not made.is_linked


def _sections_of(stack: Stack, sections: slice | None) -> np.ndarray:
    return np.stack([stack.section(z) for z in pick_sections(sections, stack)])


def _number(value: float | None, *, digits: int = 4) -> str:
    if isinstance(value, int):  # a count
        return f"{value:,}"
    return "–" if value is None else f"{value:.{digits}f}"
