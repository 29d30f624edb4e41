"""Score weights that learnt from several data sets on what was held out of each."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, geometric_mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

import napari_emseg as emseg
from napari_emseg.core.card import Card, Variant
from napari_emseg.core.labels import inside_mask
from napari_emseg.core.settings import PredictSettings
from napari_emseg.metrics import overlap_scores, v_rand_v_info
from napari_emseg.metrics.inputs import cells_of_inside
from napari_emseg.models.variants import with_facts
from napari_emseg.models.weights import Weights, replace_card
from napari_emseg.training.mixture import LabelledStack
from napari_emseg.training.validation import with_times

MEASURES = ("v_rand", "v_info", "cells_adapted_rand_error", "cells_vi")
"""Of probabilities, at the best threshold; of cells at the card's, bits for VI."""


THRESHOLDS = tuple(n / 10 for n in range(1, 10))


def with_threshold(weights: Weights, sources: Sequence[LabelledStack]) -> Weights:
    """Fix the card's threshold as the one that gives the best cells.

    By the variation of information on the validation sections, geometric mean over
    sources. Training fixes the one with the best V_Rand of the membranes; where tissues
    differ, a few lost walls cost more in cells. The card in the file is replaced.
    """
    seen = [
        (_predicted(source, weights, source.split.validation, tta=False), source)
        for source in sources
        if source.split.validation
    ]
    found = {
        threshold: geometric_mean(
            _overlap(membrane, source, source.split.validation, threshold)[1]
            for membrane, source in seen
        )
        for threshold in THRESHOLDS
    }
    print("VI of cells on validation sections, by threshold:", found, flush=True)
    best = min(found, key=found.__getitem__)
    return replace_card(weights, weights.card.model_copy(update={"threshold": best}))


def score_sources(weights: Weights, sources: Sequence[LabelledStack]) -> Weights:
    """Score weights on what was held out of each source, by the whole way to cells.

    Sections are predicted at their own pixel size, with and without averaged mirrors,
    and made into cells by the default settings at the card's threshold; truth 0 is
    ignored. The card in the file is replaced: a score's name begins with its source's,
    that of the mean over all sources with nothing.
    """
    network = weights.network()
    ways = tuple(_way(weights, sources, tta=tta) for tta in (False, True))
    chosen_by = {
        k: v for k, v in weights.card.scores.items() if k.startswith("validation_")
    }
    scores = {"scores": ways[0].scores | chosen_by, "variants": ways}
    card: Card = with_facts(weights.card.model_copy(update=scores), network)
    return replace_card(weights, with_times(card, network))


def _way(weights: Weights, sources: Sequence[LabelledStack], *, tta: bool) -> Variant:
    found = {s.name: _scores(s, weights, tta=tta) for s in sources}
    means = {m: fmean(scores[m] for scores in found.values()) for m in MEASURES}
    each = {f"{name}_{m}": found[name][m] for name in found for m in MEASURES}
    return Variant(tta=tta, threshold=weights.card.threshold, scores=means | each)


def _scores(source: LabelledStack, weights: Weights, *, tta: bool) -> dict[str, float]:
    sections = source.split.held_out
    membrane = _predicted(source, weights, sections, tta=tta)
    scores = v_rand_v_info(
        1 - membrane, inside_mask(_truth(source, sections), source.meaning)
    )
    cells = _overlap(membrane, source, sections, weights.card.threshold)
    agreement = (scores.v_rand, scores.v_info, *cells)
    found = dict(zip(MEASURES, agreement, strict=True))
    print(source.name, "mirrors averaged" if tta else "as it is", found, flush=True)
    return found


def _predicted(
    source: LabelledStack, weights: Weights, sections: Sequence[int], *, tta: bool
) -> NDArray[np.float32]:
    return emseg.predict(
        source.images,
        weights,
        sections=list(sections),
        settings=PredictSettings(tta=tta, invert="no"),
    )


def _truth(source: LabelledStack, sections: Sequence[int]) -> NDArray[Any]:
    return np.stack([source.labels.section(z) for z in sections])


def _overlap(
    membrane: NDArray[np.float32],
    source: LabelledStack,
    sections: Sequence[int],
    threshold: float,
) -> tuple[float, float]:
    """Adapted Rand error and variation of information of cells, by section."""
    truth = _truth(source, sections)
    if source.meaning != "cells":
        truth = cells_of_inside(inside_mask(truth, source.meaning))
    cells = emseg.segment(membrane, threshold=threshold, link=False)
    found = overlap_scores(cells, truth, linked=False)
    return found.adapted_rand_error, found.variation_of_information
