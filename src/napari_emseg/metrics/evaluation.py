"""A prediction beside its truth, whatever the two are: all scores in one record."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emseg.core.labels import Meaning, doubt_share
from napari_emseg.core.records import Progress, drain
from napari_emseg.metrics.agreement import PixelCounts
from napari_emseg.metrics.inputs import (
    ComparablePair,
    Labels,
    cells_of_inside,
    check_meaning,
    comparable,
    in_threads,
)
from napari_emseg.metrics.isbi import IsbiScores, isbi_scores_steps
from napari_emseg.metrics.overlap import (
    CellScores,
    OverlapScores,
    cell_scores,
    overlap_scores,
)
from napari_emseg.metrics.rand_info import thin


def find_doubts(
    prediction: NDArray[np.generic],
    *,
    membrane: NDArray[np.bool_],
    true_membrane: NDArray[np.bool_],
    prediction_is: Meaning,
    truth_is: Meaning,
) -> tuple[str, ...]:
    """Name what a person should look at before believing the scores.

    Parameters
    ----------
    prediction
        As it was given.
    membrane, true_membrane
        Masks of what was taken for membrane, where the truth is known.
    prediction_is, truth_is
        What the two were said to be.
    """
    found = []
    highest = int(prediction.max()) if prediction.dtype == np.uint8 else 255
    if prediction_is != "cells" and highest <= 1:
        found.append(
            f"the prediction's 8-bit values end at {highest} and were divided by 255; "
            "if it is a mask, give it as bool"
        )
    for name, mask, meaning in (
        ("prediction", membrane, prediction_is),
        ("truth", true_membrane, truth_is),
    ):
        doubt = doubt_share(float(mask.mean()), f"the {name}", meaning)
        # scores leave out where no cell is
        if doubt is not None and meaning != "cells":
            found.append(doubt)
    return tuple(found)


Scores = dict[str, float | None]

CellMaker = Callable[[NDArray[np.float32]], NDArray[np.uint32]]
"""Probabilities of membrane `(y, x)` in, ids of cells out."""

MEANINGS: dict[str, str] = {
    "cells_v_rand": "of cells as they are made by default: pairs of pixels; 1 is best",
    "cells_v_info": "of the same cells: information shared with the truth; 1 is best",
    "cells_adapted_rand_error": "of the same cells: wrong pairs of pixels; 0 is best",
    "cells_vi_split": "of the same cells: bits lost by splits; 0 is best",
    "cells_vi_merge": "of the same cells: bits lost by mergers; 0 is best",
    "cells_false_merges": "true cells too many in one predicted cell, all sections",
    "cells_false_splits": "predicted cells too many in one true cell, all sections",
    "v_rand": "pairs of pixels rightly together or apart, borders thinned; 1 is best",
    "v_rand_split": "low: cells were split",
    "v_rand_merge": "low: cells were merged",
    "v_info": "information shared with the truth, borders thinned; 1 is best",
    "v_info_split": "low: cells were split",
    "v_info_merge": "low: cells were merged",
    "rand_error": "as V_Rand without thinning; 0 is best",
    "pixel_error": "1 - F of the inside pixels; 0 is best",
    "warping_error": "pixels of mergers and splits; 0 is best, never to be read alone",
    "membrane_iou": "shared membrane over all membrane; 1 is best",
    "membrane_dice": "twice the shared membrane over both; 1 is best",
    "adapted_rand_error": "pairs of pixels wrongly together or apart; 0 is best",
    "adapted_rand_split": "low: cells were split",
    "adapted_rand_merge": "low: cells were merged",
    "vi_split": "bits lost by splits; 0 is best",
    "vi_merge": "bits lost by mergers; 0 is best",
    "cell_iou": "overlap of a true cell with its best match; 1 is best",
    "cell_dice": "Dice of a true cell with its best match; 1 is best",
}
"""What the scores of `Evaluation.rows` say, in their order."""


OF_GIVEN_CELLS = {
    "cells_v_rand": "of the cells that were given: pairs of pixels; 1 is best",
}
"""What they say of a prediction that is cells, instead: none were made of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """All scores of a prediction, and what to know about how they were found."""

    prediction_is: Meaning
    truth_is: Meaning
    threshold: float
    """Probability of membrane above which a pixel counts as membrane, where one
    threshold is needed: membrane overlap and the cells of a prediction."""
    linked: bool
    """Whether cells were compared through sections, or each section by itself."""
    isbi: IsbiScores
    membrane: PixelCounts
    overlap: OverlapScores
    warnings: tuple[str, ...]
    cells: CellScores | None = None
    """Of a prediction of cells, or of those that were made of it; sections singly."""

    def scores(self) -> Scores:
        """Every score by its name in `MEANINGS`; None where one is not defined."""
        cells = {} if self.cells is None else self.cells.as_dict()
        found = {
            **{f"cells_{name}": value for name, value in cells.items()},
            **self.isbi.as_dict(),
            **self.overlap.as_dict(),
            "membrane_iou": self.membrane.iou,
            "membrane_dice": self.membrane.dice,
            "cell_iou": self.overlap.iou,
            "cell_dice": self.overlap.dice,
        }
        return {name: found[name] for name in MEANINGS if name in found}

    def rows(self) -> list[tuple[str, float | None, float | None, str]]:
        """Rows of a table: score, value, its best threshold of inside, meaning."""
        thresholds = self.isbi.as_dict()
        given = self.prediction_is == "cells"
        meanings = {**MEANINGS, **(OF_GIVEN_CELLS if given else {})}
        return [
            (name, value, thresholds.get(f"{name}_threshold"), meanings[name])
            for name, value in self.scores().items()
        ]

    def as_dict(self) -> dict[str, object]:
        """Everything as plain values for JSON."""
        membrane = {
            name: getattr(self.membrane, name)
            for name in ("iou", "dice", "precision", "recall")
        }
        return {
            "prediction_is": self.prediction_is,
            "truth_is": self.truth_is,
            "threshold": self.threshold,
            "linked": self.linked,
            "isbi": self.isbi.as_dict(),
            "membrane": membrane,
            "overlap": self.overlap.as_dict(),
            "cells": None if self.cells is None else self.cells.as_dict(),
            "warnings": list(self.warnings),
        }


def evaluate(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    prediction_is: Meaning,
    truth_is: Meaning,
    linked: bool | None = None,
    threshold: float = 0.5,
    threads: int | None = None,
    make_cells: CellMaker | None = None,
) -> Evaluation:
    """Score a prediction by the ISBI 2012 scores and by overlap.

    Parameters
    ----------
    prediction
        `(z, y, x)` or `(y, x)`. `membrane` or `inside`: probabilities, floating point
        in [0, 1], bool, or uint8 for [0, 1] in steps of 1/255. `cells`: ids.
    truth
        Same shape. `membrane` or `inside`: a mask (above 0). `cells`: ids, 0 = membrane
        or unlabelled. Empty sections are left out, and so are pixels without a label:
        NaN, values below 0, and those that unsigned types keep for it, see
        `core.labels.unlabelled`.
    prediction_is, truth_is
        What they mean; never guessed.
    linked
        Compare cells through sections; none does so where both are cells.
    threshold
        Probability of membrane, in (0, 1), above which a pixel counts as membrane.
    threads
        Threads to use; none takes all cores.
    make_cells
        Makes the cells that are scored beside the membranes of a section; without it
        only a prediction of cells has such scores.

    Raises
    ------
    ValueError
        Shapes that differ, an empty stack, probabilities outside [0, 1], NaN, a truth
        without membrane, an unknown meaning.
    """
    return drain(
        evaluate_steps(
            prediction,
            truth,
            prediction_is=prediction_is,
            truth_is=truth_is,
            linked=linked,
            threshold=threshold,
            threads=threads,
            make_cells=make_cells,
        )
    )


def evaluate_steps(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    prediction_is: Meaning,
    truth_is: Meaning,
    linked: bool | None = None,
    threshold: float = 0.5,
    threads: int | None = None,
    sections: Sequence[int] | None = None,
    make_cells: CellMaker | None = None,
) -> Generator[Progress, None, Evaluation]:
    """Score as `evaluate` does, with a record after each section.

    `sections` are the numbers of the sections in their file, for messages.
    """
    both_cells = prediction_is == truth_is == "cells"
    _check_options(prediction_is, truth_is, linked=linked, threshold=threshold)
    pair = comparable(
        prediction,
        truth,
        prediction_is=prediction_is,
        truth_is=truth_is,
        sections=sections,
    )
    isbi = yield from isbi_scores_steps(
        pair.inside, pair.mask, threads=threads, known=pair.known
    )
    membrane = 1 - pair.inside > threshold
    known = ... if pair.known is None else pair.known
    linked = both_cells if linked is None else linked
    true = pair.true if truth_is == "cells" else cells_of_inside(pair.mask)
    cells = yield from _cell_scores(pair, true, prediction_is, make_cells, threads)
    overlap = overlap_scores(
        # cells of a prediction reach to the middle of its membranes, as for V_Rand, or
        # broad membranes would count against them
        pair.predicted if prediction_is == "cells" else thin(~membrane),
        true,
        linked=linked,
    )
    return Evaluation(
        prediction_is=prediction_is,
        truth_is=truth_is,
        threshold=threshold,
        linked=linked,
        isbi=isbi,
        membrane=PixelCounts.of(membrane[known], ~pair.mask[known]),
        overlap=overlap,
        cells=cells,
        warnings=(
            *pair.notes,
            *find_doubts(
                pair.predicted,
                membrane=membrane[known],
                true_membrane=~pair.mask[known],
                prediction_is=prediction_is,
                truth_is=truth_is,
            ),
        ),
    )


def _cell_scores(
    pair: ComparablePair,
    true: Labels,
    prediction_is: Meaning,
    make_cells: CellMaker | None,
    threads: int | None,
) -> Generator[Progress, None, CellScores | None]:
    """Score given cells, or those that are made of each section."""
    if prediction_is == "cells":
        return cell_scores(pair.predicted, true)
    if make_cells is None:
        return None
    made = []
    calls = (partial(make_cells, 1 - section) for section in pair.inside)
    for cells in in_threads(calls, threads=threads):
        made.append(cells)
        yield Progress("cells", len(made), len(pair.inside))
    return cell_scores(np.stack(made), true)


def _check_options(
    prediction_is: str, truth_is: str, *, linked: bool | None, threshold: float
) -> None:
    """Refuse options of `evaluate` that make no sense."""
    check_meaning(prediction_is, name="prediction_is")
    check_meaning(truth_is, name="truth_is")
    if not 0 < threshold < 1:
        msg = f"threshold must be between 0 and 1, got {threshold!r}"
        raise ValueError(msg)
    if linked and not prediction_is == truth_is == "cells":
        msg = f"linked needs cells on both sides, got {prediction_is} and {truth_is}"
        raise ValueError(msg)
